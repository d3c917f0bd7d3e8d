//! Members of a selection during a run: those that run at its start, those that join, those that leave.
//!
//! Must not know by what they are chosen, nor how one is probed.

use std::collections::{BTreeMap, HashSet};

use leaktrace_common::record::tracked;
use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Duration, Instant},
};

use super::{
    Session,
    shares::share,
    start::{Running, STACKS_OF_PROCESS},
};
use crate::{
    config::{Config, Scope, defaults},
    error::Error,
    kernel::maps::{ImageKey, Images, TableError, Tables},
    report::model::State,
    select::{self, Selected},
    traced::{host::Reach, process::Traced, set::TracedSet},
};

/// How long members that have left wait for others, so that the tables are read once for all of them.
const TOGETHER: Duration = Duration::from_millis(200);

/// How often a process that executes one program after the other is looked after before it is taken as it is.
const FOLLOWED_MAX: usize = 4;

/// Members that have left and are still in the tables: the last image of each.
#[derive(Debug, Default)]
pub(super) struct Departed {
    images: BTreeMap<u32, u16>,
    /// Images that members had replaced before they were taken in.
    replaced: Vec<ImageKey>,
    due: Option<Instant>,
}

impl Departed {
    fn add(&mut self, pid: u32, image: u16) {
        self.images.insert(pid, image);
        self.wait();
    }

    fn wait(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + TOGETHER);
    }

    /// When they are to be taken out of the tables.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// Tells the kernel side of the members that run, and probes what they map.
///
/// # Errors
/// [`Error`].
pub(super) fn take_in(
    traced: &mut TracedSet,
    config: &Config,
    selected: &mut Selected,
    tables: &Tables,
) -> Result<(), Error> {
    let mut members: HashSet<u32> = HashSet::new();
    // What the first look finds may fork before the kernel side knows of it.
    for _ in 0..2 {
        for pid in selected.running() {
            if members.insert(pid) && tables.process(pid)?.is_none() {
                let named = selected.selection.pids.contains(&pid);
                tables.add_process(pid, if named { tracked::NAMED } else { 0 })?;
            }
        }
    }
    traced.follow_members(selected.selection.all && selected.selection.wanted.is_empty());
    let reach = match config.scope {
        Scope::Host => Reach::Host,
        Scope::Process => Reach::Targets,
        Scope::Auto
            if selected.selection.all || members.is_empty() || members.len() > defaults::PROCESSES_FEW =>
        {
            Reach::Host
        }
        Scope::Auto => Reach::Private,
    };
    traced.reach(reach, &members);
    if reach != Reach::Host {
        tables.tell_at_once()?;
    }
    // A container has a C library of its own as a rule, and who else maps that is in a container of the same image.
    let is_elsewhere = !selected.selection.wanted.containers.is_empty() && !members.is_empty();
    if reach == Reach::Host && !is_elsewhere {
        // What starts later maps the same C library as all others, and may be gone before it can be looked at.
        let all = select::running();
        traced.place_files_of(&all.iter().map(|process| process.pid).collect());
    } else {
        traced.place_files_of(&members);
    }
    traced.note_running(&members);
    if reach != Reach::Host {
        for &pid in &members {
            traced.join(pid, 0, tables)?;
        }
        // What they use was mapped before the trace began: nothing of it is late.
        traced.unseen.objects_late = 0;
    }
    // Nothing was to be recorded of those that ran already.
    traced.unseen.objects_late = 0;
    Ok(())
}

