//! What guest-init says on the kernel's console, for people and for the host's wait for the listening line.

use std::{fs::File, io::Write, sync::OnceLock};

static CONSOLE: OnceLock<File> = OnceLock::new();

/// Opens the console. Without one guest-init is silent and works all the same.
pub(crate) fn open() {
    if let Ok(file) = File::options().write(true).open("/dev/console") {
        let _ = CONSOLE.set(file);
    }
}

/// One line of our own.
pub(crate) fn say(message: &str) {
    line(&format!("microagent: {message}"));
}

/// One line as it is, in one write so that the kernel's own lines do not cut it.
pub(crate) fn line(text: &str) {
    if let Some(mut console) = CONSOLE.get() {
        let _ = console.write_all(format!("{text}\n").as_bytes());
    }
}
