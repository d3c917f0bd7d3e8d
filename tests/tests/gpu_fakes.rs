//! The GPU that is none, without leaktrace: every program runs and its truth is what the fake driver holds, which each
//! compares itself; and the libraries have the symbols that the real ones have.

use std::{path::Path, process::Command};

use leaktrace_tests::{
    gpu::{self, Rig, Runtime, Torch},
    skip::{self, Missing, unless_missing},
};

fn runs(rig: &Rig, modes: &[&str]) {
    for mode in modes {
        let mut target = rig.start(&[mode]);
        target.ready();
        target.go();
        let truth = target.truth();
        assert!(truth.raw["gpu"].is_object(), "{}", truth.raw);
        target.finish_with(0);
    }
}

#[test]
fn programs_over_the_driver() {
    runs(&Rig::driver("driver_calls"), &["", "early"]);
    runs(&Rig::driver("driver_failures"), &[""]);
    let modes = [
        "llama",
        "nccl",
        "spans",
        "host",
        "remap",
        "import",
        "multicast",
        "failures",
        "reservations",
    ];
    runs(&Rig::driver("vmm"), &modes);
    let modes = [
        "destroy",
        "destroy_v1",
        "two",
        "unsure",
        "one_unseen",
        "release",
        "reset",
        "reset_v2",
        "reset_keeps",
        "push_pop",
        "threads",
    ];
    runs(&Rig::driver("contexts"), &modes);
}

#[test]
fn programs_over_the_runtime_library() {
    let modes = ["threads", "devices", "fork", "reset", "exit", "before_attach"];
    let lives = Rig::runtime("runtime_lives", Runtime::Shared).expect("gcc is enough for it");
    runs(&lives, &modes);
    for runtime in [
        Runtime::Shared,
        Runtime::SharedJumping,
        Runtime::Static,
        Runtime::StaticNameless,
        Runtime::StaticStripped,
    ] {
        let Some(calls) = unless_missing(Rig::runtime("runtime_calls", runtime)) else {
            return;
        };
        runs(&calls, &["all", "once", "early"]);
        let calls = calls.env("FAKE_GPU_BYTES", (16_u64 << 30).to_string());
        runs(&calls, &["failures"]);
        runs(&calls.without_driver(), &["no_driver"]);
    }
}

#[test]
fn programs_with_tensors() {
    for torch in [Torch::Current, Torch::Old] {
        let Some(rig) = unless_missing(Rig::torch("tensors", torch)) else {
            return;
        };
        let rig = rig.env("FAKE_GPU_BYTES", (256_u64 << 20).to_string());
        runs(&rig, &["tensors", "cache", "oom", "throws", "outside", "devices"]);
    }
}

/// The letter that `nm` gives each symbol.
fn symbols(file: &Path, options: &[&str]) -> Result<Vec<(String, String)>, Missing> {
    let nm = skip::program("nm", "binutils")?;
    let output = Command::new(nm)
        .args(options)
        .arg(file)
        .output()
        .expect("nm starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let line = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    Ok(text.lines().filter_map(line).collect())
}

fn letter(symbols: &[(String, String)], name: &str) -> Option<String> {
    let found = symbols.iter().find(|(_, symbol)| symbol == name);
    found.map(|(letter, _)| letter.clone())
}

#[test]
fn symbols_are_as_in_the_real_libraries() {
    let Some(rig) = unless_missing(Rig::runtime("runtime_calls", Runtime::Static)) else {
        return;
    };
    let Some(linked) = unless_missing(symbols(&rig.program, &[])) else {
        return;
    };
    // As nvcc links it: what is called is a local symbol, but for the newer calls.
    assert_eq!(letter(&linked, "cudaMalloc").as_deref(), Some("t"));
    assert_eq!(letter(&linked, "cudaFree").as_deref(), Some("t"));
    assert_eq!(letter(&linked, "cudaMallocAsync").as_deref(), Some("T"));
    let Some(nameless) = unless_missing(Rig::runtime("runtime_calls", Runtime::StaticNameless)) else {
        return;
    };
    let nameless = symbols(&nameless.program, &[]).expect("nm is there");
    assert_eq!(letter(&nameless, "leak_malloc").as_deref(), Some("T"));
    assert!(
        !nameless.iter().any(|(_, symbol)| symbol.starts_with("cuda")),
        "{nameless:?}"
    );

    let driver = symbols(&gpu::driver(), &["-D"]).expect("nm is there");
    let address_taken = [
        "cuMemAllocAsync",
        "cuMemAllocAsync_ptsz",
        "cuDevicePrimaryCtxReset",
        "cuDevicePrimaryCtxReset_v2",
    ];
    for name in address_taken {
        assert_eq!(letter(&driver, name).as_deref(), Some("T"), "{name}");
    }
    for (torch, name) in [
        (
            Torch::Current,
            "_ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE",
        ),
        (
            Torch::Old,
            "_ZN3c1027reportMemoryUsageToProfilerEPvlllNS_6DeviceE",
        ),
    ] {
        let Some(rig) = unless_missing(Rig::torch("tensors", torch)) else {
            return;
        };
        let libraries = rig.libraries();
        let c10 = libraries
            .iter()
            .find(|path| path.ends_with("libc10.so"))
            .expect("it is built");
        let exported = symbols(c10, &["-D", "--defined-only"]).expect("nm is there");
        assert_eq!(exported, [("T".to_owned(), name.to_owned())]);
    }
}
