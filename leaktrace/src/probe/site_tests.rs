//! Sites of real prologues, and of code that must not be probed behind its entry. What is decoded here is
//! fixed bytes, each with its assembly; whole installed allocators are read in `elf_tests.rs`.

use super::*;
use crate::probe::body::{Body, Text};
use crate::probe::branch::{self, Target};
use crate::probe::image::Extent;
use leaktrace_common::call::{ResultIn, Space};

const ENTRY: u64 = 0x1000;

const fn shape(op: Op, pointer: Arg, size: Arg, count: Arg) -> Shape {
    Shape {
        op,
        size,
        count,
        pointer,
        result: ResultIn::ReturnValue,
        frees_on_failure: false,
        delegates: false,
        space: Space::Heap,
    }
}

const MALLOC: Shape = shape(Op::Alloc, Arg::NONE, Arg::new(0), Arg::NONE);
const MEMALIGN: Shape = shape(Op::Alloc, Arg::NONE, Arg::new(1), Arg::NONE);
const CALLOC: Shape = shape(Op::Alloc, Arg::NONE, Arg::new(1), Arg::new(0));
const REALLOC: Shape = shape(Op::Realloc, Arg::new(0), Arg::new(1), Arg::NONE);
const REALLOCARRAY: Shape = shape(Op::Realloc, Arg::new(0), Arg::new(2), Arg::new(1));
const POSIX_MEMALIGN: Shape = shape(Op::Alloc, Arg::new(0), Arg::new(2), Arg::NONE);
const FREE: Shape = shape(Op::Free, Arg::new(0), Arg::NONE, Arg::NONE);

const PUSH: SiteKind = SiteKind::Emulated(Emulated::Push);
const JUMP: SiteKind = SiteKind::Emulated(Emulated::Jump);
const BRANCH: SiteKind = SiteKind::Emulated(Emulated::Branch);

/// Code by address, each stretch a function or a part of one.
struct Snippets<'a>(Vec<(u64, &'a [u8])>);

impl Text for Snippets<'_> {
    fn extent(&self, address: u64) -> Option<Extent> {
        let extents = self.0.iter().map(|(start, code)| Extent {
            start: *start,
            end: start + code.len() as u64,
        });
        extents.into_iter().find(|extent| extent.contains(address))
    }

    fn code(&self, address: u64, size_bytes: u64) -> Option<&[u8]> {
        let extent = self.extent(address)?;
        let (_, code) = self.0.iter().find(|(start, _)| *start == extent.start)?;
        let rest = &code[(address - extent.start) as usize..];
        Some(&rest[..rest.len().min(size_bytes as usize)])
    }

    fn target(&self, branch: &Instruction) -> Target {
        branch::near_target(branch).map_or(Target::Unknown, Target::Address)
    }

    fn begins_function(&self, _address: u64) -> bool {
        false
    }
}

/// The site of a function's beginning; whatever comes after it lands nowhere in it.
fn of_prologue(code: &[u8], shape: Shape) -> Site {
    choose(ENTRY, code, shape, || Ok(BTreeSet::new()))
}

/// The site of a whole function, with the parts it is spread over.
fn of_function(code: &[u8], parts: &[(u64, &[u8])], shape: Shape) -> Site {
    let mut snippets = vec![(ENTRY, code)];
    snippets.extend(parts);
    let text = Snippets(snippets);
    let function = text.extent(ENTRY).unwrap_or(Extent {
        start: ENTRY,
        end: ENTRY,
    });
    choose(ENTRY, code, shape, || {
        Body::read(&text, function)?.landings(&text)
    })
}

#[track_caller]
fn assert_site(site: &Site, offset_bytes: u64, kind: SiteKind, why: &Why) {
    assert_eq!(
        (site.offset_bytes, site.kind, &site.why),
        (offset_bytes, kind, why)
    );
}

#[track_caller]
fn assert_entry(site: &Site, refused: Refused) {
    assert_site(site, 0, SiteKind::SingleStepped, &Why::Entry(refused));
}

