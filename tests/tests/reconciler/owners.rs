//! Machines whose processes are killed behind everybody's back.

use std::{
    thread,
    time::{Duration, Instant},
};

use microagent_base::process::ProcessId;
use microagent_tests::host::Host;
use rustix::process::Signal;
use serde_json::json;

/// A settled workspace is looked at by the clock every five minutes: what shows much sooner was told, not stumbled upon.
const TOLD: Duration = Duration::from_secs(120);

#[test]
fn a_machine_whose_owner_is_killed_is_missed_and_started_again_also_by_a_controller_that_came_later() {
    let mut host = Host::with_fake_machines();
    host.start_controller();
    host.drop_file("web.yaml", &host.fake_manifest("web", &json!({})));
    for boots in 1..=2 {
        host.wait("web", "Ready");
        if boots == 2 {
            host.kill_controller();
            host.start_controller();
            host.wait("web", "Ready");
        }
        let last = host.fake().boots().pop().expect("a machine");
        let killed = ProcessId::of(last.pid).expect("the machine runs");
        killed.signal(Signal::KILL).expect("it can be killed");
        let until = Instant::now() + TOLD;
        while host.fake().boots().len() == boots {
            assert!(Instant::now() < until, "nobody misses the machine that was killed");
            thread::sleep(Duration::from_millis(20));
        }
    }
    host.wait("web", "Ready");
    let status = host.object("web")["status"].clone();
    assert_eq!(status["restarts"]["count"], 2, "{status}");
    assert_eq!(host.fake().boots().len(), 3);
}
