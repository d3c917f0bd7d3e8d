//! Atomic addition: `core` offers none for a target without compare-and-swap.

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
