//! Unwind tables as both sides of the kernel boundary see them: how to get from the frame of a return address to
//! the frame that called it, for every place in a file from which a call is made.
//!
//! A file's code is cut into pages of 64 KiB. A page has its rows, sorted by address: a row says which rule holds
//! from its address on. Rules are few and shared by all files. A process's *layout* says which file's pages are
//! mapped where. Everything lives in arrays that user space maps and writes by plain stores; a layout becomes
//! valid by one store of 64 bits. Must not know ELF or DWARF.

/// log2 of the bytes of code in a page.
pub const PAGE_BITS: u32 = 16;

/// Rows of a chunk: the rows lie in an array of chunks, and those of one page never in two.
pub const CHUNK_ROWS: usize = 1 << 16;

/// Chunks that the array is declared with; the loader sets how many there are.
pub const CHUNKS: usize = 16;

/// Pages of all files together: 4 GiB of code.
pub const PAGES: usize = 1 << 16;

/// Distinct rules of all files together. Fifteen large files of Debian 12 have 1665.
pub const RULES: usize = 1 << 14;

/// Most rows of one page: the search takes [`SEARCH_STEPS`] steps.
pub const PAGE_ROWS_MAX: usize = (1 << SEARCH_STEPS) - 1;

/// Steps of the search in a page.
pub const SEARCH_STEPS: u32 = 13;

/// Mappings of all layouts together, as declared; the loader sets how many there are.
pub const MAPPINGS: usize = 1 << 14;

/// Most mappings of one layout.
pub const LAYOUT_MAPPINGS_MAX: usize = (1 << MAPPING_STEPS) - 1;

/// Steps of the search in a layout.
pub const MAPPING_STEPS: u32 = 12;

/// Layouts: one a traced process.
pub const LAYOUTS: usize = 1 << 12;

/// From its address on, a rule holds: address within the page in the upper 16 bits, number of the rule in the
/// lower. Rows compare as their addresses do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Row(pub u32);

impl Row {
    /// From `offset` bytes into the page on, rule `rule` holds.
    pub const fn new(offset: u16, rule: u16) -> Self {
        Self((offset as u32) << 16 | rule as u32)
    }

    /// Bytes from the page's start.
    pub const fn offset(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Number of the rule.
    pub const fn rule(self) -> u16 {
        self.0 as u16
    }

    /// The greatest row at or before `offset`.
    pub const fn last_at(offset: u16) -> Self {
        Self::new(offset, u16::MAX)
    }
}

/// Where the rows of a page are. 0 for a page without rows: all of it is a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Page(pub u64);

impl Page {
    /// `count` rows, 1 to [`PAGE_ROWS_MAX`], from `first` on in chunk `chunk`. The first of them has offset 0.
    pub const fn new(chunk: u16, first: u16, count: u16) -> Self {
        Self((chunk as u64) << 32 | (first as u64) << 16 | count as u64)
    }

    /// Number of the chunk.
    pub const fn chunk(self) -> u32 {
        (self.0 >> 32) as u32 & 0xffff
    }

    /// Index of the first row in the chunk.
    pub const fn first(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// How many rows.
    pub const fn count(self) -> u16 {
        self.0 as u16
    }
}

/// How to get from a frame to the one that called it. The return address is at CFA - 8, and the caller's stack
/// pointer is the CFA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Rule {
    /// What it means depends on `cfa`.
    pub cfa_offset: i32,
    /// What it means depends on `rbp`.
    pub rbp_offset: i16,
    /// How the CFA is found, or why there is none: one of [`cfa`].
    pub cfa: u8,
    /// Where the caller's rbp is: one of [`rbp`].
    pub rbp: u8,
}

/// Kinds of [`Rule::cfa`].
pub mod cfa {
    /// Nothing is known of this code: by frame pointer, if there is one.
    pub const GAP: u8 = 0;
    /// rsp + `cfa_offset`.
    pub const RSP: u8 = 1;
    /// rbp + `cfa_offset`.
    pub const RBP: u8 = 2;
    /// The word at rsp + (`cfa_offset` >> 8), plus the low 8 bits of `cfa_offset`.
    pub const AT_RSP: u8 = 3;
    /// The word at rbp + (`cfa_offset` >> 8), plus the low 8 bits of `cfa_offset`.
    pub const AT_RBP: u8 = 4;
    /// A stub of the procedure linkage table: rsp + 8, and 8 more from the 11th byte of each 16 on.
    pub const PLT: u8 = 5;
    /// The outermost frame: its return address is undefined.
    pub const END: u8 = 6;
    /// The code that a signal handler returns to: the interrupted frame's registers lie on the stack.
    pub const SIGNAL: u8 = 7;
    /// There is a rule, and it is none of the above.
    pub const UNSUPPORTED: u8 = 8;
}

/// Kinds of [`Rule::rbp`].
pub mod rbp {
    /// It still has the caller's value.
    pub const SAME: u8 = 0;
    /// The word at CFA + `rbp_offset`.
    pub const AT_CFA: u8 = 1;
    /// The word at rbp + `rbp_offset`.
    pub const AT_RBP: u8 = 2;
}

/// A stretch of code in a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CodeMapping {
    /// First address.
    pub begin: u64,
    /// First address after it.
    pub end: u64,
    /// What to take from an address to have the one that the file's tables are made for (ELF virtual address).
    pub bias: u64,
    /// Index in the array of pages of the file's first page.
    pub page_base: u32,
    /// Number (address >> [`PAGE_BITS`]) of the file's first page.
    pub first_page: u32,
    /// How many pages the file has.
    pub page_count: u32,
    /// One of [`mapping`].
    pub kind: u32,
}

