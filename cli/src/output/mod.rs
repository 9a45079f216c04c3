//! What people and programs read.

pub(crate) mod human;
pub(crate) mod progress;
pub(crate) mod table;

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::failure::Result;

/// The form of standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// One name a line.
    Name,
}

/// `-o`, the same in every command that has it.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

/// Writes all of `text` to standard output at once.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Writes `value` as indented JSON or as YAML. `None` when `format` is for people.
pub(crate) fn structured(format: Format, value: &impl Serialize) -> Result<Option<String>> {
    Ok(match format {
        Format::Json => Some(serde_json::to_string_pretty(value)? + "\n"),
        Format::Yaml => Some(microagent_crds::yaml::to_string(&serde_json::to_value(value)?)?),
        Format::Table | Format::Wide | Format::Name => None,
    })
}

/// Writes a line to standard error. That nobody can read it is nothing to fail for.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Tells a warning on standard error.
pub(crate) fn warn(text: &str) {
    let (on, off) = if colours(&io::stderr()) { ("\x1b[1;33m", "\x1b[0m") } else { ("", "") };
    note(&format!("{on}warning{off}: {text}"));
}

/// What the libraries log goes to standard error: errors, more with each `-v`, or as `MICROAGENT_LOG` says.
pub(crate) fn log(verbose: u8) {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    let level = LEVELS[usize::from(verbose).min(LEVELS.len() - 1)];
    let filter = EnvFilter::try_from_env("MICROAGENT_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // The crate is built without colours, and asking for them would be an error.
    let _ = format.with_ansi(false).try_init();
}

/// Whether to write colours to `stream`: to terminals, unless `NO_COLOR` (no-color.org) or a dumb terminal forbids.
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    stream.is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
