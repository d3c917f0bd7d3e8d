//! The report of `leaktrace watch` as text: who grows, by whose hand, and what tracing has found.

use std::io::{self, Write};

use super::{
    frames::{self, columns, elide},
    model::{Container, Frame, Lang},
    style::{Ink, Style},
    text::words::process_name,
    units::{count, counted, duration_s, percent, size, size_change, size_range},
    watch::{Event, Grower, Report, Site, Traced},
};

/// Sites of traced processes that are shown of each; JSON has all.
const TRACED_SITES: usize = 3;

/// Frames that are shown of a stack.
const FRAMES_SHOWN: usize = 8;

/// Columns that a name has, however long the place is.
const NAME_LEAST: usize = 40;

/// Columns of a name where no terminal sets a limit.
const NAME_WIDTH: usize = 100;

/// Writes reports as text.
#[derive(Clone, Copy, Debug)]
pub struct WatchText {
    /// Whether to colour.
    pub color: bool,
    /// Columns to stay within; `None` for a file or a pipe.
    pub width: Option<usize>,
}

impl WatchText {
    /// Writes one report.
    ///
    /// # Errors
    /// Only those of `out`.
    pub fn render(self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let mut page = Page {
            out,
            style: Style { color: self.color },
            width: self.width.unwrap_or(NAME_WIDTH),
        };
        page.header(report)?;
        page.growers(report)?;
        for grower in report.growers.iter().filter(|grower| !grower.sites.is_empty()) {
            page.touched(grower)?;
        }
        for traced in report.traced.iter().filter(|traced| has_something(traced)) {
            page.traced(traced)?;
        }
        page.events(&report.events)?;
        page.warnings(&report.warnings)
    }
}

struct Page<'a> {
    out: &'a mut dyn Write,
    style: Style,
    width: usize,
}

