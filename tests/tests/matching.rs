//! The ten matching rules, each with exact ground truth.

use leaktrace_tests::{fixtures, leaktrace::Leaktrace, report::Survivor, target::Target, trace};

/// Starts two copies of a fixture without address randomisation and lets both come to "allocated".
/// Their blocks have the same addresses.
fn twins(first: &[&str], second: &[&str]) -> [Target; 2] {
    let program = fixtures::c("same_address");
    [first, second].map(|arguments| {
        let mut command = std::process::Command::new("setarch");
        command.args(["x86_64", "-R"]).arg(&program).args(arguments);
        let mut twin = Target::spawn(&mut command);
        twin.ready();
        twin
    })
}

#[test]
fn rule_01_the_same_address_in_two_processes_is_two_blocks() {
    let mut twins = twins(&["10", "100"], &["10", "100"]);
    let run = Leaktrace::attach(&[twins[0].pid(), twins[1].pid()]).start();
    // Both have allocated before either frees: a record shared by both would be overwritten.
    for twin in &mut twins {
        twin.go();
    }
    for twin in &mut twins {
        twin.at("allocated");
    }
    let truths = twins.each_mut().map(|twin| {
        twin.go();
        twin.truth()
    });
    assert_eq!(
        truths[0].fact("first_address"),
        truths[1].fact("first_address"),
        "this test needs equal addresses in both processes"
    );
    let report = run.stop().report();
    for truth in &truths {
        report.assert_sites(truth);
        assert_eq!(report.process(truth.pid)["live_blocks"], 5);
    }
    assert_eq!((report.total("allocs"), report.total("frees")), (20, 10));
    assert_eq!(
        (report.ledger("free_missed"), report.ledger("free_unknown")),
        (0, 0)
    );
}

#[test]
fn rule_02_the_outermost_call_owns_the_block() {
    let wrapper = fixtures::Fixture::library("wrapper")
        .build()
        .expect("gcc is there");
    let mut target = Target::preloaded(&fixtures::c("wrapped"), &[], &wrapper);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    assert!(traced.report.ledger("nested") > 0, "{}", traced.report.summary());
    target.finish_with(0);
}

#[test]
fn rule_02_a_call_left_by_longjmp_is_dropped_and_counted() {
    let program = fixtures::c("pool_longjmp");
    let mut target = Target::program(&program, &[]);
    let object = program.to_str().expect("a plain path");
    let pair = [
        "--alloc",
        "pool_get(size=arg1)->ret",
        "--free",
        "pool_put(ptr=arg0)",
        "--object",
        object,
    ];
    let traced = trace(&mut target, &pair);
    traced.report.assert_exact(&traced.truth);
    target.finish_with(0);
}

#[test]
fn rule_02_calls_from_deeper_in_the_stack_than_one_that_was_left() {
    let program = fixtures::c("pool_longjmp_deeper");
    let mut target = Target::program(&program, &[]);
    let object = program.to_str().expect("a plain path");
    let pair = [
        "--alloc",
        "pool_get(size=arg1)->ret",
        "--free",
        "pool_put(ptr=arg0)",
        "--object",
        object,
    ];
    let traced = trace(&mut target, &pair);
    traced.report.assert_exact(&traced.truth);
    target.finish_with(0);
}

#[test]
fn rule_02_a_signal_inside_a_call_is_nested_and_outside_is_not() {
    let program = fixtures::c("pool_signal");
    let mut target = Target::program(&program, &[]);
    let object = program.to_str().expect("a plain path");
    let pair = [
        "--alloc",
        "pool_get(size=arg1)->ret",
        "--free",
        "pool_put(ptr=arg0)",
        "--object",
        object,
    ];
    let traced = trace(&mut target, &pair);
    traced.report.assert_exact(&traced.truth);
    target.finish_with(0);
}

