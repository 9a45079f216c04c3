//! `microagent`: the command line over the libraries. It speaks to a controller through files only.

mod cli;
mod commands;
mod context;
mod driver;
mod failure;
mod guest;
mod manifests;
mod names;
mod objects;
mod output;
mod stages;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cli::parse().map_or_else(|code| code, commands::main))
}
