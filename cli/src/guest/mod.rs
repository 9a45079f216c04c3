//! Running a command in a guest, from a terminal or from a program, and copying its files.

pub(crate) mod copy;
pub(crate) mod session;
pub(crate) mod terminal;
pub(crate) mod wire;
