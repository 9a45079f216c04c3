//! The protocol's page shows the catalogue of errors and the samples as they are.

use std::{fs, path::Path};

use microagent_supervisor_protocol::{ErrorCode, Verb};

fn docs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// `MICROAGENT_UPDATE=1 cargo test` writes the page.
#[test]
fn the_page_shows_the_errors_and_the_samples() {
    let path = docs().join("supervisor-protocol.md");
    let page = fs::read_to_string(&path).unwrap();
    let sample = |name: &str| fs::read_to_string(docs().join("samples").join(name)).unwrap();
    let mut fresh = page.clone();
    for (mark, text) in [
        ("errors", errors()),
        ("python", format!("```python\n{}```\n", sample("supervisor.py"))),
        ("shell", format!("```bash\n{}```\n", sample("supervisor.sh"))),
    ] {
        let (begin, end) = (format!("<!-- {mark}:begin -->\n"), format!("<!-- {mark}:end -->"));
        let from = fresh.find(&begin).unwrap() + begin.len();
        let to = fresh.find(&end).unwrap();
        fresh.replace_range(from..to, &text);
    }
    if std::env::var_os("MICROAGENT_UPDATE").is_some() {
        fs::write(&path, &fresh).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == fresh,
        "{} is old: MICROAGENT_UPDATE=1 cargo test writes it",
        path.display()
    );
}

#[test]
fn the_page_tells_of_every_verb_and_whether_it_is_required() {
    let page = fs::read_to_string(docs().join("supervisor-protocol.md")).unwrap();
    for verb in Verb::ALL {
        let required = if Verb::REQUIRED.contains(&verb) { "yes" } else { "no" };
        assert!(page.contains(&format!("| `{}` | {required} |", verb.as_str())), "{verb:?}");
    }
}

fn errors() -> String {
    let rows: String = ErrorCode::ALL
        .iter()
        .map(|code| {
            let again = if code.retryable() { "yes" } else { "no" };
            format!("| `{code}` | {} | {again} | {} |\n", code.cause(), code.remediation())
        })
        .collect();
    format!("| code | cause | retryable | what to do |\n|---|---|---|---|\n{rows}")
}
