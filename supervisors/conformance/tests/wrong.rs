//! Supervisors that are wrong in one thing fail the check of that thing. Each is the sample in Python with one change.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::OnceLock};

use microagent_conformance::{Parts, Placeholders, Verdict, checks, run};
use microagent_guest_protocol::Config;
use microagent_supervisor_protocol::{MachineConfig, Supervisor};

/// The verbs that the sample does not have.
const MORE_VERBS: (&str, &str) = (
    "def carry_out(request):\n    verb, target = request[\"verb\"], request.get(\"target\")\n",
    r#"VERBS += ["pause", "resume", "quarantine", "console", "gc"]
FIELDS |= {verb: {"target": TARGET} for verb in ["pause", "resume", "quarantine"]}
FIELDS |= {"console": {"target": TARGET, "maxBytes": int}, "gc": {"machineDirs": list, "keep": list}}


def change(target, state):
    found = observe(target)
    if found["state"] in ("absent", "exited"):
        raise Refused("MachineNotRunning", f"it is {found['state']}")
    save(target["machineDir"], found | {"state": state})
    return observe(target)


def console(target, most):
    if not 1 <= most <= 1 << 20:
        raise Refused("InvalidRequest", "between 1 byte and 1 MiB can be had")
    return {"machine": observe(target), "console": {"text": "booted\n"[-most:], "truncated": most < 7}}


def gc(dirs, keep):
    removed = []
    for path in dirs:
        found = load(path)
        if found and found["uid"] not in keep:
            delete({"uid": found["uid"], "machineDir": path})
            removed.append(found["uid"])
    return {"removed": removed}


def carry_out(request):
    verb, target = request["verb"], request.get("target")
    states = {"pause": "paused", "resume": "running", "quarantine": "quarantined"}
    if verb in states:
        return {"machine": change(target, states[verb])}
    if verb == "console":
        return console(target, request["maxBytes"])
    if verb == "gc":
        return gc(request["machineDirs"], request["keep"])
"#,
);

/// A machine that must be ready within a second, so that one that never is costs no minutes.
struct Hasty;

impl Parts for Hasty {
    fn config(&self, dir: &Path) -> io::Result<MachineConfig> {
        Ok(MachineConfig { boot_timeout_ms: 1000, ..Placeholders.config(dir)? })
    }

    fn guest(&self, boot_id: &str) -> Config {
        Placeholders.guest(boot_id)
    }
}

