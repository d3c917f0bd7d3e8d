//! The report as text, for a person: totals, the sites, what is not shown, warnings, the ledger.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
};

use super::{
    Renderer,
    frames::{self, columns, elide},
    ledger::{self, Line},
    model::{BySpace, Filters, Process, Report, Sampled, State, Survivor, Totals},
    style::{Ink, Style},
    units::{count, counted, duration_ms, duration_s, growth, percent, rate, size, size_f64, size_range},
};

/// The text format.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// Whether to colour.
    pub color: bool,
    /// Columns to stay within by shortening names; `None` shows all, as for a file or a pipe.
    pub width: Option<usize>,
}

impl Renderer for Text {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let mut page = Page {
            out,
            style: Style { color: self.color },
            width: self.width,
        };
        page.header(report)?;
        page.sites(report)?;
        page.omitted(report)?;
        page.skipped(report)?;
        page.warnings(&report.warnings)?;
        page.stacks(report)?;
        page.ledger(&report.ledger)
    }
}

/// Rows of the list of processes and of the list of functions not probed.
const LIST_MAX: usize = 8;
/// Columns of running text where no terminal sets a limit.
const PROSE_WIDTH: usize = 100;
/// Columns up to which the locations of a stack are aligned where no terminal sets a limit.
const NAME_WIDTH: usize = 60;
/// Indentation of all that belongs to a site.
const INDENT: &str = "       ";

struct Page<'a> {
    out: &'a mut dyn Write,
    style: Style,
    width: Option<usize>,
}

