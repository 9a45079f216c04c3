//! What layers say is what the kernel sees.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

mod support;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use support::{Disk, dir, entry, file, hard, noise, symlink};

fn at(root: &Path, name: impl AsRef<[u8]>) -> std::path::PathBuf {
    root.join(OsStr::from_bytes(name.as_ref()))
}

fn list(root: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn contents_of_all_sizes_come_back() {
    let sizes = [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 3_000_000];
    let entries: Vec<_> = sizes.iter().map(|&size| file(format!("f{size}"), noise(size, size as u64))).collect();
    let disk = Disk::of(&[entries]);
    for size in sizes {
        let Some(content) = disk.debugfs(&format!("cat /f{size}")) else { return };
        assert!(content == noise(size, size as u64), "{size}");
    }
    let Some(mount) = disk.mount("ro,loop") else { return };
    for size in sizes {
        assert!(fs::read(at(&mount.at, format!("f{size}"))).unwrap() == noise(size, size as u64));
    }
}

#[test]
fn attributes_come_back_to_the_last_bit() {
    let disk = Disk::of(&[vec![
        dir("./").mode(0o1771).owner(3, 4),
        file("setuid", "x").mode(0o4755).owner(0, 42),
        file("far", "x").owner(65_536, 70_000),
        file("farther", "x").pax("uid", "4294967294").pax("gid", "4294967294"),
        file("nanos", "x").pax("mtime", "1700000000.123456789"),
        file("early", "x").pax("mtime", "-1000.25"),
        file("late", "x").pax("mtime", "5000000000"),
        file("clamped", "x").pax("mtime", "99999999999"),
        entry(b'3', "null").device(1, 3).mode(0o666),
        entry(b'4', "wide").device(259, 70_000),
        entry(b'6', "pipe").mode(0o600),
    ]]);
    let Some(text) = disk.debugfs("stat /setuid") else { return };
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("Mode:  04755") && text.contains("Group:    42"), "{text}");
    let Some(mount) = disk.mount("ro,loop") else { return };
    let stat = |name: &str| fs::symlink_metadata(at(&mount.at, name)).unwrap();
    let root = stat("");
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o1771, 3, 4));
    assert_eq!((stat("setuid").mode() & 0o7777, stat("setuid").gid()), (0o4755, 42));
    assert_eq!((stat("far").uid(), stat("far").gid()), (65_536, 70_000));
    assert_eq!((stat("farther").uid(), stat("farther").gid()), (4_294_967_294, 4_294_967_294));
    assert_eq!((stat("nanos").mtime(), stat("nanos").mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!((stat("early").mtime(), stat("early").mtime_nsec()), (-1001, 750_000_000));
    assert_eq!(stat("late").mtime(), 5_000_000_000);
    assert_eq!(stat("clamped").mtime(), (1 << 34) - (1 << 31) - 1);
    assert!(stat("null").file_type().is_char_device());
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(stat("wide").file_type().is_block_device());
    assert_eq!(stat("wide").rdev(), rustix::fs::makedev(259, 70_000));
    assert!(stat("pipe").file_type().is_fifo());
}

#[test]
fn extended_attributes_come_back_from_the_inode_and_from_a_block() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let acl = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 42, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4,
        0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];
    let large = noise(3000, 5);
    let disk = Disk::of(&[vec![
        file("cap", "x").xattr("security.capability", capability),
        file("many", "x")
            .xattr("user.large", &large)
            .xattr("trusted.t", "1")
            .xattr("user.empty", "")
            .xattr("user.a", "bc"),
        file("acl", "x").mode(0o640).xattr("system.posix_acl_access", acl),
        dir("d").xattr("user.on-directory", "yes"),
        symlink("s", "cap").xattr("trusted.on-link", "yes"),
        file("overlay", "x").xattr("trusted.overlay.opaque", "y"),
    ]]);
    if let Some(text) = disk.debugfs("ea_get /many user.a") {
        assert!(String::from_utf8_lossy(&text).contains("bc"));
    }
    let Some(mount) = disk.mount("ro,loop") else { return };
    let get = |name: &str, key: &str| {
        let mut value = vec![0; 8192];
        let length = rustix::fs::lgetxattr(at(&mount.at, name), key, &mut value[..])?;
        value.truncate(length);
        Ok::<_, rustix::io::Errno>(value)
    };
    assert_eq!(get("cap", "security.capability").unwrap(), capability);
    assert_eq!(get("many", "user.large").unwrap(), large);
    assert_eq!(get("many", "trusted.t").unwrap(), b"1");
    assert_eq!(get("many", "user.a").unwrap(), b"bc");
    assert_eq!(get("acl", "system.posix_acl_access").unwrap(), acl);
    assert_eq!(get("d", "user.on-directory").unwrap(), b"yes");
    assert_eq!(get("s", "trusted.on-link").unwrap(), b"yes");
    assert_eq!(get("overlay", "trusted.overlay.opaque"), Err(rustix::io::Errno::NODATA));
}

