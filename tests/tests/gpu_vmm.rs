//! GPU memory by handle: it lives as long as anybody refers to it or maps it, and its bytes are charged once, to whoever
//! created it. Each test is one custom of those who use it so.

use leaktrace_tests::{
    gpu::{Expected, Rig},
    trace,
};

fn exact(mode: &str) {
    let mut target = Rig::driver("vmm").start(&[mode]);
    let traced = trace(&mut target, &[]);
    Expected::of(&traced.truth).check(&traced.report);
    target.finish_with(0);
}

#[test]
fn released_as_soon_as_it_is_mapped() {
    exact("llama");
}

#[test]
fn retained_by_its_address_and_released_twice() {
    exact("nccl");
}

#[test]
fn one_unmap_of_several_mappings() {
    exact("spans");
}

#[test]
fn on_the_host_on_a_node_and_on_another_device() {
    exact("host");
}

#[test]
fn mapped_again_at_the_same_address() {
    exact("remap");
}

#[test]
fn imported() {
    exact("import");
}

#[test]
fn handles_without_memory() {
    exact("multicast");
}

#[test]
fn what_fails_changes_nothing() {
    exact("failures");
}

#[test]
fn reserved_addresses_are_no_memory() {
    exact("reservations");
}

#[test]
fn reserved_addresses_when_asked_for() {
    for mode in ["reservations", "llama"] {
        let mut target = Rig::driver("vmm").start(&[mode]);
        let traced = trace(&mut target, &["--gpu-reservations"]);
        Expected::of(&traced.truth)
            .with_reservations()
            .check(&traced.report);
        target.finish_with(0);
    }
}
