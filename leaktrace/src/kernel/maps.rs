//! The kernel side's tables as user space reads and tends them. Must not know what is made of the
//! numbers.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use leaktrace_common::{
    config::{LIVE_TIER_FIRST, LIVE_TIERS_MAX, LiveTiers, SITE_SHARDS_MAX},
    key::{LiveKey, Process, SiteKey},
    record::{Control, Live, Site, Tracked},
    stack::Stack,
};

use aya::maps::MapData;

use super::{
    object::{KernelSide, LoadError, TierTemplate},
    sys,
};

/// How much larger each tier of the live table is than the one before.
const TIER_GROWTH: u32 = 4;

/// A bpf(2) call on one of the tables failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the kernel's table {table}: {source}; try `leaktrace doctor`")]
pub struct TableError {
    table: &'static str,
    action: &'static str,
    source: io::Error,
}

impl TableError {
    /// A table that could not be read.
    pub const fn reading(table: &'static str, source: io::Error) -> Self {
        Self {
            table,
            action: "read",
            source,
        }
    }
}

pub(super) fn error(table: &'static str, action: &'static str) -> impl FnOnce(io::Error) -> TableError {
    move |source| TableError {
        table,
        action,
        source,
    }
}

/// The table of live blocks.
///
/// A BPF hash map pays for its bucket array when it is made, 16 bytes a bucket, so a table of 10 million
/// blocks would take 268 MB before the first block. It is therefore a row of tiers, each four times the
/// one before, and always one empty tier is ready ahead of the one that fills.
#[derive(Debug)]
pub struct LiveTable {
    template: TierTemplate,
    outer: OwnedFd,
    control: OwnedFd,
    tiers: Vec<MapData>,
    /// Blocks that the tiers not made yet may hold.
    budget: u32,
    current: u32,
}

impl LiveTable {
    /// Makes the first tiers. `max_blocks` bounds the sum of all.
    ///
    /// # Errors
    /// [`LoadError`] when the object lacks the maps or the kernel has no memory for them.
    pub fn new(kernel: &KernelSide, template: TierTemplate, max_blocks: u32) -> Result<Self, LoadError> {
        let mut table = Self {
            template,
            outer: kernel.map("LIVE")?,
            control: kernel.map("LIVE_TIERS")?,
            tiers: Vec::new(),
            budget: max_blocks,
            current: 0,
        };
        table.add_tier()?;
        table.add_tier()?;
        table
            .publish()
            .map_err(|error| LoadError::Maps(error.to_string()))?;
        Ok(table)
    }

    /// Whether a tier was made; `false` at the bound.
    fn add_tier(&mut self) -> Result<bool, LoadError> {
        let index = self.tiers.len() as u32;
        if self.budget == 0 || index == LIVE_TIERS_MAX {
            return Ok(false);
        }
        // The last tier takes all that is left.
        let size = match LIVE_TIER_FIRST.checked_mul(TIER_GROWTH.pow(index)) {
            Some(size) if index + 1 < LIVE_TIERS_MAX => size.min(self.budget),
            _ => self.budget,
        };
        let tier = self.template.create(size)?;
        sys::map_update(
            self.outer.as_fd(),
            &index,
            &(tier.fd().as_fd().as_raw_fd() as u32),
        )
        .map_err(|error| LoadError::Maps(format!("adding a tier to the live table: {error}")))?;
        self.tiers.push(tier);
        self.budget -= size;
        Ok(true)
    }

    fn publish(&self) -> Result<(), TableError> {
        let control = LiveTiers {
            current: self.current,
            count: self.tiers.len() as u32,
            announced: self.current,
            pad: 0,
        };
        sys::map_update(self.control.as_fd(), &0_u32, &control).map_err(error("LIVE_TIERS", "write"))
    }

    /// The kernel side had to put a block into tier `next`: that one is filled from now on, and another
    /// is made ready behind it.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn advance(&mut self, next: u32) -> Result<(), LoadError> {
        if next <= self.current || next as usize >= self.tiers.len() {
            return Ok(());
        }
        self.current = next;
        self.publish()
            .map_err(|error| LoadError::Maps(error.to_string()))?;
        if self.tiers.len() as u32 == next + 1 {
            self.add_tier()?;
            self.publish()
                .map_err(|error| LoadError::Maps(error.to_string()))?;
        }
        Ok(())
    }

    /// Hands every live block to `each`. Blocks that stay while it runs are seen exactly once.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn for_each(&self, mut each: impl FnMut(&LiveKey, &Live)) -> Result<(), TableError> {
        for tier in &self.tiers {
            sys::map_for_each(tier.fd().as_fd(), &mut each).map_err(error("LIVE", "read"))?;
        }
        Ok(())
    }

    /// Takes a block out of the table, if it is still the one that was read there. Should its address be handed out
    /// again just then, the new block may go with it.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn take(&self, key: &LiveKey, block: &Live) -> Result<bool, TableError> {
        for tier in &self.tiers {
            let tier = tier.fd().as_fd();
            let there: Option<Live> = sys::map_lookup(tier, key).map_err(error("LIVE", "read"))?;
            if there.is_some_and(|there| there == *block) {
                sys::map_delete(tier, key).map_err(error("LIVE", "purge"))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes the blocks of a process image that is gone out of the table, handing each to `each`.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn take_image(
        &self,
        tgid: u32,
        image: u16,
        mut each: impl FnMut(&LiveKey, &Live),
    ) -> Result<(), TableError> {
        for tier in &self.tiers {
            let tier = tier.fd().as_fd();
            let mut gone = Vec::new();
            sys::map_for_each(tier, |key: &LiveKey, block: &Live| {
                if belongs(key.process, tgid, image) {
                    each(key, block);
                    gone.push(*key);
                }
            })
            .map_err(error("LIVE", "read"))?;
            sys::map_delete_all(tier, &gone).map_err(error("LIVE", "purge"))?;
        }
        Ok(())
    }
}

pub(super) const fn belongs(process: Process, tgid: u32, image: u16) -> bool {
    process.tgid == tgid && process.image == image
}

/// Shards that a site is kept in: one for each CPU, up to a bound.
pub fn site_shards() -> u32 {
    // Where the number cannot be read, more than needed do no harm.
    let cpus = aya::util::nr_cpus().map_or(SITE_SHARDS_MAX, |cpus| cpus as u32);
    cpus.next_power_of_two().min(SITE_SHARDS_MAX)
}

/// A stack as the kernel side has kept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptStack {
    /// Its native frames, from the inside out.
    pub frames: Box<[u64]>,
    /// Key of the outermost part of its Python frames ([`leaktrace_common::python::PythonPart`]); 0 for none.
    pub python: u64,
    /// What became of these: one of [`leaktrace_common::python::python_end`].
    pub python_end: u16,
}

