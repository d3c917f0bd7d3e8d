//! Which processes are targets, where they become so by themselves: decided at `exec`, inherited by what is forked, over at
//! the end. In the kernel, because a process that lives for milliseconds is gone before user space can look.
//!
//! Must not know probes, and of blocks only how many a process has.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_uid_gid,
        generated::bpf_probe_read_kernel,
    },
    programs::RawTracePointContext,
};
use leaktrace_common::{
    counter::Counter,
    record::{Thread, Tracked, tracked},
    select::{HIERARCHIES_MAX, NO_HIERARCHY, Property, UNIFIED, kind, verdict},
};

use crate::{
    atomic, config,
    counter::bump,
    lifecycle,
    maps::{CONTROL, LAYOUT_SLOTS, PROCESSES, PROPERTIES},
};

/// Control groups above a process that are looked at.
const LEVELS_MAX: usize = 24;

/// Bytes of a pointer.
const POINTER: u64 = 8;

/// A target that still is one.
#[inline(always)]
pub fn get<'a>(tgid: u32) -> Option<&'a mut Tracked> {
    let process = PROCESSES.get_ptr_mut(tgid)?;
    // SAFETY: a value of the map. What is changed by more than one CPU is changed atomically.
    let process = unsafe { &mut *process };
    (process.state & tracked::LEFT == 0).then_some(process)
}

/// The current process has called `exec`, and this is what it was as a target; whether it is one from now on.
#[inline(always)]
pub fn stays(process: &Tracked) -> bool {
    process.state & tracked::NAMED != 0 || !config::selects() || is_selected()
}

/// The current process has called `exec`, and was no target: it may become one.
#[inline(always)]
pub fn consider(tgid: u32) {
    if config::selects() && is_selected() {
        join(tgid);
    }
}

/// A process has been forked: it is a target if its parent is one.
#[inline(always)]
pub fn forked(ctx: &RawTracePointContext) {
    if !config::selects() {
        return;
    }
    let offsets = config::rules().offsets;
    // include/trace/events/sched.h: TP_PROTO(struct task_struct *parent, struct task_struct *child)
    let parent: u64 = ctx.arg(0);
    let child: u64 = ctx.arg(1);
    let parent_tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let child_tgid = read_u32(child + u64::from(offsets.task_tgid));
    // A thread; or what borrows its parent's memory until it executes something (vfork).
    if child_tgid == parent_tgid
        || read(child + u64::from(offsets.task_mm)) == read(parent + u64::from(offsets.task_mm))
    {
        return;
    }
    if get(parent_tgid).is_some() {
        join(child_tgid);
    }
}

