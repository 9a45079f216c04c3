//! Standing still, running on, and the power button.
//!
//! What a machine does is the framework's to know: it may end by itself at any time, and a call that was not answered in time may be carried
//! out yet. So nothing of it is remembered here; each step is decided by what the machine does at that moment.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::framework::{State, VirtualMachine};

/// How long a change may take: the shim, and with it the machine's one caller, waits for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks at a machine that changes. Nothing tells of it.
const LOOK: Duration = Duration::from_millis(5);

/// What a machine is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    StandStill,
    Run,
    PressButton,
}

/// What is to be done now, so that it comes to do that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing more.
    Done,
    /// Nothing: the framework is about to do something.
    Wait,
    Pause,
    Resume,
    Press,
    Refuse(&'static str),
}

fn step(state: State, wish: Wish) -> Step {
    match (state, wish) {
        (State::Running, Wish::StandStill) => Step::Pause,
        (State::Running, Wish::Run) | (State::Paused, Wish::StandStill) => Step::Done,
        (State::Running, Wish::PressButton) => Step::Press,
        (State::Paused, Wish::Run) => Step::Resume,
        (State::Paused, Wish::PressButton) => Step::Refuse("the machine stands still and hears no button"),
        (State::Changing, _) => Step::Wait,
        // That it ends is what the button is for.
        (State::Stopping | State::Stopped | State::Failed, Wish::PressButton) => Step::Done,
        (State::Stopping | State::Stopped, _) => Step::Refuse("the machine has ended, or is about to"),
        (State::Failed, _) => Step::Refuse("the machine has failed"),
    }
}

/// Has the machine do what is wished; returns once it is so.
pub(super) fn carry_out(machine: &dyn VirtualMachine, wish: Wish) -> Result<(), String> {
    carry_out_within(machine, wish, PATIENCE)
}

fn carry_out_within(machine: &dyn VirtualMachine, wish: Wish, patience: Duration) -> Result<(), String> {
    let until = Instant::now() + patience;
    loop {
        let state = machine.state();
        match step(state, wish) {
            Step::Done => return Ok(()),
            Step::Refuse(why) => return Err(why.to_owned()),
            Step::Press => return machine.request_stop(),
            Step::Pause => machine.pause()?,
            Step::Resume => machine.resume()?,
            Step::Wait => thread::sleep(LOOK),
        }
        if Instant::now() > until {
            return Err(format!("after {patience:?} the machine is still {state:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io, os::unix::net::UnixStream, sync::Mutex};

    /// A machine that goes through these states, one a look, and notes what is asked of it.
    struct Scripted {
        states: Mutex<Vec<State>>,
        asked: Mutex<Vec<&'static str>>,
    }

    impl Scripted {
        fn new(states: &[State]) -> Self {
            Self { states: Mutex::new(states.iter().rev().copied().collect()), asked: Mutex::default() }
        }

        fn note(&self, what: &'static str) -> Result<(), String> {
            self.asked.lock().unwrap().push(what);
            Ok(())
        }
    }

    impl VirtualMachine for Scripted {
        fn state(&self) -> State {
            let mut states = self.states.lock().unwrap();
            if states.len() > 1 { states.pop().unwrap() } else { states[0] }
        }

        fn start(&self) -> Result<(), String> {
            self.note("start")
        }

        fn pause(&self) -> Result<(), String> {
            self.note("pause")
        }

        fn resume(&self) -> Result<(), String> {
            self.note("resume")
        }

        fn request_stop(&self) -> Result<(), String> {
            self.note("press")
        }

        fn stop(&self) -> Result<(), String> {
            self.note("stop")
        }

        fn connect(&self, _port: u32) -> io::Result<UnixStream> {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    #[test]
    fn each_wish_is_carried_out_from_each_state_with_no_call_too_many() {
        use State::{Changing, Failed, Paused, Running, Stopped, Stopping};
        use Wish::{PressButton, Run, StandStill};
        for (states, wish, asked, ok) in [
            (&[Running, Paused][..], StandStill, &["pause"][..], true),
            (&[Paused], StandStill, &[], true),
            (&[Paused, Running], Run, &["resume"], true),
            (&[Running], Run, &[], true),
            // A call that was given up earlier is still being carried out.
            (&[Changing, Changing, Paused], StandStill, &[], true),
            (&[Changing, Paused, Changing, Running], Run, &["resume"], true),
            (&[Running], PressButton, &["press"], true),
            (&[Paused], PressButton, &[], false),
            (&[Stopping], PressButton, &[], true),
            // It ends while it is to stand still.
            (&[Running, Stopping], StandStill, &["pause"], false),
            (&[Stopped], Run, &[], false),
            (&[Failed], StandStill, &[], false),
        ] {
            let machine = Scripted::new(states);
            let result = carry_out_within(&machine, wish, Duration::from_secs(60));
            assert_eq!(result.is_ok(), ok, "{states:?} {wish:?}: {result:?}");
            assert_eq!(*machine.asked.lock().unwrap(), asked, "{states:?} {wish:?}");
        }
    }

    #[test]
    fn a_machine_that_does_not_come_to_it_is_given_up() {
        let machine = Scripted::new(&[State::Changing]);
        let why = carry_out_within(&machine, Wish::Run, Duration::from_millis(1)).unwrap_err();
        assert!(why.contains("Changing"), "{why}");
    }
}
