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
    model::{Frame, Process, Report, State, Survivor, Target},
    style::{Ink, Style},
    units::{count, counted, duration_ms, duration_s, growth, rate, size},
    verdict::{Class, Verdict},
};
pub use gate::findings;
use words::{
    by_space, ending, filters, in_all, lived, members, name_of, nothing, numbers, owner, resident, rests_on,
    stands_for,
};

/// The text format.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// Whether to colour.
    pub color: bool,
    /// Columns to stay within by shortening names; `None` shows all, as for a file or a pipe.
    pub width: Option<usize>,
    /// Also the frames of an interpreter itself.
    pub native: bool,
}

impl Renderer for Text {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let mut page = Page {
            out,
            style: Style { color: self.color },
            width: self.width,
            native: self.native,
        };
        page.header(report)?;
        page.sites(report)?;
        page.omitted(report)?;
        page.mappings(report)?;
        page.suppressed(report)?;
        page.gate(report)?;
        if let Some(gpu) = &report.gpu {
            page.gpu_failures(gpu)?;
        }
        page.types(report)?;
        page.skipped(report)?;
        page.warnings(&report.warnings)?;
        page.stacks(report)?;
        page.ledger(report)
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
    native: bool,
}

impl Page<'_> {
    fn header(&mut self, report: &Report) -> io::Result<()> {
        let title = match report.target.processes.as_slice() {
            [] => "no process".to_owned(),
            [process] => format!("{}{}", name_of(process), ending(process)),
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
        if let Some(selection) = &report.target.selection {
            writeln!(self.out, "  selected by  {}", clean(&selection.join(" ")))?;
        }
        if let Some(line) = members(&report.target) {
            writeln!(self.out, "  processes    {line}")?;
        }
        self.totals(report)?;
        self.accounts(report)?;
        if let Some(gpu) = &report.gpu {
            self.gpu_header(gpu)?;
        }
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
            self.processes(&report.target)?;
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

    fn processes(&mut self, target: &Target) -> io::Result<()> {
        let mut processes: Vec<&Process> = target.processes.iter().collect();
        processes.sort_by(|a, b| b.live_bytes.cmp(&a.live_bytes).then(a.pid.cmp(&b.pid)));
        let shown = &processes[..processes.len().min(LIST_MAX)];
        let rows: Vec<[String; 4]> = shown
            .iter()
            .map(|process| {
                [
                    format!("{}{}", name_of(process), ending(process)),
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
        match target.forgotten.live_blocks {
            0 => Ok(()),
            blocks => writeln!(
                self.out,
                "  and processes that have ended with {} in {}",
                size(target.forgotten.live_bytes),
                counted(blocks, "block")
            ),
        }
    }

    fn sites(&mut self, report: &Report) -> io::Result<()> {
        // Titles only where there is more than one kind.
        if let Some(gpu) = report.gpu.as_ref().filter(|gpu| !gpu.spaces.is_empty()) {
            return self.gpu_tables(report, gpu);
        }
        if report.survivors.is_empty() {
            return self.nothing(report);
        }
        self.table(&report.survivors.iter().collect::<Vec<_>>())
    }

    fn nothing(&mut self, report: &Report) -> io::Result<()> {
        let ink = if report.totals.live_blocks == 0 {
            Ink::Good
        } else {
            Ink::Strong
        };
        writeln!(self.out, "{}\n", self.style.paint(ink, nothing(report)))
    }

    fn table(&mut self, survivors: &[&Survivor]) -> io::Result<()> {
        let heads = [
            "#", "bytes", "blocks", "mean", "growth", "youngest", "median", "oldest",
        ]
        .map(str::to_owned);
        let mut rows = vec![heads];
        rows.extend(
            survivors
                .iter()
                .enumerate()
                .map(|(index, survivor)| numbers(index + 1, survivor)),
        );
        let widths = column_widths(&rows);
        let mut lines = rows.iter().map(|row| aligned(row, widths));
        if let Some(heads) = lines.next() {
            writeln!(self.out, "{}", self.style.paint(Ink::Faint, heads))?;
        }
        // What is true of all of them is said once.
        let common = common_reason(survivors);
        if let Some(reason) = common {
            writeln!(self.out, "{INDENT}all {}: {reason}", Class::Undecided.name())?;
        }
        for (line, survivor) in lines.zip(survivors) {
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
            self.verdict(survivor.verdict.as_ref().filter(|_| common.is_none()))?;
            let frames = frames::shown(survivor, self.native);
            self.python_site(&frames)?;
            self.origin(survivor)?;
            stack::write(self.out, &frames, self.width, self.style)?;
            self.blocks(survivor)?;
            writeln!(self.out)?;
        }
        Ok(())
    }

    /// What a site is taken for, and why.
    fn verdict(&mut self, verdict: Option<&Verdict>) -> io::Result<()> {
        let Some(verdict) = verdict else { return Ok(()) };
        let ink = match verdict.class {
            Class::Growing => Ink::Bad,
            Class::Plateau | Class::OneOff | Class::Churn => Ink::Good,
            Class::Undecided => Ink::Faint,
        };
        let name = self.style.paint(ink, verdict.class.name());
        writeln!(self.out, "{INDENT}{name}: {}", verdict.reason)
    }

    /// The line of Python that the site is, if it is one: before all that lies below and around it.
    fn python_site(&mut self, frames: &[&Frame]) -> io::Result<()> {
        let Some(site) = frames::python_site(frames) else {
            return Ok(());
        };
        let site = clean(&site);
        let room = self.width.map(|width| width.saturating_sub(INDENT.len()).max(40));
        let site = room.map_or_else(|| site.to_string(), |room| elide(&site, room));
        writeln!(self.out, "{INDENT}{}", self.style.paint(Ink::Own, site))
    }

    fn origin(&mut self, survivor: &Survivor) -> io::Result<()> {
        let space = if survivor.space == "heap" {
            String::new()
        } else {
            gpu::place_of(survivor)
        };
        let call = clean(&survivor.call);
        let owner = owner(survivor);
        write!(self.out, "{INDENT}{call}{space} in {owner}")?;
        for remark in gpu::remarks(survivor).into_iter().chain(lived(survivor)) {
            write!(self.out, ", {remark}")?;
        }
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
        let filters = &report.tracing.filters;
        let mut options = vec![format!("--top {}", filters.top)];
        if filters.older_than_ms > 0 {
            options.push(format!("--older-than {}", duration_ms(filters.older_than_ms)));
        }
        let options = options.join(", ");
        self.gpu_omitted(report, &options)?;
        if omitted.sites == 0 && omitted.blocks == 0 {
            return Ok(());
        }
        writeln!(
            self.out,
            "not shown: {} with {} in {} ({options})\n",
            counted(omitted.sites, "site"),
            size(omitted.bytes),
            counted(omitted.blocks, "block"),
        )
    }

    fn types(&mut self, report: &Report) -> io::Result<()> {
        match &report.types {
            Some(types) => types::write(self.out, types, report.tracing.filters.top, self.style),
            None => Ok(()),
        }
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
        let interpreters = report.target.processes.iter();
        let without = interpreters.filter_map(|process| process.python.as_ref()?.line(process.pid));
        let lines = report.stacks.lines().into_iter();
        for line in lines.chain(without.take(LIST_MAX)).chain(self.hidden(report)) {
            self.prose(Ink::Faint, &line)?;
        }
        Ok(())
    }

    /// That an interpreter's frames were left out.
    fn hidden(&self, report: &Report) -> Option<String> {
        let frames = report.survivors.iter().flat_map(|survivor| &survivor.frames);
        let hidden = frames.filter(|frame| frame.plumbing).count() as u64;
        (hidden > 0 && !self.native).then(|| {
            format!(
                "python: {} of the interpreter not shown (--native)",
                counted(hidden, "frame")
            )
        })
    }

    fn ledger(&mut self, report: &Report) -> io::Result<()> {
        let mut entries = ordered(&report.ledger);
        entries.retain(|entry| entry.number > 0 || report.gpu.is_some() || !gpu::is_gpus(&entry.line));
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

/// Why nothing can be said of any of several sites, where that is the same.
fn common_reason<'a>(survivors: &[&'a Survivor]) -> Option<&'a str> {
    let mut reasons = survivors.iter().map(|survivor| {
        let verdict = survivor.verdict.as_ref()?;
        (verdict.class == Class::Undecided).then_some(verdict.reason.as_str())
    });
    let first = reasons.next()??;
    reasons.all(|reason| reason == Some(first)).then_some(first)
}

/// Cells to the right of their columns; the rank's column reaches to the indentation.
fn aligned<const N: usize>(cells: &[String; N], widths: [usize; N]) -> String {
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

/// Names come from the traced program, which must not steer the terminal of the one who looks at it.
fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        Cow::Owned(text.replace(char::is_control, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

mod account;
mod gate;
mod gpu;
mod stack;
#[cfg(test)]
mod tests;
mod types;
pub(super) mod words;
