//! The scan against real objects of the system and against small ones that the C compiler of the system
//! makes; `objdump` is the judge of what is a `ret`. What is not installed is named on stderr.

use super::super::allocators;
use super::*;
use std::process::Command;

const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// Scans a system library, or says loudly that it is not there.
pub(super) fn system(name: &str, package: &str) -> Option<(PathBuf, Scan)> {
    let path = Path::new(LIBRARIES).join(name);
    if !path.exists() {
        eprintln!("NOT TESTED: {} is missing, install {package}", path.display());
        return None;
    }
    let scan = scan_path(&path, &[]).unwrap();
    Some((path, scan))
}

/// Runs a tool, or says loudly that it is not there.
pub(super) fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(name).args(arguments).output() {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{name} {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(error) => {
            eprintln!(
                "NOT TESTED: {name} cannot be run ({error}), install gcc, g++, binutils and musl-tools"
            );
            None
        }
    }
}

/// Compiles a source; the directory goes when the first of the pair is dropped.
pub(super) fn build(
    compiler: &str,
    extension: &str,
    source: &str,
    options: &[&str],
) -> Option<(tempfile::TempDir, PathBuf)> {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join(format!("fixture.{extension}"));
    let output = directory.path().join("fixture");
    std::fs::write(&input, source).unwrap();
    let mut arguments = options.to_vec();
    arguments.extend(["-o", output.to_str().unwrap(), input.to_str().unwrap()]);
    tool(compiler, &arguments)?;
    Some((directory, output))
}

/// A shared object from x86-64 assembly that also defines `malloc`, so that C++ operators count.
fn assemble(body: &str) -> Option<Scan> {
    let source = format!(".text\n{}\n{body}\n", function("malloc", "xor %eax,%eax\n ret"));
    let (_directory, path) = build("cc", "s", &source, &["-shared", "-nostdlib"])?;
    Some(scan_path(&path, &[]).unwrap())
}

fn function(name: &str, code: &str) -> String {
    format!(
        ".globl {name}\n.type {name},@function\n{name}:\n.cfi_startproc\n{code}\n.cfi_endproc\n.size {name}, .-{name}\n"
    )
}

pub(super) fn named<'a>(scan: &'a Scan, symbol: &str) -> &'a Function {
    scan.functions
        .iter()
        .find(|function| function.symbol == symbol)
        .unwrap_or_else(|| panic!("{symbol} is not among {:?}", symbols(scan)))
}

fn symbols(scan: &Scan) -> Vec<&str> {
    scan.functions
        .iter()
        .map(|function| function.symbol.as_str())
        .collect()
}

fn reason<'a>(scan: &'a Scan, symbol: &str) -> &'a Reason {
    &scan
        .skipped
        .iter()
        .find(|skipped| skipped.function == symbol)
        .unwrap_or_else(|| panic!("{symbol}"))
        .reason
}

pub(super) fn address_of_offset(scan: &Scan, offset: u64) -> u64 {
    let segment = scan
        .segments
        .iter()
        .find(|s| s.executable && s.offset <= offset && offset < s.offset + s.size_bytes);
    let segment = segment.unwrap();
    offset - segment.offset + segment.address
}

/// Addresses of the `ret` instructions that objdump sees in a range.
fn rets(path: &Path, start: u64, end: u64) -> Option<Vec<u64>> {
    let text = tool(
        "objdump",
        &[
            "-d",
            "--no-show-raw-insn",
            &format!("--start-address={start:#x}"),
            &format!("--stop-address={end:#x}"),
            path.to_str().unwrap(),
        ],
    )?;
    let lines = text.lines().filter_map(|line| line.trim().split_once(":\t"));
    Some(
        lines
            .filter(|(_, code)| {
                code.split_whitespace()
                    .any(|word| word == "ret" || word == "retq")
            })
            .map(|(address, _)| u64::from_str_radix(address, 16).unwrap())
            .collect(),
    )
}

