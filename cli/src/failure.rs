//! How a command fails: what people read, and the exit code that programs read.

use std::{error::Error, fmt, io};

/// The command failed.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong. The argument parser uses the same code.
pub(crate) const USAGE: u8 = 2;
/// The same command may succeed later: `EX_TEMPFAIL` of sysexits(3).
pub(crate) const TRY_AGAIN: u8 = 75;

/// The result of a command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    help: Option<String>,
    code: u8,
    quiet: bool,
    verbatim: bool,
}

impl Failure {
    /// A failure with this message: what, and why.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, code: FAILED, quiet: false, verbatim: false }
    }

    /// A failure that is worded in full already, with `error` at its begin.
    pub(crate) fn verbatim(message: impl Into<String>) -> Self {
        Self { verbatim: true, ..Self::new(message) }
    }

    /// The command line asks for what cannot be.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, ..Self::new(message) }
    }

    /// The same command may succeed later.
    pub(crate) fn try_again(message: impl Into<String>) -> Self {
        Self { code: TRY_AGAIN, ..Self::new(message) }
    }

    /// What to do about it.
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Ends with this exit code.
    pub(crate) fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Tells it on standard error and gives the exit code.
    pub(crate) fn report(&self) -> u8 {
        if self.verbatim {
            crate::output::note(&self.to_string());
        } else if !self.quiet {
            let (on, off) = if crate::output::colours(&io::stderr()) { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
            crate::output::note(&format!("{on}error{off}: {self}"));
        }
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\n  help: {help}"))
    }
}

/// Whatever the libraries refuse, with its causes. A closed standard output is no failure: who closed it has read enough.
impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        if let Some(io) = (&error as &dyn Error).downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::BrokenPipe
        {
            return Self { code: 0, quiet: true, ..Self::new(io.to_string()) };
        }
        Self::new(microagent_base::causes(&error))
    }
}

/// Says what was being done when it failed.
pub(crate) trait Context<T> {
    /// Puts `what: ` before the message.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Failure>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| {
            let failure = e.into();
            Failure { message: format!("{}: {}", what(), failure.message), ..failure }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_to_do_on_a_line_of_its_own() {
        let failure = Failure::new("no workspace a").help("list them with `microagent get`");
        assert_eq!(failure.to_string(), "no workspace a\n  help: list them with `microagent get`");
    }

    #[test]
    fn a_closed_standard_output_is_quiet_and_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.quiet);
        assert_eq!(failure.code, 0);
    }

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug)]
        struct Outer(io::Error, bool);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.1 { write!(f, "cannot read x: {}", self.0) } else { f.write_str("cannot read x") }
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        for told in [true, false] {
            let failure: Failure = Outer(io::Error::other("disk gone"), told).into();
            assert_eq!(failure.to_string(), "cannot read x: disk gone");
        }
    }
}
