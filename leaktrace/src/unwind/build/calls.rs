//! Where in code a call can end: what a return address can be. System calls are such calls: walks begin at them, too.
//!
//! A test of bytes, not a disassembly: it finds every near call and some things that are none. A call is `E8` with a
//! distance of 4 bytes, or `FF` with 2 in the middle of its `ModRM` byte and what that asks for (Intel SDM volume 2,
//! CALL and table 2-2), or `0F 05` (SYSCALL); prefixes stand in front and change neither. Must not know DWARF or rules.

use std::io;

use memchr::memmem::Finder;
use rayon::prelude::*;

use super::bytes::Bytes;
use crate::unwind::table::Segment;

/// Bytes of code that are read at a time, a multiple of what a word of the bitmap stands for.
const CHUNK_BYTES: usize = 1 << 20;

/// SYSCALL.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// The longest call without its prefixes.
const CALL_BYTES_MAX: usize = 7;

/// What is looked for besides calls: code that has no unwind information where it matters.
const PATTERNS: [(&[u8], Found); 4] = [
    // mov $15,%rax; syscall
    (
        &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05],
        Found::SignalReturn,
    ),
    // xor %ebp,%ebp; pop %rdi; call *%r9: how a thread begins in musl (src/thread/x86_64/clone.s)
    (&[0x31, 0xed, 0x5f, 0x41, 0xff, 0xd1], Found::ThreadStart),
    // endbr64, if there is one; mov %rbx,%rsp; mov (%rsp),%rdi; test %rdi,%rdi; je: where a context of makecontext(3)
    // ends in glibc (sysdeps/unix/sysv/linux/x86_64/__start_context.S)
    (
        &[
            0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x85, 0xff, 0x74,
        ],
        Found::ContextEnd,
    ),
    (
        &[0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x85, 0xff, 0x74],
        Found::ContextEnd,
    ),
];

/// A pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// `rt_sigreturn`
    SignalReturn,
    /// The outermost function of a thread.
    ThreadStart,
    /// What the function of a context returns to. It has unwind information, which begins at its first byte, and so
    /// does not hold for the byte before.
    ContextEnd,
}

impl Found {
    /// Bytes of the code.
    pub(super) const fn size_bytes(self) -> u64 {
        match self {
            Self::SignalReturn => PATTERNS[0].0.len() as u64,
            Self::ThreadStart => PATTERNS[1].0.len() as u64,
            Self::ContextEnd => 0,
        }
    }
}

/// The ends of all calls of a file.
#[derive(Debug, Default)]
pub(super) struct Calls {
    stretches: Vec<Stretch>,
    /// Other code that was looked for, by address.
    pub(super) patterns: Vec<(u64, Found)>,
}

#[derive(Debug)]
struct Stretch {
    address: u64,
    /// One more than there are bytes: a call may end where the stretch does.
    bit_count: u64,
    /// Bit N is set if a call ends N bytes after the beginning.
    bits: Vec<u64>,
}

impl Calls {
    /// Reads the code of all segments.
    pub(super) fn scan(bytes: &(impl Bytes + ?Sized), segments: &[Segment]) -> io::Result<Self> {
        let mut calls = Self::default();
        for segment in segments {
            let bit_count = segment.size_bytes + 1;
            let mut bits = vec![0_u64; bit_count.div_ceil(64) as usize];
            let patterns: io::Result<Vec<Vec<(u64, Found)>>> = bits
                .par_chunks_mut(CHUNK_BYTES / 64)
                .enumerate()
                .map(|(index, bits)| {
                    let start = (index * CHUNK_BYTES) as u64;
                    let end = segment.size_bytes.min(start + CHUNK_BYTES as u64);
                    // What ends in this chunk may begin in the one before, and what begins at its end in the next.
                    let from = start.saturating_sub(32);
                    let mut code = vec![0; (end - from) as usize];
                    bytes.read_at(segment.file_offset + from, &mut code)?;
                    mark(&code, (start - from) as usize, bits);
                    Ok(patterns(&code)
                        .map(|(at, found)| (segment.address + from + at as u64, found))
                        .collect())
                })
                .collect();
            calls.patterns.extend(patterns?.into_iter().flatten());
            calls.stretches.push(Stretch {
                address: segment.address,
                bit_count,
                bits,
            });
        }
        // Chunks overlap.
        calls.patterns.sort_unstable_by_key(|(address, _)| *address);
        calls.patterns.dedup_by_key(|(address, _)| *address);
        Ok(calls)
    }

