//! As much of ELF as kernels and modules need: System V ABI, chapters 4 and 5, 64-bit little-endian only.

use crate::arch::Arch;

/// `SHT_NOBITS`: a section with a size and no bytes in the file.
const NO_BITS: u32 = 8;
/// `PT_INTERP`.
const SEGMENT_INTERPRETER: u32 = 3;
/// `PT_NOTE`.
const SEGMENT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the entry point of the PVH boot protocol, `include/xen/interface/elfnote.h`.
const NOTE_PVH_ENTRY: u32 = 18;

/// An ELF file in memory whose header was checked. Every offset in it is still hostile.
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
    machine: u16,
}

impl<'a> Elf<'a> {
    pub(crate) fn is_elf(bytes: &[u8]) -> bool {
        bytes.starts_with(b"\x7fELF")
    }

    /// The file; on an error, why it is not a 64-bit little-endian ELF file.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        if !Self::is_elf(bytes) {
            return Err("it is not an ELF file");
        }
        if bytes.len() < 64 {
            return Err("its ELF header is cut short");
        }
        if bytes[4] != 2 || bytes[5] != 1 {
            return Err("it is not a 64-bit little-endian ELF file");
        }
        let machine = u16_at(bytes, 18).ok_or("its ELF header is cut short")?;
        Ok(Self { bytes, machine })
    }

    pub(crate) fn arch(&self) -> Option<Arch> {
        Arch::of_elf_machine(self.machine)
    }

    pub(crate) fn machine(&self) -> u16 {
        self.machine
    }

    /// The bytes of the first section of that name.
    pub(crate) fn section(&self, name: &str) -> Option<&'a [u8]> {
        let names = self.section_header(usize::from(u16_at(self.bytes, 62)?))?.bytes(self.bytes)?;
        let count = u16_at(self.bytes, 60)?;
        (0..usize::from(count)).find_map(|index| {
            let header = self.section_header(index)?;
            let text = names.get(header.name..)?;
            let text = &text[..text.iter().position(|b| *b == 0)?];
            (text == name.as_bytes()).then(|| header.bytes(self.bytes))?
        })
    }

    /// Whether the kernel can be entered by the PVH protocol, which QEMU and Firecracker use for an ELF kernel.
    pub(crate) fn has_pvh_entry(&self) -> bool {
        let mut notes = self.segments(SEGMENT_NOTE);
        notes.any(|header| self.segment(header).is_some_and(notes_have_pvh_entry))
    }

    /// Whether the program asks for a dynamic linker.
    pub(crate) fn has_interpreter(&self) -> bool {
        self.segments(SEGMENT_INTERPRETER).next().is_some()
    }

    /// The program headers of a kind.
    fn segments(&self, kind: u32) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.bytes;
        let table = u64_at(bytes, 32).and_then(|at| usize::try_from(at).ok());
        let size = usize::from(u16_at(bytes, 54).unwrap_or(0));
        // A table of entries that are too small is read as empty.
        let count = if size >= 56 { u16_at(bytes, 56).unwrap_or(0) } else { 0 };
        (0..usize::from(count))
            .filter_map(move |index| bytes.get(table?.checked_add(index * size)?..))
            .filter(move |header| u32_at(header, 0) == Some(kind))
    }

    fn segment(&self, header: &[u8]) -> Option<&'a [u8]> {
        slice(self.bytes, u64_at(header, 8)?, u64_at(header, 32)?)
    }

    fn section_header(&self, index: usize) -> Option<SectionHeader> {
        let table = usize::try_from(u64_at(self.bytes, 40)?).ok()?;
        let size = usize::from(u16_at(self.bytes, 58)?);
        if size < 64 {
            return None;
        }
        let header = self.bytes.get(table.checked_add(index.checked_mul(size)?)?..)?;
        Some(SectionHeader {
            name: u32_at(header, 0)? as usize,
            kind: u32_at(header, 4)?,
            offset: u64_at(header, 24)?,
            size: u64_at(header, 32)?,
        })
    }
}

