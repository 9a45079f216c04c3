//! Layers that lie, break off or attack give a typed error and no disk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

mod support;

use std::{
    io::{self, Cursor, Read},
    sync::atomic::AtomicBool,
};

use microagent_base::{Digest, Silent};
use microagent_rootfs::{Error, Layer, LayerError, Limits, Options, Problem, build};
use support::{
    Disk, Spec, archive, dir, entry, file, gzip, hard, layer, layers, noise, options, refused, symlink, zstd,
};

fn cause(error: Error) -> LayerError {
    match error {
        Error::Layer { cause, .. } => cause,
        other => panic!("{other}"),
    }
}

#[track_caller]
fn refuses(entries: Vec<Spec>, expected: &Problem) {
    match cause(refused(layers(&[entries]))) {
        LayerError::Entry { problem, .. } | LayerError::Archive { problem, .. } => assert_eq!(&problem, expected),
        other => panic!("{other}"),
    }
}

#[test]
fn a_wrong_digest_names_the_layer() {
    let bytes = archive(&[file("a", "x")]);
    let mut bad = layer(gzip(&bytes), &bytes);
    bad.digest = Digest::of(b"other");
    let error = refused(vec![layer(gzip(&bytes), &bytes), bad]);
    assert_eq!(error.category(), "LayerDigestMismatch");
    assert!(error.to_string().starts_with(&format!("layer 2 ({})", Digest::of(b"other"))), "{error}");
}

#[test]
fn a_wrong_diff_id_is_noticed() {
    let bytes = archive(&[file("a", "x")]);
    let mut bad = layer(gzip(&bytes), &bytes);
    bad.diff_id = Digest::of(b"other");
    assert_eq!(refused(vec![bad]).category(), "LayerDiffIdMismatch");
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
fn a_reader_that_fails_is_reported_with_its_reason() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the line is down"))
        }
    }
    let bytes = archive(&[]);
    let error = refused(vec![Layer { blob: Box::new(Broken), ..layer(bytes.clone(), &bytes) }]);
    assert_eq!(error.category(), "LayerUnreadable");
    assert!(error.to_string().contains("the line is down"));
}

#[test]
fn bombs_stop_at_the_limits() {
    let limited = |limits: Limits, entries: Vec<Spec>| {
        let (_disk, out) = Disk::new();
        build(layers(&[entries]), &out, &Options { limits, ..options() }, &Silent).unwrap_err().category()
    };
    let small = Limits { max_content_bytes: 1 << 20, ..Limits::default() };
    assert_eq!(limited(small, vec![file("zeros", vec![0; 20 << 20])]), "ImageTooLarge");
    // A byte in each of many blocks: little to read, much to store.
    let map: Vec<_> = (0..1000).map(|i| format!("{},1", i * 65_536 + 65_535)).collect();
    let spec = file("thin", [1; 1000]).pax("GNU.sparse.size", "65536000").pax("GNU.sparse.map", map.join(","));
    assert_eq!(limited(small, vec![spec]), "ImageTooLarge");
    let few = Limits { max_entries: 10, ..Limits::default() };
    assert_eq!(limited(few, (0..11).map(|i| dir(i.to_string())).collect()), "ImageTooLarge");
    let little = Limits { max_metadata_bytes: 100_000, ..Limits::default() };
    assert_eq!(limited(little, (0..500).map(|i| symlink(i.to_string(), "t".repeat(4000))).collect()), "ImageTooLarge");
}

#[test]
fn a_full_host_disk_is_reported_as_that() {
    let directory = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(directory.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("SKIP a_full_host_disk_is_reported_as_that: needs root");
        return;
    }
    let mount = support::Mount { at: directory.path().to_owned() };
    let out = std::fs::File::options().read(true).write(true).create_new(true).open(mount.at.join("disk")).unwrap();
    let error = build(layers(&[vec![file("a", noise(1 << 20, 1))]]), &out, &options(), &Silent).unwrap_err();
    assert_eq!(error.category(), "DiskFull");
    drop((out, mount));
}

