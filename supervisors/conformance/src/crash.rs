//! What is true after processes were killed.

use std::{
    fs,
    io::Write,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::{ErrorCode, Machine, MachineState, Request, Verb};
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};

use crate::{
    bench::{Bench, SOON, owner},
    check::{Check, Trouble, own, require},
    processes,
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "owner-killed",
        promise: "when the owner is killed, the machine has ended with a failure, and nothing of it runs on",
        run: owner_killed,
    },
    Check {
        name: "vmm-killed",
        promise: "when the other processes of a machine are killed, it has ended with a failure, and nothing of it runs on",
        run: others_killed,
    },
    Check {
        name: "all-killed",
        promise: "when all processes of a machine are killed at once, it has ended with a failure",
        run: all_killed,
    },
    Check {
        name: "supervisor-killed-in-start",
        promise: "a `start` that is killed anywhere leaves no machine or one; a second one of that boot then has one, and `delete` all",
        run: killed_in_start,
    },
    Check {
        name: "supervisor-killed-in-kill",
        promise: "a `kill` that is killed anywhere can be made again",
        run: killed_in_kill,
    },
    Check {
        name: "supervisor-killed-in-delete",
        promise: "a `delete` that is killed anywhere can be made again",
        run: killed_in_delete,
    },
    Check {
        name: "reused-pid-is-left-alone",
        promise: "a process that later has the pid of a dead owner is neither taken for the machine nor ended",
        run: pid_reused,
    },
];

/// How many points of a call it is killed at.
const POINTS: u32 = 8;

fn owner_killed(bench: &Bench<'_>) -> Result<(), Trouble> {
    let machine = bench.running("boot-1")?;
    kill_all(&[owner(&machine)?])?;
    ended_with_a_failure(bench)
}

fn others_killed(bench: &Bench<'_>) -> Result<(), Trouble> {
    for n in 0.. {
        let owner = owner(&bench.running(&format!("boot-{n}"))?)?;
        let mut others: Vec<_> = bench.processes()?.into_iter().filter(|process| process.pid != owner.pid).collect();
        others.sort_by_key(|process| process.pid);
        let Some(process) = others.get(n) else {
            return Err(Trouble::Skipped("its machines are one process, the owner".to_owned()));
        };
        kill_all(&[*process])?;
        ended_with_a_failure(bench)?;
        bench.leave()?;
        if n + 1 == others.len() {
            break;
        }
    }
    Ok(())
}

fn all_killed(bench: &Bench<'_>) -> Result<(), Trouble> {
    let machine = bench.running("boot-1")?;
    let mut all = bench.processes()?;
    let owner = owner(&machine)?;
    if !all.contains(&owner) {
        all.push(owner);
    }
    kill_all(&all)?;
    ended_with_a_failure(bench)
}

fn kill_all(all: &[ProcessId]) -> Result<(), Trouble> {
    all.iter().try_for_each(|process| processes::kill(*process)).map_err(|e| own("cannot kill a process", &e))
}

fn ended_with_a_failure(bench: &Bench<'_>) -> Result<(), Trouble> {
    let until = Instant::now() + SOON;
    let machine = loop {
        let machine = bench.inspect()?;
        if machine.state == MachineState::Exited {
            break machine;
        }
        require(Instant::now() < until, || {
            format!("{SOON:?} after processes of the machine were killed it is told as {:?}", machine.state)
        })?;
        thread::sleep(Duration::from_millis(20));
    };
    require(machine.failure.is_some(), || {
        "a machine whose processes were killed is told as ended without a failure".to_owned()
    })?;
    bench.gone("its processes were killed")
}

/// A call under way, killed after a while. It may be done by then.
fn call_and_kill(bench: &Bench<'_>, request: &Request, after: Duration) -> Result<(), Trouble> {
    let text = serde_json::to_vec(request).map_err(|e| own("cannot encode a request", &e.into()))?;
    let mut child = Command::new(bench.supervisor.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| own("cannot run the supervisor", &e))?;
    let began = Instant::now();
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early is judged by other checks.
        let _ = stdin.write_all(&text);
    }
    thread::sleep(after.saturating_sub(began.elapsed()));
    end(&mut child)
}

fn end(child: &mut Child) -> Result<(), Trouble> {
    child.kill().and_then(|()| child.wait()).map(drop).map_err(|e| own("cannot end the supervisor", &e))
}

/// How long a call takes when nobody disturbs it.
fn timed(call: impl FnOnce() -> Result<Machine, Trouble>) -> Result<Duration, Trouble> {
    let began = Instant::now();
    call()?;
    Ok(began.elapsed())
}

/// Points in a call of this length, from its very beginning to a little after its end.
fn points(whole: Duration) -> impl Iterator<Item = Duration> {
    (0..=POINTS).map(move |n| whole * n / (POINTS - 1))
}

/// Makes a call until nobody else is at work on the machine.
fn once_free(bench: &Bench<'_>, request: &Request) -> Result<Machine, Trouble> {
    let until = Instant::now() + SOON * 2;
    loop {
        let response = bench.call(request)?;
        match (response.error, response.machine) {
            (None, Some(machine)) => return Ok(machine),
            (Some(error), _) if error.code == ErrorCode::MachineBusy && Instant::now() < until => {
                thread::sleep(Duration::from_millis(50));
            }
            (Some(error), _) => {
                return Err(Trouble::Failed(format!(
                    "after a call was killed `{}` failed: {error}",
                    request.verb().as_str()
                )));
            }
            (None, None) => return Err(Trouble::Failed("the answer does not tell the machine".to_owned())),
        }
    }
}

