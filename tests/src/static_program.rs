//! Programs of one source file for guests that have no C library.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Compiles a source file of this package into `out`, linked statically; `None` where the compiler or its musl target is missing.
#[must_use]
pub fn compile(source: &str, out: PathBuf) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let built = Command::new("rustc")
        .args(["--edition", "2024", "-O", "-C", "panic=abort", "-C", "strip=symbols", "--target", &target, "-o"])
        .args([&out, &source])
        .status();
    built.is_ok_and(|status| status.success()).then_some(out)
}
