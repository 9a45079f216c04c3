//! Paths of archive entries, brought into one form.

use crate::{
    error::Problem,
    limits::{MAX_DEPTH, MAX_NAME, MAX_PATH},
};

/// What the names of whiteouts begin with.
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// What a name in a layer means: OCI image specification, `layer.md`, "Whiteouts".
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// An entry of the tree.
    Plain,
    /// `.wh.NAME`: the lower layers' `NAME` beside it is gone. Holds the victim's path.
    Whiteout(Box<[u8]>),
    /// `.wh..wh..opq`: what lower layers have in this directory is gone. Holds the directory's path.
    Opaque(Box<[u8]>),
    /// Bookkeeping of AUFS, never part of the tree.
    Ignored,
}

/// Removes leading, trailing and doubled slashes and `.` components. The root becomes the empty path.
pub(crate) fn normalise(raw: &[u8]) -> Result<Box<[u8]>, Problem> {
    if raw.is_empty() {
        return Err(Problem::EmptyPath);
    }
    if raw.len() > MAX_PATH {
        return Err(Problem::PathTooLong);
    }
    if raw.contains(&0) {
        return Err(Problem::Nul);
    }
    let mut clean = Vec::with_capacity(raw.len());
    let mut depth = 0;
    for component in raw.split(|&b| b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(Problem::Parent),
            // A whiteout of the longest name is longer by its mark; no file is made of it.
            long if long.strip_prefix(WHITEOUT).unwrap_or(long).len() > MAX_NAME => return Err(Problem::NameTooLong),
            _ => {}
        }
        depth += 1;
        if depth > MAX_DEPTH {
            return Err(Problem::TooDeep);
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(component);
    }
    Ok(clean.into_boxed_slice())
}

/// The directory and the name of a normalised path that is not the root.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Tells whiteouts from the rest.
pub(crate) fn meaning(path: &[u8]) -> Result<Meaning, Problem> {
    let (directory, name) = split(path);
    if directory.split(|&b| b == b'/').any(|c| c.starts_with(b".wh..wh.")) {
        return Ok(Meaning::Ignored);
    }
    if directory.split(|&b| b == b'/').any(|c| c.starts_with(b".wh.")) {
        return Err(Problem::Whiteout);
    }
    let Some(victim) = name.strip_prefix(WHITEOUT) else { return Ok(Meaning::Plain) };
    match victim {
        b"" | b"." | b".." => Err(Problem::Whiteout),
        b".wh..opq" => Ok(Meaning::Opaque(directory.into())),
        aufs if aufs.starts_with(b".wh.") => Ok(Meaning::Ignored),
        _ if directory.is_empty() => Ok(Meaning::Whiteout(victim.into())),
        _ => Ok(Meaning::Whiteout([directory, b"/", victim].concat().into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_loses_its_slashes_and_dots() {
        assert_eq!(&*normalise(b"//./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(&*normalise(b"./").unwrap(), b"");
    }

    #[test]
    fn paths_that_leave_the_root_or_the_limits_are_refused() {
        assert_eq!(normalise(b"a/../b"), Err(Problem::Parent));
        assert_eq!(normalise(b""), Err(Problem::EmptyPath));
        assert_eq!(normalise(b"a\0b"), Err(Problem::Nul));
        assert_eq!(normalise(&[b'a'; 256]), Err(Problem::NameTooLong));
        assert!(normalise(&[WHITEOUT, &[b'a'; 255]].concat()).is_ok());
        assert_eq!(normalise(&[WHITEOUT, &[b'a'; 256]].concat()), Err(Problem::NameTooLong));
        assert_eq!(normalise(&b"a/".repeat(257)), Err(Problem::TooDeep));
        assert_eq!(normalise(&[b'/'; 5000]), Err(Problem::PathTooLong));
    }

    #[test]
    fn whiteouts_name_one_plain_component() {
        assert_eq!(meaning(b"d/.wh.a"), Ok(Meaning::Whiteout(b"d/a".to_vec().into())));
        assert_eq!(meaning(b".wh.a"), Ok(Meaning::Whiteout(b"a".to_vec().into())));
        assert_eq!(meaning(b"d/.wh..wh..opq"), Ok(Meaning::Opaque(b"d".to_vec().into())));
        assert_eq!(meaning(b".wh..wh.plnk/12.34"), Ok(Meaning::Ignored));
        for bad in [&b".wh."[..], b".wh..", b".wh...", b".wh.d/x"] {
            assert_eq!(meaning(bad), Err(Problem::Whiteout));
        }
    }
}
