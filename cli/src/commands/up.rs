//! `microagent up`

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use microagent_controller::{ControllerError, Key, Options, Paths};
use microagent_crds::WorkspaceStatus;
use tokio_util::sync::CancellationToken;

use super::Interrupt;
use crate::{
    context::Context,
    failure::{Failure, Result},
    objects, output, stages,
    watch::Watch,
};

/// The folder that is taken when none is named and it is there.
const USUAL: &str = "workspaces";

/// Run the workspaces that folders and `microagent apply` declare, until Ctrl-C
#[derive(Debug, clap::Args)]
#[command(after_help = "Machines go on running when this ends; the next `microagent up` takes them over.")]
pub(crate) struct Args {
    /// Folders of manifests [default: ./workspaces, when it is there]
    #[arg(value_name = "DIR")]
    folders: Vec<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let folders = folders(args.folders)?;
    if let Some(pid) = context.controller() {
        return Err(locked(&context.paths, Some(pid).filter(|&pid| pid != 0)));
    }
    context.paths.create()?;
    let mut interrupt = Interrupt::listen()?;
    let shutdown = CancellationToken::new();
    let options = Options { folders: folders.clone(), ..Options::new(context.paths.clone()) };
    let controller = microagent_controller::run(options, shutdown.clone());
    tokio::pin!(controller);
    announce(&folders, &context.paths);
    let ended = tokio::select! {
        ended = &mut controller => ended,
        failure = tell(&context.paths) => return Err(failure),
        _ = interrupt.next() => {
            shutdown.cancel();
            let ended = controller.await;
            output::note("stopped; machines go on running, and the next `microagent up` takes them over");
            ended
        }
    };
    match ended {
        Ok(()) => Ok(0),
        Err(ControllerError::Locked { holder, .. }) => Err(locked(&context.paths, holder)),
        Err(e) => Err(e.into()),
    }
}

fn locked(paths: &Paths, holder: Option<u32>) -> Failure {
    let who = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
    Failure::try_again(format!("{} has a controller already: {who}", paths.state.display()))
        .help("use the one that is up, end it, or name another --state-dir")
}

/// The folders to watch. One that is named must be there: a typing error must not look like an empty folder.
fn folders(given: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let named = !given.is_empty();
    let candidates = if named { given } else { vec![PathBuf::from(USUAL)] };
    let mut folders = Vec::new();
    for folder in candidates {
        if folder.is_dir() {
            folders.push(std::path::absolute(&folder)?);
        } else if named {
            return Err(Failure::usage(format!("there is no folder {}", folder.display()))
                .help("make it, or name a folder of manifests"));
        }
    }
    Ok(folders)
}

fn announce(folders: &[PathBuf], paths: &Paths) {
    for folder in folders {
        output::note(&format!("watching {}", folder.display()));
    }
    if folders.is_empty() {
        output::note("watching what `microagent apply` declares; name a folder to watch that too");
    }
    output::note(&format!("state in {}; Ctrl-C ends", paths.state.display()));
}

/// Tells each transition of each workspace's conditions as one line of standard output. Ends only by failing.
async fn tell(paths: &Paths) -> Failure {
    let mut watch = Watch::new();
    let mut known: BTreeMap<Key, WorkspaceStatus> = BTreeMap::new();
    let mut first = true;
    loop {
        watch.dir(&paths.status());
        for namespace in objects::names(&paths.status()).unwrap_or_default() {
            watch.dir(&paths.status().join(namespace));
        }
        // A file that cannot be read now is read at the next look.
        let objects = objects::list(paths, None, drop).unwrap_or_default();
        let mut lines = String::new();
        for object in objects.iter().filter(|o| o.workspace.status.is_some()) {
            let now = object.status();
            let before = known.get(&object.key);
            // What an earlier controller has told is no news.
            if !first {
                let none = WorkspaceStatus::default();
                for condition in stages::transitions(before.unwrap_or(&none), &now) {
                    lines.push_str(&line(&object.key.to_string(), &stages::line(condition)));
                }
            }
            known.insert(object.key.clone(), now);
        }
        known.retain(|key, _| {
            let there = objects.iter().any(|o| o.key == *key);
            if !there {
                lines.push_str(&line(&key.to_string(), "deleted"));
            }
            there
        });
        first = false;
        if let Err(failure) = output::print(&lines) {
            return failure;
        }
        watch.changed().await;
    }
}

fn line(key: &str, text: &str) -> String {
    format!("{:.3} {key} {text}\n", Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_named_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(folders(vec![dir.path().to_owned()]).unwrap(), [dir.path()]);
        let failure = folders(vec![dir.path().join("typo")]).unwrap_err();
        assert_eq!(failure.report(), crate::failure::USAGE);
    }
}
