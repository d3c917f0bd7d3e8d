//! The driver's own count beside leaktrace's, from a `libnvidia-ml.so.1` of our own.

use std::path::{Path, PathBuf};

use leaktrace_tests::{
    fixtures::Fixture,
    gpu::Rig,
    leaktrace::{Finished, Leaktrace},
};
use serde_json::json;

/// The folder of the library.
fn nvml() -> PathBuf {
    let library = Fixture::gpu("fake_nvml").named("libnvidia-ml.so.1");
    let library = library.flags(&["-shared", "-fPIC"]).build();
    let library = library.expect("gcc is needed by all suites: install gcc and libc6-dev");
    library.parent().expect("it is in a folder").to_owned()
}

/// Traces a program that uses a GPU, and says its pid and what came of it. leaktrace has this variable and finds the library.
fn traced(name: &str, value: impl Fn(u32) -> String) -> (u32, Finished) {
    let mut target = Rig::driver("driver_calls").start(&[]);
    target.ready();
    let pid = target.pid();
    let run = Leaktrace::attach(&[pid])
        .args(&["--gpu"])
        .env("LD_LIBRARY_PATH", &nvml())
        .env(name, Path::new(&value(pid)))
        .start();
    target.go();
    target.truth();
    let finished = run.stop();
    target.go();
    (pid, finished)
}

#[test]
fn what_the_driver_counts_stands_beside_what_leaktrace_counts() {
    const USED: u64 = 1 << 40;
    let (pid, finished) = traced("FAKE_NVML", |pid| {
        format!("0:{pid}:{USED} 0:1:5 1:1:5 1:{pid}:24")
    });
    let report = finished.report();
    let nvml = &report.the_gpu()["nvml"];
    let processes = nvml["processes"].as_array().expect("a list of processes");
    assert_eq!(processes.len(), 1, "{nvml}");
    let process = &processes[0];
    assert_eq!(
        (&process["pid"], &process["used_bytes"]),
        (&json!(pid), &json!(USED + 24)),
        "{nvml}"
    );
    let seen: u64 = ["device", "array", "vmm"]
        .iter()
        .map(|space| report.space(space).bytes)
        .sum();
    assert!(seen > 0, "{}", report.summary());
    assert_eq!(process["driver_live_bytes"], json!(seen), "{nvml}");
    assert_eq!(process["more_bytes"], json!(USED + 24 - seen), "{nvml}");
    let devices: Vec<_> = process["devices"]
        .as_array()
        .expect("a list of devices")
        .iter()
        .map(|device| (&device["index"], &device["name"], &device["used_bytes"]))
        .collect();
    assert_eq!(
        devices,
        [
            (&json!(0), &json!("Fake GPU 0"), &json!(USED)),
            (&json!(1), &json!("Fake GPU 1"), &json!(24)),
        ]
    );
}

#[test]
fn a_driver_that_cannot_be_asked_takes_nothing_but_its_number() {
    let (_, finished) = traced("FAKE_NVML_BROKEN", |_| "1".to_owned());
    let report = finished.report();
    assert!(report.space("device").bytes > 0, "{}", report.summary());
    let nvml = &report.the_gpu()["nvml"];
    let processes = nvml["processes"].as_array();
    assert!(processes.is_none_or(Vec::is_empty), "{nvml}");
}
