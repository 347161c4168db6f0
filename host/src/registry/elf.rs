//! Looks into an ELF library without running it: is it whole, is it for this machine, which notes does it carry.
//!
//! Loading a file that is still being copied kills the process (SIGBUS), so everything that the loader will map must lie
//! within the file, and the section table, which linkers write last, must be there and make sense.
//!
//! Invariant: no read is outside of the file and no length is believed; nothing here is unsafe.

use postwarm_plugin_api::abi::{NOTE_NAME, NOTE_SECTION};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The machine that this host runs on, as `e_machine` names it.
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// The octets of notes that a library may carry.
const NOTES_OCTETS_MAX: u64 = 1 << 20;

/// Where the octets of a library are read from.
pub(super) trait Octets {
    fn len(&self) -> u64;
    /// Fills `buffer` from `offset`; false when that is not all within the file.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> bool;
}

/// A file and its length.
pub(super) struct OfFile<'a>(pub &'a File, pub u64);

impl Octets for OfFile<'_> {
    fn len(&self) -> u64 {
        self.1
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.0.read_exact_at(buffer, offset).is_ok()
    }
}

impl Octets for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let found = usize::try_from(offset).ok().and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        found.map(|found| buffer.copy_from_slice(found)).is_some()
    }
}

/// A note of ours: its type and its text, without the padding.
pub(super) type RawNote = (u32, Vec<u8>);

const CUT: &str = "it is cut off or damaged: copy it again";

/// Checks the structure and returns our notes; `Err` says in words what is wrong.
pub(super) fn inspect(octets: &(impl Octets + ?Sized)) -> Result<Vec<RawNote>, String> {
    if octets.len() == 0 {
        return Err("it is empty".into());
    }
    let header: [u8; 64] = array(octets, 0).ok_or("it is no ELF library")?;
    check_header(&header)?;
    check_segments(octets, u64_at(&header, 32), u16_at(&header, 56))?;
    let sections = sections(octets, u64_at(&header, 40), u16_at(&header, 60))?;
    let names = section_names(octets, &sections, u16_at(&header, 62))?;
    let mut notes = Vec::new();
    for section in sections.iter().filter(|section| name_of(&names, section) == Some(NOTE_SECTION.as_bytes())) {
        if section.size > NOTES_OCTETS_MAX {
            return Err(format!("its notes are larger than {NOTES_OCTETS_MAX} octets"));
        }
        let mut text = vec![0; section.size as usize];
        if !octets.read(section.offset, &mut text) {
            return Err(CUT.into());
        }
        read_notes(&text, &mut notes)?;
    }
    Ok(notes)
}

fn check_header(header: &[u8; 64]) -> Result<(), String> {
    if header[..4] != *b"\x7fELF" {
        return Err("it is no ELF library".into());
    }
    if header[4] != 2 || header[5] != 1 {
        return Err("it is not for a 64-bit little-endian machine".into());
    }
    let (file_type, machine) = (u16_at(header, 16), u16_at(header, 18));
    if file_type != 3 {
        return Err("it is an ELF file, but no shared library: link it with -shared".into());
    }
    if machine != MACHINE {
        let name = |machine| match machine {
            62 => "x86-64".to_owned(),
            183 => "aarch64".to_owned(),
            other => format!("ELF machine {other}"),
        };
        return Err(format!("it is built for {}, this host runs on {}", name(machine), name(MACHINE)));
    }
    if u16_at(header, 54) != 56 || u16_at(header, 58) != 64 {
        return Err(CUT.into());
    }
    Ok(())
}

fn check_segments(octets: &(impl Octets + ?Sized), offset: u64, count: u16) -> Result<(), String> {
    const LOAD: u32 = 1;
    const DYNAMIC: u32 = 2;
    let (mut loads, mut dynamics) = (0, 0);
    for index in 0..u64::from(count) {
        let segment: [u8; 56] = array_at(octets, offset, index * 56).ok_or(CUT)?;
        let (file_size, memory_size) = (u64_at(&segment, 32), u64_at(&segment, 40));
        let kind = u32_at(&segment, 0);
        if kind != LOAD && kind != DYNAMIC {
            continue;
        }
        if !within(octets, u64_at(&segment, 8), file_size) || file_size > memory_size {
            return Err(CUT.into());
        }
        loads += u32::from(kind == LOAD);
        dynamics += u32::from(kind == DYNAMIC);
    }
    if loads == 0 || dynamics == 0 {
        return Err("it has nothing to load".into());
    }
    Ok(())
}

