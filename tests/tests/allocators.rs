//! The same leaks on every allocator: preloaded, linked, static in the executable, carried by a library
//! under its own names, opened after the attach; and the allocators' own interfaces.

use std::path::Path;

use leaktrace_tests::{
    fixtures,
    fixtures::Fixture,
    leaktrace::Leaktrace,
    report::{Report, Survivor, Truth, assert_cpp_sites},
    skip::{Missing, library, unless_missing},
    target::Target,
    trace,
};

/// Debian's name of the library, and the package that has it.
const JEMALLOC: (&str, &str) = ("libjemalloc.so.2", "libjemalloc2");
const TCMALLOC: (&str, &str) = ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4");
const MIMALLOC: (&str, &str) = ("libmimalloc.so.2", "libmimalloc2.0");

/// The allocator may make blocks for itself through its own functions; the fixture's are exact.
fn assert_fixture_sites(report: &Report, truth: &Truth) {
    report.assert_sites(truth);
    for counter in ["abandoned", "free_missed"] {
        assert_eq!(report.ledger(counter), 0, "{counter}\n{}", report.summary());
    }
}

fn probed_in(report: &Report, object: &str) -> bool {
    let sites = report.value()["tracing"]["sites"]
        .as_array()
        .expect("a list of probes");
    sites
        .iter()
        .any(|site| site["object"].as_str().is_some_and(|path| path.contains(object)))
}

/// Runs the leak fixtures with the allocator preloaded.
fn preloaded((file, package): (&str, &str)) {
    let Some(allocator) = unless_missing(library(file, package)) else {
        return;
    };
    let object = allocator.canonicalize().expect("it is there");
    let object = object
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a plain name");

    let mut target = Target::preloaded(&fixtures::c("pairs"), &["20000"], &allocator);
    let traced = trace(&mut target, &[]);
    assert_fixture_sites(&traced.report, &traced.truth);
    traced.report.assert_site("leak_100", 20, 2000);
    assert!(
        probed_in(&traced.report, object),
        "{}",
        traced.report.value()["tracing"]
    );
    target.finish_with(0);

    let mut target = Target::preloaded(&fixtures::c("threads"), &["4", "1000"], &allocator);
    let traced = trace(&mut target, &[]);
    assert_fixture_sites(&traced.report, &traced.truth);
    target.finish_with(0);
}

/// Runs every function with the allocator preloaded; `left_out` is one that it does not have.
fn every_function((file, package): (&str, &str), left_out: &str) {
    let Some(allocator) = unless_missing(library(file, package)) else {
        return;
    };
    let mut target = Target::preloaded(&fixtures::c("every_function"), &[left_out], &allocator);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    target.finish_with(0);
}

#[test]
fn jemalloc_preloaded() {
    preloaded(JEMALLOC);
}

#[test]
fn tcmalloc_preloaded() {
    preloaded(TCMALLOC);
}

#[test]
fn mimalloc_preloaded() {
    preloaded(MIMALLOC);
}

#[test]
fn every_function_of_jemalloc() {
    // Without a pvalloc of its own, the C library's would serve and jemalloc's free could not take it.
    every_function(JEMALLOC, "pvalloc");
}

#[test]
fn every_function_of_tcmalloc() {
    every_function(TCMALLOC, "");
}

#[test]
fn every_function_of_mimalloc() {
    every_function(MIMALLOC, "");
}

/// Runs the leak fixture linked with `libraries`, if `file` is there.
fn linked(name: &str, needs: Result<impl AsRef<Path>, Missing>, libraries: &[&str]) {
    if unless_missing(needs).is_none() {
        return;
    }
    let program = Fixture::c("pairs")
        .named(name)
        .linked(libraries)
        .build()
        .expect("gcc is there");
    let mut target = Target::program(&program, &["20000"]);
    let traced = trace(&mut target, &[]);
    assert_fixture_sites(&traced.report, &traced.truth);
    traced.report.assert_site("leak_100", 20, 2000);
    target.finish_with(0);
}

#[test]
fn jemalloc_linked() {
    linked(
        "pairs_jemalloc",
        library("libjemalloc.so", "libjemalloc-dev"),
        &["-ljemalloc"],
    );
}

#[test]
fn tcmalloc_linked() {
    linked(
        "pairs_tcmalloc",
        library("libtcmalloc_minimal.so", "libgoogle-perftools-dev"),
        &["-ltcmalloc_minimal"],
    );
}

#[test]
fn mimalloc_linked() {
    let libraries = ["-Wl,--no-as-needed", "-lmimalloc"];
    linked(
        "pairs_mimalloc",
        library("libmimalloc.so", "libmimalloc-dev"),
        &libraries,
    );
}

#[test]
fn jemalloc_static_in_the_executable() {
    let archive = library("libjemalloc_pic.a", "libjemalloc-dev");
    let path = archive.clone().unwrap_or_default();
    let libraries = [
        path.to_str().unwrap_or_default(),
        "-lstdc++",
        "-lm",
        "-ldl",
        "-lpthread",
    ];
    linked("pairs_je_static", archive, &libraries);
}

#[test]
fn tcmalloc_static_in_the_executable() {
    let archive = library("libtcmalloc_minimal.a", "libgoogle-perftools-dev");
    let path = archive.clone().unwrap_or_default();
    let libraries = [
        "-Wl,--whole-archive",
        path.to_str().unwrap_or_default(),
        "-Wl,--no-whole-archive",
    ];
    linked(
        "pairs_tc_static",
        archive,
        &[&libraries[..], &["-lstdc++", "-lm", "-lpthread"]].concat(),
    );
}

