//! Every allocator function by itself: the call's name, the exact size, the caller with file and line.

use std::{path::Path, process::Command};

use leaktrace_tests::{chains, fixtures, fixtures::Fixture, skip::unless_missing, target::Target, trace};

#[test]
fn every_function_of_glibc() {
    let mut target = Target::c("every_function", &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact_but(&traced.truth, &["abandoned"]);
    // The site is the allocator's immediate caller, with file and line.
    for (name, site) in &traced.truth.sites {
        let survivors = traced.report.survivors();
        let survivor = survivors.iter().find(|survivor| survivor.called_by(name));
        let survivor =
            survivor.unwrap_or_else(|| panic!("{name} calls nothing\n{}", traced.report.summary()));
        let frame = &survivor.frames()[1];
        assert_eq!(frame["line"].as_u64(), Some(site.line), "{frame}");
        assert!(
            frame["file"]
                .as_str()
                .is_some_and(|file| file.ends_with("every_function.c")),
            "{frame}"
        );
        assert!(survivor.has_caller("main"), "{name}: {:?}", survivor.symbols());
    }
    target.finish_with(0);
}

#[test]
fn cfree_frees() {
    let mut target = Target::c("cfree", &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    target.finish_with(0);
}

#[test]
fn the_frees_of_c23_count_once() {
    // free_sized, free_aligned_sized and cfree of the wrapper each pass their block on to free, and that
    // to the C library's: three probed functions, one free.
    let wrapper = Fixture::library("wrapper").build().expect("gcc is there");
    let mut target = Target::preloaded(&fixtures::c("wrapped"), &[], &wrapper);
    let traced = trace(&mut target, &[]);
    assert_eq!(
        traced.report.ledger("free_unknown"),
        0,
        "{}",
        traced.report.summary()
    );
    assert_eq!(traced.report.total("frees"), 24);
    target.finish_with(0);
}

#[test]
fn failures_of_every_function() {
    let mut target = Target::c("failures", &[]);
    let traced = trace(&mut target, &[]);
    assert_eq!(traced.report.total("allocs"), 3, "{}", traced.report.summary());
    assert_eq!(traced.report.ledger("failed"), 110);
    target.finish_with(0);
}

#[test]
fn custom_pair_of_every_shape() {
    let program = fixtures::c("pool_shapes");
    let mut target = Target::program(&program, &[]);
    let object = program.to_str().expect("a plain path");
    let traced = trace(
        &mut target,
        &[
            "--alloc",
            "pool_get(size=arg1)->ret",
            "--alloc",
            "pool_out(size=arg0,out=arg1)",
            "--alloc",
            "pool_array(count=arg1,size=arg2)->ret",
            "--free",
            "pool_put(ptr=arg0)",
            "--object",
            object,
        ],
    );
    traced.report.assert_exact(&traced.truth);
    target.finish_with(0);
}

#[test]
fn a_pool_cut_from_a_heap_block_leaves_that_block_alone() {
    let program = fixtures::c("pool_slab");
    let mut target = Target::program(&program, &[]);
    let object = program.to_str().expect("a plain path");
    let options = [
        "--alloc",
        "pool_get(size=arg0)->ret",
        "--free",
        "pool_put(ptr=arg0)",
        "--object",
        object,
    ];
    let traced = trace(&mut target, &options);
    traced.report.assert_exact(&traced.truth);
    for (function, space) in [("make_slab", "heap"), ("keep_two", "custom")] {
        let there = traced
            .report
            .tally(|survivor| survivor.has_caller(function) && survivor.text("space") == space);
        assert!(
            there.blocks > 0,
            "{function} in {space}\n{}",
            traced.report.summary()
        );
    }
    assert_eq!(
        traced.report.ledger("free_missed"),
        0,
        "{}",
        traced.report.summary()
    );
    target.finish_with(0);
}

#[test]
fn whole_stacks_without_frame_pointers() {
    let program = Fixture::c("no_frame_pointer")
        .flags(&["-O2", "-fomit-frame-pointer"])
        .build();
    let mut target = Target::program(&program.expect("gcc is there"), &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    for survivor in traced.report.survivors() {
        let symbols = survivor.symbols();
        let is_site = symbols
            .get(1)
            .is_some_and(|name| traced.truth.sites.contains_key(*name));
        assert!(
            is_site && symbols.get(2) == Some(&"main") && survivor.number("blocks") == 5,
            "{symbols:?}\n{}",
            traced.report.summary()
        );
    }
    chains::assert_all_complete(&traced.report);
    target.finish_with(0);
}

#[test]
fn deep_stacks_are_cut_at_246_frames_and_counted() {
    let mut target = Target::c("deep", &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    let survivors = traced.report.survivors();
    let deep = survivors
        .iter()
        .find(|survivor| survivor.called_by("deep_leak"))
        .expect("the deep site");
    assert_eq!(deep.frames().len(), 246, "{:?}", deep.symbols());
    target.finish_with(0);
}

#[test]
fn a_stripped_program_is_shown_by_object_and_offset() {
    let program = unless_missing(Fixture::c("pairs").flags(&["-s"]).build()).expect("gcc is there");
    let mut target = Target::program(&program, &["5000"]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_adds_up();
    let survivors = traced.report.survivors();
    assert_eq!(survivors.len(), 1, "{}", traced.report.summary());
    assert_eq!(
        (survivors[0].number("blocks"), survivors[0].number("bytes")),
        (5, 500)
    );
    let caller = &survivors[0].frames()[1];
    assert_eq!(caller["symbol"], serde_json::Value::Null, "{caller}");
    assert_eq!(caller["object"].as_str(), program.to_str(), "{caller}");
    assert!(
        caller["offset"]
            .as_str()
            .is_some_and(|offset| offset.starts_with("0x")),
        "{caller}"
    );
    target.finish_with(0);
}

#[test]
fn a_deleted_executable_is_traced() {
    let folder = tempfile::TempDir::new().expect("a temporary folder can be made");
    let program = folder.path().join("pairs");
    fixtures::copy(&fixtures::c("pairs"), &program);
    let mut target = Target::program(&program, &["5000"]);
    target.ready();
    std::fs::remove_file(&program).expect("the copy can be deleted");
    let run = leaktrace_tests::leaktrace::Leaktrace::attach(&[target.pid()]).start();
    target.go();
    let truth = target.truth();
    let report = run.stop().report();
    report.assert_adds_up();
    let found = report.tally(|survivor| survivor.text("call") == "malloc");
    assert_eq!(
        (found.blocks, found.bytes),
        (truth.site("leak_100").blocks, 500),
        "{}",
        report.summary()
    );
    target.finish_with(0);
}

/// A copy of the program and of the libraries it loads, under a root of its own.
fn rooted(program: &Path) -> tempfile::TempDir {
    let root = tempfile::TempDir::new().expect("a temporary folder can be made");
    let listed = Command::new("ldd")
        .arg(program)
        .output()
        .expect("ldd is part of libc");
    let text = String::from_utf8(listed.stdout).expect("paths are text");
    let libraries = text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(Path::new);
    for file in libraries.chain([program]) {
        let place = if file == program {
            root.path().join("pairs")
        } else {
            root.path()
                .join(file.strip_prefix("/").expect("an absolute path"))
        };
        std::fs::create_dir_all(place.parent().expect("it is in a folder")).expect("folders can be made");
        fixtures::copy(file, &place);
    }
    root
}

#[test]
fn a_program_in_a_root_of_its_own_is_traced_with_its_own_libc() {
    // As in a container: the paths that the process itself sees lead to other files here, or to none.
    let program = fixtures::c("pairs");
    let root = rooted(&program);
    let mut target = Target::spawn(Command::new("chroot").arg(root.path()).args(["/pairs", "5000"]));
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    let line = traced.truth.site("leak_100").line;
    let named = traced.report.tally(|survivor| {
        let frame = &survivor.0["frames"][1];
        let object = frame["object"].as_str().unwrap_or_default();
        frame["symbol"] == "leak_100" && frame["line"] == line && object.ends_with("/pairs")
    });
    assert_eq!(
        (named.blocks, named.bytes),
        (5, 500),
        "{}",
        traced.report.summary()
    );
    target.finish_with(0);
}

#[test]
fn a_deleted_allocator_library_is_traced() {
    let folder = tempfile::TempDir::new().expect("a temporary folder can be made");
    let library = folder.path().join("libwrapper.so");
    let wrapper = Fixture::library("wrapper").build().expect("gcc is there");
    std::fs::copy(wrapper, &library).expect("the library can be copied");
    let mut target = Target::preloaded(&fixtures::c("wrapped"), &[], &library);
    target.ready();
    std::fs::remove_file(&library).expect("the copy can be deleted");
    let run = leaktrace_tests::leaktrace::Leaktrace::attach(&[target.pid()]).start();
    target.go();
    let truth = target.truth();
    run.stop().report().assert_exact(&truth);
    target.finish_with(0);
}
