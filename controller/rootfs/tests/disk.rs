//! The disk as bytes: the same every time, no larger than it must be, nothing left over in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

mod support;

use microagent_base::Silent;
use microagent_rootfs::{EmptyOptions, MIN_SIZE, Options, build, format};
use support::{Disk, archive, dir, file, gzip, hard, layer, layers, noise, options, zstd};

fn image() -> Vec<Vec<support::Spec>> {
    (0..5_usize)
        .map(|l| {
            let mut entries = vec![dir(format!("d{l}")), file("same", noise(50_000 * l, 3))];
            entries.extend((0..40).map(|i| file(format!("d{l}/{i}"), noise(i * 3000, (l * 100 + i) as u64))));
            entries.push(hard(format!("h{l}"), "same"));
            entries
        })
        .collect()
}

#[test]
fn the_same_layers_give_the_same_bytes_on_any_number_of_threads() {
    let (first, _) = Disk::build(layers(&image()));
    for threads in [1, 2, 8] {
        let (disk, out) = Disk::new();
        build(layers(&image()), &out, &Options { threads, ..options() }, &Silent).unwrap();
        assert_eq!(disk.digest(), first.digest(), "{threads} threads");
    }
}

#[test]
fn any_difference_in_the_options_is_one_on_the_disk() {
    let (first, _) = Disk::build(layers(&image()));
    for options in [
        Options { uuid: [8; 16], ..options() },
        Options { label: "other".into(), ..options() },
        Options { created: 5, ..options() },
    ] {
        let (disk, out) = Disk::new();
        build(layers(&image()), &out, &options, &Silent).unwrap();
        assert_ne!(disk.digest(), first.digest());
        disk.check();
    }
}

#[test]
fn every_compression_gives_the_same_tree() {
    let bytes = archive(&image()[1]);
    let (one, two) = bytes.split_at(bytes.len() / 2);
    // As eStargz has it: a member for each entry, and a footer that is a member of nothing with an extra field.
    let stargz: Vec<u8> = bytes.chunks(7 * 512).map(gzip).collect::<Vec<_>>().concat();
    let footer = [
        &[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0][..],
        b"00000000000000ffSTARGZ",
        &[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    // As zstd:chunked has it: a frame for each file, and manifest and footer in frames to be skipped.
    let skipped = |content: &[u8]| {
        [&[0x50, 0x2a, 0x4d, 0x18][..], &u32::try_from(content.len()).unwrap().to_le_bytes(), content].concat()
    };
    let chunked: Vec<u8> = bytes.chunks(9 * 512).map(zstd).collect::<Vec<_>>().concat();
    let chunked = [
        chunked,
        skipped(&zstd(b"{\"version\":1,\"entries\":[]}")),
        skipped(b"GNUlInUx-padded-to-forty-bytes-as-it-is!"),
    ];
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    for blob in [
        bytes.clone(),
        gzip(&bytes),
        [gzip(one), gzip(two)].concat(),
        zstd(&bytes),
        [zstd(one), zstd(two), skippable.clone()].concat(),
        [skippable, zstd(&bytes)].concat(),
        [stargz, footer].concat(),
        chunked.concat(),
    ] {
        let (disk, report) = Disk::build(vec![layer(blob, &bytes)]);
        assert_eq!(report.entries, 43);
        if let Some(content) = disk.debugfs("cat /d1/39") {
            assert!(content == noise(39 * 3000, 139));
        }
    }
}

#[test]
fn a_layer_that_expands_beyond_its_stripe_is_whole_and_the_same_every_time() {
    // Compresses some thousandfold, yet no chunk of it is zero.
    let content: Vec<u8> = (0..40_000_000_u32).map(|i| 1 + (i / 200_000) as u8).collect();
    let entries = [vec![file("big", &content)], vec![file("small", noise(5000, 1))]];
    let (disk, _) = Disk::build(layers(&entries));
    let (again, _) = Disk::build(layers(&entries));
    assert_eq!(disk.digest(), again.digest());
    if let Some(back) = disk.debugfs("cat /big") {
        assert!(back == content);
    }
}

#[test]
fn what_higher_layers_replaced_is_not_on_the_disk() {
    let secret = b"a secret that was deleted".repeat(1000);
    let (disk, report) = Disk::build(layers(&[
        vec![file("secret", &secret), file("replaced", &secret), file("stays", "y")],
        vec![file(".wh.secret", ""), file("replaced", "new")],
    ]));
    assert!(!disk.bytes().windows(25).any(|w| w == &secret[..25]));
    assert_eq!((report.inodes, report.entries), (3, 5));
}

#[test]
fn a_small_image_is_a_small_disk() {
    let (_, report) = Disk::build(layers(&[vec![file("a", "x")]]));
    assert!(report.size <= 8 << 20, "{report:?}");
    assert!(report.allocated <= 64 << 10, "{report:?}");
    assert_eq!(report.content_bytes, 1);
}

#[test]
fn a_disk_is_never_built_over_something_else() {
    let (disk, out) = Disk::new();
    std::fs::write(&disk.path, "mine").unwrap();
    let error = build(layers(&image()), &out, &options(), &Silent).unwrap_err();
    assert_eq!(error.category(), "DiskNotEmpty");
    assert_eq!(disk.bytes(), b"mine");
}

fn empty(size: u64) -> Disk {
    let (disk, out) = Disk::new();
    let options = EmptyOptions { uuid: [9; 16], label: "upper".into(), created: 1_700_000_000 };
    format(&out, size, &options).unwrap();
    assert_eq!(out.metadata().unwrap().len(), size);
    disk.check();
    disk
}

#[test]
fn empty_disks_of_all_sizes_are_sound() {
    const GROUP: u64 = 128 << 20;
    for size in [
        MIN_SIZE,
        MIN_SIZE + 4095,
        (8 << 20) - 4096,
        8 << 20,
        GROUP - 4096,
        GROUP,
        GROUP + 4096,
        GROUP + (3 << 20),
        2 * GROUP + (100 << 20),
        8 << 30,
        1 << 40,
    ] {
        empty(size);
    }
}

#[test]
fn an_empty_disk_takes_next_to_no_space() {
    let disk = empty(8 << 30);
    let allocated = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&disk.path).unwrap()) * 512;
    assert!(allocated <= 64 << 10, "{allocated}");
}