#[test]
fn names_of_any_bytes_come_back() {
    let long = "n".repeat(255);
    let names: Vec<&[u8]> = vec![b"\xff\xfe", b"new\nline", b"back\\slash", b" ", "ü".as_bytes(), long.as_bytes()];
    let deep = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    let mut entries: Vec<_> = names.iter().map(|name| file(name, name)).collect();
    entries.push(file(&deep, "deep"));
    let disk = Disk::of(&[entries]);
    let Some(mount) = disk.mount("ro,loop") else { return };
    for name in names {
        assert_eq!(fs::read(at(&mount.at, name)).unwrap(), name);
    }
    assert_eq!(fs::read(at(&mount.at, &deep)).unwrap(), b"deep");
}

#[test]
fn symbolic_links_come_back_at_every_length() {
    let lengths = [1, 59, 60, 61, 4095];
    let disk = Disk::of(&[lengths.iter().map(|&n| symlink(format!("s{n}"), "t".repeat(n))).collect()]);
    let Some(mount) = disk.mount("ro,loop") else { return };
    for length in lengths {
        let target = fs::read_link(at(&mount.at, format!("s{length}"))).unwrap();
        assert_eq!(target.as_os_str().len(), length);
    }
}

#[test]
fn layers_lie_over_each_other() {
    let disk = Disk::of(&[
        vec![
            dir("usr"),
            dir("usr/lib"),
            symlink("lib", "usr/lib"),
            file("usr/lib/a", "1"),
            file("gone", "1"),
            dir("opaque"),
            file("opaque/old", "1"),
            file("keep", "1"),
            file("shared", "shared"),
        ],
        vec![
            file("lib/b", "2"),
            file(".wh.gone", ""),
            file("opaque/new", "2"),
            file("opaque/.wh..wh..opq", ""),
            hard("link", "shared"),
            dir(".wh..wh.plnk"),
        ],
        vec![file("keep", "3"), hard("link2", "link"), file(".wh.shared", "")],
    ]);
    let Some(mount) = disk.mount("ro,loop") else { return };
    assert_eq!(list(&mount.at), ["keep", "lib", "link", "link2", "opaque", "usr"]);
    assert_eq!(list(&mount.at.join("usr/lib")), ["a", "b"]);
    assert_eq!(list(&mount.at.join("opaque")), ["new"]);
    assert_eq!(fs::read(mount.at.join("keep")).unwrap(), b"3");
    let (one, two) = (fs::metadata(mount.at.join("link")).unwrap(), fs::metadata(mount.at.join("link2")).unwrap());
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    assert_eq!(fs::read(mount.at.join("link")).unwrap(), b"shared");
}

#[test]
fn nothing_is_added_to_the_image() {
    let disk = Disk::of(&[vec![file("only", "x")]]);
    let Some(mount) = disk.mount("ro,loop") else { return };
    assert_eq!(list(&mount.at), ["only"]);
    drop(mount);
    let disk = Disk::of(&[vec![symlink("lost+found", "only")]]);
    let Some(mount) = disk.mount("ro,loop") else { return };
    assert_eq!(list(&mount.at), ["lost+found"]);
}

