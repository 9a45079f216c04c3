//! What a workspace wrote becomes a layer, and an image with that layer shows what the workspace showed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

mod support;

use std::{
    fs::{self, File, Permissions},
    os::unix::{
        fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink},
        net::UnixListener,
    },
    path::Path,
};

use microagent_rootfs::{Misfit, OverlayError};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use support::{
    Disk, Spec, archive, dir, file, gzip, hard, installed, layer, layers, noise,
    overlay::{LAYER, Overlay, empty, layer_of, name, names, tree},
    symlink as link,
};

fn lower() -> Vec<Vec<Spec>> {
    vec![vec![
        dir("./").mode(0o755),
        dir("etc").mode(0o755),
        file("etc/conf", "lower"),
        file("etc/gone", "lower"),
        dir("old").mode(0o700),
        file("old/a", "a"),
        dir("old/deep"),
        file("old/deep/b", "b"),
        dir("replaced"),
        file("replaced/hidden", "hidden"),
        dir("to-file"),
        file("to-file/x", "x"),
        file("to-dir", "x"),
        file("one", "linked"),
        hard("two", "one"),
        link("link", "etc/conf"),
        file("mode", "m").mode(0o644),
        file("cap", "c").xattr("security.capability", [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        file("attributes", "x").xattr("user.kept", "k").xattr("user.lost", "l"),
        file("big", noise(3_000_000, 1)),
        dir("many"),
    ]]
}

/// A path in the tree with permissions, as a workload would see it.
fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Everything that a workload can do to its tree.
fn work(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::remove_file(at("etc/gone")).unwrap();
    fs::write(at("etc/conf"), "upper").unwrap();
    fs::remove_dir_all(at("old")).unwrap();
    fs::remove_dir_all(at("replaced")).unwrap();
    fs::create_dir(at("replaced")).unwrap();
    fs::write(at("replaced/new"), "new").unwrap();
    fs::remove_dir_all(at("to-file")).unwrap();
    fs::write(at("to-file"), "now a file").unwrap();
    fs::remove_file(at("to-dir")).unwrap();
    fs::create_dir_all(at("to-dir/sub")).unwrap();
    fs::rename(at("link"), at("moved-link")).unwrap();
    fs::rename(at("cap"), at("moved-cap")).unwrap();
    fs::set_permissions(at("mode"), Permissions::from_mode(0o4711)).unwrap();
    chown(at("mode"), Some(70_000), Some(4_000_000_000)).unwrap();
    fs::set_permissions(at("mode"), Permissions::from_mode(0o4711)).unwrap();
    // One name of a lower hard link is written to: overlayfs parts them.
    fs::write(at("two"), "parted").unwrap();
    fs::write(at("upper-one"), "linked above").unwrap();
    fs::hard_link(at("upper-one"), at("upper-two")).unwrap();
    fs::create_dir(at("d")).unwrap();
    fs::hard_link(at("upper-one"), at("d/upper-three")).unwrap();
    xattr(&at("attributes"), "user.added", b"\0=\n\xff");
    xattr(&at("attributes"), "trusted.large", &noise(2500, 2));
    rustix::fs::lremovexattr(at("attributes"), "user.lost").unwrap();
    xattr(&at("d"), "user.on-directory", b"");
    xattr(&at("moved-link"), "trusted.on-link", b"x");
    fs::write(at("new-cap"), "x").unwrap();
    xattr(&at("new-cap"), "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let acl = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 42, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4,
        0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];
    xattr(&at("new-cap"), "system.posix_acl_access", &acl);
    for (node, kind, device) in [
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("wide", FileType::BlockDevice, rustix::fs::makedev(259, 70_000)),
        ("pipe", FileType::Fifo, 0),
    ] {
        rustix::fs::mknodat(CWD, at(node), kind, Mode::from_raw_mode(0o640), device).unwrap();
    }
    symlink("x".repeat(59), at("link-59")).unwrap();
    symlink("x".repeat(60), at("link-60")).unwrap();
    symlink("x/".repeat(2000), at("link-4000")).unwrap();
    fs::write(root.join(name(b"not\xffutf-8\n")), "x").unwrap();
    fs::write(at(&"n".repeat(255)), "x").unwrap();
    fs::create_dir_all(at(&format!("{}end", "deep-directory/".repeat(20)))).unwrap();
    for number in 0..3000 {
        fs::write(at(&format!("many/a-name-that-takes-some-room-{number}")), format!("{number}")).unwrap();
    }
    for number in (0..3000).step_by(3) {
        fs::remove_file(at(&format!("many/a-name-that-takes-some-room-{number}"))).unwrap();
    }
    let sparse = File::create(at("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(&noise(100_000, 3), 7_000_000).unwrap();
    sparse.set_len(20_000_001).unwrap();
    rustix::fs::fallocate(&sparse, rustix::fs::FallocateFlags::empty(), 10_000_000, 1_000_000).unwrap();
    // Each block of its own, so that the extents need a tree.
    let scattered = File::create(at("scattered")).unwrap();
    for block in 0..1500 {
        scattered.write_all_at(&noise(4096, block), block * 8192).unwrap();
    }
    File::options().append(true).open(at("big")).unwrap().write_at(b"tail", 3_000_000).unwrap();
    drop(UnixListener::bind(at("d/socket")).unwrap());
    set_time(&at("etc/conf"), -1000, 250_000_000);
    set_time(&at("moved-link"), 5_000_000_000, 123_456_789);
    set_time(&at("d"), 1_700_000_000, 1);
    set_time(root, 1_600_000_000, 5);
    fs::set_permissions(root, Permissions::from_mode(0o751)).unwrap();
}

/// Builds the lower layers with one more, and compares with what was seen.
fn assert_shows(bytes: &[u8], seen: &std::collections::BTreeMap<std::path::PathBuf, String>) {
    let mut all = layers(&lower());
    all.push(layer(gzip(bytes), bytes));
    let (image, _) = Disk::build(all);
    let Some(mount) = image.mount("ro,loop") else { return };
    let shown = tree(&mount.at);
    for (path, line) in seen {
        assert_eq!(shown.get(path), Some(line), "{}", path.display());
    }
    assert_eq!(
        shown.len(),
        seen.len(),
        "{:?}",
        shown.keys().filter(|path| !seen.contains_key(*path)).collect::<Vec<_>>()
    );
}

#[test]
fn an_image_with_the_new_layer_shows_what_the_workspace_showed() {
    let (lower, upper) = (Disk::of(&lower()), empty(256 << 20));
    let Some(overlay) = Overlay::mount(&lower, &upper) else { return };
    work(&overlay.merged.at);
    let mut seen = tree(&overlay.merged.at);
    assert!(seen.remove(Path::new("d/socket")).is_some(), "a socket has no place in an image");
    drop(overlay);
    upper.check();
    let (bytes, contents) = layer_of(&upper.path).unwrap();
    assert_eq!(layer_of(&upper.path).unwrap().0, bytes, "the same disk gives the same layer");
    assert_eq!(names(&bytes).len() as u64, contents.entries + contents.whiteouts);
    assert_shows(&bytes, &seen);
}

#[test]
fn a_machine_that_was_killed_leaves_a_journal_that_is_replayed() {
    let (lower, upper) = (Disk::of(&lower()), empty(256 << 20));
    let Some(overlay) = Overlay::mount(&lower, &upper) else { return };
    work(&overlay.merged.at);
    // All is in the journal, and not yet where it belongs; blocks that were directories became files.
    rustix::fs::syncfs(File::open(&overlay.upper.at).unwrap()).unwrap();
    for number in 0..40 {
        let path = overlay.merged.at.join(format!("d/passing-{number}"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "x").unwrap();
        rustix::fs::syncfs(File::open(&overlay.upper.at).unwrap()).unwrap();
        fs::remove_dir_all(&path).unwrap();
    }
    fs::write(overlay.merged.at.join("d/filled"), noise(400_000, 9)).unwrap();
    set_time(&overlay.merged.at.join("d"), 1_700_000_000, 2);
    rustix::fs::syncfs(File::open(&overlay.upper.at).unwrap()).unwrap();
    let mut seen = tree(&overlay.merged.at);
    seen.remove(Path::new("d/socket"));
    let copy = upper.directory.path().join("copy.img");
    fs::copy(&upper.path, &copy).unwrap();
    drop(overlay);
    let mut superblock = [0; 1024];
    File::open(&copy).unwrap().read_exact_at(&mut superblock, 1024).unwrap();
    assert_eq!(superblock[0x60] & 4, 4, "the copy does not ask for a replay");
    let before = support::file_digest(&copy);
    let (bytes, _) = layer_of(&copy).unwrap();
    assert_eq!(support::file_digest(&copy), before, "the disk is only read");
    assert_shows(&bytes, &seen);
}

#[test]
fn whiteouts_and_what_is_not_the_workloads_get_their_due() {
    let upper = empty(64 << 20);
    let Some(mount) = upper.mount("rw,loop") else { return };
    let at = |name: &str| mount.at.join("upper").join(name);
    for path in ["dev", "proc", "opaque", "xwhiteouts", "etc"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    fs::write(at("proc/not-empty"), "").unwrap();
    fs::write(at("etc/hosts"), "").unwrap();
    fs::write(at("etc/.conf.microagent-new"), "half").unwrap();
    fs::write(at("etc/.conf"), "").unwrap();
    xattr(&at("opaque"), "trusted.overlay.opaque", b"y");
    xattr(&at("opaque"), "trusted.overlay.origin", b"o");
    xattr(&at("opaque"), "user.own", b"o");
    xattr(&at("xwhiteouts"), "trusted.overlay.opaque", b"x");
    fs::write(at("xwhiteouts/gone"), "").unwrap();
    xattr(&at("xwhiteouts/gone"), "trusted.overlay.whiteout", b"");
    fs::create_dir(at("user-opaque")).unwrap();
    xattr(&at("user-opaque"), "user.overlay.opaque", b"y");
    let long = "n".repeat(255);
    for gone in ["etc/gone", &long] {
        rustix::fs::mknodat(CWD, at(gone), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }
    // Newer kernels make one whiteout and link it.
    fs::hard_link(at("etc/gone"), at("etc/gone-too")).unwrap();
    drop(mount);
    let (bytes, contents) = layer_of(&upper.path).unwrap();
    let expected = [
        ("./", b'5'),
        ("etc/", b'5'),
        ("etc/.conf", b'0'),
        ("etc/.wh.gone", b'0'),
        ("etc/.wh.gone-too", b'0'),
        (&format!(".wh.{long}"), b'0'),
        ("opaque/", b'5'),
        ("opaque/.wh..wh..opq", b'0'),
        ("proc/", b'5'),
        ("proc/not-empty", b'0'),
        ("user-opaque/", b'5'),
        ("xwhiteouts/", b'5'),
        ("xwhiteouts/.wh.gone", b'0'),
    ];
    let found = names(&bytes);
    assert_eq!(found.iter().map(|(name, kind)| (name.as_str(), *kind)).collect::<Vec<_>>(), expected);
    assert_eq!((contents.entries, contents.whiteouts), (8, 5));
    for (text, there) in [("user.own", true), ("trusted.overlay", false), ("user.overlay", false)] {
        assert_eq!(bytes.windows(text.len()).any(|w| w == text.as_bytes()), there, "{text}");
    }
    // The builder of root disks takes all of it.
    Disk::build(vec![
        layer(gzip(&archive(&[file(&long, "x")])), &archive(&[file(&long, "x")])),
        layer(gzip(&bytes), &bytes),
    ]);
}

#[test]
fn what_no_layer_can_say_is_refused_by_its_name() {
    type Make = fn(&Path);
    let cases: [(Make, Misfit); 6] = [
        (|root| fs::write(root.join(".wh.x"), "").unwrap(), Misfit::WhiteoutName),
        (|root| xattr(root, "trusted.overlay.redirect", b"/a"), Misfit::Redirect),
        (|root| xattr(&root.join("f"), "trusted.overlay.metacopy", b""), Misfit::Metacopy),
        (|root| xattr(&root.join("f"), "trusted.overlay.redirect", b"/a"), Misfit::Redirect),
        (|root| xattr(&root.join("f"), "user.a=b", b""), Misfit::Xattr("user.a=b".into())),
        (|root| fs::create_dir_all(root.join("d/".repeat(257))).unwrap(), Misfit::TooLong),
    ];
    for (make, expected) in cases {
        let upper = empty(8 << 20);
        let Some(mount) = upper.mount("rw,loop") else { return };
        let root = mount.at.join("upper");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("f"), "x").unwrap();
        make(&root);
        drop(mount);
        match layer_of(&upper.path).unwrap_err() {
            OverlayError::Entry { misfit, .. } => assert_eq!(misfit, expected),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_disk_that_no_machine_has_written_to_is_told() {
    let error = layer_of(&empty(8 << 20).path).unwrap_err();
    assert!(matches!(error, OverlayError::Empty), "{error}");
}

#[test]
fn a_layer_stays_within_its_limits() {
    let upper = empty(16 << 20);
    let Some(mount) = upper.mount("rw,loop") else { return };
    let root = mount.at.join("upper");
    fs::create_dir(&root).unwrap();
    // Nothing on the disk, and a great deal to read.
    File::create(root.join("hole")).unwrap().set_len(1 << 43).unwrap();
    for number in 0..50 {
        fs::write(root.join(format!("{number}")), "").unwrap();
        fs::hard_link(root.join(format!("{number}")), root.join(format!("{number}-again"))).unwrap();
    }
    drop(mount);
    let disk = File::open(&upper.path).unwrap();
    for (limits, code) in [
        (LAYER.limits, "bytes of files"),
        (microagent_rootfs::Limits { max_entries: 60, ..LAYER.limits }, "entries"),
        (microagent_rootfs::Limits { max_metadata_bytes: 2000, ..LAYER.limits }, "bytes of names"),
    ] {
        let options = microagent_rootfs::LayerOptions { limits, ..LAYER };
        let error = microagent_rootfs::write_layer(&disk, &mut std::io::sink(), &options, &microagent_base::Silent)
            .unwrap_err();
        assert!(error.to_string().contains(code), "{error}");
        assert_eq!(error.category(), "LayerTooLarge");
    }
}

/// A disk that `mke2fs` made with these options, with `upper/` filled by the kernel; the tree that it showed.
fn made(options: &[&str]) -> Option<(Disk, std::collections::BTreeMap<std::path::PathBuf, String>)> {
    if !installed("mke2fs") {
        println!("SKIP disks of mke2fs: needs mke2fs");
        return None;
    }
    let (disk, out) = Disk::new();
    out.set_len(64 << 20).unwrap();
    let made = std::process::Command::new("mke2fs").args(["-q", "-F"]).args(options).arg(&disk.path).status().unwrap();
    assert!(made.success(), "{options:?}");
    let mount = disk.mount("rw,loop")?;
    let root = mount.at.join("upper");
    fs::create_dir(&root).unwrap();
    for number in 0..500 {
        fs::write(root.join(format!("a-name-of-some-length-{number}")), noise(number * 7, number as u64)).unwrap();
    }
    let scattered = File::create(root.join("scattered")).unwrap();
    for block in 0..700 {
        scattered.write_all_at(&noise(1000, block), block * 8192).unwrap();
    }
    symlink("x".repeat(200), root.join("link")).unwrap();
    xattr(&root.join("link"), "trusted.a", &noise(200, 1));
    xattr(&root.join("scattered"), "user.a", &noise(700, 1));
    drop((scattered, mount));
    // Anew, for what the kernel remembers and the disk does not: inodes of 128 bytes have no nanoseconds.
    let mount = disk.mount("ro,loop")?;
    let seen = tree(&mount.at.join("upper"));
    drop(mount);
    Some((disk, seen))
}

#[test]
fn disks_of_other_makers_are_read_alike() {
    for options in [
        &["-t", "ext4", "-b", "4096"][..],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext4", "-b", "2048", "-O", "^64bit,^metadata_csum"],
        &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,uninit_bg", "-I", "128"],
        &["-t", "ext4", "-b", "4096", "-O", "metadata_csum_seed,large_dir,^has_journal", "-I", "1024"],
        &["-t", "ext4", "-b", "4096", "-O", "^filetype,bigalloc"],
    ] {
        let Some((disk, seen)) = made(options) else { return };
        let (bytes, _) = layer_of(&disk.path).unwrap_or_else(|e| panic!("{options:?}: {e}"));
        let (image, _) = Disk::build(vec![layer(gzip(&bytes), &bytes)]);
        let Some(mount) = image.mount("ro,loop") else { return };
        let shown = tree(&mount.at);
        for (path, line) in &seen {
            assert_eq!(shown.get(path), Some(line), "{options:?} {}", path.display());
        }
        assert_eq!(shown.len(), seen.len());
    }
}

#[test]
fn what_is_not_read_is_refused_by_its_name() {
    for (feature, options) in [
        ("inline_data", &["-t", "ext4", "-O", "inline_data"][..]),
        ("meta_bg", &["-t", "ext4", "-O", "meta_bg,^resize_inode"]),
        ("ea_inode", &["-t", "ext4", "-O", "ea_inode"]),
        ("casefold", &["-t", "ext4", "-O", "casefold"]),
        ("encrypt", &["-t", "ext4", "-O", "encrypt"]),
        ("block map", &["-t", "ext3"]),
    ] {
        if !installed("mke2fs") {
            println!("SKIP {feature}: needs mke2fs");
            continue;
        }
        let (disk, out) = Disk::new();
        out.set_len(32 << 20).unwrap();
        let made = std::process::Command::new("mke2fs").args(["-q", "-F"]).args(options).arg(&disk.path).status();
        if !made.unwrap().success() {
            println!("SKIP {feature}: needs a newer mke2fs");
            continue;
        }
        let error = layer_of(&disk.path).unwrap_err();
        assert!(error.category() == "DiskUnsupported" && error.to_string().contains(feature), "{error}");
    }
}

#[test]
fn damage_is_an_error_or_harmless_and_never_a_crash() {
    for options in [&["-t", "ext4", "-b", "1024"][..], &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"]] {
        let Some((disk, _)) = made(options) else { return };
        damage(&disk.path, 200);
    }
    // With a journal to be replayed, whose checksums tell of all damage, and one without any.
    let Some((plain, _)) = made(&["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"]) else { return };
    for disk in [empty(32 << 20), plain] {
        let Some(mount) = disk.mount("rw,loop") else { return };
        let root = mount.at.join("upper");
        fs::create_dir_all(&root).unwrap();
        for number in 0..200 {
            fs::write(root.join(format!("{number}")), noise(number, 1)).unwrap();
        }
        rustix::fs::syncfs(File::open(&root).unwrap()).unwrap();
        let copy = disk.directory.path().join("copy.img");
        fs::copy(&disk.path, &copy).unwrap();
        drop(mount);
        damage(&copy, 200);
    }
}

#[test]
fn a_directory_that_is_in_itself_is_told_and_not_followed_for_ever() {
    if !installed("debugfs") {
        println!("SKIP a_directory_that_is_in_itself: needs debugfs");
        return;
    }
    let Some((disk, _)) = made(&["-t", "ext4", "-b", "4096"]) else { return };
    for command in ["mkdir upper/d", "ln upper/d upper/d/again"] {
        let done = std::process::Command::new("debugfs").args(["-w", "-R", command]).arg(&disk.path).output().unwrap();
        assert!(done.status.success());
    }
    match layer_of(&disk.path).unwrap_err() {
        OverlayError::Entry { path, misfit } => assert_eq!((path.as_str(), misfit), ("/d/again", Misfit::Twice)),
        other => panic!("{other}"),
    }
}

/// Writes noise over structures of a disk, many times; each must end in a layer or in an error that says where.
fn damage(path: &Path, times: u64) {
    let disk = File::options().read(true).write(true).open(path).unwrap();
    let mut all = vec![0; disk.metadata().unwrap().size() as usize];
    disk.read_exact_at(&mut all, 0).unwrap();
    // Where something is, as most of a disk is empty.
    let places: Vec<usize> =
        (0..all.len() / 512).filter(|at| all[at * 512..(at + 1) * 512].iter().any(|&b| b != 0)).collect();
    let mut errors = 0;
    for turn in 0..times {
        let random = noise(64, turn + 1);
        let number = |at: usize| usize::from(u16::from_le_bytes([random[at], random[at + 1]]));
        let mut damaged = Vec::new();
        for at in 0..1 + number(0) % 4 {
            // Early blocks hold the superblock, descriptors and inodes: more often than their share.
            let place = if number(2) % 2 == 0 {
                number(4 + at) % places.len().min(200)
            } else {
                number(4 + at) * 7 % places.len()
            };
            let byte = places[place] * 512 + number(20 + at) % 512;
            let length = (1 + number(30) % 8).min(all.len() - byte);
            disk.write_all_at(&random[40..40 + length], byte as u64).unwrap();
            damaged.push((byte, length));
        }
        if let Err(error) = layer_of(path) {
            assert!(!error.to_string().is_empty());
            errors += 1;
        }
        for (byte, length) in damaged {
            disk.write_all_at(&all[byte..byte + length], byte as u64).unwrap();
        }
    }
    assert!(errors > 0, "no damage was ever noticed");
    layer_of(path).unwrap();
}
