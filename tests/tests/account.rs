//! Where the memory of a process is: parts that add up to the change of its resident memory, against programs that know
//! what they have touched.

use std::path::Path;

use leaktrace_tests::{
    fixtures::{self, Fixture},
    leaktrace::Leaktrace,
    report::{Report, Truth},
    skip::unless_missing,
    target::Target,
};
use serde_json::{Value, json};

const MIB: i64 = 1 << 20;

/// What a program has besides: its libraries' pages, the page that a header lies in, a stack that grows.
const BESIDE: i64 = MIB / 2;

/// A traced run of `resident`.
struct Run {
    report: Report,
    truth: Truth,
    /// What the kernel says that its resident memory has changed by, bytes.
    change: i64,
}

fn resident_bytes(pid: u32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_ascii_whitespace().nth(1));
    number
        .and_then(|number| number.parse::<i64>().ok())
        .expect("kilobytes")
        * 1024
}

fn run(what: &str) -> Run {
    run_program(&fixtures::c("resident"), what)
}

fn run_program(program: &Path, what: &str) -> Run {
    let mut target = Target::program(program, &[what]);
    target.ready();
    let leaktrace = Leaktrace::attach(&[target.pid()]).start();
    let before = resident_bytes(target.pid());
    target.go();
    let truth = target.truth();
    let change = resident_bytes(target.pid()) - before;
    let report = leaktrace.stop().report();
    target.finish();
    let run = Run {
        report,
        truth,
        change,
    };
    run.assert_adds_up();
    run
}

impl Run {
    fn account(&self) -> &Value {
        let account = &self.report.value()["accounts"][0];
        assert_eq!(
            account["pid"],
            self.truth.pid,
            "{}",
            self.report.value()["accounts"]
        );
        account
    }

    fn number(&self, pointer: &str) -> i64 {
        let number = self.account().pointer(pointer).and_then(Value::as_i64);
        number.unwrap_or_else(|| panic!("no {pointer} in {}", self.account()))
    }

    fn parts(&self) -> &[Value] {
        self.account()["parts"].as_array().expect("a list")
    }

    /// By how much parts of these kinds have changed.
    fn changed(&self, kinds: &[&str]) -> i64 {
        let parts = self.parts().iter();
        let wanted = parts.filter(|part| part["kind"].as_str().is_some_and(|kind| kinds.contains(&kind)));
        wanted.filter_map(|part| part["change_bytes"].as_i64()).sum()
    }

    /// What a site has of the memory that is there.
    fn of_site(&self, function: &str) -> i64 {
        let survivors = self.report.survivors();
        let index = survivors
            .iter()
            .position(|survivor| survivor.has_caller(function));
        let index = index.unwrap_or_else(|| panic!("no {function} in {}", self.report.summary()));
        let of_site = |part: &&Value| part["kind"] == "site" && part["site"] == index;
        let part = self.parts().iter().find(of_site);
        part.map_or(0, |part| part["bytes"].as_i64().expect("a number"))
    }

    /// What was mapped by a function, as a site.
    fn mapping_site(&self, function: &str) -> &Value {
        let survivors = self.report.value()["survivors"].as_array().expect("a list");
        let mut found = survivors
            .iter()
            .filter(|survivor| survivor["space"] == "mapping" && is_from(survivor, function));
        let (Some(site), None) = (found.next(), found.next()) else {
            panic!("not once {function}: {}", self.report.summary())
        };
        site
    }

    /// The parts and what is left add up exactly; what is left is little; and all of it is what the kernel says.
    fn assert_adds_up(&self) {
        let account = self.account();
        let sum: i64 = self
            .parts()
            .iter()
            .filter_map(|part| part["change_bytes"].as_i64())
            .sum();
        let unexplained = self.number("/unexplained_bytes");
        let change = self.number("/rss/change_bytes") + self.number("/swap/change_bytes");
        assert_eq!(sum + unexplained, change, "{account}");
        assert!(unexplained.abs() <= change.abs() / 20 + BESIDE, "{account}");
        let off = (self.number("/rss/change_bytes") - self.change).abs();
        assert!(
            off <= self.change.abs() / 20 + BESIDE,
            "{} is not {}",
            account,
            self.change
        );
        assert!(
            !account["line"].as_str().unwrap_or_default().is_empty(),
            "{account}"
        );
    }
}

/// Whether a number is what it should be, or so much more as a program has beside.
fn assert_about(bytes: i64, expected: i64, run: &Run) {
    let range = expected - BESIDE..=expected + BESIDE;
    assert!(
        range.contains(&bytes),
        "{bytes} is not {expected}: {}",
        run.account()
    );
}

#[test]
fn what_was_freed_between_blocks_that_stay_is_held_but_free() {
    let run = run("half");
    let kept = run.truth.site("kept");
    // 1000 bytes take 1008 of glibc's heap.
    let held = kept.blocks as i64 * 1008;
    assert_about(run.of_site("kept"), held, &run);
    assert_about(run.changed(&["heap-free"]), held, &run);
    let line = run.account()["line"].as_str().unwrap_or_default();
    assert!(
        line.contains("% heap held but free") && line.contains("% kept"),
        "{line}"
    );
}

