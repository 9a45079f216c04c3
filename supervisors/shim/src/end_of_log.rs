//! `console`: the end of the console log as text.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use microagent_supervisor_protocol::{Console, ConsoleRequest, ErrorBody, ErrorCode, MAX_CONSOLE};

use crate::{
    dir::{CONSOLE_LOG, MachineDir, host},
    log::rotated,
};

/// The end of the machine's console log: of the file that is written now, and before it of the one that was before.
pub(crate) fn console(dir: &MachineDir, request: &ConsoleRequest) -> Result<Console, ErrorBody> {
    let max = request.max_bytes;
    if max == 0 || max > MAX_CONSOLE {
        let message = format!("{max} bytes of the console: between 1 and {MAX_CONSOLE} can be had");
        return Err(ErrorBody::new(ErrorCode::InvalidRequest, message));
    }
    let path = dir.join(CONSOLE_LOG);
    let failed = |e: io::Error| host(&format!("cannot read {}", path.display()), &e);
    let (newest, mut left) = end(&path, u64::from(max)).map_err(failed)?;
    let wanted = u64::from(max) - newest.len() as u64;
    let mut bytes = Vec::new();
    if !left {
        // Nothing more is wanted of it where the newest fills the answer; whether there is something is still told.
        (bytes, left) = end(&rotated(&path), wanted).map_err(failed)?;
    }
    bytes.extend(newest);
    Ok(Console { text: plain(&bytes), truncated: left })
}

/// The last bytes of a file, and whether there are more before them. A file that is absent is empty.
fn end(path: &Path, max: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), false)),
        Err(e) => return Err(e),
    };
    let length = file.metadata()?.len();
    let from = length.saturating_sub(max);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok((bytes, from > 0))
}

/// What a terminal may be shown: a guest's escape sequences are not.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    text.chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use microagent_supervisor_protocol::{PROTOCOL, Target};

    fn ask(dir: &Path, max_bytes: u32) -> Result<Console, ErrorBody> {
        let target = Target { uid: "u".to_owned(), machine_dir: dir.to_owned() };
        let request = ConsoleRequest { protocol: PROTOCOL.to_owned(), target, max_bytes };
        console(&MachineDir::new(dir)?, &request)
    }

    #[test]
    fn the_end_is_told_across_both_files_and_whether_there_is_more() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ask(dir.path(), 10).unwrap(), Console { text: String::new(), truncated: false });
        fs::write(dir.path().join("console.log.1"), "old-").unwrap();
        fs::write(dir.path().join("console.log"), "new").unwrap();
        for (max, text, truncated) in [(7, "old-new", false), (5, "d-new", true), (3, "new", true), (1, "w", true)] {
            assert_eq!(ask(dir.path(), max).unwrap(), Console { text: text.to_owned(), truncated }, "{max}");
        }
        for max in [0, MAX_CONSOLE + 1] {
            assert_eq!(ask(dir.path(), max).unwrap_err().code, ErrorCode::InvalidRequest);
        }
    }

    #[test]
    fn what_steers_a_terminal_is_replaced() {
        assert_eq!(plain(b"a\tb\r\nc\x1b[2J\xffd\x07"), "a\tb\nc\u{FFFD}[2J\u{FFFD}d\u{FFFD}");
    }
}
