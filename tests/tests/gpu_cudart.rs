//! NVIDIA's own runtime library, from `PyPI`, on a machine without a driver: all that can be had of it without a GPU is its
//! functions and their failure.
//!
//! Its calls cannot succeed over the fake driver of the other suites: it accepts no driver but NVIDIA's.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use leaktrace_tests::{
    fixtures::Fixture,
    leaktrace::{self, Leaktrace},
    skip::{self, Missing, unless_missing},
    target::Target,
    venv,
};

/// The last of CUDA 12, whose functions for memory are those of 11.8 to 13.
const PACKAGE: &str = "nvidia-cuda-runtime-cu12==12.9.79";

/// The functions of the runtime library that leaktrace follows, of which the `_ptsz` ones are twins of the ones before.
const FUNCTIONS: [&str; 17] = [
    "cudaHostAlloc",
    "cudaHostRegister",
    "cudaIpcOpenMemHandle",
    "cudaMalloc",
    "cudaMalloc3D",
    "cudaMalloc3DArray",
    "cudaMallocArray",
    "cudaMallocAsync",
    "cudaMallocAsync_ptsz",
    "cudaMallocFromPoolAsync",
    "cudaMallocFromPoolAsync_ptsz",
    "cudaMallocHost",
    "cudaMallocManaged",
    "cudaMallocMipmappedArray",
    "cudaMallocPitch",
    "cudaMemPoolImportPointer",
    "cudaSetDevice",
];

/// The library's file; pip keeps it in an environment that other runs find again.
fn runtime_library() -> Result<PathBuf, Missing> {
    let python = venv::with(&skip::program("python3", "python3")?, &[PACKAGE])?;
    let packages = python
        .parent()
        .and_then(Path::parent)
        .map(|root| root.join("lib"));
    let versions = packages.and_then(|lib| lib.read_dir().ok()).into_iter().flatten();
    versions
        .flatten()
        .map(|version| {
            version
                .path()
                .join("site-packages/nvidia/cuda_runtime/lib/libcudart.so.12")
        })
        .find(|path| path.exists())
        .ok_or_else(|| Missing(format!("{PACKAGE} has no libcudart.so.12")))
}

#[test]
fn every_function_of_the_table_is_found_in_it() {
    let Some(library) = unless_missing(runtime_library()) else {
        return;
    };
    let listed = Command::new(leaktrace::binary())
        .arg("probes")
        .arg(&library)
        .output()
        .expect("leaktrace starts");
    let table = String::from_utf8_lossy(&listed.stdout).into_owned();
    // Rows begin with the function, in back quotes.
    let mut found: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|function| function.starts_with("cu"))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        FUNCTIONS,
        "{table}{}",
        String::from_utf8_lossy(&listed.stderr)
    );
}

#[test]
fn a_call_that_fails_for_want_of_a_driver_is_counted_and_leaves_no_record() {
    let Some(library) = unless_missing(runtime_library()) else {
        return;
    };
    let program = Fixture::c("cudart")
        .build()
        .expect("gcc is needed by all suites: install gcc and libc6-dev");
    let library = library.to_str().expect("a plain path");
    let mut target = Target::program(&program, &[library]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).args(&["--gpu"]).start();
    target.go();
    let truth = target.truth();
    let report = run.stop().report();
    target.finish_with(0);
    let result = truth.fact("result");
    if result == 0 {
        // Its blocks would be right as survivors, which the run on a GPU looks at.
        return skip::skip("this machine has a GPU: NVIDIA's cudaMalloc does not fail here");
    }
    // 35 without a driver's library, 100 with one and no GPU, and neither is this test's to say.
    assert_eq!(
        report.gpu_failures("cudaMalloc", result),
        (truth.fact("calls"), truth.fact("bytes"), truth.fact("largest")),
        "{}",
        report.summary()
    );
    let frames = report.gpu_errors()[0]["frames"].to_string();
    assert!(frames.contains("refused"), "{frames}");
    let survivors = report.survivors().into_iter();
    assert_eq!(
        survivors
            .filter(leaktrace_tests::report::Survivor::is_gpus)
            .count(),
        0,
        "{}",
        report.summary()
    );
    assert_eq!(report.gpu_number("device", "allocs"), 0, "{}", report.summary());
}
