//! Code that matters and has no unwind information: where a program begins, where a thread of musl begins, what a
//! signal handler returns to, and the function of a context.
//!
//! Must not know DWARF.

use super::calls::Found;
use super::cfi::Stretch;
use super::elf::Symbol;
use super::rule::{END, SIGNAL};
use leaktrace_common::unwind::Rule;

/// Bytes of a function whose size is not known. Those that are meant here make their call within 50.
const SIZE_BYTES: u64 = 64;

/// The stretches of `functions` that hold an address. Sorted, they may overlap only in broken files.
fn covering(functions: &[Stretch], address: u64) -> Option<&Stretch> {
    let after = functions.partition_point(|function| function.start <= address);
    functions[..after]
        .last()
        .filter(|function| address < function.end)
}

/// Whether no function holds an address.
pub(super) fn is_bare(functions: &[Stretch], address: u64) -> bool {
    covering(functions, address).is_none()
}

/// The outermost functions among `symbols` and at the entry that no function covers.
pub(super) fn outermost(functions: &[Stretch], entry: u64, symbols: &[Symbol]) -> Vec<Stretch> {
    let entry = Symbol {
        address: entry,
        size_bytes: 0,
    };
    symbols
        .iter()
        .chain([&entry])
        .filter(|symbol| symbol.address != 0 && is_bare(functions, symbol.address))
        .filter_map(|symbol| {
            let size_bytes = match symbol.size_bytes {
                0 => SIZE_BYTES,
                size_bytes => size_bytes,
            };
            before_next(functions, symbol.address, size_bytes, END)
        })
        .collect()
}

/// What was found by its bytes where no function is.
pub(super) fn patterns(functions: &[Stretch], found: &[(u64, Found)]) -> Vec<Stretch> {
    found
        .iter()
        .filter(|(address, found)| is_bare(functions, *address) || *found == Found::ContextEnd)
        .filter_map(|(address, found)| match found {
            // Nobody has called it: the byte before is padding, or at worst of a function that makes no call there.
            Found::ContextEnd if is_bare(functions, address.checked_sub(1)?) => {
                before_next(functions, address - 1, 1, END)
            }
            Found::ContextEnd => None,
            // A handler returns to its first byte: whoever looks up the byte before must find it.
            Found::SignalReturn => {
                before_next(functions, *address, found.size_bytes(), SIGNAL).map(|stretch| Stretch {
                    start: address.saturating_sub(1),
                    rows: vec![(address.saturating_sub(1), SIGNAL)],
                    ..stretch
                })
            }
            Found::ThreadStart => before_next(functions, *address, found.size_bytes(), END),
        })
        .collect()
}

/// A stretch with one rule, cut where the next function begins.
fn before_next(functions: &[Stretch], start: u64, size_bytes: u64, rule: Rule) -> Option<Stretch> {
    let next = functions.partition_point(|function| function.start <= start);
    let limit = functions.get(next).map_or(u64::MAX, |function| function.start);
    Some(Stretch {
        start,
        end: start.checked_add(size_bytes)?.min(limit),
        rows: vec![(start, rule)],
        row_count: 1,
    })
}
