//! Where `CPython` takes a new pool of its object allocator into use, found by what its code does.
//!
//! `allocate_from_new_pool` (`Objects/obmalloc.c`, 3.9 to 3.14) is a local symbol, and stripped builds have none. But
//! nothing else gives a pool its header: it marks one cut from an arena by the size class 0xffff, and sets size class
//! and offsets for a pool of 16 KiB, or of 4 KiB up to 3.9. Every object passes it that finds no room in the pools of
//! its size, also where link-time optimisation has put copies of the allocator's fast path into its callers.
//!
//! Must not know processes, nor what a pool is used for.

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use memchr::memmem;
use object::ReadRef;

use super::image::{Extent, Image};

/// `movl $0xffff,0x24(reg)`, from the displacement on: a pool of no class (`DUMMY_SIZE_IDX`).
const DUMMY_CLASS: &[u8] = &[0x24, 0xff, 0xff, 0, 0];
/// Offsets in `struct pool_header`, the same in all versions: the class, where the next new block is, where the last
/// can be.
const SIZE_CLASS: u64 = 0x24;
const NEXT_OFFSET: u64 = 0x28;
const MAX_NEXT_OFFSET: u64 = 0x2c;
/// Bytes of a pool.
const POOL_BYTES: [u64; 2] = [4 << 10, 16 << 10];
/// The largest request that goes to a pool, less 1: the fast path of the allocator compares with it.
const LARGEST_REQUEST: [u64; 2] = [0x1ff, 0x200];
/// No such function is larger, in bytes.
const LARGEST_FUNCTION: u64 = 8 << 10;

/// Why there is no function to probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPools {
    /// Nothing sets headers of pools up in a way that is known.
    #[error(
        "this interpreter has no function that takes a pool into use: it has another object allocator, or is of an unknown make"
    )]
    None,
    /// The fast path is in the same function: it would be hit for every object.
    #[error("in this build the code that takes a pool into use is part of that which every object passes")]
    Inlined,
    /// There are copies.
    #[error("in this build the code that takes a pool into use is in {0} functions")]
    Copies(usize),
}

/// The function that takes a pool into use and returns its first block.
///
/// # Errors
/// [`NoPools`].
pub(super) fn find<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Result<Extent, NoPools> {
    let mut found: Vec<Extent> = Vec::new();
    let mut is_inlined = false;
    for segment in image.segments().iter().filter(|segment| segment.executable) {
        let Some(code) = image.code(segment.address, segment.size_bytes) else {
            continue;
        };
        for at in memmem::find_iter(code, DUMMY_CLASS) {
            let function = image.extent(segment.address + at as u64);
            let Some(function) = function.filter(|function| !found.contains(function)) else {
                continue;
            };
            match judge(image, function) {
                Some(true) => found.push(function),
                Some(false) => is_inlined = true,
                None => {}
            }
        }
    }
    match found.as_slice() {
        [] if is_inlined => Err(NoPools::Inlined),
        [] => Err(NoPools::None),
        [one] => Ok(*one),
        more => Err(NoPools::Copies(more.len())),
    }
}

/// Whether the allocator's fast path is in `PyObject_Malloc` itself, and so in other callers too. Otherwise that only
/// jumps to the allocator of the moment.
pub(super) fn inlines_objects<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> bool {
    let Some(extent) = image
        .dynamic_symbol(b"PyObject_Malloc")
        .and_then(|address| image.extent(address))
    else {
        return false;
    };
    let code = image.code(extent.start, extent.end.saturating_sub(extent.start));
    code.into_iter()
        .flat_map(|code| Decoder::with_ip(64, code, extent.start, DecoderOptions::NONE))
        .any(|instruction| {
            instruction.mnemonic() == Mnemonic::Cmp
                && immediate(&instruction).is_some_and(|number| LARGEST_REQUEST.contains(&number))
        })
}

/// Whether a function takes pools into use and does nothing else; `None` if it does not at all.
fn judge<'d, R: ReadRef<'d>>(image: &Image<'d, R>, function: Extent) -> Option<bool> {
    let size_bytes = function.end.saturating_sub(function.start);
    if size_bytes > LARGEST_FUNCTION {
        return None;
    }
    let code = image.code(function.start, size_bytes)?;
    let mut seen = Seen::default();
    let mut info = InstructionInfoFactory::new();
    for instruction in Decoder::with_ip(64, code, function.start, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            return None;
        }
        seen.look(&instruction, &mut info);
    }
    seen.takes_pools().then_some(!seen.compares_request)
}

/// What a function does to headers of pools.
#[expect(clippy::struct_excessive_bools, reason = "independent traits of a function")]
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Writes of the class, of the class of none, and of the two offsets.
    class: bool,
    dummy: bool,
    next_offset: bool,
    max_next_offset: bool,
    /// Mentions of a pool's size: as a number, and as a distance to the next pool.
    pool_bytes: bool,
    next_pool: bool,
    /// A request's size is compared with the largest.
    compares_request: bool,
}

impl Seen {
    const fn takes_pools(self) -> bool {
        self.class
            && self.dummy
            && self.next_offset
            && self.max_next_offset
            && self.pool_bytes
            && self.next_pool
    }

    fn look(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        let number = immediate(instruction);
        match instruction.mnemonic() {
            Mnemonic::Mov => self.pool_bytes |= number.is_some_and(|number| POOL_BYTES.contains(&number)),
            Mnemonic::Lea | Mnemonic::Add => {
                let distance = instruction.memory_displacement64();
                self.next_pool |= POOL_BYTES.contains(&distance)
                    || number.is_some_and(|number| POOL_BYTES.contains(&number));
            }
            Mnemonic::Cmp => {
                self.compares_request |= number.is_some_and(|number| LARGEST_REQUEST.contains(&number));
            }
            _ => {}
        }
        for used in info.info(instruction).used_memory() {
            let writes = matches!(used.access(), OpAccess::Write | OpAccess::ReadWrite);
            if !writes || used.base() == Register::RIP || used.base() == Register::RSP {
                continue;
            }
            match used.displacement() {
                SIZE_CLASS if number == Some(0xffff) => self.dummy = true,
                SIZE_CLASS => self.class = true,
                NEXT_OFFSET => self.next_offset = true,
                MAX_NEXT_OFFSET => self.max_next_offset = true,
                _ => {}
            }
        }
    }
}

/// The number that an instruction carries in its second operand.
fn immediate(instruction: &Instruction) -> Option<u64> {
    let has = instruction.op_count() == 2
        && matches!(
            instruction.op1_kind(),
            OpKind::Immediate8
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        );
    has.then(|| instruction.immediate(1))
}
