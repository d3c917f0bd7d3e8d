//! realloc form by form.

use leaktrace_tests::{fixtures, fixtures::Fixture, report::Report, target::Target, trace};

fn traced() -> Report {
    let mut target = Target::c("reallocs", &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    target.finish_with(0);
    traced.report
}

#[test]
fn every_form_to_the_block() {
    let report = traced();
    report.assert_site("grow", 5, 5 * 120);
    report.assert_site("grow_moving", 5, 5 * 5000);
    report.assert_site("shrink", 5, 5 * 200);
    report.assert_site("same_size", 5, 5 * 333);
    report.assert_site("array_grow", 5, 5 * 640);
    report.assert_site("from_null", 5, 5 * 77);
    // Its own five that stand in the way; those that were moved or set to zero are gone.
    report.assert_site("base", 5, 5 * 99);
}

#[test]
fn a_failed_realloc_keeps_the_old_block_under_its_own_stack() {
    let report = traced();
    report.assert_site("kept_base", 5, 5 * 610);
    report.assert_site("fail", 0, 0);
    report.assert_site("fail_array", 0, 0);
    assert_eq!(report.ledger("failed"), 20, "{}", report.summary());
    assert_eq!(report.ledger("realloc_unknown"), 0);
}

#[test]
fn a_chain_of_reallocs_is_one_block() {
    let report = traced();
    let chain = report.site("chain");
    assert_eq!(
        (chain.blocks, chain.allocs, chain.frees),
        (1, 145, 144),
        "{}",
        report.summary()
    );
}

#[test]
fn realloc_that_is_malloc_copy_and_free_inside() {
    let wrapper = Fixture::library("wrapper").build().expect("gcc is there");
    let mut target = Target::preloaded(&fixtures::c("wrapped"), &[], &wrapper);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    traced.report.assert_site("wrapped_realloc", 4, 4 * 1140);
    target.finish_with(0);
}