/// Every offset is a `ret`, and every `ret` of the function's own body is among them.
fn check_rets(path: &Path, scan: &Scan, function: &Function) {
    let Returns::Instructions(offsets) = &function.returns else {
        panic!("{}: {:?}", function.symbol, function.returns)
    };
    assert!(!offsets.is_empty() && offsets.is_sorted());
    for offset in offsets {
        let address = address_of_offset(scan, *offset);
        let Some(found) = rets(path, address, address + 1) else {
            return;
        };
        assert_eq!(found, [address], "{} {address:#x}", function.symbol);
    }
    let start = address_of_offset(scan, function.offset);
    for address in rets(path, start, start + function.size_bytes).unwrap_or_default() {
        assert!(
            offsets.contains(&scan.offset_of_address(address).unwrap()),
            "{} {address:#x}",
            function.symbol
        );
    }
}

#[test]
fn glibc_has_its_functions_each_once() {
    let Some((path, scan)) = system("libc.so.6", "libc6") else {
        return;
    };
    assert!(scan.is_supported() && !scan.is_go);
    assert_eq!(scan.soname.as_deref(), Some("libc.so.6"));
    assert_eq!(scan.build_id.as_ref().map(Vec::len), Some(20));
    let all = [
        "malloc",
        "free",
        "calloc",
        "realloc",
        "posix_memalign",
        "aligned_alloc",
        "reallocarray",
    ];
    for symbol in all {
        let function = named(&scan, symbol);
        assert_eq!(allocators::call_name(function.call), symbol);
        assert_eq!(
            (function.cookie.call(), function.cookie.is_free()),
            (function.call, symbol == "free")
        );
        assert_eq!(
            function.returns,
            if symbol == "free" {
                Returns::None
            } else {
                Returns::Probe
            }
        );
    }
    assert!(
        !symbols(&scan).iter().any(|symbol| symbol.starts_with("__libc_")),
        "{:?}",
        symbols(&scan)
    );
    assert!(
        scan.functions
            .windows(2)
            .all(|pair| pair[0].offset < pair[1].offset)
    );
    let Some(table) = tool("readelf", &["-W", "--dyn-syms", path.to_str().unwrap()]) else {
        return;
    };
    for function in &scan.functions {
        let address = format!("{:016x}", address_of_offset(&scan, function.offset));
        let line = table.lines().find(|line| {
            line.contains(&address)
                && line
                    .split_whitespace()
                    .any(|word| word.split('@').next() == Some(&function.symbol))
        });
        assert!(
            line.is_some(),
            "readelf does not have {} at {address}",
            function.symbol
        );
    }
}

#[test]
fn jemalloc_operators_that_inline_the_fast_path_are_seen_at_their_rets() {
    let Some((path, scan)) = system("libjemalloc.so.2", "libjemalloc2") else {
        return;
    };
    for symbol in ["malloc", "mallocx", "rallocx", "_ZnwmRKSt9nothrow_t"] {
        assert_eq!(named(&scan, symbol).returns, Returns::Probe, "{symbol}");
    }
    assert_eq!(named(&scan, "sdallocx").returns, Returns::None);
    check_rets(&path, &scan, named(&scan, "_Znwm"));
    assert!(matches!(reason(&scan, "_Znam"), Reason::Covered { by } if by == "_Znwm"));
    assert!(matches!(reason(&scan, "_ZnwmSt11align_val_t"), Reason::Covered { by } if by == "aligned_alloc"));
    assert!(matches!(reason(&scan, "_ZdlPv"), Reason::Covered { by } if by == "free"));
    assert_eq!(scan.blind_spots().count(), 0);
}

#[test]
fn tcmalloc_operators_are_seen_at_their_rets() {
    for (library, package) in [
        ("libtcmalloc.so.4", "libgoogle-perftools4"),
        ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
    ] {
        let Some((path, scan)) = system(library, package) else {
            continue;
        };
        check_rets(&path, &scan, named(&scan, "_Znwm"));
        check_rets(&path, &scan, named(&scan, "_ZnwmSt11align_val_t"));
        assert_eq!(named(&scan, "_ZnwmRKSt9nothrow_t").returns, Returns::Probe);
        // tc_free, _ZdlPv and free are one address: the plain name is told.
        assert_eq!(allocators::call_name(named(&scan, "free").call), "free");
        assert_eq!(scan.blind_spots().count(), 0, "{:?}", scan.skipped);
    }
}

