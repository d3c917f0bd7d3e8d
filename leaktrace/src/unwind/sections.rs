//! What a file itself says about the unwinding of its code, for framehop and for the question whether a frame is the
//! outermost. Must not know processes, nor the tables that are made for the kernel: it is what those are checked by.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, sync::Arc};

use framehop::{ExplicitModuleSectionInfo, Module};
use gimli::{
    BaseAddresses, DebugFrame, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, RegisterRule, UnwindContext,
    UnwindSection, X86_64,
};
use object::{Object as _, ObjectSection as _, ObjectSegment as _, ReadRef, SegmentFlags, elf::PF_X};

use super::build::Cursor;

/// Bytes that a section of unwind information may have.
const SECTION_BYTES_MAX: u64 = 512 << 20;

/// Bytes of the start code of a program, which has no unwind information where it is written by hand.
const START_CODE_BYTES: u64 = 64;

const PAGE_MASK: u64 = 0xfff;

/// A section's bytes, shared by the processes that map the file.
pub(super) type Bytes = Arc<[u8]>;

/// A section and where it lies (ELF virtual addresses).
#[derive(Clone, Debug, Default)]
struct Section {
    addresses: Range<u64>,
    bytes: Option<Bytes>,
}

/// An executable segment: file offset, ELF virtual address, bytes in the file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    file_offset: u64,
    address: u64,
    size_bytes: u64,
}

/// A file's unwind information.
#[derive(Debug)]
pub(super) struct Sections {
    /// Lowest address of a segment, rounded down to the page.
    base: u64,
    /// Where the program begins; 0 for none.
    entry: u64,
    code: Vec<Segment>,
    text: Range<u64>,
    got: Range<u64>,
    eh_frame: Section,
    eh_frame_hdr: Section,
    debug_frame: Option<Bytes>,
}

