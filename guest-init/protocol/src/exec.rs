//! A command run beside the workload.

use serde::{Deserialize, Serialize};

use crate::{Exit, Process};

/// Run `process`. What its `env` lacks is taken from the workload's environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// The command.
    pub process: Process,
    /// Give it a terminal of this size; its output is then all on standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// Whether standard input will follow as frames. Without it the command reads `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Terminal {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// What the host may send while the command runs, besides standard input (whose end is an empty frame).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "input", rename_all = "camelCase", deny_unknown_fields)]
pub enum ExecInput {
    /// The terminal has a new size.
    Resize(Terminal),
    /// Send this signal to the command's process group.
    Signal {
        /// The signal's number, 1 to 64.
        number: u8,
    },
}

/// The last frame of an exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "camelCase", deny_unknown_fields)]
pub enum ExecReply {
    /// The command ended and all its output was sent.
    Exited(Exit),
    /// The command could not be started.
    Failed {
        /// A stable code in CamelCase: `CommandNotFound`, `PermissionDenied`, `UserNotFound`, …
        code: String,
        /// What, where and why, for people.
        message: String,
    },
}
