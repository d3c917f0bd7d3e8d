//! What is probed for the sake of a Python interpreter, in the system's C library and in small objects that behave as
//! an interpreter does.

use super::tests::{build, system};
use super::*;

#[test]
fn what_maps_arenas_is_apart_from_the_heap() {
    let Some((_, scan)) = system("libc.so.6", "libc6") else {
        return;
    };
    let arenas: Vec<&str> = scan.arenas.functions.iter().map(|f| f.symbol.as_str()).collect();
    // One address has two names.
    assert_eq!(arenas.len(), 2, "{arenas:?}");
    assert!(arenas.contains(&"mmap") && arenas.contains(&"munmap"));
    assert!(scan.functions.iter().all(|f| !f.symbol.contains("map")));
    assert_eq!(scan.blind_spots_of(Gear::Arenas).count(), 0);
    assert!(scan.python.interpreter.is_none() && scan.pools == Group::default());
    let mmap = scan.arenas.functions.iter().find(|f| f.symbol == "mmap").unwrap();
    assert_eq!(mmap.returns, Returns::Probe);
    assert!(!mmap.cookie.hands_over());
}

/// A function that does to a pool's header what CPython's does, and something else first.
fn taker(name: &str, first: &str) -> String {
    format!(
        ".type {name},@function\n{name}:\n.cfi_startproc\n push %rbx\n {first}\n movl $0xffff,0x24(%rax)\n \
         lea 0x4000(%rax),%rdx\n mov %edi,0x24(%rax)\n mov $0x4000,%ecx\n mov %ebp,0x28(%rax)\n mov %ecx,0x2c(%rax)\n \
         pop %rbx\n ret\n.cfi_endproc\n.size {name}, .-{name}\n"
    )
}

/// An object with these functions and, if wanted, a Python runtime; without local symbols.
fn object(functions: &str, runtime: bool) -> Option<Scan> {
    let runtime = if runtime {
        ".data\n.globl _PyRuntime\n.type _PyRuntime,@object\n_PyRuntime:\n.zero 64\n.size _PyRuntime, 64\n"
    } else {
        ""
    };
    let source = format!(".text\n.globl other\n.type other,@function\nother:\n ret\n{functions}\n{runtime}");
    let (_directory, path) = build("cc", "s", &source, &["-shared", "-nostdlib", "-s"])?;
    Some(scan_path(&path, &[]).unwrap())
}

#[test]
fn pools_are_found_without_symbols() {
    let Some(scan) = object(&taker("a", "nop"), true) else {
        return;
    };
    assert!(scan.python.runtime().is_some() && scan.functions.is_empty());
    let [function] = scan.pools.functions.as_slice() else {
        panic!("{:?}", scan.pools)
    };
    assert_eq!(function.symbol, "allocate_from_new_pool");
    assert_eq!(function.returns, Returns::Probe);
    assert_eq!(scan.pools.skipped, []);
    assert_eq!(object(&taker("a", "nop"), false).unwrap().pools, Group::default());
}

#[test]
fn pools_are_refused_where_every_object_would_be_seen_or_some_pools_not() {
    for (functions, words) in [
        (taker("a", "cmp $0x1ff,%rdi"), "every object passes"),
        (taker("a", "nop") + &taker("b", "nop"), "in 2 functions"),
        (String::new(), "no function that takes a pool into use"),
    ] {
        let Some(scan) = object(&functions, true) else {
            return;
        };
        assert_eq!(scan.pools.functions, [], "{words}");
        let reason = scan.pools.skipped[0].reason.to_string();
        assert!(reason.contains(words), "{reason}");
        assert_eq!(scan.blind_spots_of(Gear::Pools).count(), 1);
    }
}
