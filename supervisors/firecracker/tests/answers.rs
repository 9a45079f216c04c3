//! What the executable answers while it cannot start machines.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

use std::time::Duration;

use microagent_supervisor_protocol::{CheckStatus, Supervisor, Target, Verb};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn it_says_that_it_cannot_start_machines_and_refuses_to() {
    let supervisor = Supervisor::new(env!("CARGO_BIN_EXE_microagent-supervisor-firecracker"));
    let capabilities = supervisor.capabilities(PATIENCE).unwrap();
    assert_eq!((capabilities.backend.as_str(), capabilities.accelerators.as_slice()), ("Firecracker", &[][..]));
    assert_eq!(capabilities.verbs, [Verb::Capabilities, Verb::Check]);
    assert!(supervisor.check(None, PATIENCE).unwrap().iter().any(|c| c.status == CheckStatus::Failed));
    let target = Target { uid: "u-1".to_owned(), machine_dir: "/nowhere".into() };
    assert_eq!(supervisor.inspect(target, PATIENCE).unwrap_err().category(), "UnsupportedVerb");
}
