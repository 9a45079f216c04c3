//! The life of a configured machine: root, files, setup, workload, and the events that tell of them.

use std::{path::Path, sync::Arc, time::Duration};

use microagent_guest_protocol::{Config, Event, Exit, Process, VERSION};

use crate::{
    clock, console,
    error::Error,
    files,
    health::{Prober, Verdicts},
    machine::{Command, Machine},
    mounts, outputs,
    peer::Peer,
    probe,
    process::{self, Input, Role, Running},
    relay::Relay,
    root::{self, Disks},
    secrets::{self, Placed},
    setup::Record,
    sys,
    user::Database,
};

/// The longest grace period, in seconds.
pub(crate) const MAX_GRACE: u32 = 3600;

/// The highest permission bits.
const MAX_MODE: u32 = 0o7777;

/// Becomes what `config` says, and returns when there is nothing left to do but to power off.
pub(crate) fn run(machine: &Machine, mut peer: Peer, config: &Config) {
    let now = clock::uptime_ms();
    let outcome = check(config).and_then(|()| {
        peer.event(&Event::Configured { init_ms: machine.init_ms, listening_ms: machine.listening_ms, at_ms: now });
        live(machine, &mut peer, &secrets::in_environment(config))
    });
    if let Err(e) = outcome {
        fail(&mut peer, &e);
    }
    peer.finish();
}

/// Tells the host, and the console, what cannot be done.
pub(crate) fn fail(peer: &mut Peer, error: &Error) {
    console::say(&error.to_string());
    let at_ms = clock::uptime_ms();
    peer.event(&Event::Failed { code: error.category().to_owned(), message: error.to_string(), at_ms });
}

fn live(machine: &Machine, peer: &mut Peer, config: &Config) -> Result<(), Error> {
    machine.set_grace(grace(config.grace_seconds));
    clock::set_realtime(config.realtime_ns).map_err(Error::ClockFailed)?;
    let (mut disks, mut record) = root::enter(&config.root)?;
    let furnished = furnish(config, &mut disks);
    machine.set_disks(disks);
    let placed = furnished?;
    machine.mounted(config.workload.env.clone());
    peer.event(&Event::Mounted { at_ms: clock::uptime_ms() });

    if !set_up(machine, peer, config, &mut record)? {
        return Ok(());
    }
    // Only now is the user sure to be there: setup may add it.
    placed.give_to(config.workload.user.as_deref())?;
    let running = start(machine, &config.workload, Role::Workload, "workload")?;
    let pid = running.child.pid().as_raw_nonzero().get().unsigned_abs();
    peer.event(&Event::WorkloadStarted { pid, at_ms: clock::uptime_ms() });
    let exit = match &config.health {
        Some(health) => {
            let probed = Prober::start(Arc::clone(&machine.children), health.clone(), config.workload.clone());
            let prober = probed.map_err(Error::ProberFailed)?;
            let exit = relay(machine, peer, running, Role::Workload, Some(prober.verdicts()));
            prober.stop();
            exit
        }
        None => relay(machine, peer, running, Role::Workload, None),
    };
    peer.event(&Event::WorkloadExited { exit, at_ms: clock::uptime_ms() });
    if !config.outputs.is_empty() {
        machine.command(Command::WorkloadEnded);
        outputs::send(peer, &config.outputs);
    }
    Ok(())
}

/// Puts everything in place that is not of the image.
fn furnish(config: &Config, disks: &mut Disks) -> Result<Placed, Error> {
    mounts::standard()?;
    crate::cgroup::enable_controllers();
    mounts::identity(&config.hostname, &config.boot_id)?;
    root::mount_further(disks, &config.mounts)?;
    let users = Database::load();
    for file in &config.files {
        files::write(file, &users)?;
    }
    secrets::place(&config.secrets, disks)
}

/// Runs the steps that have not run. False when one failed.
fn set_up(machine: &Machine, peer: &mut Peer, config: &Config, record: &mut Record) -> Result<bool, Error> {
    if !config.setup.is_empty() {
        record.load()?;
    }
    for (place, step) in config.setup.iter().enumerate() {
        if record.has(place, &step.run) {
            continue;
        }
        let index = u32::try_from(place).unwrap_or(u32::MAX);
        peer.event(&Event::SetupStarted { index, at_ms: clock::uptime_ms() });
        let shell = Process {
            argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), step.run.clone()],
            env: config.workload.env.clone(),
            working_dir: config.workload.working_dir.clone(),
            user: None,
        };
        let running = start(machine, &shell, Role::Setup, "setup")?;
        let exit = relay(machine, peer, running, Role::Setup, None);
        if exit.success() {
            record.add(place, &step.run)?;
        }
        peer.event(&Event::SetupFinished { index, exit, at_ms: clock::uptime_ms() });
        if !exit.success() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn start(machine: &Machine, process: &Process, role: Role, cgroup: &str) -> Result<Running, Error> {
    if machine.is_stopping() {
        return Err(Error::ShuttingDown);
    }
    let running = process::start(&machine.children, process, role, cgroup, Input::Nothing)?;
    machine.set_current(Some(running.child.clone()));
    Ok(running)
}

/// Passes on the output until the end of the process and of all that it left behind.
fn relay(machine: &Machine, peer: &mut Peer, running: Running, role: Role, verdicts: Option<&Verdicts>) -> Exit {
    let Running { child, cgroup, input, outputs, .. } = running;
    let relay = Relay { peer, child: &child, input, outputs, verdicts, interactive: false, to_the_end: true };
    let mut oom_killed = false;
    let exit = relay.run(
        |_| {},
        || {
            oom_killed = cgroup.oom_killed();
            machine.set_current(None);
            match role {
                // The machine is its workload: with it, everything ends.
                Role::Workload => {
                    machine.children.close();
                    sys::kill_everything();
                }
                _ => cgroup.kill(),
            }
        },
    );
    Exit { oom_killed, ..exit }
}

/// A grace period within its bound.
pub(crate) fn grace(seconds: u32) -> Duration {
    Duration::from_secs(seconds.min(MAX_GRACE).into())
}

/// What can be seen without doing anything.
fn check(config: &Config) -> Result<(), Error> {
    if config.version != VERSION {
        return Err(Error::VersionMismatch { theirs: config.version, ours: VERSION });
    }
    let invalid = |field: &str, problem: String| Err(Error::InvalidConfig { field: field.to_owned(), problem });
    if config.hostname.is_empty() || config.hostname.len() > 63 {
        return invalid("hostname", format!("{} bytes long: 1 to 63 are allowed", config.hostname.len()));
    }
    if config.workload.argv.is_empty() {
        return invalid("workload.argv", "empty: name a program".to_owned());
    }
    if let Some(file) = config.files.iter().find(|file| file.mode > MAX_MODE) {
        return invalid("files.mode", format!("{:o} for {}: at most 7777 is allowed", file.mode, file.path));
    }
    if let Some(health) = &config.health {
        probe::check(&health.probe)?;
    }
    outputs::check(&config.outputs)?;
    secrets::check(&config.secrets)?;
    let files = config.files.iter().map(|f| ("files.path", &f.path));
    let mounts = config.mounts.iter().map(|m| ("mounts.path", &m.path));
    let directory = config.workload.working_dir.iter().map(|d| ("workload.workingDir", d));
    for (field, path) in files.chain(mounts).chain(directory) {
        if !Path::new(path).is_absolute() || path.contains('\0') {
            return invalid(field, format!("{path:?}: an absolute path is needed"));
        }
    }
    Ok(())
}
