//! One report made by hand, for the tests of all formats.

use leaktrace_common::{call::Space, counter::Counter};

use super::{model::*, overhead::*, python::*, stacks::*, types::*};

mod gated;
mod gpu;

pub(crate) use gated::gated;
pub(crate) use gpu::gpu;

const MIB: u64 = 1 << 20;

fn text(text: &str) -> String {
    text.to_owned()
}

fn frame(address: &str, object: &str, offset: &str, symbol: &str, place: Option<(&str, u32)>) -> Frame {
    Frame {
        address: text(address),
        object: Some(text(object)),
        offset: Some(text(offset)),
        build_id: Some(text("9b1c5e2f")),
        symbol: Some(text(symbol)).filter(|symbol| !symbol.is_empty()),
        file: place.map(|(file, _)| text(file)),
        line: place.map(|(_, line)| line),
        ..Frame::default()
    }
}

fn stack_of_server() -> Vec<Frame> {
    let libc = "/usr/lib/x86_64-linux-gnu/libc.so.6";
    let server = "/usr/bin/server";
    let mut inlined = frame(
        "0x55d0000011f0",
        server,
        "0x11f0",
        "http::Parser<char>::header",
        None,
    );
    inlined.inlined = true;
    inlined.file = Some(text("src/http.cc"));
    inlined.line = Some(88);
    vec![
        frame("0x7f0000099500", libc, "0x99500", "malloc", None),
        frame(
            "0x7f00000a5abc",
            "/usr/lib/libstdc++.so.6",
            "0xa5abc",
            "operator new(unsigned long)",
            None,
        ),
        inlined,
        frame(
            "0x55d0000011f0",
            server,
            "0x11f0",
            "serve(Connection&, int)",
            Some(("src/main.cc", 120)),
        ),
        frame(
            "0x55d000001100",
            server,
            "0x1100",
            "main",
            Some(("src/main.cc", 12)),
        ),
        frame("0x7f000002724a", libc, "0x2724a", "", None),
    ]
}

fn survivors() -> Vec<Survivor> {
    let leak = Survivor {
        pid: 4242,
        inner_pid: None,
        comm: text("server"),
        container: None,
        processes: 1,
        pids: vec![4242],
        state: State::Running,
        call: text("malloc"),
        space: text("heap"),
        device: None,
        reserved_by: None,
        unsure: None,
        object_bytes: None,
        bytes: 1_258_291,
        blocks: 1_234,
        sampled: None,
        seen_share: None,
        mean_bytes: 1_258_291.0 / 1_234.0,
        bytes_per_s: 8_192.0,
        verdict: None,
        allocs: 5_000,
        frees: 3_766,
        age_ms: Age {
            min: 12,
            p50: 30_100,
            max: 72_000,
        },
        lifetime_ms: Some(Lifetime {
            p50: 0.524_288,
            p90: 2.097_152,
            p99: 33.554_432,
        }),
        frames: stack_of_server(),
        mismatch: false,
        block_list: None,
    };
    let exited = Survivor {
        pid: 4243,
        comm: text("worker"),
        pids: vec![4243],
        state: State::Exited,
        call: text("calloc"),
        bytes: 4_096,
        blocks: 1,
        mean_bytes: 4_096.0,
        bytes_per_s: 0.0,
        verdict: None,
        allocs: 1,
        frees: 0,
        age_ms: Age {
            min: 61_000,
            p50: 61_000,
            max: 61_000,
        },
        lifetime_ms: None,
        frames: vec![Frame {
            address: text("0x7ffe00001000"),
            ..Frame::default()
        }],
        block_list: Some(vec![Block {
            pid: 4243,
            address: text("0x55d0000192a0"),
            bytes: 4_096,
            weight: None,
            age_ms: 61_000,
        }]),
        ..leak.clone()
    };
    vec![leak, exited]
}

fn process(pid: u32, comm: &str, state: State, rss_bytes: u64, live: (u64, u64)) -> Process {
    Process {
        pid,
        inner_pid: None,
        comm: text(comm),
        container: None,
        exe: Some(format!("/usr/bin/{comm}")),
        state,
        rss_bytes: Some(rss_bytes),
        live_bytes: live.0,
        live_blocks: live.1,
        exit: None,
        python: None,
    }
}

fn tracing() -> Tracing {
    let libc = "/usr/lib/x86_64-linux-gnu/libc.so.6";
    Tracing {
        attach: text("session"),
        kernel: text("6.18.0"),
        scope: None,
        tables: None,
        sites: vec![ProbeSite {
            object: text(libc),
            function: text("malloc"),
            call: text("malloc"),
            offset: text("0x99500"),
            function_offset: text("0x99500"),
            instruction: text("push"),
            kind: text("entry+return"),
            pids: vec![4242, 4243],
        }],
        skipped: vec![SkippedSite {
            object: text(libc),
            function: text("valloc"),
            reason: text("the symbol has no size"),
        }],
        filters: Filters {
            older_than_ms: 0,
            min_size_bytes: 16,
            max_size_bytes: None,
            top: 2,
            sort: text("bytes"),
        },
        sampling: None,
    }
}

