//! Kernel images: what kind a file is, which release, and the ELF kernel inside a `bzImage`.

use std::{io::Read, ops::Range, path::Path};

use crate::{
    arch::Arch,
    compression::{Compression, Limited},
    elf::{Elf, u16_at, u32_at},
    error::{Error, Result, io_error},
};

/// Distribution kernels are 7 to 40 MiB packed; a debug `vmlinux` can reach some hundreds.
pub(crate) const MAX_IMAGE: u64 = 1 << 30;
/// A cloud kernel unpacks to some 50 MiB, a generic one to some 80 MiB.
const MAX_UNPACKED: u64 = 512 << 20;

/// What a kernel file is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// x86 `bzImage`, with the range of its compressed payload.
    BzImage(Range<usize>),
    /// An ELF kernel.
    Elf,
    /// An uncompressed arm64 `Image`.
    Arm64Image,
}

/// Reads a file that is at most `limit` bytes long.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut file = std::fs::File::open(path).map_err(io_error("open", path))?;
    let mut bytes = Vec::new();
    Limited::new(&mut file, limit).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(bytes)
}

/// What a kernel file is, held against the architecture that it must have. `path` is for messages.
pub(crate) fn identify(bytes: &[u8], path: &Path, wanted: Arch) -> Result<Format> {
    let wrong = |found: String| Error::WrongArchitecture { path: path.to_owned(), found, wanted };
    let (format, arch) = if Elf::is_elf(bytes) {
        let elf = Elf::parse(bytes).map_err(|why| Error::unsupported(path, why))?;
        (Format::Elf, elf.arch().ok_or_else(|| wrong(format!("ELF machine {}", elf.machine())))?)
    } else if bytes.get(0x202..0x206) == Some(b"HdrS") {
        (Format::BzImage(bzimage_payload(bytes, path, wanted)?), Arch::X86_64)
    } else if bytes.get(56..60) == Some(b"ARM\x64") {
        (Format::Arm64Image, Arch::Aarch64)
    } else if bytes.get(4..8) == Some(b"zimg") {
        return Err(Error::unsupported(path, "it is an EFI zboot image; give the plain `Image` inside it"));
    } else {
        return Err(Error::unsupported(path, "it is neither a bzImage, an ELF vmlinux nor an arm64 Image"));
    };
    if arch == wanted { Ok(format) } else { Err(wrong(arch.to_string())) }
}

/// The compressed kernel in a `bzImage`: `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header".
fn bzimage_payload(bytes: &[u8], path: &Path, wanted: Arch) -> Result<Range<usize>> {
    let cut = || Error::unsupported(path, "its setup header is cut short");
    let protocol = u16_at(bytes, 0x206).ok_or_else(cut)?;
    if protocol < 0x0208 {
        let text =
            format!("its boot protocol {}.{:02} is older than 2.08 (Linux 2.6.26)", protocol >> 8, protocol & 0xff);
        return Err(Error::unsupported(path, text));
    }
    // XLF_KERNEL_64, since protocol 2.12: without it the kernel is a 32-bit one.
    if protocol >= 0x020c && u16_at(bytes, 0x236).ok_or_else(cut)? & 1 == 0 {
        return Err(Error::WrongArchitecture { path: path.to_owned(), found: "32-bit x86".to_owned(), wanted });
    }
    // For old loaders' sake zero means four.
    let setup_sectors = match *bytes.get(0x1f1).ok_or_else(cut)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let offset = u32_at(bytes, 0x248).ok_or_else(cut)? as usize;
    let length = u32_at(bytes, 0x24c).ok_or_else(cut)? as usize;
    let start = (setup_sectors + 1) * 512 + offset;
    let range = start..start.saturating_add(length);
    if length == 0 || bytes.get(range.clone()).is_none() {
        return Err(Error::unsupported(path, "the compressed kernel that its header names is not all there"));
    }
    Ok(range)
}

/// The ELF kernel inside a `bzImage`.
pub(crate) fn unpack(bytes: &[u8], payload: Range<usize>, path: &Path) -> Result<Vec<u8>> {
    let payload = bytes.get(payload).unwrap_or_default();
    let unpacked = if Elf::is_elf(payload) {
        payload.to_vec()
    } else {
        let compression = Compression::detect(payload)
            .ok_or_else(|| Error::unsupported(path, "its kernel is compressed in a way that is not known"))?;
        let failed = |why: std::io::Error| {
            Error::unsupported(path, format!("its kernel cannot be decompressed ({compression:?}): {why}"))
        };
        let mut out = Vec::new();
        let reader = compression.reader(payload).map_err(failed)?;
        Limited::new(reader, MAX_UNPACKED).read_to_end(&mut out).map_err(failed)?;
        out
    };
    match Elf::parse(&unpacked) {
        Ok(elf) if elf.arch() == Some(Arch::X86_64) => Ok(unpacked),
        Ok(elf) => Err(Error::unsupported(path, format!("the kernel inside is for ELF machine {}", elf.machine()))),
        Err(why) => Err(Error::unsupported(path, format!("what is inside is no kernel: {why}"))),
    }
}

