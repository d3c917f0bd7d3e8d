//! Contexts that end: what goes with them and what does not, where it is not known, and which device a call is of.

use leaktrace_tests::{
    gpu::{Expected, Rig},
    trace,
};

fn exact(mode: &str) {
    let mut target = Rig::driver("contexts").start(&[mode]);
    let traced = trace(&mut target, &[]);
    Expected::of(&traced.truth).check(&traced.report);
    target.finish_with(0);
}

#[test]
fn a_destroyed_context_takes_what_is_its_own() {
    exact("destroy");
}

#[test]
fn by_the_older_name_too() {
    exact("destroy_v1");
}

#[test]
fn one_of_two_contexts() {
    exact("two");
}

#[test]
fn where_it_is_not_known_whose_it_is_that_is_said() {
    exact("unsure");
}

#[test]
fn a_context_from_before_the_attach() {
    exact("one_unseen");
}

#[test]
fn the_last_release_of_a_primary_context() {
    exact("release");
}

#[test]
fn a_reset_of_a_primary_context() {
    exact("reset");
}

#[test]
fn a_reset_by_the_newer_name() {
    exact("reset_v2");
}

#[test]
fn a_reset_is_no_release() {
    exact("reset_keeps");
}

#[test]
fn devices_by_contexts_that_are_pushed_and_popped() {
    exact("push_pop");
}

#[test]
fn devices_by_the_contexts_of_threads() {
    exact("threads");
}