fn killed_in_start(bench: &Bench<'_>) -> Result<(), Trouble> {
    let whole = timed(|| bench.start("boot-0"))?;
    bench.leave()?;
    for (n, after) in points(whole).enumerate() {
        let boot = format!("boot-{}", n + 1);
        let request = Request::Start(Box::new(bench.start_request(&boot)?));
        call_and_kill(bench, &request, after)?;
        let machine = once_free(bench, &request)?;
        require(matches!(machine.state, MachineState::Starting | MachineState::Running), || {
            format!(
                "`start` was killed after {after:?}; the next one left a machine that is {:?}: {:?}",
                machine.state, machine.failure
            )
        })?;
        owner(&machine)?;
        // A second machine of it would be left over here.
        bench.leave().map_err(|trouble| told_after(trouble, "start", after))?;
    }
    Ok(())
}

fn killed_in_kill(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.start("boot-0")?;
    let whole = timed(|| bench.machine(&bench.plain(Verb::Kill)))?;
    for (n, after) in points(whole).enumerate() {
        bench.start(&format!("boot-{}", n + 1))?;
        call_and_kill(bench, &bench.plain(Verb::Kill), after)?;
        let machine = once_free(bench, &bench.plain(Verb::Kill))?;
        require(machine.state == MachineState::Exited, || {
            format!("`kill` was killed after {after:?}; after the next one the machine is {:?}", machine.state)
        })?;
        bench.gone("`kill`").map_err(|trouble| told_after(trouble, "kill", after))?;
    }
    Ok(())
}

fn killed_in_delete(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.start("boot-0")?;
    let whole = timed(|| bench.machine(&bench.plain(Verb::Delete)))?;
    for after in points(whole) {
        bench.start("boot-1")?;
        call_and_kill(bench, &bench.plain(Verb::Delete), after)?;
        once_free(bench, &bench.plain(Verb::Delete))?;
        bench.leave().map_err(|trouble| told_after(trouble, "delete", after))?;
        bench.gone("`delete`").map_err(|trouble| told_after(trouble, "delete", after))?;
    }
    Ok(())
}

fn told_after(trouble: Trouble, verb: &str, after: Duration) -> Trouble {
    match trouble {
        Trouble::Failed(why) => Trouble::Failed(format!("`{verb}` was killed after {after:?}: {why}")),
        skipped @ Trouble::Skipped(_) => skipped,
    }
}

fn pid_reused(bench: &Bench<'_>) -> Result<(), Trouble> {
    // A dead owner keeps its pid until it is reaped, which not every init does soon: the kit does it itself.
    let _reaper = Reaper::begin()?;
    let machine = bench.running("boot-1")?;
    let (dead, all) = (owner(&machine)?, bench.processes()?);
    kill_all(&[dead])?;
    // The others too: a pid is taken while it is that of a session.
    Reaper::reap(dead)?;
    all.into_iter().try_for_each(Reaper::reap)?;
    let mut bystander = bystander(dead.pid)?;
    let result = told_apart(bench, &bystander);
    end(&mut bystander)?;
    result
}

/// While it is there, processes whose parents end become children of the kit.
struct Reaper;

impl Reaper {
    fn begin() -> Result<Self, Trouble> {
        set_child_subreaper(Some(getpid())).map_err(|e| own("cannot become a reaper of processes", &e.into()))?;
        Ok(Self)
    }

    /// Takes the end of a process where it has become a child of the kit. Its first thread may end before its others.
    fn reap(process: ProcessId) -> Result<(), Trouble> {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let until = Instant::now() + SOON;
        loop {
            match waitpid(pid, WaitOptions::NOHANG) {
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                Ok(_) | Err(rustix::io::Errno::CHILD) => return Ok(()),
                Err(e) => return Err(own("cannot wait for a process", &e.into())),
            }
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        let _ = set_child_subreaper(None);
    }
}

fn told_apart(bench: &Bench<'_>, bystander: &Child) -> Result<(), Trouble> {
    let process = ProcessId::of(bystander.id()).map_err(|e| own("cannot look at a process", &e))?;
    ended_with_a_failure(bench)?;
    bench.leave()?;
    require(process.is_alive(), || "a process that only had the pid of a dead owner was ended".to_owned())
}

/// A process of ours with this pid: the kernel can be told from where it is to go on counting, ns_last_pid in proc_sys_kernel(5).
fn bystander(pid: u32) -> Result<Child, Trouble> {
    const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
    const TRIES: u32 = 200;
    let skipped = |why: String| Trouble::Skipped(format!("no process can be given a pid of the kit's choice: {why}"));
    for _ in 0..TRIES {
        fs::write(LAST_PID, (pid - 1).to_string()).map_err(|e| skipped(format!("{LAST_PID}: {e}")))?;
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .map_err(|e| skipped(format!("sleep: {e}")))?;
        if child.id() == pid {
            return Ok(child);
        }
        end(&mut child)?;
    }
    Err(skipped(format!("{pid} was always taken by another process")))
}
