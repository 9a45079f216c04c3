//! `microagent commit`

use std::sync::Arc;

use microagent_controller::{
    Key, Paths,
    world::{CommitError, CommitRequest, Committed, commit},
};
use microagent_images::{ImageReference, Store};
use serde_json::json;

use super::{image::whole, signal_code, with_bars};
use crate::{
    context::Context,
    failure::{Failure, Result},
    output::{self, OutputArgs, human, progress::Bars},
    program::program,
};

/// Make an image of what a halted workspace wrote
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The image is the workspace's own with one layer more: what was written to the root disk since the workspace was made. \
                  Files of the manifest and what setup did are part of it; secrets, further disks, /dev, /proc, /run and /sys are not, \
                  and the workspace stays as it is. The machine must have ended: set spec.runPolicy to Halted and wait for it.\n\n\
                  The image is in the store of this host alone. A workspace gets it by its name where spec.imagePullPolicy is IfNotPresent \
                  or Never: names with another tag than latest are IfNotPresent unless told otherwise."
)]
pub(crate) struct Args {
    /// The workspace
    name: String,
    /// The name of the new image, such as team/tool:1
    image: ImageReference,
    /// What the image's history says of the layer
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Who made it
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let key = context.key(&args.name)?;
    let format = args.output.output;
    let (paths, wanted) = (context.paths.clone(), key.clone());
    let work = |bars: Arc<Bars>| tokio::task::spawn_blocking(move || make(&paths, &wanted, &args, &bars));
    let made = match with_bars(work).await? {
        Ok(made) => made,
        Err(number) => return Ok(signal_code(number)),
    };
    let Committed { image, contents } = made?.map_err(|error| failure(&key, error))?;
    let mut value = whole(&image);
    value["layer"] =
        json!({ "entries": contents.entries, "whiteouts": contents.whiteouts, "contentBytes": contents.bytes });
    match output::structured(format, &value)? {
        Some(text) => output::print(&text)?,
        None => {
            output::line(&format!("{}@{}", image.reference, image.digest))?;
            let size = image.layers.last().map_or(0, |layer| layer.size);
            output::note(&format!(
                "the new layer has {} entries and {} deletions: {}",
                contents.entries,
                contents.whiteouts,
                human::bytes(size)
            ));
        }
    }
    Ok(0)
}

fn make(paths: &Paths, key: &Key, args: &Args, bars: &Bars) -> Result<Committed, CommitError> {
    let store = Store::open(&paths.images())?;
    let request = CommitRequest { name: &args.image, message: args.message.as_deref(), author: args.author.as_deref() };
    commit(paths, &store, key, &request, bars)
}

fn failure(key: &Key, error: CommitError) -> Failure {
    let name = &key.name;
    match error {
        CommitError::NotHalted { .. } => Failure::new(error.to_string()).help(format!(
            "halt it first: set spec.runPolicy to Halted in its manifest, then `{} wait {name} --for=condition=Running=False`",
            program()
        )),
        CommitError::NotFound(_) => {
            Failure::new(error.to_string()).help(format!("list all with `{} get -A`", program()))
        }
        CommitError::Busy { .. } => Failure::try_again(error.to_string()).help("try again in a moment"),
        CommitError::Image(error) => {
            let again = error.is_retryable() && !error.needs_person();
            let message = format!("{}: {error}", error.category());
            if again { Failure::try_again(message).help("try again later") } else { Failure::new(message) }
        }
        error => error.into(),
    }
}