impl Page<'_> {
    fn header(&mut self, report: &Report) -> io::Result<()> {
        let number = match (report.sequence, report.last) {
            (1, true) => String::new(),
            (number, false) => format!("  report {number}"),
            (number, true) => format!("  report {number}, the last"),
        };
        let title = counted_processes(report.processes.watched);
        let title = self.style.paint(Ink::Strong, title);
        let elapsed = duration_s(report.elapsed_s);
        let number = self.style.paint(Ink::Faint, number);
        writeln!(self.out, "{title}, watched for {elapsed}{number}")?;
        let courses = report.processes;
        writeln!(
            self.out,
            "  courses      {} growing, {} returning, {} flat, {} idle, over {}",
            count(courses.growing),
            count(courses.returning),
            count(courses.flat),
            count(courses.idle),
            duration_s(report.window_s)
        )?;
        if let Some(arming) = &report.arming {
            let armed = report.growers.iter().filter(|grower| grower.armed).count();
            writeln!(
                self.out,
                "  armed        {armed} of {} at most, by {}, for {} of their CPU time at most",
                arming.places,
                arming.condition,
                percent(arming.max_overhead)
            )?;
        }
        let own = report.own;
        write!(
            self.out,
            "  own CPU      {} of one CPU, {} in all",
            percent(own.cpu_share),
            duration_s(own.cpu_s)
        )?;
        if own.tracers_cpu_s > 0.0 {
            write!(self.out, ", and {} by tracers", duration_s(own.tracers_cpu_s))?;
        }
        writeln!(self.out)?;
        let faults = report.faults;
        writeln!(
            self.out,
            "  page faults  {} kept of those that grow, {} of files, {} lost",
            counted(faults.kept, "sample"),
            count(faults.of_files),
            count(faults.lost)
        )?;
        writeln!(self.out)
    }

    fn growers(&mut self, report: &Report) -> io::Result<()> {
        if report.growers.is_empty() {
            return writeln!(self.out, "  no process rises\n");
        }
        let in_containers = report.growers.iter().any(|grower| grower.container.is_some());
        let head = format!(
            "{:>9}  {:<15}  {:>10}  {:>10}  {:>11}  {:>8}  {:<16}  {}",
            "PID",
            "NAME",
            "RSS",
            "ANON",
            "GROWTH",
            "OVER",
            "COURSE",
            if in_containers { "CONTAINER" } else { "" }
        );
        writeln!(self.out, "{}", self.style.paint(Ink::Faint, head.trim_end()))?;
        for grower in &report.growers {
            let armed = if grower.armed { ", armed" } else { "" };
            let course = format!("{}{armed}", grower.course);
            let container = grower.container.as_ref().map_or("", Container::short);
            let row = format!(
                "{:>9}  {:<15}  {:>10}  {:>10}  {:>11}  {:>8}  {course:<16}  {}",
                grower.pid,
                clean(&grower.comm),
                size(grower.rss_bytes),
                size(grower.anon_bytes),
                size_change(grower.growth_bytes),
                duration_s(grower.over_s),
                clean(container)
            );
            writeln!(self.out, "{}", row.trim_end())?;
        }
        if report.omitted > 0 {
            writeln!(
                self.out,
                "  {} more rise; --top shows them",
                count(report.omitted)
            )?;
        }
        writeln!(self.out)
    }

    /// Which stacks first touched what a process holds more now.
    fn touched(&mut self, grower: &Grower) -> io::Result<()> {
        let container = grower.container.as_ref().map(Container::short);
        let title = process_name(&grower.comm, grower.pid, grower.inner_pid, container);
        let areas = grower.areas.iter().take(3);
        let areas: Vec<String> = areas
            .map(|area| format!("{} in {}", size(area.bytes), clean(&area.name)))
            .collect();
        writeln!(
            self.out,
            "{} first touched since it rises: {} by {}; {}",
            self.style.paint(Ink::Strong, title),
            size(grower.sampled_bytes),
            counted(grower.samples, "sample"),
            areas.join(", ")
        )?;
        for site in &grower.sites {
            self.site(site)?;
        }
        for call in &grower.calls {
            let count = self.style.paint(Ink::Faint, counted(call.count, "call"));
            writeln!(self.out, "  {:>10}  {count}", call.call)?;
            self.frames(&call.frames)?;
        }
        writeln!(self.out)
    }

    fn site(&mut self, site: &Site) -> io::Result<()> {
        writeln!(
            self.out,
            "  {:>10}  {}",
            size(site.bytes),
            self.style.paint(Ink::Faint, counted(site.samples, "sample"))
        )?;
        self.frames(&site.frames)
    }

    fn frames(&mut self, all: &[Frame]) -> io::Result<()> {
        let own = frames::innermost_user(all);
        for (index, frame) in all.iter().enumerate().take(FRAMES_SHOWN) {
            let place = frames::place(frame).unwrap_or_default();
            let room = self.width.saturating_sub(16 + columns(&place)).max(NAME_LEAST);
            let name = elide(&clean(&frames::name(frame)), room);
            if own == Some(index) {
                write!(self.out, "              {}", self.style.paint(Ink::Own, name))?;
            } else {
                write!(self.out, "              {name}")?;
            }
            writeln!(self.out, "  {}", self.style.paint(Ink::Faint, clean(&place)))?;
        }
        if all.len() > FRAMES_SHOWN {
            writeln!(self.out, "              {} more", all.len() - FRAMES_SHOWN)?;
        }
        Ok(())
    }

    /// What tracing has found in a process.
    fn traced(&mut self, traced: &Traced) -> io::Result<()> {
        let container = traced.container.as_ref().map(Container::short);
        let title = process_name(&traced.comm, traced.pid, traced.inner_pid, container);
        let title = self.style.paint(Ink::Strong, title);
        let state = if traced.armed { "traced" } else { "was traced" };
        let Some(report) = &traced.report else {
            return writeln!(self.out, "{title} is {state}; its first report is to come\n");
        };
        let number = |name: &str| report["totals"][name].as_u64().unwrap_or(0);
        writeln!(
            self.out,
            "{title} {state}: {} outstanding in {}{}, for {} of its CPU time at most",
            size(number("live_bytes")),
            counted(number("live_blocks"), "block"),
            rests_on(&report["totals"]),
            percent(traced.max_overhead)
        )?;
        let survivors = report["survivors"].as_array().map_or(&[][..], Vec::as_slice);
        for survivor in survivors.iter().take(TRACED_SITES) {
            writeln!(
                self.out,
                "  {:>10}  by {}{}",
                size(survivor["bytes"].as_u64().unwrap_or(0)),
                clean(survivor["call"].as_str().unwrap_or("?")),
                rests_on(survivor)
            )?;
            let frames = survivor["frames"].as_array().map_or(&[][..], Vec::as_slice);
            let frames: Vec<Frame> = frames.iter().map(frame).collect();
            self.frames(&frames)?;
        }
        writeln!(self.out)
    }

    fn events(&mut self, events: &[Event]) -> io::Result<()> {
        for event in events {
            writeln!(
                self.out,
                "  {:>8}  {} ({}) {}: {}",
                duration_s(event.at_s),
                clean(&event.comm),
                event.pid,
                event.what,
                event.why
            )?;
        }
        Ok(())
    }

    fn warnings(&mut self, warnings: &[String]) -> io::Result<()> {
        for warning in warnings {
            writeln!(self.out, "{} {warning}", self.style.paint(Ink::Warn, "warning:"))?;
        }
        Ok(())
    }
}

/// The range of an estimate in a report in JSON, and what it rests on.
fn rests_on(json: &serde_json::Value) -> String {
    let bound = |index: usize| json["bytes_interval"][index].as_u64();
    match (bound(0), bound(1), json["samples"].as_u64()) {
        (Some(low), Some(high), Some(samples)) => {
            format!(
                " ({}, from {})",
                size_range([low, high]),
                counted(samples, "sample")
            )
        }
        _ => String::new(),
    }
}

/// Whether there is more to say of it than its events do.
fn has_something(traced: &Traced) -> bool {
    let report = traced.report.as_ref();
    let live_blocks = report.and_then(|report| report["totals"]["live_blocks"].as_u64());
    traced.armed || live_blocks.is_some_and(|blocks| blocks > 0)
}

fn counted_processes(number: u64) -> String {
    if number == 1 {
        "1 process".to_owned()
    } else {
        format!("{} processes", count(number))
    }
}

/// Names come from the processes, and a report goes to a terminal.
fn clean(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// A frame of a report in JSON, as far as it is shown.
fn frame(json: &serde_json::Value) -> Frame {
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    Frame {
        address: text("address").unwrap_or_default(),
        lang: if json["lang"] == "python" {
            Lang::Python
        } else {
            Lang::Native
        },
        object: text("object"),
        offset: text("offset"),
        symbol: text("symbol"),
        file: text("file"),
        line: json["line"].as_u64().map(|line| line as u32),
        ..Frame::default()
    }
}
