//! Functions that are not probed for a while, in all traced processes. Those of GPU memory are not among them.
//!
//! Must not know why.

use std::{collections::BTreeSet, sync::Arc};

use leaktrace_common::call::Op;

use super::{
    host::Part,
    pauser::{Pauser, Placed, Wanted},
    set::TracedSet,
};
use crate::{
    probe::{
        attach::{ALL, AttachError, Links},
        elf::Function,
        gear::Gear,
        process as proc,
    },
    report::model::State,
    symbol::objects::ObjectId,
};

impl TracedSet {
    /// Probes functions of an object in a process, as [`Self::links_for`]; no links where they are probed for all.
    pub(super) fn links_of(
        &mut self,
        pid: u32,
        object: ObjectId,
        gear: Gear,
        functions: &[Function],
    ) -> Result<Vec<(Option<u16>, Links)>, AttachError> {
        if self.is_for_all(object) {
            self.place_for_all(object, Part::Of(gear), functions)?;
            return Ok(Vec::new());
        }
        self.links_for(pid, object, functions)
    }

    /// Probes functions of an object in a process or in all, with links for each function where each can be paused, else
    /// for all of them. All or, on an error, none. The links that are to be dropped first come first.
    pub(super) fn links_for(
        &self,
        pid: u32,
        object: ObjectId,
        functions: &[Function],
    ) -> Result<Vec<(Option<u16>, Links)>, AttachError> {
        let path = self.catalog.usable_path(object).unwrap_or_default();
        if self.pauser.is_none() {
            return Ok(vec![(None, self.attacher.attach(&path, pid, functions)?)]);
        }
        let mut links = Vec::new();
        for function in in_order(functions) {
            let slot = function.cookie.slot();
            if !self.out.contains(&slot) {
                let function = std::slice::from_ref(function);
                links.push((Some(slot), self.attacher.attach(&path, pid, function)?));
            }
        }
        // The reverse of the order in which they came.
        links.reverse();
        Ok(links)
    }

    /// From here on each function has links of its own, so that it can be paused.
    pub fn allow_pauses(&mut self) {
        self.pauser = Some(Pauser::new(Arc::clone(&self.attacher)));
    }

    /// Has these functions, by slot, not probed from now on and all others probed. It is begun here; see [`Self::settle`].
    pub fn pause(&mut self, out: &BTreeSet<u16>) {
        let gone: BTreeSet<u16> = out.difference(&self.out).copied().collect();
        let mut links = self.host.take_functions(&gone);
        let mut wanted = self.missing_for_all(out);
        let for_all: BTreeSet<(ObjectId, Gear)> = self
            .processes
            .values()
            .flat_map(|traced| traced.placed().collect::<Vec<_>>())
            .filter(|(object, _)| self.is_for_all(*object))
            .collect();
        let Some(pauser) = &mut self.pauser else { return };
        for traced in self.processes.values_mut() {
            links.extend(traced.take_functions(&gone));
            for (object, gear) in traced.placed().filter(|placed| !for_all.contains(placed)) {
                let Some(scan) = self.catalog.scan(object) else {
                    continue;
                };
                let path = self.catalog.usable_path(object).unwrap_or_default();
                let missing = |function: &&Function| {
                    let slot = function.cookie.slot();
                    self.out.contains(&slot) && !out.contains(&slot) && !traced.has(object, slot)
                };
                wanted.extend(
                    in_order(scan.of(gear).0)
                        .into_iter()
                        .filter(missing)
                        .map(|function| Wanted {
                            pid: traced.pid,
                            object,
                            path: path.clone(),
                            function: function.clone(),
                        }),
                );
            }
        }
        self.out.clone_from(out);
        pauser.take_out(links);
        pauser.put_in(wanted);
    }

    /// Takes over what [`Self::pause`] has brought about: functions that are probed again, with the time
    /// (nanoseconds of `CLOCK_BOOTTIME`).
    pub fn settle(&mut self) -> Vec<(u16, u64)> {
        let placed = self.pauser.as_mut().map(Pauser::poll).unwrap_or_default();
        self.take_over(placed)
    }

    fn take_over(&mut self, placed: Vec<Placed>) -> Vec<(u16, u64)> {
        let mut back = Vec::new();
        let mut surplus = Vec::new();
        for one in placed {
            match one.links {
                Ok(links) => {
                    let wanted = !self.out.contains(&one.slot);
                    let slot = self.catalog.slots.get(one.slot);
                    let gear = slot.map_or(Gear::Heap, |slot| Gear::of(slot.space));
                    if one.pid == ALL {
                        if wanted && self.wants_for_all(one.object, gear, one.slot) {
                            self.host.keep(one.object, Part::Of(gear), Some(one.slot), links);
                            back.push((one.slot, one.at_ns));
                        } else {
                            surplus.push(links);
                        }
                        continue;
                    }
                    let process = self.processes.get_mut(&one.pid).filter(|traced| {
                        wanted
                            && traced.state == State::Running
                            && traced.placed().any(|placed| placed == (one.object, gear))
                            && !traced.has(one.object, one.slot)
                    });
                    match process {
                        Some(traced) => traced.keep(one.object, gear, Some(one.slot), links),
                        None => surplus.push(links),
                    }
                    if wanted {
                        back.push((one.slot, one.at_ns));
                    }
                }
                Err(error) if one.pid == ALL || proc::is_alive(one.pid) => {
                    self.warnings.push(error.to_string());
                }
                Err(_) => {}
            }
        }
        if let Some(pauser) = &mut self.pauser {
            pauser.take_out(surplus);
        }
        back
    }

    /// Waits for all that was begun.
    pub(super) fn settle_all(&mut self) {
        let placed = self.pauser.as_mut().map(Pauser::wait).unwrap_or_default();
        self.take_over(placed);
    }

    /// Whether all that was begun by [`Self::pause`] is done.
    pub fn is_settled(&self) -> bool {
        self.pauser.as_ref().is_none_or(Pauser::is_settled)
    }
}

/// In the order in which they are probed: a block recorded before its free is watched would look like a leak.
pub(super) fn in_order(functions: &[Function]) -> Vec<&Function> {
    let mut functions: Vec<&Function> = functions.iter().collect();
    functions.sort_by_key(|function| match function.shape.op {
        Op::Free => 0,
        Op::Realloc => 1,
        Op::Alloc => 2,
    });
    functions
}
