//! The gate as text: what was suppressed, which conditions hold, and by which sites.

use std::io;

use super::{Page, clean, words::owner};
use crate::report::{
    frames,
    gate::{Failed, Gate, Suppressed, Undecided},
    model::{Report, Survivor},
    style::Ink,
    types::TypeSurvivors,
    units::{count, counted, duration_s, size},
    verdict::Verdict,
};

impl Page<'_> {
    /// What the list lacks because it was suppressed: of the host's memory, of each kind of GPU memory, of types.
    pub(super) fn suppressed(&mut self, report: &Report) -> io::Result<()> {
        let lines = suppressed(&report.suppressed);
        for line in &lines {
            self.prose(Ink::Faint, line)?;
        }
        if lines.is_empty() {
            Ok(())
        } else {
            writeln!(self.out)
        }
    }

    /// Whether the run has failed, and by what.
    pub(super) fn gate(&mut self, report: &Report) -> io::Result<()> {
        let Some(gate) = &report.gate else { return Ok(()) };
        if gate.failed.is_empty() {
            let line = format!("passed: {}", gate.conditions.join(", "));
            self.prose(Ink::Good, &line)?;
        }
        for line in failed(report, gate) {
            let ink = if line.starts_with(' ') {
                Ink::Strong
            } else {
                Ink::Bad
            };
            writeln!(self.out, "{}", self.style.paint(ink, line))?;
        }
        for line in unknown(gate) {
            self.prose(Ink::Warn, &line)?;
        }
        writeln!(self.out)
    }
}

/// What there is to say of a gate beside the report: which conditions hold, by which sites, and what is not known. A line
/// each; those of sites begin with a space. Empty where there is no gate.
pub fn findings(report: &Report) -> Vec<String> {
    let Some(gate) = &report.gate else {
        return Vec::new();
    };
    failed(report, gate).into_iter().chain(unknown(gate)).collect()
}

fn failed(report: &Report, gate: &Gate) -> Vec<String> {
    let mut lines = Vec::new();
    for failed in &gate.failed {
        lines.push(format!("failed: {}: {}", failed.condition, found(failed)));
        let is_growing = failed.memory.is_none();
        let survivors = failed
            .sites
            .iter()
            .filter_map(|&index| report.survivors.get(index));
        lines.extend(survivors.map(|survivor| site(survivor, is_growing)));
        let list = report.types.iter().flat_map(|types| &types.list);
        let list: Vec<&TypeSurvivors> = list.collect();
        let types = failed.types.iter().filter_map(|&index| list.get(index));
        lines.extend(types.map(|of_type| type_line(of_type)));
        if failed.more_sites > 0 {
            lines.push(format!("  and {}", counted(failed.more_sites, "more site")));
        }
    }
    lines
}

/// What was compared with the limit.
fn found(failed: &Failed) -> String {
    let Some(memory) = failed.memory else {
        let (sites, types) = (failed.sites.len() as u64 + failed.more_sites, failed.types.len());
        let mut parts = Vec::new();
        if sites > 0 {
            parts.push(counted(sites, "site"));
        }
        if types > 0 {
            parts.push(counted(types as u64, "Python type"));
        }
        return format!("growth of {}", parts.join(" and "));
    };
    let is_bytes = failed.condition.starts_with("bytes");
    let amount = |number| {
        if is_bytes {
            size(number)
        } else {
            counted(number, "block")
        }
    };
    let of = if memory == "host" {
        String::new()
    } else {
        format!(" of {memory} memory")
    };
    match failed.estimate {
        None => format!("{}{of} outstanding", amount(failed.value)),
        Some(estimate) => format!(
            "at least {}{of} outstanding, the lower bound at 95 % (estimate {})",
            amount(failed.value),
            amount(estimate)
        ),
    }
}

fn site(survivor: &Survivor, is_growing: bool) -> String {
    let why = survivor.verdict.as_ref().filter(|_| is_growing);
    clean(&format!(
        "  {} in {} by {} at {}, {}{}",
        size(survivor.bytes),
        counted(survivor.blocks, "block"),
        survivor.call,
        place(survivor),
        owner(survivor),
        reason(why)
    ))
    .into_owned()
}