/// What a file says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing.
    Nothing,
    /// How to leave its frame.
    Rule,
    /// That its frame has no caller.
    Outermost,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SectionsError {
    /// It is no ELF file, or a broken one.
    #[error("no readable ELF file: {0}")]
    Elf(#[from] object::Error),
    /// It could not be read.
    #[error("{0}")]
    Read(#[from] io::Error),
}

impl Sections {
    /// Of an open file.
    pub(super) fn of_file(file: &File) -> Result<Self, SectionsError> {
        let size_bytes = file.metadata()?.len();
        let cache = object::ReadCache::new(Cursor::new(file));
        Self::read(&cache, |offset, size| {
            if size > SECTION_BYTES_MAX || offset.checked_add(size).is_none_or(|end| end > size_bytes) {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(Bytes::from(bytes))
        })
    }

    /// Of a file that lies in memory.
    pub(super) fn of_bytes(elf: &[u8]) -> Result<Self, SectionsError> {
        Self::read(elf, |offset, size| {
            let end = offset.checked_add(size);
            end.and_then(|end| elf.get(offset as usize..end as usize))
                .map(Bytes::from)
                .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        })
    }

    fn read<'d>(
        data: impl ReadRef<'d>,
        bytes_at: impl Fn(u64, u64) -> io::Result<Bytes>,
    ) -> Result<Self, SectionsError> {
        let elf = object::File::parse(data)?;
        let addresses = |name: &str| {
            elf.section_by_name(name)
                .map(|section| section.address()..section.address().saturating_add(section.size()))
        };
        let section = |name: &str| -> Result<Section, SectionsError> {
            let Some(section) = elf.section_by_name(name) else {
                return Ok(Section::default());
            };
            let bytes = match section.file_range() {
                // A compressed section's range is not what its flags say.
                Some((offset, size))
                    if section.compressed_file_range()?.format == object::CompressionFormat::None =>
                {
                    Some(bytes_at(offset, size)?)
                }
                _ => Some(Bytes::from(&*section.uncompressed_data()?)),
            };
            Ok(Section {
                addresses: section.address()..section.address().saturating_add(section.size()),
                bytes: bytes.filter(|bytes| !bytes.is_empty()),
            })
        };
        let segments = elf.segments();
        let base = segments.map(|segment| segment.address()).min().unwrap_or(0) & !PAGE_MASK;
        let code = elf.segments().filter_map(|segment| {
            let (file_offset, size_bytes) = segment.file_range();
            let executable =
                matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.contains(PF_X));
            executable.then(|| Segment {
                file_offset,
                address: segment.address(),
                size_bytes,
            })
        });
        let eh_frame = section(".eh_frame")?;
        let debug_frame = match &eh_frame.bytes {
            None => section(".debug_frame")?.bytes,
            Some(_) => None,
        };
        Ok(Self {
            base,
            entry: elf.entry(),
            code: code.collect(),
            text: addresses(".text").unwrap_or_default(),
            got: addresses(".got").unwrap_or_default(),
            eh_frame_hdr: section(".eh_frame_hdr")?,
            eh_frame,
            debug_frame,
        })
    }

    /// What to take from an address in a mapping of the file, of which `start` is the first address and
    /// `file_offset` the offset there, to have the ELF virtual address. Segments are mapped by whole pages, and some
    /// linkers (lld, mold) do not begin them at one.
    pub(super) fn bias(&self, start: u64, file_offset: u64) -> Option<u64> {
        let segment = self.code.iter().find(|segment| {
            let end = segment.file_offset.saturating_add(segment.size_bytes);
            (segment.file_offset & !PAGE_MASK..end).contains(&file_offset)
        })?;
        Some(
            start
                .wrapping_sub(file_offset)
                .wrapping_add(segment.file_offset)
                .wrapping_sub(segment.address),
        )
    }

    /// The file as mapped at `addresses` with this bias, for framehop.
    pub(super) fn module(&self, name: &str, addresses: Range<u64>, bias: u64) -> Module<Bytes> {
        let some = |range: &Range<u64>| Some(range.clone()).filter(|range| !range.is_empty());
        let info = ExplicitModuleSectionInfo {
            base_svma: self.base,
            text_svma: some(&self.text),
            got_svma: some(&self.got),
            eh_frame_svma: some(&self.eh_frame.addresses),
            eh_frame: self.eh_frame.bytes.clone(),
            eh_frame_hdr_svma: some(&self.eh_frame_hdr.addresses),
            eh_frame_hdr: self.eh_frame_hdr.bytes.clone(),
            debug_frame: self.debug_frame.clone(),
            ..ExplicitModuleSectionInfo::default()
        };
        Module::new(name.to_owned(), addresses, bias.wrapping_add(self.base), info)
    }

    /// What the file says of an ELF virtual address.
    pub(super) fn said_of(&self, address: u64) -> Said {
        let said = match (&self.eh_frame.bytes, &self.debug_frame) {
            (Some(bytes), _) => self.said_by_eh_frame(bytes, address),
            (None, Some(bytes)) => said_by(
                &DebugFrame::from(EndianSlice::new(bytes, LittleEndian)),
                &self.bases(),
                address,
            ),
            (None, None) => Said::Nothing,
        };
        let start_code = self.entry..self.entry.saturating_add(START_CODE_BYTES);
        if said == Said::Nothing && self.entry != 0 && start_code.contains(&address) {
            return Said::Outermost;
        }
        said
    }

    fn bases(&self) -> BaseAddresses {
        BaseAddresses::default()
            .set_eh_frame(self.eh_frame.addresses.start)
            .set_eh_frame_hdr(self.eh_frame_hdr.addresses.start)
            .set_text(self.text.start)
            .set_got(self.got.start)
    }

    fn said_by_eh_frame(&self, bytes: &[u8], address: u64) -> Said {
        let section = EhFrame::from(EndianSlice::new(bytes, LittleEndian));
        let bases = self.bases();
        let header = self.eh_frame_hdr.bytes.as_deref();
        let header = header.and_then(|bytes| EhFrameHdr::new(bytes, LittleEndian).parse(&bases, 8).ok());
        let Some(table) = header.as_ref().and_then(gimli::ParsedEhFrameHdr::table) else {
            return said_by(&section, &bases, address);
        };
        let mut context = UnwindContext::new();
        let row = table.unwind_info_for_address(
            &section,
            &bases,
            &mut context,
            address,
            UnwindSection::cie_from_offset,
        );
        row.map_or(Said::Nothing, said_in)
    }
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Looks at every entry of the section: only for files without an index.
fn said_by<'a>(section: &impl UnwindSection<Slice<'a>>, bases: &BaseAddresses, address: u64) -> Said {
    let mut context = UnwindContext::new();
    section
        .unwind_info_for_address(bases, &mut context, address, UnwindSection::cie_from_offset)
        .map_or(Said::Nothing, said_in)
}

fn said_in(row: &gimli::UnwindTableRow<usize>) -> Said {
    match row.register(X86_64::RA) {
        None | Some(RegisterRule::Undefined) => Said::Outermost,
        Some(_) => Said::Rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Sections {
        Sections::of_file(&File::open("/proc/self/exe").unwrap()).unwrap()
    }

    #[test]
    fn a_program_says_how_to_leave_its_functions_and_where_it_begins() {
        let sections = own();
        assert!(sections.eh_frame.bytes.is_some() && sections.eh_frame_hdr.bytes.is_some());
        assert_eq!(sections.said_of(sections.entry + 1), Said::Outermost);
        // Some way into the code, all of it is functions of compilers.
        let code = sections.text.start + (sections.text.end - sections.text.start) / 2;
        assert!((code..code + 256).any(|address| sections.said_of(address) == Said::Rule));
        assert_eq!(sections.said_of(0), Said::Nothing);
    }

    #[test]
    fn without_its_index_a_section_says_the_same() {
        let mut sections = own();
        let address = sections.entry + 1;
        sections.eh_frame_hdr.bytes = None;
        assert_eq!(sections.said_of(address), Said::Outermost);
    }

    #[test]
    fn mappings_begin_at_pages_where_segments_do_not() {
        let mut sections = own();
        sections.code = vec![Segment {
            file_offset: 0x1640,
            address: 0x2640,
            size_bytes: 0x3000,
        }];
        // Mapped with offset 0x1000 at 0x5555_0000_2000: its first byte is at 0x2640 above the bias.
        assert_eq!(sections.bias(0x5555_0000_2000, 0x1000), Some(0x5555_0000_0000));
        assert_eq!(sections.bias(0x5555_0000_3000, 0x2000), Some(0x5555_0000_0000));
        assert_eq!(sections.bias(0x5555_0000_2000, 0x5000), None);
    }

    #[test]
    fn what_is_no_elf_file_is_an_error() {
        assert!(Sections::of_bytes(b"").is_err());
        assert!(
            Sections::of_bytes(b"\x7fELF broken from here on, and not short of bytes either...........")
                .is_err()
        );
    }
}