#[test]
fn glibc() {
    // 2.31, 2.36, 2.41: `push %r12` begins malloc, calloc and realloc of all three but for 2.31's malloc.
    let site = of_prologue(&[0x41, 0x54, 0x55, 0x53], MALLOC);
    assert_site(&site, 0, PUSH, &Why::EntryIsCheap);
    // 2.31 malloc: mov __malloc_hook@GOT(%rip),%rax; push %r12
    let code = [0x48, 0x8b, 0x05, 0x09, 0x81, 0x14, 0x00, 0x41, 0x54];
    assert_site(&of_prologue(&code, MALLOC), 7, PUSH, &Why::FirstEmulated);
    // 2.31 memalign: mov (%rsp),%rdx; jmp _mid_memalign
    let code = [0x48, 0x8b, 0x14, 0x24, 0xe9, 0x77, 0xf6, 0xff, 0xff];
    assert_site(&of_prologue(&code, MEMALIGN), 4, JUMP, &Why::FirstEmulated);
    // 2.36 and 2.41 posix_memalign: cmpb $0,__malloc_initialized(%rip); push %r12
    let code = [0x80, 0x3d, 0x01, 0x02, 0x14, 0x00, 0x00, 0x41, 0x54];
    assert_site(&of_prologue(&code, POSIX_MEMALIGN), 7, PUSH, &Why::FirstEmulated);
    // 2.36 memalign: cmpb $0,__malloc_initialized(%rip); je +7
    let code = [0x80, 0x3d, 0x71, 0x0e, 0x14, 0x00, 0x00, 0x74, 0x07];
    assert_site(&of_prologue(&code, MEMALIGN), 7, BRANCH, &Why::FirstEmulated);
}

#[test]
fn free_of_glibc_is_probed_past_its_null_guard() {
    // 2.36: test %rdi,%rdi; je; push %rbp
    let code = [0x48, 0x85, 0xff, 0x0f, 0x84, 0xbf, 0x00, 0x00, 0x00, 0x55];
    assert_site(&of_prologue(&code, FREE), 9, PUSH, &Why::PastNullGuard);
    // 2.41: test %rdi,%rdi; je; push %r15
    let code = [0x48, 0x85, 0xff, 0x0f, 0x84, 0x7f, 0x01, 0x00, 0x00, 0x41, 0x57];
    assert_site(&of_prologue(&code, FREE), 9, PUSH, &Why::PastNullGuard);
    // As gcc -fcf-protection builds the same: endbr64; test %rdi,%rdi; je; push %rbp
    let code = [
        0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x85, 0xff, 0x0f, 0x84, 0xbf, 0x00, 0x00, 0x00, 0x55,
    ];
    assert_site(&of_prologue(&code, FREE), 13, PUSH, &Why::PastNullGuard);
}

/// glibc 2.31: `free` makes room on the stack, then asks for `__free_hook`.
#[rustfmt::skip]
const FREE_2_31: [u8; 23] = [
    0x48, 0x83, 0xec, 0x18,                   // sub $0x18,%rsp
    0x48, 0x8b, 0x05, 0xdd, 0x7a, 0x14, 0x00, // mov __free_hook@GOT(%rip),%rax
    0x48, 0x8b, 0x00,                         // mov (%rax),%rax
    0x48, 0x85, 0xc0,                         // test %rax,%rax
    0x0f, 0x85, 0x81, 0x00, 0x00, 0x00,       // jne
];

#[test]
fn a_free_may_have_made_room_if_nobody_asks_for_its_stack_pointer() {
    let site = of_prologue(&FREE_2_31, FREE);
    assert_site(&site, 17, BRANCH, &Why::FirstEmulated);
    let delegating = Shape {
        delegates: true,
        ..FREE
    };
    assert_entry(&of_prologue(&FREE_2_31, delegating), Refused::StackMoved(ENTRY));
    assert_entry(&of_prologue(&FREE_2_31, MALLOC), Refused::StackMoved(ENTRY));
    // add $0x18,%rsp gives room back that is not the function's.
    let mut up = FREE_2_31;
    up[1..3].copy_from_slice(&[0x83, 0xc4]);
    assert_entry(&of_prologue(&up, FREE), Refused::StackMoved(ENTRY));
    // sub $-0x18,%rsp is the same.
    let mut up = FREE_2_31;
    up[3] = 0xe8;
    assert_entry(&of_prologue(&up, FREE), Refused::StackMoved(ENTRY));
}

#[test]
fn musl() {
    // 1.2.3 malloc: jmp __libc_malloc_impl
    let site = of_prologue(&[0xe9, 0x6b, 0x19, 0x00, 0x00], MALLOC);
    assert_site(&site, 0, JUMP, &Why::EntryIsCheap);
    // 1.2.5 malloc, with CET: endbr64; jmp __libc_malloc_impl
    let code = [0xf3, 0x0f, 0x1e, 0xfa, 0xe9, 0xc7, 0x0b, 0x00, 0x00];
    assert_site(&of_prologue(&code, MALLOC), 4, JUMP, &Why::FirstEmulated);
    // 1.2.3 reallocarray: mov %rdx,%rcx; test %rdx,%rdx; je +8
    let code = [0x48, 0x89, 0xd1, 0x48, 0x85, 0xd2, 0x74, 0x08];
    let site = of_prologue(&code, REALLOCARRAY);
    assert_site(&site, 6, BRANCH, &Why::FirstEmulated);
    assert_eq!(site.shape, REALLOCARRAY);
}

