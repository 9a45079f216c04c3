//! A real Firecracker, where there is one.

use microagent_supervisor_protocol::{CheckStatus, MachineState};
use microagent_tests::firecracker::{MachineHost, real_firecracker, real_kernel};

#[test]
fn a_real_firecracker_takes_everything_up_to_the_start_and_prints_its_kernels_first_lines() {
    let skipped = |why: &str| eprintln!("skipped: a_real_firecracker_takes_everything_up_to_the_start: {why}");
    let Some(firecracker) = real_firecracker() else {
        return skipped("there is no firecracker in PATH, nor is one named by MICROAGENT_FIRECRACKER");
    };
    let mut host = MachineHost::real(&firecracker);
    let checks = host.supervisor().check(None, std::time::Duration::from_secs(60)).unwrap();
    if let Some(check) = checks.iter().find(|check| check.status == CheckStatus::Failed) {
        return skipped(&check.message);
    }
    host.options.jailer = None;
    let kernel = real_kernel();
    if let Some(kernel) = &kernel {
        host.kernel.path.clone_from(kernel);
    }
    let started = host.start("b1").unwrap();
    assert_eq!(started.state, MachineState::Starting);
    if kernel.is_none() {
        eprintln!(
            "skipped: the kernel's first lines: MICROAGENT_FIRECRACKER_KERNEL names no kernel; InstanceStart was taken"
        );
    } else {
        let machine = host.until(|m| m.timings.contains_key("console") || m.state == MachineState::Exited);
        assert!(machine.timings.contains_key("console"), "{:?}\n{}", machine.failure, host.log("vmm.log"));
        let begun = std::time::Instant::now();
        while !host.log("console.log").contains("Linux version") {
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{}", host.log("console.log"));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    // What is no kernel may have ended its machine by now.
    assert_eq!(host.kill().unwrap().state, MachineState::Exited);
    assert_eq!(host.delete().unwrap().state, MachineState::Absent);
}
