//! `docs/metrics.md` against the registry.

use std::{collections::BTreeMap, fs, path::Path};

use microagent_controller::{
    metrics::{Metrics, Sample},
    queue::Counts,
};

use crate::openmetrics::{Family, parse};

const BEGIN: &str = "<!-- metrics:begin -->\n";
const END: &str = "<!-- metrics:end -->\n";

/// One line of the table.
fn row(family: &Family) -> String {
    let suffix = match family.kind.as_str() {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    };
    let mut labels: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (label, value) in family.samples.iter().flat_map(|sample| &sample.labels).filter(|(label, _)| *label != "le") {
        let values = labels.entry(label).or_default();
        if !values.contains(&value.as_str()) {
            values.push(value);
        }
    }
    let labels: Vec<String> = labels
        .iter()
        .map(
            |(label, values)| {
                if *label == "version" { format!("`{label}`") } else { format!("`{label}`: {}", values.join(", ")) }
            },
        )
        .collect();
    let help = family.help.trim_end_matches('.');
    format!("| `{}{suffix}` | {} | {} | {help} |\n", family.name, family.kind, labels.join("; "))
}

/// `MICROAGENT_UPDATE=1 cargo test -p microagent-controller --test admin page` writes the table anew.
#[test]
fn the_page_lists_every_metric_and_no_other() {
    let nothing = Sample { queue: Counts::default(), jobs: Vec::new() };
    let rows: String = parse(&Metrics::new().render(&nothing)).iter().map(row).collect();
    let table = format!("\n| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("docs/metrics.md has its marks");
    let (written, after) = rest.split_once(END).expect("docs/metrics.md has its marks");
    if written != table && std::env::var_os("MICROAGENT_UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert!(written == table, "docs/metrics.md differs from the metrics; between its marks should be:\n{table}");
}
