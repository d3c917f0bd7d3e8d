//! GPU memory by the line of Python that keeps it: the service whose Python tools are flat while the GPU fills.

use std::process::Command;

use leaktrace_tests::{fixtures, gpu, leaktrace::Leaktrace, pythons, skip::unless_missing, target::Target};

const BLOCKS: u64 = 7;
const BYTES: u64 = BLOCKS * (3 << 20);

/// Function and line of each frame of Python, from the inside.
const STACK: [(&str, u64); 3] = [("take", 12), ("keep", 18), ("<module>", 29)];

#[test]
fn the_line_that_keeps_device_memory() {
    let Some(python) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    let script = fixtures::python("keeps_gpu");
    let mut command: Command = python.command(&[script.to_str().expect("a plain path")]);
    let folders = [gpu::driver(), gpu::runtime()].map(|library| {
        let folder = library.parent().expect("it is in a folder");
        folder.to_owned()
    });
    command.env(
        "LD_LIBRARY_PATH",
        std::env::join_paths(folders).expect("plain paths"),
    );
    let mut target = Target::spawn(&mut command);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    target.at("done");
    let report = run.stop().exited_with(0).report();
    let of_gpu: Vec<_> = report
        .survivors()
        .into_iter()
        .filter(leaktrace_tests::report::Survivor::is_gpus)
        .collect();
    assert_eq!(of_gpu.len(), 1, "{}", report.summary());
    let kept = &of_gpu[0];
    assert_eq!(
        (kept.text("call"), kept.text("space"), kept.device()),
        ("cudaMalloc", "device", Some(0)),
        "{}",
        report.summary()
    );
    assert_eq!(
        (kept.number("blocks"), kept.number("bytes")),
        (BLOCKS, BYTES),
        "{}",
        report.summary()
    );
    let frames = kept.frames();
    let stack: Vec<_> = frames
        .iter()
        .filter(|frame| frame["lang"] == "python")
        .map(|frame| (frame["symbol"].as_str(), frame["line"].as_u64()))
        .collect();
    let wanted = STACK.map(|(function, line)| (Some(function), Some(line)));
    assert_eq!(stack, wanted, "{}", report.summary());
    target.go();
    target.finish_with(0);
}
