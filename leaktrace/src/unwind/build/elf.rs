//! What a table is made of, out of an ELF file: segments of code, unwind sections, the entry, some symbols.
//!
//! Only that is read, and each at most once. Sizes are bounded before anything is allocated by them. Must not know
//! what the unwind sections say.

use std::borrow::Cow;

use leaktrace_common::unwind::{PAGE_BITS, PAGES};
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable, Sym as _};
use object::{LittleEndian, ReadRef};

use super::{BuildError, broken};
use crate::unwind::table::Segment;

const LE: LittleEndian = LittleEndian;

/// Most bytes of code, and of an unwind section. The largest that are known have a third of it.
const SIZE_BYTES_MAX: u64 = 1 << 30;

/// Functions that are the outermost ones of their thread, or are called by none but those, where they have no unwind
/// information: the beginnings written in assembly, and those of musl, which distributions build without it. A thread
/// of musl ends in `__unmapself`, on no stack.
const OUTERMOST: [&[u8]; 10] = [
    b"_start",
    b"_start_c",
    b"__libc_start_main",
    b"libc_start_main_stage2",
    b"__clone",
    b"clone",
    b"__clone3",
    b"start",
    b"start_c11",
    b"__unmapself",
];

/// A section with its address.
#[derive(Debug)]
pub(super) struct Section<'d> {
    /// ELF virtual address; 0 if it is not loaded.
    pub(super) address: u64,
    /// Its bytes.
    pub(super) data: Cow<'d, [u8]>,
    /// Where it ends is not known: at its terminator, at the latest where `data` ends.
    pub(super) is_open: bool,
}

/// A function by its symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Symbol {
    /// ELF virtual address.
    pub(super) address: u64,
    /// 0 if the symbol does not say.
    pub(super) size_bytes: u64,
}

/// An opened file.
pub(super) struct Elf<'d, R: ReadRef<'d>> {
    data: R,
    programs: &'d [ProgramHeader64<LittleEndian>],
    sections: SectionTable<'d, FileHeader64<LittleEndian>, R>,
    /// Its code, by address; none overlaps another.
    pub(super) segments: Vec<Segment>,
    /// Where it begins to run; 0 is nowhere.
    pub(super) entry: u64,
}

impl<'d, R: ReadRef<'d>> Elf<'d, R> {
    /// Reads the headers.
    pub(super) fn open(data: R) -> Result<Self, BuildError> {
        let header = FileHeader64::<LittleEndian>::parse(data).map_err(broken("its header"))?;
        let fits = header.e_machine(LE) == elf::EM_X86_64
            && matches!(header.e_type(LE), elf::ET_EXEC | elf::ET_DYN)
            && header.is_little_endian();
        if !fits {
            return Err(BuildError::Foreign);
        }
        let programs = header
            .program_headers(LE, data)
            .map_err(broken("its program headers"))?;
        // The dynamic linker reads no section headers, so a program runs without them or with wrong ones.
        let sections = header.sections(LE, data).unwrap_or_default();
        Ok(Self {
            data,
            programs,
            sections,
            segments: code(programs, data)?,
            entry: header.e_entry(LE),
        })
    }

    /// `.eh_frame`.
    pub(super) fn eh_frame(&self) -> Result<Option<Section<'d>>, BuildError> {
        match self.section(".eh_frame")? {
            Some(section) => Ok(Some(section)),
            None => Ok(self.eh_frame_by_header()),
        }
    }

    /// `.debug_frame`, decompressed.
    pub(super) fn debug_frame(&self) -> Result<Option<Section<'d>>, BuildError> {
        self.section(".debug_frame")
    }

    /// Address of a section.
    pub(super) fn address_of(&self, name: &str) -> Option<u64> {
        self.header_of(name).map(|section| section.sh_addr(LE))
    }

    fn header_of(&self, name: &str) -> Option<&'d SectionHeader64<LittleEndian>> {
        self.sections
            .section_by_name(LE, name.as_bytes())
            .map(|(_, section)| section)
    }

    fn section(&self, name: &'static str) -> Result<Option<Section<'d>>, BuildError> {
        let Some(section) = self.header_of(name) else {
            return Ok(None);
        };
        let compression = section.compression(LE, self.data).map_err(broken(name))?;
        let size_bytes = compression.map_or(section.sh_size(LE), |(header, ..)| header.ch_size.get(LE));
        if size_bytes > SIZE_BYTES_MAX {
            return Err(BuildError::TooLarge);
        }
        let data = match compression {
            None => Cow::Borrowed(section.data(LE, self.data).map_err(broken(name))?),
            Some(_) => decompress(section, self.data).map_err(broken(name))?,
        };
        // A separate debug file has the header and no bytes.
        Ok((!data.is_empty()).then_some(Section {
            address: section.sh_addr(LE),
            data,
            is_open: false,
        }))
    }

    /// By `PT_GNU_EH_FRAME`, where there are no section headers.
    fn eh_frame_by_header(&self) -> Option<Section<'d>> {
        /// Version 1, pointer to `.eh_frame` relative to itself in 4 bytes, as every linker writes it.
        const HEAD: [u8; 2] = [1, 0x1b];
        let lookup = self
            .programs
            .iter()
            .find(|program| program.p_type(LE) == elf::PT_GNU_EH_FRAME)?;
        let bytes: &[u8; 8] = self
            .data
            .read_bytes_at(lookup.p_offset(LE), 8)
            .ok()?
            .try_into()
            .ok()?;
        let [version, encoding, _, _, pointer @ ..] = *bytes;
        if [version, encoding] != HEAD {
            return None;
        }
        let address = lookup
            .p_vaddr(LE)
            .wrapping_add(4)
            .wrapping_add_signed(i32::from_le_bytes(pointer).into());
        let (segment, distance) = self.programs.iter().find_map(|program| {
            let distance = address.checked_sub(program.p_vaddr(LE))?;
            (program.p_type(LE) == elf::PT_LOAD && distance < program.p_filesz(LE))
                .then_some((program, distance))
        })?;
        let size_bytes = (segment.p_filesz(LE) - distance).min(SIZE_BYTES_MAX);
        let offset = segment.p_offset(LE).checked_add(distance)?;
        Some(Section {
            address,
            data: Cow::Borrowed(self.data.read_bytes_at(offset, size_bytes).ok()?),
            is_open: true,
        })
    }

    /// Symbols of functions that are outermost. What cannot be read has none.
    pub(super) fn outermost(&self) -> Vec<Symbol> {
        let mut found = Vec::new();
        for section in self.sections.iter() {
            if section.sh_type(LE) != elf::SHT_SYMTAB && section.sh_type(LE) != elf::SHT_DYNSYM {
                continue;
            }
            let symbols = section.data_as_array::<elf::Sym64<LittleEndian>, _>(LE, self.data);
            let strings = self
                .sections
                .section(section.link(LE))
                .and_then(|strings| strings.data(LE, self.data));
            let (Ok(symbols), Ok(strings)) = (symbols, strings) else {
                continue;
            };
            let is_outermost = |symbol: &&elf::Sym64<LittleEndian>| {
                let name = strings.get(symbol.st_name(LE) as usize..).unwrap_or_default();
                !symbol.is_undefined(LE)
                    && OUTERMOST.iter().any(|outermost| {
                        name.strip_prefix(*outermost)
                            .is_some_and(|rest| rest.first() == Some(&0))
                    })
            };
            found.extend(symbols.iter().filter(is_outermost).map(|symbol| Symbol {
                address: symbol.st_value(LE),
                size_bytes: symbol.st_size(LE),
            }));
        }
        found
    }
}