impl Page<'_> {
    fn header(&mut self, report: &Report) -> io::Result<()> {
        let title = match report.target.processes.as_slice() {
            [] => "no process".to_owned(),
            [process] => format!("{}{}", process_name(&process.comm, process.pid), ending(process)),
            processes => format!("{} processes", processes.len()),
        };
        let number = match (report.sequence, report.last) {
            (1, true) => String::new(),
            (number, false) => format!("  report {number}"),
            (number, true) => format!("  report {number}, the last"),
        };
        let elapsed = duration_s(report.elapsed_s);
        let title = self.style.paint(Ink::Strong, title);
        let number = self.style.paint(Ink::Faint, number);
        writeln!(self.out, "{title}, traced for {elapsed}{number}")?;
        if let Some(command) = &report.target.command {
            let line = command
                .iter()
                .map(|word| clean(word))
                .collect::<Vec<_>>()
                .join(" ");
            let line = self
                .width
                .map_or(line.clone(), |width| elide(&line, width.saturating_sub(15)));
            writeln!(self.out, "  command      {line}")?;
        }
        self.totals(report)?;
        if let Some(sampling) = report.tracing.sampling {
            let mean = size(sampling.mean_bytes);
            writeln!(
                self.out,
                "  sampling     every {mean} per thread: numbers are estimates, ranges are 95 %"
            )?;
        }
        report.overhead.write_text(self.out)?;
        let filters = filters(&report.tracing.filters);
        if !filters.is_empty() {
            writeln!(self.out, "  counted are  blocks {filters}")?;
        }
        if report.target.processes.len() > 1 {
            self.processes(&report.target.processes)?;
        }
        writeln!(self.out)
    }

    fn totals(&mut self, report: &Report) -> io::Result<()> {
        let totals = &report.totals;
        let change = growth(totals.live_bytes_per_s);
        let rate = rate(totals.alloc_bytes_per_s);
        let rows = [
            (
                "outstanding",
                totals.live_bytes,
                totals.live_blocks,
                change,
                resident(report),
            ),
            (
                "allocated",
                totals.alloc_bytes,
                totals.allocs,
                rate,
                format!("{} blocks/s", count(totals.allocs_per_s.round().max(0.0) as u64)),
            ),
            (
                "freed",
                totals.freed_bytes,
                totals.frees,
                String::new(),
                String::new(),
            ),
        ];
        let rows: Vec<[String; 5]> = rows
            .into_iter()
            .map(|(name, bytes, blocks, speed, more)| {
                [
                    name.to_owned(),
                    size(bytes),
                    format!("in {}", counted(blocks, "block")),
                    speed,
                    more,
                ]
            })
            .collect();
        let widths = column_widths(&rows);
        for [name, bytes, blocks, speed, more] in &rows {
            let [_, w_bytes, w_blocks, w_speed, _] = widths;
            let bytes = format!("{bytes:>w_bytes$} {blocks:<w_blocks$}");
            let bytes = if name == "outstanding" {
                self.style.paint(Ink::Strong, bytes).to_string()
            } else {
                bytes
            };
            let line = format!("  {name:<11}  {bytes}  {speed:>w_speed$}  {more}");
            writeln!(self.out, "{}", line.trim_end())?;
            if let Some(sampled) = totals.sampled.filter(|_| name == "outstanding") {
                writeln!(self.out, "    range      {}", rests_on(&sampled))?;
            }
        }
        match by_space(&totals.by_space) {
            Some(line) => writeln!(self.out, "  of that      {line}"),
            None => Ok(()),
        }
    }

    fn processes(&mut self, processes: &[Process]) -> io::Result<()> {
        let mut processes: Vec<&Process> = processes.iter().collect();
        processes.sort_by(|a, b| b.live_bytes.cmp(&a.live_bytes).then(a.pid.cmp(&b.pid)));
        let shown = &processes[..processes.len().min(LIST_MAX)];
        let rows: Vec<[String; 4]> = shown
            .iter()
            .map(|process| {
                [
                    format!("{}{}", process_name(&process.comm, process.pid), ending(process)),
                    size(process.live_bytes),
                    format!("in {}", counted(process.live_blocks, "block")),
                    process
                        .rss_bytes
                        .map_or_else(|| "RSS unknown".to_owned(), |rss| format!("RSS {}", size(rss))),
                ]
            })
            .collect();
        let [w_name, w_bytes, w_blocks, _] = column_widths(&rows);
        for [name, bytes, blocks, rss] in &rows {
            writeln!(
                self.out,
                "  {name:<w_name$}  {bytes:>w_bytes$} {blocks:<w_blocks$}  {rss}"
            )?;
        }
        let hidden = &processes[shown.len()..];
        if !hidden.is_empty() {
            let bytes = size(hidden.iter().map(|process| process.live_bytes).sum());
            writeln!(self.out, "  and {} more with {bytes}", count(hidden.len() as u64))?;
        }
        Ok(())
    }

    fn sites(&mut self, report: &Report) -> io::Result<()> {
        if report.survivors.is_empty() {
            let sentence = nothing(report);
            let ink = if report.totals.live_blocks == 0 {
                Ink::Good
            } else {
                Ink::Strong
            };
            return writeln!(self.out, "{}\n", self.style.paint(ink, sentence));
        }
        let heads = [
            "#", "bytes", "blocks", "mean", "growth", "youngest", "median", "oldest",
        ]
        .map(str::to_owned);
        let mut rows = vec![heads];
        rows.extend(
            report
                .survivors
                .iter()
                .enumerate()
                .map(|(index, survivor)| numbers(index + 1, survivor)),
        );
        let widths = column_widths(&rows);
        let mut lines = rows.iter().map(|row| aligned(row, widths));
        if let Some(heads) = lines.next() {
            writeln!(self.out, "{}", self.style.paint(Ink::Faint, heads))?;
        }
        for (line, survivor) in lines.zip(&report.survivors) {
            writeln!(self.out, "{}", self.style.paint(Ink::Strong, line))?;
            if let Some(sampled) = &survivor.sampled {
                writeln!(self.out, "{INDENT}{}", rests_on(sampled))?;
            }
            if let Some(line) = survivor
                .seen_share
                .and_then(|share| in_all(survivor.bytes, share))
            {
                writeln!(self.out, "{INDENT}{line}")?;
            }
            self.origin(survivor)?;
            stack::write(self.out, frames::callers(survivor), self.width, self.style)?;
            self.blocks(survivor)?;
            writeln!(self.out)?;
        }
        Ok(())
    }

    fn origin(&mut self, survivor: &Survivor) -> io::Result<()> {
        let space = if survivor.space == "heap" {
            String::new()
        } else {
            format!(" ({} memory)", clean(&survivor.space))
        };
        let call = clean(&survivor.call);
        let process = process_name(&survivor.comm, survivor.pid);
        write!(self.out, "{INDENT}{call}{space} in {process}")?;
        match survivor.state {
            State::Running => writeln!(self.out),
            State::Exited => writeln!(self.out, ", {}", self.style.paint(Ink::Warn, "live at exit")),
            State::Replaced => writeln!(self.out, ", {}", self.style.paint(Ink::Warn, "live at exec")),
        }
    }

    fn blocks(&mut self, survivor: &Survivor) -> io::Result<()> {
        let Some(blocks) = &survivor.block_list else {
            return Ok(());
        };
        let rows: Vec<[String; 4]> = blocks
            .iter()
            .map(|block| {
                [
                    block.address.clone(),
                    size(block.bytes),
                    duration_ms(block.age_ms),
                    block.weight.map_or_else(String::new, stands_for),
                ]
            })
            .collect();
        let [w_address, w_bytes, w_age, _] = column_widths(&rows);
        for [address, bytes, age, weight] in &rows {
            writeln!(
                self.out,
                "{INDENT}block {address:<w_address$}  {bytes:>w_bytes$}  {age:>w_age$} old{weight}"
            )?;
        }
        Ok(())
    }

    fn omitted(&mut self, report: &Report) -> io::Result<()> {
        let omitted = &report.omitted;
        if omitted.sites == 0 && omitted.blocks == 0 {
            return Ok(());
        }
        let filters = &report.tracing.filters;
        let mut options = vec![format!("--top {}", filters.top)];
        if filters.older_than_ms > 0 {
            options.push(format!("--older-than {}", duration_ms(filters.older_than_ms)));
        }
        writeln!(
            self.out,
            "not shown: {} with {} in {} ({})\n",
            counted(omitted.sites, "site"),
            size(omitted.bytes),
            counted(omitted.blocks, "block"),
            options.join(", "),
        )
    }

    fn skipped(&mut self, report: &Report) -> io::Result<()> {
        let skipped = &report.tracing.skipped;
        for site in skipped.iter().take(LIST_MAX) {
            let line = format!(
                "not probed: {} in {}: {}",
                site.function,
                frames::base_name(&site.object),
                site.reason
            );
            self.prose(Ink::Faint, &line)?;
        }
        if skipped.len() > LIST_MAX {
            let line = format!(
                "not probed: {} more, all listed by --format json",
                skipped.len() - LIST_MAX
            );
            self.prose(Ink::Faint, &line)?;
        }
        if skipped.is_empty() {
            Ok(())
        } else {
            writeln!(self.out)
        }
    }

    fn warnings(&mut self, warnings: &[String]) -> io::Result<()> {
        for warning in warnings {
            self.prose(Ink::Warn, &format!("warning: {warning}"))?;
        }
        if warnings.is_empty() {
            Ok(())
        } else {
            writeln!(self.out)
        }
    }

    fn stacks(&mut self, report: &Report) -> io::Result<()> {
        for line in report.stacks.lines() {
            self.prose(Ink::Faint, &line)?;
        }
        Ok(())
    }

    fn ledger(&mut self, ledger: &BTreeMap<&'static str, u64>) -> io::Result<()> {
        let entries = ordered(ledger);
        let losses: Vec<_> = entries.iter().filter(|entry| entry.lost()).collect();
        let verdict = match losses.len() {
            0 => self.style.paint(Ink::Good, "nothing lost".to_owned()),
            _ => self
                .style
                .paint(Ink::Bad, "the report misses something, see LOST below".to_owned()),
        };
        writeln!(self.out, "ledger: {verdict}")?;
        self.grid(&entries)?;
        for entry in losses {
            let line = format!(
                "LOST {} {}: {}",
                entry.line.name,
                count(entry.number),
                entry.line.help
            );
            self.prose(Ink::Bad, &line)?;
        }
        Ok(())
    }

    fn grid(&mut self, entries: &[Entry]) -> io::Result<()> {
        let w_name = entries
            .iter()
            .map(|entry| entry.line.name.len())
            .max()
            .unwrap_or(0);
        let w_number = entries
            .iter()
            .map(|entry| count(entry.number).len())
            .max()
            .unwrap_or(0);
        let cell = w_name + w_number + 4; // a space within, three between
        let per_row = (self.prose_width() / cell).max(1);
        // Down the columns, as a table of contents reads.
        let height = entries.len().div_ceil(per_row).max(1);
        for row in 0..height {
            for (column, entry) in entries.iter().skip(row).step_by(height).enumerate() {
                let text = format!("{:<w_name$} {:>w_number$}", entry.line.name, count(entry.number));
                let text = match entry {
                    entry if entry.lost() => self.style.paint(Ink::Bad, text).to_string(),
                    Entry { number: 0, .. } => self.style.paint(Ink::Faint, text).to_string(),
                    _ => text,
                };
                write!(self.out, "{}{text}", if column == 0 { "  " } else { "   " })?;
            }
            writeln!(self.out)?;
        }
        Ok(())
    }

    fn prose_width(&self) -> usize {
        self.width
            .map_or(PROSE_WIDTH, |width| width.clamp(40, PROSE_WIDTH))
    }

    /// Running text, wrapped at words, in lines of their own.
    fn prose(&mut self, ink: Ink, text: &str) -> io::Result<()> {
        let text = clean(text);
        let width = self.prose_width();
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.trim().is_empty() && columns(&line) + 1 + columns(word) > width {
                writeln!(self.out, "{}", self.style.paint(ink, &line))?;
                " ".clone_into(&mut line);
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        writeln!(self.out, "{}", self.style.paint(ink, &line))
    }
}