/// Sites, stacks and traced processes.
#[derive(Debug)]
pub struct Tables {
    sites: OwnedFd,
    stacks: OwnedFd,
    processes: OwnedFd,
    control: OwnedFd,
}

impl Tables {
    /// # Errors
    /// [`LoadError`] when the object lacks the maps.
    pub fn new(kernel: &KernelSide) -> Result<Self, LoadError> {
        Ok(Self {
            sites: kernel.map("SITES")?,
            stacks: kernel.map("STACKS")?,
            processes: kernel.map("PROCESSES")?,
            control: kernel.map("CONTROL")?,
        })
    }

    /// Totals of all sites, the shards of each summed.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn for_each_site(&self, mut each: impl FnMut(&SiteKey, &Site)) -> Result<(), TableError> {
        for (key, totals) in &self.sum_shards(|_| true)? {
            each(key, totals);
        }
        Ok(())
    }

    fn sum_shards(
        &self,
        mut wanted: impl FnMut(&SiteKey) -> bool,
    ) -> Result<HashMap<SiteKey, Site>, TableError> {
        let mut sums = HashMap::new();
        sys::map_for_each(self.sites.as_fd(), |key: &SiteKey, shard: &Site| {
            if wanted(key) {
                let key = SiteKey { shard: 0, ..*key };
                sums.entry(key).or_insert(Site::EMPTY).add(shard);
            }
        })
        .map_err(error("SITES", "read"))?;
        Ok(sums)
    }

    /// A stack; `None` when it is not in the table.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn stack(&self, id: u64) -> Result<Option<KeptStack>, TableError> {
        let stack: Option<Stack> =
            sys::map_lookup(self.stacks.as_fd(), &id).map_err(error("STACKS", "read"))?;
        Ok(stack.map(|stack| KeptStack {
            frames: stack.frames[..(stack.len as usize).min(stack.frames.len())].into(),
            python: stack.python,
            python_end: stack.python_end,
        }))
    }

    /// Sets the mean gap between two samples of a thread; 0 records every allocation.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_mean(&self, mean_bytes: u64) -> Result<(), TableError> {
        sys::map_update(self.control.as_fd(), &0_u32, &Control { mean_bytes })
            .map_err(error("CONTROL", "write"))
    }

    /// Makes a process a target. `layout` is its slot in the array of layouts.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn add_process(&self, tgid: u32, layout: u32) -> Result<(), TableError> {
        let tracked = Tracked { image: 0, layout };
        sys::map_update(self.processes.as_fd(), &tgid, &tracked).map_err(error("PROCESSES", "write"))
    }

    /// Number of the image a target runs now.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn image(&self, tgid: u32) -> Result<Option<u16>, TableError> {
        let tracked: Option<Tracked> =
            sys::map_lookup(self.processes.as_fd(), &tgid).map_err(error("PROCESSES", "read"))?;
        Ok(tracked.map(|tracked| tracked.image as u16))
    }

    /// Ends a target.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn remove_process(&self, tgid: u32) -> Result<(), TableError> {
        sys::map_delete(self.processes.as_fd(), &tgid).map_err(error("PROCESSES", "write"))
    }

    /// Takes the sites of a process image that is gone out of the table, handing each to `each`.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn take_sites(
        &self,
        tgid: u32,
        image: u16,
        mut each: impl FnMut(&SiteKey, &Site),
    ) -> Result<(), TableError> {
        let mut gone = Vec::new();
        let sums = self.sum_shards(|key| {
            let belongs = belongs(key.process, tgid, image);
            if belongs {
                gone.push(*key);
            }
            belongs
        })?;
        for (key, totals) in &sums {
            each(key, totals);
        }
        sys::map_delete_all(self.sites.as_fd(), &gone).map_err(error("SITES", "purge"))
    }
}
