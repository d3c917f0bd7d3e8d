//! What a process pays that is no target, and what one pays that is: pairs of malloc and free in two processes that map
//! the same C library, of which one is chosen and the other left out. In turn without a tracer, with probes of the target's
//! own, and with probes for all; ratios are of one round.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    super::{
        stats,
        workload::{Target, Workload},
    },
    run::Run,
};

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Setup {
    Untraced,
    /// Probes of the target's own.
    Process,
    /// Probes for all that map the file.
    Host,
}

impl Setup {
    const ALL: [Self; 3] = [Self::Untraced, Self::Process, Self::Host];

    const fn name(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::Process => "probes of the target's own (`--scope process`)",
            Self::Host => "probes for all (`--scope host`)",
        }
    }

    const fn scope(self) -> Option<&'static str> {
        match self {
            Self::Untraced => None,
            Self::Process => Some("process"),
            Self::Host => Some("host"),
        }
    }
}

/// What was seen of one setup, a value a round.
#[derive(Default)]
struct Row {
    outside_ns: Vec<Option<f64>>,
    inside_ns: Vec<Option<f64>>,
    /// Instructions of the outsider that are breakpoints, the most of all rounds.
    breakpoints: usize,
    /// Calls that the kernel side turned away, of the outsider and of everybody else on the machine.
    turned_away: Vec<f64>,
}

pub(super) fn measure(directory: &Path, leaktrace: &Path, rounds: u16, quick: bool) -> Result<String> {
    let batch = Duration::from_millis(if quick { 60 } else { 400 });
    let workload = Workload::Pairs { threads: 1 };
    let mut inside = workload.start(directory, &[])?;
    let mut outside = workload.start(directory, &[])?;
    let mut rows: BTreeMap<Setup, Row> = BTreeMap::new();
    for round in 0..usize::from(rounds) {
        for place in 0..Setup::ALL.len() {
            let setup = Setup::ALL[(place + round) % Setup::ALL.len()];
            let row = rows.entry(setup).or_default();
            one(setup, leaktrace, directory, batch, &mut inside, &mut outside, row)?;
        }
        eprintln!("host: round {} of {rounds}", round + 1);
    }
    Ok(table(&rows, rounds, batch))
}

fn one(
    setup: Setup,
    leaktrace: &Path,
    directory: &Path,
    batch: Duration,
    inside: &mut Target,
    outside: &mut Target,
    row: &mut Row,
) -> Result<()> {
    let left_out = format!("pid={}", outside.pid);
    let run = setup.scope().map(|scope| {
        let options = [
            "--comm",
            "pairs",
            "--exclude",
            &left_out,
            "--scope",
            scope,
            "-i",
            "0",
        ];
        Run::start(leaktrace, directory, &options, "leaktrace: tracing")
    });
    let run = run.transpose()?;
    for target in [&mut *inside, &mut *outside] {
        target.batch(batch / 4)?;
    }
    row.breakpoints = row.breakpoints.max(breakpoints(outside)?);
    let seen = inside.batch(batch)?;
    row.inside_ns.push(Some(seen.cpu_ns_per_unit()));
    let unseen = outside.batch(batch)?;
    row.outside_ns.push(Some(unseen.cpu_ns_per_unit()));
    if let Some(run) = run {
        let report = run.end()?.report;
        let allocs = report["totals"]["allocs"].as_u64().context("no totals.allocs")?;
        // Of samples the total is an estimate, far less than half off.
        ensure!(
            allocs > seen.units / 2,
            "the target did {} pairs, and {allocs} were seen",
            seen.units
        );
        let turned_away = report["ledger"]["outside"]
            .as_u64()
            .context("no ledger.outside")?;
        row.turned_away.push(turned_away as f64);
    }
    Ok(())
}

/// How many bytes of a process's allocator are not those of its file: instructions that trap.
fn breakpoints(target: &Target) -> Result<usize> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", target.pid)).context("the target has ended")?;
    let memory = File::open(format!("/proc/{}/mem", target.pid)).context("the target has ended")?;
    let file = fs::read(&target.allocator).context("cannot read the allocator")?;
    let name = target.allocator.display().to_string();
    let mut differ = 0;
    for line in maps
        .lines()
        .filter(|line| line.ends_with(&name) && line.contains(" r-xp "))
    {
        let mut words = line.split_ascii_whitespace();
        let (range, offset) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
        let (start, end) = range.split_once('-').context("no range")?;
        let number = |text| u64::from_str_radix(text, 16).context("no number");
        let (start, end, offset) = (number(start)?, number(end)?, number(offset)? as usize);
        let mut code = vec![0; (end - start) as usize];
        memory
            .read_exact_at(&mut code, start)
            .context("cannot read the target")?;
        let same = file.get(offset..).unwrap_or_default();
        differ += code
            .iter()
            .zip(same)
            .filter(|(here, there)| here != there)
            .count();
    }
    Ok(differ)
}

fn table(rows: &BTreeMap<Setup, Row>, rounds: u16, batch: Duration) -> String {
    let mut text = format!(
        "Two processes of malloc/free pairs, 64 to 575 bytes, one C library; one is traced (a sample each 512 KiB), \
         the other is none of the targets. Calls turned away are of all that are no targets, on \
         the whole machine. Medians of {rounds} rounds of {} ms, and the range of all of them.\n\n\
         | setup | others: ns a pair | ratio | breakpoints in them | calls turned away | \
         targets: ns a pair | ratio |\n|---|---:|---:|---:|---:|---:|---:|\n",
        batch.as_millis()
    );
    let untraced = rows.get(&Setup::Untraced);
    for (setup, row) in rows {
        let median = |values: &[Option<f64>]| {
            let summary = stats::summary(values.iter().flatten().copied());
            summary.map_or_else(|| "-".to_owned(), |summary| format!("{:.0}", summary.median))
        };
        let ratio = |of: &[Option<f64>], to: Option<&Vec<Option<f64>>>| {
            let ratio = to.and_then(|to| stats::ratio(of, to));
            ratio.map_or_else(
                || "-".to_owned(),
                |ratio| format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max),
            )
        };
        let turned_away = stats::summary(row.turned_away.iter().copied());
        let turned_away =
            turned_away.map_or_else(|| "-".to_owned(), |summary| format!("{:.0}", summary.median));
        // Writing to a string cannot fail.
        let _written = writeln!(
            text,
            "| {} | {} | {} | {} | {turned_away} | {} | {} |",
            setup.name(),
            median(&row.outside_ns),
            ratio(&row.outside_ns, untraced.map(|row| &row.outside_ns)),
            row.breakpoints,
            median(&row.inside_ns),
            ratio(&row.inside_ns, untraced.map(|row| &row.inside_ns)),
        );
    }
    text
}