#[test]
fn rule_03_free_takes_the_block_before_another_thread_can_get_its_address() {
    // Threads that pass blocks through a ring free and reuse each other's addresses all the time. A
    // record removed after the allocator had the block back would remove that of the next owner.
    let mut target = Target::c("threads", &["4", "3000"]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    // Not free_unknown: when a thread ends, glibc passes its cache of freed blocks to free once more.
    for counter in ["free_missed", "abandoned"] {
        assert_eq!(
            traced.report.ledger(counter),
            0,
            "{counter}\n{}",
            traced.report.summary()
        );
    }
    target.finish_with(0);
}

#[test]
fn rule_03_free_of_null_is_no_event() {
    // The fixture frees NULL five times; only its six frees of early blocks may be counted.
    let mut target = Target::c("before_attach", &[]);
    let traced = trace(&mut target, &[]);
    assert_eq!(
        traced.report.ledger("free_unknown"),
        6,
        "{}",
        traced.report.summary()
    );
    target.finish_with(0);
}

#[test]
fn rule_04_realloc_in_all_its_forms() {
    let mut target = Target::c("reallocs", &[]);
    let traced = trace(&mut target, &[]);
    // reallocarray may reach realloc by a jump: two entries at one stack pointer.
    traced.report.assert_exact_but(&traced.truth, &["abandoned"]);
    target.finish_with(0);
}

#[test]
fn rule_05_a_failed_allocation_records_nothing() {
    let mut target = Target::c("failures", &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact_but(&traced.truth, &["abandoned"]);
    assert_eq!(traced.report.ledger("result_unreadable"), 0);
    target.finish_with(0);
}

#[test]
fn rule_06_an_address_handed_out_again_means_a_missed_free() {
    let program = fixtures::c("pool_reset");
    let mut target = Target::program(&program, &[]);
    let object = program.to_str().expect("a plain path");
    let pair = [
        "--alloc",
        "pool_get(size=arg1)->ret",
        "--free",
        "pool_put(ptr=arg0)",
        "--object",
        object,
    ];
    let traced = trace(&mut target, &pair);
    traced.report.assert_exact(&traced.truth);
    target.finish_with(0);
}

#[test]
fn rule_07_frees_of_blocks_from_before_the_attach_are_counted_apart() {
    let mut target = Target::c("before_attach", &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    target.finish_with(0);
}

#[test]
fn rule_08_exit_ends_the_live_set_and_reports_it() {
    let mut target = Target::c("exits", &["return"]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    let truth = target.truth();
    target.finish_with(3);
    let report = run.wait().report();
    report.assert_exact(&truth);
    assert_eq!(report.process(truth.pid)["state"], "exited");
    assert!(
        report
            .survivors()
            .iter()
            .all(|survivor| survivor.text("state") == "exited")
    );
}

#[test]
fn rule_08_exec_ends_the_live_set_of_the_old_image() {
    let mut target = Target::c("exec", &[]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    let before = target.truth();
    let after = target.truth();
    let report = run.stop().report();
    for (truth, name, state) in [
        (&before, "before_exec", "replaced"),
        (&after, "after_exec", "running"),
    ] {
        let site = truth.site(name);
        let here = |survivor: &Survivor<'_>| survivor.has_caller(name) && survivor.text("state") == state;
        let tally = report.tally(here);
        assert_eq!(
            (tally.blocks, tally.bytes),
            (site.blocks, site.bytes),
            "{name}\n{}",
            report.summary()
        );
    }
    report.assert_adds_up();
    target.finish_with(0);
}

#[test]
fn rule_08_a_forked_child_starts_empty() {
    let mut target = Target::c("forks", &[]);
    target.ready();
    let options = ["--follow-forks", "-i", "100ms"];
    let mut run = Leaktrace::attach(&[target.pid()]).args(&options).start();
    target.go();
    target.at("child");
    run.report_where("the child among the processes", |report| report.processes() == 2);
    target.go();
    let (child, parent) = (target.truth(), target.truth());
    let report = run.stop().report();
    report.assert_sites(&parent);
    report.assert_sites(&child);
    // The child's four frees of inherited blocks are unknown frees of its own, and nothing else.
    assert_eq!(report.ledger("free_unknown"), 4, "{}", report.summary());
    assert_eq!(report.process(child.pid)["live_blocks"], 5);
    assert_eq!(report.process(parent.pid)["live_blocks"], 12);
    target.finish_with(0);
}

#[test]
fn rule_09_sizes_are_what_was_asked_for() {
    // pvalloc and valloc round up to pages, malloc to 16 bytes; none of that may show.
    let mut target = Target::c("every_function", &[]);
    let traced = trace(&mut target, &[]);
    for (function, bytes) in [
        ("leak_pvalloc", 3 * 1001),
        ("leak_valloc", 3 * 901),
        ("leak_malloc", 3 * 101),
    ] {
        traced.report.assert_site(function, 3, bytes);
    }
    traced.report.assert_site("leak_malloc_zero", 3, 0);
    target.finish_with(0);
}

#[test]
fn rule_09_sizes_and_sums_have_64_bits() {
    let mut target = Target::c("huge", &["3"]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    traced.report.assert_site("grown", 1, (6 << 30) + 7);
    target.finish_with(0);
}

#[test]
fn rule_10_threads_free_each_others_blocks() {
    let mut target = Target::c("threads", &["8", "500"]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    traced.report.assert_site("produce_passed", 0, 0);
    target.finish_with(0);
}
