//! Layers that lie or attack give a typed error and no disk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

mod support;

use std::{
    io::{self, Read},
    sync::atomic::AtomicBool,
};

use microagent_base::{Digest, Silent};
use microagent_rootfs::{Error, Layer, Limits, Options, Problem, build};
use support::{
    Disk, Spec, archive, dir, entry, file, gzip, hard, layer, layers, noise, options, refused, refuses, symlink,
};

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
fn floods_of_attributes_stop_at_their_limits() {
    let mut spec = file("a", "");
    for i in 0..5000 {
        spec = spec.xattr(&format!("user.{i}"), "");
    }
    refuses(vec![spec], &Problem::XattrsTooLarge);
    let limits = Limits { max_metadata_bytes: 1 << 20, ..Limits::default() };
    let entries: Vec<_> = (0..400).map(|i| file(format!("f{i}"), "").xattr("user.a", noise(3000, i))).collect();
    let (_disk, out) = Disk::new();
    let error = build(layers(&[entries]), &out, &Options { limits, ..options() }, &Silent).unwrap_err();
    assert_eq!(error.category(), "ImageTooLarge");
    assert!(error.to_string().starts_with("layer 1 ("), "{error}");
    refuses(vec![file("a", "").xattr("user.", "x")], &Problem::Xattr("user.".into()));
    refuses(
        vec![file("a", "").xattr(&format!("user.{}", "n".repeat(256)), "")],
        &Problem::Xattr(format!("user.{}", "n".repeat(251))),
    );
}

#[test]
fn hard_links_reach_no_further_than_the_root_of_the_image() {
    refuses(vec![symlink("e", "/../../.."), hard("b", "e/etc/passwd")], &Problem::LinkMissing("e/etc/passwd".into()));
    refuses(vec![hard("b", "/")], &Problem::LinkToDirectory("/".into()));
    refuses(
        vec![file("f", "").pax("path", "b").pax("linkpath", "x"), hard("c", "a\0b".replace('\0', "/../"))],
        &Problem::Parent,
    );
    refuses(vec![symlink("s", "x").pax("linkpath", b"a\0b")], &Problem::SymlinkTarget);
    // The error names the entry.
    let error = refused(layers(&[vec![file("there", "")], vec![hard("b", "nothing")]]));
    let text = error.to_string();
    assert!(text.starts_with("layer 2 (") && text.contains("\"b\"") && text.contains("\"nothing\""), "{text}");
    assert_eq!(error.category(), "LayerEntryRefused");
}

#[test]
fn directories_are_as_deep_as_paths_can_be_and_no_deeper() {
    Disk::of(&[vec![dir("a/".repeat(256))]]);
    refuses(vec![dir("a/".repeat(257))], &Problem::TooDeep);
    // As deep by links.
    let half = "a/".repeat(130);
    refuses(vec![dir(&half), symlink("s", &half), dir(format!("s/{half}"))], &Problem::TooDeep);
}

#[test]
fn as_many_names_as_ext4_can_count_and_not_one_more() {
    let names = |count: u32| {
        let mut entries = vec![file("f", "x")];
        entries.extend((1..count).map(|i| hard(format!("l{i}"), "f")));
        entries
    };
    Disk::of(&[names(65_000)]);
    refuses(names(65_001), &Problem::TooManyLinks);
}

#[test]
fn forged_marks_of_overlayfs_are_left_out_in_every_spelling() {
    let disk = Disk::of(&[vec![
        file("a", "").pax("LIBARCHIVE.xattr.trusted%2Eoverlay%2Eopaque", "eQ"),
        file("b", "").xattr("trusted.overlay.redirect", "/etc"),
        file("c", "").xattr("user.overlay.metacopy", ""),
        file("d", "").xattr("trusted.overlayed", "kept"),
    ]]);
    refuses(
        vec![entry(b'3', "wh").device(1, 1).pax("SCHILY.devmajor", "0").pax("SCHILY.devminor", "0")],
        &Problem::WhiteoutDevice,
    );
    let fs = mkext4::reader::Fs::open(std::fs::File::open(&disk.path).unwrap()).unwrap();
    let xattrs = |name: &str| fs.xattrs(fs.resolve(name).unwrap()).unwrap().len();
    assert_eq!(["/a", "/b", "/c", "/d"].map(xattrs), [0, 0, 0, 1]);
}

#[test]
fn odd_names_and_owners_are_taken_as_they_are() {
    let disk = Disk::of(&[vec![
        file("lost+found", "a file").pax("uid", "4294967295").pax("gid", "4294967295"),
        dir("d"),
        file("d/lost+found", "x"),
    ]]);
    let fs = mkext4::reader::Fs::open(std::fs::File::open(&disk.path).unwrap()).unwrap();
    let inode = fs.inode(fs.resolve("/lost+found").unwrap()).unwrap();
    assert_eq!((inode.uid, inode.gid, inode.size), (u32::MAX, u32::MAX, 6));
}

#[test]
fn a_host_disk_that_fills_up_at_any_moment_holds_no_file_system() {
    let entries = || layers(&[vec![file("a", noise(100_000, 1)), dir("d"), file("d/b", noise(5000, 2))]]);
    let (_, report) = Disk::build(entries());
    let needed = report.allocated / 4096;
    let directory = tempfile::tempdir().unwrap();
    // The last step is that of a disk with just enough room.
    for blocks in 1..=needed {
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={}", blocks * 4096), "tmpfs"])
            .arg(directory.path())
            .output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            println!("SKIP a_host_disk_that_fills_up_at_any_moment_holds_no_file_system: needs root");
            return;
        }
        let mount = support::Mount { at: directory.path().to_owned() };
        let path = mount.at.join("disk");
        let out = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        match build(entries(), &out, &options(), &Silent) {
            Ok(_) => assert_eq!(blocks, needed),
            Err(error) => {
                assert!(blocks < needed, "{error}");
                assert_eq!(error.category(), "DiskFull", "{blocks}");
                let mut start = Vec::new();
                std::fs::File::open(&path).unwrap().take(2048).read_to_end(&mut start).unwrap();
                assert!(start.iter().all(|&b| b == 0), "a superblock is left at {blocks}");
            }
        }
    }
}