fn decompress<'d, R: ReadRef<'d>>(
    section: &SectionHeader64<LittleEndian>,
    data: R,
) -> object::Result<Cow<'d, [u8]>> {
    use object::read::{CompressedData, CompressionFormat};
    let Some((header, offset, size_bytes)) = section.compression(LE, data)? else {
        return section.data(LE, data).map(Cow::Borrowed);
    };
    let format = match header.ch_type.get(LE) {
        elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
        elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
        _ => CompressionFormat::Unknown,
    };
    CompressedData {
        format,
        data: data.read_bytes_at(offset, size_bytes).unwrap_or_default(),
        uncompressed_size: header.ch_size.get(LE),
    }
    .decompress()
}

/// The segments that are mapped as code and lie in the file.
fn code<'d, R: ReadRef<'d>>(
    programs: &[ProgramHeader64<LittleEndian>],
    data: R,
) -> Result<Vec<Segment>, BuildError> {
    let file_bytes = data.len().unwrap_or(0);
    let mut segments: Vec<Segment> = programs
        .iter()
        .filter(|program| {
            program.p_type(LE) == elf::PT_LOAD
                && program.p_flags(LE).contains(elf::PF_X)
                && program.p_filesz(LE) > 0
        })
        .map(|program| Segment {
            file_offset: program.p_offset(LE),
            address: program.p_vaddr(LE),
            size_bytes: program.p_filesz(LE),
        })
        .collect();
    segments.sort_unstable_by_key(|segment| segment.address);
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Err(BuildError::NoCode);
    };
    let in_file = |segment: &Segment| {
        let end = segment.file_offset.checked_add(segment.size_bytes);
        end.is_some_and(|end| end <= file_bytes) && segment.address.checked_add(segment.size_bytes).is_some()
    };
    let apart = segments.windows(2).all(|pair| pair[0].end() <= pair[1].address);
    if !segments.iter().all(in_file) || !apart {
        return Err(BuildError::Broken {
            part: "its segments",
            why: "they overlap or are not in the file".to_owned(),
        });
    }
    let text_bytes: u64 = segments.iter().map(|segment| segment.size_bytes).sum();
    let page_count = (last.end() >> PAGE_BITS) - (first.address >> PAGE_BITS) + 1;
    // Page numbers have 32 bits.
    if text_bytes > SIZE_BYTES_MAX || page_count > PAGES as u64 || last.end() >> PAGE_BITS > u32::MAX.into() {
        return Err(BuildError::TooLarge);
    }
    Ok(segments)
}
