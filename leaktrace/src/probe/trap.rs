//! How the kernel gets over a probed instruction: that decides what a hit costs. x86-64 only.

/// How the kernel gets over a probed instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// It does what the instruction does.
    Emulated,
    /// It has the instruction executed elsewhere, which is a second trap.
    SingleStepped,
}

impl Trap {
    /// By the bytes of the instruction, as arch/x86/kernel/uprobes.c (6.18) tells them apart in
    /// `push_setup_xol_ops` and `branch_setup_xol_ops`.
    pub const fn of(code: &[u8]) -> Self {
        match code {
            // push, without and with a REX prefix; nop; call, jmp and jcc to a fixed place
            [0x50..=0x57 | 0x90 | 0xe8 | 0xe9 | 0xeb | 0x70..=0x7f, ..]
            | [0x41, 0x50..=0x57, ..]
            | [0x0f, 0x80..=0x8f | 0x1f, ..] => Self::Emulated,
            _ => Self::SingleStepped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_that_the_kernel_emulates_are_known() {
        for code in [
            &[0x55][..],               // push %rbp
            &[0x41, 0x54],             // push %r12
            &[0x90],                   // nop
            &[0x0f, 0x1f, 0x44, 0, 0], // nopl
            &[0xe9, 0, 0, 0, 0],       // jmp
            &[0x74, 0x05],             // je
            &[0x0f, 0x84, 0, 0, 0, 0], // je
        ] {
            assert_eq!(Trap::of(code), Trap::Emulated, "{code:x?}");
        }
        for code in [
            &[][..],
            &[0x48, 0x85, 0xff],       // test %rdi,%rdi
            &[0xf3, 0x0f, 0x1e, 0xfa], // endbr64
            &[0xc3],                   // ret
            &[0x31, 0xc0],             // xor %eax,%eax
            &[0xff, 0xe0],             // jmp *%rax
        ] {
            assert_eq!(Trap::of(code), Trap::SingleStepped, "{code:x?}");
        }
    }
}