fn type_line(of_type: &TypeSurvivors) -> String {
    clean(&format!(
        "  {} in {} of type {}, pid {}{}",
        size(of_type.bytes),
        counted(of_type.objects, "object"),
        of_type.full_name(),
        of_type.pid,
        reason(of_type.verdict.as_ref())
    ))
    .into_owned()
}

fn reason(verdict: Option<&Verdict>) -> String {
    verdict.map_or_else(String::new, |verdict| format!(": {}", verdict.reason))
}

/// Where a person starts to read.
fn place(survivor: &Survivor) -> String {
    if let Some(site) = frames::python_site(&survivor.frames) {
        return site;
    }
    let shown = frames::shown(survivor, false);
    let own = frames::innermost_user(&shown).and_then(|index| shown.get(index));
    let Some(frame) = own.or_else(|| shown.first()) else {
        return "an unknown place".to_owned();
    };
    let name = frames::name(frame);
    frames::place(frame).map_or_else(|| name.to_string(), |place| format!("{name} ({place})"))
}

fn unknown(gate: &Gate) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(undecided) = gate.undecided.filter(|of| of.sites + of.types > 0) {
        lines.push(undecided_line(&undecided));
    }
    if gate.unnamed_sites > 0 {
        lines.push(format!(
            "not looked at one by one: {}, the least of many or of processes long ended; they count, whatever is \
             suppressed, and may grow",
            counted(gate.unnamed_sites, "site")
        ));
    }
    lines
}

fn undecided_line(undecided: &Undecided) -> String {
    let mut parts = Vec::new();
    if undecided.sites > 0 {
        parts.push(counted(undecided.sites, "site"));
    }
    if undecided.types > 0 {
        parts.push(counted(undecided.types, "Python type"));
    }
    let needs = undecided.needs_s.map_or_else(
        || "trace longer".to_owned(),
        |seconds| format!("trace {} longer", duration_s(seconds)),
    );
    format!(
        "undecided: whether {} {}; {needs} (-d)",
        parts.join(" and "),
        if undecided.sites + undecided.types == 1 {
            "grows"
        } else {
            "grow"
        }
    )
}

/// The sums, each with the suppressions that make it up.
fn suppressed(all: &[Suppressed]) -> Vec<String> {
    let mut lines = Vec::new();
    let [sites, blocks, bytes] = sums(
        all.iter()
            .map(|one| [one.held.sites, one.held.blocks, one.held.bytes]),
    );
    if sites > 0 {
        let used = used(all, |one| one.held.blocks);
        let (sites, blocks, bytes) = (counted(sites, "site"), counted(blocks, "block"), size(bytes));
        lines.push(format!("suppressed: {sites} with {bytes} in {blocks} ({used})"));
    }
    let mut spaces: Vec<&str> = Vec::new();
    for rest in all.iter().flat_map(|one| &one.held.gpu) {
        if !spaces.contains(&rest.space) {
            spaces.push(rest.space);
        }
    }
    for space in spaces {
        let of_space = |one: &Suppressed| one.held.gpu.iter().find(|rest| rest.space == space).copied();
        let rests = all.iter().filter_map(of_space);
        let [sites, blocks, bytes] = sums(rests.map(|rest| [rest.sites, rest.blocks, rest.bytes]));
        let used = used(all, |one| of_space(one).map_or(0, |rest| rest.blocks));
        let (sites, blocks, bytes) = (counted(sites, "site"), counted(blocks, "block"), size(bytes));
        lines.push(format!(
            "suppressed: {sites} of {space} memory with {bytes} in {blocks} ({used})"
        ));
    }
    let types: u64 = all.iter().map(|one| one.types).sum();
    if types > 0 {
        let used = used(all, |one| one.types);
        lines.push(format!("suppressed: {} ({used})", counted(types, "Python type")));
    }
    lines
}

fn sums<const N: usize>(rows: impl Iterator<Item = [u64; N]>) -> [u64; N] {
    rows.fold([0; N], |mut sums, row| {
        for (sum, number) in sums.iter_mut().zip(row) {
            *sum = sum.saturating_add(number);
        }
        sums
    })
}

/// As LeakSanitizer shows those that were used: how often, and the pattern.
fn used(all: &[Suppressed], times: impl Fn(&Suppressed) -> u64) -> String {
    let used = all.iter().filter(|one| times(one) > 0);
    let used = used.map(|one| format!("{} x leak:{}", count(times(one)), one.pattern));
    used.collect::<Vec<_>>().join(", ")
}
