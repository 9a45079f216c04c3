//! What to do about an error, guessed from its message.

/// Names that users bring from elsewhere, and the field that does the same here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("entrypoint", "write `command`"),
    ("cmd", "write `args`"),
    ("restart", "write `runPolicy`"),
    ("restartPolicy", "write `runPolicy`"),
    ("volumes", "write `disks`, each with its `mountPath`"),
    ("volumeMounts", "write `disks`, each with its `mountPath`"),
    ("mounts", "write `disks`, each with its `mountPath`"),
    ("valueFrom", "values from elsewhere belong in `spec.secrets`"),
    ("ports", "ports belong in `spec.network.ports`"),
    ("egress", "it belongs in `spec.network.egress`"),
    ("livenessProbe", "write `health`"),
    ("readinessProbe", "write `health`"),
    ("terminationGracePeriodSeconds", "it belongs in `spec.lifecycle`"),
    ("restarts", "write `runPolicy`"),
    ("cpu", "write `cpus`"),
    ("limits", "write `cpus`, `memory` and `disk` below `resources` itself"),
    ("requests", "write `cpus`, `memory` and `disk` below `resources` itself"),
    ("generateName", "write `name`: a file's workspace is known by its name"),
    ("containers", "a workspace has one image: write `spec.image`"),
    ("<<", "YAML merge keys are not read; repeat the fields"),
];

/// The hint for a message of serde, when there is one.
pub(crate) fn for_message(message: &str) -> Option<String> {
    if message.starts_with("invalid type") && message.ends_with("expected a sequence") {
        return Some("write a list: `[a, b]`, or each entry on a line of its own behind `- `".to_owned());
    }
    if message.starts_with("invalid type") && message.contains(", expected struct ") {
        return Some("it has fields of its own; `microagent explain` with its path lists them".to_owned());
    }
    if message.starts_with("failed to parse") {
        return Some("write a time as RFC 3339 has it, such as \"2027-01-31T12:00:00Z\"".to_owned());
    }
    let quoted = quoted(message);
    let (found, known) = quoted.split_first()?;
    if message.starts_with("unknown field") {
        let elsewhere = || ELSEWHERE.iter().find(|(name, _)| name == found).map(|(_, hint)| (*hint).to_owned());
        return nearest(found, known)
            .map(did_you_mean)
            .or_else(elsewhere)
            .or_else(|| one_of("the fields here are", known));
    }
    if message.starts_with("unknown variant") {
        return nearest(found, known).map(did_you_mean).or_else(|| one_of("write one of", known));
    }
    let scalar = ["integer", "floating point", "boolean"];
    let is_scalar = scalar.iter().any(|kind| message.starts_with(&format!("invalid type: {kind} `")));
    if is_scalar && message.contains("string") {
        return Some(format!("put it in quotes: \"{found}\""));
    }
    None
}

/// The texts between backticks.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean `{name}`?")
}

fn one_of(start: &str, known: &[&str]) -> Option<String> {
    let names: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| format!("{start} {}", names.join(", ")))
}

/// The known name that is most like the one found, when one is like it at all.
pub(crate) fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    // A hostile name must not cost much: distance takes time in proportion to the product of the lengths.
    if found.len() > 64 {
        return None;
    }
    let lower = found.to_lowercase();
    known
        .iter()
        .map(|name| (distance(&lower, &name.to_lowercase()), *name))
        .filter(|(distance, name)| *distance <= (name.len().min(found.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_is_recognised_and_another_word_is_not() {
        let known = ["image", "imagePullPolicy", "env", "command"];
        assert_eq!(nearest("imgae", &known), Some("image"));
        assert_eq!(nearest("Image", &known), Some("image"));
        assert_eq!(nearest("imagepullpolicy", &known), Some("imagePullPolicy"));
        assert_eq!(nearest("volumes", &known), None);
    }
}
