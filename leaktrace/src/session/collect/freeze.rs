//! What process images hold that have ended: taken out of the kernel's tables, and kept as it is at that moment.
//!
//! Must not know why an image has ended.

use std::{collections::HashMap, path::Path, sync::PoisonError};

use leaktrace_common::{
    call::Space,
    key::{LiveKey, SiteKey},
    record::{Live, Site},
};

use super::{Collector, HandedOut, walks::Walks, with_freed};
use crate::{
    kernel::{
        clock::now_ns,
        maps::{ImageKey, Images, TableError},
    },
    report::model::State,
    session::{ended::Ended, gpu::Left, python::of_targets},
    traced::set::TracedSet,
    track::{Image, LiveBlock},
};

/// Stacks of images that have ended that may stay in their table, of the 262 144 it has room for.
const DOOMED_MAX: usize = 1 << 14;

/// What the tables had of an image that has ended.
struct Remains {
    sites: Vec<(SiteKey, Site)>,
    blocks: Vec<(LiveKey, Live)>,
}

impl Collector {
    /// A process image has ended: what it holds is kept as it is now, and the kernel's records of it go.
    ///
    /// # Errors
    /// [`TableError`].
    pub(in crate::session) fn freeze(
        &mut self,
        traced: &TracedSet,
        pid: u32,
        image: u16,
        state: State,
    ) -> Result<(), TableError> {
        self.freeze_all(traced, &[(pid, image)], state)
    }

    /// The same of many, in one reading of the tables.
    ///
    /// # Errors
    /// [`TableError`].
    pub(in crate::session) fn freeze_all(
        &mut self,
        traced: &TracedSet,
        ended: &[ImageKey],
        state: State,
    ) -> Result<(), TableError> {
        // What of them is still to be walked needs the table of stacks, from which theirs go.
        self.receive_stacks();
        self.finish_stacks(traced)?;
        self.catch_up();
        for &(pid, image) in ended {
            if let (Some(pools), Some(process)) = (&mut self.pools, traced.get(pid)) {
                let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
                pools.end(&live, process, image, now_ns())?;
            }
        }
        let images: Images = ended.iter().copied().collect();
        let mut sites = self.tables.take_sites(&images)?;
        let holds = |(_, totals): &(SiteKey, Site)| totals.allocs > totals.frees;
        // A sweep of the whole table for processes that have left nothing is spared: children that live for milliseconds
        // end by the thousand.
        let mut blocks = if sites.values().flatten().any(holds) || self.pools.is_some() {
            let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.take_images(&images)?
        } else {
            HashMap::new()
        };
        for &image in ended {
            let left = Remains {
                sites: sites.remove(&image).unwrap_or_default(),
                blocks: blocks.remove(&image).unwrap_or_default(),
            };
            self.freeze_one(traced, image, state, &left)?;
        }
        Ok(())
    }

    /// Takes stacks of images that have ended out of their table when there are many: the next report may be far.
    ///
    /// # Errors
    /// [`TableError`].
    pub(in crate::session) fn purge_stacks(&mut self) -> Result<(), TableError> {
        if self.doomed.len() < DOOMED_MAX {
            return Ok(());
        }
        self.tables.for_each_site(|key, _| {
            // What was forked has its parent's addresses, and so its stacks.
            self.doomed.remove(&key.stack_id);
        })?;
        let gone: Vec<u64> = self.doomed.drain().collect();
        self.tables.remove_stacks(&gone)
    }

    /// Takes what belongs to these images out of the tables, for nobody.
    ///
    /// # Errors
    /// [`TableError`].
    pub(in crate::session) fn discard(&mut self, images: &Images) -> Result<(), TableError> {
        if images.is_empty() {
            return Ok(());
        }
        let sites = self.tables.take_sites(images)?;
        let stacks = sites.values().flatten().map(|(key, _)| key.stack_id);
        self.doomed.extend(stacks.filter(|&id| id != 0));
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.take_images(images)?;
        Ok(())
    }

    fn freeze_one(
        &mut self,
        traced: &TracedSet,
        (pid, image): ImageKey,
        state: State,
        kept: &Remains,
    ) -> Result<(), TableError> {
        let pools = self.pools.as_ref();
        let mut freezing = self.tracker.freeze(pid, image, state, now_ns());
        let interpreters = of_targets(traced);
        let mut failed = None;
        let mut has_gpu = traced
            .get(pid)
            .is_some_and(|process| process.gpu.probed().next().is_some());
        for (key, totals) in &kept.sites {
            has_gpu |= Space::of(key.process.space).is_some_and(Space::is_gpus);
            let handed_out = self.handed_out_ended.entry(key.call).or_default();
            handed_out.add(HandedOut::of_site(totals));
            freezing.add_totals(*key, &with_freed(pools, key, totals));
            let mut of_ends = Walks {
                ends: &mut self.ends_ended,
                stacks: &mut self.stacks,
                python: &mut self.python_ended,
                outcomes: &mut self.outcomes,
                interpreters: &interpreters,
            };
            failed = of_ends
                .add(&self.tables, traced, key, totals)
                .err()
                .or(failed.take());
            if traced.follows_members() && key.stack_id != 0 {
                self.doomed.insert(key.stack_id);
                if totals.allocs > totals.frees {
                    self.stacks.read(&self.tables, key.stack_id)?;
                }
            }
        }
        if let Some(pools) = &mut self.pools {
            pools.forget(pid, image);
        }
        self.stacks.forget(pid, image);
        for (key, block) in &kept.blocks {
            self.unsure_ended.add_older(self.unsure_before_ns, block);
            freezing.add_block(&LiveBlock::new(key, block));
        }
        let left = match &self.gpu {
            Some(gpu) if has_gpu => gpu.take_image(pid, image, |block| freezing.add_block(block))?,
            Some(gpu) => {
                gpu.forget(pid, image)?;
                Left::default()
            }
            None => Left::default(),
        };
        let end = freezing.finish();
        let is_shown = end.is_kept || left.is_something();
        if let Some(gpu) = &mut self.gpu {
            gpu.keep(left, pid, image, state, end.id);
        }
        if is_shown && let Some(process) = traced.get(pid) {
            let (comm, mappings) = process.of_image(image);
            let ended = Ended {
                comm: comm.to_owned(),
                exe: process.exe_of_image(image).map(Path::to_owned),
                mappings: mappings.clone(),
                whereabout: self.whereabouts.get(pid).cloned().unwrap_or_default(),
            };
            let of = Image {
                tgid: pid,
                image,
                frozen: Some(end.id),
            };
            self.ended.keep(of, ended, end.is_kept);
        }
        if !is_shown {
            // Nothing of it is shown any more: of children that live for milliseconds nothing is to stay.
            traced.codes.forget(pid, image);
        }
        self.shed(traced)?;
        failed.map_or(Ok(()), Err)
    }
}
