//! `microagent plan`

mod read;
mod show;

use std::{io, path::PathBuf};

use microagent_controller::preview::{self, Preview};

use self::{read::Wanted, show::View};
use crate::{
    context::Context,
    failure::{FAILED, Failure, Result},
    output::{self, Format, OutputArgs},
};

/// Something would change: the code that diff(1) has for it. The argument parser has the same one for wrong usage.
const CHANGES: u8 = 2;

/// Show what manifests would change, before they do
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The manifests are compared with what is wanted now, as if a watched folder said them; nothing is written, \
                  started or stopped. A folder is read as `microagent up` reads it: a workspace that one of its files declared and \
                  none declares any more is one that would be deleted.\n\n\
                  A change that is made in place takes effect while the machine runs. One that needs a restart does not happen by \
                  itself: the machine goes on, and RestartRequired says so, until `microagent restart` or another text of the \
                  annotation microagent.dev/restart starts it anew. `-v` shows what stays as it is too, `-o wide` whole values.\n\n\
                  Exit codes are those of diff: 0 nothing would change, 2 something would, 1 a manifest is invalid or could not be \
                  read. Wrong usage ends with 2 as well."
)]
pub(crate) struct Args {
    /// A manifest, a folder of manifests, or - for standard input
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<u8> {
    let wanted = read::wanted(&args.filename)?;
    in_namespace(context, &wanted)?;
    let present = read::present(context, &wanted)?;
    let preview = preview::preview(&wanted.manifests, &present, |file| wanted.locate(file));
    tell(context, args.output.output, &preview)?;
    Ok(match () {
        () if preview.is_invalid() => FAILED,
        () if preview.is_change() => CHANGES,
        () => 0,
    })
}

/// A watched folder takes the namespace from the manifest alone, so `-n` can only say what that must be.
fn in_namespace(context: &Context, wanted: &Wanted) -> Result<()> {
    let other = wanted.manifests.keys().find(|key| key.namespace != context.namespace);
    match other.filter(|_| context.namespace != "default") {
        Some(key) => Err(Failure::new(format!("workspace {key} is not in namespace {}", context.namespace))
            .help("leave out -n, or write metadata.namespace into the manifest")),
        None => Ok(()),
    }
}

fn tell(context: &Context, format: Format, preview: &Preview) -> Result<()> {
    if let Some(text) = output::structured(format, preview)? {
        return output::print(&text);
    }
    if format == Format::Name {
        return output::print(&show::names(preview));
    }
    let colour = output::colours(&io::stdout());
    let view = View { colour, whole: format == Format::Wide, unchanged: context.verbose > 0 };
    output::print(&view.all(preview))
}
