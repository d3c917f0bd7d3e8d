//! The steps with Python's frameworks: `PyTorch`'s tensors and segments in each of its allocator's ways, its exception for
//! lack of memory, `CuPy`, JAX.

use std::process::Command;

use anyhow::Result;

use super::{
    machine::{Machine, last_line},
    native::{compare_cost, is_followed, used_by},
    report::Report,
    table::Row,
    target::Target,
    trace::{self, Traced},
};

/// What `leaky` of the programs keeps.
const BLOCKS: u64 = 10;
const BYTES: u64 = BLOCKS * (5 << 20);

/// How `PyTorch` gets memory from the driver.
struct Way {
    name: &'static str,
    variable: Option<(&'static str, &'static str)>,
    /// Whether tensors are parts of segments that it keeps; else each is a block of the driver's.
    caches: bool,
    /// The call that makes a segment, or a tensor.
    call: &'static str,
}

const CONFIG: &str = "PYTORCH_CUDA_ALLOC_CONF";

const WAYS: [Way; 4] = [
    Way {
        name: "native",
        variable: None,
        caches: true,
        call: "cudaMalloc",
    },
    Way {
        name: "expandable segments",
        variable: Some((CONFIG, "expandable_segments:True")),
        caches: true,
        call: "cuMemCreate",
    },
    Way {
        name: "cudaMallocAsync",
        variable: Some((CONFIG, "backend:cudaMallocAsync")),
        caches: false,
        call: "cudaMallocAsync",
    },
    Way {
        name: "no caching",
        variable: Some(("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")),
        caches: false,
        call: "cudaMalloc",
    },
];

/// Whether the framework is there and sees a GPU; if not, a row says so.
fn has(machine: &mut Machine, what: &str, check: &str, rows: &mut Vec<Row>) -> Result<bool> {
    if !machine.has_gpu(what, rows) || !machine.can_trace(what, rows) {
        return Ok(false);
    }
    let ended = machine.run(what, Command::new("python3").args(["-c", check]))?;
    if !ended.succeeded {
        rows.push(Row::not_run(what, last_line(&ended.text)));
    }
    Ok(ended.succeeded)
}

fn has_torch(machine: &mut Machine, what: &str, rows: &mut Vec<Row>) -> Result<bool> {
    const CHECK: &str =
        "import torch; print(torch.__version__); assert torch.cuda.is_available(), 'no CUDA in torch'";
    has(machine, what, CHECK, rows)
}

