//! The functions of one file that make memory of GPUs or take it back: found by the table of [`super::cuda`], and where
//! each is probed.
//!
//! They are judged by themselves: none covers another, since a call of the runtime library and the driver's inside it
//! are both wanted, and all can be left by a return alone. Must not know processes or the kernel.

use leaktrace_common::{
    call::{Arg, Op, ResultIn, Shape, Space},
    gpu::GpuOp,
};
use object::ReadRef;

use super::{
    cuda::{self, Row},
    elf::{Function, Reason, Returns, Skipped},
    finder::{Finder, PROLOGUE_BYTES},
    gear::Group,
    image::FunctionSymbol,
    site::{self, Refused, Site, Why},
};

/// A symbol that the table names.
#[derive(Clone, Debug)]
struct Candidate {
    symbol: String,
    /// Lower wins where two share an address.
    rank: usize,
    row: &'static Row,
    address: u64,
    size_bytes: u64,
    offset: u64,
}

/// What a search has found.
#[derive(Default)]
pub(super) struct Found {
    candidates: Vec<Candidate>,
    skipped: Vec<Skipped>,
    exit: Option<Candidate>,
}

impl<'d, R: ReadRef<'d>> Finder<'_, 'd, R> {
    /// Takes a symbol up if the table names it. What the user has named is the user's, and `exit` is the C library's.
    pub(super) fn consider_gpu(&self, symbol: &FunctionSymbol<'d>, in_libc: bool, found: &mut Found) {
        let Some((rank, row)) = cuda::find_indexed(symbol.name) else {
            return;
        };
        let is_named = |name: &str| name.as_bytes() == symbol.name;
        if self.custom.iter().any(|function| is_named(&function.symbol)) {
            return;
        }
        let name = String::from_utf8_lossy(symbol.name).into_owned();
        let reason = if symbol.indirect && row.shape.op != GpuOp::Exit {
            Reason::Indirect
        } else if let Some(offset) = self.image.code_offset(symbol.address) {
            let candidate = Candidate {
                symbol: name,
                rank,
                row,
                address: symbol.address,
                size_bytes: symbol.size_bytes,
                offset,
            };
            if row.shape.op != GpuOp::Exit {
                found.candidates.push(candidate);
            } else if in_libc {
                found.exit.get_or_insert(candidate);
            }
            return;
        } else if row.shape.op == GpuOp::Exit {
            return;
        } else {
            Reason::NotCode
        };
        found.skipped.push(Skipped {
            function: name,
            reason,
        });
    }

    /// What of it is probed: one function an address; and `exit`.
    pub(super) fn judge_gpu(&self, found: Found) -> (Group, Option<Function>) {
        let Found {
            mut candidates,
            mut skipped,
            exit,
        } = found;
        // Of two symbol tables one may have lost the size.
        candidates.sort_by(|a, b| {
            let key = |c: &Candidate| (c.address, c.rank, std::cmp::Reverse(c.size_bytes));
            key(a).cmp(&key(b)).then_with(|| a.symbol.cmp(&b.symbol))
        });
        let mut functions: Vec<Function> = Vec::new();
        let mut last: Option<Candidate> = None;
        for candidate in candidates {
            match &last {
                Some(first) if first.address == candidate.address => {
                    // Another name of the same function; that of another function is worth saying.
                    if first.row != candidate.row {
                        skipped.push(Skipped {
                            function: candidate.symbol,
                            reason: Reason::Covered {
                                by: first.symbol.clone(),
                            },
                        });
                    }
                }
                _ => {
                    functions.push(self.gpu_function(&candidate));
                    last = Some(candidate);
                }
            }
        }
        functions.sort_by_key(|function| function.offset);
        skipped.sort_by(|a, b| a.function.cmp(&b.function));
        skipped.dedup();
        let exit = exit.map(|candidate| self.gpu_function(&candidate));
        (Group { functions, skipped }, exit)
    }

    fn gpu_function(&self, candidate: &Candidate) -> Function {
        let Candidate {
            row,
            address,
            size_bytes,
            ..
        } = *candidate;
        let extent = self.extent_of(address, size_bytes);
        let known_bytes = Some(extent.end - extent.start).filter(|&bytes| bytes > 0);
        let code = self
            .image
            .code(address, known_bytes.unwrap_or(PROLOGUE_BYTES))
            .unwrap_or_default();
        let call = cuda::call_id(row);
        let shape = row.plain_shape();
        let site = site_of(address, code, shape, |shape| {
            site::choose(address, code, shape, || self.landings(extent))
        });
        Function {
            symbol: candidate.symbol.clone(),
            call,
            shape,
            cookie: row.shape.cookie(call).plain(),
            offset: candidate.offset,
            size_bytes,
            returns: if row.returns {
                Returns::Probe
            } else {
                Returns::None
            },
            prologue: code
                .iter()
                .take((PROLOGUE_BYTES + site.offset_bytes) as usize)
                .copied()
                .collect(),
            site,
        }
    }
}

/// Where a function is probed whose arguments are read from the registers that they came in: past its entry only if all
/// six still hold them.
fn site_of(address: u64, code: &[u8], shape: Shape, choose: impl Fn(Shape) -> Site) -> Site {
    let reading = |first: u8| Shape {
        op: Op::Alloc,
        size: Arg::new(first),
        count: Arg::new(first + 1),
        pointer: Arg::new(first + 2),
        result: ResultIn::OutPointer,
        frees_on_failure: false,
        delegates: false,
        space: Space::Device,
    };
    let [first, second] = [0, 3].map(|first| {
        let asked = reading(first);
        let site = choose(asked);
        if site.offset_bytes == 0 || site.shape == asked {
            return site;
        }
        let at = address + site.offset_bytes;
        Site::entry(code, asked, Why::Entry(Refused::ArgumentGone(at)))
    });
    // Both find the same instruction, or one has refused it and says why.
    let site = if first.offset_bytes == 0 { first } else { second };
    Site { shape, ..site }
}
