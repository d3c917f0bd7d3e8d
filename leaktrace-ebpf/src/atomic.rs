//! Atomic changes of a word: `core` offers none for a target without compare-and-swap.

/// `*field |= bits`, atomically, without ordering (kernel 5.12).
///
/// # Safety
/// `field` points to an aligned u64 of a map value.
#[inline(always)]
pub unsafe fn set(field: *mut u64, bits: u64) {
    // SAFETY: the caller's; the instruction is BPF_ATOMIC | BPF_OR.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({field} + 0) |= {bits}",
            field = in(reg) field,
            bits = in(reg) bits,
            options(nostack),
        );
    }
}

/// `*field += n`, atomically, without ordering.
///
/// # Safety
/// `field` points to an aligned u64 of a map value.
#[inline(always)]
pub unsafe fn add(field: *mut u64, n: u64) {
    // SAFETY: the caller's; the instruction is BPF_ATOMIC | BPF_ADD, in every kernel's BPF.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({field} + 0) += {n}",
            field = in(reg) field,
            n = in(reg) n,
            options(nostack),
        );
    }
}
