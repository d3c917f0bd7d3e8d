//! The kernel side's tables as user space reads and tends them. Must not know what is made of the
//! numbers.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use leaktrace_common::{
    config::{LIVE_TIER_FIRST, LIVE_TIERS_MAX, LiveTiers, SITE_SHARDS_MAX},
    key::{LiveKey, Process, SiteKey},
    record::{Control, Live, Site, Tracked, tracked},
    select::Property,
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

    /// Takes the blocks of process images that are gone out of the table: one reading of it for all of them.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn take_images(
        &self,
        images: &Images,
    ) -> Result<HashMap<ImageKey, Vec<(LiveKey, Live)>>, TableError> {
        let mut by_image: HashMap<ImageKey, Vec<(LiveKey, Live)>> = HashMap::new();
        for tier in &self.tiers {
            let tier = tier.fd().as_fd();
            let mut gone = Vec::new();
            sys::map_for_each(tier, |key: &LiveKey, block: &Live| {
                let image = image_of(key.process);
                if images.contains(&image) {
                    by_image.entry(image).or_default().push((*key, *block));
                    gone.push(*key);
                }
            })
            .map_err(error("LIVE", "read"))?;
            sys::map_delete_all(tier, &gone).map_err(error("LIVE", "purge"))?;
        }
        Ok(by_image)
    }
}

/// A process image: its process id and its number.
pub type ImageKey = (u32, u16);

/// Some of them.
pub type Images = HashSet<ImageKey>;

const fn image_of(process: Process) -> ImageKey {
    (process.tgid, process.image)
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
    layout_slots: OwnedFd,
    properties: OwnedFd,
    threads: OwnedFd,
    control: OwnedFd,
    /// What is in the last one.
    controls: Cell<Control>,
}

impl Tables {
    /// # Errors
    /// [`LoadError`] when the object lacks the maps.
    pub fn new(kernel: &KernelSide) -> Result<Self, LoadError> {
        Ok(Self {
            sites: kernel.map("SITES")?,
            stacks: kernel.map("STACKS")?,
            processes: kernel.map("PROCESSES")?,
            layout_slots: kernel.map("LAYOUT_SLOTS")?,
            properties: kernel.map("PROPERTIES")?,
            threads: kernel.map("THREADS")?,
            control: kernel.map("CONTROL")?,
            controls: Cell::new(Control {
                mean_bytes: 0,
                process_live_max: u64::MAX,
                process_stacks_max: u64::MAX,
                tells_at_once: 0,
            }),
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
        self.control(Control {
            mean_bytes,
            ..self.controls.get()
        })
    }

    /// Bounds what one process may have of the tables of live blocks and of stacks.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_shares(&self, live_max: u64, stacks_max: u64) -> Result<(), TableError> {
        self.control(Control {
            process_live_max: live_max,
            process_stacks_max: stacks_max,
            ..self.controls.get()
        })
    }

    /// Has user space told of each target as soon as it is one.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn tell_at_once(&self) -> Result<(), TableError> {
        self.control(Control {
            tells_at_once: 1,
            ..self.controls.get()
        })
    }

    fn control(&self, control: Control) -> Result<(), TableError> {
        self.controls.set(control);
        sys::map_update(self.control.as_fd(), &0_u32, &control).map_err(error("CONTROL", "write"))
    }

    /// Has processes with this property chosen, or left out: bits of [`leaktrace_common::select::verdict`].
    ///
    /// # Errors
    /// [`TableError`].
    pub fn judge(&self, property: &Property, verdict: u32) -> Result<(), TableError> {
        sys::map_update(self.properties.as_fd(), property, &verdict).map_err(error("PROPERTIES", "write"))
    }

    /// Makes a process a target, in a `state` of [`tracked`].
    ///
    /// # Errors
    /// [`TableError`].
    pub fn add_process(&self, tgid: u32, state: u32) -> Result<(), TableError> {
        let tracked = Tracked {
            image: 0,
            state,
            live: 0,
            stacks: 0,
        };
        sys::map_update(self.processes.as_fd(), &tgid, &tracked).map_err(error("PROCESSES", "write"))
    }

