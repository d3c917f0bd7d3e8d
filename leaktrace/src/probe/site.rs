//! At which instruction of a function a probe costs least and sees the same. x86-64 only; elsewhere the
//! entry is taken.
//!
//! The kernel puts a breakpoint in the place of the probed instruction. A few it can carry out itself
//! (`branch_setup_xol_ops` and `push_setup_xol_ops` in `arch/x86/kernel/uprobes.c`, Linux 6.1 to 6.18); any
//! other it has to run out of line and single-step, which is a second trap (docs/probe-sites.md has the cost).
//! So the probe goes on the first instruction that the kernel emulates, if every call passes it just
//! once and it finds the arguments, the stack pointer and the return address as they were at the entry. What
//! is not proven is not done: the entry always is right.
//!
//! Pure: bytes and addresses in, a site and its reason out. Must not know files, symbols or the kernel.

use std::collections::BTreeSet;
use std::fmt;

use iced_x86::{
    Code, ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpKind,
    Register, RflagsBits,
};
use leaktrace_common::call::{self, Arg, Op, Shape};

use super::body::is_written;
use super::returns::Unproven;

/// Instructions looked at from the entry on.
const MAX_INSTRUCTIONS: usize = 64;

/// The integer arguments of the System V call.
const ARGUMENTS: usize = 6;

/// The registers that the kernel side reads, as [`Arg`] numbers them: the arguments first.
const REGISTERS: [Register; call::REGISTERS] = [
    Register::RDI,
    Register::RSI,
    Register::RDX,
    Register::RCX,
    Register::R8,
    Register::R9,
    Register::RAX,
    Register::R10,
    Register::R11,
];

/// Where a function is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Distance from the function's first instruction.
    pub offset_bytes: u64,
    /// What the kernel does with the instruction there.
    pub kind: SiteKind,
    /// Why there.
    pub why: Why,
    /// How arguments are read there: the code before it may have moved them to other registers.
    pub shape: Shape,
}

/// What the kernel does with a probed instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// Carries it out itself: one trap.
    Emulated(Emulated),
    /// Runs a copy of it and traps once more.
    SingleStepped,
}

/// Instructions that the kernel carries out itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulated {
    /// Of one byte. Longer ones are emulated by newer kernels only (6.18 does).
    Nop,
    /// Of a 64-bit register.
    Push,
    /// Direct.
    Call,
    /// Direct.
    Jump,
    /// On a condition of the flags.
    Branch,
}

impl SiteKind {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emulated(Emulated::Nop) => "nop",
            Self::Emulated(Emulated::Push) => "push",
            Self::Emulated(Emulated::Call) => "call",
            Self::Emulated(Emulated::Jump) => "jump",
            Self::Emulated(Emulated::Branch) => "branch",
            Self::SingleStepped => "single-stepped",
        }
    }
}

/// Why a probe is where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The first instruction is emulated.
    EntryIsCheap,
    /// The first emulated instruction, and every call passes it.
    FirstEmulated,
    /// The first emulated one of those that a free of NULL does not pass.
    PastNullGuard,
    /// Nothing better is proven.
    Entry(Refused),
    /// The entry was asked for.
    Forced,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EntryIsCheap => f.write_str("the kernel emulates the first instruction"),
            Self::FirstEmulated => f.write_str("the first instruction that the kernel emulates"),
            Self::PastNullGuard => f.write_str("emulated, and a free of NULL does not get there"),
            Self::Entry(refused) => write!(f, "the entry, since {refused}"),
            Self::Forced => f.write_str("the entry, as asked for"),
        }
    }
}

/// Why an instruction behind the entry will not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// An argument is in no register any more that a probe reads.
    #[error("an argument is gone from its register at {0:#x}")]
    ArgumentGone(u64),
    /// The stack pointer is not what it was.
    #[error("the stack pointer moves at {0:#x}")]
    StackMoved(u64),
    /// The caller's frame pointer is gone: no stack could be taken.
    #[error("the frame pointer is written at {0:#x}")]
    FrameMoved(u64),
    /// The return address may be overwritten, or a block be handed on.
    #[error("memory is written at {0:#x}")]
    MemoryWritten(u64),
    /// Calls part ways, or code that is not this function's runs.
    #[error("the instruction at {0:#x} may lead elsewhere")]
    Leaves(u64),
    /// No code, or none that can be read.
    #[error("the code at {0:#x} cannot be decoded")]
    Undecodable(u64),
    /// None among the first ones.
    #[error("none of its first instructions is emulated")]
    NoneNear,
    /// Some call would pass it twice, or not from the entry.
    #[error("something jumps to {0:#x}")]
    JumpedTo(u64),
    /// Not all of the function is known.
    #[error("{0}")]
    Body(String),
}