/// A line of the ledger with its number.
struct Entry {
    line: Line,
    number: u64,
}

impl Entry {
    const fn lost(&self) -> bool {
        self.number > 0 && self.line.is_loss
    }
}

/// In the ledger's order.
fn ordered(ledger: &BTreeMap<&'static str, u64>) -> Vec<Entry> {
    ledger::lines()
        .filter_map(|line| {
            Some(Entry {
                line,
                number: *ledger.get(line.name)?,
            })
        })
        .collect()
}

fn numbers(rank: usize, survivor: &Survivor) -> [String; 8] {
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
fn rests_on(sampled: &Sampled) -> String {
    format!(
        "{}, from {}",
        size_range(sampled.bytes_interval),
        counted(sampled.samples, "sample")
    )
}

/// What the number would be if the site did the same while its function was paused. Nothing follows from less
/// than a thousandth of the time.
fn in_all(bytes: u64, seen_share: f64) -> Option<String> {
    (seen_share >= 1e-3 && bytes > 0).then(|| {
        format!(
            "seen {} of the time: about {} if it does the same in the rest",
            percent(seen_share),
            size_f64(bytes as f64 / seen_share)
        )
    })
}

/// What a block's weight means.
fn stands_for(weight: f64) -> String {
    format!(", stands for {weight:.1}")
}

/// Cells to the right of their columns; the rank's column reaches to the indentation.
fn aligned(cells: &[String; 8], widths: [usize; 8]) -> String {
    cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("  {cell:>width$}"))
        .collect::<Vec<_>>()
        .concat()
}

