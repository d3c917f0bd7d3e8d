//! Cells and sentences of the text: numbers in words.

use leaktrace_common::call::Space;

use super::clean;
use crate::report::{
    model::{
        BySpace, Container, Filters, Members, Process, Report, Sampled, State, Survivor, Target, Totals,
    },
    units::{count, counted, duration_ms, growth, percent, size, size_f64, size_range},
};

pub(super) fn numbers(rank: usize, survivor: &Survivor) -> [String; 8] {
    [
        rank.to_string(),
        size(survivor.bytes),
        count(survivor.blocks),
        size_f64(survivor.mean_bytes),
        growth(survivor.bytes_per_s),
        duration_ms(survivor.age_ms.min),
        duration_ms(survivor.age_ms.p50),
        duration_ms(survivor.age_ms.max),
    ]
}

/// The range of an estimate, and what it rests on.
pub(super) fn rests_on(sampled: &Sampled) -> String {
    format!(
        "{}, from {}",
        size_range(sampled.bytes_interval),
        counted(sampled.samples, "sample")
    )
}

/// What the number would be if the site did the same while its function was paused. Nothing follows from less
/// than a thousandth of the time.
pub(super) fn in_all(bytes: u64, seen_share: f64) -> Option<String> {
    (seen_share >= 1e-3 && bytes > 0).then(|| {
        format!(
            "seen {} of the time: about {} if it does the same in the rest",
            percent(seen_share),
            size_f64(bytes as f64 / seen_share)
        )
    })
}

/// How many of its blocks were freed, and how soon.
pub(super) fn lived(survivor: &Survivor) -> Option<String> {
    let lifetime = survivor.lifetime_ms.as_ref()?;
    let within = if lifetime.p50 < 1.0 {
        format!("{:.0} µs", lifetime.p50 * 1e3)
    } else {
        duration_ms(lifetime.p50.ceil() as u64)
    };
    let (frees, allocs) = (count(survivor.frees), counted(survivor.allocs, "block"));
    Some(format!("{frees} of {allocs} freed, half within {within}"))
}

/// What a block's weight means.
pub(super) fn stands_for(weight: f64) -> String {
    format!(", stands for {weight:.1}")
}

/// What is outstanding of each kind of memory, where it is of more than one.
pub(super) fn by_space(totals: &BySpace) -> Option<String> {
    let kinds = [
        ("heap", totals.of(Space::Heap)),
        ("custom", totals.of(Space::Custom)),
        ("python arenas", totals.of(Space::PythonArena)),
    ];
    let mut parts: Vec<String> = kinds
        .iter()
        .filter(|(_, held)| held.live_blocks > 0)
        .map(|(name, held)| format!("{name} {}", size(held.live_bytes)))
        .collect();
    let pools = totals.of(Space::PythonPool);
    if pools.live_blocks > 0 {
        parts.push(format!("in their pools {}", size(pools.live_bytes)));
    }
    (parts.len() > 1).then(|| parts.join(", "))
}

/// Why there is no site to show.
pub(super) fn nothing(report: &Report) -> String {
    let Totals {
        live_blocks,
        live_bytes,
        allocs,
        ..
    } = report.totals;
    let filters = &report.tracing.filters;
    match () {
        () if report.tracing.sampling.is_some() && allocs == 0 => {
            "no allocation was sampled since the attach".to_owned()
        }
        () if report.tracing.sampling.is_some() && live_blocks == 0 => {
            "no sample is outstanding: every sampled block was freed".to_owned()
        }
        () if live_blocks == 0 && allocs == 0 => {
            "nothing outstanding: no allocation was seen since the attach".to_owned()
        }
        () if live_blocks == 0 => {
            "nothing outstanding: every block handed out since the attach was freed".to_owned()
        }
        () if filters.top == 0 => "no site is listed (--top 0)".to_owned(),
        () if is_suppressed(report) => "no site but what is suppressed".to_owned(),
        () if filters.older_than_ms > 0 => format!(
            "nothing outstanding is older than {}: the {} in {} are younger",
            duration_ms(filters.older_than_ms),
            size(live_bytes),
            counted(live_blocks, "block"),
        ),
        () => format!(
            "no site holds the {} in {}",
            size(live_bytes),
            counted(live_blocks, "block")
        ),
    }
}

/// Whether suppressions have left out anything.
pub(super) fn is_suppressed(report: &Report) -> bool {
    report.suppressed.iter().any(|one| !one.is_unused())
}

/// Resident memory, to hold the outstanding bytes against.
pub(super) fn resident(report: &Report) -> String {
    if let Some(bytes) = report.totals.rss_bytes {
        return format!("RSS {}", size(bytes));
    }
    match report
        .target
        .processes
        .iter()
        .filter_map(|process| process.rss_bytes)
        .sum()
    {
        0 => "RSS unknown".to_owned(),
        last => format!("RSS {} when last seen", size(last)),
    }
}

pub(super) fn filters(filters: &Filters) -> String {
    let mut parts = Vec::new();
    if filters.older_than_ms > 0 {
        parts.push(format!("older than {}", duration_ms(filters.older_than_ms)));
    }
    if filters.min_size_bytes > 0 {
        parts.push(format!("of at least {}", size(filters.min_size_bytes)));
    }
    if let Some(max) = filters.max_size_bytes {
        parts.push(format!("of at most {}", size(max)));
    }
    parts.join(", ")
}

/// Name and pid, with the pid that the process itself sees where that is another, and its container.
pub(in crate::report) fn process_name(
    comm: &str,
    pid: u32,
    inner: Option<u32>,
    container: Option<&str>,
) -> String {
    let comm = clean(comm);
    match (inner, container) {
        (None, None) => format!("{comm} ({pid})"),
        (None, Some(container)) => format!("{comm} ({pid}) in {}", clean(container)),
        (Some(inner), None) => format!("{comm} ({pid}, {inner} inside)"),
        (Some(inner), Some(container)) => format!("{comm} ({pid}, {inner} in {})", clean(container)),
    }
}

/// The same of a listed process.
pub(super) fn name_of(process: &Process) -> String {
    let container = process.container.as_ref().map(Container::short);
    process_name(&process.comm, process.pid, process.inner_pid, container)
}

/// Whose a site is.
pub(super) fn owner(survivor: &Survivor) -> String {
    let container = survivor.container.as_deref();
    let name = process_name(&survivor.comm, survivor.pid, survivor.inner_pid, container);
    match survivor.processes {
        0 | 1 => name,
        many => format!("{} processes, most in {name}", count(many)),
    }
}

/// How many processes there are and were, where the list is not all of it.
pub(super) fn members(target: &Target) -> Option<String> {
    let Members {
        running,
        joined,
        ended,
        with_blocks,
    } = target.members;
    let is_all = target.selection.is_none() && joined <= target.processes.len() as u64;
    (!is_all).then(|| {
        format!(
            "{} run, {} of {} have ended; outstanding blocks in {}",
            count(running),
            count(ended),
            count(joined),
            count(with_blocks)
        )
    })
}

/// What became of the process.
pub(super) fn ending(process: &Process) -> String {
    let exit = process.exit.map(|exit| (exit.code, exit.signal));
    match (process.state, exit) {
        (State::Running, _) => String::new(),
        (State::Replaced, _) => " until its exec".to_owned(),
        (State::Exited, Some((_, Some(signal)))) => format!(" ended by signal {signal}"),
        (State::Exited, Some((Some(code), None))) => format!(" exited with status {code}"),
        (State::Exited, Some((None, None)) | None) => " exited".to_owned(),
    }
}
