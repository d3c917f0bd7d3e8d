//! Sites and hand-overs in the allocators of this system, with `objdump` as the judge of the whole file.

use super::tests::{address_of_offset, build, named, system, tool};
use super::*;
use crate::probe::site::SiteKind;
use leaktrace_common::call::Op;

const LIBRARIES: &[(&str, &str)] = &[
    ("libc.so.6", "libc6"),
    ("libjemalloc.so.2", "libjemalloc2"),
    ("libtcmalloc.so.4", "libgoogle-perftools4"),
    ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
    ("libmimalloc.so.2", "libmimalloc2.0"),
];

/// An instruction as objdump prints it.
struct Line {
    address: u64,
    text: String,
}

impl Line {
    fn word(&self) -> &str {
        self.text
            .split_whitespace()
            .find(|word| !matches!(*word, "bnd" | "notrack"))
            .unwrap_or_default()
    }

    fn is_branch(&self) -> bool {
        let word = self.word();
        word.starts_with('j')
            || word.starts_with("call")
            || word.starts_with("ret")
            || word.starts_with("loop")
    }

    /// The address that a direct branch carries.
    fn target(&self) -> Option<u64> {
        let operand = self.text.split_whitespace().nth(1)?;
        self.is_branch()
            .then(|| u64::from_str_radix(operand, 16).ok())
            .flatten()
    }
}

fn disassembly(path: &Path) -> Option<Vec<Line>> {
    let text = tool("objdump", &["-d", "--no-show-raw-insn", path.to_str().unwrap()])?;
    let lines = text.lines().filter_map(|line| {
        let (address, text) = line.trim().split_once(":\t")?;
        Some(Line {
            address: u64::from_str_radix(address, 16).ok()?,
            text: text.to_owned(),
        })
    });
    Some(lines.collect())
}

/// What holds for every site: it is emulated, the code up to it is straight and leaves the stack alone, and nothing
/// in the whole file jumps or calls to behind the entry and up to it.
fn check_sites(path: &Path, scan: &Scan) {
    let Some(lines) = disassembly(path) else { return };
    for function in &scan.functions {
        let name = &function.symbol;
        let entry = address_of_offset(scan, function.offset);
        let site = entry + function.site.offset_bytes;
        assert_eq!(address_of_offset(scan, function.probe_offset()), site);
        if site == entry {
            continue;
        }
        assert_ne!(function.site.kind, SiteKind::SingleStepped, "{name}");
        let first = lines.partition_point(|line| line.address < entry);
        let end = lines.partition_point(|line| line.address < site);
        for line in &lines[first..end] {
            let is_room = line.word() == "sub" && function.site.shape.op == Op::Free;
            let moves_stack = line.text.ends_with("%rsp") && !is_room;
            // The branch that a free of NULL takes is the one exception.
            let is_guard = line.word() == "je" && function.site.why == Why::PastNullGuard;
            let stays = !line.is_branch() || is_guard;
            assert!(
                stays && !moves_stack && !matches!(line.word(), "push" | "pop"),
                "{name}: {}",
                line.text
            );
        }
        let at = lines[end].word();
        assert!(
            matches!(at, "push" | "nop" | "call") || (at.starts_with('j') && !lines[end].text.contains('*')),
            "{name}: {}",
            lines[end].text
        );
        let landing = lines.iter().find(|line| {
            line.target()
                .is_some_and(|target| entry < target && target <= site)
        });
        assert!(
            landing.is_none(),
            "{name} at {entry:#x}: {:#x} leads behind its entry",
            landing.map_or(0, |line| line.address)
        );
    }
}

#[test]
fn nothing_in_an_installed_allocator_jumps_between_entry_and_site() {
    for (library, package) in LIBRARIES {
        if let Some((path, scan)) = system(library, package) {
            check_sites(&path, &scan);
        }
    }
}

#[test]
fn sites_of_musl_hold_as_well() {
    let source =
        "#include <stdlib.h>\nint main(int n, char **v) { free(realloc(calloc(n, 3), 9)); return 0; }";
    if let Some((_directory, path)) = build("musl-gcc", "c", source, &["-static", "-O1"]) {
        let scan = scan_path(&path, &[]).unwrap();
        check_sites(&path, &scan);
        for symbol in ["malloc", "calloc", "realloc", "free"] {
            assert_ne!(
                named(&scan, symbol).site.kind,
                SiteKind::SingleStepped,
                "{symbol}"
            );
        }
    }
}