/// The release (`uname -r`) in the setup header of a `bzImage`.
pub(crate) fn bzimage_release(bytes: &[u8]) -> Option<String> {
    let at = usize::from(u16_at(bytes, 0x20e)?);
    if at == 0 {
        return None;
    }
    release_at(bytes.get(at + 0x200..)?)
}

/// The release in the banner of an unpacked kernel: `init/version.c`.
pub(crate) fn banner_release(bytes: &[u8]) -> Option<String> {
    let banner = b"Linux version ";
    let mut rest = bytes;
    loop {
        let at = rest.windows(banner.len()).position(|window| window == banner)?;
        rest = &rest[at + banner.len()..];
        if let Some(release) = release_at(rest) {
            return Some(release);
        }
    }
}

/// `__NEW_UTS_LEN`: a release has at most 64 characters.
fn release_at(bytes: &[u8]) -> Option<String> {
    let field = &bytes[..bytes.len().min(65)];
    let end = field.iter().position(|b| matches!(b, b' ' | 0 | b'\n'))?;
    let release = std::str::from_utf8(&field[..end]).ok()?;
    is_release(release).then(|| release.to_owned())
}

/// Whether a text can be a release. It becomes part of messages and of paths that are compared, so it is held short and plain.
pub(crate) fn is_release(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+~-".contains(&b))
}

/// Test fixtures: small kernels.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use crate::{compression::fixture::compress, elf::fixture::elf};

    pub(crate) fn vmlinux(release: &str) -> Vec<u8> {
        elf(62, (".rodata", format!("Linux version %s\0Linux version {release} (gcc)\0").as_bytes()), true)
    }

    pub(crate) fn bzimage(release: &str, compression: Compression, kernel: &[u8]) -> Vec<u8> {
        let mut payload = compress(compression, kernel);
        payload.extend((kernel.len() as u32).to_le_bytes());
        let mut out = vec![0; 5 * 512];
        out[0x202..0x206].copy_from_slice(b"HdrS");
        out[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        out[0x20e..0x210].copy_from_slice(&0x200_u16.to_le_bytes());
        out[0x236] = 1;
        out[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        out[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        let text = format!("{release} (builder) #1 SMP\0");
        out[0x400..0x400 + text.len()].copy_from_slice(text.as_bytes());
        out.extend([0; 16]);
        out.extend(payload);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::fixture as compressions;

    fn open(bytes: &[u8]) -> Result<Vec<u8>> {
        match identify(bytes, Path::new("k"), Arch::X86_64)? {
            Format::BzImage(payload) => unpack(bytes, payload, Path::new("k")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_elf_kernel_comes_out_of_a_bzimage_of_every_compression() {
        let kernel = fixture::vmlinux("6.1.0-test");
        for &compression in compressions::ALL {
            let image = fixture::bzimage("6.1.0-test", compression, &kernel);
            assert!(open(&image).unwrap() == kernel, "{compression:?}");
            assert_eq!(bzimage_release(&image).as_deref(), Some("6.1.0-test"));
        }
        assert_eq!(banner_release(&kernel).as_deref(), Some("6.1.0-test"));
    }

    #[test]
    fn a_bzimage_with_no_kernel_inside_says_what_is_inside() {
        let image = fixture::bzimage("6.1.0-test", Compression::Gzip, b"hello");
        let message = open(&image).unwrap_err().to_string();
        assert!(message.contains("what is inside is no kernel"), "{message}");
    }

    #[test]
    fn kernels_of_other_architectures_are_named() {
        let arm = crate::elf::fixture::elf(183, ("x", b""), false);
        let error = identify(&arm, Path::new("k"), Arch::X86_64).unwrap_err();
        assert_eq!(error.category(), "WrongArchitecture");
        let mut image = fixture::bzimage("6.1.0-test", Compression::Gzip, b"");
        image[0x236] = 0;
        assert!(identify(&image, Path::new("k"), Arch::X86_64).unwrap_err().to_string().contains("32-bit x86"));
    }

    #[test]
    fn a_header_cut_or_flipped_anywhere_is_an_error_or_a_kernel_and_never_a_panic() {
        let image = fixture::bzimage("6.1.0-test", Compression::Gzip, &fixture::vmlinux("6.1.0-test"));
        for at in 0x1e0..0x260 {
            assert!(open(&image[..at]).is_err());
            let mut flipped = image.clone();
            flipped[at] ^= 0xff;
            let _ = identify(&flipped, Path::new("k"), Arch::X86_64);
            let _ = bzimage_release(&flipped);
        }
        assert_eq!(open(b"#!/bin/sh\n").unwrap_err().category(), "UnsupportedKernel");
    }
}
