//! Names in archives, taken apart.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use crate::{MAX_DEPTH, error::Error};

/// The longest name, in bytes: PATH_MAX of Linux.
const MAX_NAME: usize = 4096;
/// The longest part of a name, in bytes: NAME_MAX of Linux.
const MAX_PART: usize = 255;

/// The parts of an entry's name. None of them leads upwards; there is none for the top itself.
pub(crate) fn parts(name: &[u8]) -> Result<Vec<OsString>, Error> {
    let refused = |problem: &str| Error::Refused { name: shown(name), problem: problem.to_owned() };
    if name.is_empty() {
        return Err(refused("it has no name"));
    }
    if name.starts_with(b"/") {
        return Err(refused("its name is absolute, and would leave the place that it is copied to"));
    }
    if name.len() > MAX_NAME || name.contains(&0) {
        return Err(refused("no file can have this name"));
    }
    let mut parts = Vec::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refused("its name has `..`, and could leave the place that it is copied to")),
            part if part.len() > MAX_PART => return Err(refused("no file can have this name")),
            part => parts.push(OsString::from_vec(part.to_vec())),
        }
    }
    // One for the name of what was copied.
    if parts.len() > MAX_DEPTH + 1 {
        return Err(refused(&format!("more than {MAX_DEPTH} directories lie in each other")));
    }
    Ok(parts)
}

/// A name for people: enough of it to find it again.
pub(crate) fn shown(name: &[u8]) -> String {
    let start = &name[..name.len().min(MAX_PART)];
    String::from_utf8_lossy(start).into_owned() + if start.len() < name.len() { "…" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_parts_whatever_slashes_and_dots_it_has() {
        for (name, expected) in
            [("a", "a"), ("./a//b/", "a b"), (".", ""), ("./", ""), ("..a/b..", "..a b.."), ("a/./b", "a b")]
        {
            let parts: Vec<_> = parts(name.as_bytes()).unwrap().into_iter().map(|p| p.into_string().unwrap()).collect();
            assert_eq!(parts.join(" "), expected, "{name}");
        }
        assert_eq!(parts(b"\xff\n").unwrap()[0].as_encoded_bytes(), b"\xff\n");
    }

    #[test]
    fn a_name_that_could_lead_out_or_that_no_file_has_is_refused() {
        let deep = "d/".repeat(MAX_DEPTH + 2);
        let (long, longer) = ("n".repeat(256), "n/".repeat(3000));
        for name in ["", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", "./..", "a\0b", &deep, &long, &longer] {
            assert!(matches!(parts(name.as_bytes()), Err(Error::Refused { .. })), "{name:?}");
        }
    }
}
