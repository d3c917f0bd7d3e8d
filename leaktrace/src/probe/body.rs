//! All the code of one function, cold parts included, and where its jumps can land. x86-64 only.
//!
//! Must not know what the function does, nor where probes go.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, OpKind,
    Register,
};
use object::ReadRef;

use super::branch::{self, Target};
use super::image::{Extent, Image};
use super::returns::{MAX_CODE_BYTES, MAX_INSTRUCTIONS, MAX_PIECES, Unproven};

/// Code that can be asked for by address.
pub(super) trait Text {
    /// The stretch of code that holds an address, as far as one function reaches there, if that is known.
    fn extent(&self, address: u64) -> Option<Extent>;
    /// Code from an address on: at most `size_bytes`, less where the code ends.
    fn code(&self, address: u64, size_bytes: u64) -> Option<&[u8]>;
    /// Where a jump or call leads.
    fn target(&self, branch: &Instruction) -> Target;
    /// Whether another function of that name begins at an address: a jump there does not come back.
    fn begins_function(&self, address: u64) -> bool;
}

impl<'d, R: ReadRef<'d>> Text for Image<'d, R> {
    fn extent(&self, address: u64) -> Option<Extent> {
        Image::extent(self, address)
    }

    fn code(&self, address: u64, size_bytes: u64) -> Option<&[u8]> {
        Image::code(self, address, size_bytes)
    }

    fn target(&self, branch: &Instruction) -> Target {
        branch::target(self, branch)
    }

    fn begins_function(&self, address: u64) -> bool {
        self.begins_symbol(address)
    }
}

/// The code of a function.
pub(super) struct Body {
    pieces: Vec<Piece>,
}

/// A stretch of it.
struct Piece {
    extent: Extent,
    instructions: Vec<Instruction>,
}

impl Body {
    /// Decodes a function and every part of it that it jumps to.
    ///
    /// # Errors
    /// [`Unproven`] when there may be code that was not found.
    pub(super) fn read(text: &impl Text, function: Extent) -> Result<Self, Unproven> {
        Self::complete(text, Piece::read(text, function)?)
    }

    /// The same for the function at an address, of which nothing else may be known.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn at(text: &impl Text, address: u64) -> Result<Self, Unproven> {
        Self::complete(text, Piece::around(text, address)?)
    }

    fn complete(text: &impl Text, first: Piece) -> Result<Self, Unproven> {
        let mut body = Self { pieces: vec![first] };
        let mut next = 0;
        while let Some(piece) = body.pieces.get(next) {
            next += 1;
            let jumps = piece.instructions.iter().filter(|one| is_jump(one));
            let targets: BTreeSet<u64> = jumps
                .filter_map(|jump| match text.target(jump) {
                    Target::Address(address) => Some(address),
                    _ => None,
                })
                .collect();
            for address in targets {
                if !body.contains(address) && !text.begins_function(address) {
                    body.pieces.push(Piece::around(text, address)?);
                }
            }
            let extents = body.pieces.iter().map(|piece| piece.extent);
            let size_bytes: u64 = extents
                .map(|extent| extent.end.saturating_sub(extent.start))
                .sum();
            if body.pieces.len() > MAX_PIECES || size_bytes > MAX_CODE_BYTES {
                return Err(Unproven::TooLarge);
            }
        }
        Ok(body)
    }

    /// Whether an address is in it.
    pub(super) fn contains(&self, address: u64) -> bool {
        self.pieces.iter().any(|piece| piece.extent.contains(address))
    }

    /// Every instruction.
    pub(super) fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.pieces.iter().flat_map(|piece| &piece.instructions)
    }

    /// The addresses that branches of the function carry, calls included: all at which it can go on other
    /// than from the instruction before.
    ///
    /// # Errors
    /// [`Unproven::IndirectJump`] when one may land anywhere. One through a pointer that was read as a whole
    /// from a place of its own (`__malloc_hook` up to glibc 2.33, a slot that the dynamic linker fills) is a
    /// call of another function: tables of the function's own labels are indexed.
    pub(super) fn landings(&self, text: &impl Text) -> Result<BTreeSet<u64>, Unproven> {
        let landings: BTreeSet<u64> = self.instructions().filter_map(branch::near_target).collect();
        for piece in &self.pieces {
            let unknown = |one: &Instruction| {
                one.flow_control() == FlowControl::IndirectBranch && text.target(one) == Target::Unknown
            };
            if !piece.instructions.iter().any(unknown) {
                continue;
            }
            let pointers = piece.pointers(&landings);
            for (jump, pointers) in piece.instructions.iter().zip(&pointers) {
                if unknown(jump) && !pointers.is_some_and(|pointers| pointers.aim(jump)) {
                    return Err(Unproven::IndirectJump(jump.ip()));
                }
            }
        }
        Ok(landings)
    }
}

fn is_jump(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend
    )
}

/// Whether the instruction behind it is not what runs next.
fn ends_line(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Return
            | FlowControl::Exception
    )
}

impl Piece {
    /// The stretch that holds an address.
    fn around(text: &impl Text, address: u64) -> Result<Self, Unproven> {
        match text.extent(address) {
            Some(extent) => Self::read(text, extent),
            None => Self::follow(text, address),
        }
    }

