//! Functions of GPU memory in small objects of the system's compiler: which are found, where they are probed, what
//! their cookies say.

use leaktrace_common::{
    call::{Op, Space},
    gpu::{GpuCookie, GpuOp},
};

use super::tests::{build, system};
use super::*;
use crate::probe::{cuda, site::SiteKind};

/// A function with a visibility and a body in assembly.
fn function(visibility: &str, name: &str, code: &str) -> String {
    format!(
        ".{visibility} {name}\n.type {name},@function\n{name}:\n.cfi_startproc\n{code}\n.cfi_endproc\n.size {name}, .-{name}\n"
    )
}

fn object(functions: &[String], options: &[&str]) -> Option<Scan> {
    let source = format!(".text\n{}\n", functions.concat());
    let (_directory, path) = build("cc", "s", &source, &[&["-shared", "-nostdlib"], options].concat())?;
    Some(scan_path(&path, &[]).unwrap())
}

fn of<'a>(scan: &'a Scan, symbol: &str) -> &'a Function {
    let functions = &scan.gpu.functions;
    functions
        .iter()
        .find(|function| function.symbol == symbol)
        .unwrap_or_else(|| panic!("{symbol} is not among {functions:?}"))
}

#[test]
fn functions_of_the_table_are_found_with_their_cookies() {
    let names = [
        "cuMemAlloc_v2",
        "cuMemFree_v2",
        "cuMemCreate",
        "cuGraphAddMemAllocNode",
    ];
    let functions = names.map(|name| function("globl", name, " xor %eax,%eax\n ret"));
    let Some(scan) = object(&functions, &["-s"]) else {
        return;
    };
    assert!(scan.functions.is_empty() && scan.arenas.functions.is_empty());
    assert_eq!(scan.gpu.functions.len(), names.len());
    assert_eq!(scan.blind_spots_of(Gear::Gpu).count(), 0);
    for name in names {
        let function = of(&scan, name);
        let row = cuda::find(name.as_bytes()).unwrap();
        assert_eq!(function.cookie, row.shape.cookie(cuda::call_id(row)).plain());
        assert_eq!(function.call, function.cookie.call());
        assert_eq!(function.returns == Returns::Probe, row.returns, "{name}");
        assert!(function.is_gpus() && !function.cookie.hands_over());
        assert_eq!(function.probe_offset(), function.offset);
    }
    let create = GpuCookie(of(&scan, "cuMemCreate").cookie.0);
    assert!(create.is(GpuOp::Create) && create.allocates() && create.size_arg() == 1);
    assert_eq!(of(&scan, "cuMemFree_v2").shape.op, Op::Free);
    assert_eq!(of(&scan, "cuMemCreate").shape.space, Space::Vmm);
}

#[test]
fn local_symbols_of_a_linked_in_runtime_count_until_it_is_stripped() {
    let functions = [
        function("local", "cudaMalloc", " nop\n ret"),
        function("globl", "cudaMallocAsync", " nop\n ret"),
    ];
    let Some(scan) = object(&functions, &[]) else {
        return;
    };
    assert!(GpuCookie(of(&scan, "cudaMalloc").cookie.0).is_of_runtime());
    assert_eq!(scan.gpu.functions.len(), 2);
    let stripped = object(&functions, &["-s"]).unwrap();
    assert_eq!(stripped.gpu.functions.len(), 1);
}

#[test]
fn two_names_of_one_function_are_one_probe_and_another_function_is_told() {
    let twins = " .globl cuMemAllocAsync_ptsz\n .type cuMemAllocAsync_ptsz,@function\ncuMemAllocAsync_ptsz:\n \
                 .globl cudaMalloc\n .type cudaMalloc,@function\ncudaMalloc:\n nop\n ret";
    let Some(scan) = object(&[function("globl", "cuMemAllocAsync", twins)], &[]) else {
        return;
    };
    let [one] = scan.gpu.functions.as_slice() else {
        panic!("{:?}", scan.gpu)
    };
    assert_eq!(one.symbol, "cuMemAllocAsync");
    let [skipped] = scan.gpu.skipped.as_slice() else {
        panic!("{:?}", scan.gpu)
    };
    assert_eq!(skipped.function, "cudaMalloc");
    assert!(skipped.reason.to_string().contains("cuMemAllocAsync"));
}

#[test]
fn a_probe_is_past_the_entry_only_if_all_arguments_are_in_place() {
    let begins = |code: &str| {
        let functions = [function("globl", "cuMemMap", code)];
        let scan = object(&functions, &[])?;
        let function = of(&scan, "cuMemMap");
        Some((function.site.offset_bytes, function.site.kind))
    };
    let Some(cheap) = begins(" endbr64\n push %rbp\n pop %rbp\n ret") else {
        return;
    };
    assert_eq!(cheap.0, 4);
    assert_ne!(cheap.1, SiteKind::SingleStepped);
    for spoils in ["mov $1,%ecx", "mov %rdi,%r8", "xor %r9d,%r9d", "xor %edi,%edi"] {
        let code = format!(" endbr64\n {spoils}\n push %rbp\n pop %rbp\n ret");
        assert_eq!(begins(&code).unwrap(), (0, SiteKind::SingleStepped), "{spoils}");
    }
}

#[test]
fn an_entry_that_is_asked_for_keeps_the_cookie() {
    let functions = [function(
        "globl",
        "cuMemAlloc_v2",
        " endbr64\n push %rbp\n pop %rbp\n ret",
    )];
    let Some(mut scan) = object(&functions, &[]) else {
        return;
    };
    let before = of(&scan, "cuMemAlloc_v2").clone();
    assert_eq!(before.site.offset_bytes, 4);
    scan.probe_entries();
    let after = of(&scan, "cuMemAlloc_v2");
    assert_eq!(after.site.offset_bytes, 0);
    assert_eq!(after.cookie, before.cookie);
}

#[test]
fn what_the_user_names_is_the_users() {
    let source = format!(".text\n{}\n", function("globl", "cuMemAlloc_v2", " nop\n ret"));
    let Some((_directory, path)) = build("cc", "s", &source, &["-shared", "-nostdlib"]) else {
        return;
    };
    let named = crate::probe::custom::parse_alloc("cuMemAlloc_v2(size=arg1,out=arg0)").unwrap();
    let scan = scan_path(&path, &[named]).unwrap();
    assert_eq!((scan.functions.len(), scan.gpu.functions.len()), (1, 0));
}

#[test]
fn tensors_are_seen_at_the_entry_alone() {
    let name = "_ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE";
    let Some(scan) = object(&[function("globl", name, " push %rbp\n pop %rbp\n ret")], &[]) else {
        return;
    };
    let function = of(&scan, name);
    assert_eq!(function.returns, Returns::None);
    assert_eq!(crate::probe::allocators::call_name(function.call), "tensor");
}

#[test]
fn a_c_library_says_where_programs_end() {
    let Some((path, scan)) = system("libc.so.6", "libc6") else {
        return;
    };
    let exit = scan.exit.clone().unwrap();
    assert_eq!((exit.symbol.as_str(), &exit.returns), ("exit", &Returns::None));
    assert!(exit.size_bytes > 0);
    assert!(scan.gpu.functions.is_empty());
    // The same name elsewhere is somebody else's.
    let Some((_directory, path_of_other)) = build(
        "cc",
        "s",
        &function("globl", "exit", " ret"),
        &["-shared", "-nostdlib"],
    ) else {
        return;
    };
    assert_eq!(scan_path(&path_of_other, &[]).unwrap().exit, None);
    assert!(path.exists());
}
