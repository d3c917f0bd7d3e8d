//! How a C library keeps what a thread has under a key (`pthread_getspecific`): the interpreter's state of a thread is
//! found there. Must not know Python.

use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use object::ReadRef;

use super::memory::Memory;
use crate::probe::image::Image;

/// How many keys glibc keeps in the thread itself (`PTHREAD_KEY_2NDLEVEL_SIZE` in nptl/pthreadP.h). The values of others
/// are in blocks that are allocated when they are needed, and cannot be found by one address and one distance.
const GLIBC_KEYS: u32 = 32;

/// Keys that there can be at most (`PTHREAD_KEYS_MAX` of glibc; musl has 128).
pub const KEYS_MAX: u32 = 1024;

/// Bytes from the thread pointer within which a thread has what is its own. glibc's `struct pthread` is larger.
const THREAD_BYTES: u64 = 0x400;

/// Where the values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySlots {
    /// Offset from the thread pointer of the first key's value, or of the pointer to it.
    pub offset: u16,
    /// From one key's value to the next.
    pub stride: u16,
    /// Whether there is but a pointer.
    pub indirect: bool,
}

impl KeySlots {
    /// glibc: `specific_1stblock` of `struct pthread` (nptl/descr.h) lies at 0x310 since 2.3 and has 16 bytes a key, a
    /// sequence number and then the value.
    pub const GLIBC: Self = Self {
        offset: 0x318,
        stride: 16,
        indirect: false,
    };

    /// Whether the value of a key is found this way.
    pub const fn reaches(self, key: u32) -> bool {
        key < KEYS_MAX && (self.indirect || key < GLIBC_KEYS)
    }

    /// The value of a key in the thread with this thread pointer; 0 where there is none, and where it cannot be read.
    pub fn value(self, memory: &impl Memory, thread_pointer: u64, key: u32) -> u64 {
        if !self.reaches(key) {
            return 0;
        }
        let first = thread_pointer.wrapping_add(self.offset.into());
        let first = if self.indirect {
            memory.u64(first).unwrap_or(0)
        } else {
            first
        };
        let address = first.wrapping_add(u64::from(self.stride) * u64::from(key));
        memory.u64(address).unwrap_or(0)
    }

    /// Where a value is found that is known to be a thread's under a key, in a process whose C library is not known: one
    /// that is linked into the program has no name for its functions.
    pub fn search(memory: &impl Memory, thread_pointer: u64, key: u32, value: u64) -> Option<Self> {
        let is_it = |slots: &Self| slots.value(memory, thread_pointer, key) == value;
        let tables = (0..THREAD_BYTES).step_by(8).map(|offset| Self {
            offset: offset as u16,
            stride: 8,
            indirect: true,
        });
        [Self::GLIBC].into_iter().chain(tables).find(is_it)
    }
}

/// Those of a C library; `None` for what is none, and for one that does it in another way.
pub(super) fn of_image<'d, R: ReadRef<'d>>(image: &Image<'d, R>, soname: Option<&str>) -> Option<KeySlots> {
    // Before 2.34 it is in libpthread.
    if soname.is_some_and(|name| name == "libc.so.6" || name == "libpthread.so.0") {
        return Some(KeySlots::GLIBC);
    }
    let function = image.dynamic_symbol(b"pthread_getspecific")?;
    of_code(image.code(function, 64)?, function)
}

/// From the code of musl's function: the thread pointer, from there the pointer to the values, from there the value.
fn of_code(code: &[u8], address: u64) -> Option<KeySlots> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut pointer = Register::None;
    let mut table = None;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let is_load = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Memory;
        if instruction.mnemonic() == Mnemonic::Ret || instruction.is_invalid() {
            return None;
        }
        if !is_load {
            continue;
        }
        let to = instruction.op0_register();
        let base = instruction.memory_base();
        let distance = instruction.memory_displacement64();
        if instruction.segment_prefix() == Register::FS && base == Register::None {
            // The thread's first word is its own address.
            pointer = if distance == 0 { to } else { pointer };
        } else if base == pointer && instruction.memory_index() == Register::None {
            table = u16::try_from(distance).ok().map(|offset| (to, offset));
        } else if let Some((register, offset)) = table
            && base == register
            && distance == 0
            && instruction.memory_index_scale() == 8
        {
            return Some(KeySlots {
                offset,
                stride: 8,
                indirect: true,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{super::memory::fake::Fake, *};

    #[test]
    fn the_code_of_musl_says_where() {
        // mov %fs:0,%rax; mov 0x80(%rax),%rax; mov %edi,%edi; mov (%rax,%rdi,8),%rax; ret
        let code =
            b"\x64\x48\x8b\x04\x25\x00\x00\x00\x00\x48\x8b\x80\x80\x00\x00\x00\x89\xff\x48\x8b\x04\xf8\xc3";
        let musl = KeySlots {
            offset: 0x80,
            stride: 8,
            indirect: true,
        };
        assert_eq!(of_code(code, 0x1000), Some(musl));
        for short in 0..code.len() - 1 {
            assert_eq!(of_code(&code[..short], 0x1000), None, "{short}");
        }
        assert_eq!(of_code(b"\xc3", 0x1000), None);
    }

    #[test]
    fn a_value_is_found_where_it_is() {
        let memory = Fake::default();
        let mut thread = vec![0; 0x800];
        // In the thread, as in glibc, under key 3.
        thread[0x318 + 3 * 16..][..8].copy_from_slice(&0x5000_u64.to_le_bytes());
        // In a table, as in musl, under key 5.
        thread[0x90..0x98].copy_from_slice(&0x7000_u64.to_le_bytes());
        memory.put(0x1000, &thread);
        let mut table = vec![0; 128 * 8];
        table[5 * 8..][..8].copy_from_slice(&0x6000_u64.to_le_bytes());
        memory.put(0x7000, &table);
        assert_eq!(KeySlots::GLIBC.value(&memory, 0x1000, 3), 0x5000);
        assert_eq!(KeySlots::GLIBC.value(&memory, 0x1000, 4), 0);
        assert_eq!(KeySlots::GLIBC.value(&memory, 0x1000, 32), 0);
        assert_eq!(
            KeySlots::search(&memory, 0x1000, 3, 0x5000),
            Some(KeySlots::GLIBC)
        );
        let found = KeySlots::search(&memory, 0x1000, 5, 0x6000).unwrap();
        assert_eq!((found.offset, found.indirect), (0x90, true));
        assert_eq!(found.value(&memory, 0x1000, 5), 0x6000);
        assert_eq!(KeySlots::search(&memory, 0x1000, 6, 0x6001), None);
    }
}