#[test]
fn arguments_are_read_where_they_have_been_moved_to() {
    // musl 1.2.3 valloc: mov %rdi,%rsi; mov $0x1000,%edi; jmp memalign@plt
    let code = [
        0x48, 0x89, 0xfe, 0xbf, 0x00, 0x10, 0x00, 0x00, 0xe9, 0xa3, 0x49, 0xff, 0xff,
    ];
    let site = of_prologue(&code, MALLOC);
    assert_site(&site, 8, JUMP, &Why::FirstEmulated);
    assert_eq!(site.shape, MEMALIGN);
    // mimalloc 2.0 malloc: mov heap@GOT(%rip),%rax; mov %rdi,%rsi; mov %fs:(%rax),%rdi; cmp $0x400,%rsi; ja
    let code = [
        0x48, 0x8b, 0x05, 0x49, 0xb4, 0x00, 0x00, 0x48, 0x89, 0xfe, 0x64, 0x48, 0x8b, 0x38, 0x48, 0x81, 0xfe,
        0x00, 0x04, 0x00, 0x00, 0x77, 0x29,
    ];
    let site = of_prologue(&code, MALLOC);
    assert_site(&site, 21, BRANCH, &Why::FirstEmulated);
    assert_eq!(site.shape, MEMALIGN);
    // mimalloc 2.0 realloc: mov heap@GOT(%rip),%rax; mov %rsi,%rdx; mov %rdi,%rsi; mov %fs:(%rax),%rax;
    // mov %rax,%rdi; jmp mi_heap_realloc@plt
    let code = [
        0x48, 0x8b, 0x05, 0x49, 0xa9, 0x00, 0x00, 0x48, 0x89, 0xf2, 0x48, 0x89, 0xfe, 0x64, 0x48, 0x8b, 0x00,
        0x48, 0x89, 0xc7, 0xe9, 0xf7, 0x4e, 0xff, 0xff,
    ];
    let site = of_prologue(&code, REALLOC);
    assert_site(&site, 20, JUMP, &Why::FirstEmulated);
    assert_eq!((site.shape.pointer, site.shape.size), (Arg::new(1), Arg::new(2)));
}

#[test]
fn jemalloc() {
    // 5.3 malloc: cmp $0x1000,%rdi; ja
    let code = [
        0x48, 0x81, 0xff, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x87, 0x93, 0x00, 0x00, 0x00,
    ];
    assert_site(&of_prologue(&code, MALLOC), 7, BRANCH, &Why::FirstEmulated);
    // The same with CET.
    let code = [&[0xf3, 0x0f, 0x1e, 0xfa], &code[..]].concat();
    assert_site(&of_prologue(&code, MALLOC), 11, BRANCH, &Why::FirstEmulated);
    // 5.3 free: mov %rdi,%rax; mov tsd@GOTTPOFF(%rip),%rdx; mov %rdi,%rcx; shr $0x1a,%rax;
    // and $-0x40000000,%rcx; and $0xf0,%eax; add %fs:0,%rax; add %rdx,%rax; cmp 0x1b0(%rax),%rcx; jne
    let code = [
        0x48, 0x89, 0xf8, 0x48, 0x8b, 0x15, 0x0e, 0x53, 0x0a, 0x00, 0x48, 0x89, 0xf9, 0x48, 0xc1, 0xe8, 0x1a,
        0x48, 0x81, 0xe1, 0x00, 0x00, 0x00, 0xc0, 0x25, 0xf0, 0x00, 0x00, 0x00, 0x64, 0x48, 0x03, 0x04, 0x25,
        0x00, 0x00, 0x00, 0x00, 0x48, 0x01, 0xd0, 0x48, 0x3b, 0x88, 0xb0, 0x01, 0x00, 0x00, 0x0f, 0x85, 0x8a,
        0x00, 0x00, 0x00,
    ];
    assert_site(&of_prologue(&code, FREE), 48, BRANCH, &Why::FirstEmulated);
    // 5.3 operator delete(void*, size_t): test %rdi,%rdi; je; sub $8,%rsp; call sdallocx. It hands its block on:
    // the guard itself will do.
    let code = [
        0x48, 0x85, 0xff, 0x74, 0x13, 0x48, 0x83, 0xec, 0x08, 0xe8, 0x12, 0x33, 0xf8, 0xff,
    ];
    let delegating = Shape {
        delegates: true,
        ..FREE
    };
    assert_site(&of_prologue(&code, delegating), 3, BRANCH, &Why::FirstEmulated);
}

