//! The functions of one file that are probed: found by the table of [`super::allocators`] or by what they do, and judged
//! one by one: whether another one covers it, how its returns are seen, at which instruction it is probed.
//!
//! Must not know processes or the kernel, nor what else a file is.

use std::collections::{BTreeSet, HashMap, HashSet};

use leaktrace_common::call::{Op, Shape};
use object::ReadRef;

use super::allocators::{self, Taken};
use super::body::Body;
use super::candidate::{Candidate, imported_taker, reads_alike, settle, taker_at};
use super::custom::CustomFunction;
use super::elf::{Function, Reason, Returns, Scan, Skipped, cookie};
use super::gear::{Gear, Group};
use super::gpu;
use super::handover;
use super::image::{Extent, FunctionSymbol, Image};
use super::pools;
use super::returns::{self, Handover, Taker, Unproven};
use super::site;
use super::skipped::name_last_takers;

/// Bytes kept of each function up to its probed instruction, and from there on.
pub(super) const PROLOGUE_BYTES: u64 = 16;

/// glibc and musl.
fn is_libc(soname: Option<&str>) -> bool {
    soname.is_some_and(|name| {
        name.starts_with("libc.so") || name.starts_with("libc.musl") || name.starts_with("ld-musl")
    })
}

/// What a search has found of a group.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    skipped: Vec<Skipped>,
}

/// Looks for them in one file.
pub(super) struct Finder<'a, 'd, R: ReadRef<'d>> {
    /// The file.
    pub(super) image: &'a Image<'d, R>,
    /// What the user named in it.
    pub(super) custom: &'a [CustomFunction],
    /// It is glibc's loader, which has an allocator of its own.
    pub(super) is_loader: bool,
}

impl<'d, R: ReadRef<'d>> Finder<'_, 'd, R> {
    /// Puts all groups of functions into `scan`, in which it is said what the file is.
    pub(super) fn run(&self, scan: &mut Scan) -> object::Result<()> {
        let mut found = Found::default();
        let mut arenas = Found::default();
        let mut gpu = gpu::Found::default();
        let in_libc = is_libc(scan.soname.as_deref());
        self.image.for_each_function(|symbol| {
            self.consider_gpu(&symbol, in_libc, &mut gpu);
            if let Some(candidate) = self.candidate(&symbol) {
                match Gear::of(candidate.shape.space) {
                    Gear::Heap => self.consider(&symbol, candidate, &mut found),
                    Gear::Arenas => self.consider(&symbol, candidate, &mut arenas),
                    // Found in another way.
                    Gear::Pools | Gear::Gpu => {}
                }
            }
        })?;
        self.note_missing(&mut found);
        (scan.gpu, scan.exit) = self.judge_gpu(gpu);
        // Apart from each other: malloc maps memory, and is not covered for it.
        scan.arenas = self.judge(arenas, in_libc);
        if scan.python.runtime().is_some() {
            scan.pools = self.judge(self.new_pool(), in_libc);
            scan.inlines_objects = pools::inlines_objects(self.image);
        }
        let group = self.judge(found, in_libc);
        scan.functions = group.functions;
        scan.skipped = group.skipped;
        Ok(())
    }

    /// A symbol that the user or the table names.
    fn candidate(&self, symbol: &FunctionSymbol<'d>) -> Option<Candidate> {
        let custom = self
            .custom
            .iter()
            .position(|function| function.symbol.as_bytes() == symbol.name);
        if let Some(position) = custom
            && let Some(function) = self.custom.get(position)
        {
            return Some(Candidate {
                symbol: function.symbol.clone(),
                rank: position,
                call: allocators::custom_call_id(position),
                shape: function.shape,
                may_throw: false,
                taken: None,
                address: symbol.address,
                size_bytes: symbol.size_bytes,
                offset: 0,
            });
        }
        let (place, row) = allocators::find_indexed(symbol.name)?;
        Some(Candidate {
            symbol: String::from_utf8_lossy(symbol.name).into_owned(),
            rank: self.custom.len() + place,
            call: allocators::call_id(row),
            shape: row.shape,
            may_throw: row.may_throw,
            taken: Some(row.taken),
            address: symbol.address,
            size_bytes: symbol.size_bytes,
            offset: 0,
        })
    }

