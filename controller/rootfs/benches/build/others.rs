//! Other ways to a root disk, where their programs are installed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use microagent_tests::figures::{figure, millis};

use crate::image::Image;

/// Prints the figures of `umoci unpack` and `mke2fs -d`, and on standard error what else there is.
pub(crate) fn figures(image: &Image, disk: &Path, ours_ms: f64, floor_ms: f64, our_blocks: u64) {
    let bundle = disk.join("bundle");
    let started = Instant::now();
    if !run("umoci", &["unpack", "--image", &layout(image), &text(&bundle)]) {
        return;
    }
    let unpacked = millis(started.elapsed());
    let root = bundle.join("rootfs");
    let file = disk.join("mke2fs.ext4");
    let arguments = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", &text(&root), &text(&file), "8G"];
    let made = Instant::now();
    if !run("mke2fs", &arguments) {
        return;
    }
    let made = millis(made.elapsed());
    eprintln!("umoci unpack {unpacked:.0} ms, mke2fs -d {made:.0} ms, neither durable; ours, durable, {ours_ms:.0} ms");
    figure("umoci_mke2fs_over_rootfs_large", (unpacked + made) / ours_ms, "ratio");
    figure(
        "rootfs_blocks_over_mke2fs_large",
        our_blocks as f64 / fs::metadata(&file).unwrap().blocks() as f64,
        "ratio",
    );
    fs::remove_file(&file).unwrap();

    let flat = disk.join("flat.tar");
    if run("tar", &["--xattrs", "--numeric-owner", "-cf", &text(&flat), "-C", &text(&root), "."]) {
        let timed = |name: &str, program: &str, arguments: &[&str], out: &PathBuf| {
            let started = Instant::now();
            if run(program, arguments) {
                let took = millis(started.elapsed());
                eprintln!(
                    "{name} of a flattened archive, that step alone: {took:.0} ms, {:.2} of the floor",
                    took / floor_ms
                );
            }
            let _ = fs::remove_file(out);
        };
        let arguments = ["-q", "-F", "-t", "ext4", "-d", &text(&flat), &text(&file), "8G"];
        timed("mke2fs -d", "mke2fs", &arguments, &file);
        let erofs = disk.join("flat.erofs");
        timed("mkfs.erofs --tar=f", "mkfs.erofs", &["--quiet", "--tar=f", &text(&erofs), &text(&flat)], &erofs);
        fs::remove_file(&flat).unwrap();
    }
    fs::remove_dir_all(&bundle).unwrap();
}

/// `umoci` wants a tag.
fn layout(image: &Image) -> String {
    let index = fs::read(image.layout.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or("latest");
    format!("{}:{tag}", image.layout.display())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs a program; says why where it does not do its work.
fn run(program: &str, arguments: &[&str]) -> bool {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("{program} {arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Err(e) => {
            eprintln!("{program} cannot be run: {e}");
            false
        }
    }
}
