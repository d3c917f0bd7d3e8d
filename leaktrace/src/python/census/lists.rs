//! The collector's lists of objects, walked while the program changes them.
//!
//! Every link is checked: the next object says that this one is before it. Where that does not hold, memory of two
//! moments met; the walk reads the place again, and if the object has gone, goes back to one that is still in the list.
//! Must not know what the objects are, beyond that they have a type.

use std::thread;
use std::time::{Duration, Instant};

use super::layout::{GC_HEAD_BYTES, GENERATIONS, Layout, Lists};
use super::pools::Seeds;
use super::snapshot::Snapshot;
use super::types::{Type, Types};
use super::{Why, sizes};

/// Looks for an interpreter's lists, and the pause between two.
const FIND_TRIES: u32 = 40;
const FIND_PAUSE: Duration = Duration::from_micros(200);

/// Between two looks at whether the collector still runs.
const COLLECTING_POLL: Duration = Duration::from_micros(500);

/// Steps that can be taken back.
const TRAIL: usize = 4096;

/// Repairs of a list beyond which it is given up: so many, and one in [`NODES_A_REPAIR`] objects.
const REPAIRS_MAX: u64 = 4096;
const NODES_A_REPAIR: u64 = 8;

/// Objects between two looks at the clock.
const NODES_A_LOOK: u64 = 1024;

/// Lists of an interpreter: the collector's, and that of frozen objects.
pub(super) const LISTS: usize = GENERATIONS + 1;

/// Flags in the lowest bits of a link: `_PyGC_PREV_MASK` and, while the collector runs, `NEXT_MASK_UNREACHABLE`
/// (Python/gc.c).
const LINK: u64 = !3;

/// An interpreter's lists, youngest first, the frozen objects last, as they were at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    at: [u64; LISTS],
    last: [u64; LISTS],
    collecting: u64,
    /// Whether the collector runs.
    pub(super) is_collecting: bool,
    /// How often it has gone through all objects.
    pub(super) collections: u64,
}

impl Heads {
    /// Reads them anew; `None` if what is there are no lists.
    pub(super) fn read(state: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<Self> {
        let Lists {
            first,
            stride,
            permanent,
        } = layout.lists;
        let first = state.checked_add(first)?;
        let at = [first, first + stride, first + 2 * stride, state + permanent];
        let mut last = [0; LISTS];
        for (head, last) in at.iter().zip(&mut last) {
            let [next, previous] = snapshot.fresh(*head)?;
            *last = previous & LINK;
            if next & LINK < 4096 || *last < 4096 {
                return None;
            }
        }
        let collecting = state + layout.collecting;
        Some(Self {
            at,
            last,
            collecting,
            is_collecting: is_set(collecting, snapshot)?,
            collections: snapshot.fresh::<1>(state + layout.lists.collections())?[0],
        })
    }

    /// Where the lists of this interpreter are, in a version in which that may differ: every head is its neighbours'
    /// neighbour. A collection, or an object that comes or goes, can make it look otherwise for a moment.
    pub(super) fn find(state: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<Lists> {
        if layout.lists.candidates(layout.minor).count() == 1 {
            return Self::read(state, layout, snapshot).map(|_| layout.lists);
        }
        for _ in 0..FIND_TRIES {
            for lists in layout.lists.candidates(layout.minor) {
                let heads = Self::read(state, Layout { lists, ..layout }, snapshot);
                if heads.is_some_and(|heads| heads.are_linked(snapshot)) {
                    return Some(lists);
                }
            }
            thread::sleep(FIND_PAUSE);
        }
        None
    }

    fn are_linked(&self, snapshot: &mut Snapshot<'_>) -> bool {
        self.at.iter().all(|head| {
            let Some([next, previous]) = snapshot.fresh(*head) else {
                return false;
            };
            let Some([_, before]) = snapshot.fresh(next & LINK) else {
                return false;
            };
            let Some([after]) = snapshot.fresh(previous & LINK) else {
                return false;
            };
            before & LINK == *head && after & LINK == *head
        })
    }

    /// Waits until the collector does not run; `None` if it still does at the deadline.
    pub(super) fn wait(&self, snapshot: &mut Snapshot<'_>, deadline: Instant) -> Option<()> {
        while is_set(self.collecting, snapshot)? {
            if Instant::now() + COLLECTING_POLL >= deadline {
                return None;
            }
            thread::sleep(COLLECTING_POLL);
        }
        Some(())
    }

    /// Number of the list with that head.
    fn list(&self, node: u64) -> Option<usize> {
        self.at.iter().position(|head| *head == node)
    }
}

/// Whether a 32-bit number is not 0.
fn is_set(address: u64, snapshot: &mut Snapshot<'_>) -> Option<bool> {
    let [word] = snapshot.fresh(address & !7)?;
    Some((word >> (address % 8 * 8)) as u32 != 0)
}

/// What a list holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Objects and their bytes by number of the type.
    pub(super) by_type: Vec<(u64, u64)>,
    /// Objects.
    pub(super) objects: u64,
    /// Places where the list did not fit together when it was read first.
    pub(super) torn: u64,
}

impl Tally {
    fn add(&mut self, number: usize, bytes: u64) {
        if self.by_type.len() <= number {
            self.by_type.resize(number + 1, (0, 0));
        }
        let (objects, sum) = &mut self.by_type[number];
        *objects += 1;
        *sum += bytes;
        self.objects += 1;
    }

