//! Whether the framework boots a kernel: looked at before, because its own words are "internal error".

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use microagent_supervisor_protocol::{ErrorBody, ErrorCode, Kernel, KernelFormat};

/// The form of kernel that boots on Macs of this architecture.
pub(crate) const FORMAT: KernelFormat =
    if cfg!(target_arch = "x86_64") { KernelFormat::BzImage } else { KernelFormat::Image };

/// Where a kernel of that form says what it is: Documentation/arch/x86/boot.rst, Documentation/arch/arm64/booting.rst.
const MAGIC: (usize, &[u8; 4]) = if cfg!(target_arch = "x86_64") { (0x202, b"HdrS") } else { (0x38, b"ARM\x64") };

/// How much of the file is looked at, in bytes.
const HEAD: u64 = 1024;

/// How a gzip file begins, RFC 1952: distributions compress arm64 kernels so.
const GZIP: &[u8] = b"\x1f\x8b";

/// Checks the kernel.
///
/// # Errors
/// `KernelRefused`, with what it is and what to do; `FileUnavailable` when it cannot be read.
pub(crate) fn check(kernel: &Kernel) -> Result<(), ErrorBody> {
    let path = &kernel.path;
    let refused = |why: String| {
        let message = format!("Virtualization.framework does not boot {}: {why}", path.display());
        Err(ErrorBody::new(ErrorCode::KernelRefused, message))
    };
    let wanted = if FORMAT == KernelFormat::Image { "an uncompressed arm64 `Image`" } else { "a `bzImage`" };
    if kernel.format != FORMAT {
        return refused(format!("on this host it boots {wanted}, not {:?}", kernel.format));
    }
    let head = head(path).map_err(|e| {
        ErrorBody::new(ErrorCode::FileUnavailable, format!("kernel {}: it cannot be read: {e}", path.display()))
    })?;
    let (at, magic) = MAGIC;
    if head.get(at..at + magic.len()) == Some(magic) {
        return Ok(());
    }
    let packed = if head.starts_with(GZIP) { "; it is compressed: unpack it first" } else { "" };
    refused(format!("it is not {wanted} although it is called so{packed}"))
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The head of a kernel that boots here.
    pub(crate) fn bootable() -> Vec<u8> {
        let mut head = vec![0; 1024];
        head[MAGIC.0..MAGIC.0 + 4].copy_from_slice(MAGIC.1);
        head
    }

    #[test]
    fn a_kernel_is_told_by_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        let verdict = |bytes: &[u8], format| {
            std::fs::write(&path, bytes).unwrap();
            check(&Kernel { path: path.clone(), format, args: Vec::new() }).map_err(|e| (e.code, e.message))
        };
        verdict(&bootable(), FORMAT).unwrap();
        for (bytes, format, word) in [
            (&b"\x1f\x8b\x08"[..], FORMAT, "unpack"),
            (&bootable()[..32], FORMAT, "although"),
            (b"", FORMAT, "although"),
            (&bootable(), KernelFormat::Elf, "not Elf"),
        ] {
            let (code, message) = verdict(bytes, format).unwrap_err();
            assert_eq!(code, ErrorCode::KernelRefused);
            assert!(message.contains(word), "{message}");
        }
        let absent = Kernel { path: dir.path().join("none"), format: FORMAT, args: Vec::new() };
        assert_eq!(check(&absent).unwrap_err().code, ErrorCode::FileUnavailable);
    }
}
