//! The supervisor keeps the whole contract, by the kit that every supervisor is held against.

use std::{fs, io, path::Path};

use microagent_conformance::{Parts, Verdict, checks, run};
use microagent_guest_protocol::{Config, Process};
use microagent_supervisor_protocol::{Disk, MachineConfig};
use microagent_tests::firecracker::MachineHost;
use rustix::process::geteuid;

/// Machines of the stand-in: their kernel passes for one.
struct StandIns(MachineHost);

impl Parts for StandIns {
    fn config(&self, dir: &Path) -> io::Result<MachineConfig> {
        // Made once: a snapshot is of a disk as it was.
        if !dir.join("overlay.ext4").exists() {
            fs::write(dir.join("overlay.ext4"), [0; 4096])?;
        }
        let usual = self.0.config();
        let overlay = Disk { id: "overlay".to_owned(), path: dir.join("overlay.ext4"), read_only: false };
        Ok(MachineConfig { disks: vec![usual.disks[0].clone(), overlay], ..usual })
    }

    fn guest(&self, boot_id: &str) -> Config {
        Config::new(boot_id, Process::new(vec!["stay".to_owned()]))
    }
}

fn conforms(host: MachineHost) {
    host.write_script();
    let supervisor = host.supervisor();
    let report = run(&supervisor, &StandIns(host), &checks(), &mut |outcome| {
        println!("{:<36} {:?} {} ms {:?}", outcome.name, outcome.verdict, outcome.milliseconds, outcome.message);
    });
    let failed: Vec<_> = report.outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(report.count(Verdict::Passed) >= 30, "only {} checks were made", report.count(Verdict::Passed));
}

#[test]
fn the_firecracker_supervisor_conforms() {
    conforms(MachineHost::new("stay"));
}

#[test]
fn the_firecracker_supervisor_conforms_with_jailed_machines() {
    if !geteuid().is_root() {
        eprintln!("skipped: the_firecracker_supervisor_conforms_with_jailed_machines: only root makes jails");
        return;
    }
    let mut host = MachineHost::new("stay");
    host.options.jailer = Some(true);
    conforms(host);
}
