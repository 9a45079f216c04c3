//! The fuzz targets on stable, for a while: what is in the corpora, then inputs of a seeded generator, the same each
//! time. `controller/rootfs/fuzz` runs them for as long as one likes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::{
    fs, panic,
    path::{Path, PathBuf},
};

use targets::archive::{self, archive, dir, entry, file, hard, noise, symlink};

/// A generator that is good enough and the same everywhere (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 56) as u8).collect()
    }
}

fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The committed inputs. `MICROAGENT_UPDATE=1` writes those that are made here; fuzzers and people add others.
fn corpus(target: &str, made: &[(&str, Vec<u8>)]) -> Vec<Vec<u8>> {
    if std::env::var_os("MICROAGENT_UPDATE").is_some() {
        fs::create_dir_all(directory(target)).unwrap();
        for (name, bytes) in made {
            fs::write(directory(target).join(name), bytes).unwrap();
        }
    }
    let mut files: Vec<_> = fs::read_dir(directory(target)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= made.len());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Archives in all dialects and of all kinds of entries, as they are and in each compression.
fn archives() -> Vec<(&'static str, Vec<u8>)> {
    let acl = [&[2, 0, 0, 0][..], &[1, 0, 6, 0, 255, 255, 255, 255], &[32, 0, 4, 0, 255, 255, 255, 255]].concat();
    let kinds = archive(&[
        dir("./"),
        dir("d/"),
        file("d/f", noise(700, 1)),
        hard("h", "d/f"),
        symlink("s", "d"),
        file("s/through", "x"),
        entry(b'3', "c").device(1, 3),
        entry(b'4', "b").device(259, 70_000),
        entry(b'6', "p"),
        file("d/.wh.gone", ""),
        file("d/.wh..wh..opq", ""),
    ]);
    let records = archive(&[
        file("short", "x").pax("path", "l".repeat(200)).pax("mtime", "-1.5").pax("uid", "4294967294"),
        file("attributes", "x")
            .xattr("user.a", "b")
            .xattr("security.capability", noise(20, 2))
            .xattr("system.posix_acl_access", acl)
            .pax("LIBARCHIVE.xattr.user.c", "Yg"),
        symlink("s", "t".repeat(300)),
    ]);
    let mut with_map = b"2\n4096\n512\n200000\n10\n".to_vec();
    with_map.resize(512, 0);
    with_map.extend(noise(522, 3));
    let sparse = archive(&[
        file("v00", noise(512, 3))
            .pax("GNU.sparse.size", "100000")
            .pax("GNU.sparse.offset", "4096")
            .pax("GNU.sparse.numbytes", "512"),
        file("v01", noise(512, 3)).pax("GNU.sparse.size", "100000").pax("GNU.sparse.map", "4096,512"),
        file("v10", with_map)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "name")
            .pax("GNU.sparse.realsize", "300000"),
        entry(b'S', "old"),
    ]);
    let mut long_name = entry(b'L', "././@LongLink");
    long_name.data = [&[b'n'; 150][..], b"\0"].concat();
    let mut long_link = entry(b'K', "././@LongLink");
    long_link.data = [&[b't'; 150][..], b"\0"].concat();
    let mut global = entry(b'g', "global");
    global.data = archive::record("mtime", b"77");
    let gnu = archive(&[global, long_name, file("cut", "x"), long_link, symlink("s", "cut"), entry(0, "v7/")]);
    let with = |how: u8, bytes: &[u8]| [&[how][..], bytes].concat();
    vec![
        ("kinds", with(0, &kinds)),
        ("records", with(0, &records)),
        ("sparse", with(0, &sparse)),
        ("gnu", with(0, &gnu)),
        ("gzip", with(1, &kinds)),
        ("zstd", with(2, &records)),
        ("blob-gzip", with(3, &archive::gzip(&kinds))),
        ("blob-zstd", with(3, &archive::zstd(&kinds))),
    ]
}

/// Runs a target, and keeps the input that it fails on.
fn run(name: &str, target: fn(&[u8]) -> bool, input: &[u8]) -> bool {
    panic::catch_unwind(|| target(input)).unwrap_or_else(|cause| {
        let path = std::env::temp_dir().join(format!("microagent-fuzz-{name}"));
        fs::write(&path, input).unwrap();
        println!("the input is in {}", path.display());
        panic::resume_unwind(cause)
    })
}

/// How many generated inputs a target gets; `MICROAGENT_FUZZ` multiplies that.
fn count(least: usize) -> usize {
    least * std::env::var("MICROAGENT_FUZZ").map_or(1, |times| times.parse().unwrap())
}

#[test]
fn damaged_archives_are_refused_or_make_sound_disks() {
    let seeds = corpus("tar", &archives());
    let mut random = Random(1);
    for seed in &seeds {
        run("tar", targets::tar, seed);
    }
    let mut built = 0;
    for _ in 0..count(4000) {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(6) {
            damage(&mut random, &mut input, &seeds);
        }
        // With checksums put right, damage gets further in.
        if random.below(4) > 0 {
            for block in input[1..].chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        built += usize::from(run("tar", targets::tar, &input));
    }
    assert!((200..3800).contains(&built) || count(1) > 1, "{built}");
}

/// One change: a byte, a number, a cut, or a block that is moved, doubled or taken from another archive.
fn damage(random: &mut Random, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let blocks = (input.len() - 1) / 512;
    if blocks == 0 {
        return;
    }
    let block = 1 + random.below(blocks) * 512;
    match random.below(8) {
        0..=2 => input[block + random.below(512)] = random.next() as u8,
        // The fields that lengths, types and places follow from.
        3 => input[block + 156] = b"0123456LKxgSZ\0"[random.below(14)],
        4 => {
            let field = [100, 108, 116, 124, 136, 148, 329, 337, 386, 482, 483][random.below(11)];
            let width = 1 + random.below(12);
            let bytes = if random.below(2) == 0 { vec![b'7'; width] } else { random.bytes(width) };
            input[block + field..block + field + width].copy_from_slice(&bytes);
        }
        5 => input.truncate(1 + random.below(input.len())),
        6 => {
            let copy = input[block..block + 512].to_vec();
            let at = 1 + random.below(blocks) * 512;
            input.splice(at..at, copy);
        }
        _ => {
            let other = &seeds[random.below(seeds.len())];
            let from = 1 + random.below((other.len() - 1) / 512) * 512;
            let to = (from + 512 * (1 + random.below(3))).min(other.len());
            input.splice(block..block, other[from..to].iter().copied());
        }
    }
}

#[test]
fn layers_over_layers_are_what_the_model_says() {
    let built = run_generated("stack", targets::stack, 1500, 300);
    // Neither all is refused nor nothing.
    assert!((300..1400).contains(&built) || count(1) > 1, "{built}");
}

#[test]
fn trees_of_any_attributes_come_back() {
    run_generated("tree", targets::tree, 100, 20_000);
}

fn run_generated(name: &str, target: fn(&[u8]) -> bool, least: usize, longest: usize) -> usize {
    let made: Vec<_> = ["1", "2", "3", "4"].iter().zip(9..).map(|(&name, seed)| (name, noise(250, seed))).collect();
    for seed in corpus(name, &made) {
        run(name, target, &seed);
    }
    let mut random = Random(2);
    let mut built = 0;
    for _ in 0..count(least) {
        let length = random.below(longest);
        built += usize::from(run(name, target, &random.bytes(length)));
    }
    built
}
