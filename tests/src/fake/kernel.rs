//! The smallest files that are taken for kernels, and for static programs: an ELF header and the banner of a release.

/// As [`elf_kernel`], with what a VMM's loader looks for: a segment, an entry, and a note that tells the PVH entry.
#[must_use]
pub fn bootable_kernel(release: &str) -> Vec<u8> {
    let mut out = elf_kernel(release);
    // The entry, where the program headers are, and how many.
    out[24..32].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    let headers_at = out.len().next_multiple_of(8);
    out.resize(headers_at, 0);
    out[32..40].copy_from_slice(&(headers_at as u64).to_le_bytes());
    out[56..58].copy_from_slice(&2_u16.to_le_bytes());
    let note_at = headers_at + 2 * 56;
    let note = [&4_u32.to_le_bytes()[..], &8_u32.to_le_bytes(), &18_u32.to_le_bytes(), b"Xen\0", &[0; 8]].concat();
    // PT_LOAD of everything, PT_NOTE of the note.
    for (kind, at, size) in [(1_u32, 0, note_at + note.len()), (4, note_at, note.len())] {
        let mut header = vec![0; 56];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..16].copy_from_slice(&(at as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        out.extend(header);
    }
    out.extend(note);
    out
}

/// An ELF file for this host's architecture that says it is Linux of this release. It boots nothing.
#[must_use]
pub fn elf_kernel(release: &str) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend(2_u16.to_le_bytes());
    out.extend(machine.to_le_bytes());
    out.resize(52, 0);
    // The sizes of the header, of a program header and of a section header; there are none of the latter two.
    for half in [64_u16, 56, 0, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    out.extend(format!("Linux version {release} (fixture)\0").into_bytes());
    out
}
