//! What the shim does when it hears from its guest.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use microagent_guest_protocol::Event;
use microagent_supervisor_protocol::ErrorCode;

use crate::{
    guest::Word,
    run::{Connection, LOST, RETRY, Shim},
};

/// How long a guest that said its last may take to power off: it writes to its disks all that is still in its memory.
const POWER_OFF: Duration = Duration::from_secs(300);

/// How long outputs may take, all together, where nobody asked for the end of the machine.
const COPYING: Duration = Duration::from_secs(600);

impl Shim<'_> {
    pub(crate) fn take_word(&mut self, word: Word, now: Instant) {
        match word {
            Word::NotYet(why) => {
                self.refusal = Some(why);
                self.connection = Connection::None;
                self.timers.connect = Some(now + RETRY);
            }
            Word::Event(event) => {
                let configured = matches!(event, Event::Configured { .. } | Event::Resumed { .. });
                let stage = if matches!(event, Event::Resumed { .. }) { "resumed" } else { "configured" };
                if let Err(why) = self.life.tell(event, Timestamp::now()) {
                    self.life.fail(ErrorCode::GuestProtocol, why, "");
                    self.kill();
                } else if configured {
                    self.timers.boot = None;
                    self.stage(stage, now);
                } else {
                    self.limit_the_rest(now);
                }
            }
            Word::Output(artifact) => {
                if let Err(why) = self.life.output(artifact) {
                    self.life.fail(ErrorCode::GuestProtocol, why, "");
                    self.kill();
                } else {
                    self.limit_the_rest(now);
                }
            }
            Word::Over(broken) => {
                self.connection = Connection::Over;
                if self.life.is_resuming() && broken.is_none() {
                    // Lost by a snapshot, or once more by another.
                    self.connection = Connection::None;
                    self.timers.connect = Some(now + RETRY);
                    self.reconnect(now);
                } else if let Some(why) = broken {
                    self.life.fail(ErrorCode::GuestProtocol, why, "");
                    self.kill();
                } else if self.life.is_copying() {
                    self.life.abandon_outputs("the guest hung up before it was copied out");
                    self.limit_the_rest(now);
                } else if !self.life.is_done() {
                    self.timers.end_by(now + LOST);
                }
            }
        }
    }

    /// Once the workload has ended, what is left of the guest's life has its time.
    fn limit_the_rest(&mut self, now: Instant) {
        if self.life.is_done() {
            self.timers.end_by(now + POWER_OFF);
        } else if self.life.is_copying() {
            self.timers.end_by(now + COPYING);
        }
    }
}