#[test]
fn tcmalloc() {
    // gperftools 2.10 free: mov hook(%rip),%rax; test %rax,%rax; jne
    let code = [
        0x48, 0x8b, 0x05, 0x99, 0x41, 0x1c, 0x00, 0x48, 0x85, 0xc0, 0x0f, 0x85, 0x90, 0x00, 0x00, 0x00,
    ];
    assert_site(&of_prologue(&code, FREE), 10, BRANCH, &Why::FirstEmulated);
    // gperftools 2.10 malloc: mov hook@GOT(%rip),%rax; mov %rdi,%r8; test %rax,%rax; jne
    let code = [
        0x48, 0x8b, 0x05, 0xf9, 0x32, 0x01, 0x00, 0x49, 0x89, 0xf8, 0x48, 0x85, 0xc0, 0x0f, 0x85, 0x8e, 0x00,
        0x00, 0x00,
    ];
    assert_site(&of_prologue(&code, MALLOC), 13, BRANCH, &Why::FirstEmulated);
    // gperftools 2.16 calloc, with CET and frame pointers: endbr64; push %rbp
    let code = [0xf3, 0x0f, 0x1e, 0xfa, 0x55];
    assert_site(&of_prologue(&code, CALLOC), 4, PUSH, &Why::FirstEmulated);
}

/// mimalloc 2.0: `free` has a copy of its pointer, and no push at all.
#[rustfmt::skip]
const FREE_MIMALLOC: [u8; 78] = [
    0x48, 0x89, 0xf9,                               // mov %rdi,%rcx
    0x48, 0x85, 0xff,                               // test %rdi,%rdi
    0x74, 0x5d,                                     // je
    0x48, 0x8d, 0x7f, 0xff,                         // lea -1(%rdi),%rdi
    0x48, 0x89, 0xc8,                               // mov %rcx,%rax
    0x48, 0x81, 0xe7, 0x00, 0x00, 0x00, 0xfe,       // and $-0x2000000,%rdi
    0x48, 0x29, 0xf8,                               // sub %rdi,%rax
    0x48, 0xc1, 0xe8, 0x10,                         // shr $0x10,%rax
    0x48, 0x8d, 0x04, 0x80,                         // lea (%rax,%rax,4),%rax
    0x48, 0xc1, 0xe0, 0x04,                         // shl $4,%rax
    0x48, 0x8d, 0xb0, 0x08, 0x01, 0x00, 0x00,       // lea 0x108(%rax),%rsi
    0x64, 0x4c, 0x8b, 0x04, 0x25, 0, 0, 0, 0,       // mov %fs:0,%r8
    0x48, 0x8b, 0x97, 0x00, 0x01, 0x00, 0x00,       // mov 0x100(%rdi),%rdx
    0x8b, 0x84, 0x07, 0x0c, 0x01, 0x00, 0x00,       // mov 0x10c(%rdi,%rax,1),%eax
    0x48, 0x29, 0xc6,                               // sub %rax,%rsi
    0x48, 0x01, 0xfe,                               // add %rdi,%rsi
    0x49, 0x39, 0xd0,                               // cmp %rdx,%r8
    0x75, 0x32,                                     // jne
];

#[test]
fn mimalloc_free_is_read_from_the_copy_past_its_guard() {
    let site = of_prologue(&FREE_MIMALLOC, FREE);
    assert_site(&site, 76, BRANCH, &Why::PastNullGuard);
    assert_eq!(site.shape.pointer, Arg::new(3));
    // With both copies gone it is the guard: mov %rdi,%rcx becomes mov %rdi,%rax, which is overwritten.
    let mut lost = FREE_MIMALLOC;
    lost[..3].copy_from_slice(&[0x48, 0x89, 0xf8]);
    assert_site(&of_prologue(&lost, FREE), 6, BRANCH, &Why::FirstEmulated);
}

#[test]
fn glibc_reallocarray_loses_its_arguments() {
    // mov %rsi,%rax; mul %rdx; mov %rax,%rsi; jo
    let code = [0x48, 0x89, 0xf0, 0x48, 0xf7, 0xe2, 0x48, 0x89, 0xc6, 0x70, 0x05];
    assert_entry(
        &of_prologue(&code, REALLOCARRAY),
        Refused::ArgumentGone(ENTRY + 9),
    );
    // An argument that is not read may go.
    assert_site(&of_prologue(&code, FREE), 9, BRANCH, &Why::FirstEmulated);
}

