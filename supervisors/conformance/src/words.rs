//! What is no request is refused, each for its own cause.

use microagent_supervisor_protocol::{ErrorCode, MAX_BYTES, PROTOCOL, Target, Verb};
use serde_json::{Value, json};

use crate::{
    bench::{Bench, entries},
    check::{Check, Trouble, require},
};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "refuses-no-input", promise: "an empty request is InvalidRequest", run: no_input },
    Check {
        name: "refuses-broken-json",
        promise: "what is no JSON, or cut short, is InvalidRequest",
        run: broken_json,
    },
    Check { name: "refuses-deep-json", promise: "JSON nested 100,000 deep is InvalidRequest", run: deep_json },
    Check {
        name: "refuses-huge-input",
        promise: "a request of more than 32 MiB is InvalidRequest, whatever else it is",
        run: huge_input,
    },
    Check { name: "refuses-unknown-fields", promise: "an unknown field is InvalidRequest", run: unknown_fields },
    Check { name: "refuses-unknown-verbs", promise: "an unknown verb is UnsupportedVerb", run: unknown_verb },
    Check {
        name: "refuses-other-versions",
        promise: "a request of another protocol version is UnsupportedProtocol, whatever else is in it",
        run: other_version,
    },
    Check {
        name: "refuses-wrong-types",
        promise: "a field of another type, or a missing one, is InvalidRequest",
        run: wrong_types,
    },
    Check {
        name: "refuses-hostile-uids",
        promise: "a UID that is not 1 to 63 lower-case letters, digits and `-` is InvalidRequest",
        run: hostile_uids,
    },
    Check {
        name: "refuses-relative-directories",
        promise: "a machine's directory that is not absolute is InvalidRequest",
        run: relative_directories,
    },
];

const INVALID: &[ErrorCode] = &[ErrorCode::InvalidRequest];

fn inspect(bench: &Bench<'_>) -> Value {
    json!({"protocol": PROTOCOL, "verb": "inspect", "target": bench.target()})
}

fn refused(bench: &Bench<'_>, what: &str, request: &Value, causes: &[ErrorCode]) -> Result<(), Trouble> {
    bench.refused_bytes(what, request.to_string().as_bytes(), causes)
}

fn no_input(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.refused_bytes("an empty request", b"", INVALID)?;
    bench.refused_bytes("a request of spaces", b" \n\t ", INVALID)
}

fn broken_json(bench: &Bench<'_>) -> Result<(), Trouble> {
    let whole = inspect(bench).to_string();
    bench.refused_bytes("half a request", &whole.as_bytes()[..whole.len() / 2], INVALID)?;
    bench.refused_bytes("a request and a half", format!("{whole}{{").as_bytes(), INVALID)?;
    bench.refused_bytes("a request that is not UTF-8", b"{\"protocol\":\"\xff\xfe\"}", INVALID)?;
    bench.refused_bytes("a list", b"[1,2,3]", INVALID)
}

fn deep_json(bench: &Bench<'_>) -> Result<(), Trouble> {
    let deep = format!("{{\"protocol\":{}", "[".repeat(100_000));
    bench.refused_bytes("a request nested 100,000 deep", deep.as_bytes(), INVALID)
}

fn huge_input(bench: &Bench<'_>) -> Result<(), Trouble> {
    let padded = format!("{}{}", inspect(bench), " ".repeat(MAX_BYTES));
    bench.refused_bytes("a request with 32 MiB of spaces", padded.as_bytes(), INVALID)
}

fn unknown_fields(bench: &Bench<'_>) -> Result<(), Trouble> {
    let mut outside = inspect(bench);
    outside["surprise"] = json!(true);
    refused(bench, "a request with an unknown field", &outside, INVALID)?;
    let mut inside = inspect(bench);
    inside["target"]["surprise"] = json!(true);
    refused(bench, "a target with an unknown field", &inside, INVALID)
}

fn unknown_verb(bench: &Bench<'_>) -> Result<(), Trouble> {
    let mut request = inspect(bench);
    for verb in ["dance", "", "Inspect"] {
        request["verb"] = json!(verb);
        refused(bench, &format!("the verb {verb:?}"), &request, &[ErrorCode::UnsupportedVerb])?;
    }
    Ok(())
}

fn other_version(bench: &Bench<'_>) -> Result<(), Trouble> {
    let request = json!({"protocol": "supervisor.microagent.dev/v2", "verb": "dance", "surprise": 1});
    refused(bench, "a request of protocol v2", &request, &[ErrorCode::UnsupportedProtocol])?;
    let mut request = inspect(bench);
    request["protocol"] = json!("");
    refused(bench, "a request of no protocol", &request, &[ErrorCode::UnsupportedProtocol])
}

fn wrong_types(bench: &Bench<'_>) -> Result<(), Trouble> {
    let mut request = inspect(bench);
    request["target"]["uid"] = json!(7);
    refused(bench, "a UID that is a number", &request, INVALID)?;
    let mut request = inspect(bench);
    if let Some(fields) = request.as_object_mut() {
        fields.remove("target");
    }
    refused(bench, "a request about a machine without a target", &request, INVALID)?;
    if bench.needs(&[Verb::Halt]).is_ok() {
        let request = json!({
            "protocol": PROTOCOL, "verb": "halt", "target": bench.target(), "halt": {"graceSeconds": -1}
        });
        refused(bench, "a negative grace period", &request, INVALID)?;
    }
    Ok(())
}

fn hostile_uids(bench: &Bench<'_>) -> Result<(), Trouble> {
    let long = "u".repeat(64);
    for uid in ["", "../x", "a/b", "UPPER", "a b", "é", "a\u{0}b", "$(id)", "a;id", long.as_str()] {
        let mut request = inspect(bench);
        request["target"]["uid"] = json!(uid);
        refused(bench, &format!("the UID {uid:?}"), &request, INVALID)?;
    }
    nothing_made(bench)
}

fn relative_directories(bench: &Bench<'_>) -> Result<(), Trouble> {
    for dir in ["m", "../m", ""] {
        let target = Target { uid: bench.uid.clone(), machine_dir: dir.into() };
        let request = json!({"protocol": PROTOCOL, "verb": "inspect", "target": target});
        refused(bench, &format!("the machine's directory {dir:?}"), &request, INVALID)?;
    }
    nothing_made(bench)
}

fn nothing_made(bench: &Bench<'_>) -> Result<(), Trouble> {
    let made = entries(bench.home())?;
    require(made == ["parts"], || format!("a request that is refused made {made:?}"))
}