impl Session<'_> {
    /// Follows what processes have done, up to the image that the kernel side knows this one by.
    fn follow_all_of(&mut self, pid: u32, ended: &UnboundedSender<u32>) -> Result<u16, Error> {
        let mut image = None;
        for _ in 0..FOLLOWED_MAX {
            image = self.running.collector.tables().image(pid)?;
            self.follow(ended)?;
            if self.running.collector.tables().image(pid)? == image {
                break;
            }
        }
        Ok(image.unwrap_or_default())
    }

    /// A member has something recorded.
    pub(super) fn member_joined(&mut self, pid: u32, ended: &UnboundedSender<u32>) -> Result<(), Error> {
        let told = self.follow_all_of(pid, ended)?;
        if self.running.departed.images.contains_key(&pid) {
            // Its number has come again.
            self.settle_departed()?;
        }
        let Running {
            traced,
            collector,
            departed,
            ..
        } = &mut self.running;
        let runs = traced
            .get(pid)
            .is_some_and(|process| process.state == State::Running);
        if !runs {
            // Its number may have been another's.
            let cgroups = traced.cgroups_of_newcomer(pid);
            collector.whereabouts.joined(pid, cgroups.as_deref());
        }
        if traced.join(pid, told, collector.tables())? && traced.needs_own_probes() {
            traced.unseen.forks_followed_late += 1;
        }
        if !runs && let Some(process) = traced.get(pid).filter(|process| process.image() > 0) {
            departed
                .replaced
                .extend((0..process.image()).map(|image| (pid, image)));
            departed.wait();
        }
        Ok(())
    }

    /// Shares the table of live blocks out among those that have any.
    pub(super) fn share_tables(&self) -> Result<(), TableError> {
        let Running {
            traced, collector, ..
        } = &self.running;
        let Some(sizes) = collector.sizes else {
            return Ok(());
        };
        let running = traced.iter().filter(|process| process.state == State::Running);
        let share = share(
            self.config.max_live.into(),
            self.config.max_live_per_process.into(),
            sizes.live,
            running.count() as u64,
        );
        collector.tables().set_shares(share, STACKS_OF_PROCESS)
    }

    /// Members that have become something that must not be probed leave.
    pub(super) fn turn_away(&mut self) -> Result<(), TableError> {
        let Running {
            traced,
            collector,
            departed,
            ..
        } = &mut self.running;
        for pid in traced.take_turned_away() {
            let tables = collector.tables();
            if let Some(image) = tables.image(pid)? {
                tables.turn_away(pid)?;
                departed.add(pid, image);
            }
        }
        Ok(())
    }

    /// A member has left.
    pub(super) fn member_left(&mut self, pid: u32, image: u16) {
        self.running.departed.add(pid, image);
    }

    /// Takes those that have left out of the tables; what they held stays as "live at exit".
    pub(super) fn settle_departed(&mut self) -> Result<(), Error> {
        let Departed { images, replaced, .. } = std::mem::take(&mut self.running.departed);
        if images.is_empty() && replaced.is_empty() {
            return Ok(());
        }
        let Running {
            traced, collector, ..
        } = &mut self.running;
        if !replaced.is_empty() {
            collector.freeze_all(traced, &replaced, State::Replaced)?;
        }
        let mut gone: Vec<ImageKey> = Vec::new();
        let mut refused = Images::new();
        for (&pid, &image) in &images {
            let cgroups = traced.cgroups_of_newcomer(pid);
            let is_known = traced.get(pid).is_some() || traced.join_gone(pid, image);
            if is_known {
                collector.whereabouts.joined_once(pid, cgroups.as_deref());
            }
            let known = traced.get(pid).map_or(image, Traced::image);
            let of_process = (known.min(image)..=image).map(|image| (pid, image));
            if is_known {
                gone.extend(of_process);
                // A later image is that of another process, which has its number now.
                if known <= image {
                    traced.leave(pid);
                }
            } else {
                refused.extend(of_process);
            }
        }
        collector.freeze_all(traced, &gone, State::Exited)?;
        collector.discard(&refused)?;
        collector.purge_stacks()?;
        for (&pid, &image) in &images {
            collector.tables().forget_left(pid, image)?;
            if traced.get(pid).is_some() {
                collector.ended.end(pid);
            }
        }
        for (pid, image) in images {
            self.end_census(pid, image, State::Exited);
        }
        self.forget();
        Ok(())
    }

    /// Sees to members of which nothing was told, because the ring of events was full.
    pub(super) fn look_for_members(&mut self) -> Result<(), TableError> {
        let Running {
            traced,
            collector,
            departed,
            ..
        } = &mut self.running;
        if !traced.follows_members() {
            return Ok(());
        }
        for (pid, process) in collector.tables().processes()? {
            let image = process.image as u16;
            if process.state & tracked::LEFT != 0 {
                departed.images.entry(pid).or_insert(image);
            } else if process.state & tracked::TOLD != 0 && traced.get(pid).is_none() {
                traced.join(pid, image, collector.tables())?;
            }
        }
        Ok(())
    }
}