/// Code that is all straight: the push at its end would be the site.
fn before_push(code: &[u8]) -> Vec<u8> {
    [code, &[0x55, 0x5d, 0xc3]].concat()
}

#[test]
fn arguments_must_be_whole() {
    let gone: &[(&str, &[u8])] = &[
        ("xor %edi,%edi", &[0x31, 0xff]),
        ("mov $1,%dil", &[0x40, 0xb7, 0x01]),
        ("mov $1,%di", &[0x66, 0xbf, 0x01, 0x00]),
        ("mov %edi,%edi", &[0x89, 0xff]),
        ("cmove %rax,%rdi", &[0x48, 0x0f, 0x44, 0xf8]),
        ("xchg %rax,%rdi", &[0x48, 0x97]),
        ("inc %rdi", &[0x48, 0xff, 0xc7]),
        ("lodsq", &[0x48, 0xad]),
    ];
    for (text, code) in gone {
        let shape = if *text == "lodsq" { MEMALIGN } else { MALLOC };
        let site = of_function(&before_push(code), &[], shape);
        let refused = Why::Entry(Refused::ArgumentGone(ENTRY + code.len() as u64));
        assert_eq!((site.offset_bytes, &site.why), (0, &refused), "{text}");
    }
    // mul writes rdx, which memalign does not read and posix_memalign does.
    let code = before_push(&[0x48, 0xf7, 0xe6]);
    assert_site(&of_function(&code, &[], MEMALIGN), 3, PUSH, &Why::FirstEmulated);
    assert_entry(
        &of_function(&code, &[], POSIX_MEMALIGN),
        Refused::ArgumentGone(ENTRY + 3),
    );
}

#[test]
fn a_copy_of_a_part_is_no_copy() {
    // mov %edi,%esi; xor %edi,%edi
    let code = before_push(&[0x89, 0xfe, 0x31, 0xff]);
    assert_entry(&of_function(&code, &[], MALLOC), Refused::ArgumentGone(ENTRY + 4));
    // mov %rdi,%rsi; xor %edi,%edi
    let code = before_push(&[0x48, 0x89, 0xfe, 0x31, 0xff]);
    assert_eq!(of_function(&code, &[], MALLOC).shape, MEMALIGN);
    // mov %rdi,%r10; xor %edi,%edi
    let code = before_push(&[0x49, 0x89, 0xfa, 0x31, 0xff]);
    assert_eq!(of_function(&code, &[], MALLOC).shape.size, Arg::in_register(7));
    // mov %rdi,%rbx; xor %edi,%edi: no probe reads rbx. (A function may not write it without saving it.)
    let code = before_push(&[0x48, 0x89, 0xfb, 0x31, 0xff]);
    assert_entry(&of_function(&code, &[], MALLOC), Refused::ArgumentGone(ENTRY + 5));
}

#[test]
fn mimalloc_calloc_has_its_count_in_rax() {
    // mov heap(%rip),%rdx; mov %rdi,%rax; mov %fs:(%rdx),%rdi; cmp $1,%rax; je; of Debian's mimalloc 2.0.9
    let code = [
        0x48, 0x8b, 0x15, 0xc9, 0xad, 0x00, 0x00, 0x48, 0x89, 0xf8, 0x64, 0x48, 0x8b, 0x3a, 0x48, 0x83, 0xf8,
        0x01, 0x74, 0x08,
    ];
    let site = of_prologue(&code, CALLOC);
    assert_site(&site, 18, BRANCH, &Why::FirstEmulated);
    assert_eq!(
        (site.shape.count, site.shape.size),
        (Arg::in_register(6), Arg::new(1))
    );
}

