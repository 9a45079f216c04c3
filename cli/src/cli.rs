//! The command line.

use std::{ffi::OsString, io, path::PathBuf};

use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    commands::{
        apply, commit, completion, cp, delete, describe, doctor, events, exec, explain, get, image, kernel, logs, plan,
        restart, run, supervisor, up, version, wait,
    },
    failure::USAGE,
    output,
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
                  or 128 and the number of the signal that ended it; `plan` with 2 when something would change."
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
    Plan(plan::Args),
    Get(get::Args),
    Describe(describe::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Cp(cp::Args),
    Wait(wait::Args),
    Restart(restart::Args),
    Events(events::Args),
    Delete(delete::Args),
    Commit(commit::Args),
    Image(image::Args),
    Kernel(kernel::Args),
    Supervisor(supervisor::Args),
    Doctor(doctor::Args),
    Explain(explain::Args),
    Completion(completion::Args),
    Version(version::Args),
}

/// Reads the command line of this process. The exit code when there is nothing more to do.
pub(crate) fn parse() -> Result<Cli, u8> {
    let mut command = command();
    read(&mut command, std::env::args_os()).map_err(|error| match help_without_verb(&mut command, &error) {
        Some(help) => {
            let help = if output::colours(&io::stderr()) { help.ansi().to_string() } else { help.to_string() };
            output::note(help.trim_end());
            USAGE
        }
        None => {
            // That nobody can read it is nothing to fail for.
            let _ = error.print();
            u8::try_from(error.exit_code()).unwrap_or(USAGE)
        }
    })
}

fn read(command: &mut clap::Command, line: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    command.try_get_matches_from_mut(line).and_then(|matches| Cli::from_arg_matches(&matches))
}

/// The help of a command that lacks its verb, such as `microagent image`. The parser gives it only where no global option was
/// given, nor set by a variable.
fn help_without_verb(command: &mut clap::Command, error: &clap::Error) -> Option<StyledStr> {
    match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::MissingSubcommand, Some(ContextValue::String(names))) => {
            let lacking = names.split(' ').skip(1).try_fold(command, |at, name| at.find_subcommand_mut(name))?;
            Some(lacking.render_help())
        }
        _ => None,
    }
}

/// The grammar. The usage in an error is the one of the help: the parser's own shows every option that was given, or set by a
/// variable, as if it were required.
fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    with_whole_usage(command)
}

fn with_whole_usage(mut command: clap::Command) -> clap::Command {
    let usage = command.render_usage().to_string();
    // The short option is the one that people write.
    let usage = usage.trim_start_matches("Usage: ").replace("--filename <FILE>", "-f <FILE>");
    command.override_usage(usage).mut_subcommands(with_whole_usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    fn refused(line: &str) -> (i32, String) {
        let mut command = command();
        let error = read(&mut command, line.split(' ').map(OsString::from)).unwrap_err();
        let help = help_without_verb(&mut command, &error);
        (error.exit_code(), help.unwrap_or_else(|| error.render()).to_string())
    }

    #[test]
    fn a_command_without_its_verb_prints_its_help() {
        for (line, part) in [
            ("microagent", "Run workspaces in microVMs"),
            ("microagent --state-dir /s", "Run workspaces in microVMs"),
            ("microagent image", "The images on this host"),
            ("microagent --state-dir /s image", "The images on this host"),
            ("microagent kernel -n a", "The kernels on this host"),
        ] {
            let (code, text) = refused(line);
            assert!(code == 2 && text.starts_with(part) && text.contains("\nCommands:\n"), "{line}: {text}");
        }
    }

    #[test]
    fn the_usage_shows_only_what_is_required_whatever_was_given() {
        let (code, text) = refused("microagent --state-dir /s --cache-dir /c apply");
        assert!(code == 2 && text.contains("\nUsage: microagent apply [OPTIONS] -f <FILE>\n"), "{text}");
        let (_, help) = refused("microagent apply --help");
        assert!(help.contains("\nUsage: microagent apply [OPTIONS] -f <FILE>\n"), "{help}");
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
