//! The command line of a QEMU that runs.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a harness fails its test by panicking")]

use std::fs;

/// The arguments of the QEMU of the machine with this UID; `None` when none runs.
///
/// # Panics
/// Without `/proc`.
#[must_use]
pub fn arguments_of(uid: &str) -> Option<Vec<String>> {
    let name = format!("microagent-{uid}");
    find(|args| args.windows(2).any(|pair| pair[0] == "-name" && pair[1] == name))
}

/// The arguments of the first process that this is true of.
///
/// # Panics
/// Without `/proc`.
#[must_use]
pub fn find(is_it: impl Fn(&[String]) -> bool) -> Option<Vec<String>> {
    let mut processes = fs::read_dir("/proc").unwrap().flatten();
    processes.find_map(|process| {
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let args: Vec<String> = line
            .split(|b| *b == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .filter(|arg| !arg.is_empty())
            .collect();
        is_it(&args).then_some(args)
    })
}

/// The value of an option.
///
/// # Panics
/// When the option is not there.
pub fn value<'a>(args: &'a mut [String], option: &str) -> &'a mut String {
    let at = args.iter().position(|arg| arg == option).expect("our QEMU has the option");
    &mut args[at + 1]
}