fn spent(seconds: f64) -> Spent {
    Spent {
        target_share: Some(0.031),
        traps: (1e6 * seconds) as u64,
        trap_s: 0.025 * seconds,
        run_s: 0.006 * seconds,
        target_cpu_s: seconds,
        tracer_cpu_s: 0.003 * seconds,
        tracer_share: 0.003,
    }
}

fn overhead() -> Overhead {
    Overhead {
        calibration: Some(Calibration {
            emulated_ns: 900.0,
            single_stepped_ns: 15_000.0,
            return_ns: 600.0,
        }),
        unknown: None,
        interval: spent(5.0),
        run: spent(72.0),
        functions: vec![FunctionCost {
            object: text("/usr/lib/x86_64-linux-gnu/libc.so.6"),
            function: text("malloc"),
            entries: 40_000_000,
            returns: 32_000_000,
            cost_s: 2.2,
            seen_share: 1.0,
            paused: false,
        }],
        budget: None,
    }
}

fn stacks() -> Stacks {
    let stacks = Stacks {
        complete: 1_234_000,
        finished: 500,
        gap: 64,
        not_kept: 3,
        incomplete_at: vec![EndsEarly {
            object: text("/usr/bin/server"),
            end: "gap",
            allocs: 64,
        }],
        ..Stacks::default()
    };
    stacks.with_share()
}

/// The same under a budget that took all measures.
pub(crate) fn budgeted() -> Report {
    let mut report = report();
    let overhead = &mut report.overhead;
    overhead.functions[0].seen_share = 0.12;
    overhead.functions[0].paused = true;
    overhead.budget = Some(Budget {
        by_default: false,
        share: 0.03,
        mean_bytes: 512 << 10,
        paused: 1,
        unseen_allocs: 1_000_000,
        unseen_alloc_bytes: 1 << 30,
        frees_unseen_share: 0.85,
        unsure_blocks: 1_300,
        unsure_bytes: 1_300_000,
    });
    report
}

/// Two processes, one of them exited; a leak in C++ and a block without symbols; a loss.
pub(crate) fn report() -> Report {
    let mut ledger: std::collections::BTreeMap<_, _> =
        Counter::ALL.iter().map(|counter| (counter.name(), 0)).collect();
    ledger.insert("nested", 1_499);
    ledger.insert("stacks_full", 3);
    let mut worker = process(4243, "worker", State::Exited, 3_145_728, (4_096, 1));
    worker.exit = Some(Exit {
        code: Some(1),
        signal: None,
    });
    Report {
        schema: SCHEMA,
        sequence: 3,
        last: false,
        elapsed_s: 72.0,
        interval_s: 5.0,
        by: "process",
        target: Target {
            command: None,
            selection: None,
            members: Members {
                running: 1,
                joined: 2,
                ended: 1,
                with_blocks: 2,
            },
            processes: vec![
                process(4242, "server", State::Running, 88_290_099, (1_300_000, 1_300)),
                worker,
            ],
            forgotten: Held::default(),
        },
        tracing: tracing(),
        overhead: overhead(),
        totals: Totals {
            live_bytes: 1_304_096,
            live_blocks: 1_301,
            sampled: None,
            alloc_bytes: 2_254_857_830,
            allocs: 1_234_567,
            frees: 1_233_266,
            freed_bytes: 2_253_553_734,
            alloc_bytes_per_s: 35_756_441.6,
            allocs_per_s: 12_345.0,
            live_bytes_per_s: 8_601.6,
            by_space: by_space(&[(Space::Heap, 1_304_096, 1_301)]),
            rss_bytes: Some(88_290_099),
        },
        accounts: Vec::new(),
        survivors: survivors(),
        omitted: Omitted {
            sites: 12,
            blocks: 66,
            bytes: 41_709,
            gpu: Vec::new(),
        },
        suppressed: Vec::new(),
        gate: None,
        gpu: None,
        types: None,
        stacks: stacks(),
        ledger,
        warnings: vec![text(
            "3 allocations are reported without their stack because the stack table was full: raise --max-stacks",
        )],
    }
}

fn by_space(held: &[(Space, u64, u64)]) -> BySpace {
    let mut all = BySpace::default();
    for &(space, live_bytes, live_blocks) in held {
        *all.of_mut(space) = Held {
            live_bytes,
            live_blocks,
        };
    }
    all
}

