//! Threads: many of them, freeing each other's blocks, ending while they hold blocks; signal handlers.

use leaktrace_tests::{target::Target, trace};

#[test]
fn producers_and_consumers() {
    let mut target = Target::c("threads", &["6", "2000"]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    traced
        .report
        .assert_site("produce_kept", 6 * 500, traced.truth.site("produce_kept").bytes);
    target.finish_with(0);
}

#[test]
fn two_hundred_threads_at_once_and_two_hundred_in_turn() {
    let mut target = Target::c("many_threads", &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    // What a thread holds outlives it.
    traced.report.assert_site("sequential_kept", 200, 200 * 24);
    traced.report.assert_site("short_thread_kept", 100, 100 * 40);
    traced.report.assert_site("long_thread_kept", 100, 100 * 48);
    // Not free_unknown: when a thread ends, glibc passes its cache of freed blocks to free once more.
    for counter in ["threads_full", "abandoned", "free_missed"] {
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
fn a_signal_handler_that_allocates() {
    let mut target = Target::c("signals", &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    target.finish_with(0);
}

#[test]
fn destructors_at_the_end_of_threads() {
    let mut target = Target::c("thread_local", &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    traced.report.assert_site("in_destructor", 90, 90 * 56);
    target.finish_with(0);
}