    /// Whether a call's last byte may be in `start..end`.
    pub(super) fn any_in(&self, start: u64, end: u64) -> bool {
        self.stretches.iter().any(|stretch| {
            // The call ends behind its last byte.
            let from = start.saturating_add(1).saturating_sub(stretch.address);
            let to = end
                .saturating_add(1)
                .saturating_sub(stretch.address)
                .min(stretch.bit_count);
            any_bit(&stretch.bits, from, to)
        })
    }

    /// Every address that a call may end at.
    #[cfg(test)]
    pub(super) fn ends(&self) -> impl Iterator<Item = u64> {
        self.stretches.iter().flat_map(|stretch| {
            (0..stretch.bit_count)
                .filter(|bit| any_bit(&stretch.bits, *bit, bit + 1))
                .map(|bit| stretch.address + bit)
        })
    }
}

/// Whether one of the bits `from..to` is set.
fn any_bit(bits: &[u64], from: u64, to: u64) -> bool {
    if from >= to {
        return false;
    }
    let (first, last) = ((from / 64) as usize, ((to - 1) / 64) as usize);
    let after_from = u64::MAX << (from % 64);
    let up_to_last = u64::MAX >> (63 - (to - 1) % 64);
    match bits.get(first..=last) {
        Some([word]) => word & after_from & up_to_last != 0,
        Some([word, between @ .., end]) => {
            word & after_from != 0 || end & up_to_last != 0 || between.iter().any(|word| *word != 0)
        }
        _ => false,
    }
}

/// Sets bit N if a call ends at `code[from + N]`.
fn mark(code: &[u8], from: usize, bits: &mut [u64]) {
    let mut set = |end: usize| {
        if let Some(bit) = end.checked_sub(from)
            && let Some(word) = bits.get_mut(bit / 64)
            && end <= code.len()
        {
            *word |= 1 << (bit % 64);
        }
    };
    for at in memchr::memchr2_iter(0xe8, 0xff, code) {
        if code[at] == 0xe8 {
            set(at + 5);
        } else if let Some(size_bytes) = code
            .get(at + 1)
            .and_then(|mod_rm| indirect(*mod_rm, code.get(at + 2)))
        {
            set(at + size_bytes);
        }
    }
    for at in memchr::memmem::find_iter(code, &SYSCALL) {
        set(at + SYSCALL.len());
    }
}

