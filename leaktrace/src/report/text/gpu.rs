//! GPU memory as text: lines of the header, what stands beside a site, the calls that failed.

use std::io;

use leaktrace_common::call::Space;

use super::{
    Page, clean, column_widths, stack,
    words::{is_suppressed, process_name},
};
use crate::report::{
    gpu::{Failures, Gpu, GpuState, NotTracked, NvmlProcess, PlaceSums, Table, Torch},
    ledger::Line,
    model::{Report, State, Survivor},
    style::Ink,
    units::{count, counted, duration_ms, growth, size},
};

/// Failures that are shown with their stacks.
const FAILURES_MAX: usize = 3;

/// Indentation of what belongs to a line of the header.
const UNDER: &str = "               ";

impl Page<'_> {
    /// The part of the header: each kind of memory in a line of its own, since no two add up to anything.
    pub(super) fn gpu_header(&mut self, gpu: &Gpu) -> io::Result<()> {
        let first = match (gpu.state, gpu.spaces.is_empty()) {
            (GpuState::Waiting, true) => "no CUDA driver is mapped yet",
            (GpuState::Followed, true) => "nothing handed out since the attach",
            (_, false) => "each kind by itself, and none in the numbers above",
        };
        writeln!(self.out, "  GPU memory   {first}")?;
        let rows: Vec<[String; 5]> = gpu.spaces.iter().map(place_cells).collect();
        let [w_space, w_bytes, w_blocks, w_growth, _] = column_widths(&rows);
        for [space, bytes, blocks, growth, device] in &rows {
            let line = format!(
                "{space:<w_space$}  {bytes:>w_bytes$} {blocks:<w_blocks$}  {growth:>w_growth$}  {device}"
            );
            writeln!(self.out, "{UNDER}{}", line.trim_end())?;
        }
        let many = gpu.torch.iter().any(|torch| torch.pid != gpu.torch[0].pid);
        for torch in &gpu.torch {
            writeln!(self.out, "  {}", torch_line(torch, many))?;
        }
        let Some(nvml) = &gpu.nvml else { return Ok(()) };
        for process in &nvml.processes {
            writeln!(
                self.out,
                "  NVML         {}",
                nvml_line(process, nvml.processes.len() > 1)
            )?;
        }
        match &nvml.why {
            Some(why) => writeln!(self.out, "  NVML         {}", clean(why)),
            None => Ok(()),
        }
    }

    /// The tables of a report in which there is anything of a GPU: each with its title.
    pub(super) fn gpu_tables(&mut self, report: &Report, gpu: &Gpu) -> io::Result<()> {
        for table in Table::ALL {
            let survivors: Vec<&Survivor> = report
                .survivors
                .iter()
                .filter(|survivor| Table::of_name(&survivor.space) == table)
                .collect();
            let is_seen = |place: &PlaceSums| Table::of_name(place.space) == table && place.allocs > 0;
            if table != Table::Host && survivors.is_empty() && !gpu.spaces.iter().any(is_seen) {
                continue;
            }
            writeln!(self.out, "{}", self.style.paint(Ink::Strong, table.title()))?;
            match (table, survivors.as_slice()) {
                (Table::Host, []) => self.nothing(report)?,
                (_, []) => {
                    let places = gpu.spaces.iter().filter(|place| is_seen(place));
                    let outstanding = places.map(|place| place.live_blocks).sum();
                    self.nothing_of_gpu(report, outstanding)?;
                }
                (_, survivors) => self.table(survivors)?,
            }
        }
        Ok(())
    }

    fn nothing_of_gpu(&mut self, report: &Report, outstanding: u64) -> io::Result<()> {
        let filters = &report.tracing.filters;
        let (ink, sentence) = match () {
            () if outstanding == 0 => (
                Ink::Good,
                "nothing outstanding: every block handed out since the attach was freed".to_owned(),
            ),
            () if filters.top == 0 => (Ink::Strong, "no site is listed (--top 0)".to_owned()),
            () if is_suppressed(report) => (Ink::Strong, "no site but what is suppressed".to_owned()),
            () => (
                Ink::Strong,
                format!(
                    "nothing outstanding is older than {}: {} younger",
                    duration_ms(filters.older_than_ms),
                    if outstanding == 1 {
                        "1 block is".to_owned()
                    } else {
                        format!("{} blocks are", count(outstanding))
                    },
                ),
            ),
        };
        writeln!(self.out, "{}\n", self.style.paint(ink, sentence))
    }

    /// What is not listed, kind by kind.
    pub(super) fn gpu_omitted(&mut self, report: &Report, options: &str) -> io::Result<()> {
        for rest in &report.omitted.gpu {
            writeln!(
                self.out,
                "not shown: {} of {} memory with {} in {} ({options})",
                counted(rest.sites, "site"),
                rest.space,
                size(rest.bytes),
                counted(rest.blocks, "block"),
            )?;
        }
        if report.omitted.gpu.is_empty() {
            Ok(())
        } else {
            writeln!(self.out)
        }
    }

    /// The calls that failed, and those that are not followed.
    pub(super) fn gpu_failures(&mut self, gpu: &Gpu) -> io::Result<()> {
        for failures in gpu.errors.iter().take(FAILURES_MAX) {
            let line = failed_line(failures);
            writeln!(self.out, "{}", self.style.paint(Ink::Warn, line))?;
            if !failures.frames.is_empty() {
                let frames = shown(failures, self.native);
                stack::write(self.out, &frames, self.width, self.style)?;
            }
        }
        let more = gpu.errors.get(FAILURES_MAX..).unwrap_or_default();
        if !more.is_empty() {
            let calls = more.iter().map(|failures| failures.count).sum();
            let line = format!(
                "failed: {} more from {}, all listed by --format json",
                counted(calls, "call"),
                counted(more.len() as u64, "place")
            );
            writeln!(self.out, "{}", self.style.paint(Ink::Warn, line))?;
        }
        if !gpu.errors.is_empty() {
            writeln!(self.out)?;
        }
        match not_tracked_line(&gpu.not_tracked) {
            Some(line) => {
                self.prose(Ink::Faint, &line)?;
                writeln!(self.out)
            }
            None => Ok(()),
        }
    }
}

