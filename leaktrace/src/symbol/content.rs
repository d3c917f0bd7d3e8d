//! What an ELF file says of itself, as far as names depend on it: segments, build id, which symbols and
//! debug information it has, and where more may be.
//!
//! Reads headers and small sections only. Nothing in a file can make it panic.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt as _;

use object::elf::{self, FileHeader64, ProgramHeader64, Rela64, SectionHeader64, Sym64};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable, Sym as _};
use object::{LittleEndian, ReadCache, ReadRef};

const LE: LittleEndian = LittleEndian;

/// A note of a build id is some 40 bytes; a segment of notes that claims more than this is not read.
const NOTES_BYTES_MAX: u64 = 64 << 10;

/// Of a longer procedure linkage table, the start is named.
const PLT_BYTES_MAX: u64 = 4 << 20;

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    address: u64,
    size_bytes: u64,
    executable: bool,
}

/// The name and the checksum of a separate debug file (`.gnu_debuglink`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DebugLink {
    /// File name without a folder.
    pub(super) name: OsString,
    /// CRC-32 of all its bytes.
    pub(super) crc: u32,
}

/// A section that holds stubs of the procedure linkage table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plt {
    address: u64,
    offset: u64,
    size_bytes: u64,
    entry_bytes: u64,
}

/// What is known of an ELF file without reading its symbols.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    segments: Vec<Segment>,
    /// GNU build id, as bytes.
    pub(super) build_id: Option<Vec<u8>>,
    /// Whether it has DWARF of its own.
    pub(super) has_debug_info: bool,
    /// Whether it has a `.symtab`.
    pub(super) has_symbols: bool,
    /// Where its debug information was put.
    pub(super) debug_link: Option<DebugLink>,
    /// Build id of the file that shares debug information with others (`.gnu_debugaltlink`, written by dwz).
    pub(super) shared_debug: Option<Vec<u8>>,
    /// Offset and size of compressed symbols (`.gnu_debugdata`).
    pub(super) compressed_symbols: Option<(u64, u64)>,
    plts: Vec<Plt>,
}

impl Content {
    /// Reads the headers of a 64-bit little-endian ELF file; `None` for anything else.
    pub(super) fn read(file: &File) -> Option<Self> {
        let cache = ReadCache::new(file);
        let data = &cache;
        let header = FileHeader64::<LittleEndian>::parse(data).ok()?;
        let programs = header.program_headers(LE, data).ok()?;
        // A file whose sections cannot be read is named by nothing but its offsets; its mappings stand.
        let sections = header.sections(LE, data).unwrap_or_default();
        let mut content = Self {
            segments: segments(programs),
            build_id: build_id(programs, data),
            ..Self::default()
        };
        for section in sections.iter() {
            let Ok(name) = sections.section_name(LE, section) else {
                continue;
            };
            content.add_section(name, section, data);
        }
        Some(content)
    }

    fn add_section<'d>(
        &mut self,
        name: &[u8],
        section: &'d SectionHeader64<LittleEndian>,
        data: impl ReadRef<'d>,
    ) {
        let empty = section.sh_type(LE) == elf::SHT_NOBITS || section.sh_size(LE) == 0;
        if empty {
            return;
        }
        let small = section.sh_size(LE) <= NOTES_BYTES_MAX;
        match name {
            // `.zdebug_info`: compressed as it was before the flag SHF_COMPRESSED.
            b".debug_info" | b".zdebug_info" => self.has_debug_info = true,
            b".symtab" => self.has_symbols = true,
            b".gnu_debugdata" => {
                self.compressed_symbols = Some((section.sh_offset(LE), section.sh_size(LE)));
            }
            b".gnu_debuglink" if small => {
                self.debug_link = section.data(LE, data).ok().and_then(debug_link);
            }
            b".gnu_debugaltlink" if small => {
                let bytes = section.data(LE, data).ok();
                self.shared_debug = bytes.and_then(|bytes| {
                    let end = bytes.iter().position(|byte| *byte == 0)?;
                    Some(bytes[end + 1..].to_vec()).filter(|id| !id.is_empty())
                });
            }
            b".plt" | b".plt.sec" | b".plt.got" => self.plts.push(Plt {
                address: section.sh_addr(LE),
                offset: section.sh_offset(LE),
                size_bytes: section.sh_size(LE).min(PLT_BYTES_MAX),
                // Linkers that leave the size of an entry out mean 16 (System V ABI, AMD64).
                entry_bytes: match section.sh_entsize(LE) {
                    size @ (8 | 16) => size,
                    _ => 16,
                },
            }),
            _ => {}
        }
    }

    /// The address, in the file's own numbering, of the byte at an offset. Where segments share a page of
    /// the file, as lld lays them out, code comes first.
    pub(super) fn address_of(&self, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| {
            offset
                .checked_sub(segment.offset)
                .is_some_and(|distance| distance < segment.size_bytes)
        };
        let code = self.segments.iter().filter(|segment| segment.executable);
        let segment = code.chain(&self.segments).find(holds)?;
        (offset - segment.offset).checked_add(segment.address)
    }

    /// The function that the stub at an address leads to, as `malloc@plt`; `None` where there is no stub.
    pub(super) fn plt_name(&self, file: &File, address: u64) -> Option<String> {
        let plt = self.plts.iter().find(|plt| {
            address
                .checked_sub(plt.address)
                .is_some_and(|distance| distance < plt.size_bytes)
        })?;
        let distance = address - plt.address;
        let start = distance - distance % plt.entry_bytes;
        let cache = ReadCache::new(file);
        let code = cache
            .read_bytes_at(plt.offset.checked_add(start)?, plt.entry_bytes)
            .ok()?;
        let slot = slot_of_stub(code, plt.address + start)?;
        let name = import_at(&cache, slot)?;
        Some(format!("{}@plt", String::from_utf8_lossy(&name)))
    }
}

