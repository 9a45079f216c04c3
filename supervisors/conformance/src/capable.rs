//! What a supervisor tells of itself and of the host.

use microagent_supervisor_protocol::{
    CapabilitiesRequest, CheckRequest, CheckStatus, ErrorCode, PROTOCOL, Request, SnapshotKind, Verb,
};
use serde_json::json;

use crate::{
    bench::{Bench, PATIENCE},
    check::{Check, Trouble, require},
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "tells-capabilities",
        promise: "`capabilities` names the backend, its version, its verbs and its machines' bounds, the same each time",
        run: capabilities,
    },
    Check {
        name: "has-the-required-verbs",
        promise: "capabilities, check, prepare, start, inspect, halt, kill and delete are there",
        run: required,
    },
    Check {
        name: "refuses-verbs-that-it-does-not-have",
        promise: "a verb that `capabilities` do not name is UnsupportedVerb",
        run: undeclared,
    },
    Check {
        name: "features-agree-with-verbs",
        promise: "who has the verb `snapshot` names the kinds of snapshots, and the other way round",
        run: features,
    },
    Check {
        name: "checks-the-host",
        promise: "`check` gives each thing a name of its own, and says what to do about what failed",
        run: check,
    },
];

fn capabilities(bench: &Bench<'_>) -> Result<(), Trouble> {
    let first = bench.supervisor.capabilities(PATIENCE)?;
    require(is_camel(&first.backend), || format!("the backend's name {:?} is not in CamelCase", first.backend))?;
    require(!first.version.is_empty(), || "the version is empty".to_owned())?;
    require(first.accelerators.is_empty() || first.max_vcpus > 0, || {
        "machines can be started, with no virtual CPU at most".to_owned()
    })?;
    require(!first.accelerators.is_empty() || first.accelerator_reason.is_some(), || {
        "no machine can be started, and no reason is told".to_owned()
    })?;
    let second = bench.supervisor.capabilities(PATIENCE)?;
    require(first == second, || format!("it first told {first:?}, and then {second:?}"))
}

fn required(bench: &Bench<'_>) -> Result<(), Trouble> {
    let had = &bench.known()?.verbs;
    let lacking: Vec<_> = Verb::REQUIRED.iter().filter(|verb| !had.contains(verb)).map(|v| v.as_str()).collect();
    require(lacking.is_empty(), || format!("it does not have {}", lacking.join(", ")))?;
    let twice = had.iter().enumerate().find(|(n, verb)| had[..*n].contains(verb));
    require(twice.is_none(), || format!("it names a verb twice: {had:?}"))
}

fn undeclared(bench: &Bench<'_>) -> Result<(), Trouble> {
    let had = &bench.known()?.verbs;
    for verb in Verb::ALL.iter().filter(|verb| !had.contains(verb)) {
        let request = match verb {
            Verb::Gc => json!({"protocol": PROTOCOL, "verb": "gc", "machineDirs": [], "keep": []}),
            Verb::Console => {
                json!({"protocol": PROTOCOL, "verb": "console", "target": bench.target(), "maxBytes": 1})
            }
            Verb::Snapshot => json!({
                "protocol": PROTOCOL, "verb": "snapshot", "target": bench.target(),
                "snapshot": {"dir": bench.home().join("s"), "kind": "full"},
            }),
            _ => json!(bench.plain(*verb)),
        };
        let what = format!("`{}`", verb.as_str());
        bench.refused_bytes(&what, request.to_string().as_bytes(), &[ErrorCode::UnsupportedVerb])?;
    }
    Ok(())
}

fn features(bench: &Bench<'_>) -> Result<(), Trouble> {
    let known = bench.known()?;
    let kinds = &known.features.snapshots;
    require(known.verbs.contains(&Verb::Snapshot) == kinds.contains(&SnapshotKind::Full), || {
        format!("it has the verbs {:?} and the kinds of snapshots {kinds:?}", known.verbs)
    })?;
    let (all, best) = (&known.features.kernel_formats, known.kernel_format);
    require(best.is_none_or(|best| all.is_empty() || all.contains(&best)), || {
        format!("the form of kernel that boots fastest, {best:?}, is not among those that boot, {all:?}")
    })
}

fn check(bench: &Bench<'_>) -> Result<(), Trouble> {
    for config in [None, Some(bench.config()?)] {
        let response = bench.call(&Request::Check(CheckRequest { protocol: PROTOCOL.to_owned(), config }))?;
        if let Some(error) = response.error {
            return Err(Trouble::Failed(format!("`check` failed: {error}")));
        }
        let checks = response.checks;
        for (n, check) in checks.iter().enumerate() {
            let name = &check.name;
            require(is_camel(name), || format!("the check {name:?} has no name in CamelCase"))?;
            require(!checks[..n].iter().any(|other| other.name == *name), || format!("two checks are named {name}"))?;
            require(check.status == CheckStatus::Ok || check.remediation.is_some(), || {
                format!("the check {name} is {:?} and does not say what to do", check.status)
            })?;
        }
    }
    // A call about the host alone must not need what a machine needs.
    bench.call(&Request::Capabilities(CapabilitiesRequest { protocol: PROTOCOL.to_owned() })).map(drop)
}

fn is_camel(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(|c| c.is_ascii_alphanumeric())
}