impl Site {
    /// The entry of a function, whose code is given as far as it is known.
    pub fn entry(code: &[u8], shape: Shape, why: Why) -> Self {
        let first = Decoder::new(64, code, DecoderOptions::NONE).decode();
        Self {
            offset_bytes: 0,
            kind: emulated(&first, code).map_or(SiteKind::SingleStepped, SiteKind::Emulated),
            why,
            shape,
        }
    }
}

/// Chooses the site of a function that begins at `entry` with `code`, and is read as `shape` says.
///
/// `landings` gives the addresses to which anything in the function jumps, or at which another function begins;
/// it is asked only if there is something to win.
pub(super) fn choose(
    entry: u64,
    code: &[u8],
    shape: Shape,
    landings: impl FnOnce() -> Result<BTreeSet<u64>, Unproven>,
) -> Site {
    let (candidates, stopped) = Walk::new(entry, shape).candidates(code);
    let at_entry = |why| Site::entry(code, shape, why);
    match candidates.first() {
        None => return at_entry(Why::Entry(stopped)),
        Some(first) if first.at == entry => return at_entry(Why::EntryIsCheap),
        Some(_) => {}
    }
    let landings = match landings() {
        Ok(landings) => landings,
        Err(why) => return at_entry(Why::Entry(Refused::Body(why.to_string()))),
    };
    let mut refused = stopped;
    // The last is past the guard: fewer calls get there.
    for candidate in candidates.into_iter().rev() {
        if let Some(landing) = landings.range(entry + 1..=candidate.at).next() {
            refused = Refused::JumpedTo(*landing);
            continue;
        }
        return Site {
            offset_bytes: candidate.at - entry,
            kind: SiteKind::Emulated(candidate.kind),
            why: if candidate.past_guard {
                Why::PastNullGuard
            } else {
                Why::FirstEmulated
            },
            shape: candidate.shape,
        };
    }
    at_entry(Why::Entry(refused))
}

/// An emulated instruction that straight-line code leads to, everything a probe reads being in place.
struct Candidate {
    at: u64,
    kind: Emulated,
    shape: Shape,
    past_guard: bool,
}

/// What is known between two instructions of the straight line.
struct Walk {
    entry: u64,
    shape: Shape,
    /// For each general register the argument that it holds.
    held: [Option<u8>; 16],
    /// The zero flag says whether the pointer is NULL.
    flags_tell_null: bool,
    past_guard: bool,
    info: InstructionInfoFactory,
}

impl Walk {
    fn new(entry: u64, shape: Shape) -> Self {
        let mut held = [None; 16];
        for (index, register) in REGISTERS.iter().take(ARGUMENTS).enumerate() {
            held[register.number()] = Some(index as u8);
        }
        Self {
            entry,
            shape,
            held,
            flags_tell_null: false,
            past_guard: false,
            info: InstructionInfoFactory::new(),
        }
    }

    /// The candidates in their order, two at most, and why there are no more.
    fn candidates(mut self, code: &[u8]) -> (Vec<Candidate>, Refused) {
        let mut found = Vec::new();
        let mut decoder = Decoder::with_ip(64, code, self.entry, DecoderOptions::NONE);
        for _ in 0..MAX_INSTRUCTIONS {
            if !decoder.can_decode() {
                return (found, Refused::Undecodable(decoder.ip()));
            }
            let start = decoder.position();
            let instruction = decoder.decode();
            let at = instruction.ip();
            if instruction.is_invalid() {
                return (found, Refused::Undecodable(at));
            }
            if let Some(kind) = emulated(&instruction, &code[start..]) {
                let Some(shape) = self.shape_here() else {
                    return (found, Refused::ArgumentGone(at));
                };
                found.push(Candidate {
                    at,
                    kind,
                    shape,
                    past_guard: self.past_guard,
                });
                if self.past_guard || !self.is_null_guard(&instruction) {
                    return (found, Refused::NoneNear);
                }
                self.past_guard = true;
            } else if let Err(refused) = self.step(&instruction) {
                return (found, refused);
            }
        }
        (found, Refused::NoneNear)
    }

    /// How the arguments are read here; `None` if one cannot be.
    fn shape_here(&self) -> Option<Shape> {
        Some(Shape {
            size: self.place(self.shape.size)?,
            count: self.place(self.shape.count)?,
            pointer: self.place(self.shape.pointer)?,
            ..self.shape
        })
    }

    /// The register that holds an argument now, its own before others.
    fn place(&self, argument: Arg) -> Option<Arg> {
        let Some(index) = argument.index() else {
            return Some(Arg::NONE);
        };
        let holds = |place: u8| {
            REGISTERS
                .get(usize::from(place))
                .is_some_and(|register| self.held[register.number()] == Some(index))
        };
        std::iter::once(index)
            .chain(0..REGISTERS.len() as u8)
            .find(|place| holds(*place))
            .map(Arg::in_register)
    }

