//! `microagent completion`

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{cli::Cli, failure::Result, output};

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Bash: source <(microagent completion bash)\nZsh:  microagent completion zsh > \"${fpath[1]}/_microagent\"\nFish: microagent completion fish > ~/.config/fish/completions/microagent.fish"
)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<u8> {
    output::print(&script(args.shell))?;
    Ok(0)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "microagent", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_every_verb() {
        let verbs: Vec<_> = Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for verb in &verbs {
                assert!(script.contains(verb.as_str()), "{shell}: {verb}");
            }
        }
    }

    /// Packages install these files. `MICROAGENT_UPDATE=1 cargo test -p microagent-cli` writes them anew.
    #[test]
    fn the_committed_scripts_are_those_that_are_generated() {
        for (shell, file) in
            [(Shell::Bash, "microagent.bash"), (Shell::Zsh, "_microagent"), (Shell::Fish, "microagent.fish")]
        {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("completions").join(file);
            if std::env::var_os("MICROAGENT_UPDATE").is_some() {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, script(shell)).unwrap();
            }
            assert!(std::fs::read_to_string(&path).unwrap_or_default() == script(shell), "{} is old", path.display());
        }
    }

    #[test]
    fn bash_accepts_its_script() {
        if !Path::new("/bin/bash").exists() {
            println!("SKIP bash_accepts_its_script: needs bash");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script(Shell::Bash)).unwrap();
        assert!(Command::new("/bin/bash").arg("-n").arg(file.path()).status().unwrap().success());
    }
}