#[test]
fn static_musl() {
    let Some(program) = unless_missing(Fixture::musl("pairs").build()) else {
        return;
    };
    let mut target = Target::program(&program, &["20000"]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    target.finish_with(0);
}

#[test]
fn every_function_of_static_musl() {
    let Some(program) = unless_missing(Fixture::musl("every_function").build()) else {
        return;
    };
    let mut target = Target::program(&program, &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact_but(&traced.truth, &["abandoned"]);
    target.finish_with(0);
}

#[test]
fn jemallocs_own_interface() {
    if unless_missing(library("libjemalloc.so", "libjemalloc-dev")).is_none() {
        return;
    }
    let program = Fixture::c("jemalloc_api")
        .linked(&["-ljemalloc"])
        .build()
        .expect("gcc is there");
    let mut target = Target::program(&program, &[]);
    let traced = trace(&mut target, &[]);
    assert_fixture_sites(&traced.report, &traced.truth);
    assert_eq!(
        traced.report.ledger("failed"),
        traced.truth.ledger["failed"],
        "{}",
        traced.report.summary()
    );
    target.finish_with(0);
}

#[test]
fn mimallocs_own_interface() {
    if unless_missing(library("libmimalloc.so", "libmimalloc-dev")).is_none() {
        return;
    }
    let program = Fixture::c("mimalloc_api")
        .linked(&["-lmimalloc"])
        .build()
        .expect("gcc is there");
    let mut target = Target::program(&program, &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    target.finish_with(0);
}

/// A library with an allocator of its own as local symbols.
fn own_allocator(name: &str, flags: &[&str], opened_early: bool) {
    let own = Fixture::library("own_allocator")
        .named(name)
        .flags(flags)
        .build()
        .expect("gcc is there");
    let own = own.to_str().expect("a plain path");
    let arguments: &[&str] = if opened_early { &[own, "early"] } else { &[own] };
    let mut target = Target::c("own_allocator_host", arguments);
    target.ready();
    let mut run = Leaktrace::attach(&[target.pid()]).args(&["-v"]).start();
    target.go();
    target.at("loaded");
    if !opened_early {
        // Told of when all of the library's probes are in place. (Its breakpoints tell less: with perf the one
        // of a return probe is there before the entry is watched.)
        let probed = format!("pid {}: {own} ", target.pid());
        run.stderr_line("the probes in the library", |line| {
            line.contains(&probed) && !line.contains("not probed")
        });
    }
    target.go();
    let truth = target.truth();
    let report = run.stop().report();
    report.assert_sites(&truth);
    assert_eq!(report.ledger("free_unknown"), 0, "{}", report.summary());
    let through = |survivor: &Survivor<'_>| survivor.has_caller("own_move");
    assert_eq!(report.tally(through).blocks, 5, "{}", report.summary());
    target.finish_with(0);
}

#[test]
fn mimalloc_inside_a_library_by_local_symbols() {
    own_allocator("libownmi.so", &["-DPREFIX=mi_", "-DMIMALLOC_NAMES"], true);
}

#[test]
fn mimalloc_inside_a_library_opened_after_the_attach() {
    own_allocator("libownmi.so", &["-DPREFIX=mi_", "-DMIMALLOC_NAMES"], false);
}

#[test]
fn je_prefixed_jemalloc_inside_a_library_opened_after_the_attach() {
    own_allocator("libownje.so", &["-DPREFIX=je_"], false);
}

#[test]
fn rjem_prefixed_jemalloc_inside_a_library() {
    own_allocator("libownrjem.so", &["-DPREFIX=_rjem_"], true);
}

/// C++ with the allocator preloaded: `operator new` inlines the allocator's fast path in jemalloc 5.3 and
/// in tcmalloc, so that probes on malloc alone see nothing.
fn cpp_on((file, package): (&str, &str)) {
    let Some(allocator) = unless_missing(library(file, package)) else {
        return;
    };
    let Some(program) = unless_missing(Fixture::cpp("news").build()) else {
        return;
    };
    let mut target = Target::preloaded(&program, &[], &allocator);
    let traced = trace(&mut target, &[]);
    assert_cpp_sites(&traced.report, &traced.truth);
    assert_eq!(
        traced.report.ledger("free_unknown"),
        0,
        "{}",
        traced.report.summary()
    );
    target.finish_with(0);
}

#[test]
fn cpp_on_jemalloc() {
    cpp_on(JEMALLOC);
}

#[test]
fn cpp_on_tcmalloc() {
    cpp_on(TCMALLOC);
}

#[test]
fn cpp_on_mimalloc() {
    cpp_on(MIMALLOC);
}

/// `std::bad_alloc` out of the allocator's own `operator new` must not kill the target.
fn bad_alloc_on((file, package): (&str, &str)) {
    let Some(allocator) = unless_missing(library(file, package)) else {
        return;
    };
    let Some(program) = unless_missing(Fixture::cpp("exceptions").build()) else {
        return;
    };
    let mut target = Target::preloaded(&program, &[], &allocator);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    assert_eq!(traced.truth.fact("handler_runs"), 20);
    target.finish_with(0);
}

#[test]
fn bad_alloc_on_jemalloc() {
    bad_alloc_on(JEMALLOC);
}

#[test]
fn bad_alloc_on_tcmalloc() {
    bad_alloc_on(TCMALLOC);
}
// Not on mimalloc: built as C, as Debian does, it ends the program instead of throwing.
