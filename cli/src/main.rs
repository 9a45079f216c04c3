//! `microagent`: the command line over the libraries. It speaks to a controller through files only.

mod cli;
mod commands;
mod context;
mod driver;
mod failure;
mod guest;
mod log;
mod manifests;
mod names;
mod objects;
mod output;
mod stages;
mod watch;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(commands::main(cli::Cli::parse()))
}
