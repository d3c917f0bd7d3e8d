//! What the code of a function says about how it ends: its `ret` instructions, and whether every call
//! of it ends up in another function that is probed anyway.
//!
//! A return probe replaces the return address on the stack; the unwinder does not know the address it
//! finds there and ends the process when an exception passes. A function that can throw is therefore
//! probed at its `ret` instructions, but only if all of them are proven to be known. x86-64 only. Must
//! not know which functions are allocators: the caller says so through [`Handover`].

use std::collections::{BTreeSet, HashSet};

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction};
use object::ReadRef;

use super::branch::{Target, is_padding, target};
use super::image::{Extent, Image};

/// Pieces of code that one function may be spread over.
pub(super) const MAX_PIECES: usize = 64;
/// Bytes of code looked at for one function.
pub(super) const MAX_CODE_BYTES: u64 = 256 * 1024;
/// Instructions followed for one function.
pub(super) const MAX_INSTRUCTIONS: usize = 65_536;

/// A probed function that takes a call over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taker {
    /// Its symbol.
    pub(crate) name: String,
    /// Its address, if it is in this file.
    pub(crate) address: Option<u64>,
}

/// Tells which other functions are probed and may take a call over.
pub(crate) struct Handover<'a> {
    /// The function at an address of this file.
    pub(crate) by_address: &'a dyn Fn(u64) -> Option<Taker>,
    /// A function bound by the dynamic linker.
    pub(crate) by_name: &'a dyn Fn(&[u8]) -> Option<Taker>,
}

/// Why the `ret` instructions of a function are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unproven {
    #[error("its code at {0:#x} cannot be read")]
    Unreadable(u64),
    #[error("the instruction at {0:#x} cannot be decoded")]
    Undecodable(u64),
    #[error("it jumps to an address taken from a register or table at {0:#x}")]
    IndirectJump(u64),
    #[error("it runs on past its end at {0:#x}")]
    RunsOut(u64),
    #[error("it goes on in {0}, outside this file")]
    Leaves(String),
    #[error("nothing says how far the code at {0:#x} reaches")]
    NoExtent(u64),
    #[error("it is spread over too much code")]
    TooLarge,
    #[error("it never returns")]
    NoReturn,
}

/// File offsets of every `ret` that a call of the function can end with, calls that end in a probed
/// function left out.
///
/// The function is decoded as a whole, not path by path: a `ret` that is never reached costs nothing,
/// one that is missed loses a block.
pub(crate) fn instructions<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    function: Extent,
    handover: &Handover<'_>,
) -> Result<Vec<u64>, Unproven> {
    let mut pieces = vec![function];
    let mut next = 0;
    let mut bytes = 0;
    let mut offsets = BTreeSet::new();
    while let Some(piece) = pieces.get(next).copied() {
        next += 1;
        bytes += piece.end.saturating_sub(piece.start);
        if next > MAX_PIECES || bytes > MAX_CODE_BYTES {
            return Err(Unproven::TooLarge);
        }
        for target in scan_piece(image, piece, handover, &mut offsets)? {
            if !pieces.iter().any(|known| known.contains(target)) {
                let extent = image.extent(target).ok_or(Unproven::NoExtent(target))?;
                pieces.push(extent);
            }
        }
    }
    if offsets.is_empty() {
        return Err(Unproven::NoReturn);
    }
    Ok(offsets.into_iter().collect())
}

/// Collects the returns of one piece; gives the addresses it jumps to outside of itself.
fn scan_piece<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    piece: Extent,
    handover: &Handover<'_>,
    offsets: &mut BTreeSet<u64>,
) -> Result<Vec<u64>, Unproven> {
    let size_bytes = piece.end.saturating_sub(piece.start);
    let code = image
        .code(piece.start, size_bytes)
        .filter(|code| code.len() as u64 == size_bytes && size_bytes > 0)
        .ok_or(Unproven::Unreadable(piece.start))?;
    let mut leaves = Vec::new();
    let mut decoder = Decoder::with_ip(64, code, piece.start, DecoderOptions::NONE);
    let mut last = FlowControl::Return;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let at = instruction.ip();
        if instruction.is_invalid() {
            return Err(Unproven::Undecodable(at));
        }
        // Padding after the last instruction is no way out.
        if !is_padding(&instruction) {
            last = instruction.flow_control();
        }
        match instruction.flow_control() {
            FlowControl::Return => {
                if !matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16) {
                    return Err(Unproven::Undecodable(at));
                }
                offsets.insert(image.code_offset(at).ok_or(Unproven::Unreadable(at))?);
            }
            FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch
            | FlowControl::IndirectBranch => {
                leaves.extend(way_out(image, piece, &instruction, handover)?);
            }
            FlowControl::XbeginXabortXend => return Err(Unproven::IndirectJump(at)),
            FlowControl::Next
            | FlowControl::Call
            | FlowControl::IndirectCall
            | FlowControl::Interrupt
            | FlowControl::Exception => {}
        }
    }
    // A call at the very end is one that does not return (throw, abort).
    if matches!(last, FlowControl::Next | FlowControl::ConditionalBranch) {
        return Err(Unproven::RunsOut(piece.end));
    }
    Ok(leaves)
}