/// Kinds of [`CodeMapping`].
pub mod mapping {
    /// The file's tables are there.
    pub const TABLE: u32 = 0;
    /// Code without tables, by its nature: made at run time, or its file has none. By frame pointer.
    pub const FRAME_POINTER: u32 = 1;
    /// Its tables are not there yet, or could not be kept.
    pub const PENDING: u32 = 2;
}

/// The layout that a process image has now, in one word, so that it changes at once. 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Layout(pub u64);

impl Layout {
    /// Nothing is known.
    pub const NONE: Self = Self(0);

    /// `count` mappings, up to [`LAYOUT_MAPPINGS_MAX`], sorted, from `first` on in the array of mappings.
    /// `generation`, of which 24 bits are kept, is another for each layout that is ever published and not 0;
    /// `epoch` is that of its slot ([`LayoutSlot::epoch`]).
    pub const fn new(generation: u32, epoch: u8, first: u32, count: u16) -> Self {
        Self(
            (generation as u64 & 0xff_ffff) << 40
                | (epoch as u64) << 32
                | (first as u64 & 0xf_ffff) << 12
                | count as u64 & 0xfff,
        )
    }

    /// Which layout it is.
    pub const fn generation(self) -> u32 {
        (self.0 >> 40) as u32
    }

    /// From which epoch of its slot it is.
    pub const fn epoch(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Index of its first mapping.
    pub const fn first(self) -> u32 {
        (self.0 >> 12) as u32 & 0xf_ffff
    }

    /// How many it has.
    pub const fn count(self) -> u32 {
        self.0 as u32 & 0xfff
    }
}

/// A slot of the array of layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LayoutSlot {
    /// The [`Layout`]. User space writes it; the kernel side sets it to [`Layout::NONE`] at `exec`.
    pub layout: u64,
    /// Not 0 when user space has been told that an address is in no mapping of it; user space clears it.
    pub asked: u32,
    /// Stacks that may still be sent to user space to be finished; it grants more from time to time.
    pub raw_left: u32,
    /// How often the dynamic linker has begun or finished unmapping libraries: odd in between. The kernel side counts.
    pub closes: u32,
    /// Always 0.
    pub pad: u32,
}

impl LayoutSlot {
    /// What a layout must be from to hold: 8 bits of the image's number and of [`Self::closes`] together. User space
    /// makes a layout from what it knew of both, and neither ever falls, so an old one is told by its epoch.
    pub const fn epoch(image: u16, closes: u32) -> u8 {
        (image as u32).wrapping_add(closes) as u8
    }
}

/// `r_debug.r_state` of the dynamic linker (glibc's <link.h>; what debuggers watch).
pub mod linker {
    /// Offset in `struct r_debug`.
    pub const STATE_OFFSET: u64 = 24;
    /// What is mapped is in order.
    pub const CONSISTENT: u32 = 0;
    /// Libraries are about to be unmapped.
    pub const DELETE: u32 = 2;
}

/// A rule that was found before, by return address. Kept per CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Found {
    /// The return address.
    pub address: u64,
    /// [`Layout::generation`] it was found under.
    pub generation: u32,
    /// Number of the rule, or one of [`found`].
    pub rule: u32,
}

/// Values of [`Found::rule`] that are no rule's number.
pub mod found {
    /// Code of a mapping without tables.
    pub const FRAME_POINTER: u32 = 1 << 16;
    /// In a mapping whose tables are not there.
    pub const PENDING: u32 = 1 << 17;
    /// In no mapping.
    pub const UNKNOWN: u32 = 1 << 18;
}

/// Words of stack that are read at once. A read costs some 100 ns and each word little more.
pub const WINDOW_WORDS: usize = 128;

/// Rules that a CPU remembers.
pub const FOUND: usize = 1 << 11;

/// How the walk of a stack ended: the low [`END_BITS`] bits of a stack's id.
pub mod end {
    /// At the outermost frame.
    pub const COMPLETE: u64 = 0;
    /// At code of which nothing is known.
    pub const GAP: u64 = 1;
    /// At an address in no known mapping, or in a file whose tables were not there.
    pub const UNKNOWN_MAPPING: u64 = 2;
    /// Memory of the stack could not be read, or did not make sense.
    pub const FAULT: u64 = 3;
    /// At the bound of frames.
    pub const TOO_DEEP: u64 = 4;
    /// At a rule that the kernel side does not follow.
    pub const UNSUPPORTED: u64 = 5;
    /// Walked by frame pointers alone: whether it is all is not known.
    pub const FRAME_POINTERS: u64 = 6;
}

