//! The user's terminal: raw while a command in the guest has it, and as it was afterwards.

use std::{
    io::{self, IsTerminal},
    os::fd::AsFd,
};

use microagent_guest_protocol::Terminal;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The size when the terminal does not tell, as terminals had it once.
const USUAL: Terminal = Terminal { rows: 24, columns: 80 };

/// A terminal in raw mode. Dropping it gives the old mode back.
#[must_use = "the mode is given back when this is dropped"]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Every key goes to the guest from now on, Ctrl-C too.
    pub(crate) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.before);
    }
}

/// Whether a command in the guest can have our terminal.
pub(crate) fn usable() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of our terminal.
pub(crate) fn size() -> Terminal {
    match tcgetwinsize(io::stdout().as_fd()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => Terminal { rows: size.ws_row, columns: size.ws_col },
        _ => USUAL,
    }
}
