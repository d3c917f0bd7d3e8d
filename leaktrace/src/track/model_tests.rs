//! The tracker against a model that keeps every block and computes everything anew. Time is simulated.

use std::collections::{BTreeMap, BTreeSet};

use leaktrace_common::record::LIFETIME_BUCKETS;
use proptest::prelude::*;

use super::tests::{SECOND, block, key};
use super::*;
use crate::report::gpu::Table;

/// A step of a simulated machine.
#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc { tgid: u32, stack: u64, size_bytes: u64 },
    Free { nth: usize },
    Wait { ms: u64 },
    Report,
    Exit { tgid: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u32..4, 0u64..12, 0u64..1000).prop_map(|(tgid, stack, size_bytes)| Step::Alloc { tgid, stack, size_bytes }),
        4 => any::<usize>().prop_map(|nth| Step::Free { nth }),
        3 => (0u64..100_000).prop_map(|ms| Step::Wait { ms }),
        1 => Just(Step::Report),
        1 => (1u32..4).prop_map(|tgid| Step::Exit { tgid }),
    ]
}

#[derive(Clone, Copy, Debug)]
struct ModelBlock {
    life: usize,
    site: SiteKey,
    address: u64,
    size_bytes: u64,
    time_ns: u64,
    freed: bool,
}

/// The site of a stack: its number says which memory it is, and on which device.
fn site_of(tgid: u32, stack: u64) -> SiteKey {
    let (space, device) = match stack % 6 {
        0 | 1 => (Space::Heap, 0),
        2 => (Space::Device, 1 + (stack / 6 % 2) as u8),
        3 => (Space::Pinned, 0),
        4 => (Space::Vmm, 1),
        _ => (Space::Tensor, 1),
    };
    let mut site = key(tgid, stack);
    site.process.space = space as u8;
    site.process.device = device;
    site
}

fn space_of(site: &SiteKey) -> Space {
    Space::of(site.process.space).unwrap()
}

/// Every block ever, and when each life of a pid ended.
#[derive(Default)]
struct Model {
    now_ns: u64,
    blocks: Vec<ModelBlock>,
    /// Number of the current life of each pid, and the end of each life that is over.
    life_of: BTreeMap<u32, usize>,
    ended_ns: Vec<Option<u64>>,
}

/// Of one group of sites: bytes, blocks, allocs, frees, youngest and oldest age in ms, growth, blocks that may be gone,
/// processes, of them those that run.
type Row = (u64, u64, u64, u64, u64, u64, i64, u64, u64, u64);

/// Of a kind and a device: allocs and their bytes, frees and theirs, growth.
type PlaceRow = (u64, u64, u64, u64, i64);

/// (whose, space, device, equivalence)
type RowKey = (Scope, Space, u8, u64);

/// Whose sites are one.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Image,
    /// Those of odd pids, and those of even ones.
    Half,
    All,
}

impl Whose {
    const fn scope(self, image: Image) -> Scope {
        match self {
            Self::Image => Scope::Image(image),
            Self::Half => Scope::Many(image.tgid as u64 % 2),
            Self::All => Scope::Many(7),
        }
    }
}

/// What sites are grouped by.
#[derive(Clone, Copy, Debug)]
struct Groups {
    whose: Whose,
    /// Stacks whose numbers are equal when divided by this are equal.
    equivalence: u64,
}

impl Groups {
    fn of(self, site: &SiteRef) -> (Scope, u64) {
        (self.whose.scope(site.image), site.key.stack_id / self.equivalence)
    }
}

impl ModelBlock {
    fn is_unsure(&self) -> bool {
        space_of(&self.site).is_gpus() && self.address.is_multiple_of(3)
    }
}

impl Model {
    fn life(&mut self, tgid: u32) -> usize {
        *self.life_of.entry(tgid).or_insert_with(|| {
            self.ended_ns.push(None);
            self.ended_ns.len() - 1
        })
    }

    /// What the kernel's maps hold: all of those that run.
    fn kernel(&self) -> (BTreeMap<SiteKey, Site>, Vec<LiveBlock>) {
        let mut sites: BTreeMap<SiteKey, Site> = BTreeMap::new();
        let mut live = Vec::new();
        for block_of in &self.blocks {
            let tgid_of = block_of.site.process.tgid;
            if self.life_of.get(&tgid_of) != Some(&block_of.life) {
                continue;
            }
            let site = sites.entry(block_of.site).or_insert(Site::EMPTY);
            site.allocs += 1;
            site.alloc_bytes += block_of.size_bytes;
            if block_of.freed {
                site.frees += 1;
                site.freed_bytes += block_of.size_bytes;
                site.lifetimes[block_of.size_bytes as usize % LIFETIME_BUCKETS] += 1;
            } else {
                let block = block(
                    block_of.site,
                    block_of.address,
                    block_of.size_bytes,
                    block_of.time_ns,
                );
                live.push(LiveBlock {
                    unsure: block_of.is_unsure(),
                    ..block
                });
            }
        }
        (sites, live)
    }