/// The interpreter itself. What stands in `PATH` may be a script that looks for it, which takes longer than the sample.
fn python() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let told = Command::new("python3").args(["-c", "import sys; print(sys.executable, end='')"]).output();
        told.ok()
            .and_then(|output| String::from_utf8(output.stdout).ok())
            .unwrap_or_else(|| "/usr/bin/env python3".to_owned())
    })
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn judge(changes: &[(&str, &str)], names: &[&str], wanted: Verdict) {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/samples/supervisor.py");
    let mut source = fs::read_to_string(sample).unwrap().replacen("/usr/bin/env python3", python(), 1);
    for (old, new) in changes {
        assert_eq!(source.matches(old).count(), 1, "the sample has changed: {old}");
        source = source.replace(old, new);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("supervisor.py");
    fs::write(&path, source).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let chosen: Vec<_> = checks().into_iter().filter(|check| names.contains(&check.name)).collect();
    assert_eq!(chosen.len(), names.len(), "no such check among {names:?}");
    let report = run(&Supervisor::new(path), &Hasty, &chosen, &mut |_| ());
    for outcome in &report.outcomes {
        assert_eq!(outcome.verdict, wanted, "{}: {:?} with {changes:?}", outcome.name, outcome.message);
    }
}

fn fails(name: &str, old: &str, new: &str) {
    judge(&[(old, new)], &[name], Verdict::Failed);
}

fn fails_with_more_verbs(name: &str, old: &str, new: &str) {
    let more = MORE_VERBS.1.replace(old, new);
    assert_ne!(more, MORE_VERBS.1, "there is no {old}");
    judge(&[(MORE_VERBS.0, &more)], &[name], Verdict::Failed);
}

#[test]
fn what_is_no_request_must_be_refused_for_its_cause() {
    for (name, old, new) in [
        (
            "refuses-no-input",
            "except (ValueError, KeyError, TypeError, RecursionError) as error",
            "except KeyError as error",
        ),
        ("refuses-broken-json", "json.loads(data.decode())", "json.JSONDecoder().raw_decode(data.decode().strip())[0]"),
        ("refuses-deep-json", "TypeError, RecursionError)", "TypeError)"),
        ("refuses-huge-input", "read(MAX_BYTES + 1)", "read()[:MAX_BYTES]"),
        ("refuses-unknown-fields", "raise Refused(\"InvalidRequest\", f\"{where}.{name} is unknown\")", "pass"),
        ("refuses-unknown-verbs", "raise Refused(\"UnsupportedVerb\"", "raise Refused(\"InvalidRequest\""),
        ("refuses-other-versions", "if protocol != PROTOCOL:", "if False:"),
        (
            "refuses-wrong-types",
            "raise Refused(\"InvalidRequest\", f\"{where} is no {shape.__name__}\")",
            "value = shape()",
        ),
        ("refuses-hostile-uids", "[a-z0-9-]{1,63}", "[A-Za-z0-9-]{1,63}"),
        ("refuses-relative-directories", " or not path.startswith(\"/\")", ""),
    ] {
        fails(name, old, new);
    }
}

#[test]
fn what_is_told_of_the_host_must_be_sound() {
    for (name, old, new) in [
        ("tells-capabilities", "\"version\": \"1\"", "\"version\": now()"),
        ("has-the-required-verbs", "\"verbs\": VERBS,", "\"verbs\": VERBS[:-1],"),
        (
            "refuses-verbs-that-it-does-not-have",
            "\"verbs\": VERBS,",
            "\"verbs\": [v for v in VERBS if v != \"inspect\"],",
        ),
        (
            "features-agree-with-verbs",
            "\"maxVcpus\": 64}",
            "\"maxVcpus\": 64, \"features\": {\"snapshots\": [\"full\"]}}",
        ),
        ("checks-the-host", "\"name\": \"Python\", \"status\": \"ok\"", "\"name\": \"Python\", \"status\": \"failed\""),
    ] {
        fails(name, old, new);
    }
}

#[test]
fn where_there_is_no_machine_that_must_be_told() {
    for (name, old, new) in [
        (
            "absent-is-told",
            "def observe(target):\n",
            "def observe(target):\n    os.makedirs(target[\"machineDir\"], exist_ok=True)\n",
        ),
        (
            "absent-can-be-ended",
            "    if not alive(found):\n        return found\n",
            "    if not alive(found):\n        raise Refused(\"MachineNotRunning\", \"there is none\")\n",
        ),
        (
            "prepares-twice",
            "os.makedirs(target[\"machineDir\"], 0o700, exist_ok=True)\n        found",
            "os.makedirs(target[\"machineDir\"], 0o700)\n        found",
        ),
    ] {
        fails(name, old, new);
    }
}

#[test]
fn a_start_must_make_one_machine_or_none() {
    for (name, old, new) in [
        ("starts", "start_new_session=True", "start_new_session=False"),
        ("becomes-ready", "\"ready\": True", "\"ready\": False"),
        ("starts-once-for-a-boot", "machine[\"identity\"][\"bootId\"] == identity[\"bootId\"]:", "False:"),
        (
            "refuses-another-boot",
            "raise Refused(\"MachineRunning\",",
            "return machine\n        raise Refused(\"MachineRunning\",",
        ),
        ("starts-once-at-once", "fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)", "time.sleep(0.2)"),
        ("starts-again-after-its-end", "machine[\"identity\"][\"bootId\"] == identity[\"bootId\"]:", "True:"),
        ("refuses-foreign-identities", "if identity[\"uid\"] != target[\"uid\"]:", "if False:"),
        ("refuses-foreign-directories", "if machine[\"uid\"] != target[\"uid\"]:", "if False:"),
        ("refuses-absent-files", "if not os.path.isabs(path) or not os.path.isfile(path):", "if False:"),
        ("refuses-impossible-machines", "if any(backend in config for", "if any(False for"),
        (
            "looks-change-nothing",
            "        return machine\n    machine = load(path) or machine",
            "        save(path, machine)\n        return machine\n    machine = load(path) or machine",
        ),
    ] {
        fails(name, old, new);
    }
}

#[test]
fn an_end_that_was_asked_for_must_come_and_leave_nothing() {
    for (name, old, new) in [
        (
            "halts",
            "    os.kill(pid, sort)\n    if wait == 0:",
            "    if wait is None:\n        os.kill(pid, sort)\n    else:",
        ),
        (
            "halts-without-waiting",
            "    os.kill(pid, sort)\n    if wait == 0:",
            "    if wait != 0:\n        os.kill(pid, sort)\n    if wait == 0:",
        ),
        ("refuses-endless-grace", "if not 0 <= grace <= 3600:", "if grace < 0:"),
        (
            "kills",
            "else ended(path, latest)\n\n\ndef delete",
            "else ended(path, latest, Refused(\"ShimLost\", \"it was killed\"))\n\n\ndef delete",
        ),
        ("kills-what-starts", "{\"machine\": stop(target, signal.SIGKILL)}", "{\"machine\": observe(target)}"),
        ("deletes-what-runs", "        stop(target, signal.SIGKILL)\n        for", "        for"),
        (
            "leaves-what-is-not-its-own",
            "for name in [\"machine.json\", \"machine.json.new\"]:",
            "for name in os.listdir(path):",
        ),
    ] {
        fails(name, old, new);
    }
}

#[test]
fn killed_processes_must_be_told_truthfully() {
    for (name, old, new) in [
        ("owner-killed", "started(owner[\"pid\"]) == owner[\"startTime\"]", "True"),
        (
            "all-killed",
            "ended(path, machine, Refused(\"ShimLost\", \"it ended without a record\"))",
            "ended(path, machine)",
        ),
        (
            "keeps-secrets-in-memory",
            "    configured(request[\"config\"])\n    if \"restore\"",
            "    configured(request[\"config\"])\n    json.dump(request, open(target[\"machineDir\"] + \"/machine.json.new\", \"w\"))\n    json.dump(request, open(target[\"machineDir\"] + \"/request\", \"w\"))\n    if \"restore\"",
        ),
    ] {
        fails(name, old, new);
    }
    // Between its birth and its record this machine takes its time, so that a call can be killed there.
    let slow = ("    save(\".\", mine)\n    os.close(1)", "    time.sleep(1)\n    save(\".\", mine)\n    os.close(1)");
    judge(&[("pass_fds=[folder],", "close_fds=True,"), slow], &["supervisor-killed-in-start"], Verdict::Failed);
}

#[test]
fn the_other_verbs_must_keep_their_promises() {
    let power = ["changes-power", "ended-cannot-be-changed", "paused-can-be-ended", "absent-cannot-be-changed"];
    judge(&[MORE_VERBS], &[&power[..], &["tells-the-console", "collects-garbage"]].concat(), Verdict::Passed);
    for (name, old, new) in [
        (
            "changes-power",
            "    save(target[\"machineDir\"], found | {\"state\": state})\n",
            "    if state != \"quarantined\":\n        save(target[\"machineDir\"], found | {\"state\": state})\n",
        ),
        (
            "absent-cannot-be-changed",
            "in (\"absent\", \"exited\"):",
            "in (\"absent\", \"exited\"):\n        return found\n    if False:",
        ),
        ("ended-cannot-be-changed", "in (\"absent\", \"exited\"):", "in (\"absent\",):"),
        ("tells-the-console", "\"booted\\n\"[-most:]", "\"\\033[1mbooted\\n\""),
        ("collects-garbage", "if found and found[\"uid\"] not in keep:", "if found:"),
    ] {
        fails_with_more_verbs(name, old, new);
    }
    judge(
        &[
            MORE_VERBS,
            (
                "    pid, until = found[",
                "    if found[\"state\"] == \"paused\":\n        return found\n    pid, until = found[",
            ),
        ],
        &["paused-can-be-ended"],
        Verdict::Failed,
    );
}

#[test]
fn what_does_not_answer_fails_and_does_not_hang_the_kit() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("mute", "#!/bin/sh\ncat >/dev/null\n"),
        ("half", "#!/bin/sh\nprintf '{\"protocol\":\"supervisor.micro'\n"),
        ("another", "#!/bin/sh\necho '{\"protocol\":\"supervisor.microagent.dev/v9\",\"ok\":true}'\n"),
        ("flood", "#!/bin/sh\nexec cat /dev/zero\n"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let chosen: Vec<_> =
            checks().into_iter().filter(|c| c.name.starts_with("tells-") || c.name == "starts").collect();
        let report = run(&Supervisor::new(path), &Placeholders, &chosen, &mut |_| ());
        assert!(report.outcomes.iter().all(|o| o.verdict == Verdict::Failed), "{name}: {:#?}", report.outcomes);
        assert!(report.capabilities.is_none() && !report.conforms());
    }
}
