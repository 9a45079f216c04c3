//! A strict reader of the OpenMetrics text format 1.0: it panics on everything that a scraper might not take.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Debug)]
pub(crate) struct Sample {
    /// With its suffix.
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

pub(crate) fn parse(text: &str) -> Vec<Family> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let mut families: Vec<Family> = Vec::new();
    let mut seen = BTreeSet::new();
    for line in body.lines() {
        assert!(!line.is_empty() && line.trim() == line, "{line:?}");
        let Some(comment) = line.strip_prefix("# ") else {
            let family = families.last_mut().expect("a sample stands in a family");
            let sample = sample(line);
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            family.samples.push(sample);
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
        if what == "HELP" {
            assert!(is_name(name) && !rest.is_empty(), "{line}");
            assert!(families.iter().all(|family| family.name != name), "{name} is declared twice");
            let (name, help) = (name.to_owned(), rest.to_owned());
            families.push(Family { name, kind: String::new(), help, samples: Vec::new() });
            continue;
        }
        let family = families.last_mut().expect("HELP comes first");
        assert!(family.name == name && family.samples.is_empty(), "{line} stands in {}", family.name);
        match what {
            "TYPE" => {
                assert!(family.kind.is_empty() && ["counter", "gauge", "histogram", "info"].contains(&rest), "{line}");
                family.kind = rest.to_owned();
            }
            "UNIT" => assert!(!family.kind.is_empty() && name.ends_with(&format!("_{rest}")), "{line}"),
            _ => panic!("no such comment: {line}"),
        }
    }
    families.iter().for_each(check);
    families
}

/// The value of a sample that must be there.
pub(crate) fn value(families: &[Family], name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut samples = families.iter().flat_map(|family| &family.samples);
    let found = samples.find(|sample| sample.name == name && sample.labels == labels);
    found.unwrap_or_else(|| panic!("no {name} {labels:?}")).value
}

fn sample(line: &str) -> Sample {
    let (name, rest) = line.split_at(line.find(['{', ' ']).expect(line));
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(inner) = rest.strip_prefix('{') {
        let (inner, after) = inner.split_once('}').expect(line);
        rest = after;
        for label in inner.split(',') {
            let (key, quoted) = label.split_once('=').expect(line);
            let value = quoted.strip_prefix('"').and_then(|value| value.strip_suffix('"')).expect(line);
            assert!(is_name(key) && !value.contains(['"', '\\']), "{line}");
            assert!(labels.insert(key.to_owned(), value.to_owned()).is_none(), "{line}");
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect(line) };
    Sample { name: name.to_owned(), labels, value }
}

fn check(family: &Family) {
    let Family { name, kind, samples, .. } = family;
    assert!(!samples.is_empty(), "{name} has no sample");
    let suffixes: &[&str] = match kind.as_str() {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_sum", "_count", "_bucket"],
        _ => panic!("{name} has no type"),
    };
    for sample in samples {
        let suffix = sample.name.strip_prefix(name.as_str()).unwrap_or_else(|| panic!("{} in {name}", sample.name));
        assert!(suffixes.contains(&suffix), "{} in the {kind} {name}", sample.name);
        assert!(sample.value.is_finite() && (kind == "gauge" || sample.value >= 0.0), "{sample:?}");
        assert_eq!(suffix == "_bucket", sample.labels.contains_key("le"), "{sample:?}");
    }
    if kind == "histogram" {
        check_histogram(family);
    }
}

fn check_histogram(family: &Family) {
    let mut groups: BTreeMap<BTreeMap<String, String>, Vec<&Sample>> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        labels.remove("le");
        groups.entry(labels).or_default().push(sample);
    }
    for (labels, samples) in groups {
        let one = |suffix: &str| {
            let found: Vec<_> =
                samples.iter().filter(|sample| sample.name == format!("{}{suffix}", family.name)).collect();
            assert_eq!(found.len(), 1, "{}{suffix} {labels:?}", family.name);
            found[0].value
        };
        let bound = |sample: &Sample| match sample.labels["le"].as_str() {
            "+Inf" => f64::INFINITY,
            text => text.parse().unwrap(),
        };
        let buckets: Vec<(f64, f64)> =
            samples.iter().filter(|s| s.labels.contains_key("le")).map(|s| (bound(s), s.value)).collect();
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{buckets:?}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, one("_count"))), "{} {labels:?}", family.name);
        assert!(one("_sum") > 0.0 || one("_count") == 0.0 || buckets[0].1 > 0.0, "{} {labels:?}", family.name);
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn what_a_scraper_might_not_take_is_refused() {
    let good = "# HELP a_x Help.\n# TYPE a_x counter\na_x_total{k=\"v\"} 1\n# EOF\n";
    assert_eq!(value(&parse(good), "a_x_total", &[("k", "v")]), 1.0);
    for (from, to) in [
        ("# EOF\n", ""),
        ("# EOF\n", "# EOF\nx 1\n"),
        ("# HELP a_x Help.\n", ""),
        ("# TYPE a_x counter\n", ""),
        ("counter", "thing"),
        ("_total", ""),
        ("a_x_total{", "b_total{"),
        ("\"v\"", "v"),
        (" 1\n", " one\n"),
        (" 1\n", " -1\n"),
        ("a_x_total{k=\"v\"} 1\n", ""),
        ("a_x_total{k=\"v\"} 1\n", "a_x_total{k=\"v\"} 1\na_x_total{k=\"v\"} 1\n"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert!(std::panic::catch_unwind(|| parse(&bad)).is_err(), "taken: {bad}");
    }
}