    /// Ended lives, numbered by their ends.
    fn frozen_number(&self, life: usize) -> Option<FrozenId> {
        let mut ends: Vec<_> = (0..self.ended_ns.len())
            .filter(|life| self.ended_ns[*life].is_some())
            .collect();
        ends.sort_by_key(|life| self.ended_ns[*life]);
        ends.iter()
            .position(|ended| *ended == life)
            .map(|number| FrozenId(number as u64))
    }

    fn rows(
        &self,
        older_than_ns: u64,
        groups: Groups,
        previous: &BTreeMap<(usize, u64), i64>,
    ) -> BTreeMap<RowKey, Row> {
        let mut sites: BTreeMap<(usize, u64), Vec<ModelBlock>> = BTreeMap::new();
        for block in &self.blocks {
            sites
                .entry((block.life, block.site.stack_id))
                .or_default()
                .push(*block);
        }
        let mut rows: BTreeMap<RowKey, Row> = BTreeMap::new();
        let mut lives: BTreeMap<RowKey, BTreeSet<(usize, bool)>> = BTreeMap::new();
        for ((life, stack), blocks) in sites {
            let now_ns = self.ended_ns[life].unwrap_or(self.now_ns);
            let age_of = |block: &&ModelBlock| now_ns - block.time_ns;
            let live: Vec<_> = blocks.iter().filter(|block| !block.freed).collect();
            let old: Vec<_> = live
                .iter()
                .copied()
                .filter(|block| age_of(block) >= older_than_ns)
                .collect();
            if old.is_empty() {
                continue;
            }
            let site = blocks[0].site;
            let process = site.process;
            let image = Image {
                tgid: process.tgid,
                image: 0,
                frozen: self.frozen_number(life),
            };
            let (scope, stack_of) = groups.of(&SiteRef { image, key: site });
            let key = (scope, space_of(&site), process.device, stack_of);
            let lives = lives.entry(key).or_default();
            lives.insert((life, image.frozen.is_none()));
            let row = rows.entry(key).or_insert((0, 0, 0, 0, u64::MAX, 0, 0, 0, 0, 0));
            row.8 = lives.len() as u64;
            row.9 = lives.iter().filter(|(_, runs)| *runs).count() as u64;
            row.7 += old.iter().filter(|block| block.is_unsure()).count() as u64;
            row.0 += old.iter().map(|block| block.size_bytes).sum::<u64>();
            row.1 += old.len() as u64;
            row.2 += blocks.len() as u64;
            row.3 += blocks.len() as u64 - live.len() as u64;
            row.4 = row
                .4
                .min(old.iter().map(|block| age_of(block) / 1_000_000).min().unwrap());
            row.5 = row
                .5
                .max(old.iter().map(|block| age_of(block) / 1_000_000).max().unwrap());
            let live_bytes: u64 = live.iter().map(|block| block.size_bytes).sum();
            row.6 += live_bytes.cast_signed() - previous.get(&(life, stack)).copied().unwrap_or(0);
        }
        rows
    }

    fn live_bytes(&self) -> BTreeMap<(usize, u64), i64> {
        let mut live = BTreeMap::new();
        for block in self.blocks.iter().filter(|block| !block.freed) {
            *live.entry((block.life, block.site.stack_id)).or_insert(0) += block.size_bytes.cast_signed();
        }
        live
    }
}

