//! `microagent delete`

use std::{path::PathBuf, time::Duration};

use microagent_controller::Key;
use tokio::time::timeout;

use super::{Interrupt, apply, duration, signal_code, timed_out};
use crate::{
    context::Context,
    driver::Driver,
    failure::{Failure, Result},
    manifests, objects, output, stages,
};

/// Delete workspaces, with their machines and disks
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Workspaces
    #[arg(required_unless_present = "filename", value_name = "NAME")]
    names: Vec<String>,
    /// Those that a manifest, or a directory of manifests, declares
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Wait until nothing of them is left
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL", num_args = 0..=1,
        default_missing_value = "true", require_equals = true)]
    wait: bool,
    /// How long to wait; without it as long as it takes
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// A workspace that is not there is no failure
    #[arg(long)]
    ignore_not_found: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<u8> {
    let mut keys = args.names.iter().map(|name| context.key(name)).collect::<Result<Vec<_>>>()?;
    if !args.filename.is_empty() {
        keys.extend(apply::read_all(context, &args.filename)?.into_iter().map(|(key, _)| key));
    }
    let mut found = Vec::new();
    for key in keys {
        match objects::find(&context.paths, &key)? {
            Some(object) => {
                manifests::refuse_foreign(&context.paths, &key, "delete")?;
                found.push((key, object.uid().map(str::to_owned)));
            }
            // What cannot be parsed can still be deleted.
            None if context.paths.manifest(&key).symlink_metadata().is_ok() => found.push((key, None)),
            None if args.ignore_not_found => {}
            None => return Err(objects::not_found(&key)),
        }
    }
    for (key, _) in &found {
        manifests::remove(&context.paths, key)?;
    }
    let published = found.iter().any(|(_, uid)| uid.is_some());
    if !args.wait || !published {
        for (key, _) in &found {
            output::line(&format!("workspace/{} deleted", key.name))?;
        }
        if published && context.controller().is_none() {
            output::warn("no controller is up; the machine and its disks go when one is: `microagent up`");
        }
        return Ok(0);
    }
    let mut interrupt = Interrupt::listen()?;
    let mut driver = Driver::start(&context.paths);
    let work = async {
        for (key, uid) in &found {
            gone(context, key, uid.as_deref()).await?;
            output::line(&format!("workspace/{} deleted", key.name))?;
        }
        Ok(0)
    };
    let limit = args.timeout.unwrap_or(Duration::MAX);
    let result = tokio::select! {
        ended = timeout(limit, work) => ended.unwrap_or_else(|_| Err(too_late(context, &found, limit))),
        failure = driver.failed() => Err(failure),
        number = interrupt.next() => {
            output::note("deletion goes on while a controller is up");
            Ok(signal_code(number))
        }
    };
    driver.stop().await;
    result
}

/// Ends when the workspace is gone, or another one has its name.
pub(crate) async fn gone(context: &Context, key: &Key, uid: Option<&str>) -> Result<()> {
    let mut watch = objects::watch(&context.paths, key);
    loop {
        match objects::get(&context.paths, key)? {
            Some(object) if uid.is_none() || object.uid() == uid => watch.changed().await,
            _ => return Ok(()),
        }
    }
}

fn too_late(context: &Context, found: &[(Key, Option<String>)], limit: Duration) -> Failure {
    let left = found.iter().find_map(|(key, _)| objects::get(&context.paths, key).ok().flatten());
    let Some(object) = left else { return timed_out("deletion", limit) };
    let failure = timed_out(&format!("the deletion of workspace/{}", object.key.name), limit);
    match object.stalled() {
        Some(condition) => failure.help(stages::line(condition)),
        None => failure.help(format!("see `microagent describe {}`", object.key.name)),
    }
}