fn segments(programs: &[ProgramHeader64<LittleEndian>]) -> Vec<Segment> {
    let loadable = programs
        .iter()
        .filter(|program| program.p_type(LE) == elf::PT_LOAD);
    loadable
        .map(|program| Segment {
            offset: program.p_offset(LE),
            address: program.p_vaddr(LE),
            size_bytes: program.p_filesz(LE),
            executable: program.p_flags(LE).contains(elf::PF_X),
        })
        .collect()
}

fn build_id<'d>(programs: &[ProgramHeader64<LittleEndian>], data: impl ReadRef<'d>) -> Option<Vec<u8>> {
    programs
        .iter()
        .filter(|program| program.p_filesz(LE) <= NOTES_BYTES_MAX)
        .filter_map(|program| program.notes(LE, data).ok().flatten())
        .flat_map(|notes| notes.map_while(Result::ok))
        .find(|note| note.name() == elf::ELF_NOTE_GNU && note.n_type(LE) == elf::NT_GNU_BUILD_ID)
        .map(|note| note.desc().to_vec())
}

/// A name, zero bytes up to a multiple of four, four bytes of checksum.
fn debug_link(bytes: &[u8]) -> Option<DebugLink> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let crc_start = (end + 1).next_multiple_of(4);
    let crc = bytes.get(crc_start..crc_start + 4)?.try_into().ok()?;
    let name = OsString::from_vec(bytes[..end].to_vec());
    // A name with a folder would lead to files that nobody has put there for this.
    let is_plain = !bytes[..end].is_empty() && !bytes[..end].contains(&b'/') && &bytes[..end] != b"..";
    is_plain.then_some(DebugLink {
        name,
        crc: u32::from_le_bytes(crc),
    })
}

/// The address of the pointer through which a stub jumps.
fn slot_of_stub(code: &[u8], address: u64) -> Option<u64> {
    let mut decoder = iced_x86::Decoder::with_ip(64, code, address, iced_x86::DecoderOptions::NONE);
    decoder
        .iter()
        .find(|instruction| instruction.is_jmp_near_indirect() && instruction.is_ip_rel_memory_operand())
        .map(|jump| jump.ip_rel_memory_address())
}

/// The name that the dynamic linker binds the slot at an address to.
fn import_at<'d, R: ReadRef<'d>>(data: R, slot: u64) -> Option<Vec<u8>> {
    let header = FileHeader64::<LittleEndian>::parse(data).ok()?;
    let sections = header.sections(LE, data).ok()?;
    sections.iter().find_map(|section| {
        if section.sh_type(LE) != elf::SHT_RELA {
            return None;
        }
        let relocations: &[Rela64<LittleEndian>] = section.data_as_array(LE, data).ok()?;
        let relocation = relocations
            .iter()
            .find(|relocation| relocation.r_offset.get(LE) == slot)?;
        name_of_symbol(&sections, section.link(LE), relocation.r_sym(LE, false), data)
    })
}

fn name_of_symbol<'d, R: ReadRef<'d>>(
    sections: &SectionTable<'d, FileHeader64<LittleEndian>, R>,
    table: object::SectionIndex,
    symbol: u32,
    data: R,
) -> Option<Vec<u8>> {
    let table = sections.section(table).ok()?;
    let symbols: &[Sym64<LittleEndian>] = table.data_as_array(LE, data).ok()?;
    let strings = sections.section(table.link(LE)).ok()?.data(LE, data).ok()?;
    let start = symbols.get(symbol as usize)?.st_name(LE) as usize;
    let rest = strings.get(start..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    (end > 0).then(|| rest[..end].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_link_is_a_plain_name_and_a_checksum() {
        let link = |bytes: &[u8]| debug_link(bytes).map(|link| (link.name, link.crc));
        assert_eq!(link(b"ab\0\0\x01\x02\x03\x04"), Some(("ab".into(), 0x0403_0201)));
        assert_eq!(link(b"abc\0\x01\0\0\0"), Some(("abc".into(), 1)));
        for broken in [
            b"abc\0\x01\0\0".as_slice(),
            b"abc",
            b"",
            b"\0\0\0\0\0\0\0\0",
            b"../a\0\0\0\0\x01\0\0\0",
            b"..\0\0\x01\0\0\0",
        ] {
            assert_eq!(link(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn code_comes_first_where_segments_share_a_page_of_the_file() {
        let segment = |offset, address, size_bytes, executable| Segment {
            offset,
            address,
            size_bytes,
            executable,
        };
        let content = Content {
            segments: vec![
                segment(0, 0, 0x1800, false),
                segment(0x1000, 0x5000, 0x100, true),
                segment(u64::MAX - 1, u64::MAX - 1, 8, true),
            ],
            ..Content::default()
        };
        assert_eq!(content.address_of(0x10), Some(0x10));
        assert_eq!(content.address_of(0x1010), Some(0x5010));
        assert_eq!(content.address_of(0x1100), Some(0x1100));
        assert_eq!(content.address_of(0x1800), None);
        assert_eq!(content.address_of(u64::MAX), Some(u64::MAX));
    }

    #[test]
    fn stubs_are_named_by_what_they_lead_to() {
        // `jmp *8(%rip)` behind `endbr64`, as GNU ld writes it.
        let code = [
            0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 8, 0, 0, 0, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
        ];
        assert_eq!(slot_of_stub(&code, 0x1000), Some(0x1012));
        assert_eq!(slot_of_stub(&[0x90; 16], 0x1000), None);
        assert_eq!(slot_of_stub(&[], 0x1000), None);
    }
}
