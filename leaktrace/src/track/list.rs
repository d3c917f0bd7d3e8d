//! From sites to a list: merged, judged, sorted, cut, with what that leaves out.
//!
//! Must not know where the sites come from.

use std::collections::HashMap;
use std::hash::Hash;

use leaktrace_common::call::Space;
use leaktrace_common::record::LIFETIME_BUCKETS;

use super::gpu::Places;
use super::group::{Entry, Group};
use super::lifetimes::{Lifetimes, add_lifetimes};
use super::past::Past;
use super::snapshot::{SiteSnapshot, totals_of};
use super::sums::{Spaces, Sums, space_of};
use super::{Scope, Settings, SiteRef};
use crate::report::gpu::Table;
use crate::report::model::{Held, Omitted, OmittedSpace, Totals};
use crate::verdict;

/// Sites that are judged before the list is cut: those that rise most. The others lose less.
const JUDGED_MAX: usize = 200;

/// Sites of which only sums are kept.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    pub(super) sums: Spaces,
    pub(super) lifetimes: Lifetimes,
    /// How many of them have outstanding blocks.
    pub(super) live_sites: SitesBySpace,
    /// Memory of GPUs of images that are not kept.
    pub(super) places: Places,
    /// What images hold that are not kept although they hold something.
    pub(super) forgotten: Held,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            sums: Spaces::default(),
            lifetimes: [0; LIFETIME_BUCKETS],
            live_sites: SitesBySpace::default(),
            places: Places::default(),
            forgotten: Held::default(),
        }
    }
}

/// A number of sites for each kind of memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SitesBySpace([u64; Space::ALL.len()]);

impl SitesBySpace {
    /// Adds sites whose space goes by this number.
    pub(super) fn add(&mut self, number: u8, sites: u64) {
        self.0[space_of(number) as usize] += sites;
    }

    fn sum(&self, counts: impl Fn(Space) -> bool) -> u64 {
        let spaces = Space::ALL.into_iter().filter(|space| counts(*space));
        spaces.map(|space| self.0[space as usize]).sum()
    }
}

/// What merging and cutting leaves of the sites.
pub(super) struct Listed {
    pub(super) sites: Vec<SiteSnapshot>,
    pub(super) totals: Totals,
    pub(super) lifetimes: Lifetimes,
    pub(super) omitted: Omitted,
    pub(super) unlisted: Vec<OmittedSpace>,
}

/// Merges, sorts and cuts. Work on what is not shown is little: one question and a few sums a site.
pub(super) fn list<'a, K: Hash + Eq>(
    settings: &Settings,
    interval_ns: u64,
    past: &Past<'_>,
    entries: impl Iterator<Item = Entry<'a>>,
    rest: &Rest,
    mut group: impl FnMut(&SiteRef) -> (Scope, K),
) -> Listed {
    let mut sums = rest.sums;
    let mut lifetimes = rest.lifetimes;
    let mut live_sites = rest.live_sites;
    let mut index_of: HashMap<(Scope, u8, u8, u32, K), usize> = HashMap::new();
    let mut groups: Vec<Group<'a>> = Vec::new();
    for entry in entries {
        let site = entry.data;
        sums.add(entry.site.key.process.space, &site.sums);
        add_lifetimes(&mut lifetimes, site.lifetimes());
        if site.survivors.held.blocks == 0 {
            live_sites.add(
                entry.site.key.process.space,
                u64::from(site.sums.live_blocks() > 0),
            );
            continue;
        }
        let key = entry.site.key;
        let (scope, stack) = group(&entry.site);
        let same = (scope, key.process.space, key.process.device, key.call, stack);
        let index = *index_of.entry(same).or_insert_with(|| {
            live_sites.add(key.process.space, 1);
            groups.push(Group::new(entry));
            groups.len() - 1
        });
        groups[index].add(entry);
    }
    judge(&mut groups, past, JUDGED_MAX);
    let mut unlisted = Unlisted::of_rest(rest, settings);
    let mut listed = cut(groups, settings, &mut unlisted);
    judge(&mut listed, past, usize::MAX);
    let sites: Vec<_> = listed
        .into_iter()
        .map(|group| group.into_snapshot(settings, interval_ns))
        .collect();
    Listed {
        omitted: omitted(&sites, &sums, &live_sites),
        unlisted: unlisted.spaces(),
        sites,
        totals: totals_of(&sums, settings),
        lifetimes,
    }
}