    fn remove(&mut self, number: usize, bytes: u64) {
        let (objects, sum) = &mut self.by_type[number];
        *objects -= 1;
        *sum -= bytes;
        self.objects -= 1;
    }
}

/// An object that has been counted.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    node: u64,
    number: usize,
    bytes: u64,
}

/// The last steps of a walk.
struct Trail {
    steps: Vec<Step>,
    len: usize,
    end: usize,
}

impl Trail {
    fn new() -> Self {
        Self {
            steps: vec![Step::default(); TRAIL],
            len: 0,
            end: 0,
        }
    }

    const fn push(&mut self, step: Step) {
        self.steps.as_mut_slice()[self.end] = step;
        self.end = (self.end + 1) % TRAIL;
        if self.len < TRAIL {
            self.len += 1;
        }
    }

    const fn pop(&mut self) -> Option<Step> {
        if self.len == 0 {
            return None;
        }
        self.len -= 1;
        self.end = (self.end + TRAIL - 1) % TRAIL;
        Some(self.steps.as_slice()[self.end])
    }
}

/// What a census needs everywhere.
pub(super) struct Tools<'a, 'm> {
    pub(super) snapshot: &'a mut Snapshot<'m>,
    pub(super) types: &'a mut Types,
    pub(super) layout: Layout,
    pub(super) deadline: Instant,
    pub(super) objects_left: u64,
    /// Where objects lie, if the pools are to be read.
    pub(super) seeds: Option<Seeds>,
}

/// A walk along a list.
struct Walk<'a, 'b, 'm> {
    tools: &'a mut Tools<'b, 'm>,
    heads: &'a Heads,
    list: usize,
    tally: Tally,
    trail: Trail,
    /// The object, or head, that was reached last.
    at: u64,
    /// Steps since something was repaired.
    repairs: u64,
    /// A place that the walk was at, for the case that it goes round without its head.
    landmark: u64,
    next_landmark: u64,
}

/// Where a step leads.
enum Next {
    /// Into the list: the object's address in the list and its type.
    Object(u64, usize),
    /// Behind its last.
    End,
    /// Memory of two moments.
    Torn,
}

/// Counts the objects of a list.
pub(super) fn count(list: usize, heads: &Heads, tools: &mut Tools<'_, '_>) -> Result<Tally, Why> {
    let mut walk = Walk {
        at: heads.at[list],
        list,
        tools,
        heads,
        tally: Tally::default(),
        trail: Trail::new(),
        repairs: 0,
        landmark: 0,
        next_landmark: 1024,
    };
    walk.run()?;
    Ok(walk.tally)
}

