//! Command lines, read as strictly as Firecracker reads them.

use std::{collections::BTreeMap, io};

/// The arguments of one program: each is known, is there at most once where it may not be repeated, and has its value.
#[derive(Debug, Default)]
pub(super) struct Args {
    values: BTreeMap<String, Vec<String>>,
    /// What stands behind `--`.
    pub(super) rest: Vec<String>,
}

impl Args {
    /// `with_value` and `flags` are what may be given; `repeated` is those that may be more than once.
    pub(super) fn parse(args: &[String], with_value: &[&str], flags: &[&str], repeated: &[&str]) -> io::Result<Self> {
        let wrong =
            |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("Arguments parsing error: {what}")));
        let mut parsed = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                parsed.rest = args.cloned().collect();
                break;
            }
            let Some(name) = arg.strip_prefix("--") else {
                return wrong(format!("Found argument '{arg}' which wasn't expected, or isn't valid in this context."));
            };
            let value = if with_value.contains(&name) {
                match args.next() {
                    Some(value) if !value.starts_with("--") => value.clone(),
                    _ => return wrong(format!("The argument '{name}' requires a value, but none was supplied.")),
                }
            } else if flags.contains(&name) {
                String::new()
            } else {
                return wrong(format!(
                    "Found argument '{name}' which wasn't expected, or isn't valid in this context."
                ));
            };
            let values = parsed.values.entry(name.to_owned()).or_default();
            if !values.is_empty() && !repeated.contains(&name) {
                return wrong(format!("The argument '{name}' was provided more than once."));
            }
            values.push(value);
        }
        Ok(parsed)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(super) fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.all(name).first().map(String::as_str)
    }

    pub(super) fn needed(&self, name: &str) -> io::Result<&str> {
        self.one(name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("Argument '{name}' required, but not found."))
        })
    }
}

/// What an instance may be called.
pub(super) fn check_id(id: &str) -> io::Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if id.is_empty() || id.len() > 64 || !id.chars().all(good) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("Invalid instance ID: {id}")));
    }
    Ok(())
}
