//! The smallest file that is taken for a kernel, and for a static program: an ELF header and the banner of a release.

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
