//! The sample supervisors of the protocol's page conform.

use std::{path::Path, process::Command};

use microagent_conformance::{Placeholders, Verdict, checks, run};
use microagent_supervisor_protocol::Supervisor;

fn conforms(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/samples").join(name);
    let report = run(&Supervisor::new(path), &Placeholders, &checks(), &mut |outcome| {
        println!(
            "{:<36} {:?} {} ms {}",
            outcome.name,
            outcome.verdict,
            outcome.milliseconds,
            outcome.message.as_deref().unwrap_or("")
        );
    });
    let failed: Vec<_> = report.outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed).collect();
    assert!(failed.is_empty(), "{name} does not conform: {failed:#?}");
    assert!(report.count(Verdict::Passed) >= 30, "only {} checks were made", report.count(Verdict::Passed));
}

#[test]
fn the_sample_in_python_conforms() {
    conforms("supervisor.py");
}

#[test]
fn the_sample_in_shell_conforms() {
    // It is found by a machine's set-up; a machine without it can still run the rest.
    if Command::new("jq").arg("--version").output().is_err() {
        println!("SKIP the sample supervisor in shell: jq is not installed");
        return;
    }
    conforms("supervisor.sh");
}