#[test]
fn mimalloc_has_its_own_forms() {
    let Some((path, scan)) = system("libmimalloc.so.2", "libmimalloc2.0") else {
        return;
    };
    for symbol in [
        "malloc",
        "mi_zalloc_aligned",
        "mi_heap_recalloc_aligned",
        "mi_new_nothrow",
    ] {
        assert_eq!(named(&scan, symbol).returns, Returns::Probe, "{symbol}");
    }
    for symbol in ["_Znwm", "mi_new_n", "mi_heap_alloc_new"] {
        check_rets(&path, &scan, named(&scan, symbol));
    }
    assert!(
        matches!(reason(&scan, "_ZnwmSt11align_val_t"), Reason::Covered { by } if by == "mi_malloc_aligned")
    );
    // Through two that hand it on.
    assert!(matches!(reason(&scan, "_ZdaPvmSt11align_val_t"), Reason::Covered { by } if by == "free"));
    assert_eq!(scan.blind_spots().count(), 0, "{:?}", scan.skipped);
}

#[test]
fn libraries_without_an_allocator_of_their_own_have_nothing_to_probe() {
    for (library, package) in [("libstdc++.so.6", "libstdc++6"), ("libm.so.6", "libc6")] {
        if let Some((_, scan)) = system(library, package) {
            assert_eq!(scan.functions, [], "{library}");
        }
    }
    let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
    if loader.exists() {
        assert_eq!(scan_path(loader, &[]).unwrap().functions, []);
    } else {
        eprintln!("NOT TESTED: {} is missing", loader.display());
    }
    assert!(is_loader(Some("ld-linux-x86-64.so.2"), Path::new("/x")));
    assert!(is_loader(None, Path::new("/lib/x86_64-linux-gnu/ld-2.31.so")));
    assert!(!is_loader(None, Path::new("/lib/ld-musl-x86_64.so.1")));
    assert!(!is_loader(
        Some("libc.so"),
        Path::new("/lib/ld-linux-x86-64.so.2")
    ));
}

const CALLS_MALLOC: &str = "#include <stdlib.h>
    int main(int n, char **v) { void *p = calloc(n, 3); p = realloc(p, 9); free(p); return malloc(n) == 0; }";

#[test]
fn static_musl_has_its_functions_once_and_under_their_public_names() {
    let Some((_directory, path)) = build("musl-gcc", "c", CALLS_MALLOC, &["-static", "-O1"]) else {
        return;
    };
    let scan = scan_path(&path, &[]).unwrap();
    assert_eq!(scan.interpreter, None);
    for symbol in ["malloc", "calloc", "realloc", "free"] {
        assert_eq!(allocators::call_name(named(&scan, symbol).call), symbol);
    }
    assert!(
        !symbols(&scan).iter().any(|symbol| symbol.starts_with("__libc_")),
        "{:?}",
        symbols(&scan)
    );
}

#[test]
fn dynamic_musl_is_its_own_loader() {
    let Some((_directory, path)) = build("musl-gcc", "c", CALLS_MALLOC, &["-O1"]) else {
        return;
    };
    let interpreter = scan_path(&path, &[]).unwrap().interpreter.unwrap();
    let scan = scan_path(&interpreter, &[]).unwrap();
    for symbol in ["malloc", "free", "aligned_alloc"] {
        named(&scan, symbol);
    }
}

#[test]
fn operators_of_a_static_cpp_program_are_covered_by_its_malloc() {
    let source =
        "int *volatile kept; int main(int n, char **) { kept = new int[n]; delete[] kept; return 0; }";
    let Some((_directory, path)) = build("g++", "cc", source, &["-static", "-O1", "-fno-builtin"]) else {
        return;
    };
    let scan = scan_path(&path, &[]).unwrap();
    assert_eq!(named(&scan, "malloc").returns, Returns::Probe);
    for symbol in ["_Znwm", "_Znam"] {
        assert!(
            matches!(reason(&scan, symbol), Reason::Covered { by } if by == "malloc"),
            "{:?}",
            scan.skipped
        );
    }
    assert!(matches!(reason(&scan, "_ZdlPv"), Reason::Covered { by } if by == "free"));
}

