//! Children on macOS, where nothing ends them with their parent.

use std::process::Command;

use microagent_supervisor_protocol::ErrorBody;

use crate::backend::Program;

/// The program: none is confined here.
pub(super) fn command(program: &Program) -> Result<Command, ErrorBody> {
    Ok(super::plain(program))
}

/// Nothing can be asked of the kernel. The only program that is run here is a supervisor's own, which watches its parent.
pub(super) fn end_with_parent(_command: &mut Command) {}
