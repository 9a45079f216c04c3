//! `docs/metrics.md` against the registry.

use std::{collections::BTreeMap, fs, path::Path};

use microagent_controller::{
    metrics::{Metrics, Sample},
    queue::Counts,
};

use crate::openmetrics::{Family, parse};

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

#[test]
fn the_page_lists_every_metric_and_no_other() {
    let nothing = Sample { queue: Counts::default(), jobs: Vec::new() };
    let rows: String = parse(&Metrics::new().render(&nothing)).iter().map(row).collect();
    let table = format!("\n| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")).unwrap();
    let between =
        page.split_once("<!-- metrics:begin -->\n").and_then(|(_, rest)| rest.split_once("<!-- metrics:end -->"));
    let (written, _) = between.expect("docs/metrics.md has its marks");
    assert!(written == table, "docs/metrics.md differs from the metrics; between its marks should be:\n{table}");
}