/// Bits of a stack's id that say how its walk ended.
pub const END_BITS: u32 = 3;

/// How the walk of the stack with this id ended: one of [`end`].
pub const fn end_of(stack_id: u64) -> u64 {
    stack_id & ((1 << END_BITS) - 1)
}

/// Most bytes of stack that are sent to user space, where the kernel side cannot go on or is to be checked.
pub const RAW_BYTES_MAX: usize = 32 << 10;

/// Bytes that room is made for where a stack is no deeper, as most are not.
pub const RAW_BYTES_FEW: usize = 8 << 10;

/// What comes before the bytes of a stack that user space is to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RawHeader {
    /// Id of the stack, under which the frames found so far are in the table of stacks.
    pub stack_id: u64,
    /// The process.
    pub tgid: u32,
    /// Its image.
    pub image: u16,
    /// What it is for: one of [`raw`].
    pub kind: u16,
    /// Address in the frame to go on from: the last one that the kernel side has kept.
    pub address: u64,
    /// Stack pointer there; the bytes begin at [`raw_base`] of it.
    pub sp: u64,
    /// rbp there.
    pub bp: u64,
    /// How many of the bytes are set.
    pub len: u64,
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
}

/// Address of the first byte of a raw stack: the stack is read by windows, and one that is aligned lies in one page.
pub const fn raw_base(sp: u64) -> u64 {
    sp & !(size_of::<[u64; WINDOW_WORDS]>() as u64 - 1)
}

/// A stack for user space to walk: the stretch of it from the stack pointer upwards.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct RawStack<const BYTES: usize> {
    /// See [`RawHeader`].
    pub header: RawHeader,
    /// The stack.
    pub bytes: [u8; BYTES],
}

/// Kinds of [`RawHeader`].
pub mod raw {
    /// The walk is to go on from a return address.
    pub const FRAME: u16 = 0;
    /// From an instruction, at which a signal has interrupted the frame.
    pub const INTERRUPTED: u16 = 1;
    /// Only to check the kernel side's walk: the frame is that of the probed function's caller.
    pub const VERIFY: u16 = 2;
}

/// Offsets in `struct ucontext`, which the kernel puts on the stack of a signal handler, of the interrupted frame's
/// registers (arch/x86/include/uapi/asm/ucontext.h and sigcontext.h: 40 bytes before `uc_mcontext`).
pub mod ucontext {
    /// rbp
    pub const RBP: u64 = 120;
    /// rsp
    pub const RSP: u64 = 160;
    /// rip
    pub const RIP: u64 = 168;
}

/// Where the kernel keeps the return addresses that return probes have replaced: offsets in its structures, from its
/// BTF. All zero where they are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ReturnProbes {
    /// `task_struct.utask`
    pub task_utask: u32,
    /// `uprobe_task.return_instances`
    pub utask_instances: u32,
    /// `return_instance.stack`: where on the stack the return address was.
    pub instance_stack: u32,
    /// `return_instance.orig_ret_vaddr`: the return address.
    pub instance_address: u32,
    /// `return_instance.next`: that of the function around it.
    pub instance_next: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `mm_struct.uprobes_state.xol_area`
    pub mm_xol_area: u32,
    /// `xol_area.vaddr`: the address that stands in their place.
    pub xol_vaddr: u32,
}

const _: () = assert!(size_of::<Rule>() == 8);
const _: () = assert!(size_of::<CodeMapping>() == 40);
const _: () = assert!(size_of::<LayoutSlot>() == 24);
const _: () = assert!(size_of::<Found>() == 16);
// A per-CPU value may have 32 KiB (kernel, mm/percpu: PCPU_MIN_UNIT_SIZE).
const _: () = assert!(size_of::<[Found; FOUND]>() <= 32 << 10);
const _: () = assert!(size_of::<RawStack<RAW_BYTES_MAX>>() == size_of::<RawHeader>() + RAW_BYTES_MAX);
const _: () = assert!(size_of::<RawHeader>() == 56);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_what_is_put_into_them() {
        let page = Page::new(0xffff, 0xfffe, 8191);
        assert_eq!((page.chunk(), page.first(), page.count()), (0xffff, 0xfffe, 8191));
        let layout = Layout::new(0xff_fffe, 0xab, 0xf_fffd, 4095);
        assert_eq!((layout.generation(), layout.epoch()), (0xff_fffe, 0xab));
        assert_eq!((layout.first(), layout.count()), (0xf_fffd, 4095));
        let row = Row::new(0xfff0, 0x3fff);
        assert_eq!((row.offset(), row.rule()), (0xfff0, 0x3fff));
        assert!(row <= Row::last_at(0xfff0) && row > Row::last_at(0xffef));
    }
}
