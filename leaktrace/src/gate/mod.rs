//! Whether a run has failed, for CI: what may be there all the same (`suppress`), what must not be (`condition`, `judge`).
//!
//! [`Gate::apply`] takes a report that lists all sites and leaves one that lists those to be shown. Pure but for
//! [`Gate::open`], which reads files. Must not know where a report comes from or goes to.

pub mod condition;
mod judge;
pub mod pattern;
pub mod suppress;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
};

use leaktrace_common::call::Space;

use self::{
    condition::Condition,
    suppress::{Lookup, Suppressions, SyntaxError},
};
use crate::{
    config::Config,
    report::{
        gate::Suppressed,
        gpu::Table,
        model::{Omitted, OmittedSpace, Report, Survivor},
        types::Types,
    },
};

/// Sites of a table whose names are looked up where all are to be looked at.
pub const SITES_MAX: usize = 10_000;

/// Suppressions that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A file cannot be read.
    #[error("cannot read --suppressions '{}': {source}; {}", .path.display(), way_out(.source))]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of it cannot.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "give the path of a file with lines such as leak:PATTERN",
        io::ErrorKind::PermissionDenied => "make it readable for the user who traces",
        io::ErrorKind::InvalidData => "write it in UTF-8",
        _ => "give another file",
    }
}

/// What is asked of the reports of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    conditions: Vec<Condition>,
    suppressions: Suppressions,
    /// Sites of each table that are shown.
    top: usize,
}

impl Gate {
    /// What the options ask for.
    ///
    /// # Errors
    /// When a file of suppressions cannot be read, or a line in it.
    pub fn open(config: &Config) -> Result<Self, GateError> {
        let mut suppressions = Suppressions::default();
        for path in &config.suppressions {
            let text = fs::read_to_string(path).map_err(|source| GateError::File {
                path: path.clone(),
                source,
            })?;
            suppressions.add(&path.display().to_string(), &text)?;
        }
        Ok(Self::new(config.fail_on.clone(), suppressions, config.top))
    }

    /// Shows `top` sites of each table, and those that made a condition hold.
    pub const fn new(conditions: Vec<Condition>, suppressions: Suppressions, top: usize) -> Self {
        Self {
            conditions,
            suppressions,
            top,
        }
    }

    /// How many sites of each table a report is to list: all, where they are to be looked at.
    pub fn sites(&self, last: bool) -> usize {
        if self.judges(last) || !self.suppressions.is_empty() {
            self.top.max(SITES_MAX)
        } else {
            self.top
        }
    }

    /// The same of types of Python.
    pub fn types(&self, last: bool) -> usize {
        if self.judges(last) && self.conditions.contains(&Condition::Growing) {
            usize::MAX
        } else {
            self.top
        }
    }

    /// Only the last report of a run is judged: before, there may be what goes by its end.
    const fn judges(&self, last: bool) -> bool {
        last && !self.conditions.is_empty()
    }

    /// Leaves out what is suppressed, judges the last report, and shortens the list. `unlisted` passes the filters and is
    /// not in the list, by kind of memory.
    pub fn apply(&self, report: &mut Report, unlisted: &[OmittedSpace]) {
        self.suppress(report);
        if self.judges(report.last) {
            report.gate = Some(judge::judge(&self.conditions, report, unlisted));
        }
        cut(report, self.top);
    }

    fn suppress(&self, report: &mut Report) {
        if self.suppressions.is_empty() {
            return;
        }
        let mut suppressed: Vec<Suppressed> = self
            .suppressions
            .iter()
            .map(|one| Suppressed {
                pattern: one.pattern.text().to_owned(),
                file: one.file.clone(),
                line: one.line,
                held: Omitted::default(),
                types: 0,
            })
            .collect();
        let mut lookup = Lookup::new(&self.suppressions);
        let mut places = BTreeMap::new();
        let all = std::mem::take(&mut report.survivors);
        for (place, survivor) in all.into_iter().enumerate() {
            if let Some(index) = lookup.find(&survivor.frames) {
                add(&mut suppressed[index].held, &survivor);
            } else {
                places.insert(place, report.survivors.len());
                report.survivors.push(survivor);
            }
        }
        renumber(report, &places);
        for of_type in report.types.iter_mut().flat_map(|types| &mut types.list) {
            if let Some(index) = lookup.find_name(&of_type.full_name()) {
                of_type.suppressed = true;
                suppressed[index].types += 1;
            }
        }
        report.suppressed = suppressed;
    }
}