fn check(
    model: &Model,
    snapshot: &Snapshot,
    rows: &BTreeMap<RowKey, Row>,
    groups: Groups,
    settings: &Settings,
) {
    let of_host = model
        .blocks
        .iter()
        .filter(|block| space_of(&block.site) == Space::Heap);
    let (freed, live): (Vec<_>, Vec<_>) = of_host.partition(|block| block.freed);
    let bytes = |blocks: &[&ModelBlock]| blocks.iter().map(|block| block.size_bytes).sum::<u64>();
    let totals = &snapshot.totals;
    assert_eq!(
        (totals.live_blocks, totals.live_bytes),
        (live.len() as u64, bytes(&live))
    );
    assert_eq!(
        (totals.frees, totals.freed_bytes),
        (freed.len() as u64, bytes(&freed))
    );
    assert_eq!(totals.allocs - totals.frees, totals.live_blocks);
    let frees = model.blocks.iter().filter(|block| block.freed).count();
    assert_eq!(snapshot.lifetimes.iter().sum::<u64>(), frees as u64);
    assert_eq!(snapshot.torn, 0);
    for site in &snapshot.sites {
        let key = site.site.key;
        let (scope, stack_of) = groups.of(&site.site);
        let of = (scope, space_of(&key), key.process.device, stack_of);
        let age = site.age_ms;
        let growth = site.bytes_per_s * snapshot.interval_ns as f64 / 1e9;
        let seen = (
            site.bytes,
            site.blocks,
            site.allocs,
            site.frees,
            age.min,
            age.max,
            growth.round() as i64,
            site.unsure.live_blocks,
            site.processes as u64,
            if site.state == State::Running {
                rows[&of].9
            } else {
                0
            },
        );
        let mut expected = rows[&of];
        if snapshot.interval_ns == 0 {
            expected.6 = 0;
        }
        assert_eq!(seen, expected, "{of:?}");
        assert_eq!(site.pids.len(), site.processes.min(PIDS_MAX));
        assert_eq!(site.pids[0], site.site.image.tgid);
    }
    check_tables(snapshot, rows, settings);
    check_omitted(model, snapshot);
    let images: u64 = snapshot.images.iter().map(|image| image.live_bytes).sum();
    assert_eq!(images + snapshot.forgotten.live_bytes, totals.live_bytes);
}

/// Each table is as long as it may be and in its order.
fn check_tables(snapshot: &Snapshot, rows: &BTreeMap<RowKey, Row>, settings: &Settings) {
    let mut expected = Vec::new();
    for table in Table::ALL {
        let of_table = rows.iter().filter(|(key, _)| Table::of(key.1) == table);
        let mut of_table: Vec<_> = of_table
            .map(|(key, row)| (key.1 == Space::Pinned, std::cmp::Reverse(row.0)))
            .collect();
        of_table.sort_unstable();
        expected.extend(of_table.into_iter().take(settings.top));
    }
    let listed = snapshot.sites.iter().map(|site| {
        let space = space_of(&site.site.key);
        (space == Space::Pinned, std::cmp::Reverse(site.bytes))
    });
    assert_eq!(listed.collect::<Vec<_>>(), expected);
}

/// What is not listed is the rest, kind by kind.
fn check_omitted(model: &Model, snapshot: &Snapshot) {
    let omitted = &snapshot.omitted;
    for space in [
        Space::Heap,
        Space::Device,
        Space::Pinned,
        Space::Vmm,
        Space::Tensor,
    ] {
        let of_space = model.blocks.iter().filter(|block| space_of(&block.site) == space);
        let live: Vec<_> = of_space.filter(|block| !block.freed).collect();
        let listed = snapshot
            .sites
            .iter()
            .filter(|site| space_of(&site.site.key) == space);
        let (bytes, blocks) = listed.fold((0, 0), |(bytes, blocks), site| {
            (bytes + site.bytes, blocks + site.blocks)
        });
        let rest = omitted.gpu.iter().find(|rest| rest.space == space.name());
        let rest = match space {
            Space::Heap => (omitted.bytes, omitted.blocks),
            _ => rest.map_or((0, 0), |rest| (rest.bytes, rest.blocks)),
        };
        let all: u64 = live.iter().map(|block| block.size_bytes).sum();
        assert_eq!(rest, (all - bytes, live.len() as u64 - blocks), "{space:?}");
        assert_eq!(snapshot.totals.by_space.of(space).live_bytes, all);
    }
}