/// Where a jump leads, if it leaves the piece and no probed function takes over.
fn way_out<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    piece: Extent,
    jump: &Instruction,
    handover: &Handover<'_>,
) -> Result<Option<u64>, Unproven> {
    match target(image, jump) {
        Target::Unknown => Err(Unproven::IndirectJump(jump.ip())),
        Target::Resolved => Err(Unproven::Leaves(
            "a function that is picked when the file is loaded".to_owned(),
        )),
        Target::Import(name) => match ((handover.by_name)(&name), image.definition(&name)) {
            (Some(_), _) => Ok(None),
            // tcmalloc leaves for its own exported slow path. Should the name be bound to another
            // object's function all the same, the call is lost and counted, and nothing is harmed.
            (None, Some(address)) => Ok((!piece.contains(address)).then_some(address)),
            (None, None) => Err(Unproven::Leaves(String::from_utf8_lossy(&name).into_owned())),
        },
        Target::Address(address) if piece.contains(address) => Ok(None),
        Target::Address(address) => Ok((handover.by_address)(address).is_none().then_some(address)),
    }
}

/// The probed function that a function jumps to with its first instruction, all arguments untouched,
/// if `accept` finds it reads them in the same way.
pub(crate) fn thunk_to<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    function: Extent,
    handover: &Handover<'_>,
    accept: impl Fn(&Taker) -> bool,
) -> Option<Taker> {
    let code = image.code(function.start, 16)?;
    let jump = Decoder::with_ip(64, code, function.start, DecoderOptions::NONE)
        .into_iter()
        .find(|instruction| instruction.code() != Code::Endbr64)?;
    if !matches!(
        jump.flow_control(),
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
    ) {
        return None;
    }
    taker_of(image, &jump, handover).filter(accept)
}

/// The probed function that every call passes through before it can return, if there is one: then the
/// call is seen there and needs no probe of its own. A path is followed up to the first such function: what
/// happens when that one fails (a new handler that makes room, then another way to allocate) is not.
pub(crate) fn covered_by<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    function: Extent,
    handover: &Handover<'_>,
) -> Option<Taker> {
    let mut taken = None;
    let mut seen = HashSet::new();
    let mut paths = vec![function.start];
    while let Some(start) = paths.pop() {
        let piece = if function.contains(start) {
            function
        } else {
            image.extent(start)?
        };
        let code = image.code(start, piece.end.saturating_sub(start))?;
        let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
        loop {
            if !decoder.can_decode() {
                return None;
            }
            let instruction = decoder.decode();
            if instruction.is_invalid() || seen.len() > MAX_INSTRUCTIONS {
                return None;
            }
            if !seen.insert(instruction.ip()) {
                break;
            }
            let flow = instruction.flow_control();
            if !matches!(flow, FlowControl::Next | FlowControl::Exception)
                && let Some(taker) = taker_of(image, &instruction, handover)
            {
                taken.get_or_insert(taker);
                if flow == FlowControl::ConditionalBranch {
                    continue;
                }
                break;
            }
            match flow {
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {}
                FlowControl::ConditionalBranch => paths.push(instruction.near_branch_target()),
                FlowControl::UnconditionalBranch => {
                    paths.push(instruction.near_branch_target());
                    break;
                }
                FlowControl::Exception => break,
                FlowControl::Return
                | FlowControl::IndirectBranch
                | FlowControl::Interrupt
                | FlowControl::XbeginXabortXend => return None,
            }
        }
    }
    taken
}

/// The probed function that a jump or call leads to.
fn taker_of<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    branch: &Instruction,
    handover: &Handover<'_>,
) -> Option<Taker> {
    match target(image, branch) {
        Target::Address(address) => (handover.by_address)(address),
        Target::Import(name) => (handover.by_name)(&name),
        Target::Resolved | Target::Unknown => None,
    }
}
