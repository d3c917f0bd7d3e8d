//! Any bytes as the `.eh_frame` of a program with 4 KiB of code, found by its program header.
#![no_main]

use leaktrace::unwind::build::{Rows, build};

const CODE_BYTES: usize = 0x1000;
const HEADERS_BYTES: usize = 0x1000;
const ADDRESS: u64 = 0x40_0000;

libfuzzer_sys::fuzz_target!(|frames: &[u8]| {
    let elf = program(frames);
    let table = build(&elf, Rows::All).expect("headers, code and a section are there");
    assert!(table.rows.len() <= elf.len() + 8);
    for address in 0..CODE_BYTES as u64 {
        table.rule_at(ADDRESS + HEADERS_BYTES as u64 + address);
    }
});

fn program(frames: &[u8]) -> Vec<u8> {
    let lookup = HEADERS_BYTES + CODE_BYTES + frames.len();
    let mut elf = vec![0; HEADERS_BYTES];
    elf[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    elf[16..24].copy_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    // Program headers: where, how large, how many.
    (elf[32], elf[52], elf[54], elf[56]) = (64, 64, 56, 2);
    header(&mut elf[64..120], [1, 5], HEADERS_BYTES, lookup + 8 - HEADERS_BYTES);
    // PT_GNU_EH_FRAME
    header(&mut elf[120..176], [0x6474_e550, 4], lookup, 8);
    elf.extend([0xe8; CODE_BYTES]);
    elf.extend(frames);
    elf.extend([1, 0x1b, 0xff, 0xff]);
    elf.extend((-4 - frames.len() as i32).to_le_bytes());
    elf
}

fn header(place: &mut [u8], kind_and_flags: [u32; 2], offset: usize, size_bytes: usize) {
    let address = ADDRESS + offset as u64;
    let words = [offset as u64, address, address, size_bytes as u64, size_bytes as u64, 1];
    let bytes = kind_and_flags.into_iter().flat_map(u32::to_le_bytes);
    for (place, byte) in place.iter_mut().zip(bytes.chain(words.into_iter().flat_map(u64::to_le_bytes))) {
        *place = byte;
    }
}
