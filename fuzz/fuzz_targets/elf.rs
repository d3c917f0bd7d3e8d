//! Any bytes as an ELF file. Start from small libraries: `cp /usr/lib/x86_64-linux-gnu/libdl.so.2 fuzz/corpus/elf/`.
#![no_main]

use leaktrace::unwind::build::{Rows, build};

libfuzzer_sys::fuzz_target!(|elf: &[u8]| {
    if let Ok(table) = build(elf, Rows::All) {
        assert!(table.rows.len() <= elf.len() + table.page_count() as usize * 2 + 8);
        for segment in &table.segments {
            table.rule_at(segment.address);
        }
    }
});
