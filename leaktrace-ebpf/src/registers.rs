//! Reading the target's registers at a probe.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{
        bpf_get_func_ip, bpf_probe_read_user,
        generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
    },
    programs::ProbeContext,
};
use leaktrace_common::call::REGISTERS;

/// What `Cookie::*_arg` yields for "no such argument".
const NO_ARG: u64 = 0xf;

macro_rules! register {
    ($ctx:expr, $field:ident) => {
        // SAFETY: the context of a uprobe program is a `pt_regs`. Volatile, so that the compiler keeps the
        // load at its constant offset: the verifier refuses a computed one into the context.
        unsafe { core::ptr::read_volatile(&raw const (*($ctx.regs as *const pt_regs)).$field) }
    };
}

/// Whether a session program runs for the entry of the function, and not for its return.
///
/// Both runs see the function's address in `bpf_get_func_ip`; only at entry it is also the instruction
/// pointer. (`bpf_session_is_return` is a kfunc, which aya 0.14 cannot call.)
#[inline(always)]
pub fn at_entry(ctx: &ProbeContext) -> bool {
    // SAFETY: the helper takes the context of this program.
    instruction(ctx) == unsafe { bpf_get_func_ip(ctx.regs.cast()) }
}

/// Address of the probed instruction; at a return, where the function returns to.
#[inline(always)]
pub fn instruction(ctx: &ProbeContext) -> u64 {
    register!(ctx, rip)
}

/// Stack pointer.
#[inline(always)]
pub fn stack_pointer(ctx: &ProbeContext) -> u64 {
    register!(ctx, rsp)
}

/// Frame pointer, if the code keeps one.
#[inline(always)]
pub fn frame_pointer(ctx: &ProbeContext) -> u64 {
    register!(ctx, rbp)
}

/// Return value.
#[inline(always)]
pub fn result(ctx: &ProbeContext) -> u64 {
    register!(ctx, rax)
}

/// Where a thread is in user space.
#[derive(Clone, Copy)]
pub struct UserRegisters {
    /// Instruction pointer: at a probe the probed instruction, in a system call the one behind it.
    pub instruction: u64,
    /// Stack pointer.
    pub stack_pointer: u64,
    /// Frame pointer, if the code keeps one.
    pub frame_pointer: u64,
}

impl UserRegisters {
    #[inline(always)]
    pub const fn new(instruction: u64, stack_pointer: u64, frame_pointer: u64) -> Self {
        Self {
            instruction,
            stack_pointer,
            frame_pointer,
        }
    }

    /// At a probe.
    #[inline(always)]
    pub fn of_probe(ctx: &ProbeContext) -> Self {
        Self::new(instruction(ctx), stack_pointer(ctx), frame_pointer(ctx))
    }
}

/// What a thread has asked the kernel for.
#[derive(Clone, Copy)]
pub struct SystemCall {
    /// Where it was called.
    pub at: UserRegisters,
    /// The first four arguments.
    pub arguments: [u64; 4],
}

macro_rules! user_register {
    ($registers:expr, $field:ident) => {
        // SAFETY: `bpf_task_pt_regs` yields the registers of a task, which the kernel checks that they are there.
        // Volatile for the same reason as above.
        unsafe { core::ptr::read_volatile(&raw const (*$registers).$field) }
    };
}

impl SystemCall {
    /// That of the current task: all that it had in its registers then is kept (arch/x86/entry/entry_64.S:
    /// `PUSH_AND_CLEAR_REGS`), and none but rax, rcx and r11 is changed until it returns.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: no arguments; the helper takes what the other yields (kernel 5.15; both need the kernel's BTF).
        let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const pt_regs;
        Self {
            at: UserRegisters::new(
                user_register!(registers, rip),
                user_register!(registers, rsp),
                user_register!(registers, rbp),
            ),
            arguments: [
                user_register!(registers, rdi),
                user_register!(registers, rsi),
                user_register!(registers, rdx),
                user_register!(registers, r10),
            ],
        }
    }
}

/// The registers in which arguments are found, in the order of [`leaktrace_common::call::Arg`].
pub struct Arguments([u64; REGISTERS]);

impl Arguments {
    /// Reads all of them: straight-line loads cost less than the branches that would avoid them.
    #[inline(always)]
    pub fn read(ctx: &ProbeContext) -> Self {
        Self([
            register!(ctx, rdi),
            register!(ctx, rsi),
            register!(ctx, rdx),
            register!(ctx, rcx),
            register!(ctx, r8),
            register!(ctx, r9),
            register!(ctx, rax),
            register!(ctx, r10),
            register!(ctx, r11),
        ])
    }

    /// What is in register `index`, or `default` if the call has none.
    #[inline(always)]
    pub fn get(&self, index: u64, default: u64) -> u64 {
        match index {
            0 => self.0[0],
            1 => self.0[1],
            2 => self.0[2],
            3 => self.0[3],
            4 => self.0[4],
            5 => self.0[5],
            6 => self.0[6],
            7 => self.0[7],
            8 => self.0[8],
            NO_ARG => default,
            _ => default,
        }
    }
}

/// Reads a word of the target's memory.
#[inline(always)]
pub fn read_word(address: u64) -> Option<u64> {
    // SAFETY: the helper checks the address and fails on what is not mapped.
    unsafe { bpf_probe_read_user(address as *const u64) }.ok()
}