/// Judges those that rise most, and of few all.
fn judge(groups: &mut [Group<'_>], past: &Past<'_>, max: usize) {
    let mut rising: Vec<(f64, usize)> = Vec::new();
    if groups.len() > max {
        let guesses = groups.iter().enumerate().map(|(index, group)| {
            let evidence = past.evidence(&group.members);
            (
                evidence.map_or(0.0, |evidence| verdict::guess_per_s(&evidence)),
                index,
            )
        });
        rising.extend(guesses.filter(|(guess, _)| *guess > 0.0));
        rising.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        rising.truncate(max);
    } else {
        rising.extend((0..groups.len()).map(|index| (0.0, index)));
    }
    for (_, index) in rising {
        let group = &mut groups[index];
        if group.verdict.is_none() {
            group.verdict = past
                .evidence(&group.members)
                .map(|evidence| verdict::judge(&evidence));
        }
    }
}

/// What passes the filters and is not in the list.
struct Unlisted([OmittedSpace; Space::ALL.len()]);

impl Unlisted {
    /// Of what only sums are kept of; the ages of its blocks are not known.
    fn of_rest(rest: &Rest, settings: &Settings) -> Self {
        Self(Space::ALL.map(|space| {
            let sums = rest.sums.of(space);
            let counts = settings.older_than_ns == 0;
            OmittedSpace {
                space: space.name(),
                sites: if counts {
                    rest.live_sites.sum(|of| of == space)
                } else {
                    0
                },
                blocks: if counts { sums.live_blocks() } else { 0 },
                bytes: if counts { sums.live_bytes() } else { 0 },
            }
        }))
    }

    fn add(&mut self, group: &Group<'_>) {
        let rest = &mut self.0[group.space() as usize];
        rest.sites += 1;
        rest.blocks = rest.blocks.saturating_add(group.held.blocks);
        rest.bytes = rest.bytes.saturating_add(group.held.bytes);
    }

    fn spaces(&self) -> Vec<OmittedSpace> {
        let some = self.0.iter().filter(|rest| rest.sites > 0 || rest.blocks > 0);
        some.copied().collect()
    }
}

/// Each table sorted, and as long as it may be.
fn cut<'a>(mut groups: Vec<Group<'a>>, settings: &Settings, unlisted: &mut Unlisted) -> Vec<Group<'a>> {
    let table = |group: &Group<'_>| Table::of(group.space());
    groups.sort_unstable_by(|a, b| table(a).cmp(&table(b)).then_with(|| a.compare(b, settings.sort)));
    let mut listed: Vec<Group<'a>> = Vec::new();
    for of_table in groups
        .chunk_by(|a, b| table(a) == table(b))
        .map(<[_]>::len)
        .collect::<Vec<_>>()
    {
        let mut of_table = groups.drain(..of_table);
        listed.extend(of_table.by_ref().take(settings.top));
        of_table.for_each(|group| unlisted.add(&group));
    }
    listed
}

/// What is not in the list: of the host's memory in one sum, of GPUs' by its kind.
fn omitted(listed: &[SiteSnapshot], sums: &Spaces, live_sites: &SitesBySpace) -> Omitted {
    let rest = |of: &Sums, live_sites: u64, is_of: &dyn Fn(Space) -> bool| {
        let mut rest = OmittedSpace {
            space: "",
            sites: live_sites,
            blocks: of.live_blocks(),
            bytes: of.live_bytes(),
        };
        let shown = listed
            .iter()
            .filter(|site| is_of(space_of(site.site.key.process.space)));
        for site in shown {
            rest.sites = rest.sites.saturating_sub(1);
            rest.blocks = rest.blocks.saturating_sub(site.blocks);
            rest.bytes = rest.bytes.saturating_sub(site.bytes);
        }
        rest
    };
    let is_hosts = |space: Space| !space.is_gpus();
    let host = rest(&sums.listed_of_host(), live_sites.sum(is_hosts), &is_hosts);
    let gpus = Space::ALL.into_iter().filter(|space| space.is_gpus());
    let gpu = gpus.map(|space| OmittedSpace {
        space: space.name(),
        ..rest(sums.of(space), live_sites.sum(|of| of == space), &|of| {
            of == space
        })
    });
    Omitted {
        sites: host.sites,
        blocks: host.blocks,
        bytes: host.bytes,
        gpu: gpu
            .filter(|rest| rest.sites > 0 || rest.blocks > 0 || rest.bytes > 0)
            .collect(),
    }
}
