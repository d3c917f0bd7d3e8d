//! One 64-bit little-endian ELF file, read on demand: segments, sections, symbols, code bytes, extents.
//!
//! Only what is asked for is read, so that a large object without an allocator costs its symbol table
//! and no more. Knows nothing of allocators or probes; nothing in a file can make it panic.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use gimli::{BaseAddresses, EhFrame, UnwindSection as _};
use object::elf::{self, FileHeader64, ProgramHeader64, Rela64, SectionHeader64, Sym64};
use object::read::elf::{
    Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable, Sym as _,
};
use object::{LittleEndian, ReadRef};

const LE: LittleEndian = LittleEndian;

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// Address in the object's own numbering.
    pub address: u64,
    /// Bytes in the file.
    pub size_bytes: u64,
    /// Whether code in it can run.
    pub executable: bool,
}

/// A defined function symbol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FunctionSymbol<'d> {
    /// Name without version.
    pub(crate) name: &'d [u8],
    /// Address in the object's own numbering.
    pub(crate) address: u64,
    /// Size; 0 if the symbol does not say.
    pub(crate) size_bytes: u64,
    /// The address is that of a resolver, not of the function (`STT_GNU_IFUNC`).
    pub(crate) indirect: bool,
}

/// A half-open range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extent {
    /// First address.
    pub(crate) start: u64,
    /// First address after it.
    pub(crate) end: u64,
}

impl Extent {
    /// Whether the address is in it.
    pub(crate) const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }
}

/// What a slot holds once the dynamic linker is done, for good but for lazy binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot<'d> {
    /// What a name is bound to.
    Import(&'d [u8]),
    /// A function of this file that its resolver has picked (`STT_GNU_IFUNC`).
    Resolved,
    /// An address of this file.
    Address(u64),
}

/// An opened file.
pub(crate) struct Image<'d, R: ReadRef<'d>> {
    data: R,
    header: &'d FileHeader64<LittleEndian>,
    programs: &'d [ProgramHeader64<LittleEndian>],
    sections: SectionTable<'d, FileHeader64<LittleEndian>, R>,
    segments: Vec<Segment>,
    symbol_extents: OnceCell<Vec<Extent>>,
    symbol_starts: OnceCell<BTreeSet<u64>>,
    slots: OnceCell<HashMap<u64, Slot<'d>>>,
    pointers: RefCell<HashMap<u64, Option<u64>>>,
}

