//! Whether an allocating function may get its block from another probed one. x86-64 only.
//!
//! Where sampling leaves a call out, the calls inside it must be left out with it, or their block would be
//! drawn for twice: such a function is followed to its return. Must not know which functions are probed: the
//! caller says so through [`Handover`].

use std::collections::HashSet;

use iced_x86::{FlowControl, Instruction};
use object::ReadRef;

use super::body::Body;
use super::branch::{self, Target};
use super::image::{Extent, Image};
use super::returns::Handover;

/// Calls followed downwards: `posix_memalign` of glibc reaches `malloc` through one function between.
const MAX_DEPTH: usize = 2;
/// Functions looked at for one.
const MAX_FUNCTIONS: usize = 256;

/// Whether a function may get its block from a function that `handover` knows. `true` is the answer too
/// where its code cannot be read as a whole, or calls through a pointer.
///
/// Below the function itself only direct and linked calls are seen: its helpers lock, map memory and write
/// messages through pointers that lead to no allocator.
pub(super) fn may_hand_over<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    function: Extent,
    handover: &Handover<'_>,
) -> bool {
    let mut seen = HashSet::from([function.start]);
    let mut level = vec![Body::read(image, function)];
    for depth in 0..=MAX_DEPTH {
        let mut below = Vec::new();
        for body in std::mem::take(&mut level) {
            let Ok(body) = body else {
                return true;
            };
            for one in body.instructions().filter(|one| leads_away(one)) {
                let address = match branch::target(image, one) {
                    Target::Import(name) if (handover.by_name)(&name).is_some() => return true,
                    Target::Address(to) if (handover.by_address)(to).is_some() => return true,
                    Target::Unknown if depth == 0 => return true,
                    // A name that this file defines itself, and most likely is bound to here.
                    Target::Import(name) => image.definition(&name),
                    Target::Address(to) => Some(to).filter(|to| !body.contains(*to)),
                    Target::Resolved | Target::Unknown => None,
                };
                if let Some(address) = address.filter(|_| depth < MAX_DEPTH)
                    && seen.insert(address)
                {
                    if seen.len() > MAX_FUNCTIONS {
                        return true;
                    }
                    below.push(Body::at(image, address));
                }
            }
        }
        level = below;
    }
    false
}

fn leads_away(instruction: &Instruction) -> bool {
    is_call(instruction)
        || matches!(
            instruction.flow_control(),
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::IndirectBranch
        )
}

fn is_call(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::IndirectCall
    )
}
