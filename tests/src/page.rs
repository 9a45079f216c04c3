//! Pages of the documentation whose console blocks are run.

/// The commands of a page's console blocks, each with its output.
///
/// # Panics
/// When a block begins with output.
#[must_use]
#[expect(clippy::panic, reason = "a harness fails its test by panicking")]
pub fn session(page: &str) -> Vec<(String, String)> {
    let mut session: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => match (line.strip_prefix("$ "), session.last_mut()) {
                (Some(command), _) => session.push((command.to_owned(), String::new())),
                (None, Some((_, output))) => output.push_str(&format!("{line}\n")),
                (None, None) => panic!("output without a command: {line}"),
            },
        }
    }
    session
}

/// What of an output is the same every day and on every host: numbers and digests differ, and with them the width of columns.
#[must_use]
pub fn shape(text: &str) -> String {
    const DIGEST: &str = "sha256:";
    let mut parts = text.split(DIGEST);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        whole.push_str(DIGEST);
        whole.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    let mut shape = String::new();
    for c in whole.chars() {
        let c = if c.is_ascii_digit() { '0' } else { c };
        if !(shape.ends_with(c) && (c == '0' || c == ' ')) {
            shape.push(c);
        }
    }
    shape.replace(" \n", "\n")
}