#[test]
fn the_kernel_writes_to_an_empty_disk_and_leaves_it_sound() {
    for size in [MIN_SIZE, 16 << 20, 8 << 30] {
        let disk = empty(size);
        let Some(mount) = disk.mount("rw,loop") else { return };
        assert_eq!(std::fs::read_dir(&mount.at).unwrap().count(), 1);
        std::fs::create_dir(mount.at.join("upper")).unwrap();
        for i in 0..20 {
            std::fs::write(mount.at.join(format!("upper/{i}")), noise(10_000, i)).unwrap();
        }
        drop(mount);
        disk.check();
        let Some(mount) = disk.mount("rw,loop") else { return };
        assert_eq!(std::fs::read(mount.at.join("upper/7")).unwrap(), noise(10_000, 7));
        drop(mount);
        disk.check();
    }
}

#[test]
fn the_copy_of_the_superblock_is_one_that_repairs() {
    let disk = empty(1 << 30);
    if !support::installed("e2fsck") {
        println!("SKIP the_copy_of_the_superblock_is_one_that_repairs: needs e2fsck");
        return;
    }
    let output = std::process::Command::new("e2fsck").args(["-fn", "-b", "32768"]).arg(&disk.path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Pass 5"), "{text}");
}

#[test]
fn an_empty_disk_is_the_lower_of_nothing_and_the_upper_of_a_baseline() {
    let lower = Disk::of(&[vec![dir("etc"), file("etc/conf", "lower")]]);
    let upper = empty(64 << 20);
    let (Some(low), Some(up)) = (lower.mount("ro,loop"), upper.mount("rw,loop")) else { return };
    for name in ["u", "w", "m"] {
        std::fs::create_dir(up.at.join(name)).unwrap();
    }
    let at = |name: &str| up.at.join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", low.at.display(), at("u"), at("w"));
    let mounted = std::process::Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(up.at.join("m"))
        .output()
        .unwrap();
    if !mounted.status.success() {
        println!("SKIP overlay: needs overlayfs in the kernel");
        return;
    }
    let joined = support::Mount { at: up.at.join("m") };
    assert_eq!(std::fs::read(joined.at.join("etc/conf")).unwrap(), b"lower");
    std::fs::write(joined.at.join("etc/conf"), "upper").unwrap();
    assert_eq!(std::fs::read(up.at.join("u/etc/conf")).unwrap(), b"upper");
    drop(joined);
    drop((low, up));
    lower.check();
    upper.check();
}
