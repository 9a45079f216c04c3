//! The verbs on a cluster.

use std::collections::BTreeMap;

use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use microagent_base::log::lines::Lines;
use microagent_controller::request::RestartRequest;
use microagent_crds::ConditionType;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{
    Cluster,
    describe::table,
    gate::Gate,
    grammar::{Cli, Command, Global},
    objects::Change,
};
use crate::{
    commands::{
        self, cp, describe, exec,
        get::{self, View},
        logs::{self, Printer},
        restart, timed_out, version, wait,
    },
    failure::{Failure, Result},
    guest::wire::Wire,
    objects,
    output::{self, Format},
};

/// Runs a command line and gives the exit code.
pub(crate) fn main(cli: Cli) -> u8 {
    output::log(cli.global.verbose);
    commands::in_runtime(dispatch(cli))
}

async fn dispatch(cli: Cli) -> Result<u8> {
    let Cli { global, command } = cli;
    match command {
        Command::Version(args) => version::run(args),
        Command::Get(args) => show(&Cluster::open(global).await?, &args).await,
        Command::Describe(args) => tell(&Cluster::open(global).await?, &args).await,
        Command::Logs(args) => read(&Cluster::open(global).await?, &args).await,
        Command::Exec(args) => run(&Cluster::open(global).await?, &args).await,
        Command::Cp(args) => copy(global, args).await,
        Command::Wait(args) => await_all(&Cluster::open(global).await?, &args).await,
        Command::Restart(args) => start_anew(&Cluster::open(global).await?, &args).await,
        Command::Other(_) => Err(Failure::usage("there is no such command")),
    }
}

async fn read(cluster: &Cluster, args: &logs::Args) -> Result<u8> {
    let key = cluster.key(&args.name)?;
    let gate = cluster.gate(&key).await?;
    let node = gate.node().to_owned();
    let mut query = vec![format!("follow={}", args.follow), format!("console={}", args.console)];
    query.extend(args.tail.map(|count| format!("tail={count}")));
    query.extend(args.since(Timestamp::now()).map(|time| format!("since={time}")));
    let mut body = gate.log(&query.join("&")).await?.into_body();
    let (mut lines, mut printer, mut is_empty) = (Lines::default(), Printer::new(args), true);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Gate::cut(&node, &Failure::from(e).to_string()))?;
        if let Some(bytes) = frame.data_ref() {
            is_empty = false;
            lines.push(bytes, &mut |line: &[u8]| printer.print(line))?;
        }
    }
    lines.rest(|line| printer.print(line))?;
    if is_empty && args.tail != Some(0) {
        logs::nothing_yet(&key.name);
    }
    Ok(0)
}

async fn run(cluster: &Cluster, args: &exec::Args) -> Result<u8> {
    let key = cluster.key(args.name())?;
    let connection = cluster.gate(&key).await?.session("exec").await?;
    // Whom the workload is, and where, the gate knows.
    let exec = args.exec((None, None));
    exec::converse(Wire::over(TokioIo::new(connection)), exec, &key.name).await
}

async fn copy(global: Global, args: cp::Args) -> Result<u8> {
    // What is wrong on this side needs no cluster.
    let copy = args.copy()?;
    let cluster = Cluster::open(global).await?;
    let key = cluster.key(&copy.name)?;
    let connection = cluster.gate(&key).await?.session("cp").await?;
    // Whom the workload is, the gate knows.
    copy.carry(Wire::over(TokioIo::new(connection)), None, &key.name).await
}

