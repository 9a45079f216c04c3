//! Whether Firecracker boots a kernel: looked at before it is started, because its own words come late and say little.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use microagent_supervisor_protocol::{ErrorBody, ErrorCode, Kernel, KernelFormat};

/// `EM_X86_64`.
const MACHINE_X86_64: u16 = 62;
/// `PT_LOAD`.
const SEGMENT_LOAD: u32 = 1;
/// The size of a program header of a 64-bit ELF file.
const PROGRAM_HEADER: u16 = 56;
/// The most program headers of a kernel: Linux has five.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Where an x86 boot image says `HdrS`: Documentation/arch/x86/boot.rst.
const BOOT_IMAGE_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// Where an arm64 image says `ARM\x64`: Documentation/arch/arm64/booting.rst.
const ARM64_MAGIC: (usize, &[u8]) = (0x38, b"ARM\x64");

/// The form of kernel that boots here.
pub(crate) const FORMAT: KernelFormat =
    if cfg!(target_arch = "x86_64") { KernelFormat::Elf } else { KernelFormat::Image };

/// Checks the kernel.
///
/// # Errors
/// `KernelRefused`, with what it is and what to do; `FileUnavailable` when it cannot be read.
pub(crate) fn check(kernel: &Kernel) -> Result<(), ErrorBody> {
    let path = &kernel.path;
    let refused = |why: &str| {
        let message = format!("Firecracker does not boot {}: {why}", path.display());
        Err(ErrorBody::new(ErrorCode::KernelRefused, message))
    };
    let head = head(path).map_err(|e| {
        ErrorBody::new(ErrorCode::FileUnavailable, format!("kernel {}: it cannot be read: {e}", path.display()))
    })?;
    if kernel.format != FORMAT {
        return refused(match kernel.format {
            KernelFormat::BzImage => {
                "a bzImage is compressed; give the uncompressed ELF `vmlinux` that is in it, as `microagent kernel install` makes it"
            }
            KernelFormat::Elf => "on this host it boots the arm64 `Image`",
            KernelFormat::Image => "on this host it boots an uncompressed ELF `vmlinux`",
        });
    }
    let verdict = if FORMAT == KernelFormat::Elf { check_elf(&head) } else { check_image(&head) };
    verdict.or_else(refused)
}

/// The beginning of the file: the ELF header and the program headers, or whatever else tells what it is.
fn head(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut head = vec![0; 8192];
    let mut have = 0;
    while have < head.len() {
        match file.read_at(&mut head[have..], have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    head.truncate(have);
    Ok(head)
}

/// What Firecracker's loader looks at. It enters at the PVH entry where a note tells of one, else at the ELF entry as 64-bit code.
fn check_elf(head: &[u8]) -> Result<(), &'static str> {
    if has(head, BOOT_IMAGE_MAGIC) {
        return Err(
            "it is a bzImage although it is called ELF; give the `vmlinux` that is in it, as `microagent kernel install` makes it",
        );
    }
    if !head.starts_with(b"\x7fELF") {
        return Err("it is no ELF file; give an uncompressed `vmlinux`");
    }
    if head.get(4..6) != Some(&[2, 1]) {
        return Err("it is no 64-bit little-endian ELF file");
    }
    if u16_at(head, 18) != Some(MACHINE_X86_64) {
        return Err("it is for another architecture than x86-64");
    }
    let cut = "its ELF header is cut short";
    let table = u64_at(head, 32).and_then(|at| usize::try_from(at).ok()).ok_or(cut)?;
    let (size, count) = (u16_at(head, 54).ok_or(cut)?, u16_at(head, 56).ok_or(cut)?);
    if size != PROGRAM_HEADER || count == 0 || count > MAX_PROGRAM_HEADERS || table < 64 {
        return Err("it has no program headers that can be used, as an object file has none");
    }
    let mut headers = (0..usize::from(count)).map(|n| u32_at(head, table.checked_add(n * usize::from(size))?));
    if !headers.any(|kind| kind == Some(SEGMENT_LOAD)) {
        return Err("it has nothing to load");
    }
    if u64_at(head, 24) == Some(0) {
        return Err("it has no entry");
    }
    Ok(())
}

fn check_image(head: &[u8]) -> Result<(), &'static str> {
    if has(head, ARM64_MAGIC) { Ok(()) } else { Err("it is no arm64 `Image`; decompress it where it is compressed") }
}

fn has(head: &[u8], (at, magic): (usize, &[u8])) -> bool {
    head.get(at..at + magic.len()) == Some(magic)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of a kernel with one segment to load.
    fn vmlinux() -> Vec<u8> {
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(128, 0);
        out[18] = 62;
        out[26] = 1;
        out[32] = 64;
        out[54] = 56;
        out[56] = 1;
        out[64] = 1;
        out
    }

    #[test]
    fn a_vmlinux_boots_and_what_is_none_is_told_apart() {
        assert_eq!(check_elf(&vmlinux()), Ok(()));
        let with = |at: usize, byte: u8| {
            let mut bytes = vmlinux();
            bytes[at] = byte;
            check_elf(&bytes).unwrap_err()
        };
        let mut boot_image = vec![0; 1024];
        boot_image[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(check_elf(&boot_image).unwrap_err().contains("bzImage"));
        assert!(check_elf(b"\x1f\x8b").unwrap_err().contains("no ELF"));
        assert!(with(4, 1).contains("64-bit"));
        assert!(with(18, 183).contains("architecture"));
        assert!(with(56, 0).contains("program headers"));
        assert!(with(64, 4).contains("nothing to load"));
        assert!(with(26, 0).contains("no entry"));
    }

    #[test]
    fn a_file_cut_or_flipped_anywhere_is_looked_at_without_a_panic() {
        let bytes = vmlinux();
        for at in 0..bytes.len() {
            let _ = check_elf(&bytes[..at]);
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            let _ = check_elf(&flipped);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_boot_image_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bzImage");
        std::fs::write(&path, "x").unwrap();
        let error = check(&Kernel { path, format: KernelFormat::BzImage, args: Vec::new() }).unwrap_err();
        assert_eq!(error.code, ErrorCode::KernelRefused);
        assert!(error.message.contains("microagent kernel install"), "{}", error.message);
        let absent = Kernel { path: dir.path().join("none"), format: KernelFormat::Elf, args: Vec::new() };
        assert_eq!(check(&absent).unwrap_err().code, ErrorCode::FileUnavailable);
    }
}