#[test]
fn local_symbols_count_and_stripped_ones_do_not() {
    let source = "
        static __attribute__((noinline, used)) void *mi_malloc_aligned(unsigned long n, unsigned long a)
            { static char b[64]; return n + a < 64 ? b : 0; }
        static __attribute__((noinline, used)) void mi_free(void *p) { *(volatile char *)p = 0; }
        void *entry(unsigned long n) { void *p = mi_malloc_aligned(n, 8); mi_free(p); return p; }";
    let options = ["-shared", "-fPIC", "-O1", "-fno-ipa-icf"];
    let Some((_directory, path)) = build("cc", "c", source, &options) else {
        return;
    };
    let scan = scan_path(&path, &[]).unwrap();
    assert_eq!(named(&scan, "mi_malloc_aligned").returns, Returns::Probe);
    assert_eq!(named(&scan, "mi_free").returns, Returns::None);
    assert_eq!(scan.functions.len(), 2);
    if tool("strip", &[path.to_str().unwrap()]).is_some() {
        assert_eq!(scan_path(&path, &[]).unwrap().functions, []);
    }
}

#[test]
fn several_functions_of_one_name_are_all_kept() {
    let Some(scan) = assemble(
        ".type mi_free,@function\nmi_free: ret\n.size mi_free,.-mi_free\n\
         .type x,@function\nx: nop\n ret\n.globl mi_free.2\n.set mi_free.2, mi_free\n",
    ) else {
        return;
    };
    assert_eq!(symbols(&scan), ["malloc", "mi_free"]);
    let twins = "static void *mi_malloc(unsigned long n) __attribute__((noinline, used));
        static void *mi_malloc(unsigned long n) { static char b[N]; return n < N ? b : 0; }
        void *NAME(unsigned long n) { return mi_malloc(n); }";
    let directory = tempfile::tempdir().unwrap();
    let mut inputs = Vec::new();
    for (name, size) in [("first", "7"), ("second", "9")] {
        let input = directory.path().join(format!("{name}.c"));
        std::fs::write(&input, twins.replace("NAME", name).replace('N', size)).unwrap();
        inputs.push(input.to_str().unwrap().to_owned());
    }
    let output = directory.path().join("fixture");
    let arguments = [
        "-shared",
        "-fPIC",
        "-O1",
        "-o",
        output.to_str().unwrap(),
        &inputs[0],
        &inputs[1],
    ];
    if tool("cc", &arguments).is_some() {
        assert_eq!(
            symbols(&scan_path(&output, &[]).unwrap()),
            ["mi_malloc", "mi_malloc"]
        );
    }
}