/// The accounts of memory name sites by where they are.
fn renumber(report: &mut Report, places: &BTreeMap<usize, usize>) {
    for account in &mut report.accounts {
        account.renumber(|index| places.get(&index).copied());
    }
}

/// Counts a site as one that is not listed.
fn add(omitted: &mut Omitted, survivor: &Survivor) {
    if Table::of_name(&survivor.space) == Table::Host {
        omitted.sites += 1;
        omitted.blocks += survivor.blocks;
        omitted.bytes += survivor.bytes;
        return;
    }
    let known = omitted.gpu.iter().position(|rest| rest.space == survivor.space);
    let index = known.unwrap_or_else(|| {
        let (number, space) = space(&survivor.space);
        let before = |rest: &OmittedSpace| self::space(rest.space).0 < number;
        let index = omitted.gpu.partition_point(before);
        let none = OmittedSpace {
            space,
            ..OmittedSpace::default()
        };
        omitted.gpu.insert(index, none);
        index
    });
    let rest = &mut omitted.gpu[index];
    rest.sites += 1;
    rest.blocks += survivor.blocks;
    rest.bytes += survivor.bytes;
}

/// The place of a kind of memory among all, and its name.
fn space(name: &str) -> (usize, &'static str) {
    let all = Space::ALL.map(Space::name);
    let known = all.into_iter().enumerate().find(|(_, known)| *known == name);
    known.unwrap_or((all.len(), "unknown"))
}

/// Shortens the lists to `top` of each table, and what made a condition hold.
fn cut(report: &mut Report, top: usize) {
    let failed = report.gate.iter().flat_map(|gate| &gate.failed);
    let (mut sites, mut types) = (BTreeSet::new(), BTreeSet::new());
    for failed in failed {
        sites.extend(failed.sites.iter().copied());
        types.extend(failed.types.iter().copied());
    }
    let place_of = cut_sites(report, top, &sites);
    renumber(report, &place_of);
    let type_of = report
        .types
        .as_mut()
        .map(|types_of| cut_types(types_of, top, &types))
        .unwrap_or_default();
    for failed in report.gate.iter_mut().flat_map(|gate| &mut gate.failed) {
        for (indices, place_of) in [(&mut failed.sites, &place_of), (&mut failed.types, &type_of)] {
            for index in indices {
                *index = place_of.get(index).copied().unwrap_or(*index);
            }
        }
    }
}

/// Where those sites are that are kept.
fn cut_sites(report: &mut Report, top: usize, kept: &BTreeSet<usize>) -> BTreeMap<usize, usize> {
    let mut places = BTreeMap::new();
    let mut ranks: BTreeMap<Table, usize> = BTreeMap::new();
    let all = std::mem::take(&mut report.survivors);
    for (index, survivor) in all.into_iter().enumerate() {
        let rank = ranks.entry(Table::of_name(&survivor.space)).or_default();
        *rank += 1;
        if *rank <= top || kept.contains(&index) {
            places.insert(index, report.survivors.len());
            report.survivors.push(survivor);
        } else {
            add(&mut report.omitted, &survivor);
        }
    }
    places
}

/// The same of types. Where all are to be listed they stay.
fn cut_types(types: &mut Types, top: usize, kept: &BTreeSet<usize>) -> BTreeMap<usize, usize> {
    let mut places = BTreeMap::new();
    for (index, of_type) in std::mem::take(&mut types.list).into_iter().enumerate() {
        if types.whole || index < top || kept.contains(&index) {
            places.insert(index, types.list.len());
            types.list.push(of_type);
        } else {
            types.omitted += 1;
        }
    }
    places
}

#[cfg(test)]
mod tests;
