//! `microagent up`

use std::path::PathBuf;

use microagent_controller::{AdminAddress, ControllerError, Options, Paths, journal::Follower};
use tokio_util::sync::CancellationToken;

use super::{Interrupt, events};
use crate::{
    context::Context,
    failure::{Failure, Result},
    output,
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
    /// Where metrics, health and state are told: unix:PATH, ADDRESS:PORT of this host alone, or none; may be given several times
    /// [default: the socket admin.sock in the state directory]
    #[arg(long, value_name = "ADDR")]
    admin: Vec<AdminAddress>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let Args { folders: given, admin } = args;
    let folders = folders(given)?;
    if let Some(pid) = context.controller() {
        return Err(locked(&context.paths, Some(pid).filter(|&pid| pid != 0)));
    }
    context.paths.create()?;
    let mut interrupt = Interrupt::listen()?;
    // What an earlier controller has told is no news.
    let follower = Follower::from_end(&context.paths.journal())?;
    let shutdown = CancellationToken::new();
    let options = Options { folders: folders.clone(), admin, ..Options::new(context.paths.clone()) };
    let controller = microagent_controller::run(options, shutdown.clone());
    tokio::pin!(controller);
    announce(&folders, &context.paths);
    let ended = tokio::select! {
        ended = &mut controller => ended,
        failure = tell(&context.paths, follower) => return Err(failure),
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

/// Prints each event as a line of standard output. Ends only by failing.
async fn tell(paths: &Paths, mut follower: Follower) -> Failure {
    let mut watch = Watch::new();
    watch.dir(&paths.state);
    loop {
        let lines = follower.poll().map(|new| new.iter().map(events::line).collect::<String>());
        if let Err(failure) = lines.map_err(Failure::from).and_then(|lines| output::print(&lines)) {
            return failure;
        }
        watch.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_admin_endpoint_is_where_it_is_asked_for_and_never_beyond_this_host() {
        let parse = |address: &str| crate::cli::Cli::try_parse_from(["microagent", "up", "--admin", address]);
        let crate::cli::Command::Up(args) = parse("127.0.0.1:9464").unwrap().command else { panic!("not up") };
        assert_eq!(args.admin, ["127.0.0.1:9464".parse().unwrap()]);
        let told = parse("0.0.0.0:9464").unwrap_err().to_string();
        assert!(told.contains("must not be reachable from other hosts"), "{told}");
    }

    #[test]
    fn a_folder_that_is_named_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(folders(vec![dir.path().to_owned()]).unwrap(), [dir.path()]);
        let failure = folders(vec![dir.path().join("typo")]).unwrap_err();
        assert_eq!(failure.report(), crate::failure::USAGE);
    }
}