struct Section {
    name: u32,
    kind: u32,
    offset: u64,
    size: u64,
}

fn sections(octets: &(impl Octets + ?Sized), offset: u64, count: u16) -> Result<Vec<Section>, String> {
    const NOTHING: u32 = 0;
    const NO_BITS: u32 = 8;
    if offset == 0 || count == 0 {
        return Err("it has no section table: do not strip that from it".into());
    }
    let mut sections = Vec::new();
    for index in 0..u64::from(count) {
        let entry: [u8; 64] = array_at(octets, offset, index * 64).ok_or(CUT)?;
        let section = Section { name: u32_at(&entry, 0), kind: u32_at(&entry, 4), offset: u64_at(&entry, 24), size: u64_at(&entry, 32) };
        let is_first = index == 0;
        if is_first != (section.kind == NOTHING) {
            return Err(CUT.into());
        }
        if !is_first && section.kind != NO_BITS && !within(octets, section.offset, section.size) {
            return Err(CUT.into());
        }
        sections.push(section);
    }
    Ok(sections)
}

fn section_names(octets: &(impl Octets + ?Sized), sections: &[Section], index: u16) -> Result<Vec<u8>, String> {
    const STRINGS: u32 = 3;
    let section = sections.get(usize::from(index)).filter(|section| section.kind == STRINGS).ok_or(CUT)?;
    if section.size > NOTES_OCTETS_MAX {
        return Err("its section names are too long".into());
    }
    let mut names = vec![0; section.size as usize];
    if !octets.read(section.offset, &mut names) || name_of(&names, section).is_none_or(|name| !name.ends_with(b"strtab")) {
        return Err(CUT.into());
    }
    Ok(names)
}

fn name_of<'a>(names: &'a [u8], section: &Section) -> Option<&'a [u8]> {
    let rest = names.get(section.name as usize..)?;
    rest.get(..rest.iter().position(|octet| *octet == 0)?)
}

fn read_notes(mut rest: &[u8], notes: &mut Vec<RawNote>) -> Result<(), String> {
    let malformed = || "its note is malformed: rebuild it".to_owned();
    while rest.len() >= 12 {
        let (name_len, text_len, note_type) = (u32_at(rest, 0) as usize, u32_at(rest, 4) as usize, u32_at(rest, 8));
        if name_len == 0 {
            // Padding that a linker put between two notes.
            rest = &rest[4..];
            continue;
        }
        let text_start = name_len.checked_next_multiple_of(4).and_then(|len| len.checked_add(12)).ok_or_else(malformed)?;
        let text_end = text_start.checked_add(text_len).ok_or_else(malformed)?;
        let name = rest.get(12..12 + name_len).ok_or_else(malformed)?;
        let text = rest.get(text_start..text_end).ok_or_else(malformed)?;
        if name == NOTE_NAME {
            let used = text.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
            notes.push((note_type, text[..used].to_vec()));
        }
        rest = text_end.checked_next_multiple_of(4).and_then(|next| rest.get(next..)).unwrap_or_default();
    }
    Ok(())
}

fn within(octets: &(impl Octets + ?Sized), offset: u64, size: u64) -> bool {
    offset.checked_add(size).is_some_and(|end| end <= octets.len())
}

fn array<const N: usize>(octets: &(impl Octets + ?Sized), offset: u64) -> Option<[u8; N]> {
    let mut buffer = [0; N];
    octets.read(offset, &mut buffer).then_some(buffer)
}

fn array_at<const N: usize>(octets: &(impl Octets + ?Sized), base: u64, offset: u64) -> Option<[u8; N]> {
    array(octets, base.checked_add(offset)?)
}

fn u16_at(octets: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([octets[at], octets[at + 1]])
}

fn u32_at(octets: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

fn u64_at(octets: &[u8], at: usize) -> u64 {
    u64::from(u32_at(octets, at)) | (u64::from(u32_at(octets, at + 4)) << 32)
}
