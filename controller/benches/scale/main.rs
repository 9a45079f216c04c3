//! Ten thousand workspaces in one folder: `figure NAME VALUE UNIT` on standard output, remarks on standard error.
//!
//! The controller is the real one, in a process of its own, so that its CPU time and memory are its alone. Its supervisor is this
//! program again, which answers at once and starts nothing. `SCALE_SIZES` (`100,1000,10000`) has other sizes for a quick look, and
//! `SCALE_STEADY_SECONDS` another time of watching; only figures of the usual ones are to be compared.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends when something is not as it should be")]

mod farm;
mod pass;
mod process;

use std::{env, process::ExitCode, thread, time::Duration};

use microagent_tests::fake;

use farm::Farm;

/// How long after the last workspace is ready the controller is left alone before it is watched.
const REST: Duration = Duration::from_secs(5);
/// How long it is watched: one whole round, in which every workspace is looked at again and the folder listed 22 times.
const STEADY_SECONDS: u64 = 330;
/// How often the way from an edit to a start is measured. The median of nine survives four disturbed runs.
const EDITS: usize = 9;

fn main() -> ExitCode {
    if env::var_os(fake::INSTANT_VARIABLE).is_some() {
        return fake::main();
    }
    // `cargo test --benches` only wants to know that it starts; it does not say `--bench`.
    if !env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let sizes = env::var("SCALE_SIZES").unwrap_or_else(|_| "100,1000,10000".to_owned());
    let sizes: Vec<usize> = sizes.split(',').map(|size| size.parse().expect("SCALE_SIZES has numbers")).collect();
    let largest = sizes.iter().copied().max().expect("a size");
    for size in sizes {
        let mut farm = Farm::new(size);
        let settled = farm.settle();
        figure(&format!("settle_seconds_{size}"), settled.as_secs_f64(), "s");
        let cpu = farm.cpu();
        eprintln!("{size}: CPU {:.2} s of the controller, {:.2} s of its children", cpu.own, cpu.children);
        if size == largest {
            figure(&format!("settle_cpu_seconds_{size}"), cpu.own, "s");
            watch(&mut farm, size);
            figure("plans_per_second", pass::plans_per_second(&farm), "1/s");
        }
    }
    ExitCode::SUCCESS
}

/// What a settled controller costs, and how fast it is on its feet.
fn watch(farm: &mut Farm, size: usize) {
    figure(&format!("settle_peak_rss_mib_{size}"), farm.peak_rss_mib(), "MiB");
    let seconds = env::var("SCALE_STEADY_SECONDS").map_or(STEADY_SECONDS, |text| text.parse().expect("a number"));
    let watched = Duration::from_secs(seconds);
    thread::sleep(REST);
    let (before, calls) = (farm.cpu(), farm.calls());
    thread::sleep(watched);
    let (after, more) = (farm.cpu(), farm.calls());
    let percent = |seconds: f64| 100.0 * seconds / watched.as_secs_f64();
    eprintln!(
        "{size}: in {watched:?} {} calls of the supervisor, which took {:.2} % of a core",
        more - calls,
        percent(after.children - before.children)
    );
    figure(&format!("steady_cpu_percent_{size}"), percent(after.own - before.own), "%");
    let mut edits: Vec<f64> = (0..EDITS.min(size)).map(|index| farm.edit_to_start_ms(index)).collect();
    eprintln!("{size}: from an edit to the start {edits:.1?} ms");
    edits.sort_by(f64::total_cmp);
    figure(&format!("edit_to_start_ms_{size}"), edits[edits.len() / 2], "ms");
    figure(&format!("peak_rss_mib_{size}"), farm.peak_rss_mib(), "MiB");
}

fn figure(name: &str, value: f64, unit: &str) {
    println!("figure {name} {value:.2} {unit}");
}