#[test]
fn a_build_can_be_cancelled() {
    let (_disk, out) = Disk::new();
    let error = build(layers(&[vec![file("a", "x")]]), &out, &options(), &AtomicBool::new(true)).unwrap_err();
    assert_eq!(error.category(), "Cancelled");
}

#[test]
fn a_layer_that_fails_is_named_though_others_are_stopped_for_it() {
    let mut all = layers(&(0..6).map(|i| vec![file(i.to_string(), noise(3_000_000, i))]).collect::<Vec<_>>());
    all[3].digest = Digest::of(b"other");
    assert!(matches!(refused(all), Error::Layer { layer, .. } if layer.index == 3));
}

#[test]
fn paths_that_lead_out_or_nowhere_are_refused() {
    refuses(vec![file("../x", "")], &Problem::Parent);
    refuses(vec![file("a/../../x", "")], &Problem::Parent);
    refuses(vec![file("", "")], &Problem::EmptyPath);
    refuses(vec![file("a", "").pax("path", b"a\0b")], &Problem::Nul);
    refuses(vec![file("n".repeat(256), "")], &Problem::NameTooLong);
    refuses(vec![file("a/".repeat(3000), "")], &Problem::PathTooLong);
    refuses(vec![dir("a/".repeat(300))], &Problem::TooDeep);
    refuses(vec![hard("b", "../a")], &Problem::Parent);
    refuses(vec![symlink("/", "x")], &Problem::Root);
    refuses(vec![file("./", "x")], &Problem::Type('0'));
}

#[test]
fn an_absolute_path_is_taken_from_the_root_of_the_image() {
    Disk::of(&[vec![file("/etc/x", "")]]);
}

#[test]
fn whiteouts_that_name_no_file_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", ".wh.d/x"] {
        refuses(vec![file(name, "")], &Problem::Whiteout);
    }
}

#[test]
fn devices_and_attributes_out_of_range_are_refused() {
    refuses(vec![entry(b'3', "wh").device(0, 0)], &Problem::WhiteoutDevice);
    refuses(vec![entry(b'4', "b").device(4096, 0)], &Problem::Device);
    refuses(vec![file("a", "").xattr("user.big", noise(4096, 1))], &Problem::XattrsTooLarge);
    refuses(
        vec![file("a", "").xattr("system.posix_acl_access", "x")],
        &Problem::Xattr("system.posix_acl_access".into()),
    );
    refuses(vec![symlink("s", "")], &Problem::SymlinkTarget);
    refuses(vec![file("a", "").pax("uid", "4294967296")], &Problem::Number("uid"));
    refuses(vec![file("a", "").pax("mtime", "tomorrow")], &Problem::Number("mtime"));
    refuses(vec![file("a", "").pax("size", "99999999999999999")], &Problem::FileTooLarge);
}

#[test]
fn random_damage_never_panics() {
    let entries = [
        file("d/a", noise(3000, 1)).xattr("user.x", "y").pax("mtime", "1.5"),
        hard("h", "d/a"),
        symlink("s", "d"),
        file("s/b", "b"),
        file("sp", noise(512, 2)).pax("GNU.sparse.size", "100000").pax("GNU.sparse.map", "4096,512"),
        entry(b'3', "c").device(1, 3),
        file("d/.wh.b", ""),
    ];
    let good = archive(&entries);
    let damage = noise(500 * 24, 11);
    let mut failures = 0;
    for round in damage.chunks_exact(24) {
        let mut bytes = good.clone();
        for change in round.chunks_exact(4) {
            // Headers are where it hurts: most changes go to the first bytes of a block.
            let block = usize::from(change[0]) % (bytes.len() / 512);
            let at = block * 512 + usize::from(u16::from_le_bytes([change[1], change[2]])) % 512;
            bytes[at] = change[3];
        }
        for block in bytes.chunks_exact_mut(512) {
            // With checksums put right, damage gets further in.
            if &block[257..262] == b"ustar" {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let (_disk, out) = Disk::new();
        failures += usize::from(build(vec![layer(bytes.clone(), &bytes)], &out, &options(), &Silent).is_err());
    }
    assert!(failures > 50);
}
