//! Blobs and archives that break their formats give a typed error and no disk, wherever they break.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

mod support;

use std::io::Cursor;

use microagent_base::{Digest, Silent};
use microagent_rootfs::{Layer, LayerError, Problem, build};
use support::{Disk, archive, cause, dir, entry, file, gzip, hard, layer, noise, options, refused, refuses, zstd};

/// A header of a type and a size of one's own making, with a right checksum.
fn header(kind: u8, size: &[u8; 12]) -> Vec<u8> {
    let mut bytes = archive(&[entry(kind, "a")]);
    bytes.truncate(512);
    bytes[124..136].copy_from_slice(size);
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes.iter().map(|&b| u32::from(b)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

fn problem_of(bytes: Vec<u8>) -> Problem {
    match cause(refused(vec![layer(bytes.clone(), &bytes)])) {
        LayerError::Entry { problem, .. } | LayerError::Archive { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

#[test]
fn blobs_that_are_too_short_or_too_long_are_refused() {
    let bytes = archive(&[file("a", noise(100_000, 1))]);
    let blob = gzip(&bytes);
    for cut in [0, 1, 10, blob.len() / 2, blob.len() - 1] {
        let short = Layer { blob: Box::new(Cursor::new(blob[..cut].to_vec())), ..layer(blob.clone(), &bytes) };
        assert_eq!(refused(vec![short]).category(), "LayerSizeMismatch", "{cut}");
    }
    let long = [&blob[..], b"more"].concat();
    let long = Layer { blob: Box::new(Cursor::new(long)), ..layer(blob, &bytes) };
    assert_eq!(refused(vec![long]).category(), "LayerSizeMismatch");
}

#[test]
fn damage_on_the_way_is_reported_as_a_wrong_digest() {
    let bytes = archive(&[file("a", noise(100_000, 1))]);
    for mut blob in [gzip(&bytes), zstd(&bytes), bytes.clone()] {
        let digest = Digest::of(&blob);
        let middle = blob.len() / 2;
        blob[middle] ^= 0xff;
        assert_eq!(refused(vec![Layer { digest, ..layer(blob, &bytes) }]).category(), "LayerDigestMismatch");
    }
}

#[test]
fn streams_that_break_off_or_go_on_are_refused() {
    let bytes = archive(&[file("a", noise(100_000, 1))]);
    let blob = gzip(&bytes);
    let cut = blob[..blob.len() / 2].to_vec();
    assert_eq!(refused(vec![layer(cut, &bytes)]).category(), "LayerCorrupt");
    for trailing in [&b"garbage"[..], &[0; 512]] {
        let more = [&blob[..], trailing].concat();
        assert_eq!(refused(vec![layer(more, &bytes)]).category(), "LayerCorrupt");
    }
    let cut = zstd(&bytes);
    assert_eq!(refused(vec![layer(cut[..cut.len() / 2].to_vec(), &bytes)]).category(), "LayerCorrupt");
    let cut = &bytes[..60_000];
    assert_eq!(refused(vec![layer(gzip(cut), cut)]).category(), "LayerCorrupt");
    assert_eq!(refused(vec![layer(b"BZh9....".to_vec(), b"")]).category(), "LayerCompressionUnsupported");
}

#[test]
fn sizes_that_lie_are_noticed() {
    // More than there is, by the header and by a record.
    assert_eq!(problem_of(header(b'0', b"00000002000\0")), Problem::Truncated);
    let mut short = archive(&[file("a", "").pax("size", "1000000")]);
    short.truncate(short.len() - 1024);
    assert_eq!(problem_of(short), Problem::Truncated);
    // Fewer: what follows is no header.
    let mut long = archive(&[file("a", noise(2000, 1)).pax("size", "100")]);
    long.truncate(long.len() - 1024);
    assert_eq!(problem_of(long), Problem::Checksum);
    // The largest octal number, the largest of all, and one below zero.
    assert_eq!(problem_of(header(b'0', b"777777777777")), Problem::Truncated);
    assert_eq!(problem_of(header(b'0', &[0xbf; 12])), Problem::Number("size"));
    assert_eq!(problem_of(header(b'0', &[0xff; 12])), Problem::Number("size"));
    assert_eq!(problem_of(header(b'0', b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")), Problem::FileTooLarge);
    // Those of entries without contents are not believed, nor read past.
    let link = [header(b'2', b"00000002000\0"), archive(&[file("b", "")])].concat();
    assert_eq!(problem_of(link), Problem::SymlinkTarget);
}

#[test]
fn extended_headers_cannot_fill_the_memory() {
    for kind in [b'x', b'g', b'L', b'K'] {
        assert_eq!(problem_of(header(kind, b"00004000001\0")), Problem::ExtendedHeader((1 << 20) + 1), "{kind}");
    }
    let extended = |kind, size: usize| {
        let mut spec = entry(kind, "x");
        spec.data = support::record("comment", &vec![b'c'; size]);
        spec
    };
    // Many of them before one entry, and many for the whole archive.
    let many = vec![extended(b'x', 1_000_000); 3];
    assert!(matches!(problem_of(archive(&many)), Problem::ExtendedHeader(2_000_001..)));
    assert!(matches!(problem_of(archive(&vec![extended(b'g', 5000); 2])), Problem::ExtendedHeader(10_001..)));
    // One that extends nothing.
    assert_eq!(problem_of(archive(&[extended(b'x', 10)])), Problem::Truncated);
}

#[test]
fn maps_of_sparse_files_that_lie_are_refused() {
    let data = |size| noise(size, 1);
    let sparse = |map: &str| file("a", data(512)).pax("GNU.sparse.size", "100000").pax("GNU.sparse.map", map);
    for map in
        ["0,511", "0,513", "99999,512", "4096,256,0,256", "0,512,512", "18446744073709551615,512", "0,512,", "a,b"]
    {
        refuses(vec![sparse(map)], &Problem::Sparse);
    }
    let in_data = |map: &[u8]| {
        let mut stored = map.to_vec();
        stored.resize(1024, 0);
        let spec = file("a", stored).pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0");
        spec.pax("GNU.sparse.realsize", "100000")
    };
    for map in [&b"99999999\n"[..], b"1\n0\n511\n", b"-1\n", b"1\n\n", b"111111111111111111111"] {
        refuses(vec![in_data(map)], &Problem::Sparse);
    }
    // A map that goes on behind the end of the file.
    refuses(vec![in_data(&[&b"600\n"[..], &b"0\n".repeat(510)].concat())], &Problem::Truncated);
}

#[test]
fn a_layer_cut_at_any_byte_is_refused() {
    let bytes = archive(&[dir("d"), file("d/a", noise(300, 1)).xattr("user.a", "b"), hard("h", "d/a")]);
    for blob in [gzip(&bytes), zstd(&bytes)] {
        for cut in 0..blob.len() {
            // The digests are those of what is there: nothing but the stream tells.
            let error = refused(vec![layer(blob[..cut].to_vec(), &bytes)]);
            let expected = ["LayerCorrupt", "LayerDiffIdMismatch"];
            assert!(expected.contains(&error.category()), "{cut}: {error}");
        }
        for trailing in [&b"x"[..], b"garbage", &[0; 100], b"\x1f\x8b"] {
            let blob = [&blob[..], trailing].concat();
            assert_eq!(refused(vec![layer(blob, &bytes)]).category(), "LayerCorrupt", "{trailing:?}");
        }
    }
    // The parser's own test takes every byte.
    for cut in (0..bytes.len()).filter(|cut| cut % 512 < 3 || cut % 512 == 511 || cut % 61 == 0) {
        let cut = &bytes[..cut];
        let (_disk, out) = Disk::new();
        let built = build(vec![layer(cut.to_vec(), cut)], &out, &options(), &Silent);
        // Between entries an archive may end: that it is whole is what the digests say. The last block is not looked at.
        let inside = !cut.len().is_multiple_of(512) && cut.len() < bytes.len() - 512;
        assert!(!inside || built.is_err(), "{}", cut.len());
    }
}

#[test]
fn what_follows_the_end_of_an_archive_is_not_in_the_tree() {
    let bytes = [archive(&[file("a", "")]), archive(&[file("b", "")]), b"garbage".to_vec()].concat();
    let (_, report) = Disk::build(vec![layer(gzip(&bytes), &bytes)]);
    assert_eq!((report.entries, report.inodes), (1, 2));
}

#[test]
fn a_compressed_header_without_end_is_refused() {
    // The name of the file that was compressed, which no NUL ends; then the same for its comment.
    for flag in [8, 16] {
        let mut blob = vec![0x1f, 0x8b, 8, flag, 0, 0, 0, 0, 0, 0];
        blob.resize(4 << 20, b'n');
        assert_eq!(refused(vec![layer(blob, b"")]).category(), "LayerCorrupt");
    }
}
