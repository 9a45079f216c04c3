//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    apply, completion, delete, describe, doctor, events, exec, explain, get, image, kernel, logs, run, up, version,
    wait,
};

/// Run workspaces in microVMs, as declared
#[derive(Debug, Parser)]
#[command(
    name = "microagent",
    version,
    propagate_version = false,
    infer_long_args = false,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 75 try again; `run` and `exec` end with the command's own code, \
                  or 128 and the number of the signal that ended it."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that all commands share.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]
    #[arg(long, global = true, env = microagent_controller::paths::STATE_DIR_VARIABLE, value_name = "DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]
    #[arg(long, global = true, env = microagent_controller::paths::CACHE_DIR_VARIABLE, value_name = "DIR", hide_env_values = true)]
    pub(crate) cache_dir: Option<PathBuf>,
    /// The namespace
    #[arg(short, long, global = true, default_value = "default", value_name = "NAME")]
    pub(crate) namespace: String,
    /// Tell more; give it twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(up::Args),
    Run(Box<run::Args>),
    Apply(apply::Args),
    Get(get::Args),
    Describe(describe::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Wait(wait::Args),
    Events(events::Args),
    Delete(delete::Args),
    Image(image::Args),
    Kernel(kernel::Args),
    Doctor(doctor::Args),
    Explain(explain::Args),
    Completion(completion::Args),
    Version(version::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_workloads_own_options_are_not_ours() {
        let cli = Cli::parse_from(["microagent", "run", "--cpus", "2", "alpine", "--", "ls", "-n", "-v", "--help"]);
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert_eq!(args.command, ["ls", "-n", "-v", "--help"]);
        assert_eq!(cli.global.verbose, 0);
    }

    #[test]
    fn global_options_stand_before_and_behind_the_verb() {
        for line in [["microagent", "-n", "a", "get"], ["microagent", "get", "-n", "a"]] {
            assert_eq!(Cli::parse_from(line).global.namespace, "a");
        }
    }
}