    /// What can be reached from an address by running on and by direct jumps. Nothing says how far the
    /// function reaches (musl of Debian is stripped and has no unwind table).
    fn follow(text: &impl Text, start: u64) -> Result<Self, Unproven> {
        let mut found = BTreeMap::new();
        let mut open = vec![start];
        while let Some(from) = open.pop() {
            let code = text.code(from, MAX_CODE_BYTES).ok_or(Unproven::NoExtent(from))?;
            let mut decoder = Decoder::with_ip(64, code, from, DecoderOptions::NONE);
            loop {
                let instruction = decoder.decode();
                let at = instruction.ip();
                if instruction.is_invalid() {
                    return Err(Unproven::Undecodable(at));
                }
                if found.len() > MAX_INSTRUCTIONS {
                    return Err(Unproven::TooLarge);
                }
                if found.insert(at, instruction).is_some() {
                    break;
                }
                if is_jump(&instruction)
                    && let Target::Address(to) = text.target(&instruction)
                    && !text.begins_function(to)
                {
                    open.push(to);
                }
                if ends_line(&instruction) {
                    break;
                }
            }
        }
        let end = found.values().map(Instruction::next_ip).max().unwrap_or(start);
        let start = found.keys().next().copied().unwrap_or(start);
        Ok(Self {
            extent: Extent { start, end },
            instructions: found.into_values().collect(),
        })
    }

    fn read(text: &impl Text, extent: Extent) -> Result<Self, Unproven> {
        let size_bytes = extent.end.saturating_sub(extent.start);
        let code = text
            .code(extent.start, size_bytes)
            .filter(|code| code.len() as u64 == size_bytes && size_bytes > 0)
            .ok_or(Unproven::Unreadable(extent.start))?;
        let decoder = Decoder::with_ip(64, code, extent.start, DecoderOptions::NONE);
        let instructions: Vec<Instruction> = decoder.into_iter().collect();
        if let Some(invalid) = instructions.iter().find(|one| one.is_invalid()) {
            return Err(Unproven::Undecodable(invalid.ip()));
        }
        let last = instructions.iter().rfind(|one| !branch::is_padding(one));
        let runs_out = last.is_none_or(|last| {
            // A call at the very end is one that does not return.
            matches!(
                last.flow_control(),
                FlowControl::Next | FlowControl::ConditionalBranch
            )
        });
        if runs_out {
            return Err(Unproven::RunsOut(extent.end));
        }
        Ok(Self { extent, instructions })
    }

    fn index_of(&self, address: u64) -> Option<usize> {
        self.instructions
            .binary_search_by_key(&address, Instruction::ip)
            .ok()
    }

    /// For each instruction the registers that hold a pointer whichever way it is reached; `None` for one
    /// that nothing seen here leads to.
    fn pointers(&self, landings: &BTreeSet<u64>) -> Vec<Option<Pointers>> {
        let own: BTreeSet<u64> = self.instructions.iter().filter_map(branch::near_target).collect();
        let mut factory = InstructionInfoFactory::new();
        let mut at: Vec<Option<Pointers>> = vec![None; self.instructions.len()];
        let from_outside = landings
            .range(self.extent.start..self.extent.end)
            .filter(|address| !own.contains(address));
        // What is entered from elsewhere is entered with nothing known.
        let mut open: Vec<(usize, Pointers)> = std::iter::once(&self.extent.start)
            .chain(from_outside)
            .filter_map(|address| Some((self.index_of(*address)?, Pointers::NONE)))
            .collect();
        while let Some((index, reached)) = open.pop() {
            let (Some(known), Some(instruction)) = (at.get_mut(index), self.instructions.get(index)) else {
                continue;
            };
            let met = known.map_or(reached, |known| known.both(reached));
            if *known == Some(met) {
                continue;
            }
            *known = Some(met);
            let after = met.after(instruction, &mut factory);
            if is_jump(instruction)
                && let Some(target) = branch::near_target(instruction).and_then(|to| self.index_of(to))
            {
                open.push((target, after));
            }
            if !ends_line(instruction) {
                open.push((index + 1, after));
            }
        }
        at
    }
}

/// General registers that hold a pointer read as a whole from a fixed place, or from where such a pointer
/// points; a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pointers(u16);

impl Pointers {
    const NONE: Self = Self(0);

    const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn hold(self, register: Register) -> bool {
        register.is_gpr64() && self.0 & (1 << register.number()) != 0
    }

    /// Whether an indirect jump goes where one of them points.
    fn aim(self, jump: &Instruction) -> bool {
        match jump.op0_kind() {
            OpKind::Register => self.hold(jump.op0_register()),
            OpKind::Memory => self.reach(jump),
            _ => false,
        }
    }

    /// Whether a memory operand is one fixed place, or where one of them points.
    fn reach(self, instruction: &Instruction) -> bool {
        let base = instruction.memory_base();
        instruction.memory_index() == Register::None
            && (base == Register::RIP || base == Register::None || self.hold(base))
    }

    fn after(self, instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Self {
        if matches!(
            instruction.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall | FlowControl::Interrupt
        ) {
            return Self::NONE;
        }
        let copies = match (instruction.code(), instruction.op1_kind()) {
            (Code::Mov_r64_rm64, OpKind::Memory) => self.reach(instruction),
            (Code::Mov_r64_rm64 | Code::Mov_rm64_r64, OpKind::Register) => {
                instruction.op0_kind() == OpKind::Register && self.hold(instruction.op1_register())
            }
            _ => false,
        };
        let mut left = self.0;
        for used in factory.info(instruction).used_registers() {
            let register = used.register().full_register();
            if is_written(used.access()) && register.is_gpr64() {
                left &= !(1 << register.number());
            }
        }
        if copies {
            left |= 1 << instruction.op0_register().number();
        }
        Self(left)
    }
}

/// Whether an access may write.
pub(super) const fn is_written(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}