#[test]
fn every_call_that_is_hot_is_probed_at_an_emulated_instruction() {
    for (library, package) in LIBRARIES {
        let Some((_, scan)) = system(library, package) else {
            continue;
        };
        for symbol in ["malloc", "realloc", "free"] {
            assert_ne!(
                named(&scan, symbol).site.kind,
                SiteKind::SingleStepped,
                "{library} {symbol}: {}",
                named(&scan, symbol).site.why
            );
        }
    }
}

#[test]
fn a_function_hands_over_if_it_calls_a_probed_one() {
    if let Some((_, scan)) = system("libc.so.6", "libc6") {
        let hands_over = |symbol| named(&scan, symbol).cookie.hands_over();
        assert!(!hands_over("malloc") && !hands_over("free"));
        // It calls realloc through the linker's table; that one malloc; posix_memalign through a helper.
        assert!(hands_over("reallocarray") && hands_over("realloc") && hands_over("posix_memalign"));
    }
    if let Some((_, scan)) = system("libjemalloc.so.2", "libjemalloc2") {
        // It calls through a variable that nothing ever writes.
        assert!(!named(&scan, "malloc").cookie.hands_over());
        // The new handler is the program's.
        assert!(named(&scan, "_Znwm").cookie.hands_over());
    }
    if let Some((_, scan)) = system("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4") {
        assert!(!named(&scan, "malloc").cookie.hands_over());
        assert!(named(&scan, "posix_memalign").cookie.hands_over());
    }
}

/// A shared object with a few allocating functions and an `extern` one to go through.
const HANDING: &str = "
    #include <stddef.h>
    void *(*hook)(size_t);
    static char arena[4096];
    static char *own(size_t n) { return arena + n; }
    __attribute__((used)) static void *(*never_written)(size_t) = (void *(*)(size_t))own;
    __attribute__((used)) static void *(*written)(size_t) = (void *(*)(size_t))own;
    void set(void *(*to)(size_t)) { written = to; hook = to; }
    void *malloc(size_t n) { return arena + n; }
    __attribute__((noinline)) static void *two(size_t n) { char *p = malloc(n); return p + 1; }
    __attribute__((noinline)) static void *one(size_t n) { char *p = two(n); return p + 1; }
    void *calloc(size_t n, size_t m) { char *p = one(n * m); return p + 1; }
    void *valloc(size_t n) { char *p = hook(n); return p + 1; }
    void *pvalloc(size_t n) { char *p = never_written(n); return p + 1; }
    void *memalign(size_t a, size_t n) { char *p = written(n); return p + 1; }
    void *aligned_alloc(size_t a, size_t n) { return arena + a + n; }
    void *realloc(void *p, size_t n) { switch (n) { case 0: return p; default: return malloc(n); } }
    void free(void *p) { arena[0] = 1; }
";

#[test]
fn calls_are_followed_two_levels_and_pointers_to_what_they_hold() {
    let options = ["-shared", "-fPIC", "-O1", "-fno-builtin", "-w", "-Wl,-Bsymbolic"];
    let Some((_directory, path)) = build("cc", "c", HANDING, &options) else {
        return;
    };
    let scan = scan_path(&path, &[]).unwrap();
    check_sites(&path, &scan);
    let handing: Vec<(&str, bool)> = [
        "malloc",
        "aligned_alloc",
        "pvalloc",
        "free",
        "calloc",
        "valloc",
        "memalign",
        "realloc",
    ]
    .iter()
    .map(|symbol| (*symbol, named(&scan, symbol).cookie.hands_over()))
    .collect();
    let expected = [
        ("malloc", false),
        ("aligned_alloc", false),
        ("pvalloc", false),
        ("free", false),
        ("calloc", true),
        ("valloc", true),
        ("memalign", true),
        ("realloc", true),
    ];
    assert_eq!(handing, expected);
}

#[test]
fn probing_entries_moves_every_probe_and_the_way_arguments_are_read() {
    let Some((_, mut scan)) = system("libmimalloc.so.2", "libmimalloc2.0") else {
        return;
    };
    let placed = named(&scan, "malloc").clone();
    assert!(placed.site.offset_bytes > 0 && placed.cookie.size_arg() == 1);
    scan.probe_entries();
    assert!(
        scan.functions
            .iter()
            .all(|function| function.probe_offset() == function.offset)
    );
    let forced = named(&scan, "malloc");
    assert_eq!((forced.cookie.size_arg(), &forced.site.why), (0, &Why::Forced));
    assert_eq!(forced.cookie.hands_over(), placed.cookie.hands_over());
    assert_eq!(forced.returns, placed.returns);
}
