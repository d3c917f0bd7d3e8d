//! Tables of real files against all rows of the same files, and of files that were broken on purpose.

use super::*;
use crate::unwind::table::Segment;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use leaktrace_common::unwind::{PAGE_BITS, PAGE_ROWS_MAX, PAGES, Rule, cfa, rbp};
use std::path::PathBuf;

/// What of these is installed: C, hand-written assembly, C++, large executables, and Rust.
fn files() -> Vec<PathBuf> {
    let candidates = [
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib64/libc.so.6",
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
        "/usr/lib64/libcrypto.so.3",
        "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
        "/usr/bin/python3",
        "/usr/bin/bash",
        "/usr/bin/gdb",
        "/proc/self/exe",
    ];
    let mut files: Vec<PathBuf> = candidates
        .iter()
        .filter_map(|path| std::fs::canonicalize(path).ok())
        .collect();
    files.sort();
    files.dedup();
    files
}

fn libc() -> Vec<u8> {
    let path = files()
        .into_iter()
        .find(|path| path.ends_with("libc.so.6"))
        .unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_rule_at_a_call_is_the_one_of_all_rows() {
    let mut checked = 0;
    for path in files() {
        let bytes = std::fs::read(&path).unwrap();
        let all = build(&bytes, Rows::All).unwrap();
        let kept = build(&bytes, Rows::CallSites).unwrap();
        assert!(all.is_sound() && kept.is_sound(), "{}", path.display());
        assert!(kept.rows.len() < all.rows.len() / 2, "{}", path.display());
        let calls = Calls::scan(bytes.as_slice(), &kept.segments).unwrap();
        for end in calls.ends() {
            let (expected, rule) = (all.rule_at(end - 1), kept.rule_at(end - 1));
            // A page of unoptimised code can have more rows than a page may have, before any is left out.
            assert!(
                expected == rule || is_overfull(&all, end - 1),
                "{} at {end:#x}: {rule:?}, not {expected:?}",
                path.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 10_000);
}

/// Whether the page of an address has one row, which is not followed.
fn is_overfull(table: &Table, address: u64) -> bool {
    let page = (address >> PAGE_BITS) as u32 - table.first_page;
    table.page(page).len() == 1 && table.rule_at(address) == rule::UNSUPPORTED
}

/// Decodes a function and calls `visit` with each instruction.
fn decode(bytes: &[u8], segments: &[Segment], function: &Stretch, mut visit: impl FnMut(&Instruction)) {
    let segment = segments
        .iter()
        .find(|segment| segment.address <= function.start && function.end <= segment.end())
        .unwrap();
    let from = (segment.file_offset + function.start - segment.address) as usize;
    let code = &bytes[from..from + (function.end - function.start) as usize];
    for instruction in Decoder::with_ip(64, code, function.start, DecoderOptions::NONE) {
        visit(&instruction);
    }
}

#[test]
fn every_call_that_a_disassembler_finds_passes_the_test_of_bytes() {
    let mut checked = 0;
    for path in files() {
        let bytes = std::fs::read(&path).unwrap();
        let elf = Elf::open(bytes.as_slice()).unwrap();
        let calls = Calls::scan(bytes.as_slice(), &elf.segments).unwrap();
        let keep = Filter {
            rows: Rows::All,
            calls: &calls,
        };
        for function in functions(&elf, &keep).unwrap() {
            decode(&bytes, &elf.segments, &function, |instruction| {
                if matches!(instruction.code(), Code::Call_rel32_64 | Code::Call_rm64) {
                    let end = instruction.next_ip();
                    assert!(calls.any_in(end - 1, end), "{} at {end:#x}", path.display());
                    checked += 1;
                }
            });
        }
    }
    assert!(checked > 10_000);
}

#[test]
fn an_open_file_gives_what_its_bytes_give() {
    for path in files() {
        let bytes = std::fs::read(&path).unwrap();
        let file = File::open(&path).unwrap();
        let (table, counts) = build_file(&file, Rows::CallSites).unwrap();
        assert_eq!(Ok(&table), build(&bytes, Rows::CallSites).as_ref());
        assert!(counts.rows as usize > counts.functions && counts.functions > 10);
        assert_eq!(io::Seek::stream_position(&mut &file).unwrap(), 0);
    }
}

#[test]
fn the_c_library_knows_where_threads_begin_and_signals_return() {
    let table = build(&libc(), Rows::CallSites).unwrap();
    let has = |kind| table.rules.iter().any(|rule| rule.cfa == kind);
    assert!(has(cfa::END) && has(cfa::SIGNAL) && has(cfa::GAP) && has(cfa::RSP));
}

/// An executable with one segment of code at 0x401000, no sections, and what it holds from there on.
fn program(code: &[u8], entry: u64) -> Vec<u8> {
    let mut bytes = vec![0; 0x1000];
    bytes[..20].copy_from_slice(&[
        0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0,
    ]);
    bytes[20] = 1;
    bytes[24..32].copy_from_slice(&entry.to_le_bytes());
    bytes[32] = 64;
    bytes[52] = 64;
    bytes[54] = 56;
    bytes[56] = 2;
    let size_bytes = code.len() as u64;
    let segment = |kind: u32, flags: u32, offset: u64, size_bytes: u64| {
        let address = 0x40_0000 + offset;
        let mut header: Vec<u8> = [kind, flags].into_iter().flat_map(u32::to_le_bytes).collect();
        let words = [offset, address, address, size_bytes, size_bytes, 0x1000];
        header.extend(words.into_iter().flat_map(u64::to_le_bytes));
        header
    };
    bytes[64..120].copy_from_slice(&segment(1, 5, 0x1000, size_bytes));
    // PT_GNU_EH_FRAME, at the end of the code.
    bytes[120..176].copy_from_slice(&segment(0x6474_e550, 4, 0x1000 + size_bytes - 12, 12));
    bytes.extend(code);
    bytes
}

/// One function at 0x401000 + `start` with these instructions, for [`program`]: code, then unwind information.
fn with_function(code: &[u8], start: u32, size_bytes: u32, instructions: &[u8]) -> Vec<u8> {
    let mut bytes = code.to_vec();
    bytes.resize(0x800, 0xcc);
    let frames = bytes.len();
    // CFA = rsp + 8, return address at CFA - 8; pointers relative to themselves, 4 bytes.
    let shared = [
        20_u32.to_le_bytes().as_slice(),
        &[0; 4],
        b"\x01zR\0\x01\x78\x10\x01\x1b\x0c\x07\x08\x90\x01\0\0",
    ]
    .concat();
    bytes.extend(shared);
    let mut instructions = instructions.to_vec();
    instructions.resize((instructions.len() + 1).next_multiple_of(4) - 1, 0);
    bytes.extend((13 + instructions.len() as u32).to_le_bytes());
    let here = bytes.len();
    bytes.extend(((here - frames) as u32).to_le_bytes());
    bytes.extend(start.wrapping_sub(here as u32 + 4).to_le_bytes());
    bytes.extend(size_bytes.to_le_bytes());
    bytes.push(0);
    bytes.extend(instructions);
    bytes.extend([0; 4]);
    // .eh_frame_hdr
    let here = bytes.len();
    bytes.extend([1, 0x1b, 0xff, 0xff]);
    bytes.extend((frames as u32).wrapping_sub(here as u32 + 4).to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}

const fn at(cfa_offset: i32) -> Rule {
    Rule {
        cfa_offset,
        rbp_offset: 0,
        cfa: cfa::RSP,
        rbp: rbp::SAME,
    }
}

#[test]
fn a_row_stays_if_a_call_ends_in_it_also_at_its_last_byte() {
    // 0x10: push; 0x11: call, which ends the function; the rest is padding.
    let mut code = vec![0x90; 0x20];
    code[0x10] = 0x50;
    code[0x11..0x16].copy_from_slice(&[0xe8, 0, 0, 0, 0]);
    // advance 0x11; def_cfa_offset 16
    let elf = program(&with_function(&code, 0, 0x16, &[0x51, 0x0e, 16]), 0);
    let table = build(&elf, Rows::CallSites).unwrap();
    assert_eq!(table.rule_at(0x40_1015), at(16));
    assert_eq!(table.rule_at(0x40_1016), rule::GAP);
    // Nothing returns into the first row.
    assert_eq!(table.rule_at(0x40_1000), rule::GAP);
    let all = build(&elf, Rows::All).unwrap();
    assert_eq!((all.rule_at(0x40_1000), all.rule_at(0x40_1010)), (at(8), at(8)));
    assert_eq!(
        (all.rule_at(0x40_1011), all.rule_at(0x40_1016)),
        (at(16), rule::GAP)
    );
}

#[test]
fn an_undefined_return_address_ends_the_walk_and_another_place_of_it_stops_it() {
    let call = [0xe8, 0, 0, 0, 0];
    for (instructions, expected) in [
        // DW_CFA_undefined rip; rip in rdx; rip at CFA - 16; rip unchanged
        (&[0x07, 16][..], cfa::END),
        (&[0x09, 16, 1], cfa::UNSUPPORTED),
        (&[0x90, 2], cfa::UNSUPPORTED),
        (&[0x08, 16], cfa::UNSUPPORTED),
        // CFA by r10; rbp in r9, undefined, as a value
        (&[0x0c, 10, 0], cfa::UNSUPPORTED),
        (&[0x09, 6, 9], cfa::UNSUPPORTED),
        (&[0x07, 6], cfa::UNSUPPORTED),
        (&[0x16, 6, 2, 0x77, 8], cfa::UNSUPPORTED),
        // an instruction that there is not
        (&[0x3f], cfa::UNSUPPORTED),
        // CFA = rbp + 16, rbp at CFA - 16
        (&[0x0c, 6, 16, 0x86, 2], cfa::RBP),
    ] {
        let elf = program(&with_function(&call, 0, 5, instructions), 0);
        let table = build(&elf, Rows::CallSites).unwrap();
        assert_eq!(table.rule_at(0x40_1004).cfa, expected, "{instructions:x?}");
    }
}

#[test]
fn rbp_is_found_where_an_expression_puts_it() {
    let call = [0xe8, 0, 0, 0, 0];
    let rule_of = |instructions: &[u8]| {
        let elf = program(&with_function(&call, 0, 5, instructions), 0);
        build(&elf, Rows::CallSites).unwrap().rule_at(0x40_1004)
    };
    // gcc's realigned stack: CFA by breg6 -8; deref, rbp by breg6 0.
    let realigned = rule_of(&[0x0f, 3, 0x76, 0x78, 0x06, 0x10, 6, 2, 0x76, 0]);
    let expected = Rule {
        cfa_offset: -8 << 8,
        rbp_offset: 0,
        cfa: cfa::AT_RBP,
        rbp: rbp::AT_RBP,
    };
    assert_eq!(realigned, expected);
    // CFA = rsp + 64, rbp by breg7 16: 48 below the CFA.
    let by_stack_pointer = rule_of(&[0x0e, 64, 0x10, 6, 2, 0x77, 16]);
    assert_eq!(
        (by_stack_pointer.rbp, by_stack_pointer.rbp_offset),
        (rbp::AT_CFA, -48)
    );
}

#[test]
fn code_without_unwind_information_that_matters_has_rules() {
    use cfa::{END, GAP, SIGNAL};
    let mut code = vec![0x90; 0x200];
    // xor %ebp,%ebp; call: the entry
    code[0x40..0x47].copy_from_slice(&[0x31, 0xed, 0xe8, 0, 0, 0, 0]);
    code[0x100..0x109].copy_from_slice(&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05]);
    code[0x180..0x186].copy_from_slice(&[0x31, 0xed, 0x5f, 0x41, 0xff, 0xd1]);
    let elf = program(&with_function(&code, 0x60, 0x10, &[]), 0x40_1040);
    let table = build(&elf, Rows::CallSites).unwrap();
    let kinds = [
        0x3f, 0x40, 0x46, 0x5f, 0xfe, 0xff, 0x100, 0x108, 0x109, 0x17f, 0x180, 0x185, 0x186,
    ]
    .map(|offset| table.rule_at(0x40_1000 + offset).cfa);
    assert_eq!(
        kinds,
        [
            GAP, END, END, END, GAP, SIGNAL, SIGNAL, SIGNAL, GAP, GAP, END, END, GAP
        ]
    );
}

#[test]
fn a_context_ends_where_its_function_returns_to() {
    let mut code = vec![0x90; 0x200];
    let context_end = [0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x85, 0xff, 0x74];
    code[0x40..0x4b].copy_from_slice(&context_end);
    code[0x80..0x84].copy_from_slice(&[0xf3, 0x0f, 0x1e, 0xfa]);
    code[0x84..0x8f].copy_from_slice(&context_end);
    // The function begins at the first of the two.
    let elf = program(&with_function(&code, 0x40, 0x20, &[]), 0);
    let table = build(&elf, Rows::All).unwrap();
    let kinds = [0x3e, 0x3f, 0x40, 0x7e, 0x7f, 0x80].map(|offset| table.rule_at(0x40_1000 + offset).cfa);
    assert_eq!(
        kinds,
        [cfa::GAP, cfa::END, cfa::RSP, cfa::GAP, cfa::END, cfa::GAP]
    );
}

#[test]
fn other_files_are_refused_with_a_reason() {
    assert_eq!(
        build(b"#!/bin/sh\n", Rows::All)
            .unwrap_err()
            .to_string()
            .lines()
            .count(),
        1
    );
    let elf = program(&with_function(&[0xe8, 0, 0, 0, 0], 0, 5, &[]), 0);
    let edited = |at: usize, bytes: &[u8]| {
        let mut elf = elf.clone();
        elf[at..at + bytes.len()].copy_from_slice(bytes);
        build(&elf, Rows::CallSites).unwrap_err()
    };
    // AArch64; a relocatable file
    assert_eq!(edited(18, &[183]), BuildError::Foreign);
    assert_eq!(edited(16, &[1]), BuildError::Foreign);
    // Not executable; no unwind information
    assert_eq!(edited(68, &[4]), BuildError::NoCode);
    assert_eq!(edited(120, &[4]), BuildError::NoUnwindSection);
    // A segment that is not in the file; one of 8 EiB.
    assert!(matches!(edited(98, &[1]), BuildError::Broken { .. }));
    assert!(matches!(edited(103, &[0x70]), BuildError::Broken { .. }));
}

/// What holds of the table of any file.
fn assert_bounded(table: &Table, file_bytes: usize) {
    assert!(table.is_sound());
    assert!(table.page_count() as usize <= PAGES);
    // An instruction of one byte makes a row, and a page repeats what is in force.
    assert!(table.rows.len() <= file_bytes + table.page_count() as usize * 2 + 8);
    assert!((0..table.page_count()).all(|page| table.page(page).len() <= PAGE_ROWS_MAX));
    assert!(table.text_bytes as usize <= file_bytes);
    let ends = table
        .segments
        .iter()
        .flat_map(|segment| [segment.address, segment.end()]);
    for address in ends {
        table.rule_at(address);
        table.bias(0x7000_0000, address & !0xfff);
    }
}

/// Where damage does most: headers, section headers, unwind sections.
fn tender_spots(elf: &[u8]) -> Vec<std::ops::Range<usize>> {
    use object::{Object as _, ObjectSection as _};
    let file = object::File::parse(elf).unwrap();
    let range = |name| {
        let (offset, size_bytes) = file.section_by_name(name)?.file_range()?;
        Some(offset as usize..(offset + size_bytes) as usize)
    };
    let section_headers = u64::from_le_bytes(elf[40..48].try_into().unwrap()) as usize;
    [
        Some(0..64),
        Some(64..64 + 56 * 10),
        Some(section_headers..elf.len()),
        range(".eh_frame"),
        range(".eh_frame"),
        range(".eh_frame_hdr"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn broken_files_give_a_sound_table_or_an_error() {
    let path = files()
        .into_iter()
        .find(|path| path.to_string_lossy().contains("ld-linux"));
    let whole = std::fs::read(path.unwrap()).unwrap();
    let spots = tender_spots(&whole);
    let mut random = fastrand::Rng::with_seed(4);
    let mut built = 0;
    for _ in 0..500 {
        let mut elf = whole.clone();
        for _ in 0..random.usize(1..8) {
            let spot = random.choice(&spots).unwrap().clone();
            let at = random.usize(spot);
            match random.u8(0..4) {
                0 => elf[at] ^= 1 << random.u8(0..8),
                1 => elf[at] = random.u8(..),
                2 => elf[at] = *random.choice(&[0, 1, 0x7f, 0x80, 0xff]).unwrap(),
                _ => {
                    let end = (at + random.usize(1..64)).min(elf.len());
                    random.fill(&mut elf[at..end]);
                }
            }
        }
        if random.u8(0..8) == 0 {
            elf.truncate(random.usize(0..elf.len()));
        }
        if let Ok(table) = build(&elf, Rows::All) {
            assert_bounded(&table, elf.len());
            built += 1;
        }
    }
    assert!(built > 100, "the damage is too great to test much: {built}");
}

proptest::proptest! {
    #[test]
    fn unwind_sections_of_garbage_give_a_sound_table(
        garbage in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
        instructions in proptest::collection::vec(proptest::num::u8::ANY, 0..60),
    ) {
        let mut code = with_function(&[0xe8, 0, 0, 0, 0], 0, 0x700, &instructions);
        let elf = program(&code, 0x40_1000);
        assert_bounded(&build(&elf, Rows::All).unwrap(), elf.len());
        let to = 0x800 + garbage.len().min(code.len() - 0x80c);
        code[0x800..to].copy_from_slice(&garbage[..to - 0x800]);
        let elf = program(&code, 0x40_1000);
        assert_bounded(&build(&elf, Rows::All).unwrap(), elf.len());
    }
}
