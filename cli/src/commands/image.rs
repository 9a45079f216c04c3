//! `microagent image`

mod list;
mod remove;
mod send;

use std::{path::PathBuf, sync::Arc, time::Duration};

use microagent_base::Progress;
use microagent_controller::image_uses;
use microagent_images::{
    Error, Image, ImageReference, LayerDescriptor, Platform, PullOptions, PullPolicy, Registries, Store, Uses,
    host_platform,
};
use serde_json::{Value, json};

use super::{duration, signal_code, with_bars};
use crate::{
    context::Context,
    failure::{Failure, Result},
    output::{self, Format, OutputArgs},
};

/// The images on this host
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Bring an image onto this host
    Pull {
        /// The image: `registry/name:tag`, `name@sha256:…`, `oci-layout:DIR[:tag]`, `oci-archive:FILE` or `docker-archive:FILE[:name:tag]`
        image: ImageReference,
        /// For this platform, such as linux/arm64 [default: that of this host]
        #[arg(long)]
        platform: Option<Platform>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show the images on this host
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show how much of the disk images and root disks take
    Df {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show how an image on this host wants to be run
    Inspect {
        /// The image, by name or digest
        image: String,
        /// As JSON unless YAML is asked for
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Give an image another name
    Tag {
        /// The image, by name or digest
        image: String,
        /// The new name: `registry/name:tag`
        name: String,
    },
    /// Remove images from this host, with the root disks made from them
    #[command(visible_alias = "rm")]
    Remove {
        /// The images, by name or digest
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Take the name away also when the image is in use; the image then stays without a name
        #[arg(short, long)]
        force: bool,
    },
    /// Remove what nobody uses: images without a name, root disks, interrupted pulls
    Prune {
        /// Images with a name too
        #[arg(short, long)]
        all: bool,
        /// Only what has been on this host for so long, such as 24h
        #[arg(long, value_name = "TIME", value_parser = duration)]
        older_than: Option<Duration>,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Write an image to a file that other tools read
    Export {
        /// The image, by name or digest
        image: String,
        /// The file, a tar archive; `-` is standard output
        file: PathBuf,
        /// Of this platform, such as linux/arm64 [default: that of this host, or the only one there is]
        #[arg(long)]
        platform: Option<Platform>,
    },
    /// Send an image to a registry
    Push {
        /// The image, by name or digest
        image: String,
        /// Where to: `registry/name:tag` [default: the name of the image]
        destination: Option<String>,
        /// Of this platform, such as linux/arm64 [default: that of this host, or the only one there is]
        #[arg(long)]
        platform: Option<Platform>,
        /// A registry, as `host[:port]`, that is spoken to without encryption; one on a loopback address always is
        #[arg(long, value_name = "REGISTRY")]
        insecure_registry: Vec<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let store = Store::open(&context.paths.images())?;
    match args.verb {
        Verb::Pull { image, platform, output } => pull(&store, image, platform, output.output).await,
        Verb::List { output } => list::list(context, &store, output.output),
        Verb::Df { output } => list::df(context, &store, output.output),
        Verb::Inspect { image, output } => inspect(context, &store, &image, output.output),
        Verb::Tag { image, name } => send::tag(&store, &image, &name),
        Verb::Remove { images, force } => remove::remove(context, &store, &images, force),
        Verb::Prune { all, older_than, dry_run, output } => {
            remove::prune(context, &store, all, older_than, dry_run, output.output)
        }
        Verb::Export { image, file, platform } => send::export(&store, image, file, platform).await,
        Verb::Push { image, destination, platform, insecure_registry, output } => {
            let options =
                PullOptions { insecure: insecure_registry, registries: registries()?, ..PullOptions::default() };
            send::push(&store, &image, destination.as_deref(), platform, &options, output.output).await
        }
    }
}

/// Shows how far work is until it ends, or a signal ends it: then the signal's exit code.
async fn shown<T, F>(work: impl FnOnce(Arc<dyn Progress>) -> F) -> Result<Result<T, u8>>
where
    F: Future<Output = Result<T, Error>>,
{
    match with_bars(|bars| work(bars)).await? {
        Ok(ended) => ended.map(Ok).map_err(failure),
        Err(number) => Ok(Err(signal_code(number))),
    }
}

/// What a person reads of an error, with its code, and whether the same may succeed later.
fn failure(error: Error) -> Failure {
    let again = error.is_retryable() && !error.needs_person();
    let message = format!("{}: {error}", error.category());
    match error {
        Error::ImageInUse { .. } => Failure::new(message).help("--force takes the name away and keeps the image"),
        _ if again => Failure::try_again(message).help("try again later"),
        _ => Failure::new(message),
    }
}

/// As [`failure`], of an image that is to be on this host.
fn here(error: Error, image: &str) -> Failure {
    match error {
        Error::ImageNotFound { .. } | Error::ImageIncomplete { .. } => {
            Failure::new(format!("image {image} is not on this host, or not all of it"))
                .help(format!("bring it with `microagent image pull {image}`"))
        }
        other => failure(other),
    }
}

/// Who uses which images, as far as it can be told: for people who look.
fn uses(context: &Context) -> Uses {
    image_uses(&context.paths).unwrap_or_else(|why| {
        output::warn(&format!("which images are in use cannot be told: {why}"));
        Uses::default()
    })
}

/// How the registries of this host are reached.
fn registries() -> Result<Registries> {
    microagent_controller::registries().map_err(|e| Failure::new(e.to_string()))
}

async fn pull(store: &Store, image: ImageReference, platform: Option<Platform>, format: Format) -> Result<u8> {
    let platform = platform.unwrap_or_else(host_platform);
    let options = PullOptions { registries: registries()?, ..PullOptions::default() };
    let pulled = shown(|progress| store.pull(&image, &platform, PullPolicy::Always, &options, progress)).await?;
    let image = match pulled {
        Ok(image) => image,
        Err(code) => return Ok(code),
    };
    match output::structured(format, &whole(&image))? {
        Some(text) => output::print(&text)?,
        None => output::line(&format!("{}@{}", image.reference, image.digest))?,
    }
    Ok(0)
}

/// All of an image, for programs.
pub(super) fn whole(image: &Image) -> Value {
    let layer = |l: &LayerDescriptor| json!({ "digest": l.digest, "size": l.size, "diffId": l.diff_id, "mediaType": l.media_type });
    let config = &image.config;
    json!({
        "reference": image.reference,
        "digest": image.digest,
        "platform": image.platform.to_string(),
        "size": image.size,
        "config": {
            "entrypoint": config.entrypoint,
            "cmd": config.cmd,
            "env": config.env,
            "user": config.user,
            "workingDir": config.working_dir,
            "stopSignal": config.stop_signal,
        },
        "layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

fn inspect(context: &Context, store: &Store, wanted: &str, format: Format) -> Result<u8> {
    let image = store.look_up(wanted, None).map_err(|e| here(e, wanted))?;
    // An image without a name is called by its digest.
    let is_meant = |name: &Option<String>| name.as_ref().is_none_or(|name| *name == image.reference);
    let stored = store.list()?.into_iter().find(|s| s.digest == image.digest && is_meant(&s.reference));
    let baseline = store.baseline(&image)?;
    let mut value = whole(&image);
    let name = stored.as_ref().and_then(|stored| stored.reference.as_deref());
    value["reference"] = json!(name);
    value["pulled"] = json!(stored.as_ref().and_then(|stored| stored.pulled));
    value["rootDisk"] = json!(baseline.map(|b| json!({ "path": b.path, "size": b.size, "allocated": b.allocated })));
    value["usedBy"] = json!(uses(context).of(&image.digest, name));
    let format = if format == Format::Yaml { Format::Yaml } else { Format::Json };
    output::print(&output::structured(format, &value)?.unwrap_or_default())?;
    Ok(0)
}