async fn show(cluster: &Cluster, args: &get::Args) -> Result<u8> {
    let keys = args.names().iter().map(|name| cluster.key(name)).collect::<Result<Vec<_>>>()?;
    let namespace = (!args.all_namespaces).then_some(cluster.namespace.as_str());
    let mut view = View::new(args, true);
    if args.watch {
        let mut shown = BTreeMap::new();
        let only = if let [key] = &keys[..] { Some(key) } else { None };
        let namespace = only.map_or(namespace, |key| Some(key.namespace.as_str()));
        let each = |change| {
            let Change::Is(object) = change else { return Ok(false) };
            let wanted = keys.is_empty() || keys.contains(&object.key);
            if wanted && shown.get(&object.key) != Some(&object.workspace) {
                output::print(&view.one(&object)?)?;
                shown.insert(object.key, object.workspace);
            }
            Ok(false)
        };
        cluster.watch(namespace, only, each).await?;
        return Ok(0);
    }
    let mut found = Vec::new();
    for key in &keys {
        found.push(cluster.need(key).await?);
    }
    if keys.is_empty() {
        found = cluster.list(namespace, |failure| output::warn(&failure.to_string())).await?;
    }
    output::print(&view.all(&found, !keys.is_empty())?)?;
    if found.is_empty() && matches!(args.output.output, Format::Table | Format::Wide) {
        get::none_found(args, &cluster.namespace);
    }
    Ok(0)
}

async fn tell(cluster: &Cluster, args: &describe::Args) -> Result<u8> {
    let mut texts = Vec::new();
    for name in &args.names {
        let key = cluster.key(name)?;
        let object = cluster.need(&key).await?;
        let format = args.output.output;
        if format == Format::Name {
            texts.push(format!("workspace/{}\n", key.name));
            continue;
        }
        let events = cluster.events(&object).await?;
        let whole = json!({ "workspace": object.workspace, "events": events });
        texts.push(match output::structured(format, &whole)? {
            Some(text) => text,
            None => {
                let now = Timestamp::now();
                describe::page(&object, None, table(&events, now), now)?
            }
        });
    }
    output::print(&texts.join("\n"))?;
    Ok(0)
}

async fn await_all(cluster: &Cluster, args: &wait::Args) -> Result<u8> {
    let keys = args.names.iter().map(|name| cluster.key(name)).collect::<Result<Vec<_>>>()?;
    let deadline = Instant::now() + args.timeout;
    for key in keys {
        if !args.what.met(cluster.find(&key).await?.as_ref()) {
            let met = |change| {
                Ok(match change {
                    Change::Is(object) => args.what.met(Some(&object)),
                    Change::Gone => args.what.met(None),
                })
            };
            match timeout_at(deadline, cluster.watch(Some(&key.namespace), Some(&key), met)).await {
                Ok(seen) => seen?,
                Err(_) => {
                    let failure = timed_out(&format!("{} of workspace/{}", args.what.text(), key.name), args.timeout);
                    return Err(match cluster.find(&key).await? {
                        Some(object) => wait::standing(&object, failure, args.what.condition()),
                        None => failure.help(format!("there is no workspace {key}")),
                    });
                }
            }
        }
        output::line(&format!("workspace/{} {}", key.name, args.what.done()))?;
    }
    Ok(0)
}

async fn start_anew(cluster: &Cluster, args: &restart::Args) -> Result<u8> {
    let key = cluster.key(&args.name)?;
    let before = cluster.need(&key).await?;
    let request = RestartRequest::new(restart::can_start(&before)?, Timestamp::now());
    cluster.restart(&key, &request).await?;
    output::line(&format!("workspace/{} restart requested", key.name))?;
    if args.wait {
        let anew = |change| match change {
            Change::Is(object) => restart::is_anew(&before, Some(&object)),
            Change::Gone => restart::is_anew(&before, None),
        };
        let work = cluster.watch(Some(&key.namespace), Some(&key), anew);
        match timeout_at(Instant::now() + args.timeout, work).await {
            Ok(seen) => seen?,
            Err(_) => {
                let failure = timed_out(&format!("the restart of workspace/{}", key.name), args.timeout);
                let object = cluster.find(&key).await?.ok_or_else(|| objects::not_found(&key))?;
                return Err(wait::standing(&object, failure, Some(ConditionType::Ready)));
            }
        }
        output::line(&format!("workspace/{} restarted", key.name))?;
    }
    Ok(0)
}
