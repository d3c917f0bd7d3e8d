//! Stacks are equal, frame by frame, to what the C library's `backtrace()` says at the same call: each way to
//! build a program is a test, in which all shapes of call chains come at several depths.

use leaktrace_tests::{
    chains,
    fixtures::Fixture,
    skip::{Missing, program, unless_missing},
    target::Target,
    trace,
};

/// Code without frame pointers.
const OPTIMISED: &[&str] = &["-O2", "-fomit-frame-pointer"];
/// The linkers, as an option of gcc, and the packages that have them.
const LLD: (&str, &str, &str) = ("-fuse-ld=lld", "ld.lld", "lld");
const MOLD: (&str, &str, &str) = ("-fuse-ld=mold", "mold", "mold");

fn c(flags: &[&str]) -> Fixture {
    Fixture::c("chains").flags(OPTIMISED).flags(flags)
}

fn cpp(flags: &[&str]) -> Fixture {
    Fixture::cpp("chains")
        .named("cppchains")
        .flags(&["-pthread"])
        .flags(OPTIMISED)
        .flags(flags)
}

fn rust(flags: &[&str]) -> Fixture {
    Fixture::rust("chains")
        .named("rustchains")
        .flags(&["-C", "force-frame-pointers=no"])
        .flags(flags)
}

/// A fixture that a linker is needed for.
fn linked_by(fixture: Fixture, linker: (&str, &str, &str)) -> Result<Fixture, Missing> {
    let (_, name, package) = linker;
    program(name, package).map(|_| fixture)
}

/// Traces the fixture and compares all its chains.
fn equal(fixture: &Fixture) {
    let Some(program) = unless_missing(fixture.build()) else {
        return;
    };
    let mut target = Target::program(&program, &[]);
    let traced = trace(&mut target, &[]);
    chains::assert_equal(&traced.report, &traced.truth);
    chains::assert_all_complete(&traced.report);
    traced.report.assert_adds_up();
    traced.report.assert_no_losses();
    target.finish_with(0);
}

fn equal_if_there(fixture: Result<Fixture, Missing>) {
    if let Some(fixture) = unless_missing(fixture) {
        equal(&fixture);
    }
}

#[test]
fn c_without_frame_pointers() {
    equal(&c(&[]));
}

#[test]
fn c_with_frame_pointers() {
    equal(&c(&["-fno-omit-frame-pointer"]));
}

#[test]
fn c_not_optimised() {
    equal(&c(&["-O0", "-fno-omit-frame-pointer"]));
}

#[test]
fn c_optimised_for_size() {
    equal(&c(&["-Os"]));
}

#[test]
fn c_optimised_most_for_vectors() {
    // Locals of 32 bytes' alignment: the compiler realigns the stack.
    equal(&c(&["-O3", "-mavx"]));
}

#[test]
fn c_with_arguments_pushed_around_calls() {
    // The frame's size changes from instruction to instruction.
    equal(&c(&[
        "-mno-accumulate-outgoing-args",
        "-mpush-args",
        "-fno-defer-pop",
    ]));
}

#[test]
fn c_at_fixed_addresses() {
    equal(&c(&["-fno-pie", "-no-pie"]));
}

#[test]
fn c_bound_lazily() {
    equal(&c(&["-fplt", "-Wl,-z,lazy"]));
}

#[test]
fn c_without_stubs() {
    equal(&c(&["-fno-plt", "-Wl,-z,now"]));
}

#[test]
fn c_for_control_flow_enforcement() {
    equal(&c(&["-fcf-protection=full", "-Wl,-z,lazy"]));
}

#[test]
fn c_optimised_at_link_time() {
    equal(&c(&["-flto"]));
}

#[test]
fn c_with_each_function_in_a_section() {
    equal(&c(&["-ffunction-sections", "-Wl,--gc-sections"]));
}

#[test]
fn c_stripped() {
    equal(&c(&["-s"]));
}

#[test]
fn c_static() {
    equal(&c(&["-static"]));
}

#[test]
fn c_static_and_position_independent() {
    equal(&c(&["-static-pie", "-fPIE"]));
}

#[test]
fn c_linked_by_lld() {
    equal_if_there(linked_by(c(&[LLD.0]), LLD));
}

#[test]
fn c_linked_by_lld_with_code_in_a_page_of_its_own() {
    equal_if_there(linked_by(c(&[LLD.0, "-Wl,-z,separate-code"]), LLD));
}

#[test]
fn c_static_linked_by_lld() {
    equal_if_there(linked_by(c(&[LLD.0, "-static"]), LLD));
}

#[test]
fn c_linked_by_mold() {
    equal_if_there(linked_by(c(&[MOLD.0]), MOLD));
}

#[test]
fn c_static_and_position_independent_linked_by_mold() {
    equal_if_there(linked_by(c(&[MOLD.0, "-static-pie", "-fPIE"]), MOLD));
}

#[test]
fn cpp_without_frame_pointers() {
    equal(&cpp(&[]));
}

#[test]
fn cpp_not_optimised() {
    equal(&cpp(&["-O0"]));
}

#[test]
fn cpp_optimised_at_link_time() {
    equal(&cpp(&["-O3", "-flto"]));
}

#[test]
fn cpp_static() {
    equal(&cpp(&["-static"]));
}

#[test]
fn cpp_linked_by_lld() {
    equal_if_there(linked_by(cpp(&[LLD.0]), LLD));
}

#[test]
fn cpp_linked_by_mold() {
    equal_if_there(linked_by(cpp(&[MOLD.0]), MOLD));
}

#[test]
fn rust_release() {
    equal(&rust(&[]));
}

#[test]
fn rust_release_optimised_at_link_time() {
    equal(&rust(&["-C", "lto=fat", "-C", "codegen-units=1"]));
}

#[test]
fn rust_release_for_size() {
    equal(&rust(&["-C", "opt-level=s"]));
}

#[test]
fn rust_static() {
    equal(&rust(&["-C", "target-feature=+crt-static"]));
}

#[test]
fn rust_linked_by_lld() {
    equal_if_there(linked_by(rust(&["-C", "link-arg=-fuse-ld=lld"]), LLD));
}

#[test]
fn rust_linked_by_mold() {
    equal_if_there(linked_by(rust(&["-C", "link-arg=-fuse-ld=mold"]), MOLD));
}

/// musl's own code has no unwind tables: `backtrace()` ends where it begins, behind `main`, and so may the stack.
#[test]
fn c_static_with_musl() {
    let flags = ["-fasynchronous-unwind-tables", "-Wl,--eh-frame-hdr"];
    let fixture = Fixture::musl("chains").flags(OPTIMISED).flags(&flags);
    let Some(program) = unless_missing(fixture.build()) else {
        return;
    };
    let mut target = Target::program(&program, &[]);
    let traced = trace(&mut target, &[]);
    chains::assert_equal_from_start(&traced.report, &traced.truth);
    target.finish_with(0);
}