    /// Whether this is the branch that a free of NULL takes, and nothing else does.
    fn is_null_guard(&self, branch: &Instruction) -> bool {
        self.shape.op == Op::Free && self.flags_tell_null && branch.condition_code() == ConditionCode::e
    }

    /// Takes over what an instruction does, if straight-line code goes on after it and nothing is lost.
    fn step(&mut self, instruction: &Instruction) -> Result<(), Refused> {
        let at = instruction.ip();
        if instruction.flow_control() != FlowControl::Next {
            return Err(Refused::Leaves(at));
        }
        let copied = self.copied(instruction);
        let tests_null = self.tests_null(instruction);
        let makes_room = self.makes_room(instruction);
        let info = self.info.info(instruction);
        if info.used_memory().iter().any(|used| is_written(used.access())) {
            return Err(Refused::MemoryWritten(at));
        }
        for used in info.used_registers() {
            if !is_written(used.access()) {
                continue;
            }
            // A part that is written spoils the whole.
            let register = used.register().full_register();
            match register {
                Register::RSP if makes_room => {}
                Register::RSP => return Err(Refused::StackMoved(at)),
                Register::RBP => return Err(Refused::FrameMoved(at)),
                _ if register.is_gpr64() => self.held[register.number()] = None,
                _ => {}
            }
        }
        if let Some((register, argument)) = copied {
            self.held[register.number()] = argument;
        }
        if instruction.rflags_modified() & RflagsBits::ZF != 0 {
            self.flags_tell_null = tests_null;
        }
        Ok(())
    }

    /// What a plain copy between registers leaves in its target.
    fn copied(&self, instruction: &Instruction) -> Option<(Register, Option<u8>)> {
        let plain = matches!(instruction.code(), Code::Mov_r64_rm64 | Code::Mov_rm64_r64)
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Register;
        let (to, from) = (instruction.op0_register(), instruction.op1_register());
        plain.then(|| (to, self.held[from.number()]))
    }

    /// `test %rdi,%rdi` or `cmp $0,%rdi` of a register that holds the pointer.
    fn tests_null(&self, instruction: &Instruction) -> bool {
        let register = instruction.op0_register();
        let tests = match instruction.code() {
            Code::Test_rm64_r64 => {
                instruction.op0_kind() == OpKind::Register && instruction.op1_register() == register
            }
            Code::Cmp_rm64_imm8 | Code::Cmp_rm64_imm32 => {
                instruction.op0_kind() == OpKind::Register && instruction.immediate(1) == 0
            }
            _ => false,
        };
        tests && self.shape.pointer.index().is_some() && {
            self.held[register.number()] == self.shape.pointer.index()
        }
    }

    /// `sub $24,%rsp` in a free (glibc up to 2.33): no stack is taken there and no return is waited for. One that
    /// may hand its block on to another probed free is told by its stack pointer, and is left out.
    fn makes_room(&self, instruction: &Instruction) -> bool {
        self.shape.op == Op::Free
            && !self.shape.delegates
            && matches!(instruction.code(), Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32)
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register() == Register::RSP
            && (instruction.immediate(1) as i64) > 0
    }
}

/// Whether the kernel carries out the instruction that `code` begins with.
fn emulated(instruction: &Instruction, code: &[u8]) -> Option<Emulated> {
    let (kind, plain_bytes) = match instruction.code() {
        // With an operand size older kernels refuse to probe it.
        Code::Nopd => (Emulated::Nop, 1),
        // Without a prefix or with REX.B alone; `push_setup_xol_ops` takes no other.
        Code::Push_r64 => {
            let taken = match instruction.len() {
                1 => true,
                2 => code.first() == Some(&0x41),
                _ => false,
            };
            return taken.then_some(Emulated::Push);
        }
        Code::Jmp_rel8_64 => (Emulated::Jump, 2),
        Code::Jmp_rel32_64 => (Emulated::Jump, 5),
        Code::Call_rel32_64 => (Emulated::Call, 5),
        _ if instruction.is_jcc_short() => (Emulated::Branch, 2),
        _ if instruction.is_jcc_near() => (Emulated::Branch, 6),
        _ => return None,
    };
    // `bnd` is harmless; an operand size is refused by `branch_setup_xol_ops`, other prefixes by
    // `is_prefix_bad`.
    let prefixes = code.get(..instruction.len().checked_sub(plain_bytes)?)?;
    prefixes.iter().all(|prefix| *prefix == 0xf2).then_some(kind)
}

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;