/// Bytes of an indirect near call, from its opcode `FF` on; `None` if the `ModRM` byte makes it another instruction.
fn indirect(mod_rm: u8, sib: Option<&u8>) -> Option<usize> {
    /// Opcode and `ModRM`.
    const HEAD: usize = 2;
    if mod_rm >> 3 & 7 != 2 {
        return None;
    }
    let (mode, rm) = (mod_rm >> 6, mod_rm & 7);
    let has_sib = mode != 3 && rm == 4;
    let base = if has_sib { *sib? & 7 } else { rm };
    let displacement = match mode {
        // rip or nothing, and a displacement of 4 bytes
        0 if base == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    Some(HEAD + usize::from(has_sib) + displacement)
}

fn patterns(code: &[u8]) -> impl Iterator<Item = (usize, Found)> {
    PATTERNS.iter().flat_map(move |(pattern, found)| {
        Finder::new(pattern)
            .into_owned()
            .find_iter(code)
            .map(|at| (at, *found))
            .collect::<Vec<_>>()
    })
}

const _: () = assert!(CHUNK_BYTES.is_multiple_of(64) && CALL_BYTES_MAX < 32);

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Code, Decoder, DecoderOptions};

    fn ends(code: &[u8]) -> Vec<u64> {
        let segment = Segment {
            file_offset: 0,
            address: 0x1000,
            size_bytes: code.len() as u64,
        };
        Calls::scan(code, &[segment]).unwrap().ends().collect()
    }

    #[test]
    fn a_system_call_is_found_by_its_bytes() {
        // mov $9,%eax; syscall; ret
        assert_eq!(ends(&[0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xc3]), [0x1007]);
    }

    #[test]
    fn every_form_of_a_call_is_found_by_its_bytes() {
        let calls: &[&[u8]] = &[
            &[0xe8, 1, 2, 3, 4],
            // call *%rax, *%r9, *(%rax), *(%r12), *8(%rax), *8(%rsp)
            &[0xff, 0xd0],
            &[0x41, 0xff, 0xd1],
            &[0xff, 0x10],
            &[0x41, 0xff, 0x14, 0x24],
            &[0xff, 0x50, 8],
            &[0xff, 0x54, 0x24, 8],
            // *0x11223344(%rip), *0x11223344(%rax), *0x11223344(%rsp,%rax,8), *0x11223344(,%rax,8)
            &[0xff, 0x15, 0x44, 0x33, 0x22, 0x11],
            &[0xff, 0x90, 0x44, 0x33, 0x22, 0x11],
            &[0xff, 0x94, 0xc4, 0x44, 0x33, 0x22, 0x11],
            &[0xff, 0x14, 0xc5, 0x44, 0x33, 0x22, 0x11],
            // call through %fs; notrack call *%rax; data16 rex.W call, as for thread-local storage
            &[0x64, 0xff, 0x14, 0x25, 0x10, 0, 0, 0],
            &[0x3e, 0xff, 0xd0],
            &[0x66, 0x48, 0xe8, 1, 2, 3, 4],
        ];
        for call in calls {
            let decoded = Decoder::with_ip(64, call, 0, DecoderOptions::NONE).decode();
            assert_eq!(decoded.len(), call.len(), "{call:x?}");
            assert!(matches!(decoded.code(), Code::Call_rel32_64 | Code::Call_rm64));
            assert_eq!(
                ends(call).last(),
                Some(&(0x1000 + call.len() as u64)),
                "{call:x?}"
            );
        }
    }

    #[test]
    fn what_is_no_call_or_is_cut_off_is_not_found() {
        // jmp *%rax, push %rax by FF, inc %eax, ret
        assert!(ends(&[0xff, 0xe0, 0xff, 0xf0, 0xff, 0xc0, 0xc3]).is_empty());
        assert!(ends(&[0xe8, 1, 2, 3]).is_empty());
        assert!(ends(&[0xff]).is_empty());
        assert!(ends(&[0xff, 0x14]).is_empty());
        assert!(ends(&[]).is_empty());
    }

    #[test]
    fn calls_across_the_bounds_of_chunks_are_found() {
        for shift in 0..8 {
            let mut code = vec![0x90; CHUNK_BYTES + 100];
            let at = CHUNK_BYTES - shift;
            code[at..at + 7].copy_from_slice(&[0xff, 0x94, 0xc4, 0x44, 0x33, 0x22, 0x11]);
            assert_eq!(ends(&code), [0x1000 + at as u64 + 7]);
        }
    }

    #[test]
    fn a_range_is_of_last_bytes() {
        let mut code = vec![0x90; 300];
        code[100..105].copy_from_slice(&[0xe8, 1, 2, 3, 4]);
        let segment = Segment {
            file_offset: 0,
            address: 0x1000,
            size_bytes: 300,
        };
        let calls = Calls::scan(code.as_slice(), &[segment]).unwrap();
        let last = 0x1000 + 104;
        assert!(calls.any_in(last, last + 1) && calls.any_in(0, u64::MAX));
        assert!(calls.any_in(0x1000, last + 1) && calls.any_in(last, 0x1000 + 300));
        assert!(!calls.any_in(0x1000, last) && !calls.any_in(last + 1, 0x1000 + 300));
        assert!(!calls.any_in(last, last));
    }

    proptest::proptest! {
        #[test]
        fn a_decoded_call_is_always_found(bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..20)) {
            let instruction = Decoder::with_ip(64, &bytes, 0, DecoderOptions::NONE).decode();
            if matches!(instruction.code(), Code::Call_rel32_64 | Code::Call_rm64) {
                let end = 0x1000 + instruction.len() as u64;
                proptest::prop_assert!(ends(&bytes).contains(&end));
            }
        }
    }
}
