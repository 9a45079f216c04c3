//! Writes the files that are made from the types: the CRD, the JSON Schema, and the tables of the documentation.
//!
//! `crdgen` writes them, `crdgen --check` exits with 1 when one differs, `crdgen -` prints the CRD.

use std::{fs, path::Path, process::ExitCode};

use microagent_crds::{generated::FILES, schema};

const USAGE: &str = "usage: crdgen [--check | -]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => write(false),
        ["--check"] => write(true),
        ["-"] => {
            schema::crd_yaml().map(|crd| print!("{crd}")).map_err(|error| format!("cannot write the CRD: {error}"))
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("crdgen: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Writes what differs, or only says that it does.
fn write(is_check: bool) -> Result<(), String> {
    // This program runs from the repository that it was built in.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut stale = Vec::new();
    for file in FILES {
        let path = root.join(file.path);
        let present = fs::read_to_string(&path).unwrap_or_default();
        let wanted = (file.render)(&present).map_err(|error| format!("cannot make {}: {error}", file.path))?;
        if present == wanted {
            continue;
        }
        stale.push(file.path);
        if !is_check {
            fs::write(&path, wanted).map_err(|error| format!("cannot write {}: {error}", file.path))?;
            println!("wrote {}", file.path);
        }
    }
    if is_check && !stale.is_empty() {
        return Err(format!("not up to date: {}; run `cargo run -p microagent-crds --bin crdgen`", stale.join(", ")));
    }
    Ok(())
}