#[test]
fn what_is_only_reserved_is_not_there() {
    let run = run("reserved");
    assert_about(run.of_site("touched"), 40 * MIB, &run);
    assert_about(run.of_site("untouched"), 0, &run);
    assert_about(run.changed(&["mappings"]), 3 * MIB, &run);
    let mappings = run.account()["mappings"].as_array().expect("a list");
    let first = mappings.first().expect("a mapping");
    assert!(first["mapped_bytes"].as_i64() >= Some(1024 * MIB), "{first}");
    assert!(is_from(first, "reserve"), "{first}");
    assert_about(first["held_bytes"].as_i64().unwrap_or_default(), 3 * MIB, &run);
}

/// Whether a stack leads through a function.
fn is_from(mapping: &Value, function: &str) -> bool {
    let frames = mapping["frames"].as_array().expect("a list");
    mapping["call"] == "mmap" && frames.iter().any(|frame| frame["symbol"] == function)
}

#[test]
fn what_is_cut_and_what_grows_stays_whose_it_was() {
    let run = run("parts");
    let mappings = run.account()["mappings"].as_array().expect("a list");
    for (function, bytes, mapped) in [("map_and_cut", 12, 12), ("map_and_grow", 24, 24)] {
        let mut of_function = mappings.iter().filter(|mapping| is_from(mapping, function));
        let (Some(mapping), None) = (of_function.next(), of_function.next()) else {
            panic!("not once {function}: {}", run.account());
        };
        assert_eq!(mapping["held_bytes"], bytes * MIB, "{mapping}");
        assert_eq!(mapping["mapped_bytes"], mapped * MIB, "{mapping}");
        let site = run.mapping_site(function);
        assert_eq!(site["bytes"], bytes * MIB, "{site}");
        let age = &site["age_ms"];
        assert!(
            age["min"].as_u64() > Some(0) && age["max"].as_u64() >= age["min"].as_u64(),
            "{age}"
        );
    }
    assert_about(run.changed(&["mappings"]), 36 * MIB, &run);
}

/// What no function of a library has mapped, in a program that has no library either.
#[test]
fn system_calls_of_the_program_itself_are_followed() {
    // musl's functions have no unwind information: a walk that begins in the midst of one misses its caller.
    let static_musl = unless_missing(Fixture::musl("resident").build()).map(|program| (program, "main"));
    let programs = static_musl
        .into_iter()
        .chain([(fixtures::c("resident"), "map_directly")]);
    for (program, function) in programs {
        let run = run_program(&program, "direct");
        let site = run.mapping_site(function);
        assert_eq!(
            (&site["bytes"], &site["blocks"]),
            (&json!(5 * MIB), &json!(1)),
            "{site}"
        );
        assert_about(run.changed(&["mappings"]), 5 * MIB, &run);
    }
}

#[test]
fn the_stacks_of_threads_are_not_the_heap() {
    let run = run("stacks");
    assert_about(run.changed(&["stacks"]), 8 * MIB, &run);
    assert_about(run.changed(&["site", "other-sites", "heap-free"]), 0, &run);
    // Who has started them is a site like any other, with what is there of the stacks.
    let site = run.mapping_site("start_threads");
    assert_about(site["bytes"].as_i64().expect("a number"), 8 * MIB, &run);
    assert_eq!(site["blocks"], 8, "the guard pages are nothing: {site}");
}

#[test]
fn free_heap_that_is_used_again_is_no_growth() {
    let run = run("reused");
    let held = run.truth.site("kept").blocks as i64 * 1008;
    assert_about(run.of_site("kept"), held, &run);
    assert_about(run.changed(&["heap-free"]), -held, &run);
    assert_about(run.number("/rss/change_bytes"), 0, &run);
}

#[test]
fn what_was_there_before_the_attach_may_go() {
    let run = run("given_back");
    assert_about(run.changed(&["before"]), -12 * MIB, &run);
    assert_about(run.number("/rss/change_bytes"), -12 * MIB, &run);
}

#[test]
fn shared_memory_is_told_from_the_process_s_own() {
    let run = run("shared");
    assert_about(run.changed(&["files"]), 32 * MIB, &run);
    assert_about(run.number("/anonymous/change_bytes"), 0, &run);
}

#[test]
fn a_command_s_memory_is_all_of_it_since_its_start() {
    let program = fixtures::c("resident");
    let mut run = Leaktrace::command(&program, &["half"])
        .args(&["-i", "100ms"])
        .with_stdin()
        .spawn();
    let pid = run.target_pid();
    run.send(b"g");
    leaktrace_tests::wait::until("an account with its heap", || {
        let reports = leaktrace_tests::report::parse_all(&run.file()).ok()?;
        let account = &reports.last()?.value()["accounts"][0];
        let rss = &account["rss"];
        let half = 20_000 * 2016;
        (rss["bytes"].as_i64()? > half && rss["bytes"] == rss["change_bytes"] && account["pid"] == pid)
            .then_some(())
    });
    run.close_stdin();
    assert!(run.wait().status.success());
}