/// The last thread of the current process ends.
#[inline(always)]
pub fn ended() {
    if !config::selects() {
        return;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(process) = get(tgid) else { return };
    let offsets = config::rules().offsets;
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    let signal = read(task + u64::from(offsets.task_signal));
    // Counted down before the tracepoint (kernel/exit.c: `do_exit`). Of two threads that end at once both may see 0.
    if read_u32(signal + u64::from(offsets.signal_live)) == 0 {
        leave(tgid, process);
    }
}

/// A process is a target no more. What user space does not know of goes at once.
#[inline(always)]
pub fn leave(tgid: u32, process: &mut Tracked) {
    if process.state & tracked::TOLD == 0 {
        let _gone: Result<(), i32> = PROCESSES.remove(tgid);
        return;
    }
    process.state |= tracked::LEFT;
    lifecycle::announce_left(tgid, process.image);
}

/// A block of the current process is about to be recorded: whether it may.
#[inline(never)]
pub fn may_record(thread: &mut Thread) -> bool {
    if !config::selects() {
        return true;
    }
    let Some(live) = meet(thread) else { return false };
    if let Some(control) = CONTROL.get(0)
        && live >= control.process_live_max
    {
        bump(Counter::LiveProcessFull);
        return false;
    }
    true
}

/// Something of the current process is about to be recorded: its live blocks, or none if it is a target no more. User space
/// learns of the process by the first, and the thread where the layout is that it has been given since.
#[inline(never)]
pub fn meet(thread: &mut Thread) -> Option<u64> {
    if !config::selects() {
        return Some(0);
    }
    let tgid = thread.process.tgid;
    let process = get(tgid)?;
    if process.state & tracked::TOLD == 0 {
        process.state |= tracked::TOLD;
        lifecycle::announce_joined(tgid, process.image);
    }
    // SAFETY: a copy of a word.
    thread.layout = unsafe { LAYOUT_SLOTS.get(tgid) }.map_or(0, |slot| u64::from(*slot));
    Some(process.live)
}

/// A block of a process has come into the live table, or has gone from it.
#[inline(always)]
pub fn count_block(tgid: u32, came: bool) {
    if !config::selects() {
        return;
    }
    if let Some(process) = PROCESSES.get_ptr_mut(tgid) {
        let by = if came { 1 } else { 1_u64.wrapping_neg() };
        // SAFETY: a word of the map's value, changed in this way alone while blocks can come and go.
        unsafe { atomic::add(&raw mut (*process).live, by) };
    }
}

/// Whether a process may put one more stack into the table; then it is counted.
#[inline(always)]
pub fn takes_stack(tgid: u32) -> bool {
    if !config::selects() {
        return true;
    }
    let (Some(process), Some(control)) = (PROCESSES.get_ptr_mut(tgid), CONTROL.get(0)) else {
        return true;
    };
    // SAFETY: as above.
    unsafe {
        if (*process).stacks >= control.process_stacks_max {
            bump(Counter::StacksProcessFull);
            return false;
        }
        atomic::add(&raw mut (*process).stacks, 1);
    }
    true
}

/// Makes a process a target; one that comes under the number of one that has left is another image.
#[inline(always)]
fn join(tgid: u32) {
    let mut fresh = Tracked {
        image: 0,
        state: 0,
        live: 0,
        stacks: 0,
    };
    if let Some(old) = PROCESSES.get_ptr(tgid) {
        // SAFETY: a word of the map's value; its process has ended.
        fresh.image = unsafe { (*old).image } + 1;
    }
    let tells = CONTROL.get(0).is_some_and(|control| control.tells_at_once != 0);
    if tells {
        fresh.state = tracked::TOLD;
    }
    let flags = if fresh.image == 0 { BPF_NOEXIST } else { BPF_ANY };
    if PROCESSES.insert(tgid, fresh, u64::from(flags)).is_err() {
        bump(Counter::ProcessesFull);
    } else if tells {
        lifecycle::announce_joined(tgid, fresh.image);
    }
}

/// Whether the current process is what is wanted.
#[inline(never)]
fn is_selected() -> bool {
    let rules = config::rules();
    let looks_at = |kind: u32| rules.looked_at & kind != 0;
    let mut verdicts = Verdicts::default();
    if looks_at(kind::PID) {
        let tgid = bpf_get_current_pid_tgid() >> 32;
        verdicts.add(&Property::number(kind::PID, 0, tgid));
    }
    if looks_at(kind::USER) {
        let uid = u64::from(bpf_get_current_uid_gid() as u32);
        verdicts.add(&Property::number(kind::USER, 0, uid));
    }
    if looks_at(kind::COMM)
        && let Ok(comm) = bpf_get_current_comm()
    {
        verdicts.add(&Property {
            kind: kind::COMM,
            hierarchy: 0,
            // SAFETY: 16 bytes either way.
            value: unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(comm) },
        });
    }
    if looks_at(kind::CGROUP) {
        for index in 0..HIERARCHIES_MAX {
            if rules.hierarchies[index] != NO_HIERARCHY {
                add_groups(&mut verdicts, rules.hierarchies[index]);
            }
        }
    }
    !verdicts.left_out && verdicts.wanted & rules.required == rules.required
}

/// What the properties of a process say.
#[derive(Default)]
struct Verdicts {
    /// Kinds of which it has one that is wanted.
    wanted: u32,
    left_out: bool,
}

impl Verdicts {
    #[inline(always)]
    fn add(&mut self, property: &Property) {
        // SAFETY: a copy of a word that user space has written before the programs run.
        if let Some(verdict) = unsafe { PROPERTIES.get(property) } {
            if *verdict & verdict::WANTED != 0 {
                self.wanted |= property.kind;
            }
            self.left_out |= *verdict & verdict::LEFT_OUT != 0;
        }
    }
}

/// The control groups of a hierarchy that the current process is in, from the inside out.
#[inline(always)]
fn add_groups(verdicts: &mut Verdicts, hierarchy: u32) {
    let offsets = config::rules().offsets;
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    let set = read(task + u64::from(offsets.task_cgroups));
    let mut group = if hierarchy == UNIFIED {
        read(set + u64::from(offsets.css_set_unified))
    } else {
        let states = set + u64::from(offsets.css_set_subsys);
        let state = read(states + POINTER * u64::from(hierarchy & 31));
        read(state + u64::from(offsets.css_cgroup))
    };
    for _ in 0..LEVELS_MAX {
        if group == 0 {
            break;
        }
        let folder = read(group + u64::from(offsets.cgroup_kn));
        let inode = read(folder + u64::from(offsets.kn_id));
        verdicts.add(&Property::number(kind::CGROUP, hierarchy, inode));
        let state = group + u64::from(offsets.cgroup_self);
        let parent = read(state + u64::from(offsets.css_parent));
        group = if parent == 0 {
            0
        } else {
            read(parent + u64::from(offsets.css_cgroup))
        };
    }
}

/// A word of the kernel's memory; 0 if it cannot be read.
#[inline(always)]
fn read(address: u64) -> u64 {
    let mut word = 0_u64;
    // SAFETY: the helper checks the address and writes zeros on failure.
    unsafe { bpf_probe_read_kernel((&raw mut word).cast(), 8, address as *const _) };
    word
}

#[inline(always)]
fn read_u32(address: u64) -> u32 {
    let mut word = 0_u32;
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel((&raw mut word).cast(), 4, address as *const _) };
    word
}
