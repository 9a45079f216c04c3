//! `microagent supervisor`

mod parts;

use std::path::PathBuf;

use microagent_conformance::{Check, Outcome, Parts, Placeholders, Report, Verdict, checks};
use microagent_supervisor_protocol::Supervisor;

use crate::{
    context::Context,
    failure::{FAILED, Failure, Result},
    output::{self, Format, OutputArgs, human, table::Table},
};
use parts::Guests;

/// The executables that drive the backends
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Run an executable through the whole supervisor protocol, and tell which promises it keeps
    #[command(
        after_help = "Ends with 1 when a check failed. Machines are started with the installed default kernel where the supervisor \
                            has guests, and with files that mean nothing where it has none."
    )]
    Conformance(Conformance),
}

#[derive(Debug, clap::Args)]
struct Conformance {
    /// The executable
    #[arg(required_unless_present = "list")]
    path: Option<PathBuf>,
    /// Make only these checks
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    only: Vec<String>,
    /// Show the checks and what each proves, and make none
    #[arg(long)]
    list: bool,
    /// The backend's own options for its machines, as JSON: what stands in a machine's configuration under the backend's name
    #[arg(long, value_name = "JSON")]
    backend_options: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let Verb::Conformance(args) = args.verb;
    let chosen = chosen(&args.only)?;
    let Some(path) = args.path.as_ref().filter(|_| !args.list) else { return list(&chosen, args.output.output) };
    let path = path.canonicalize().map_err(|e| Failure::new(format!("cannot find {}: {e}", path.display())))?;
    let (context, format) = (context.clone(), args.output.output);
    let report = tokio::task::spawn_blocking(move || {
        let supervisor = Supervisor::new(path);
        let parts = make_parts(&context, &supervisor, args.backend_options.as_deref())?;
        let mut told = |outcome: &Outcome| {
            if matches!(format, Format::Table | Format::Wide) {
                // As they come: a whole run takes minutes.
                let _ = output::line(&row(outcome));
            }
        };
        Ok::<_, Failure>(microagent_conformance::run(&supervisor, &*parts, &chosen, &mut told))
    })
    .await??;
    tell(&report, format)?;
    Ok(if report.conforms() { 0 } else { FAILED })
}

/// Real guests where the supervisor says that it speaks to such.
fn make_parts(context: &Context, supervisor: &Supervisor, options: Option<&str>) -> Result<Box<dyn Parts>> {
    let capabilities = supervisor.capabilities(std::time::Duration::from_secs(60));
    match capabilities {
        Ok(capabilities) if capabilities.features.vsock.is_some() => {
            Ok(Box::new(Guests::new(context, &capabilities, options)?))
        }
        // What does not answer fails its checks, for which it needs no machine.
        _ if options.is_none() => Ok(Box::new(Placeholders)),
        _ => Err(Failure::usage("--backend-options are for a supervisor that tells of vsock in its features")),
    }
}

fn chosen(only: &[String]) -> Result<Vec<Check>> {
    let all = checks();
    if let Some(unknown) = only.iter().find(|name| !all.iter().any(|check| check.name == **name)) {
        return Err(Failure::usage(format!("there is no check {unknown:?}"))
            .help("`microagent supervisor conformance --list` shows them all"));
    }
    Ok(all.into_iter().filter(|check| only.is_empty() || only.iter().any(|name| name == check.name)).collect())
}

fn list(chosen: &[Check], format: Format) -> Result<u8> {
    let told: Vec<_> =
        chosen.iter().map(|check| serde_json::json!({"name": check.name, "promise": check.promise})).collect();
    let text = match output::structured(format, &told)? {
        Some(text) => text,
        None if format == Format::Name => chosen.iter().map(|check| format!("{}\n", check.name)).collect(),
        None => {
            let mut table = Table::new(&["CHECK", "PROMISE"]);
            chosen.iter().for_each(|check| table.row([check.name, check.promise]));
            table.render("")
        }
    };
    output::print(&text)?;
    Ok(0)
}

fn row(outcome: &Outcome) -> String {
    let why = outcome.message.as_deref().map(|why| format!("  {}", human::one_line(why))).unwrap_or_default();
    format!("{:<8} {:<36} {:>8}{why}", word(outcome.verdict), outcome.name, human::milliseconds(outcome.milliseconds))
        .trim_end()
        .to_owned()
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "skipped",
    }
}

fn tell(report: &Report, format: Format) -> Result<()> {
    let text = match output::structured(format, report)? {
        Some(text) => text,
        None if format == Format::Name => {
            let failed = report.outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed);
            failed.map(|outcome| format!("{}\n", outcome.name)).collect()
        }
        None => summary(report),
    };
    output::print(&text)
}

fn summary(report: &Report) -> String {
    let mut text = format!(
        "\n{} passed, {} failed, {} skipped\n",
        report.count(Verdict::Passed),
        report.count(Verdict::Failed),
        report.count(Verdict::Skipped)
    );
    let broken = report.outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed);
    let lines: String = broken.map(|outcome| format!("  {}: {}\n", outcome.name, outcome.promise)).collect();
    text.push_str(&if lines.is_empty() {
        format!("{} keeps to the supervisor protocol in all that could be tried here.\n", report.supervisor)
    } else {
        format!("{} breaks these promises:\n{lines}", report.supervisor)
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_is_not_there_is_wrong_usage() {
        assert!(chosen(&["halts".to_owned()]).unwrap().len() == 1 && chosen(&[]).unwrap().len() > 40);
        assert!(chosen(&["dances".to_owned()]).is_err());
    }

    #[test]
    fn the_summary_names_what_was_broken() {
        let outcome = |name, verdict| Outcome {
            name,
            promise: "it is so",
            verdict,
            message: Some("why".to_owned()),
            milliseconds: 1234,
        };
        let report = Report {
            supervisor: "/s".to_owned(),
            capabilities: None,
            outcomes: vec![
                outcome("a", Verdict::Passed),
                outcome("b", Verdict::Failed),
                outcome("c", Verdict::Skipped),
            ],
        };
        insta::assert_snapshot!(summary(&report), @"

        1 passed, 1 failed, 1 skipped
        /s breaks these promises:
          b: it is so
        ");
        assert_eq!(row(&report.outcomes[1]), "FAILED   b                                      1.23 s  why");
    }
}
