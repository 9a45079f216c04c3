//! `microagent`: the command line over the libraries. It speaks to a controller through files only; called as `kubectl-microagent` it
//! speaks to a cluster.

mod cli;
mod cluster;
mod commands;
mod context;
mod driver;
mod failure;
mod guest;
mod manifests;
mod names;
mod objects;
mod output;
mod program;
mod stages;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(if program::is_plugin() {
        cluster::parse().map_or_else(|code| code, cluster::main)
    } else {
        cli::parse().map_or_else(|code| code, commands::main)
    })
}
