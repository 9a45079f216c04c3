//! What the executable answers on a host without the framework.

use std::process::Command;

use microagent_conformance::{Verdict, checks, run};
use microagent_supervisor_protocol::{CheckStatus, ErrorCode, Supervisor};

use crate::host::{Host, PATIENCE, StandIns, refused};

fn shipped() -> Supervisor {
    Supervisor::new(env!("CARGO_BIN_EXE_microagent-supervisor-apple-vf"))
}

#[test]
fn it_says_that_the_framework_is_of_macos_and_starts_nothing() {
    let capabilities = shipped().capabilities(PATIENCE).unwrap();
    assert_eq!((capabilities.backend.as_str(), capabilities.accelerators.as_slice()), ("AppleVf", &[][..]));
    assert!(capabilities.accelerator_reason.unwrap().contains("part of macOS"));
    assert!(shipped().check(None, PATIENCE).unwrap().iter().any(|c| c.status == CheckStatus::Failed));
    let mut host = Host::new(&[]);
    host.supervisor = shipped();
    assert_eq!(refused(host.start()).code, ErrorCode::VmmNotFound);
    assert!(host.inspect().owner.is_none());
}

#[test]
fn it_is_no_vmm_either() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(shipped().path()).arg("vm").current_dir(dir.path()).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("part of macOS"));
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn it_keeps_the_contract_as_far_as_that_goes_without_machines() {
    let report = run(&shipped(), &StandIns, &checks(), &mut |_| {});
    let failed: Vec<_> = report.outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(report.count(Verdict::Passed) >= 10, "only {} checks were made", report.count(Verdict::Passed));
}