struct SectionHeader {
    name: usize,
    kind: u32,
    offset: u64,
    size: u64,
}

impl SectionHeader {
    fn bytes<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        if self.kind == NO_BITS { None } else { slice(file, self.offset, self.size) }
    }
}

/// Notes are `name size, content size, kind, name, content`, both padded to four bytes.
fn notes_have_pvh_entry(mut notes: &[u8]) -> bool {
    while let (Some(name_size), Some(size), Some(kind)) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8)) {
        let name = slice(notes, 12, u64::from(name_size));
        if kind == NOTE_PVH_ENTRY && name == Some(b"Xen\0") {
            return true;
        }
        let next = 12 + u64::from(name_size).next_multiple_of(4) + u64::from(size).next_multiple_of(4);
        notes = usize::try_from(next).ok().and_then(|next| notes.get(next..)).unwrap_or_default();
    }
    false
}

fn slice(bytes: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(size)?).ok()?;
    bytes.get(start..end)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Test fixtures: small ELF files.
#[cfg(test)]
pub(crate) mod fixture {
    /// An ELF file with one section of a name, and one note segment when asked for.
    pub(crate) fn elf(machine: u16, section: (&str, &[u8]), pvh: bool) -> Vec<u8> {
        let names = [b"\0.shstrtab\0".as_slice(), section.0.as_bytes(), b"\0"].concat();
        let note = [&4_u32.to_le_bytes()[..], &8_u32.to_le_bytes(), &18_u32.to_le_bytes(), b"Xen\0", &[0; 8]].concat();
        let names_at = 64 + 56;
        let note_at = names_at + names.len();
        let section_at = note_at + note.len();
        let headers_at = section_at + section.1.len();
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(16, 0);
        out.extend(2_u16.to_le_bytes());
        out.extend(machine.to_le_bytes());
        out.resize(32, 0);
        out.extend(64_u64.to_le_bytes());
        out.extend((headers_at as u64).to_le_bytes());
        out.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, u16::from(pvh), 64, 3, 1] {
            out.extend(half.to_le_bytes());
        }
        let mut segment = vec![0; 56];
        segment[0] = 4;
        segment[8..16].copy_from_slice(&(note_at as u64).to_le_bytes());
        segment[32..40].copy_from_slice(&(note.len() as u64).to_le_bytes());
        out.extend(segment);
        out.extend(&names);
        out.extend(note);
        out.extend(section.1);
        for (name, kind, at, size) in
            [(0, 0, 0, 0), (1, 3, names_at, names.len()), (11, 1, section_at, section.1.len())]
        {
            let mut header = vec![0; 64];
            header[..4].copy_from_slice(&(name as u32).to_le_bytes());
            header[4..8].copy_from_slice(&(kind as u32).to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            out.extend(header);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_architecture_and_pvh_entry_are_read() {
        let bytes = fixture::elf(62, (".modinfo", b"name=x\0"), true);
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!(elf.arch(), Some(Arch::X86_64));
        assert_eq!(elf.section(".modinfo"), Some(&b"name=x\0"[..]));
        assert_eq!(elf.section(".text"), None);
        assert!(elf.has_pvh_entry());
        assert!(!Elf::parse(&fixture::elf(183, ("x", b""), false)).unwrap().has_pvh_entry());
    }

    #[test]
    fn a_file_cut_or_flipped_anywhere_is_read_without_a_panic() {
        let bytes = fixture::elf(62, (".modinfo", b"name=x\0"), true);
        let look = |bytes: &[u8]| {
            if let Ok(elf) = Elf::parse(bytes) {
                let _ = (elf.section(".modinfo"), elf.has_pvh_entry());
            }
        };
        for at in 0..bytes.len() {
            look(&bytes[..at]);
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            look(&flipped);
        }
    }
}
