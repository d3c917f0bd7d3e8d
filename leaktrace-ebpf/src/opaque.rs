//! Numbers of which the compiler does not know the value.

/// The same number, in a register of which the compiler knows nothing: so that it compares and uses this one
/// register. Else it compares another that follows from it, and the verifier does not see the bound.
#[inline(always)]
pub fn opaque(mut number: u64) -> u64 {
    // SAFETY: a move of a register to itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) number, options(nomem, nostack)) };
    number
}
