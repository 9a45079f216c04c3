//! What the shim does when it is told to end, pause, resume or quarantine its machine.

use std::{
    net::Shutdown,
    sync::{PoisonError, mpsc::SyncSender},
    time::{Duration, Instant},
};

use microagent_guest_protocol::OUTPUT_SECONDS;
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, MachineState, Snapshot, SnapshotKind};

use crate::{
    control::{Answer, Wish},
    guest,
    run::{Connection, LOST, RETRY, Shim},
    snapshot::{self, Base, Draft},
};

/// How long after the grace period, and the time for outputs, a halted machine is ended: the protocol's word.
const AFTER_GRACE: Duration = Duration::from_secs(10);

impl Shim<'_> {
    pub(crate) fn take_wish(&mut self, wish: Wish, answer: SyncSender<Answer>, now: Instant) {
        let taken = match wish {
            Wish::Halt { grace_seconds } => {
                self.halt(grace_seconds, now);
                Ok(())
            }
            Wish::Kill => {
                self.life.wish_end();
                self.killed = true;
                self.kill();
                Ok(())
            }
            Wish::Pause => self.become_state(MachineState::Paused, now),
            Wish::Resume => self.become_state(MachineState::Running, now),
            Wish::Quarantine => self.become_state(MachineState::Quarantined, now),
            Wish::Snapshot(snapshot) => self.snapshot(&snapshot, now),
        };
        match taken {
            Ok(()) => self.unanswered.push(answer),
            Err(error) => drop(answer.try_send(Err(error))),
        }
    }

    fn halt(&mut self, grace_seconds: u32, now: Instant) {
        let configured = self.life.is_configured();
        self.life.wish_end();
        if !configured {
            // A guest that has no configuration has nothing to lose.
            return self.kill();
        }
        let outputs = if self.life.has_outputs() { u64::from(OUTPUT_SECONDS) } else { 0 };
        self.timers.end_by(now + Duration::from_secs(u64::from(grace_seconds) + outputs) + AFTER_GRACE);
        self.restore_power(now);
        guest::shutdown(self.far, grace_seconds, self.sender.clone());
    }

    fn become_state(&mut self, state: MachineState, now: Instant) -> Result<(), ErrorBody> {
        self.life.check_runs()?;
        match state {
            // A machine that stands still answers nobody.
            MachineState::Paused => self.bridge.hold(),
            // Before the machine runs on; it stays cut when it does not.
            MachineState::Quarantined => self.bridge.cut(),
            _ => {}
        }
        let done = self.set_paused(state == MachineState::Paused, now);
        if done.is_err() && self.life.machine.state == MachineState::Running {
            self.bridge.join();
        }
        done?;
        if state == MachineState::Running {
            self.bridge.join();
        }
        self.life.machine.state = state;
        Ok(())
    }

    /// Makes a snapshot. The machine stands still for that, and everything else that it is asked waits.
    fn snapshot(&mut self, wanted: &Snapshot, now: Instant) -> Result<(), ErrorBody> {
        self.life.check_runs()?;
        let was = self.life.machine.state;
        if was == MachineState::Quarantined {
            return Err(ErrorBody::new(ErrorCode::MachineNotRunning, "the machine is Quarantined"));
        }
        snapshot::check_target(&wanted.dir)?;
        self.backend.check_snapshot(&self.config, wanted)?;
        self.bridge.hold();
        let paused = self.set_paused(true, now);
        let made = paused.clone().and_then(|()| self.write_snapshot(wanted));
        if paused.is_ok() {
            // The VMM resets the device before it writes, and also where that fails: the guest will close its ends, and tells nobody.
            self.life.interrupt();
            self.bridge.cut();
            if let Some(line) = self.line.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = line.shutdown(Shutdown::Both);
            }
        }
        if was == MachineState::Running && (wanted.resume || made.is_err()) {
            self.restore_power(now);
            self.bridge.join();
        } else {
            self.life.machine.state = MachineState::Paused;
        }
        made
    }

    fn write_snapshot(&mut self, wanted: &Snapshot) -> Result<(), ErrorBody> {
        let (Some(launch), Some(vmm)) = (&self.launch, self.vmm) else {
            return Err(ErrorBody::new(ErrorCode::MachineNotRunning, "the machine has ended"));
        };
        let boot = self.life.machine.identity.as_ref().map_or("", |identity| &identity.boot_id);
        let (last, number) = &self.last_snapshot;
        let id = format!("{boot}-{number}");
        let draft = Draft {
            id: id.clone(),
            kind: wanted.kind,
            base: if wanted.kind == SnapshotKind::Diff { last.clone() } else { None },
            facts: snapshot::facts(self.backend, launch, &self.config)?,
            progress: self.life.progress(),
            write: &|dir| self.backend.snapshot(launch, &self.config, vmm, dir, wanted.kind),
        };
        snapshot::make(&wanted.dir, draft)?;
        self.last_snapshot = (Some(Base { id, dir: wanted.dir.clone() }), number + 1);
        Ok(())
    }

    /// Asks the guest to go on after a snapshot, once it runs.
    pub(crate) fn reconnect(&mut self, now: Instant) {
        if self.life.is_resuming() && self.connection == Connection::None && self.paused == Some(false) {
            self.timers.connect = Some(now);
            self.timers.boot.get_or_insert(now + LOST);
        }
    }

    /// Has the CPUs stand still or run, as the machine's state says.
    pub(crate) fn restore_power(&mut self, now: Instant) {
        if let Err(e) = self.set_paused(self.life.machine.state == MachineState::Paused, now) {
            eprintln!("{e}");
        }
    }

    fn set_paused(&mut self, paused: bool, now: Instant) -> Result<(), ErrorBody> {
        if self.paused == Some(paused) {
            return Ok(());
        }
        let Some(vmm) = self.vmm else { return Ok(()) };
        match self.backend.set_paused(vmm, paused) {
            Ok(()) => {
                self.paused = Some(paused);
                self.timers.power = None;
                self.reconnect(now);
                Ok(())
            }
            Err(e) => {
                // It may do it yet: what is recorded has to become true again.
                self.paused = None;
                self.timers.power = Some(now + RETRY);
                Err(e)
            }
        }
    }
}
