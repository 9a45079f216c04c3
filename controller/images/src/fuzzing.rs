//! What fuzzers run: the readers of documents and archives that come from outside. Not a part of the interface. Each
//! function takes any bytes, panics when a reader is wrong, and tells whether the bytes were accepted.

#![expect(clippy::unwrap_used, reason = "a target tells of a mistake by panicking")]

use std::io::{Read, Write};

use microagent_base::Digest;

use crate::{
    Error, Platform,
    archive::Archive,
    image::Manifest,
    import::Layout,
    resolve::{self, Resolved},
};

/// A manifest or an index, and behind the first zero byte a config.
pub fn documents(data: &[u8]) -> bool {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let (document, config) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let platform: Platform = "linux/amd64".parse().unwrap();
    let read = || -> Result<(), Error> {
        match resolve::resolve("fuzz", document, &platform)? {
            Resolved::Entry(entry) => {
                let offered = entry.platform.as_ref();
                assert!(offered.is_none_or(|offered| platform.suitability(offered).is_some()));
                let digest = entry.digest.to_string();
                let text = String::from_utf8_lossy(document);
                // Spelt with escapes it is there too.
                assert!(text.contains(&digest) || text.contains('\\'), "{digest} is nowhere in the index");
            }
            Resolved::Manifest(document) => {
                let manifest = Manifest::of("fuzz", document)?;
                let image = manifest.with_config("fuzz", Digest::of(data), config)?;
                resolve::check_platform("fuzz", &platform, &image.platform)?;
                assert_eq!(image.layers.len(), manifest.layers.len());
                assert_eq!(image.size, image.layers.iter().map(|layer| layer.size).sum::<u64>());
            }
        }
        Ok(())
    };
    told(read())
}

/// An `oci-archive`.
pub fn archive(data: &[u8]) -> bool {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(data).unwrap();
    let Ok(archive) = Archive::open(file.path()) else { return false };
    for name in ["oci-layout", "index.json", "blobs/x"] {
        if let Some(member) = archive.member(name).unwrap() {
            let mut bytes = Vec::new();
            member.reader().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, member.size, "a member passes the end of the file");
        }
    }
    true
}

fn told(result: Result<(), Error>) -> bool {
    if let Err(error) = &result {
        assert!(!error.to_string().is_empty() && !error.category().is_empty());
    }
    result.is_ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// What is in a corpus, then damaged copies of it, by a seeded generator.
    fn run(name: &str, target: fn(&[u8]) -> bool, count: usize, splices: &[&[u8]]) -> usize {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let seeds: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        let accepted = seeds.iter().filter(|seed| target(seed)).count();
        assert!(accepted > 0 && accepted < seeds.len(), "{accepted}");
        let mut state = 1_u64;
        let mut below = |end: usize| {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) % end.max(1) as u64) as usize
        };
        let mut all = accepted;
        for _ in 0..count {
            let mut input = seeds[below(seeds.len())].clone();
            for _ in 0..=below(4) {
                let at = below(input.len());
                match below(4) {
                    0 => input[at] = below(256) as u8,
                    1 => drop(input.drain(at..input.len().min(at + 1 + below(40)))),
                    2 => input.truncate(at + 1),
                    _ => drop(input.splice(at..at, splices[below(splices.len())].iter().copied())),
                }
                if input.is_empty() {
                    input.push(b'{');
                }
            }
            all += usize::from(target(&input));
        }
        all
    }

    #[test]
    fn damaged_documents_are_refused_or_mean_what_they_say() {
        let splices = [&b"\"size\":18446744073709551615,"[..], b"null", b"[]", b"{}", b"-1", b"\\u0000", b",", b"\""];
        let accepted = run("documents", documents, 20_000, &splices);
        assert!(accepted > 100, "{accepted}");
    }

    #[test]
    fn damaged_archives_are_refused_or_read_within_their_ends() {
        let accepted = run("archive", archive, 2000, &[&[0; 512], b"777777777777", &[0x80; 12], b"18 size=99999999\n"]);
        assert!(accepted > 20, "{accepted}");
    }
}
