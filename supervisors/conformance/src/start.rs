//! Starting.

use std::{path::PathBuf, thread};

use microagent_supervisor_protocol::{
    ErrorCode, Machine, MachineRequest, MachineState, PROTOCOL, Request, StartRequest, Target, Verb,
};

use crate::{
    bench::{Bench, owner},
    check::{Check, Trouble, own, require},
    processes,
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "starts",
        promise: "`start` leaves a machine that is told with its identity, its time and its living owner, in a session of its own",
        run: starts,
    },
    Check {
        name: "becomes-ready",
        promise: "the guest takes its configuration, and the machine is then Running",
        run: becomes_ready,
    },
    Check {
        name: "starts-once-for-a-boot",
        promise: "a second `start` of the same boot changes nothing, whatever else it says",
        run: once,
    },
    Check {
        name: "refuses-another-boot",
        promise: "`start` of another boot is MachineRunning while a machine runs, and leaves it alone",
        run: another_boot,
    },
    Check {
        name: "starts-once-at-once",
        promise: "of several `start`s at one time, one boot of one machine comes",
        run: at_once,
    },
    Check {
        name: "starts-again-after-its-end",
        promise: "`start` of another boot replaces a machine that has ended",
        run: again,
    },
    Check {
        name: "refuses-foreign-identities",
        promise: "an identity that is not the target's is IdentityMismatch, and starts nothing",
        run: foreign_identity,
    },
    Check {
        name: "refuses-foreign-directories",
        promise: "the directory of another machine is IdentityMismatch for every verb, and that machine is left alone",
        run: foreign_directory,
    },
    Check {
        name: "refuses-absent-files",
        promise: "a kernel or disk that is absent is FileUnavailable, and starts nothing",
        run: absent_files,
    },
    Check {
        name: "refuses-impossible-machines",
        promise: "no virtual CPUs, more than the backend has, no memory and another backend's options are UnsupportedConfig",
        run: impossible,
    },
    Check {
        name: "looks-change-nothing",
        promise: "`inspect` changes no file of a machine that runs, and many at one time tell the same",
        run: looks,
    },
];

fn starts(bench: &Bench<'_>) -> Result<(), Trouble> {
    let request = bench.start_request("boot-1")?;
    let machine = bench.start("boot-1")?;
    require(matches!(machine.state, MachineState::Starting | MachineState::Running), || {
        format!("after `start` the machine is {:?}", machine.state)
    })?;
    require(machine.identity.as_ref() == Some(&request.identity), || {
        format!("the machine is told as {:?}, not as {:?}", machine.identity, request.identity)
    })?;
    require(machine.started_at.is_some(), || "the machine is told without the time of its start".to_owned())?;
    let owner = owner(&machine)?;
    let session = |pid| processes::session(pid).map_err(|e| own("cannot look at a process", &e));
    require(session(owner.pid)? != session(std::process::id())?, || {
        "the machine's owner is in the caller's session, and ends with it".to_owned()
    })
}

fn becomes_ready(bench: &Bench<'_>) -> Result<(), Trouble> {
    let machine = bench.running("boot-1")?;
    if bench.known()?.features.vsock.is_some() {
        let there = machine.vsock.as_ref().is_some_and(|socket| socket.exists());
        require(there, || format!("the vsock socket is told as {:?}, and is not there", machine.vsock))?;
    }
    Ok(())
}

fn once(bench: &Bench<'_>) -> Result<(), Trouble> {
    let first = bench.start("boot-1")?;
    let mut request = bench.start_request("boot-1")?;
    request.identity.generation = 2;
    request.config.memory_mib += 64;
    let second = bench.machine(&Request::Start(Box::new(request)))?;
    same(&first, &second, "a second `start` of the same boot")?;
    require(second.identity == first.identity, || {
        "a second `start` of the same boot changed the machine's identity".to_owned()
    })
}

