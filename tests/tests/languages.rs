//! Programs in other languages than C, each with leaks of known sizes and counts.

use std::{path::Path, process::Command};

use leaktrace_tests::{
    fixtures,
    fixtures::Fixture,
    leaktrace::Leaktrace,
    report::assert_cpp_sites,
    skip::{program, skip, unless_missing},
    target::Target,
    trace,
};

#[test]
fn cpp_new_and_delete_in_all_forms() {
    let Some(program) = unless_missing(Fixture::cpp("news").build()) else {
        return;
    };
    let mut target = Target::program(&program, &[]);
    let traced = trace(&mut target, &[]);
    assert_cpp_sites(&traced.report, &traced.truth);
    assert_eq!(
        (traced.report.total("allocs"), traced.report.total("frees")),
        (88, 48)
    );
    target.finish_with(0);
}

#[test]
fn cpp_exceptions_above_malloc_and_out_of_new() {
    let Some(program) = unless_missing(Fixture::cpp("exceptions").build()) else {
        return;
    };
    let mut target = Target::program(&program, &[]);
    let traced = trace(&mut target, &[]);
    // The C++ runtime allocates its exceptions too, and frees them: the sums are larger, the sites exact.
    traced.report.assert_sites(&traced.truth);
    assert_eq!(
        traced.report.ledger("abandoned"),
        0,
        "{}",
        traced.report.summary()
    );
    assert_eq!(traced.truth.fact("handler_runs"), 20);
    target.finish_with(0);
}

#[test]
fn a_custom_allocator_that_throws_survives() {
    let Some(program) = unless_missing(Fixture::cpp("throwing_pool").build()) else {
        return;
    };
    let object = program.to_str().expect("a plain path");
    let mut target = Target::program(&program, &[]);
    target.ready();
    let pair = [
        "--alloc",
        "pool_get(size=arg0)->ret",
        "--free",
        "pool_put(ptr=arg0)",
        "--object",
        object,
    ];
    let mut run = Leaktrace::attach(&[target.pid()]).args(&pair).spawn();
    // Either it is refused, or traced without harm: what may not happen is that the target dies.
    let said = run.stderr_line("a decision", |line| line.starts_with("leaktrace: "));
    target.go();
    let truth = target.truth();
    assert_eq!(truth.fact("thrown"), 10);
    if said.starts_with("leaktrace: tracing") {
        run.stop().report().assert_sites(&truth);
    } else {
        assert!(run.wait().refused(&[]).contains("pool_get"), "{said}");
    }
    target.finish_with(0);
}

#[test]
fn rust_boxes_vectors_and_aligned_memory() {
    let Some(program) = unless_missing(Fixture::rust("leak").named("rustleak").build()) else {
        return;
    };
    let mut target = Target::program(&program, &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    for survivor in traced.report.survivors() {
        for symbol in survivor
            .frames()
            .iter()
            .filter_map(|frame| frame["symbol"].as_str())
        {
            assert!(
                !symbol.starts_with("_ZN") && !symbol.starts_with("_R"),
                "not demangled: {symbol}"
            );
        }
    }
    let boxed = traced.report.tally(|survivor| survivor.has_caller("inner_box"));
    assert_eq!(
        (boxed.blocks, boxed.bytes),
        (12, 12 * 333),
        "{}",
        traced.report.summary()
    );
    target.finish_with(0);
}

fn python(interpreter: &Path) {
    let mut command = Command::new(interpreter);
    command.arg(fixtures::python("leak"));
    let mut target = Target::spawn(&mut command);
    let traced = trace(&mut target, &["--show-blocks"]);
    traced.report.assert_adds_up();
    traced.report.assert_no_losses();
    for (kind, blocks) in [("bytes", 40), ("bytearray", 30), ("ctypes", 25)] {
        let size = traced.truth.fact(&format!("{kind}_size"));
        assert_eq!(
            traced.report.blocks_of(size),
            blocks,
            "{kind}\n{}",
            traced.report.summary()
        );
    }
    target.finish_with(0);
}

#[test]
fn the_systems_python() {
    let path = Path::new("/usr/bin/python3");
    if path.exists() {
        python(path);
    } else {
        skip("no /usr/bin/python3; install python3");
    }
}

#[test]
fn the_first_python_in_path() {
    let Some(path) = unless_missing(program("python3", "python3")) else {
        return;
    };
    // A version manager's shim is a shell script that replaces itself.
    let real = Command::new(&path)
        .args(["-c", "import sys; print(sys.executable)"])
        .output();
    let real = real.expect("python starts").stdout;
    python(Path::new(String::from_utf8_lossy(&real).trim()));
}
