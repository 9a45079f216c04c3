//! Looking for a secret where none may be.

#![expect(clippy::unwrap_used, reason = "a harness fails its test by panicking")]

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// The regular files below a directory that have this value, as it stands or in base64, and how many were read. Links are not
/// followed; what is removed meanwhile has nothing.
///
/// # Panics
/// When a file cannot be read.
#[must_use]
pub fn files_with(dir: &Path, value: &str) -> (Vec<PathBuf>, usize) {
    let encoded = STANDARD.encode(value);
    let (mut found, mut read, mut left) = (Vec::new(), 0, vec![dir.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                let Ok(file) = File::open(entry.path()) else { continue };
                read += 1;
                if has(file, &[value.as_bytes(), encoded.as_bytes()]) {
                    found.push(entry.path());
                }
            }
        }
    }
    (found, read)
}

fn has(mut file: File, values: &[&[u8]]) -> bool {
    // What is found at the seam of two chunks is whole in the second.
    let overlap = values.iter().map(|value| value.len()).max().unwrap_or(0);
    let mut bytes = Vec::new();
    loop {
        bytes.drain(..bytes.len().saturating_sub(overlap));
        let more = (&mut file).take(CHUNK as u64).read_to_end(&mut bytes).unwrap();
        if values.iter().any(|value| contains(&bytes, value)) {
            return true;
        }
        if more == 0 {
            return false;
        }
    }
}

fn contains(bytes: &[u8], value: &[u8]) -> bool {
    bytes.windows(value.len()).any(|window| window == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_wherever_it_lies_and_in_either_form() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let value = "hunter2-hunter2";
        let mut seam = vec![b'.'; CHUNK - 5];
        seam.extend_from_slice(value.as_bytes());
        for (name, content) in [
            ("plain", value.as_bytes().to_vec()),
            ("sub/seam", seam),
            ("sub/encoded", STANDARD.encode(value).into_bytes()),
            ("other", b"hunter2-hunter".to_vec()),
        ] {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let (mut found, read) = files_with(dir.path(), value);
        found.sort();
        let expected = ["plain", "sub/encoded", "sub/seam"].map(|name| dir.path().join(name));
        assert_eq!((found, read), (expected.to_vec(), 4));
    }
}
