//! What the shim does when it is told to end, pause, resume or quarantine its machine.

use std::{
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use microagent_guest_protocol::OUTPUT_SECONDS;
use microagent_supervisor_protocol::{ErrorBody, MachineState};

use crate::{
    control::{Answer, Wish},
    guest,
    run::{RETRY, Shim},
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
