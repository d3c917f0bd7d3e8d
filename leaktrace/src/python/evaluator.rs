//! The code in which an interpreter runs Python's: a frame of it on a native stack stands for Python frames. It is one
//! function, of which compilers put the parts that seldom run elsewhere. Must not know versions or processes.

use std::{collections::BTreeSet, ops::Range};

use iced_x86::{Decoder, DecoderOptions, FlowControl, OpKind};
use object::ReadRef;

use crate::probe::image::{Extent, Image};

/// The function.
const EVALUATOR: &[u8] = b"_PyEval_EvalFrameDefault";

/// Where 3.14 is built with tail calls, there is one function an instruction (Python/ceval.c).
const TAIL_CALLED: &[u8] = b"_TAIL_CALL_";

/// Bytes of the largest function or part that is decoded; that of 3.13 has 60 KiB.
const CODE_BYTES_MAX: u64 = 1 << 20;

/// All of it, in order of address, none overlapping.
///
/// # Errors
/// When a symbol table points outside the file.
pub(super) fn find<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> object::Result<Vec<Range<u64>>> {
    let mut parts = BTreeSet::new();
    let mut hot = None;
    image.for_each_function(|symbol| {
        let is_evaluator = symbol.name.starts_with(EVALUATOR);
        if !is_evaluator && !symbol.name.starts_with(TAIL_CALLED) {
            return;
        }
        let end = symbol.address.saturating_add(symbol.size_bytes);
        // What follows the name is what the compiler has made of it: `.cold`, `.part.0`, `.localalias`.
        if symbol.name == EVALUATOR {
            hot = Some((symbol.address, end));
        }
        if symbol.size_bytes > 0 {
            parts.insert((symbol.address, end));
        }
    })?;
    if let Some((start, end)) = hot {
        let extent = image.extent(start).unwrap_or(Extent { start, end });
        parts.insert((extent.start, extent.end));
        parts.extend(elsewhere(image, extent).map(|part| (part.start, part.end)));
    }
    Ok(joined(parts))
}

/// The parts that a function jumps to: they are no function of their own if what they jump to is amid it, or if it jumps
/// amid them.
fn elsewhere<'d, R: ReadRef<'d>>(image: &Image<'d, R>, hot: Extent) -> impl Iterator<Item = Extent> {
    let amid = |extent: Extent, address: u64| extent.contains(address) && address != extent.start;
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for target in jumps(image, hot) {
        let Some(part) = image.extent(target).filter(|part| !part.contains(hot.start)) else {
            continue;
        };
        let is_new = seen.insert((part.start, amid(part, target)));
        if is_new && (amid(part, target) || jumps(image, part).into_iter().any(|back| amid(hot, back))) {
            found.push(part);
        }
    }
    found.into_iter()
}

/// Where the jumps of a stretch of code lead outside of it.
fn jumps<'d, R: ReadRef<'d>>(image: &Image<'d, R>, extent: Extent) -> BTreeSet<u64> {
    let size_bytes = (extent.end - extent.start).min(CODE_BYTES_MAX);
    let code = image.code(extent.start, size_bytes).unwrap_or_default();
    let mut decoder = Decoder::with_ip(64, code, extent.start, DecoderOptions::NONE);
    let mut targets = BTreeSet::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let jumps = matches!(
            instruction.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        );
        if jumps && instruction.op0_kind() == OpKind::NearBranch64 {
            let target = instruction.near_branch_target();
            if !extent.contains(target) {
                targets.insert(target);
            }
        }
    }
    targets
}

fn joined(parts: BTreeSet<(u64, u64)>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for (start, end) in parts {
        match joined.last_mut().filter(|last| start <= last.end) {
            Some(last) => last.end = last.end.max(end),
            None => joined.push(start..end),
        }
    }
    joined
}