/// Whether a line of the ledger says nothing where there is no GPU.
pub(super) fn is_gpus(line: &Line) -> bool {
    line.name.starts_with("gpu_") || line.name.starts_with("tensor_")
}

fn place_cells(place: &PlaceSums) -> [String; 5] {
    [
        place.space.to_owned(),
        size(place.live_bytes),
        format!("in {}", counted(place.live_blocks, "block")),
        growth(place.live_bytes_per_s),
        place
            .device
            .map_or_else(String::new, |device| format!("cuda:{device}")),
    ]
}

/// The two tables of a `PyTorch` process in a line: what tensors take, what the allocator has reserved for them, and what
/// the driver has handed out in all.
fn torch_line(torch: &Torch, many: bool) -> String {
    let whose = match (many, torch.state) {
        (true, State::Running) => format!(" of {}", torch.pid),
        (true, _) => format!(" of {} at its end", torch.pid),
        (false, State::Running) => String::new(),
        (false, _) => " at exit".to_owned(),
    };
    let outside = match u64::try_from(torch.outside_bytes) {
        Ok(bytes) => format!("outside PyTorch {}", size(bytes)),
        Err(_negative) => format!(
            "reserved before the attach at least {}",
            size(torch.outside_bytes.unsigned_abs())
        ),
    };
    let of_all = if torch.of_all_devices {
        " on all devices"
    } else {
        ""
    };
    format!(
        "PyTorch cuda:{}{whose} allocated {} / reserved {} (last event {} ago); driver live {}{of_all}; {outside}",
        torch.device,
        size(torch.allocated_bytes),
        size(torch.reserved_bytes),
        duration_ms(torch.age_ms),
        size(torch.driver_live_bytes),
    )
}

fn nvml_line(process: &NvmlProcess, many: bool) -> String {
    let whose = if many {
        format!("process {}", process.pid)
    } else {
        "the process".to_owned()
    };
    let live = size(process.driver_live_bytes);
    let Some(used) = process.used_bytes else {
        return format!("does not say what {whose} uses; driver live {live}");
    };
    let used = size(used);
    let rest = match process.more_bytes {
        Some(more @ 0..) => format!(
            "{} more: context, modules, what was before the attach",
            size(more.unsigned_abs())
        ),
        Some(less) => format!("{} less: not in use yet", size(less.unsigned_abs())),
        None => return format!("used by {whose} {used}; driver live {live}"),
    };
    format!("used by {whose} {used}; driver live {live}; {rest}")
}

fn failed_line(failures: &Failures) -> String {
    let name = failures
        .name
        .map_or_else(|| format!("result {}", failures.code), str::to_owned);
    let largest = if failures.largest_bytes > 0 {
        format!(", largest {}", size(failures.largest_bytes))
    } else {
        String::new()
    };
    format!(
        "failed: {} {name} {}x{largest}, in {}",
        clean(&failures.call),
        count(failures.count),
        process_name(&failures.comm, failures.pid, None, None)
    )
}

/// As [`crate::report::frames::shown`] for a survivor.
fn shown(failures: &Failures, native: bool) -> Vec<&crate::report::model::Frame> {
    let callers = match failures.frames.as_slice() {
        [probed, callers @ ..] if probed.symbol.as_deref() == Some(failures.call.as_str()) => callers,
        frames => frames,
    };
    callers.iter().filter(|frame| native || !frame.plumbing).collect()
}

fn not_tracked_line(not_tracked: &NotTracked) -> Option<String> {
    if not_tracked.calls == 0 {
        return None;
    }
    let functions: Vec<String> = not_tracked
        .functions
        .iter()
        .map(|function| format!("{} {}x", clean(&function.function), count(function.calls)))
        .collect();
    let functions = if functions.is_empty() {
        "nodes of graphs, memory of other programs".to_owned()
    } else {
        functions.join(", ")
    };
    Some(format!(
        "not tracked: {} of the GPU's driver that make memory which is not followed: {functions}",
        counted(not_tracked.calls, "call")
    ))
}

/// Which memory a site's is, and on which device: behind the call.
pub(super) fn place_of(survivor: &Survivor) -> String {
    let space = clean(&survivor.space);
    let Some(device) = survivor.device else {
        return format!(" ({space} memory)");
    };
    let known = Space::ALL
        .into_iter()
        .find(|known| known.name() == survivor.space);
    let is_hosts = matches!(known, Some(Space::Pinned | Space::Registered | Space::VmmHost));
    let on = if is_hosts { "for" } else { "on" };
    format!(" ({space} memory {on} cuda:{device})")
}

/// What else there is to say of a site: behind the process.
pub(super) fn remarks(survivor: &Survivor) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(owner) = survivor.reserved_by {
        remarks.push(format!("reserved by {owner}'s caching allocator"));
    }
    if let Some(unsure) = survivor.unsure {
        let all = unsure.blocks == survivor.blocks;
        remarks.push(if all {
            format!("{}, unsure", unsure.why)
        } else {
            format!(
                "{} in {} of it: {}, unsure",
                size(unsure.bytes),
                counted(unsure.blocks, "block"),
                unsure.why
            )
        });
    }
    remarks
}