fn column_widths<const N: usize>(rows: &[[String; N]]) -> [usize; N] {
    std::array::from_fn(|column| rows.iter().map(|row| columns(&row[column])).max().unwrap_or(0))
}

/// What is outstanding of each kind of memory, where it is of more than one.
fn by_space(totals: &BySpace) -> Option<String> {
    let kinds = [
        ("heap", totals.heap),
        ("custom", totals.custom),
        ("python arenas", totals.python_arena),
    ];
    let mut parts: Vec<String> = kinds
        .iter()
        .filter(|(_, held)| held.live_blocks > 0)
        .map(|(name, held)| format!("{name} {}", size(held.live_bytes)))
        .collect();
    let pools = totals.python_pool;
    if pools.live_blocks > 0 {
        parts.push(format!("in their pools {}", size(pools.live_bytes)));
    }
    (parts.len() > 1).then(|| parts.join(", "))
}

/// Why there is no site to show.
fn nothing(report: &Report) -> String {
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

/// Resident memory, to hold the outstanding bytes against.
fn resident(report: &Report) -> String {
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

fn filters(filters: &Filters) -> String {
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

fn process_name(comm: &str, pid: u32) -> String {
    format!("{} ({pid})", clean(comm))
}

/// What became of the process.
fn ending(process: &Process) -> String {
    let exit = process.exit.map(|exit| (exit.code, exit.signal));
    match (process.state, exit) {
        (State::Running, _) => String::new(),
        (State::Replaced, _) => " until its exec".to_owned(),
        (State::Exited, Some((_, Some(signal)))) => format!(" ended by signal {signal}"),
        (State::Exited, Some((Some(code), None))) => format!(" exited with status {code}"),
        (State::Exited, Some((None, None)) | None) => " exited".to_owned(),
    }
}

/// Names come from the traced program, which must not steer the terminal of the one who looks at it.
fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        Cow::Owned(text.replace(char::is_control, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

mod stack;
#[cfg(test)]
mod tests;