/// The same, sampled.
pub(crate) fn sampled() -> Report {
    let mut report = report();
    report.tracing.sampling = Some(Sampling {
        mean_bytes: 512 << 10,
    });
    report.totals.sampled = Some(Sampled {
        samples: 3,
        bytes_interval: [442_972, 4_198_312],
        blocks_interval: [442, 4_198],
    });
    for survivor in &mut report.survivors {
        survivor.sampled = Some(Sampled {
            samples: 2,
            bytes_interval: [217_940, 3_364_312],
            blocks_interval: [221, 3_421],
        });
        for block in survivor.block_list.iter_mut().flatten() {
            block.weight = Some(128.5);
        }
    }
    report
}

/// Nothing outstanding, nothing lost.
pub(crate) fn empty() -> Report {
    let mut report = report();
    report.sequence = 1;
    report.last = true;
    report.target.processes.truncate(1);
    report.survivors.clear();
    report.omitted = Omitted::default();
    report.warnings.clear();
    report.tracing.skipped.clear();
    report.tracing.filters.min_size_bytes = 0;
    report.ledger.values_mut().for_each(|number| *number = 0);
    report.totals.live_bytes = 0;
    report.totals.live_blocks = 0;
    report.totals.by_space = BySpace::default();
    report.totals.live_bytes_per_s = 0.0;
    report
}

fn python_frame(address: &str, symbol: &str, file: &str, line: u32) -> Frame {
    Frame {
        address: text(address),
        lang: Lang::Python,
        symbol: Some(text(symbol)),
        file: Some(text(file)),
        line: Some(line),
        ..Frame::default()
    }
}

fn stack_of_python() -> Vec<Frame> {
    let libpython = "/usr/lib/libpython3.13.so.1.0";
    let plumbing = |address: &str, symbol: &str| Frame {
        plumbing: true,
        ..frame(address, libpython, "0x1000", symbol, None)
    };
    vec![
        frame(
            "0x7f0000099500",
            "/usr/lib/x86_64-linux-gnu/libc.so.6",
            "0x99500",
            "malloc",
            None,
        ),
        plumbing("0x7f1000001000", "PyMem_RawMalloc"),
        frame("0x7f1000001100", libpython, "0x1100", "list_append", None),
        python_frame(
            "0x7f2000000100",
            "raw_decode",
            "/usr/lib/python3.13/json/decoder.py",
            362,
        ),
        python_frame("0x7f2000000200", "Cache.load", "/srv/app/cache.py", 42),
        plumbing("0x7f1000001200", "slot_tp_call"),
        frame(
            "0x7f3000000000",
            "/srv/app/_native.so",
            "0x100",
            "call_back",
            None,
        ),
        python_frame("0x7f2000000300", "<lambda>", "/srv/app/main;v2.py", 3),
        plumbing("0x7f1000001300", "Py_RunMain"),
    ]
}

/// A leak in a Python program, and what its objects are.
pub(crate) fn python() -> Report {
    let mut report = report();
    report.survivors.truncate(1);
    report.survivors[0].frames = stack_of_python();
    report.target.processes.truncate(1);
    report.target.processes[0].python = Some(Python {
        version: Some(text("3.13.1")),
        object: text("/usr/lib/libpython3.13.so.1.0"),
        state: PythonState::Followed,
        stacks: true,
        lines: true,
        arenas: true,
        pools: false,
        census: true,
        why: None,
    });
    let stacks = PythonStacks {
        with_lines: 990,
        no_frames: 12,
        unreadable: 10,
        ..PythonStacks::default()
    };
    report.stacks.python = stacks.with_share();
    report.types = Some(types());
    report
}

fn types() -> Types {
    let row = |name: &str, module: Option<&str>, objects: u64, grown_objects: i64| TypeSurvivors {
        pid: 4242,
        state: State::Running,
        name: text(name),
        module: module.map(text),
        age_s: 0.2,
        objects,
        bytes: objects * 64,
        grown_objects,
        grown_bytes: grown_objects * 64,
        objects_per_s: grown_objects as f64 / 60.0,
        bytes_per_s: grown_objects as f64 * 64.0 / 60.0,
        verdict: None,
        suppressed: false,
    };
    Types {
        interval_s: 5.0,
        censuses: 14,
        objects: 1_234_567,
        bytes: 126_000_000,
        torn_reads: 3,
        spent_s: 1.2,
        partial: 0,
        why: None,
        whole: false,
        list: vec![
            row("dict", None, 218_400, 18_400),
            row("Groupoid_with_category", Some("sage.categories"), 1_300, 1_229),
            row("tuple", None, 90_000, -12),
        ],
        omitted: 812,
    }
}