impl<'d, R: ReadRef<'d>> Image<'d, R> {
    /// Reads the headers.
    pub(crate) fn open(data: R) -> object::Result<Self> {
        let header = FileHeader64::<LittleEndian>::parse(data)?;
        let programs = header.program_headers(LE, data)?;
        let sections = header.sections(LE, data)?;
        let segments = programs
            .iter()
            .filter(|program| program.p_type(LE) == elf::PT_LOAD)
            .map(|program| Segment {
                offset: program.p_offset(LE),
                address: program.p_vaddr(LE),
                size_bytes: program.p_filesz(LE),
                executable: program.p_flags(LE).contains(elf::PF_X),
            })
            .collect();
        Ok(Self {
            data,
            header,
            programs,
            sections,
            segments,
            symbol_extents: OnceCell::new(),
            symbol_starts: OnceCell::new(),
            slots: OnceCell::new(),
            pointers: RefCell::default(),
        })
    }

    /// Number of the machine (`e_machine`).
    pub(crate) fn machine(&self) -> u16 {
        self.header.e_machine(LE).0
    }

    /// The loadable segments, in the order of the file.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The file offset of code at an address; `None` when no executable segment holds it.
    pub(crate) fn code_offset(&self, address: u64) -> Option<u64> {
        self.code_segment(address)
            .and_then(|segment| (address - segment.address).checked_add(segment.offset))
    }

    fn code_segment(&self, address: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| {
            segment.executable
                && address
                    .checked_sub(segment.address)
                    .is_some_and(|distance| distance < segment.size_bytes)
        })
    }

    /// Code from an address on: at most `size_bytes`, less at the end of the segment.
    pub(crate) fn code(&self, address: u64, size_bytes: u64) -> Option<&'d [u8]> {
        let segment = self.code_segment(address)?;
        let distance = address - segment.address;
        let size_bytes = size_bytes.min(segment.size_bytes - distance);
        self.data
            .read_bytes_at(segment.offset.checked_add(distance)?, size_bytes)
            .ok()
    }

    /// What the file has at an address, code or data: at most `size_bytes`, less at the end of the segment's part that
    /// is in the file.
    pub(crate) fn bytes(&self, address: u64, size_bytes: u64) -> Option<&'d [u8]> {
        self.segments.iter().find_map(|segment| {
            let distance = address.checked_sub(segment.address)?;
            let left = segment
                .size_bytes
                .checked_sub(distance)
                .filter(|left| *left > 0)?;
            self.data
                .read_bytes_at(segment.offset.checked_add(distance)?, size_bytes.min(left))
                .ok()
        })
    }

    /// The addresses of a section.
    pub(crate) fn section_extent(&self, name: &str) -> Option<Extent> {
        let section = self.section(name)?;
        let start = section.sh_addr(LE);
        Some(Extent {
            start,
            end: start.checked_add(section.sh_size(LE))?,
        })
    }

    /// What is in a section.
    pub(crate) fn section_bytes(&self, name: &str) -> Option<&'d [u8]> {
        self.section(name)?.data(LE, self.data).ok()
    }

    /// Whether there is a section of this name.
    pub(crate) fn has_section(&self, name: &str) -> bool {
        self.section(name).is_some()
    }

    fn section(&self, name: &str) -> Option<&'d SectionHeader64<LittleEndian>> {
        self.sections
            .section_by_name(LE, name.as_bytes())
            .map(|(_, section)| section)
    }

    /// The GNU build id.
    pub(crate) fn build_id(&self) -> Option<Vec<u8>> {
        self.programs
            .iter()
            .filter_map(|program| program.notes(LE, self.data).ok().flatten())
            .flat_map(|notes| notes.map_while(Result::ok))
            .find(|note| note.name() == elf::ELF_NOTE_GNU && note.n_type(LE) == elf::NT_GNU_BUILD_ID)
            .map(|note| note.desc().to_vec())
    }

    /// The path in `PT_INTERP`.
    pub(crate) fn interpreter(&self) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt as _;
        self.programs
            .iter()
            .find_map(|program| program.interpreter(LE, self.data).ok().flatten())
            .map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)))
    }

    /// `DT_SONAME`.
    pub(crate) fn soname(&self) -> Option<String> {
        let (entries, link) = self.sections.dynamic(LE, self.data).ok().flatten()?;
        let offset = entries
            .iter()
            .take_while(|entry| entry.tag(LE) != elf::DT_NULL)
            .find(|entry| entry.tag(LE) == elf::DT_SONAME)?
            .val32(LE)?;
        let strings = self.sections.section(link).ok()?.data(LE, self.data).ok()?;
        string_at(strings, offset).map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// Every defined function symbol of `.dynsym` and `.symtab`, local ones included.
    ///
    /// # Errors
    /// When a symbol table points outside the file.
    pub(crate) fn for_each_function(&self, mut visit: impl FnMut(FunctionSymbol<'d>)) -> object::Result<()> {
        for section in self.sections.iter() {
            let kind = section.sh_type(LE);
            if kind != elf::SHT_DYNSYM && kind != elf::SHT_SYMTAB {
                continue;
            }
            let (symbols, strings) = self.symbol_table(section)?;
            for symbol in symbols {
                let kind = symbol.st_type();
                let indirect = kind == elf::STT_GNU_IFUNC;
                if (kind != elf::STT_FUNC && !indirect) || symbol.is_undefined(LE) {
                    continue;
                }
                let Some(name) = string_at(strings, symbol.st_name(LE)) else {
                    continue;
                };
                visit(FunctionSymbol {
                    name,
                    address: symbol.st_value(LE),
                    size_bytes: symbol.st_size(LE),
                    indirect,
                });
            }
        }
        Ok(())
    }

    /// The address of a function that this file defines under a name.
    pub(crate) fn definition(&self, name: &[u8]) -> Option<u64> {
        let mut address = None;
        let read = self.for_each_function(|symbol| {
            if symbol.name == name && !symbol.indirect {
                address.get_or_insert(symbol.address);
            }
        });
        read.ok().and(address)
    }

    fn symbol_table(
        &self,
        section: &SectionHeader64<LittleEndian>,
    ) -> object::Result<(&'d [Sym64<LittleEndian>], &'d [u8])> {
        let symbols = section.data_as_array(LE, self.data)?;
        // The strings as one slice: looked up one by one through a ReadCache each would be a copy.
        let strings = self.sections.section(section.link(LE))?.data(LE, self.data)?;
        Ok((symbols, strings))
    }

    /// Address of a symbol that the file defines for others, be it code or data.
    pub(crate) fn dynamic_symbol(&self, name: &[u8]) -> Option<u64> {
        let table = self.sections.symbols(LE, self.data, elf::SHT_DYNSYM).ok()?;
        let symbol = table.iter().find(|symbol| {
            !symbol.is_undefined(LE) && table.symbol_name(LE, symbol).is_ok_and(|known| known == name)
        })?;
        Some(symbol.st_value(LE))
    }

    /// Address and size of a symbol that the file defines for others, be it code or data.
    pub(crate) fn sized_dynamic_symbol(&self, name: &[u8]) -> Option<(u64, u64)> {
        self.symbol_in(elf::SHT_DYNSYM, name)
    }

    /// The same, and of those that it defines for itself alone.
    pub(crate) fn symbol(&self, name: &[u8]) -> Option<(u64, u64)> {
        self.symbol_in(elf::SHT_DYNSYM, name)
            .or_else(|| self.symbol_in(elf::SHT_SYMTAB, name))
    }

    fn symbol_in(&self, kind: elf::SectionType, name: &[u8]) -> Option<(u64, u64)> {
        let section = self.sections.iter().find(|section| section.sh_type(LE) == kind)?;
        let (symbols, strings) = self.symbol_table(section).ok()?;
        let symbol = symbols.iter().find(|symbol| {
            !symbol.is_undefined(LE) && string_at(strings, symbol.st_name(LE)) == Some(name)
        })?;
        Some((symbol.st_value(LE), symbol.st_size(LE)))
    }

    /// The function that holds an address: from the unwind table, which covers stripped objects too, or
    /// else from the symbols.
    pub(crate) fn extent(&self, address: u64) -> Option<Extent> {
        self.unwind_extent(address)
            .or_else(|| self.symbol_extent(address))
    }

    fn unwind_extent(&self, address: u64) -> Option<Extent> {
        let lookup = self.section(".eh_frame_hdr")?;
        let frames = self.section(".eh_frame")?;
        let entry_address = unwind_entry(lookup.data(LE, self.data).ok()?, lookup.sh_addr(LE), address)?;
        let offset = usize::try_from(entry_address.checked_sub(frames.sh_addr(LE))?).ok()?;
        let bases = BaseAddresses::default().set_eh_frame(frames.sh_addr(LE));
        let frames = EhFrame::new(frames.data(LE, self.data).ok()?, gimli::LittleEndian);
        let entry = frames
            .fde_from_offset(&bases, offset.into(), EhFrame::cie_from_offset)
            .ok()?;
        let start = entry.initial_address();
        let extent = Extent {
            start,
            end: start.checked_add(entry.len())?,
        };
        extent.contains(address).then_some(extent)
    }

    fn symbol_extent(&self, address: u64) -> Option<Extent> {
        let extents = self.symbol_extents.get_or_init(|| {
            let mut extents = Vec::new();
            // A broken table was reported by the scan that asked first; here it only means no answer.
            let read = self.for_each_function(|symbol| {
                if let Some(end) = symbol.address.checked_add(symbol.size_bytes)
                    && symbol.size_bytes > 0
                {
                    extents.push(Extent {
                        start: symbol.address,
                        end,
                    });
                }
            });
            if read.is_err() {
                extents.clear();
            }
            extents.sort_unstable();
            extents.dedup();
            extents
        });
        let after = extents.partition_point(|extent| extent.start <= address);
        extents
            .get(after.checked_sub(1)?)
            .copied()
            .filter(|extent| extent.contains(address))
    }

    /// Whether a function symbol names an address, other than as a part of a function that a compiler has put
    /// elsewhere.
    pub(crate) fn begins_symbol(&self, address: u64) -> bool {
        self.symbol_starts().contains(&address)
    }

    /// The addresses in a range that function symbols name.
    pub(crate) fn symbols_within(&self, range: Extent) -> impl Iterator<Item = u64> {
        self.symbol_starts().range(range.start..range.end).copied()
    }

    fn symbol_starts(&self) -> &BTreeSet<u64> {
        self.symbol_starts.get_or_init(|| {
            let mut starts = BTreeSet::new();
            // A broken table: fewer names, so that more code counts as the function's own.
            let read = self.for_each_function(|symbol| {
                // GCC and BOLT, LLVM's basic block sections.
                let is_part = |mark: &[u8]| symbol.name.windows(mark.len()).any(|part| part == mark);
                if !is_part(b".cold") && !is_part(b".__part.") {
                    starts.insert(symbol.address);
                }
            });
            if read.is_err() {
                starts.clear();
            }
            starts
        })
    }

    /// What the dynamic linker puts into the slot at an address (`.got`, `.got.plt`, constant pointers).
    pub(crate) fn slot(&self, address: u64) -> Option<Slot<'d>> {
        let slots = self.slots.get_or_init(|| {
            let mut slots = HashMap::new();
            self.for_each_relocation(|relocation, symbols, strings| {
                if let Some(slot) = slot_of(relocation, symbols, strings) {
                    slots.insert(relocation.r_offset.get(LE), slot);
                }
            });
            slots
        });
        let pointer = || {
            let mut pointers = self.pointers.borrow_mut();
            *pointers
                .entry(address)
                .or_insert_with(|| self.read_pointer(address))
        };
        slots
            .get(&address)
            .copied()
            .or_else(|| pointer().map(Slot::Address))
    }

    /// The address of this file that a slot holds for good: it becomes read-only, or nothing but calls and
    /// jumps through it refers to it.
    fn read_pointer(&self, slot: u64) -> Option<u64> {
        let mut pointer = None;
        let mut is_referred_to = false;
        self.for_each_relocation(|relocation, _, _| {
            if relocation.r_type(LE, false) == elf::R_X86_64_RELATIVE {
                let to = relocation.r_addend.get(LE).cast_unsigned();
                is_referred_to |= to == slot;
                if relocation.r_offset.get(LE) == slot {
                    pointer = Some(to);
                }
            }
        });
        let becomes_constant = self.programs.iter().any(|program| {
            let distance = slot.checked_sub(program.p_vaddr(LE));
            program.p_type(LE) == elf::PT_GNU_RELRO
                && distance.is_some_and(|distance| distance < program.p_memsz(LE))
        });
        pointer.filter(|_| becomes_constant || (!is_referred_to && self.is_only_called(slot)))
    }

    /// Whether no code refers to a slot but by calling or jumping through it, and other files do not know it.
    fn is_only_called(&self, slot: u64) -> bool {
        /// Bytes that may follow the distance in an instruction: none or an immediate.
        const AFTER: [u64; 4] = [0, 1, 2, 4];
        let is_exported = self.sections.iter().any(|section| {
            section.sh_type(LE) == elf::SHT_DYNSYM
                && self.symbol_table(section).is_ok_and(|(symbols, _)| {
                    symbols.iter().any(|symbol| {
                        let distance = slot.checked_sub(symbol.st_value(LE));
                        distance.is_some_and(|distance| distance < symbol.st_size(LE).max(1))
                    })
                })
        });
        if is_exported {
            return false;
        }
        // Byte by byte and not by decoding, which could lose the thread: a chance match costs nothing but
        // the proof.
        self.segments
            .iter()
            .filter(|segment| segment.executable)
            .all(|segment| {
                let Some(code) = self.code(segment.address, segment.size_bytes) else {
                    return false;
                };
                (segment.address + 4..)
                    .zip(code.windows(4))
                    .enumerate()
                    .all(|(at, (end, bytes))| {
                        let Ok(distance) = <[u8; 4]>::try_from(bytes) else {
                            return false;
                        };
                        let to = end.wrapping_add_signed(i32::from_le_bytes(distance).into());
                        let refers = AFTER.iter().any(|after| to.wrapping_add(*after) == slot);
                        !refers || (to == slot && at >= 2 && matches!(code[at - 2..at], [0xff, 0x15 | 0x25]))
                    })
            })
    }

    fn for_each_relocation(
        &self,
        mut visit: impl FnMut(&Rela64<LittleEndian>, &[Sym64<LittleEndian>], &'d [u8]),
    ) {
        for section in self.sections.iter() {
            let Ok(Some((relocations, link))) = section.rela(LE, self.data) else {
                continue;
            };
            // A static executable's name no symbols and link to no table.
            let table = self
                .sections
                .section(link)
                .and_then(|table| self.symbol_table(table));
            let (symbols, strings) = table.unwrap_or_default();
            for relocation in relocations {
                visit(relocation, symbols, strings);
            }
        }
    }
}

/// The address of the unwind entry of the last function that starts at or before an address.
///
/// The sorted table of `.eh_frame_hdr` in the encodings that every linker writes. Searched here, since the
/// search of gimli 0.34 computes with a damaged file's numbers unchecked.
fn unwind_entry(lookup: &[u8], lookup_address: u64, address: u64) -> Option<u64> {
    /// Version 1; pc-relative sdata4 pointer, udata4 count, data-relative sdata4 table.
    const HEAD: &[u8] = &[1, 0x1b, 0x03, 0x3b];
    const TABLE: usize = 12;
    if !lookup.starts_with(HEAD) {
        return None;
    }
    let count = u32::from_le_bytes(lookup.get(8..TABLE)?.try_into().ok()?) as usize;
    let (entries, _) = lookup.get(TABLE..)?.as_chunks::<8>();
    let entries = entries.get(..count)?;
    let relative = |bytes: [u8; 4]| lookup_address.wrapping_add_signed(i32::from_le_bytes(bytes).into());
    let after = entries.partition_point(|[a, b, c, d, ..]| relative([*a, *b, *c, *d]) <= address);
    let [.., a, b, c, d] = *entries.get(after.checked_sub(1)?)?;
    Some(relative([a, b, c, d]))
}

fn slot_of<'d>(
    relocation: &Rela64<LittleEndian>,
    symbols: &[Sym64<LittleEndian>],
    strings: &'d [u8],
) -> Option<Slot<'d>> {
    match relocation.r_type(LE, false) {
        elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT => {
            let symbol = symbols.get(relocation.r_sym(LE, false) as usize)?;
            string_at(strings, symbol.st_name(LE)).map(Slot::Import)
        }
        elf::R_X86_64_IRELATIVE => Some(Slot::Resolved),
        _ => None,
    }
}

fn string_at(strings: &[u8], offset: u32) -> Option<&[u8]> {
    let tail = strings.get(offset as usize..)?;
    tail.get(..tail.iter().position(|byte| *byte == 0)?)
}