#[test]
fn the_stack_must_be_as_at_the_entry() {
    let moved: &[(&str, &[u8])] = &[
        ("sub $8,%rsp", &[0x48, 0x83, 0xec, 0x08]),
        ("lea -8(%rsp),%rsp", &[0x48, 0x8d, 0x64, 0x24, 0xf8]),
        ("pop %rax", &[0x58]),
        ("push $1", &[0x6a, 0x01]),
        ("push (%rax)", &[0xff, 0x30]),
        ("and $-16,%rsp", &[0x48, 0x83, 0xe4, 0xf0]),
        ("mov %rax,%rsp", &[0x48, 0x89, 0xc4]),
    ];
    for (text, code) in moved {
        let site = of_function(&before_push(code), &[], MALLOC);
        assert_eq!(site.offset_bytes, 0, "{text}");
        assert!(
            matches!(
                site.why,
                Why::Entry(Refused::StackMoved(ENTRY) | Refused::MemoryWritten(ENTRY))
            ),
            "{text}: {:?}",
            site.why
        );
    }
    // mov %rax,%rbp: the caller's frame could not be found.
    let code = before_push(&[0x48, 0x89, 0xc5]);
    assert_entry(&of_function(&code, &[], MALLOC), Refused::FrameMoved(ENTRY));
    // mov %rax,(%rsp): the return address.
    let code = before_push(&[0x48, 0x89, 0x04, 0x24]);
    assert_entry(&of_function(&code, &[], MALLOC), Refused::MemoryWritten(ENTRY));
    // lock cmpxchg %rcx,(%rdx): the block may be another thread's from here on.
    let code = before_push(&[0xf0, 0x48, 0x0f, 0xb1, 0x0a]);
    assert_entry(&of_function(&code, &[], FREE), Refused::MemoryWritten(ENTRY));
}

#[test]
fn nothing_before_the_site_may_leave() {
    let leaving: &[(&str, &[u8])] = &[
        ("call *%rax", &[0xff, 0xd0]),
        ("jmp *%rax", &[0xff, 0xe0]),
        ("ret", &[0xc3]),
        ("syscall", &[0x0f, 0x05]),
        ("jrcxz", &[0xe3, 0x02]),
        ("loop", &[0xe2, 0x02]),
        ("ud2", &[0x0f, 0x0b]),
    ];
    for (text, code) in leaving {
        let site = of_function(&before_push(code), &[], MALLOC);
        assert_eq!(
            (site.offset_bytes, &site.why),
            (0, &Why::Entry(Refused::Leaves(ENTRY))),
            "{text}"
        );
    }
}

#[test]
fn a_tail_jump_or_call_before_any_push_is_the_site_itself() {
    // xor %eax,%eax; jmp elsewhere: what comes after is not this function's straight line.
    let code = [0x31, 0xc0, 0xe9, 0xf9, 0x0f, 0x00, 0x00, 0x55, 0x5d, 0xc3];
    let elsewhere: (u64, &[u8]) = (ENTRY + 0x1000, &[0xc3]);
    assert_site(
        &of_function(&code, &[elsewhere], MALLOC),
        2,
        JUMP,
        &Why::FirstEmulated,
    );
    // xor %eax,%eax; call elsewhere
    let mut call = code;
    call[2] = 0xe8;
    assert_site(
        &of_function(&call, &[elsewhere], MALLOC),
        2,
        SiteKind::Emulated(Emulated::Call),
        &Why::FirstEmulated,
    );
}

#[test]
fn nothing_may_jump_between_entry_and_site() {
    // xor %eax,%eax; push %rbp; pop %rbp; jne TARGET; ret
    let with_target = |target: u8| [0x31, 0xc0, 0x55, 0x5d, 0x75, target, 0xc3];
    // To the push: a call would be seen as often as it loops.
    let site = of_function(&with_target(0xfc), &[], MALLOC);
    assert_entry(&site, Refused::JumpedTo(ENTRY + 2));
    // To the entry: it would be there, too.
    let site = of_function(&with_target(0xfa), &[], MALLOC);
    assert_site(&site, 2, PUSH, &Why::FirstEmulated);
    // To what follows the push.
    let site = of_function(&with_target(0xfd), &[], MALLOC);
    assert_site(&site, 2, PUSH, &Why::FirstEmulated);
}

#[test]
fn a_cold_part_may_not_jump_there_either() {
    // xor %eax,%eax; push %rbp; pop %rbp; jne 0x2000; ret
    let code = [0x31, 0xc0, 0x55, 0x5d, 0x0f, 0x85, 0xf6, 0x0f, 0x00, 0x00, 0xc3];
    let cold = 0x2000;
    // jmp ENTRY + 2
    let back: &[u8] = &[0xe9, 0xfd, 0xef, 0xff, 0xff];
    assert_entry(
        &of_function(&code, &[(cold, back)], MALLOC),
        Refused::JumpedTo(ENTRY + 2),
    );
    // jmp ENTRY + 10
    let after: &[u8] = &[0xe9, 0x05, 0xf0, 0xff, 0xff];
    assert_site(
        &of_function(&code, &[(cold, after)], MALLOC),
        2,
        PUSH,
        &Why::FirstEmulated,
    );
    // Nothing is known of it.
    assert_entry(
        &of_function(&code, &[], MALLOC),
        Refused::Body(Unproven::NoExtent(cold).to_string()),
    );
}

