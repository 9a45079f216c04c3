//! The command line of the plugin.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    commands::{cp, describe, exec, get, logs, restart, version, wait},
    failure::USAGE,
    output,
    program::{PLUGIN, program},
};

/// Reach the microVMs of a cluster's workspaces
#[derive(Debug, Parser)]
#[command(
    name = PLUGIN,
    bin_name = "kubectl microagent",
    version,
    propagate_version = false,
    infer_long_args = false,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110,
    after_help = "Logs, commands and copies go to the agent of the workspace's node, which asks the API server whether you may: `get` on \
                  workspaces/log, `create` on workspaces/exec. Exit codes: 0 done, 1 failed, 2 wrong usage, 75 try again; `exec` ends \
                  with the command's own code, or 128 and the number of the signal that ended it."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options that all commands share, with kubectl's names.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// The kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else that of the Pod this runs in]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// The context in it [default: the present one]
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,
    /// The namespace [default: that of the context]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// Where to reach the node agent, when its own address leads nowhere from here: the near end of a tunnel. It must serve the same
    /// certificate
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(super) gate: Option<String>,
    /// Tell more; give it twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Get(get::Args),
    Describe(describe::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Cp(cp::Args),
    Wait(wait::Args),
    Restart(restart::Args),
    Version(version::Args),
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// Reads the command line of this process. The exit code when there is nothing more to do.
pub(crate) fn parse() -> Result<Cli, u8> {
    let read = Cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = read.map_err(|error| {
        // That nobody can read it is nothing to fail for.
        let _ = error.print();
        u8::try_from(error.exit_code()).unwrap_or(USAGE)
    })?;
    match &cli.command {
        Command::Other(line) => {
            let name = line.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            output::note(&format!("error: {}", elsewhere(&name)));
            Err(USAGE)
        }
        _ => Ok(cli),
    }
}

/// Where that is done which is not done here.
fn elsewhere(command: &str) -> String {
    let instead = match command {
        "apply" => "use `kubectl apply -f FILE`",
        "delete" => "use `kubectl delete workspace NAME`",
        "plan" => "use `kubectl diff -f FILE`",
        "events" => "use `kubectl events --for workspace/NAME`",
        "explain" => "use `kubectl explain workspaces.spec`",
        "run" => "write a Workspace and use `kubectl apply -f FILE`",
        "up" => "the node agents of the cluster do that; see `kubectl -n microagent-system get pods`",
        "commit" | "doctor" | "image" | "kernel" | "supervisor" => {
            "that is about one host: use `microagent` on the node"
        }
        _ => return format!("there is no command {command:?}; see `{} --help`", program()),
    };
    format!("{command:?} is no command for a cluster: {instead}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_before_and_behind_the_verb_as_kubectl_has_them() {
        for line in ["kubectl-microagent -n a --context c logs web", "kubectl-microagent logs web -n a --context c"] {
            let cli = Cli::parse_from(line.split(' '));
            assert_eq!((cli.global.namespace.as_deref(), cli.global.context.as_deref()), (Some("a"), Some("c")));
        }
        let cli = Cli::parse_from(["kubectl-microagent", "exec", "web", "--", "ls", "-n", "x"]);
        assert_eq!(cli.global.namespace, None);
    }

    #[test]
    fn what_kubectl_does_is_left_to_it_in_one_line() {
        let local = crate::cli::Cli::command();
        let here = Cli::command();
        for command in local.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "completion") {
            let instead = elsewhere(command);
            assert!(!instead.contains('\n'), "{instead}");
            assert_ne!(
                here.find_subcommand(command).is_some(),
                instead.contains("no command for a cluster"),
                "{command}"
            );
        }
        assert!(elsewhere("frobnicate").contains("there is no command \"frobnicate\""));
    }
}