impl Walk<'_, '_, '_> {
    fn run(&mut self) -> Result<(), Why> {
        // An empty list is its own next and previous.
        if self.heads.last[self.list] == self.heads.at[self.list] {
            return Ok(());
        }
        let mut steps = 0_u64;
        loop {
            steps += 1;
            if steps.is_multiple_of(NODES_A_LOOK) && Instant::now() >= self.tools.deadline {
                return Err(Why::Time);
            }
            match self.next() {
                Next::End => return Ok(()),
                Next::Torn => self.repair()?,
                Next::Object(node, number) => {
                    self.take(node, number)?;
                    // What has come since belongs to another list's end.
                    if node == self.heads.last[self.list] {
                        return Ok(());
                    }
                    if node == self.landmark {
                        return Err(Why::Torn);
                    }
                    if steps == self.next_landmark {
                        self.landmark = node;
                        self.next_landmark *= 2;
                    }
                }
            }
        }
    }

    fn next(&mut self) -> Next {
        let Some(next) = self.tools.snapshot.word(self.at) else {
            return Next::Torn;
        };
        self.look_at(next & LINK)
    }

    /// The node, if it says that it comes after the last.
    fn look_at(&mut self, node: u64) -> Next {
        if let Some(list) = self.heads.list(node) {
            // The rest may have been moved to an older list; to a younger one only a place used anew leads.
            let is_end =
                list == self.list || list > self.list && list < GENERATIONS && self.list < GENERATIONS;
            return if is_end { Next::End } else { Next::Torn };
        }
        let Some([_, previous, _, of_type]) = self.tools.snapshot.words(node) else {
            return Next::Torn;
        };
        if previous & LINK != self.at {
            return Next::Torn;
        }
        match self.tools.types.number(of_type, self.tools.snapshot) {
            Some(number) => Next::Object(node, number),
            None => Next::Torn,
        }
    }

    fn take(&mut self, node: u64, number: usize) -> Result<(), Why> {
        self.tools.objects_left = self.tools.objects_left.checked_sub(1).ok_or(Why::Objects)?;
        let of_type: &Type = &self.tools.types.list()[number];
        let bytes = sizes::of(
            node + GC_HEAD_BYTES,
            of_type,
            self.tools.layout,
            self.tools.snapshot,
        );
        if let Some(seeds) = &mut self.tools.seeds {
            seeds.add(node, self.tools.layout);
        }
        self.tally.add(number, bytes);
        self.trail.push(Step { node, number, bytes });
        self.at = node;
        Ok(())
    }

    /// Goes back to the last object that is still in the list, as it is now.
    fn repair(&mut self) -> Result<(), Why> {
        self.tally.torn += 1;
        self.repairs += 1;
        if self.repairs > REPAIRS_MAX + self.tally.objects / NODES_A_REPAIR
            || Instant::now() >= self.tools.deadline
        {
            return Err(Why::Torn);
        }
        // While the collector runs, the objects that it looks at do not say what is before them.
        self.heads
            .wait(self.tools.snapshot, self.tools.deadline)
            .ok_or(Why::Torn)?;
        let mut back = 1;
        loop {
            if self.is_in_list() {
                return Ok(());
            }
            if self.at == self.heads.at[self.list] {
                return Err(Why::Torn);
            }
            for _ in 0..back {
                let Some(step) = self.trail.pop() else { break };
                self.tally.remove(step.number, step.bytes);
                self.tools.objects_left += 1;
            }
            back *= 2;
            self.at = match self.trail.pop() {
                Some(step) => {
                    self.trail.push(step);
                    step.node
                }
                None if self.tally.objects == 0 => self.heads.at[self.list],
                None => return Err(Why::Torn),
            };
        }
    }

    /// Whether both neighbours of the last object know it, and its type is one, as memory is now.
    fn is_in_list(&mut self) -> bool {
        let snapshot = &mut *self.tools.snapshot;
        let Some([next, previous]) = snapshot.fresh(self.at) else {
            return false;
        };
        let (next, previous) = (next & LINK, previous & LINK);
        let Some([before]) = snapshot.fresh(previous) else {
            return false;
        };
        let Some([_, after, _, of_type]) = snapshot.fresh(next) else {
            return false;
        };
        if before & LINK != self.at || after & LINK != self.at {
            return false;
        }
        // A type of which a page was read too early may be known by now.
        self.tools.types.forget(of_type);
        !matches!(self.look_at(next), Next::Torn)
    }
}