    /// The function that takes a pool of Python into use, or why there is none.
    fn new_pool(&self) -> Found {
        let mut found = Found::default();
        let pool = pools::find(self.image).map_err(|why| why.to_string());
        let offset = |extent: &Extent| self.image.code_offset(extent.start);
        match pool.map(|extent| (extent, offset(&extent))) {
            Ok((extent, Some(offset))) => {
                let symbol = FunctionSymbol {
                    name: allocators::NEW_POOL.as_bytes(),
                    address: extent.start,
                    size_bytes: extent.end - extent.start,
                    indirect: false,
                };
                let candidate = self.candidate(&symbol).into_iter();
                found
                    .candidates
                    .extend(candidate.map(|candidate| Candidate { offset, ..candidate }));
            }
            Ok((_, None)) => {}
            Err(why) => found.skipped.push(Skipped {
                function: allocators::NEW_POOL.to_owned(),
                reason: Reason::Unrecognised(why),
            }),
        }
        found
    }

    /// Takes a candidate up, or says why not.
    fn consider(&self, symbol: &FunctionSymbol<'d>, mut candidate: Candidate, found: &mut Found) {
        let reason = if self.is_loader && candidate.taken.is_some() {
            Reason::Loader
        } else if symbol.indirect {
            Reason::Indirect
        } else if let Some(offset) = self.image.code_offset(symbol.address) {
            candidate.offset = offset;
            found.candidates.push(candidate);
            return;
        } else {
            Reason::NotCode
        };
        found.skipped.push(Skipped {
            function: candidate.symbol,
            reason,
        });
    }

    fn note_missing(&self, found: &mut Found) {
        for function in self.custom {
            let candidates = &found.candidates;
            let known = candidates
                .iter()
                .any(|candidate| candidate.symbol == function.symbol)
                || found
                    .skipped
                    .iter()
                    .any(|other| other.function == function.symbol);
            if !known {
                found.skipped.push(Skipped {
                    function: function.symbol.clone(),
                    reason: Reason::NotFound,
                });
            }
        }
    }

    /// Decides for each candidate how its returns are seen, or that it is not probed.
    fn judge(&self, found: Found, in_libc: bool) -> Group {
        let mut names = HashMap::new();
        for candidate in &found.candidates {
            // The first of a name: the dynamic symbols come before the local ones.
            names.entry(candidate.symbol.clone()).or_insert(candidate.address);
        }
        let candidates = &settle(found.candidates);
        let (mut functions, mut skipped) = (Vec::new(), found.skipped);
        // Who hands its calls to whom: a function whose taker is itself not probed is not covered.
        let mut handed: HashMap<u64, u64> = HashMap::new();
        for candidate in candidates {
            let extent = self.extent_of(candidate.address, candidate.size_bytes);
            let others = |address: u64| taker_at(candidates, candidate, &handed, address);
            // A name may be bound to another object's function, but then that one is in the table too.
            let imports = |name: &[u8]| match std::str::from_utf8(name).ok().and_then(|name| names.get(name))
            {
                Some(address) => others(*address),
                None => imported_taker(candidate.shape, name),
            };
            let handover = Handover {
                by_address: &others,
                by_name: &imports,
            };
            if let Some(taker) = self.handed_to(candidates, candidate, extent, &handover) {
                handed.extend(taker.address.map(|address| (candidate.address, address)));
                skipped.push(Skipped {
                    function: candidate.symbol.clone(),
                    reason: Reason::Covered { by: taker.name },
                });
                continue;
            }
            match self.returns_of(candidate, extent, &handover) {
                Ok(returns) => {
                    let hands_over = self.hands_over(candidates, &names, candidate, extent);
                    functions.push(self.function(candidate, extent, returns, in_libc, hands_over));
                }
                Err(why) => skipped.push(Skipped {
                    function: candidate.symbol.clone(),
                    reason: Reason::ReturnsUnproven(why),
                }),
            }
        }
        name_last_takers(&mut skipped);
        let mut seen = HashSet::new();
        skipped.retain(|skipped| seen.insert(skipped.function.clone()));
        functions.sort_by_key(|function| function.offset);
        Group { functions, skipped }
    }