/// Sums by kind and device, how they have grown since `before`, and the same of each image.
fn check_places(model: &Model, snapshot: &Snapshot, before: &BTreeMap<(Space, u8), i64>) {
    let of_gpus = |block: &&ModelBlock| space_of(&block.site).is_gpus();
    let mut expected: BTreeMap<(Space, u8), PlaceRow> = BTreeMap::new();
    for block in model.blocks.iter().filter(of_gpus) {
        let place = (space_of(&block.site), block.site.process.device);
        let sums = expected.entry(place).or_insert_with(|| {
            let then = before.get(&place).copied().unwrap_or(0);
            (0, 0, 0, 0, -then)
        });
        sums.0 += 1;
        sums.1 += block.size_bytes;
        if block.freed {
            sums.2 += 1;
            sums.3 += block.size_bytes;
        } else {
            sums.4 += block.size_bytes.cast_signed();
        }
    }
    let seen = snapshot.places.iter().map(|sums| {
        assert_eq!(sums.live_bytes, sums.alloc_bytes - sums.freed_bytes);
        let growth = sums.live_bytes_per_s * snapshot.interval_ns as f64 / 1e9;
        let device = sums.device.map_or(0, |ordinal| ordinal + 1);
        let numbers = (sums.allocs, sums.alloc_bytes, sums.frees, sums.freed_bytes);
        (
            (sums.space, device),
            (numbers.0, numbers.1, numbers.2, numbers.3, growth.round() as i64),
        )
    });
    if snapshot.interval_ns == 0 {
        for sums in expected.values_mut() {
            sums.4 = 0;
        }
    }
    assert_eq!(seen.collect::<BTreeMap<_, _>>(), expected);
    let of_images: u64 = snapshot.image_places.iter().map(|held| held.live_bytes).sum();
    let of_all: u64 = snapshot.places.iter().map(|held| held.live_bytes).sum();
    assert_eq!(of_images, of_all);
}

fn by_place(snapshot: &Snapshot) -> BTreeMap<(Space, u8), i64> {
    let places = snapshot.places.iter().map(|sums| {
        let device = sums.device.map_or(0, |ordinal| ordinal + 1);
        ((sums.space, device), sums.live_bytes.cast_signed())
    });
    places.collect()
}

proptest! {
    #[test]
    fn agrees_with_a_model_that_keeps_every_block(
        steps in prop::collection::vec(step(), 1..200),
        older_than_s in prop_oneof![Just(0u64), 1u64..200],
        top in 1usize..8,
        equivalence in 1u64..5,
        whose in prop_oneof![Just(Whose::Image), Just(Whose::Half), Just(Whose::All)],
    ) {
        let groups = Groups { whose, equivalence };
        let settings = Settings { older_than_ns: older_than_s * SECOND, top, ..Settings::default() };
        let mut tracker = Tracker::new(settings, 0);
        let mut model = Model::default();
        let mut previous = BTreeMap::new();
        let mut places = BTreeMap::new();
        for step in steps.into_iter().chain([Step::Report]) {
            match step {
                Step::Alloc { tgid, stack, size_bytes } => {
                    let life = model.life(tgid);
                    let address = model.blocks.len() as u64;
                    let site = site_of(tgid, stack);
                    let time_ns = model.now_ns;
                    model.blocks.push(ModelBlock { life, site, address, size_bytes, time_ns, freed: false });
                }
                Step::Free { nth } => {
                    let life_of = &model.life_of;
                    let mut live: Vec<_> = model.blocks.iter_mut()
                        .filter(|block| !block.freed && life_of.get(&block.site.process.tgid) == Some(&block.life))
                        .collect();
                    let count = live.len();
                    if count > 0 {
                        live[nth % count].freed = true;
                    }
                }
                Step::Wait { ms } => model.now_ns += ms * 1_000_000,
                Step::Exit { tgid } => {
                    let Some(&life) = model.life_of.get(&tgid) else { continue };
                    // Two ends never fall on the same nanosecond, so that their order is known.
                    model.now_ns += 1;
                    // It is offered everything, as a reader of the maps would.
let (sites, live) = model.kernel();
                    let mut freezing = tracker.freeze(tgid, 0, State::Exited, model.now_ns);
                    for (key, site) in &sites {
 freezing.add_totals(*key, site);
}
for block in &live {
freezing.add_block(block);
}
                    freezing.finish();
                    model.life_of.remove(&tgid);
                    model.ended_ns[life] = Some(model.now_ns);
                }
                Step::Report => {
                    tracker.begin(model.now_ns);
                    let (sites, live) = model.kernel();
                    for (key, site) in &sites {
 tracker.add_totals(*key, site);
}
for block in &live {
tracker.add_block(block);
}
                    let snapshot = tracker.finish(|site| groups.of(site));
                    let rows = model.rows(settings.older_than_ns, groups, &previous);
                    check(&model, &snapshot, &rows, groups, &settings);
                    check_places(&model, &snapshot, &places);
                    previous = model.live_bytes();
                    places = by_place(&snapshot);
                }
            }
        }
    }
}
