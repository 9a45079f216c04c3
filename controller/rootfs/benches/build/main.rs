//! The figures of the root disk builder: `figure NAME VALUE UNIT` on standard output, single runs and remarks on standard error.
//!
//! Everything is measured in one run on one machine, by turns; compare the ratios, not the milliseconds, between machines. The images are
//! real ones, made by `scripts/real-images`. What is read is in the page cache.
//!
//! `rootfs_over_floor_*` are measured in memory (`/dev/shm`), where making durable costs nothing; `rootfs_fsync_over_floor_large` is ours,
//! durable on return, over the floor without any flush, both on the disk of the build directory.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends when something is not as it should be")]

mod floor;
mod image;
mod others;
mod pull;
mod workspace;

use std::{
    env,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use microagent_base::Silent;
use microagent_rootfs::{Options, Report, build};
use microagent_tests::figures::{figure, median, millis};

use image::Image;

/// How often each thing is measured. The median of seven survives three disturbed runs.
const RUNS: usize = 7;

/// The argument that makes this program build one disk and tell its own peak of memory.
const BUILD_ONE: &str = "--build-one";

fn main() {
    let args: Vec<String> = env::args().collect();
    // `cargo test --benches` only wants to know that it starts.
    if args.iter().any(|argument| argument == "--test") {
        return;
    }
    if let Some(at) = args.iter().position(|argument| argument == BUILD_ONE) {
        let (layout, out) = (Path::new(&args[at + 1]), Path::new(&args[at + 2]));
        ours(&Image::open(layout), out);
        println!("{}", own_peak_kib());
        return;
    }
    let disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-build");
    fs::create_dir_all(&disk).unwrap();
    let memory = Path::new("/dev/shm").is_dir().then(|| PathBuf::from("/dev/shm"));

    let (small, large) = (Image::real("small", "base"), Image::real("large", "plain"));
    for image in [&small, &large].into_iter().flatten() {
        let place = memory.as_deref().unwrap_or(&disk);
        let (mut floors, mut builds) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            floors.push(timed(&place.join("microagent-bench-floor"), |out| floor::run(image, out)));
            builds.push(timed(&place.join("microagent-bench-disk"), |out| {
                let _ = ours(image, out);
            }));
        }
        ratio(&format!("rootfs_over_floor_{}", image.name), "ours", builds, "floor", floors);
    }
    if let Some(image) = &large {
        on_disk(image, &disk);
    }
    workspace::figures(small.as_ref(), &disk);
    fs::remove_dir_all(&disk).unwrap();
}

/// What is measured of the large image on the disk.
fn on_disk(image: &Image, disk: &Path) {
    let (floor_file, ours_file) = (disk.join("floor"), disk.join("ours.ext4"));
    let (mut floors, mut builds) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        floors.push(timed(&floor_file, |out| floor::run(image, out)));
        builds.push(timed(&ours_file, |out| {
            let _ = ours(image, out);
        }));
    }
    let mut sorted = builds.clone();
    let ours_ms = median(&mut sorted);
    let floor_ms = ratio("rootfs_fsync_over_floor_large", "ours, durable", builds, "floor", floors);

    let peak = Command::new(env::current_exe().unwrap()).arg(BUILD_ONE).arg(&image.layout).arg(&ours_file).output();
    let peak = String::from_utf8(peak.unwrap().stdout).unwrap();
    figure("rootfs_peak_mib_large", peak.trim().parse::<f64>().unwrap() / 1024.0, "MiB");
    let allocated = fs::metadata(&ours_file).unwrap().blocks();
    fs::remove_file(&ours_file).unwrap();

    pull::figure_of(image, disk, floor_ms);
    others::figures(image, disk, ours_ms, floor_ms, allocated);
}

/// Builds the disk of an image into a new file.
fn ours(image: &Image, out: &Path) -> Report {
    let out = File::options().read(true).write(true).create_new(true).open(out).unwrap();
    let options = Options { uuid: [7; 16], ..Options::default() };
    build(image.layers(), &out, &options, &Silent).unwrap()
}

/// Milliseconds of one run that makes a file. The file is removed and the disk comes to rest afterwards, so that no run pays for the one
/// before it.
fn timed(out: &Path, run: impl FnOnce(&Path)) -> f64 {
    let _ = fs::remove_file(out);
    let started = Instant::now();
    run(out);
    let took = millis(started.elapsed());
    fs::remove_file(out).unwrap();
    rustix::fs::sync();
    took
}

/// Prints how many times `floor` the time of `ours` is, by medians. Gives the floor.
fn ratio(name: &str, ours_name: &str, mut ours: Vec<f64>, floor_name: &str, mut floor: Vec<f64>) -> f64 {
    eprintln!("{name}: {ours_name} {ours:.0?} ms, {floor_name} {floor:.0?} ms");
    let floor = median(&mut floor);
    figure(name, median(&mut ours) / floor, "ratio");
    floor
}

/// The most memory that this process ever had, in KiB.
fn own_peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