    /// The probed function that sees all calls of a candidate. What the user named is probed as named.
    fn handed_to(
        &self,
        all: &[Candidate],
        candidate: &Candidate,
        extent: Extent,
        handover: &Handover<'_>,
    ) -> Option<Taker> {
        let taken = candidate.taken?;
        // The rest is called by its own name often enough that the report should tell it.
        if taken == Taken::WithOwnAllocator || candidate.may_throw {
            let taker = returns::covered_by(self.image, extent, handover);
            if taker.is_some() {
                return taker;
            }
        }
        returns::thunk_to(self.image, extent, handover, |taker| {
            reads_alike(all, candidate, taker)
        })
    }

    fn returns_of(
        &self,
        candidate: &Candidate,
        extent: Extent,
        handover: &Handover<'_>,
    ) -> Result<Returns, String> {
        if candidate.shape.op == Op::Free {
            return Ok(Returns::None);
        }
        // What the user names is unknown code: nothing says that no exception leaves it.
        if !candidate.may_throw && candidate.taken.is_some() {
            return Ok(Returns::Probe);
        }
        returns::instructions(self.image, extent, handover)
            .map(Returns::Instructions)
            .map_err(|why| why.to_string())
    }

    /// Whether a call may get its block from another function that is probed, here or in another file.
    fn hands_over(
        &self,
        all: &[Candidate],
        names: &HashMap<String, u64>,
        candidate: &Candidate,
        extent: Extent,
    ) -> bool {
        // No call that maps an arena is left out.
        if candidate.shape.op == Op::Free || candidate.taken == Some(Taken::WithInterpreter) {
            return false;
        }
        let at = |address: u64| {
            let other = all.iter().find(|other| other.address == address)?;
            (other.shape.op != Op::Free).then(|| Taker {
                name: other.symbol.clone(),
                address: Some(address),
            })
        };
        let named = |name: &[u8]| match std::str::from_utf8(name).ok().and_then(|name| names.get(name)) {
            Some(address) => at(*address),
            None => allocators::find_indexed(name)
                .filter(|(_, row)| row.shape.op != Op::Free && row.shape.layer() == candidate.shape.layer())
                .map(|_| Taker {
                    name: String::from_utf8_lossy(name).into_owned(),
                    address: None,
                }),
        };
        let handover = Handover {
            by_address: &at,
            by_name: &named,
        };
        handover::may_hand_over(self.image, extent, &handover)
    }

    fn function(
        &self,
        candidate: &Candidate,
        extent: Extent,
        returns: Returns,
        in_libc: bool,
        hands_over: bool,
    ) -> Function {
        // Outside the C library a free may be a wrapper of the C library's.
        let delegates = candidate.shape.delegates || (candidate.shape.op == Op::Free && !in_libc);
        let shape = Shape {
            delegates,
            ..candidate.shape
        };
        let size_bytes = extent.end - extent.start;
        // Without a size nothing is proven, but the first instruction may be a cheap one.
        let known_bytes = if size_bytes == 0 {
            PROLOGUE_BYTES
        } else {
            size_bytes
        };
        let code = self
            .image
            .code(candidate.address, known_bytes)
            .unwrap_or_default();
        let site = site::choose(candidate.address, code, shape, || self.landings(extent));
        Function {
            symbol: candidate.symbol.clone(),
            call: candidate.call,
            shape,
            cookie: cookie(&site, candidate.call, &returns, hands_over),
            offset: candidate.offset,
            size_bytes: candidate.size_bytes,
            returns,
            prologue: code
                .iter()
                .take((PROLOGUE_BYTES + site.offset_bytes) as usize)
                .copied()
                .collect(),
            site,
        }
    }

    /// Where the code of a function can go on, and where others begin.
    pub(super) fn landings(&self, function: Extent) -> Result<BTreeSet<u64>, Unproven> {
        let mut landings = Body::read(self.image, function)?.landings(self.image)?;
        landings.extend(self.image.symbols_within(function));
        Ok(landings)
    }

    /// The code of the function at an address: as its symbol says, or else as the unwind table does; empty where neither
    /// does.
    pub(super) fn extent_of(&self, address: u64, size_bytes: u64) -> Extent {
        let by_size = address.checked_add(size_bytes).filter(|_| size_bytes > 0);
        by_size.map_or_else(
            || {
                self.image
                    .extent(address)
                    .filter(|extent| extent.start == address)
                    .unwrap_or(Extent {
                        start: address,
                        end: address,
                    })
            },
            |end| Extent { start: address, end },
        )
    }
}
