//! The supervisor keeps the whole contract, by the kit that every supervisor is held against.

use microagent_conformance::{Verdict, checks, run};

use crate::host::{StandIns, stand_in};

#[test]
fn the_apple_supervisor_conforms() {
    let report = run(&stand_in(), &StandIns, &checks(), &mut |outcome| {
        println!("{:<36} {:?} {} ms {:?}", outcome.name, outcome.verdict, outcome.milliseconds, outcome.message);
    });
    let failed: Vec<_> = report.outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(report.count(Verdict::Passed) >= 30, "only {} checks were made", report.count(Verdict::Passed));
}