#[test]
fn the_guard_must_be_for_the_pointer() {
    let of = |test: &[u8], branch: u8| {
        let code = [test, &[branch, 0x02, 0x55, 0x5d, 0xc3]].concat();
        of_function(&code, &[], FREE)
    };
    let test_rdi: &[u8] = &[0x48, 0x85, 0xff];
    assert_site(&of(test_rdi, 0x74), 5, PUSH, &Why::PastNullGuard);
    // cmp $0,%rdi
    assert_site(&of(&[0x48, 0x83, 0xff, 0x00], 0x74), 6, PUSH, &Why::PastNullGuard);
    let not_a_guard: &[(&str, &[u8], u8)] = &[
        ("jne", test_rdi, 0x75),
        ("jbe", test_rdi, 0x76),
        ("test %rsi,%rsi", &[0x48, 0x85, 0xf6], 0x74),
        ("test %rsi,%rdi", &[0x48, 0x85, 0xf7], 0x74),
        ("test %edi,%edi", &[0x85, 0xff], 0x74),
        ("cmp $1,%rdi", &[0x48, 0x83, 0xff, 0x01], 0x74),
        ("test; add %rax,%rdx", &[0x48, 0x85, 0xff, 0x48, 0x01, 0xc2], 0x74),
    ];
    for (text, test, branch) in not_a_guard {
        let site = of(test, *branch);
        assert_eq!(
            (site.offset_bytes, &site.why),
            (test.len() as u64, &Why::FirstEmulated),
            "{text}"
        );
    }
    // lea 8(%rdi),%rax leaves the flags alone.
    let site = of(&[0x48, 0x85, 0xff, 0x48, 0x8d, 0x47, 0x08], 0x74);
    assert_site(&site, 9, PUSH, &Why::PastNullGuard);
    // An allocation's first branch is taken by some of its calls: no site is behind it.
    let code = [0x48, 0x85, 0xff, 0x74, 0x02, 0x55, 0x5d, 0xc3];
    assert_site(&of_function(&code, &[], REALLOC), 3, BRANCH, &Why::FirstEmulated);
}

#[test]
fn a_guard_that_leads_into_the_straight_line_is_the_site() {
    // test %rdi,%rdi; je to the push; nop; push %rbp: free(NULL) passes the push as well.
    let code = [0x48, 0x85, 0xff, 0x74, 0x03, 0x48, 0x89, 0xc1, 0x55, 0x5d, 0xc3];
    let site = of_function(&code, &[], FREE);
    assert_site(&site, 3, BRANCH, &Why::FirstEmulated);
}

#[test]
fn an_indirect_jump_may_land_anywhere_unless_its_pointer_has_a_place() {
    let after_push = |code: &[u8]| [&[0x31, 0xc0, 0x55, 0x5d], code].concat();
    let tables: &[(&str, &[u8])] = &[
        ("jmp *%rax", &[0xff, 0xe0]),
        (
            "lea 0(%rip),%rdx; movslq (%rdx,%rdi,4),%rax; add %rdx,%rax; jmp *%rax",
            &[
                0x48, 0x8d, 0x15, 0, 0, 0, 0, 0x48, 0x63, 0x04, 0xba, 0x48, 0x01, 0xd0, 0xff, 0xe0,
            ],
        ),
        ("jmp *(%rdx,%rdi,8)", &[0xff, 0x24, 0xfa]),
        ("jmp *(%rdx)", &[0xff, 0x22]),
        (
            "mov (%rdx,%rdi,8),%rax; jmp *%rax",
            &[0x48, 0x8b, 0x04, 0xfa, 0xff, 0xe0],
        ),
        (
            "mov 0(%rip),%rax; add $8,%rax; jmp *%rax",
            &[0x48, 0x8b, 0x05, 0, 0, 0, 0, 0x48, 0x83, 0xc0, 0x08, 0xff, 0xe0],
        ),
        (
            "mov 0(%rip),%rax; call next; jmp *%rax",
            &[0x48, 0x8b, 0x05, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xff, 0xe0],
        ),
        // The branch reaches the jump without the load.
        (
            "je +7; mov 0(%rip),%rax; jmp *%rax",
            &[0x74, 0x07, 0x48, 0x8b, 0x05, 0, 0, 0, 0, 0xff, 0xe0],
        ),
    ];
    for (text, code) in tables {
        let site = of_function(&after_push(code), &[], MALLOC);
        assert!(
            matches!(&site.why, Why::Entry(Refused::Body(why)) if why.contains("jumps to an address")),
            "{text}: {:?}",
            site.why
        );
    }
    let pointers: &[(&str, &[u8])] = &[
        ("jmp *0(%rip)", &[0xff, 0x25, 0, 0, 0, 0]),
        (
            "mov 0(%rip),%rax; mov (%rax),%rax; jmp *%rax",
            &[0x48, 0x8b, 0x05, 0, 0, 0, 0, 0x48, 0x8b, 0x00, 0xff, 0xe0],
        ),
        // As `__free_hook` of glibc 2.31 is called: loaded, tested, and jumped to from a part of its own.
        (
            "mov 0(%rip),%rax; test %rax,%rax; jne +1; ret; add $24,%rsp; jmp *%rax",
            &[
                0x48, 0x8b, 0x05, 0, 0, 0, 0, 0x48, 0x85, 0xc0, 0x75, 0x01, 0xc3, 0x48, 0x83, 0xc4, 0x18,
                0xff, 0xe0,
            ],
        ),
    ];
    for (text, code) in pointers {
        let site = of_function(&after_push(code), &[], MALLOC);
        assert_eq!((site.offset_bytes, &site.why), (2, &Why::FirstEmulated), "{text}");
    }
}