fn another_boot(bench: &Bench<'_>) -> Result<(), Trouble> {
    let first = bench.start("boot-1")?;
    let other = Request::Start(Box::new(bench.start_request("boot-2")?));
    bench.refused(&other, &[ErrorCode::MachineRunning])?;
    same(&first, &bench.inspect()?, "a `start` of another boot")
}

fn at_once(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs_machines()?;
    let requests = ["boot-1", "boot-1", "boot-2", "boot-2"]
        .map(|boot| bench.start_request(boot))
        .into_iter()
        .collect::<Result<Vec<StartRequest>, _>>()?;
    let answers: Vec<_> = thread::scope(|scope| {
        let calls: Vec<_> = requests
            .iter()
            .map(|request| {
                let supervisor = bench.supervisor;
                scope.spawn(move || supervisor.call(&Request::Start(Box::new(request.clone())), crate::bench::PATIENCE))
            })
            .collect();
        calls.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut started: Vec<Machine> = Vec::new();
    for answer in answers {
        let response = answer.map_err(|_| Trouble::Failed("the kit itself gave up a call".to_owned()))??;
        match (response.error, response.machine) {
            (None, Some(machine)) => started.push(machine),
            (None, None) => return Err(Trouble::Failed("the answer to `start` does not tell the machine".to_owned())),
            (Some(error), _) => {
                require(matches!(error.code, ErrorCode::MachineRunning | ErrorCode::MachineBusy), || {
                    format!("one of several `start`s at one time is answered with {error}")
                })?
            }
        }
    }
    let Some(first) = started.first() else {
        return Err(Trouble::Failed("none of several `start`s at one time started the machine".to_owned()));
    };
    for machine in &started {
        same(first, machine, "a `start` at the same time")?;
    }
    same(first, &bench.inspect()?, "the last of several `start`s")
}

fn again(bench: &Bench<'_>) -> Result<(), Trouble> {
    let first = bench.start("boot-1")?;
    bench.machine(&bench.plain(Verb::Kill))?;
    let ended = bench.machine(&Request::Start(Box::new(bench.start_request("boot-1")?)))?;
    require(ended.state == MachineState::Exited, || {
        format!("`start` of a boot that has ended is answered with a machine that is {:?}", ended.state)
    })?;
    let second = bench.start("boot-2")?;
    let boot = second.identity.as_ref().map(|identity| identity.boot_id.as_str());
    require(boot == Some("boot-2"), || format!("the machine that replaces another is told as boot {boot:?}"))?;
    require(second.owner != first.owner, || "the machine that replaces another has its owner".to_owned())?;
    owner(&second).map(drop)
}

fn foreign_identity(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs_machines()?;
    let mut request = bench.start_request("boot-1")?;
    "somebody-else".clone_into(&mut request.identity.uid);
    bench.refused(&Request::Start(Box::new(request)), &[ErrorCode::IdentityMismatch])?;
    nothing_runs(bench)
}

fn foreign_directory(bench: &Bench<'_>) -> Result<(), Trouble> {
    let first = bench.start("boot-1")?;
    let foreign = || MachineRequest {
        protocol: PROTOCOL.to_owned(),
        target: Target { uid: "somebody-else".to_owned(), machine_dir: bench.dir() },
    };
    for request in [Request::Inspect(foreign()), Request::Kill(foreign()), Request::Delete(foreign())] {
        bench.refused(&request, &[ErrorCode::IdentityMismatch])?;
    }
    let mut request = bench.start_request("boot-2")?;
    request.target = foreign().target;
    "somebody-else".clone_into(&mut request.identity.uid);
    bench.refused(&Request::Start(Box::new(request)), &[ErrorCode::IdentityMismatch])?;
    same(&first, &bench.inspect()?, "a call for another UID")
}

fn absent_files(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs_machines()?;
    let absent = PathBuf::from("/nonexistent/conformance");
    let mut no_kernel = bench.start_request("boot-1")?;
    no_kernel.config.kernel.path.clone_from(&absent);
    let mut no_disk = bench.start_request("boot-1")?;
    if let Some(disk) = no_disk.config.disks.first_mut() {
        disk.path = absent;
    }
    for request in [no_kernel, no_disk] {
        bench.refused(&Request::Start(Box::new(request)), &[ErrorCode::FileUnavailable])?;
    }
    nothing_runs(bench)
}

fn impossible(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs_machines()?;
    let max = bench.known()?.max_vcpus;
    let mut requests = Vec::new();
    for (vcpus, memory) in [(0, 128), (max.saturating_add(1), 128), (1, 0)] {
        let mut request = bench.start_request("boot-1")?;
        (request.config.vcpus, request.config.memory_mib) = (vcpus, memory);
        requests.push(request);
    }
    let mut foreign = bench.start_request("boot-1")?;
    match bench.known()?.backend.as_str() {
        "Qemu" => foreign.config.firecracker = Some(microagent_supervisor_protocol::FirecrackerOptions::default()),
        _ => foreign.config.qemu = Some(microagent_supervisor_protocol::QemuOptions::default()),
    }
    requests.push(foreign);
    for request in requests {
        bench.refused(&Request::Start(Box::new(request)), &[ErrorCode::UnsupportedConfig])?;
    }
    nothing_runs(bench)
}

/// How often it is looked whether looking changes the directory: what a young guest tells changes it too, and soon no more.
const LOOKS: u32 = 10;

fn looks(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.running("boot-1")?;
    let mut changed = None;
    for _ in 0..LOOKS {
        let before = stamp(bench)?;
        look_together(bench)?;
        let after = stamp(bench)?;
        if before == after {
            return Ok(());
        }
        changed = Some((before, after));
    }
    Err(Trouble::Failed(format!(
        "each `inspect` changed the machine's directory, the last of {LOOKS} from and to {changed:?}"
    )))
}

/// Several callers look at one time.
fn look_together(bench: &Bench<'_>) -> Result<(), Trouble> {
    let told: Vec<_> = thread::scope(|scope| {
        let (supervisor, target) = (bench.supervisor, bench.target());
        let look = || {
            scope.spawn({
                let target = target.clone();
                move || supervisor.inspect(target, crate::bench::PATIENCE)
            })
        };
        let calls: Vec<_> = (0..4).map(|_| look()).collect();
        calls.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut first = None;
    for machine in told {
        let machine = machine.map_err(|_| Trouble::Failed("the kit itself gave up a call".to_owned()))??;
        same(first.get_or_insert(machine.clone()), &machine, "`inspect`")?;
    }
    Ok(())
}

/// When the directory changed last: what is renamed, made or removed in it moves that.
fn stamp(bench: &Bench<'_>) -> Result<std::time::SystemTime, Trouble> {
    std::fs::metadata(bench.dir()).and_then(|m| m.modified()).map_err(|e| own("cannot look at the directory", &e))
}

/// That this is the same boot of the same machine.
pub(crate) fn same(first: &Machine, second: &Machine, after: &str) -> Result<(), Trouble> {
    let boot = |m: &Machine| m.identity.as_ref().map(|identity| identity.boot_id.clone());
    require(boot(first) == boot(second) && first.owner == second.owner && first.started_at == second.started_at, || {
        format!(
            "{after} made another machine of it: boot {:?} with owner {:?}, then boot {:?} with owner {:?}",
            boot(first),
            first.owner,
            boot(second),
            second.owner
        )
    })
}

fn nothing_runs(bench: &Bench<'_>) -> Result<(), Trouble> {
    let machine = bench.inspect()?;
    require(matches!(machine.state, MachineState::Absent | MachineState::Prepared), || {
        format!("a `start` that is refused left a machine that is {:?}", machine.state)
    })?;
    bench.gone("a `start` that was refused")
}
