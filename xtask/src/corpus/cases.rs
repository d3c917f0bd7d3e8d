//! The labelled corpus: which programs there are, and what each of their sites is in truth. A table.
//!
//! Must not know how a program is built or run, nor what leaktrace says of it.

use super::class::Class::{self, Churn, Growing, OneOff, Plateau};

/// Where a program's source is, below `tests/corpus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `c/NAME.c`.
    C(&'static str),
    /// The same, linked with the fake driver of `tests/programs/gpu`.
    Gpu(&'static str),
    /// `cpp/NAME.cpp`.
    Cpp(&'static str),
    /// `rust/NAME.rs`.
    Rust(&'static str),
    /// `python/NAME.py`.
    Python(&'static str),
}

/// A program, started in one way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) source: Source,
    /// The word that it is given.
    pub(super) variant: &'static str,
    /// The event after which leaktrace attaches; none: before it begins.
    pub(super) late: Option<&'static str>,
    pub(super) labels: &'static [Label],
}

/// What a site is in truth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    /// The function.
    pub(super) site: &'static str,
    /// The classes that are right: several where a person would accept either. The first is what tables have it under.
    pub(super) fair: &'static [Class],
    /// The event from which on that holds; none: from the attach.
    pub(super) since: Option<&'static str>,
    /// Whether its true slope is known: not of what grows by ever larger steps, nor where a part only is resident.
    pub(super) has_slope: bool,
    /// Whether it is much that was reserved and hardly touched, and must not stand first.
    pub(super) never_first: bool,
}

impl Label {
    /// Whether it is, in truth, bounded.
    pub(super) fn is_bounded(&self) -> bool {
        self.fair[0] != Growing
    }

    const fn since(mut self, event: &'static str) -> Self {
        self.since = Some(event);
        self
    }

    const fn without_slope(mut self) -> Self {
        self.has_slope = false;
        self
    }

    const fn never_first(mut self) -> Self {
        self.never_first = true;
        self
    }
}

const fn label(site: &'static str, fair: &'static [Class]) -> Label {
    Label {
        site,
        fair,
        since: None,
        has_slope: true,
        never_first: false,
    }
}

const fn grows(site: &'static str) -> Label {
    label(site, &[Growing])
}

/// What is replaced all the time and has a bound: a cache for one, turnover for another.
const fn turns_over(site: &'static str) -> Label {
    label(site, &[Plateau, Churn]).since("full")
}

/// Lives too short to be seen as more than turnover, or none that stays, by a person who looks at it now and then.
const fn comes_and_goes(site: &'static str) -> Label {
    label(site, &[Churn, Plateau]).since("full")
}

/// What has risen to its bound, over some time, and stays.
const fn done(site: &'static str) -> Label {
    label(site, &[Plateau, OneOff]).since("full")
}

const fn case(name: &'static str, source: Source, variant: &'static str, labels: &'static [Label]) -> Case {
    Case {
        name,
        source,
        variant,
        late: None,
        labels,
    }
}

impl Case {
    const fn late(mut self, event: &'static str) -> Self {
        self.late = Some(event);
        self
    }

    /// Whether one of its sites grows.
    pub(super) fn leaks(&self) -> bool {
        self.labels.iter().any(|label| !label.is_bounded())
    }
}

use Source::{C, Cpp, Gpu, Python, Rust};

/// All of it.
pub(super) const CASES: &[Case] = &[
    // Leaks.
    case(
        "steady",
        C("steady"),
        "",
        &[grows("site_leak"), label("site_request", &[Churn])],
    ),
    case(
        "steady-late",
        C("steady"),
        "",
        &[grows("site_leak"), label("site_request", &[Churn])],
    )
    .late("running"),
    case("under-churn", C("under_churn"), "", &[grows("site_message")]),
    case(
        "bursts",
        C("bursts"),
        "",
        &[grows("site_burst"), label("site_request", &[Churn])],
    ),
    case("per-error", C("per_error"), "", &[grows("site_context")]),
    case(
        "wrapper",
        C("wrapper"),
        "",
        &[
            grows("site_header"),
            grows("site_cookie"),
            label("site_body", &[Churn]),
        ],
    ),
    case(
        "reconnect",
        C("reconnect"),
        "",
        &[grows("site_handshake"), comes_and_goes("site_input")],
    ),
    case("cache-unbounded", C("cache"), "unbounded", &[grows("site_entry")]),
    case("intern-ids", C("intern"), "ids", &[grows("site_intern")]),
    case(
        "shared-cycle",
        Cpp("shared_cycle"),
        "strong",
        &[grows("site_node")],
    ),
    case("map-keep", Cpp("map"), "keep", &[grows("site_insert")]),
    case(
        "listeners-keep",
        Cpp("listeners"),
        "keep",
        &[grows("site_listen")],
    ),
    case(
        "leak-beside-lru",
        Cpp("lru"),
        "beside",
        &[grows("site_leak"), turns_over("site_entry")],
    ),
    case("rc-cycle", Rust("rc_cycle"), "strong", &[grows("site_node")]),
    case("box-leak", Rust("requests"), "leak", &[grows("site_request")]),
    case("vec-of-box", Rust("requests"), "keep", &[grows("site_request")]),
    case("memo-all", Rust("memo"), "all", &[grows("site_answer")]),
    case(
        "vector-one",
        Rust("vector"),
        "one",
        &[grows("site_push").without_slope()],
    ),
    case(
        "vector-many",
        Rust("vector"),
        "many",
        &[grows("site_push").without_slope()],
    ),
    case("cached-method", Python("cached"), "method", &[grows("site_load")]),
    case("figures-open", Python("figures"), "open", &[grows("site_canvas")]),
    case(
        "training-keep",
        Python("training"),
        "keep",
        &[grows("site_forward")],
    ),
    case(
        "registry-keep",
        Python("registry"),
        "keep",
        &[grows("site_session")],
    ),
    case(
        "coercion-types",
        Python("coercion"),
        "types",
        &[grows("site_plan")],
    ),
    case("answers", Python("answers"), "", &[grows("site_answer")]),
    case("small-objects", Python("small"), "", &[grows("site_point")]),
    case(
        "gpu",
        Gpu("gpu"),
        "",
        &[grows("site_workspace"), comes_and_goes("site_activations")],
    ),
    case("mmap-leak", C("mapped"), "leak", &[grows("site_map")]),
    case("mmap-partial", C("mapped"), "partial", &[grows("site_map")]),
    case(
        "thread-stacks",
        C("mapped"),
        "stacks",
        &[grows("site_spawn").without_slope()],
    ),
    case(
        "threads-parked",
        C("mapped"),
        "parked",
        &[grows("site_spawn").without_slope()],
    ),
    case(
        "mmap-huge",
        C("mapped"),
        "huge",
        &[
            grows("site_leak"),
            label("site_map", &[OneOff]).since("full").never_first(),
        ],
    ),
    case(
        "reserve",
        C("reserve"),
        "",
        &[
            grows("site_leak"),
            label("site_reserve", &[OneOff]).since("full").never_first(),
        ],
    ),
    case("batch-leaky", C("arena"), "leaky", &[grows("site_chunk")]),
    case("queue-behind", C("arena"), "behind", &[grows("site_chunk")]),
    // Leaks of other kinds: by realloc, uneven in time, behind something that works.
    case("append-all", C("append"), "all", &[grows("site_append")]),
    case(
        "table",
        C("table"),
        "",
        &[grows("site_node"), grows("site_buckets").without_slope()],
    ),
    case(
        "batch-result",
        C("over_time"),
        "batch",
        &[grows("site_kept"), comes_and_goes("site_record")],
    ),
    case("rare-blocks", C("over_time"), "rare", &[grows("site_kept")]),
    case(
        "ever-slower",
        C("over_time"),
        "slower",
        &[grows("site_kept").without_slope()],
    ),
    case(
        "leak-later",
        C("over_time"),
        "later",
        &[grows("site_kept").since("leaks")],
    ),
    case("leak-after-load", C("over_time"), "after", &[grows("site_kept")]),
    case("sessions", C("sessions"), "", &[grows("site_session")]),
    case(
        "workers",
        C("workers"),
        "",
        &[grows("site_record"), label("site_scratch", &[Churn, Plateau])],
    ),
    case(
        "consumer-dies",
        Cpp("consumer"),
        "dies",
        &[grows("site_push").since("dead")],
    ),
    case("chunks-pinned", Cpp("pinned"), "kept", &[grows("site_chunk")]),
    case("weak-kept", Cpp("weak"), "kept", &[grows("site_view")]),
    case("pending-lost", Rust("pending"), "lost", &[grows("site_request")]),
    case(
        "observers-strong",
        Python("observers"),
        "strong",
        &[grows("site_text")],
    ),
    case("tee-behind", Python("pipeline"), "tee", &[grows("site_chunk")]),
    // Caches, pools and what turns over.
    case("cache-random", C("cache"), "random", &[turns_over("site_entry")]),
    case("cache-ttl", C("cache"), "ttl", &[turns_over("site_entry")]),
    case("cache-ttl-late", C("cache"), "ttl", &[turns_over("site_entry")]).late("full"),
    case("lru-128", Cpp("lru"), "small", &[turns_over("site_entry")]),
    case("lru-100000", Cpp("lru"), "large", &[turns_over("site_entry")]),
    case("lru-full", Cpp("lru"), "full", &[turns_over("site_entry")]).late("full"),
    case("pool", C("pool"), "", &[done("site_chunk")]),
    case(
        "thread-caches",
        C("thread_caches"),
        "",
        &[turns_over("site_buffer")],
    ),
    case("log-ring", C("log_ring"), "", &[turns_over("site_line")]),
    case("mmap-ring", C("mapped"), "ring", &[turns_over("site_map")]),
    case("pareto", C("pareto"), "", &[comes_and_goes("site_object")]),
    case(
        "arena-minute",
        C("arena"),
        "minute",
        &[comes_and_goes("site_chunk")],
    ),
    case("batch", C("arena"), "batch", &[comes_and_goes("site_chunk")]),
    case("queue", C("arena"), "queue", &[comes_and_goes("site_chunk")]),
    case("channel", Rust("channel"), "", &[comes_and_goes("site_message")]),
    case("diurnal", C("tide"), "diurnal", &[comes_and_goes("site_session")]),
    case(
        "shrinks",
        C("tide"),
        "shrinks",
        &[label("site_session", &[Plateau, Churn]).since("shrunk")],
    ),
    case(
        "fragmentation",
        C("fragmentation"),
        "",
        &[
            label("site_pin", &[Plateau, OneOff]).since("freed"),
            label("site_block", &[Churn, OneOff, Plateau]).since("freed"),
        ],
    ),
    case(
        "shared-weak",
        Cpp("shared_cycle"),
        "weak",
        &[comes_and_goes("site_node")],
    ),
    case("map-erase", Cpp("map"), "erase", &[turns_over("site_insert")]),
    case(
        "listeners-remove",
        Cpp("listeners"),
        "remove",
        &[turns_over("site_listen")],
    ),
    case(
        "rc-weak",
        Rust("rc_cycle"),
        "weak",
        &[comes_and_goes("site_node")],
    ),
    case(
        "requests-drop",
        Rust("requests"),
        "drop",
        &[turns_over("site_request")],
    ),
    case("memo-some", Rust("memo"), "some", &[turns_over("site_answer")]),
    case("cached-lru", Python("cached"), "lru", &[turns_over("site_load")]),
    case(
        "figures-closed",
        Python("figures"),
        "closed",
        &[label("site_canvas", &[Churn]).since("full")],
    ),
    case(
        "training-item",
        Python("training"),
        "item",
        &[comes_and_goes("site_forward")],
    ),
    case(
        "registry-remove",
        Python("registry"),
        "remove",
        &[comes_and_goes("site_session")],
    ),
    case(
        "collected",
        Python("collected"),
        "",
        &[comes_and_goes("site_payload")],
    ),
    // Load that changes, collectors, and caches of other kinds.
    case("ramp-up", C("load"), "ramp", &[turns_over("site_connection")]),
    case(
        "higher-plateau",
        C("load"),
        "step",
        &[turns_over("site_connection")],
    ),
    case(
        "three-tides",
        C("load"),
        "tides",
        &[comes_and_goes("site_connection")],
    ),
    case("idle-pool", C("idle_pool"), "", &[turns_over("site_connection")]),
    case("collector", C("collector"), "", &[comes_and_goes("site_object")]),
    case(
        "two-maps",
        C("caches"),
        "generations",
        &[turns_over("site_entry")],
    ),
    case("lfu", C("caches"), "frequent", &[turns_over("site_entry")]),
    case("rows-lazy", C("caches"), "lazy", &[done("site_entry")]),
    case("frames", C("frames"), "", &[comes_and_goes("site_frame")]),
    case("free-list", C("free_list"), "", &[done("site_object")]),
    case("append-flushed", C("append"), "flushed", &[done("site_append")]),
    case(
        "consumer-restarts",
        Cpp("consumer"),
        "restarts",
        // When the queue is empty, only the array of its blocks is left.
        &[label("site_push", &[Churn, Plateau, OneOff]).since("full")],
    ),
    case(
        "chunks-expire",
        Cpp("pinned"),
        "expires",
        &[turns_over("site_chunk")],
    ),
    case(
        "weak-pruned",
        Cpp("weak"),
        "pruned",
        &[comes_and_goes("site_view")],
    ),
    case(
        "pending-swept",
        Rust("pending"),
        "swept",
        &[comes_and_goes("site_request")],
    ),
    case(
        "observers-weak",
        Python("observers"),
        "weak",
        &[comes_and_goes("site_text")],
    ),
    case(
        "window",
        Python("pipeline"),
        "window",
        &[turns_over("site_chunk")],
    ),
    // What is made once.
    case(
        "tables",
        C("start_up"),
        "tables",
        &[
            label("site_table", &[OneOff]).since("full"),
            label("site_request", &[Churn]),
        ],
    ),
    case(
        "lazy",
        C("start_up"),
        "lazy",
        &[
            label("site_table", &[OneOff, Plateau]).since("full"),
            label("site_request", &[Churn]),
        ],
    ),
    case(
        "warm-up",
        C("start_up"),
        "late",
        &[
            label("site_table", &[Plateau]).since("full"),
            label("site_request", &[Churn]),
        ],
    ),
    case(
        "stops",
        C("start_up"),
        "stops",
        &[done("site_table"), label("site_request", &[Churn])],
    ),
    case("vector-done", Rust("vector"), "done", &[done("site_push")]),
    case("intern-names", C("intern"), "names", &[done("site_intern")]),
    case(
        "coercion-fixed",
        Python("coercion"),
        "fixed",
        &[done("site_plan")],
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::process::workspace;

    #[test]
    fn the_table_is_one_that_can_be_run_and_scored() {
        let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len(), "names are unique");
        assert!(CASES.len() >= 44);
        for case in CASES {
            let file = match case.source {
                C(name) | Gpu(name) => format!("c/{name}.c"),
                Cpp(name) => format!("cpp/{name}.cpp"),
                Rust(name) => format!("rust/{name}.rs"),
                Python(name) => format!("python/{name}.py"),
            };
            let text = std::fs::read_to_string(workspace().join("tests/corpus").join(&file)).expect(&file);
            for label in case.labels {
                assert!(text.contains(label.site), "{}: {}", case.name, label.site);
                assert!(
                    label.fair == [Growing] || !label.fair.contains(&Growing),
                    "{}: what grows is nothing else",
                    case.name
                );
            }
            for event in case
                .labels
                .iter()
                .filter_map(|label| label.since)
                .chain(case.late)
            {
                assert!(text.contains(&format!("\"{event}\"")), "{}: {event}", case.name);
            }
            assert!(
                case.variant.is_empty() || text.contains(case.variant),
                "{}",
                case.name
            );
        }
    }
}