#[test]
fn resolvers_and_undefined_symbols_are_not_probed() {
    let source = "
        extern void free(void *);
        static void *one(unsigned long n) { (void)n; return 0; }
        static void *(*pick(void))(unsigned long) { return one; }
        void *malloc(unsigned long) __attribute__((ifunc(\"pick\")));
        void put(void *p) { free(p); }";
    let Some((_directory, path)) = build("cc", "c", source, &["-shared", "-fPIC", "-O1"]) else {
        return;
    };
    let scan = scan_path(&path, &[]).unwrap();
    assert_eq!(scan.functions, []);
    assert_eq!(
        scan.skipped,
        [Skipped {
            function: "malloc".into(),
            reason: Reason::Indirect
        }]
    );
    assert_eq!(scan.blind_spots().count(), 1);
}

#[test]
fn custom_functions_are_found_or_named_as_missing() {
    let source = "
        void *pool_get(void *pool, unsigned long n) { return (char *)pool + n; }
        void pool_put(void *p) { *(char *)p = 0; }";
    let Some((_directory, path)) = build("cc", "c", source, &["-shared", "-fPIC", "-O1"]) else {
        return;
    };
    let custom = [
        super::super::custom::parse_alloc("pool_get(size=arg1)->ret").unwrap(),
        super::super::custom::parse_free("pool_put(ptr=arg0)").unwrap(),
        super::super::custom::parse_free("pool_drop(ptr=arg0)").unwrap(),
    ];
    let scan = scan_path(&path, &custom).unwrap();
    let get = named(&scan, "pool_get");
    assert_eq!(get.shape, custom[0].shape);
    // Unknown code may throw: no return probe, although this is C.
    assert!(matches!(&get.returns, Returns::Instructions(offsets) if offsets.len() == 1));
    assert!(get.cookie.has_ret_instructions());
    assert_eq!(allocators::call_name_with(get.call, &custom), "pool_get");
    assert_eq!(named(&scan, "pool_put").returns, Returns::None);
    assert_eq!(reason(&scan, "pool_drop"), &Reason::NotFound);
    assert!(scan.skipped[0].reason.to_string().contains("nm -D"));
}

#[test]
fn go_programs_are_recognised() {
    let Some((_directory, path)) = build("cc", "c", "int main(void) { return 0; }", &[]) else {
        return;
    };
    assert!(!scan_path(&path, &[]).unwrap().is_go);
    let path = path.to_str().unwrap();
    if tool(
        "objcopy",
        &["--add-section", &format!(".go.buildinfo={path}"), path],
    )
    .is_some()
    {
        assert!(scan_path(Path::new(path), &[]).unwrap().is_go);
    }
}

#[test]
fn throwing_functions_are_probed_where_their_code_is_understood() {
    let body = [
        // Two returns, one behind a jump to a piece of its own.
        function(
            "_Znwm",
            "cmp $8,%rdi\n ja _Znwm.cold\n lea 8(%rdi),%rax\n ret\n nopw (%rax,%rax)",
        ),
        function("_Znwm.cold", "mov %rdi,%rax\n ret"),
    ];
    let Some(scan) = assemble(&body.concat()) else {
        return;
    };
    let new = named(&scan, "_Znwm");
    let Returns::Instructions(offsets) = &new.returns else {
        panic!("{new:?}")
    };
    let lengths: Vec<u64> = offsets.iter().map(|offset| offset - new.offset).collect();
    // cmp 4, ja rel8 or rel32, lea 4, ret; then 5 of padding (and the alignment) before the second piece.
    assert_eq!(lengths.len(), 2, "{lengths:?}");
    assert!(
        lengths[0] >= 10 && lengths[1] > new.size_bytes,
        "{lengths:?} of {}",
        new.size_bytes
    );
}

#[test]
fn throwing_functions_that_are_not_understood_are_not_probed() {
    for (code, part) in [
        ("cmp $8,%rdi\n ja 1f\n ret\n1: jmp *%rax", "register or table"),
        ("ret\n .byte 0x06", "cannot be decoded"),
        (
            "cmp $8,%rdi\n ja 1f\n ret\n1: nop\n mov %rdi,%rax",
            "runs on past its end",
        ),
        ("cmp $8,%rdi\n ja elsewhere@PLT\n ret", "outside this file"),
        ("1: jmp 1b", "never returns"),
        ("iretq", "cannot be decoded"),
    ] {
        let Some(scan) = assemble(&function("_Znwm", code)) else {
            return;
        };
        assert_eq!(symbols(&scan), ["malloc"], "{code}");
        let text = reason(&scan, "_Znwm").to_string();
        assert!(
            text.contains("may throw") && text.contains(part),
            "{code}: {text}"
        );
        assert_eq!(scan.blind_spots().count(), 1);
    }
}

#[test]
fn calls_handed_to_a_probed_function_need_no_probe_of_their_own() {
    for (code, covered) in [
        ("jmp malloc", true),
        ("endbr64\n jmp malloc@PLT", true),
        (
            "push %rbx\n1: call malloc@PLT\n test %rax,%rax\n je 1b\n pop %rbx\n ret",
            true,
        ),
        ("push %rbx\n call *malloc@GOTPCREL(%rip)\n pop %rbx\n ret", true),
        ("test %rdi,%rdi\n je 1f\n jmp malloc\n1: ud2", true),
        // One way out passes malloc by.
        (
            "test %rdi,%rdi\n je 1f\n jmp malloc\n1: xor %eax,%eax\n ret",
            false,
        ),
        ("call *%rax\n ret", false),
    ] {
        let Some(scan) = assemble(&function("_Znwm", code)) else {
            return;
        };
        assert_eq!(
            symbols(&scan).contains(&"_Znwm"),
            !covered,
            "{code}: {:?}",
            scan.skipped
        );
        if covered {
            assert_eq!(
                reason(&scan, "_Znwm"),
                &Reason::Covered { by: "malloc".into() },
                "{code}"
            );
        }
        assert_eq!(scan.blind_spots().count(), 0, "{code}");
    }
    // A plain jump with the same arguments; not one whose target reads them in another way.
    let code = [
        function("valloc", "jmp malloc"),
        function("memalign", "jmp malloc"),
    ]
    .concat();
    let Some(scan) = assemble(&code) else { return };
    assert_eq!(symbols(&scan), ["malloc", "memalign"]);
    // Two that jump to each other hand nothing to anybody.
    let code = [
        function("valloc", "jmp pvalloc"),
        function("pvalloc", "jmp valloc"),
    ]
    .concat();
    let Some(scan) = assemble(&code) else { return };
    assert_eq!(scan.functions.len(), 2);
}

/// The 20 bytes that tell what a file is.
fn head(class: u8, order: u8, machine: [u8; 2]) -> Vec<u8> {
    let mut head = vec![0x7f, b'E', b'L', b'F', class, order, 1];
    head.resize(18, 0);
    head.extend(machine);
    head
}

#[test]
fn foreign_files_are_told_by_their_head() {
    let path = Path::new("/some/file");
    let of = |bytes: &[u8]| scan(bytes, path, &[]);
    let scan_32 = of(&head(1, 1, [3, 0])).unwrap();
    assert_eq!(
        (scan_32.class, scan_32.machine, scan_32.is_supported()),
        (Class::Bits32, 3, false)
    );
    let big = of(&head(2, 2, [0, 22])).unwrap();
    assert_eq!(
        (big.class, big.machine, big.is_supported()),
        (Class::Bits64, 22, false)
    );
    for bytes in [&b""[..], b"\x7fEL", b"#!/bin/sh and more than twenty bytes"] {
        let error = of(bytes).unwrap_err();
        assert!(matches!(error, ElfError::NotElf { .. }));
        assert!(error.to_string().contains("/some/file"));
    }
    assert!(matches!(of(&head(2, 1, [62, 0])), Err(ElfError::Damaged { .. })));
    assert!(matches!(
        scan_path(Path::new("/nowhere/x"), &[]),
        Err(ElfError::Read { .. })
    ));
}

#[test]
fn damaged_files_are_errors_or_less_is_found_but_nothing_panics() {
    let body = [
        function("_Znwm", "cmp $8,%rdi\n ja slow\n ret"),
        function("slow", "ret"),
    ]
    .concat();
    let source = format!(".text\n{}\n{body}\n", function("malloc", "ret"));
    let Some((_directory, path)) = build("cc", "s", &source, &["-shared", "-nostdlib"]) else {
        return;
    };
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(scan(&whole[..], &path, &[]).unwrap().functions.len(), 2);
    for end in 0..whole.len() {
        if let Ok(scan) = scan(&whole[..end], &path, &[]) {
            assert!(scan.functions.len() <= 2);
        }
    }
    let mut scanned = 0;
    for position in 0..whole.len() {
        for value in [
            0x00,
            0xff,
            whole[position] ^ 0x80,
            whole[position].wrapping_add(1),
        ] {
            let mut bytes = whole.clone();
            bytes[position] = value;
            scanned += usize::from(scan(&bytes[..], &path, &[]).is_ok());
        }
    }
    assert!(scanned > 0);
}
