//! The functions of one file that may be probed: which of several names counts, and which takes calls of
//! another over.
//!
//! Must not read files or code.

use std::collections::{HashMap, HashSet};

use leaktrace_common::call::{CallId, Op, Shape};

use super::allocators::{self, Taken};
use super::returns::Taker;

/// A symbol that the table or the user names.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) symbol: String,
    /// Lower wins where two share an address.
    pub(super) rank: usize,
    pub(super) call: CallId,
    pub(super) shape: Shape,
    pub(super) may_throw: bool,
    /// `None` for a custom function.
    pub(super) taken: Option<Taken>,
    pub(super) address: u64,
    pub(super) size_bytes: u64,
    pub(super) offset: u64,
}

/// The probed function that takes a call of `from` over when it jumps to or calls `address`.
pub(super) fn taker_at(
    all: &[Candidate],
    from: &Candidate,
    handed: &HashMap<u64, u64>,
    address: u64,
) -> Option<Taker> {
    let taker = all
        .iter()
        .find(|other| other.address == address && address != from.address)?;
    let alike = (taker.shape.op == Op::Free) == (from.shape.op == Op::Free);
    // Two that hand their calls to each other would both go unseen.
    let mut last = address;
    while let Some(next) = handed.get(&last) {
        if *next == from.address {
            return None;
        }
        last = *next;
    }
    alike.then(|| Taker {
        name: taker.symbol.clone(),
        address: Some(address),
    })
}

/// Whether a taker reads its arguments and result as `from` does.
pub(super) fn reads_alike(all: &[Candidate], from: &Candidate, taker: &Taker) -> bool {
    let here = taker
        .address
        .and_then(|address| all.iter().find(|other| other.address == address));
    let shape = here
        .map(|other| other.shape)
        .or_else(|| allocators::find(&taker.name).map(|row| row.shape));
    shape.is_some_and(|shape| {
        Shape {
            delegates: false,
            ..shape
        } == Shape {
            delegates: false,
            ..from.shape
        }
    })
}

/// A name that another object defines and that is probed there: the plain C functions only.
pub(super) fn imported_taker(shape: Shape, name: &[u8]) -> Option<Taker> {
    let (_, row) = allocators::find_indexed(name)?;
    let alike = (row.shape.op == Op::Free) == (shape.op == Op::Free) && row.shape.layer() == shape.layer();
    (alike && row.taken == Taken::Always && !row.may_throw).then(|| Taker {
        name: String::from_utf8_lossy(name).into_owned(),
        address: None,
    })
}

/// Leaves one candidate an address, and drops those whose row asks for company that is not there.
pub(super) fn settle(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    let owns_allocator = candidates
        .iter()
        .any(|candidate| candidate.taken == Some(Taken::Always) && candidate.shape.op != Op::Free);
    let public: HashSet<CallId> = candidates
        .iter()
        .filter(|candidate| candidate.taken == Some(Taken::Always))
        .map(|candidate| candidate.call)
        .collect();
    candidates.retain(|candidate| match candidate.taken {
        None | Some(Taken::Always | Taken::WithInterpreter) => true,
        Some(Taken::WithOwnAllocator) => owns_allocator,
        Some(Taken::Fallback) => !public.contains(&candidate.call),
    });
    // Of the names of one row the shortest, which has no prefix; then the larger size, since one of two
    // symbol tables may have lost it.
    candidates.sort_by(|a, b| {
        let key = |c: &Candidate| (c.address, c.rank, c.symbol.len(), std::cmp::Reverse(c.size_bytes));
        key(a).cmp(&key(b)).then_with(|| a.symbol.cmp(&b.symbol))
    });
    candidates.dedup_by_key(|candidate| candidate.address);
    candidates
}