#[test]
fn an_image_without_layers_or_entries_is_an_empty_root() {
    Disk::of(&[]);
    let disk = Disk::of(&[vec![], vec![]]);
    let Some(mount) = disk.mount("ro,loop") else { return };
    assert!(list(&mount.at).is_empty());
    assert_eq!(fs::metadata(&mount.at).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn directories_of_every_size_are_found_by_name() {
    // One block, just over it, several, and more leaves than the root of a hash tree can point to.
    for (count, width) in [(10, 20), (100, 40), (2000, 20), (9000, 250)] {
        let name = |i: usize| format!("{i:0width$}");
        let entries: Vec<_> = (0..count).map(|i| file(format!("d/{}", name(i)), "")).collect();
        let disk = Disk::of(&[entries]);
        let Some(mount) = disk.mount("ro,loop") else { return };
        let directory = mount.at.join("d");
        assert_eq!(list(&directory), (0..count).map(name).collect::<Vec<_>>());
        for i in (0..count).step_by(7) {
            assert!(fs::symlink_metadata(directory.join(name(i))).is_ok(), "{}", name(i));
        }
        assert!(fs::symlink_metadata(directory.join("absent")).is_err());
    }
}

#[test]
fn more_subdirectories_than_can_be_counted() {
    for count in [64_998, 64_999] {
        let entries: Vec<_> = (0..count).map(|i| dir(format!("d/{i}"))).collect();
        let disk = Disk::of(&[entries]);
        let Some(mount) = disk.mount("ro,loop") else { return };
        let links = fs::metadata(mount.at.join("d")).unwrap().nlink();
        assert_eq!(links, if count + 2 > 65_000 { 1 } else { 65_000 });
    }
}

#[test]
fn sparse_files_of_every_format_come_back() {
    let piece = noise(5000, 9);
    let mut expected = vec![0; 1_000_000];
    expected[100_000..105_000].copy_from_slice(&piece);
    let map = b"1\n100000\n5000\n";
    let mut with_map = map.to_vec();
    with_map.resize(512, 0);
    with_map.extend(&piece);
    let sparse = |name: &str| file(name, &piece).pax("GNU.sparse.size", "1000000");
    let mut old = support::archive(&[entry(b'S', "old")]);
    {
        // The fields of the old GNU header, then its checksum.
        let header = &mut old[..512];
        header[386..398].copy_from_slice(b"00000303240\0");
        header[398..410].copy_from_slice(b"00000011610\0");
        header[124..136].copy_from_slice(b"00000011610\0");
        header[483..495].copy_from_slice(b"00003641100\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    old.truncate(512);
    old.extend(&piece);
    old.resize(old.len().next_multiple_of(512), 0);
    let mut whole = old;
    whole.extend(support::archive(&[
        sparse("v00").pax("GNU.sparse.offset", "100000").pax("GNU.sparse.numbytes", "5000"),
        sparse("v01").pax("GNU.sparse.map", "100000,5000"),
        file("ignored-name", &with_map)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "v10")
            .pax("GNU.sparse.realsize", "1000000"),
        file("zeros", vec![0; 1_000_000]),
        file("empty", "").pax("GNU.sparse.size", "9000000000000").pax("GNU.sparse.map", "0,0"),
    ]));
    let (disk, report) = Disk::build(vec![support::layer(support::gzip(&whole), &whole)]);
    assert!(report.allocated < 400_000, "{report:?}");
    for name in ["old", "v00", "v01", "v10"] {
        let Some(content) = disk.debugfs(&format!("cat /{name}")) else { return };
        assert!(content == expected, "{name}");
    }
    let Some(mount) = disk.mount("ro,loop") else { return };
    assert!(fs::read(mount.at.join("old")).unwrap() == expected);
    assert!(fs::read(mount.at.join("zeros")).unwrap() == vec![0; 1_000_000]);
    assert_eq!(fs::metadata(mount.at.join("empty")).unwrap().len(), 9_000_000_000_000);
}

#[test]
fn files_with_very_many_extents_come_back() {
    // Every second 64 KiB is a hole: 2000 extents, which need two levels.
    let count = 2000_u64;
    let map: Vec<_> = (0..count).map(|i| format!("{},4096", i * 131_072)).collect();
    let piece = noise(4096 * count as usize, 3);
    let size = (count * 131_072).to_string();
    let spec = file("f", &piece).pax("GNU.sparse.size", size).pax("GNU.sparse.map", map.join(","));
    let disk = Disk::of(&[vec![spec]]);
    let Some(mount) = disk.mount("ro,loop") else { return };
    let file = fs::File::open(mount.at.join("f")).unwrap();
    let mut back = vec![0; 4096];
    for i in 0..count {
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, i * 131_072).unwrap();
        assert!(back == piece[i as usize * 4096..][..4096]);
    }
}

#[test]
fn contents_beyond_four_gibibytes_come_back() {
    let piece = noise(10_000, 4);
    let offset = 5_u64 << 30;
    let spec = file("f", &piece)
        .pax("GNU.sparse.size", (offset + 10_000).to_string())
        .pax("GNU.sparse.map", format!("{offset},10000"));
    let disk = Disk::of(&[vec![spec]]);
    let Some(mount) = disk.mount("ro,loop") else { return };
    let file = fs::File::open(mount.at.join("f")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), offset + 10_000);
    let mut back = vec![0; 10_000];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, offset).unwrap();
    assert!(back == piece);
}

#[test]
fn headers_of_every_dialect_are_understood() {
    let mut bytes = Vec::new();
    let global = support::record("mtime", b"77");
    let mut header = entry(b'g', "global");
    header.data = global;
    bytes.extend(&support::archive(&[header, file("g", "")]));
    bytes.truncate(bytes.len() - 1024);
    let long = format!("{}/x", "l".repeat(150));
    let mut gnu_long = entry(b'L', "././@LongLink");
    gnu_long.data = [long.as_bytes(), b"\0"].concat();
    let mut gnu_link = entry(b'K', "././@LongLink");
    gnu_link.data = ["t".repeat(120).as_bytes(), b"\0"].concat();
    bytes.extend(&support::archive(&[
        gnu_long,
        file("cut", "long"),
        gnu_link,
        symlink("s", "cut"),
        entry(0, "v7-directory/"),
        entry(b'7', "contiguous"),
        file("twice", "1"),
        file("twice", "2").pax("mtime", "78"),
    ]));
    let (disk, _) = Disk::build(vec![support::layer(support::gzip(&bytes), &bytes)]);
    let Some(mount) = disk.mount("ro,loop") else { return };
    assert_eq!(fs::read(mount.at.join(&long)).unwrap(), b"long");
    assert_eq!(fs::read_link(mount.at.join("s")).unwrap().as_os_str().len(), 120);
    assert!(fs::metadata(mount.at.join("v7-directory")).unwrap().is_dir());
    assert_eq!(fs::read(mount.at.join("twice")).unwrap(), b"2");
    let times: BTreeMap<_, _> =
        ["g", "contiguous", "twice"].map(|n| (n, fs::metadata(mount.at.join(n)).unwrap().mtime())).into();
    assert_eq!(times, [("g", 77), ("contiguous", 77), ("twice", 78)].into());
}