#[test]
fn what_cannot_be_read_is_probed_at_its_entry() {
    assert_entry(&of_function(&[], &[], MALLOC), Refused::Undecodable(ENTRY));
    // xor %eax,%eax and then no instruction, or the half of one.
    assert_entry(
        &of_function(&[0x31, 0xc0, 0x06], &[], MALLOC),
        Refused::Undecodable(ENTRY + 2),
    );
    assert_entry(
        &of_function(&[0x31, 0xc0, 0x41], &[], MALLOC),
        Refused::Undecodable(ENTRY + 2),
    );
    assert_entry(
        &of_function(&[0x31, 0xc0], &[], MALLOC),
        Refused::Undecodable(ENTRY + 2),
    );
    // The push is there, what follows is not code.
    let site = of_function(&[0x31, 0xc0, 0x55, 0x06, 0xc3], &[], MALLOC);
    assert!(
        matches!(&site.why, Why::Entry(Refused::Body(_))),
        "{:?}",
        site.why
    );
    // It runs out of its end.
    let site = of_function(&[0x31, 0xc0, 0x55], &[], MALLOC);
    assert!(
        matches!(&site.why, Why::Entry(Refused::Body(_))),
        "{:?}",
        site.why
    );
    // A straight line without end.
    let long: Vec<u8> = [0x31, 0xc0].repeat(MAX_INSTRUCTIONS + 1);
    assert_entry(&of_function(&long, &[], MALLOC), Refused::NoneNear);
}

#[test]
fn only_what_every_kernel_emulates_counts() {
    let kind = |code: &[u8]| Site::entry(code, MALLOC, Why::Forced).kind;
    let emulated: &[(&[u8], Emulated)] = &[
        (&[0x90], Emulated::Nop),
        (&[0x55], Emulated::Push),
        (&[0x41, 0x57], Emulated::Push),
        (&[0xeb, 0x00], Emulated::Jump),
        (&[0xe9, 0, 0, 0, 0], Emulated::Jump),
        (&[0xf2, 0xe9, 0, 0, 0, 0], Emulated::Jump),
        (&[0xe8, 0, 0, 0, 0], Emulated::Call),
        (&[0x7f, 0x00], Emulated::Branch),
        (&[0x0f, 0x8f, 0, 0, 0, 0], Emulated::Branch),
    ];
    for (code, expected) in emulated {
        assert_eq!(kind(code), SiteKind::Emulated(*expected), "{code:x?}");
    }
    let stepped: &[&[u8]] = &[
        // endbr64; nop with an operand size; nopl (%rax); push with an operand size, with REX.W, of memory; a branch hint, an operand size
        &[0xf3, 0x0f, 0x1e, 0xfa],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x66, 0x55],
        &[0x48, 0x55],
        &[0x66, 0x41, 0x57],
        &[0xff, 0x30],
        &[0x2e, 0x74, 0x00],
        &[0x66, 0xe8, 0, 0, 0, 0],
        &[0xff, 0xe0],
        &[0xc3],
        &[0xe3, 0x00],
        &[],
    ];
    for code in stepped {
        assert_eq!(kind(code), SiteKind::SingleStepped, "{code:x?}");
    }
}
