//! Keeps the kernel side's layouts true to what the traced processes have mapped.
//!
//! Must not know what a table or a layout is made of.

use std::collections::HashSet;

use super::{
    host::Part,
    process::Traced,
    set::{TracedSet, code},
};
use crate::{
    kernel::{clock::now_ns, maps::Tables},
    probe::{
        attach::{ALL, Links},
        elf::Scan,
        process as proc,
    },
    report::model::State,
    symbol::objects::ObjectId,
    unwind::{Due, Missed, Unwinder},
};

impl TracedSet {
    /// Loads the tables of files; returns when they are there.
    pub(super) fn prepare(&mut self, objects: &[ObjectId]) {
        if let Some(unwinder) = &mut self.unwinder {
            unwinder
                .files()
                .prepare(&self.catalog.objects, objects.iter().copied());
        }
    }

    /// Tells the kernel side what a process has mapped, and of the Python interpreter in it. Whether what is mapped was
    /// new to it.
    pub(super) fn publish(&mut self, traced: &mut Traced) -> bool {
        let is_new = self.unwinder.as_mut().is_some_and(|unwinder| {
            let image = traced.image();
            let (_, mappings) = traced.of_image(image);
            unwinder.publish(traced.pid, image, mappings, &self.catalog.objects, now_ns())
        });
        self.find_interpreter(traced);
        is_new
    }

    /// The same of a process by its number.
    pub(super) fn publish_again(&mut self, pid: u32) {
        if let Some(mut traced) = self.processes.remove(&pid) {
            if traced.state == State::Running {
                self.publish(&mut traced);
            }
            self.processes.insert(pid, traced);
        }
    }

    /// A process is not traced any more.
    pub(super) fn forget(&mut self, pid: u32) {
        self.clear_interpreter(pid);
        if let Some(unwinder) = &mut self.unwinder {
            unwinder.forget(pid, now_ns());
        }
    }

    /// Takes over unwind tables that have been loaded meanwhile.
    pub fn settle_tables(&mut self) {
        let waiting = self
            .unwinder
            .as_mut()
            .map(Unwinder::take_over)
            .unwrap_or_default();
        for pid in waiting {
            self.publish_again(pid);
        }
    }

    /// The kernel side has met an address that is in no mapping it knows of.
    pub fn unknown_address(&mut self, pid: u32) {
        if let Some(unwinder) = &mut self.unwinder {
            unwinder.unknown(pid, now_ns());
        }
    }

    /// The dynamic linker of a process has unmapped libraries.
    pub fn unmapped(&mut self, pid: u32) {
        if let Some(unwinder) = &mut self.unwinder {
            unwinder.unmapped(pid, now_ns());
        }
    }

    /// Has the kernel side told when the dynamic linker of a process unmaps libraries, if the object is that linker. What
    /// was unmapped before is looked for once more. Where that cannot be, tracing goes on: stacks through libraries that
    /// take each other's place may then be wrong, which is said.
    pub(super) fn watch_linker(&mut self, traced: &mut Traced, object: ObjectId, scan: &Scan) {
        let Some(linker) = scan.linker.as_ref().filter(|_| self.unwinder.is_some()) else {
            return;
        };
        if traced.is_linker_watched() {
            return;
        }
        let for_all = self.is_for_all(object);
        if for_all && self.host.has(object, Part::Linker) {
            traced.watch_linker(object, Links::default());
            return;
        }
        let path = self.catalog.usable_path(object).unwrap_or_default();
        let pid = if for_all { ALL } else { traced.pid };
        let Some(unwinder) = &mut self.unwinder else {
            return;
        };
        match self.attacher.watch_linker(&path, pid, linker) {
            Ok(links) => {
                if for_all {
                    self.host.keep(object, Part::Linker, None, links);
                    traced.watch_linker(object, Links::default());
                } else {
                    traced.watch_linker(object, links);
                }
                unwinder.unmapped(traced.pid, now_ns());
            }
            Err(error) if proc::is_alive(traced.pid) => self.warnings.push(format!(
                "stacks through libraries that process {} closes may be wrong: {error}",
                traced.pid
            )),
            Err(_) => {}
        }
    }

    /// When [`Self::look_again`] has something to do next, nanoseconds of `CLOCK_BOOTTIME`.
    pub fn look_again_ns(&self) -> Option<u64> {
        self.unwinder.as_ref()?.due_ns()
    }

    /// Looks once more at what processes have mapped, those of which that is due.
    pub fn look_again(&mut self, tables: &Tables) {
        let due = self
            .unwinder
            .as_mut()
            .map(|unwinder| unwinder.take_due(now_ns()))
            .unwrap_or_default();
        for due in due {
            match due {
                Due::Again(pid) => self.publish_again(pid),
                Due::Look(pid) => {
                    let Some(mut traced) = self.processes.remove(&pid) else {
                        continue;
                    };
                    let found = self.look(&mut traced, tables);
                    let changed = found.is_some() && self.publish(&mut traced);
                    if let Some(unwinder) = &mut self.unwinder {
                        unwinder.looked(pid, changed, now_ns());
                    }
                    // Only what the side-band has not told of is not probed yet: nothing, unless it has lost records.
                    for object in found.into_iter().flatten() {
                        self.probe_late(&mut traced, object);
                    }
                    self.processes.insert(pid, traced);
                }
            }
        }
    }

    /// Takes over what `/proc` says is mapped, and what is not any more. The objects; `None` when that cannot be known
    /// to be of the image that is known of.
    fn look(&mut self, traced: &mut Traced, tables: &Tables) -> Option<Vec<ObjectId>> {
        let pid = traced.pid;
        let is_of_image =
            |traced: &Traced| tables.image(pid).is_ok_and(|image| image == Some(traced.image()));
        // What an exec maps first is still to be told of, and says whether the program may be probed.
        let is_new = traced.exe.is_none();
        if traced.state != State::Running || traced.refused || is_new || !is_of_image(traced) {
            return None;
        }
        let closes = self.unwinder.as_ref()?.closes(pid)?;
        let from_ns = now_ns();
        let maps = proc::mappings(pid).ok()?;
        // An exec meanwhile: this is of the next image, and the side-band will tell of it.
        if !is_of_image(traced) {
            return None;
        }
        let code_now = maps.iter().filter(|mapping| mapping.executable);
        let mut objects = Vec::new();
        let mut found = Vec::new();
        for mapping in code_now {
            let object = self.catalog.of_mapping(pid, mapping);
            objects.extend(object);
            found.push(code(mapping, object));
        }
        traced.replace_code(found);
        // What the side-band tells of the time before is in it already, and what has gone since must not come back.
        traced.known_from(from_ns);
        if let Some(unwinder) = &mut self.unwinder {
            unwinder.looked_from(pid, closes);
        }
        let mut seen = HashSet::new();
        objects.retain(|object| seen.insert(*object));
        Some(objects)
    }

    /// Lets the kernel side send more stacks for user space to finish.
    pub fn grant_stacks(&mut self) {
        if let Some(unwinder) = &mut self.unwinder {
            unwinder.grant();
        }
    }

    /// What did not fit into the kernel's arrays of unwind tables.
    pub fn missed(&self) -> Missed {
        self.unwinder
            .as_ref()
            .map_or_else(Missed::default, |unwinder| unwinder.missed)
    }
}
