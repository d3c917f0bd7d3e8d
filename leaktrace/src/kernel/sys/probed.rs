//! Functions to measure probes on: nothing but an instruction to probe and a return. They are assembly, because the first
//! instruction decides what a probe on it costs.

use core::arch::naked_asm;

/// Begins with `push`, which the kernel emulates.
#[unsafe(naked)]
pub extern "C" fn emulated() {
    naked_asm!("push rbp", "pop rbp", "ret")
}

/// The same once more, to be probed in another way at the same time.
#[unsafe(naked)]
pub extern "C" fn returning() {
    naked_asm!("push rbp", "pop rbp", "nop", "ret")
}

/// Begins with an instruction that the kernel has to single-step.
#[unsafe(naked)]
pub extern "C" fn single_stepped() {
    naked_asm!("xor eax, eax", "ret")
}