fn start(
    machine: &mut Machine,
    program: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Result<Target> {
    let mut command = Command::new("python3");
    command
        .arg(machine.sources().join(program))
        .args(arguments)
        .envs(variables.iter().copied());
    let mut target = machine.start(program, &mut command)?;
    target.at("ready", machine.patience())?;
    Ok(target)
}

fn run(
    machine: &mut Machine,
    program: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Result<Traced> {
    let mut target = start(machine, program, arguments, variables)?;
    let name = format!("{program} {} {variables:?}", arguments.join(" "));
    let traced = trace::trace(machine, &name, &mut target, &[])?;
    target.finish(machine.patience())?;
    Ok(traced)
}

/// Step 6.
pub(super) fn torch(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    if !has_torch(machine, "PyTorch", rows)? {
        return Ok(());
    }
    for way in &WAYS {
        let variables: Vec<_> = way.variable.into_iter().collect();
        let traced = run(machine, "accept_torch.py", &[], &variables)?;
        held(way, &traced, rows);
        let traced = run(machine, "accept_torch.py", &["emptied"], &variables)?;
        emptied(way, &traced.report, rows);
    }
    Ok(())
}

fn held(way: &Way, traced: &Traced, rows: &mut Vec<Row>) {
    let (name, report) = (way.name, &traced.report);
    if !is_followed(name, report, rows) {
        return;
    }
    let in_leaky = report.at("leaky", way.caches);
    rows.push(Row::same(
        format!(
            "{name}: {} in leaky",
            if way.caches { "tensors" } else { "driver's blocks" }
        ),
        format!("{BLOCKS} blocks, {BYTES} bytes"),
        format!("{} blocks, {} bytes", in_leaky.blocks, in_leaky.bytes),
    ));
    let calls = report.all(false).calls;
    rows.push(Row::judged(
        format!("{name}: calls for the driver's memory"),
        way.call,
        calls.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        calls.contains(way.call),
    ));
    if !way.caches {
        return;
    }
    let number = |value: Option<u64>| value.map_or("none".to_owned(), |value| value.to_string());
    for (what, field, truth) in [
        ("allocated, by its last event", "allocated_bytes", "allocated"),
        ("reserved, by its last event", "reserved_bytes", "reserved"),
        (
            "the driver's live memory beside reserved",
            "driver_live_bytes",
            "reserved",
        ),
    ] {
        rows.push(Row::same(
            format!("{name}: {what}"),
            number(traced.truth[truth].as_u64()),
            number(report.torch(field)),
        ));
    }
}

fn emptied(way: &Way, report: &Report, rows: &mut Vec<Row>) {
    if !is_followed(way.name, report, rows) {
        return;
    }
    rows.push(Row::same(
        format!("{}: tensors, after del and empty_cache", way.name),
        "nothing",
        report.at("leaky", true),
    ));
    rows.push(Row::same(
        format!("{}: device memory in leaky, after that", way.name),
        "nothing",
        report.at("leaky", false),
    ));
}

/// Step 7.
pub(super) fn out_of_memory(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    const WHAT: &str = "OutOfMemoryError caught under tracing";
    if !has_torch(machine, WHAT, rows)? {
        return Ok(());
    }
    let mut target = start(machine, "accept_oom.py", &[], &[])?;
    let traced = trace::trace(machine, WHAT, &mut target, &[])?;
    let status = target.finish(machine.patience())?;
    rows.push(Row::same(
        WHAT,
        "20 times, exit status: 0",
        format!("{} times, {status}", traced.truth["caught"]),
    ));
    let failed = traced.report.out_of_memory();
    let count: u64 = failed.iter().map(|(_, count)| count).sum();
    rows.push(Row::judged(
        "the failed calls are listed",
        "20 or more",
        format!("{failed:?}"),
        count >= 20,
    ));
    Ok(())
}

/// Step 8.
pub(super) fn others(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    const CUPY: &str = "CuPy";
    const JAX: &str = "JAX";
    if has(
        machine,
        CUPY,
        "import cupy; cupy.cuda.runtime.getDeviceCount()",
        rows,
    )? {
        let traced = run(machine, "accept_cupy.py", &[], &[])?;
        let pool = traced.truth["bytes"].to_string();
        let seen = traced.report.at("leaky", false);
        rows.push(Row::same(
            "CuPy: bytes of its pool, made in leaky",
            pool,
            seen.bytes,
        ));
        rows.push(Row::judged(
            "CuPy: the call, of a runtime library that is linked in",
            "cudaMalloc",
            &seen,
            seen.calls.contains("cudaMalloc"),
        ));
    }
    let check = "import jax; assert jax.devices()[0].platform == 'gpu', jax.devices()";
    if has(machine, JAX, check, rows)? {
        let variables = [
            ("XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
            ("XLA_PYTHON_CLIENT_ALLOCATOR", "platform"),
        ];
        let mut target = start(machine, "accept_jax.py", &[], &variables)?;
        let traced = trace::trace(machine, JAX, &mut target, &[])?;
        let used = used_by(machine, traced.pid)?;
        target.finish(machine.patience())?;
        let seen = traced.report.at("leaky", false);
        rows.push(Row::judged(
            "JAX: device memory made in leaky",
            format!("{BYTES} bytes or more"),
            &seen,
            seen.bytes >= BYTES,
        ));
        let device_bytes = traced.report.device_bytes();
        match used {
            Some(used) => rows.push(Row::judged(
                "JAX: no more than the driver says that it uses",
                format!("{used} bytes at most"),
                format!("{device_bytes} bytes"),
                device_bytes <= used,
            )),
            None => rows.push(Row::not_run(
                "JAX: beside NVML",
                "nvidia-smi does not list the process",
            )),
        }
    }
    Ok(())
}

/// Step 9, its second half.
pub(super) fn cost(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    const WHAT: &str = "a tensor that PyTorch's cache serves";
    const COUNT: u64 = 1_000_000;
    if !has_torch(machine, WHAT, rows)? {
        return Ok(());
    }
    let program = machine.sources().join("accept_cost.py");
    let run = |machine: &mut Machine| {
        let mut command = Command::new("python3");
        machine.start("accept_cost.py", command.arg(&program).arg(COUNT.to_string()))
    };
    compare_cost(machine, WHAT, COUNT, run, rows)
}
