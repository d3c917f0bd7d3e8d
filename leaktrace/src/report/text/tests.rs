//! The text of one whole report, of an empty one, and what must not get out of hand.

use super::*;
use crate::report::{
    model::{Container, Held, Members},
    sample,
};

pub(super) fn rendered(report: &Report, color: bool, width: Option<usize>) -> String {
    let native = false;
    shown(report, Text { color, width, native })
}

fn shown(report: &Report, format: Text) -> String {
    let mut out = Vec::new();
    format.render(report, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn show() {
    println!("{}", rendered(&sample::report(), false, None));
    println!("{}", rendered(&sample::report(), true, Some(80)));
    println!("{}", rendered(&sample::empty(), false, None));
    println!("{}", rendered(&sample::sampled(), false, None));
    println!("{}", rendered(&sample::python(), false, None));
    println!("{}", rendered(&sample::python(), true, Some(80)));
    println!("{}", rendered(&sample::gpu(), false, None));
}

#[test]
fn an_estimate_says_so_and_how_far_to_trust_it() {
    let exact = rendered(&sample::report(), false, None);
    let sampled = rendered(&sample::sampled(), false, None);
    for line in [
        "  sampling     every 512.0 KiB per thread: numbers are estimates, ranges are 95 %\n",
        "    range      432.6 KiB to 4.0 MiB, from 3 samples\n",
        "       212.8 KiB to 3.2 MiB, from 2 samples\n",
        " old, stands for 128.5\n",
    ] {
        assert!(sampled.contains(line), "{line}in\n{sampled}");
        assert!(!exact.contains(line), "{line}in\n{exact}");
    }
}

#[test]
fn no_sample_is_not_called_nothing() {
    let mut report = sample::empty();
    report.tracing.sampling = sample::sampled().tracing.sampling;
    let text = rendered(&report, false, None);
    assert!(
        text.contains("\nno sample is outstanding: every sampled block was freed\n"),
        "{text}"
    );
    report.totals.allocs = 0;
    let text = rendered(&report, false, None);
    assert!(
        text.contains("\nno allocation was sampled since the attach\n"),
        "{text}"
    );
}

#[test]
fn the_cost_is_a_sentence_and_a_budget_says_what_it_took() {
    let text = rendered(&sample::report(), false, None);
    assert!(
        text.contains(
            "  tracing      costs the target 3.1 % of its CPU time (3.1 % in all: 72,000,000 traps x 0.03 \u{b5}s + \
             0.01 \u{b5}s in programs), leaktrace itself 0.3 % of a CPU\n"
        ),
        "{text}"
    );
    assert!(!text.contains("held to"), "{text}");
    let text = rendered(&sample::budgeted(), false, None);
    for line in [
        "  held to      3.0 %: sampling every 512.0 KiB; malloc paused at times (malloc seen 12 % of the time)\n",
        "  not seen     about 1.0 GiB in 1,000,000 blocks handed out while paused\n",
        "  unsure       1.2 MiB in 1,300 blocks of the outstanding: frees were unseen for 85 % of the time\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let mut report = sample::report();
    report.overhead.calibration = None;
    report.overhead.unknown = Some("no probe".to_owned());
    let text = rendered(&report, false, None);
    assert!(
        text.contains(
            "  tracing      costs the target an unknown share: no probe; leaktrace itself 0.3 % of a CPU\n"
        ),
        "{text}"
    );
}

#[test]
fn a_python_site_is_its_line() {
    let text = rendered(&sample::python(), false, None);
    let site = "       python3.13/json/decoder.py:362 in raw_decode, called from /srv/app/cache.py:42 in Cache.load\n\
                \x20      malloc in server (4242), 3,766 of 5,000 blocks freed, half within 524 µs\n\
                \x20      list_append  libpython3.13.so.1.0\n\
                \x20      raw_decode   python3.13/json/decoder.py:362\n\
                \x20    > Cache.load   /srv/app/cache.py:42\n\
                \x20      call_back    _native.so\n\
                \x20      <lambda>     /srv/app/main;v2.py:3\n\n";
    assert!(text.contains(site), "{text}");
    for line in [
        "\npython: 99.0 % of stacks carry their lines (10 in 1,000 allocations do not: 10 could not be read)\n",
        "\npython: 3 frames of the interpreter not shown (--native)\n",
    ] {
        assert!(text.contains(line), "{line}in\n{text}");
    }
}

#[test]
fn the_interpreters_own_frames_are_shown_when_asked_for() {
    let native = Text {
        color: false,
        width: None,
        native: true,
    };
    let text = shown(&sample::python(), native);
    for name in ["PyMem_RawMalloc", "slot_tp_call", "Py_RunMain"] {
        assert!(text.contains(name), "{name} in\n{text}");
    }
    assert!(!text.contains("(--native)"), "{text}");
}

#[test]
fn objects_are_listed_by_type() {
    let mut report = sample::python();
    let text = rendered(&report, false, None);
    let table = "\
Survivors by Python type: 120.2 MiB in 1,234,567 objects (14 censuses in 1.2 s, 3 reads torn)
  type                                    since attach             per second                   now
  dict                                         +18,400   +1.1 MiB      +307/s  +19.2 KiB/s  218,400  13.3 MiB
  sage.categories.Groupoid_with_category        +1,229  +76.8 KiB       +20/s   +1.3 KiB/s    1,300  81.2 KiB
  and 813 more types (--census)
";
    assert!(text.contains(table), "{text}");
    // Several processes: whose it is.
    report.types.as_mut().unwrap().list[1].pid = 4243;
    let text = rendered(&report, false, None);
    assert!(text.contains("\n  dict (4242) "), "{text}");
    report.types = None;
    assert!(!rendered(&report, false, None).contains("Python type"));
}

#[test]
fn types_that_have_not_grown_are_listed_when_all_are_asked_for() {
    let mut report = sample::python();
    report.tracing.filters.top = 2;
    let types = report.types.as_mut().unwrap();
    types.whole = true;
    types.omitted = 0;
    let text = rendered(&report, false, None);
    assert!(text.contains("\n  tuple  "), "{text}");
    assert!(!text.contains("more type"), "{text}");
}

#[test]
fn what_was_counted_is_said_with_its_age_and_what_could_not_be() {
    let mut report = sample::python();
    let types = report.types.as_mut().unwrap();
    for row in &mut types.list {
        (row.state, row.age_s, row.grown_objects, row.grown_bytes) = (State::Exited, 12.0, 0, -1);
    }
    types.why = Some("process 4242: the census was not finished in its time".to_owned());
    let text = rendered(&report, false, None);
    let table = "\
Survivors by Python type: 120.2 MiB in 1,234,567 objects (14 censuses in 1.2 s, 3 reads torn, the last 12.0 s ago)
  not counted anew: process 4242: the census was not finished in its time
  of no type are there more than at the first census
";
    assert!(text.contains(table), "{text}");
}

#[test]
fn a_process_without_python_lines_says_why() {
    let mut report = sample::python();
    let python = report.target.processes[0].python.as_mut().unwrap();
    python.stacks = false;
    python.why = Some("Python 2.7 is not known".to_owned());
    let text = rendered(&report, false, None);
    let line = "\npython 3.13.1 of process 4242: stacks are without Python frames: Python 2.7 is not known\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn each_kind_of_gpu_memory_is_a_line_and_what_pytorch_says_stands_beside_the_driver() {
    let text = rendered(&sample::gpu(), false, None);
    let header = "\
\x20 GPU memory   each kind by itself, and none in the numbers above
               device  48.0 MiB in 3 blocks  +4.0 KiB/s  cuda:0
               device  16.0 MiB in 1 block   +4.0 KiB/s  cuda:1
               pinned   3.0 MiB in 3 blocks  +4.0 KiB/s  cuda:1
               tensor  30.0 MiB in 6 blocks  +4.0 KiB/s  cuda:0
  PyTorch cuda:0 allocated 30.0 MiB / reserved 40.0 MiB (last event 1.2 s ago); driver live 48.0 MiB; outside \
                  PyTorch 8.0 MiB
  NVML         used by the process 612.0 MiB; driver live 64.0 MiB; 548.0 MiB more: context, modules, what was before \
                  the attach
";
    assert!(text.contains(header), "{text}");
    assert!(
        text.contains("  outstanding  1.2 MiB in 1,301 blocks"),
        "the host's sum is without it: {text}"
    );
}

#[test]
fn survivors_are_in_three_tables_and_say_where_their_memory_is() {
    let text = rendered(&sample::gpu(), false, None);
    let titles = ["\nGPU memory\n", "\ntensors\n", "\nhost memory\n"].map(|title| text.find(title).unwrap());
    assert!(titles.is_sorted(), "{text}");
    for line in [
        "\n       cudaMalloc (device memory on cuda:0) in server (4242), reserved by PyTorch's caching allocator\n",
        "\n       cuMemAllocHost_v2 (pinned memory for cuda:1) in server (4242), 1.0 MiB in 1 block of it: context \
         destroyed, unsure\n",
        "\n       reportMemoryUsageToProfiler (tensor memory on cuda:0) in server (4242)\n",
        "\n       malloc in server (4242), 3,766 of 5,000 blocks freed, half within 524 µs\n",
        "\nnot shown: 1 site of device memory with 24.0 MiB in 2 blocks (--top 2)\n",
        "\nnot shown: 12 sites with 40.7 KiB in 66 blocks (--top 2)\n",
    ] {
        assert!(text.contains(line), "{line}in\n{text}");
    }
    let mut report = sample::gpu();
    let unsure = report.survivors[1].unsure.as_mut().unwrap();
    unsure.blocks = 3;
    report.survivors[1].state = State::Exited;
    let text = rendered(&report, false, None);
    assert!(
        text.contains(" in server (4242), context destroyed, unsure, live at exit\n"),
        "{text}"
    );
}

#[test]
fn what_failed_is_said_with_its_stack_and_what_is_not_followed_with_its_number() {
    let mut report = sample::gpu();
    let text = rendered(&report, false, None);
    let failed = "\nfailed: cudaMalloc out of memory 3x, largest 20.0 GiB, in server (4242)\n";
    assert!(text.contains(failed), "{text}");
    assert!(
        text.contains(
            "\nnot tracked: 2 calls of the GPU's driver that make memory which is not followed:\n  cuImportExternalMemory 2x\n"
        ),
        "{text}"
    );
    let gpu = report.gpu.as_mut().unwrap();
    let mut other = gpu.errors[0].clone();
    (other.name, other.code, other.largest_bytes) = (None, 4711, 0);
    gpu.errors = vec![other; 5];
    gpu.not_tracked = crate::report::gpu::NotTracked::default();
    let text = rendered(&report, false, None);
    assert!(
        text.contains("\nfailed: cudaMalloc result 4711 3x, in server (4242)\n"),
        "{text}"
    );
    assert!(
        text.contains("\nfailed: 6 calls more from 2 places, all listed by --format json\n"),
        "{text}"
    );
    assert!(!text.contains("not tracked"), "{text}");
}

#[test]
fn a_gpu_that_is_waited_for_is_a_line_and_nothing_else() {
    let mut report = sample::report();
    let without = rendered(&report, false, None);
    report.gpu = Some(crate::report::gpu::Gpu::default());
    let waiting = rendered(&report, false, None);
    // The ledger has its lines only then.
    assert!(
        !without.contains("gpu_") && waiting.contains("gpu_full"),
        "{without}"
    );
    let above = |text: &str| text[..text.find("ledger:").unwrap()].to_owned();
    let (waiting, without) = (above(&waiting), above(&without));
    let line = "  GPU memory   no CUDA driver is mapped yet\n";
    assert!(waiting.contains(line), "{waiting}");
    assert_eq!(waiting.replace(line, ""), without);
}

#[test]
fn a_table_without_sites_says_why() {
    let mut report = sample::gpu();
    report.survivors.retain(|survivor| survivor.space == "heap");
    let text = rendered(&report, false, None);
    // Only an age or an empty list can hide what is there.
    assert!(
        text.contains("\ntensors\nnothing outstanding is older than"),
        "{text}"
    );
    let gpu = report.gpu.as_mut().unwrap();
    for place in &mut gpu.spaces {
        (place.live_bytes, place.live_blocks) = (0, 0);
    }
    report.omitted.gpu.clear();
    let text = rendered(&report, false, None);
    let freed =
        "\nGPU memory\nnothing outstanding: every block handed out since the attach was freed\n\ntensors\n";
    assert!(text.contains(freed), "{text}");
}

#[test]
fn more_reserved_than_the_driver_was_seen_to_hand_out_was_there_before() {
    let mut report = sample::gpu();
    let torch = &mut report.gpu.as_mut().unwrap().torch[0];
    (torch.driver_live_bytes, torch.outside_bytes, torch.of_all_devices) = (8 << 20, -(32 << 20), true);
    let text = rendered(&report, false, None);
    assert!(
        text.contains("; driver live 8.0 MiB on all devices; reserved before the attach at least 32.0 MiB\n"),
        "{text}"
    );
}

#[test]
fn a_process_in_a_namespace_says_its_own_pid_and_its_container() {
    let mut report = sample::report();
    report.survivors[0].inner_pid = Some(7);
    let line = |report: &Report| {
        let text = rendered(report, false, None);
        let mut lines = text.lines().filter(|line| line.starts_with("       malloc in "));
        let line = lines.next().unwrap().trim_start();
        line.strip_suffix(", 3,766 of 5,000 blocks freed, half within 524 µs")
            .unwrap()
            .to_owned()
    };
    assert_eq!(line(&report), "malloc in server (4242, 7 inside)");
    report.survivors[0].container = Some("web".to_owned());
    assert_eq!(line(&report), "malloc in server (4242, 7 in web)");
    report.survivors[0].inner_pid = None;
    assert_eq!(line(&report), "malloc in server (4242) in web");
    let process = &mut report.target.processes[0];
    process.inner_pid = Some(7);
    process.container = Some(Container {
        id: "0123456789abcdef0123".to_owned(),
        ..Container::default()
    });
    let text = rendered(&report, false, None);
    assert!(text.contains("\n  server (4242, 7 in 0123456789ab)  "), "{text}");
}

#[test]
fn a_site_of_many_processes_says_in_how_many() {
    let mut report = sample::report();
    let survivor = &mut report.survivors[0];
    survivor.processes = 1_012;
    survivor.container = Some("web".to_owned());
    let text = rendered(&report, false, None);
    assert!(
        text.contains(
            "\n       malloc in 1,012 processes, most in server (4242) in web\
         , 3,766 of 5,000 blocks freed, half within 524 µs\n"
        ),
        "{text}"
    );
}

#[test]
fn of_many_processes_those_that_hold_most_are_listed() {
    let mut report = sample::report();
    let one = report.target.processes[0].clone();
    for nth in 1..=298 {
        report.target.processes.push(Process {
            pid: 5000 + nth,
            live_bytes: u64::from(nth) << 20,
            live_blocks: u64::from(nth),
            ..one.clone()
        });
    }
    report.target.selection = Some(vec!["--comm server".to_owned(), "--user www".to_owned()]);
    report.target.members = Members {
        running: 299,
        joined: 1_300,
        ended: 1_001,
        with_blocks: 300,
    };
    report.target.forgotten = Held {
        live_bytes: 5 << 20,
        live_blocks: 12,
    };
    let text = rendered(&report, false, None);
    for line in [
        "300 processes, traced for ",
        "\n  selected by  --comm server --user www\n",
        "\n  processes    299 run, 1,001 of 1,300 have ended; outstanding blocks in 300\n",
        "\n  server (5298)  298.0 MiB in 298 blocks  RSS 84.2 MiB\n",
        "\n  and 292 more with ",
        "\n  and processes that have ended with 5.0 MiB in 12 blocks\n",
    ] {
        assert!(text.contains(line), "{line}in\n{text}");
    }
    assert_eq!(text.matches("RSS 84.2 MiB\n").count(), 8 + 1, "{text}");
}

#[test]
fn a_failed_gate_names_its_conditions_and_its_sites() {
    let mut report = sample::gated();
    let text = rendered(&report, false, None);
    for line in [
        "\nsuppressed: 2 sites with 3.0 KiB in 14 blocks (12 x leak:^cache_*, 2 x leak:libfoo)\n",
        "\nsuppressed: 1 site of device memory with 1.0 MiB in 2 blocks (2 x leak:libfoo)\n",
        "\nsuppressed: 3 Python types (3 x leak:libfoo)\n",
        "\nfailed: survivors>100: 1,235 blocks outstanding\n  1.2 MiB in 1,234 blocks by malloc at \
         http::Parser<char>::header (src/http.cc:88), server (4242)\n",
        "\nfailed: bytes>1MiB: at least 40.0 MiB of device memory outstanding, the lower bound at 95 % (estimate 48.0 MiB)\n  and 7 more sites\n",
        "\nfailed: growing: growth of 1 site and 2 Python types\n  1.2 MiB in 1,234 blocks by malloc at \
         http::Parser<char>::header (src/http.cc:88), server (4242): every block still lives\n",
        "\nundecided: whether 3 sites and 1 Python type grow; trace 40.0 s longer (-d)\n",
        "\nnot looked at one by one: 5 sites,",
    ] {
        assert!(text.contains(line), "{line}in\n{text}");
    }
    assert!(
        !text.contains("passed:") && !text.contains("leak:unused"),
        "{text}"
    );
    let findings = crate::report::gate_findings(&report);
    assert!(findings[0].starts_with("failed: survivors>100") && findings[1].starts_with("  1.2 MiB"));
    assert!(findings.iter().all(|line| !line.contains('\n')));

    let gate = report.gate.as_mut().unwrap();
    gate.failed.clear();
    gate.undecided = None;
    gate.unnamed_sites = 0;
    let text = rendered(&report, false, None);
    assert!(
        text.contains("\npassed: growing, survivors>100, bytes>1MiB\n"),
        "{text}"
    );
    assert_eq!(crate::report::gate_findings(&report), Vec::<String>::new());
    report.survivors.clear();
    let text = rendered(&report, false, None);
    assert!(text.contains("\nno site but what is suppressed\n"), "{text}");
}

#[test]
fn names_in_the_findings_of_a_gate_steer_no_terminal() {
    let mut report = sample::gated();
    report.survivors[0].frames[2].symbol = Some("a\x1b[2Jb".to_owned());
    let findings = crate::report::gate_findings(&report);
    assert!(findings[1].contains("a\u{fffd}[2Jb"), "{findings:?}");
}