    /// Says where the layout of a process is: its slot in their array.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_layout(&self, tgid: u32, slot: u32) -> Result<(), TableError> {
        sys::map_update(self.layout_slots.as_fd(), &tgid, &slot).map_err(error("LAYOUT_SLOTS", "write"))
    }

    /// A target as the kernel side knows it.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn process(&self, tgid: u32) -> Result<Option<Tracked>, TableError> {
        sys::map_lookup(self.processes.as_fd(), &tgid).map_err(error("PROCESSES", "read"))
    }

    /// All of them, those that have left included.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn processes(&self) -> Result<Vec<(u32, Tracked)>, TableError> {
        let mut all = Vec::new();
        sys::map_for_each(self.processes.as_fd(), |tgid: &u32, process: &Tracked| {
            all.push((*tgid, *process));
        })
        .map_err(error("PROCESSES", "read"))?;
        Ok(all)
    }

    /// How many threads and stacks there are.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn threads_and_stacks(&self) -> Result<(u64, u64), TableError> {
        let threads = sys::map_count::<u32>(self.threads.as_fd()).map_err(error("THREADS", "read"))?;
        let stacks = sys::map_count::<u64>(self.stacks.as_fd()).map_err(error("STACKS", "read"))?;
        Ok((threads, stacks))
    }

    /// Number of the image a target runs now.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn image(&self, tgid: u32) -> Result<Option<u16>, TableError> {
        Ok(self.process(tgid)?.map(|process| process.image as u16))
    }

    /// Ends a target.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn remove_process(&self, tgid: u32) -> Result<(), TableError> {
        sys::map_delete(self.layout_slots.as_fd(), &tgid).map_err(error("LAYOUT_SLOTS", "write"))?;
        sys::map_delete(self.processes.as_fd(), &tgid).map_err(error("PROCESSES", "write"))
    }

    /// Has the kernel side record no more of a target.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn turn_away(&self, tgid: u32) -> Result<(), TableError> {
        let Some(process) = self.process(tgid)? else {
            return Ok(());
        };
        let process = Tracked {
            state: process.state | tracked::LEFT,
            ..process
        };
        sys::map_update(self.processes.as_fd(), &tgid, &process).map_err(error("PROCESSES", "write"))
    }

    /// Forgets one that has left, unless its number has come to another that is a target: then that one's image is
    /// another.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn forget_left(&self, tgid: u32, image: u16) -> Result<(), TableError> {
        let has_left =
            |process: &Tracked| process.state & tracked::LEFT != 0 && process.image as u16 == image;
        if self.process(tgid)?.is_some_and(|process| has_left(&process)) {
            self.remove_process(tgid)?;
        }
        Ok(())
    }

    /// Takes the sites of process images that are gone out of the table: one reading of it for all of them.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn take_sites(&self, images: &Images) -> Result<HashMap<ImageKey, Vec<(SiteKey, Site)>>, TableError> {
        let mut gone = Vec::new();
        let sums = self.sum_shards(|key| {
            let belongs = images.contains(&image_of(key.process));
            if belongs {
                gone.push(*key);
            }
            belongs
        })?;
        let mut by_image: HashMap<ImageKey, Vec<(SiteKey, Site)>> = HashMap::new();
        for (key, totals) in sums {
            by_image
                .entry(image_of(key.process))
                .or_default()
                .push((key, totals));
        }
        sys::map_delete_all(self.sites.as_fd(), &gone).map_err(error("SITES", "purge"))?;
        Ok(by_image)
    }

    /// Takes stacks out of the table.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn remove_stacks(&self, ids: &[u64]) -> Result<(), TableError> {
        sys::map_delete_all(self.stacks.as_fd(), ids).map_err(error("STACKS", "purge"))
    }
}
