//! What lies where in the address space of one process image, now and before.
//!
//! Pure data: it must not know `/proc`, perf records or files. Whoever reads those inserts what they
//! say, in the order in which it happened.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

/// Number of an object in the table of objects ([`super::objects::Objects`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u32);

/// Mappings whose time is remembered: a program that loads and unloads in a loop has dozens a millisecond.
const LOGGED_MAX: usize = 512;

/// A range of addresses with one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Offset in the file of the byte at `start`.
    pub file_offset: u64,
    /// The mapped file, if there is one and it could be opened.
    pub object: Option<ObjectId>,
    /// Path as the process sees it, or a name in brackets; empty or `//anon` for anonymous memory.
    pub name: String,
    /// Whether the process may execute it.
    pub executable: bool,
}

impl Mapping {
    /// Whether the address lies in it.
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Offset in the file of the byte at `address`.
    pub const fn offset_of(&self, address: u64) -> u64 {
        self.file_offset.wrapping_add(address.wrapping_sub(self.start))
    }

    /// The part of it inside `start..end`, which must overlap it.
    fn part(&self, start: u64, end: u64) -> Self {
        let start = start.max(self.start);
        Self {
            start,
            end: end.min(self.end),
            file_offset: self.offset_of(start),
            ..self.clone()
        }
    }

    /// Whether `other`, where it overlaps, says the same about every address.
    fn agrees_with(&self, other: &Self) -> bool {
        self.object == other.object
            && self.name == other.name
            && self.executable == other.executable
            && (self.object.is_none() || self.offset_of(other.start) == other.file_offset)
    }
}

/// Mappings that do not overlap, by their start.
#[derive(Clone, Debug, Default)]
struct Layer(BTreeMap<u64, Mapping>);

impl Layer {
    fn find(&self, address: u64) -> Option<&Mapping> {
        let (_, mapping) = self.0.range(..=address).next_back()?;
        mapping.contains(address).then_some(mapping)
    }

    /// Takes out what lies in `start..end`, splitting what reaches beyond it.
    fn cut(&mut self, start: u64, end: u64) -> Vec<Mapping> {
        let mut keys: Vec<u64> = self.0.range(start..end).map(|(key, _)| *key).collect();
        if let Some((key, before)) = self.0.range(..start).next_back()
            && before.end > start
        {
            keys.insert(0, *key);
        }
        let mut taken = Vec::with_capacity(keys.len());
        for mapping in keys
            .iter()
            .filter_map(|key| self.0.remove(key))
            .collect::<Vec<_>>()
        {
            if mapping.start < start {
                self.0.insert(mapping.start, mapping.part(mapping.start, start));
            }
            if mapping.end > end {
                self.0.insert(end, mapping.part(end, mapping.end));
            }
            taken.push(mapping.part(start, end));
        }
        taken
    }

    /// Puts the mapping in the place of what was there.
    fn replace(&mut self, mapping: Mapping) {
        self.cut(mapping.start, mapping.end);
        self.0.insert(mapping.start, mapping);
    }
}

/// The mappings of one process image.
///
/// What is replaced or removed goes to a history: a stack taken before a `dlclose` still has to be
/// named after it. The history itself keeps only the newest of what was at an address, so that a
/// program loading and unloading in a loop does not make it grow.
#[derive(Clone, Debug, Default)]
pub struct Mappings {
    current: Layer,
    history: Layer,
    /// What came when, the newest last; nanoseconds.
    log: VecDeque<(u64, Mapping)>,
    jit_map: Option<PathBuf>,
    jit_dump: Option<ObjectId>,
}

impl Mappings {
    /// An address space of which nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a mapping that came at a known time, nanoseconds of `CLOCK_BOOTTIME`.
    pub fn insert_at(&mut self, mapping: Mapping, time_ns: u64) {
        self.remember(mapping.clone(), time_ns);
        self.insert(mapping);
    }

    /// Notes that a mapping came at that time, and that it may be gone by now.
    pub fn remember(&mut self, mapping: Mapping, time_ns: u64) {
        let after = self.log.partition_point(|(known_ns, _)| *known_ns <= time_ns);
        self.log.insert(after, (time_ns, mapping));
        if self.log.len() > LOGGED_MAX {
            self.log.pop_front();
        }
    }

    /// Adds a mapping, which replaces what was at its addresses. An empty or inverted range is ignored.
    pub fn insert(&mut self, mapping: Mapping) {
        if mapping.start >= mapping.end {
            return;
        }
        if mapping.object.is_some() && is_jit_dump(&mapping.name) {
            self.jit_dump = mapping.object;
        }
        for replaced in self.current.cut(mapping.start, mapping.end) {
            if !mapping.agrees_with(&replaced) {
                self.history.replace(replaced);
            }
        }
        self.current.0.insert(mapping.start, mapping);
    }

    /// Says that nothing is mapped at these addresses any more.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        for removed in self.current.cut(start, end) {
            self.history.replace(removed);
        }
    }

    /// The mapping at the address: the current one, else the last that was there.
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        self.current.find(address).or_else(|| self.history.find(address))
    }

    /// The mapping from which code at the address was executed: as [`Self::find`], but data that has
    /// since been mapped over unloaded code does not hide it. `None` if no code was ever seen there.
    pub fn find_code(&self, address: u64) -> Option<&Mapping> {
        [&self.current, &self.history]
            .into_iter()
            .filter_map(|layer| layer.find(address))
            .find(|mapping| mapping.executable)
    }

    /// The mapping from which code at the address was executed at that time. `None` if that cannot be told.
    ///
    /// Where libraries are loaded and unloaded one after another, each may come to lie where the last one was. Code that was
    /// executed was mapped: so it was the youngest of those that had come by then.
    pub fn find_code_at(&self, address: u64, time_ns: u64) -> Option<&Mapping> {
        let mut is_logged = false;
        for (since_ns, mapping) in self.log.iter().rev() {
            if mapping.executable && mapping.contains(address) {
                if *since_ns <= time_ns {
                    return Some(mapping);
                }
                is_logged = true;
            }
        }
        // What came before anything was logged there is what was replaced by the first that was.
        if is_logged {
            return self.history.find(address).filter(|mapping| {
                mapping.executable && self.log.iter().all(|(_, logged)| logged != *mapping)
            });
        }
        self.find_code(address)
    }

    /// Whether nothing at all is known.
    pub fn is_empty(&self) -> bool {
        self.current.0.is_empty() && self.history.0.is_empty()
    }

    /// The current mappings, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.current.0.values()
    }

    /// Names the file into which the process's JIT compilers write their symbols
    /// (`/tmp/perf-PID.map`, with the pid that the process itself sees).
    pub fn set_jit_map(&mut self, path: Option<PathBuf>) {
        self.jit_map = path;
    }

    /// See [`Self::set_jit_map`].
    pub fn jit_map(&self) -> Option<&Path> {
        self.jit_map.as_deref()
    }

    /// The file into which a JIT compiler writes what it makes: it maps a page of it, so that tracers
    /// learn of it (Linux tools/perf/Documentation/jitdump-specification.txt).
    pub const fn jit_dump(&self) -> Option<ObjectId> {
        self.jit_dump
    }
}

/// `jit-PID.dump`, in whatever folder.
fn is_jit_dump(name: &str) -> bool {
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let name = name.rsplit('/').next().unwrap_or_default();
    name.strip_prefix("jit-")
        .and_then(|rest| rest.strip_suffix(".dump"))
        .is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mapping(start: u64, end: u64, object: u32) -> Mapping {
        Mapping {
            start,
            end,
            file_offset: 0x1000 * u64::from(object),
            object: Some(ObjectId(object)),
            name: format!("/lib/{object}.so"),
            executable: true,
        }
    }

    fn seen(mappings: &Mappings, address: u64) -> Option<(u32, u64)> {
        let found = mappings.find(address)?;
        Some((found.object?.0, found.offset_of(address)))
    }

    #[test]
    fn code_is_found_as_it_was_mapped_at_the_time() {
        let at =
            |mappings: &Mappings, time_ns| mappings.find_code_at(150, time_ns).and_then(|found| found.object);
        let mut mappings = Mappings::new();
        mappings.insert(mapping(100, 200, 1));
        assert_eq!(at(&mappings, 0), Some(ObjectId(1)));
        mappings.insert_at(mapping(100, 200, 2), 20);
        mappings.remove(100, 200);
        mappings.insert_at(mapping(140, 160, 3), 30);
        // Told of late, when it is gone.
        mappings.remember(mapping(100, 160, 4), 25);
        assert_eq!(at(&mappings, 19), None);
        assert_eq!(at(&mappings, 20), Some(ObjectId(2)));
        assert_eq!(at(&mappings, 24), Some(ObjectId(2)));
        assert_eq!(at(&mappings, 29), Some(ObjectId(4)));
        assert_eq!(at(&mappings, u64::MAX), Some(ObjectId(3)));
        assert_eq!(mappings.find_code_at(500, 40), None);
        for time_ns in 0..2 * LOGGED_MAX as u64 {
            mappings.insert_at(mapping(140, 160, 5), time_ns);
        }
        assert_eq!(mappings.log.len(), LOGGED_MAX);
    }

    #[test]
    fn newer_mapping_splits_the_older() {
        let mut mappings = Mappings::new();
        mappings.insert(mapping(100, 200, 1));
        mappings.insert(mapping(140, 150, 2));
        assert_eq!(seen(&mappings, 139), Some((1, 0x1000 + 39)));
        assert_eq!(seen(&mappings, 140), Some((2, 0x2000)));
        assert_eq!(seen(&mappings, 150), Some((1, 0x1000 + 50)));
        assert_eq!(seen(&mappings, 199), Some((1, 0x1000 + 99)));
        assert_eq!(seen(&mappings, 200), None);
        assert_eq!(seen(&mappings, 99), None);
        assert_eq!(mappings.iter().count(), 3);
    }

    #[test]
    fn unloaded_code_is_found_until_something_newer_covers_it() {
        let mut mappings = Mappings::new();
        mappings.insert(mapping(100, 200, 1));
        mappings.remove(100, 200);
        assert_eq!(mappings.iter().count(), 0);
        assert_eq!(seen(&mappings, 150), Some((1, 0x1000 + 50)));
        mappings.insert(mapping(120, 160, 2));
        assert_eq!(seen(&mappings, 150), Some((2, 0x2000 + 30)));
        assert_eq!(seen(&mappings, 170), Some((1, 0x1000 + 70)));
        mappings.remove(0, 1000);
        assert_eq!(seen(&mappings, 150), Some((2, 0x2000 + 30)));
        assert_eq!(seen(&mappings, 110), Some((1, 0x1000 + 10)));
    }

    #[test]
    fn data_over_unloaded_code_hides_it_from_find_only() {
        let mut mappings = Mappings::new();
        mappings.insert(mapping(100, 200, 1));
        mappings.insert(Mapping {
            executable: false,
            object: None,
            name: String::new(),
            ..mapping(100, 200, 0)
        });
        assert_eq!(mappings.find(150).map(|found| found.executable), Some(false));
        assert_eq!(
            mappings.find_code(150).and_then(|found| found.object),
            Some(ObjectId(1))
        );
    }

    #[test]
    fn loading_and_unloading_in_a_loop_does_not_grow_the_history() {
        let mut mappings = Mappings::new();
        for round in 0..1000 {
            mappings.insert(mapping(100, 200, round % 3));
            mappings.insert(mapping(200, 300, round % 2));
        }
        assert!(mappings.history.0.len() <= 2, "{:?}", mappings.history);
        assert_eq!(mappings.iter().count(), 2);
    }

    #[test]
    fn the_same_mapping_again_leaves_no_history() {
        let mut mappings = Mappings::new();
        mappings.insert(mapping(100, 200, 1));
        mappings.insert(mapping(100, 200, 1));
        mappings.insert(mapping(100, 300, 1));
        assert!(mappings.history.0.is_empty());
    }

    #[test]
    fn degenerate_ranges_are_ignored() {
        let mut mappings = Mappings::new();
        mappings.insert(mapping(100, 100, 1));
        mappings.insert(mapping(200, 100, 1));
        mappings.remove(5, 5);
        mappings.remove(6, 5);
        assert!(mappings.is_empty());
        mappings.insert(mapping(u64::MAX - 1, u64::MAX, 1));
        assert_eq!(seen(&mappings, u64::MAX - 1), Some((1, 0x1000)));
        assert_eq!(seen(&mappings, u64::MAX), None);
    }

    #[test]
    fn a_jit_dump_is_known_by_the_name_of_its_file() {
        for (name, known) in [
            ("/tmp/.debug/jit/java-jit-1/jit-123.dump", true),
            ("/tmp/jit-1.dump (deleted)", true),
            ("/tmp/jit-.dump", false),
            ("/tmp/jit-1.dump.old", false),
            ("/tmp/jit-1x.dump", false),
        ] {
            let mut mappings = Mappings::new();
            mappings.insert(Mapping {
                name: name.to_owned(),
                ..mapping(100, 200, 1)
            });
            // It stays known when the process has unmapped it.
            mappings.remove(0, 1000);
            assert_eq!(mappings.jit_dump(), known.then_some(ObjectId(1)), "{name}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u64, u32),
        Remove(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u64..64, 0u64..24, 0u32..5).prop_map(|(start, len, object)| Step::Insert(start, start + len, object)),
            1 => (0u64..64, 0u64..24).prop_map(|(start, len)| Step::Remove(start, start + len)),
        ]
    }

    proptest! {
        /// Against one cell per address: what is there now, and what was there last before it.
        #[test]
        fn agrees_with_a_cell_per_address(steps in prop::collection::vec(step(), 0..60)) {
            let mut mappings = Mappings::new();
            let mut now: Vec<Option<(u32, u64)>> = vec![None; 100];
            let mut last = now.clone();
            for step in steps {
                match step {
                    Step::Insert(start, end, object) => {
                        mappings.insert(mapping(start, end, object));
                        for address in start..end {
                            let cell = (object, 0x1000 * u64::from(object) + address - start);
                            now[address as usize] = Some(cell);
                            last[address as usize] = Some(cell);
                        }
                    }
                    Step::Remove(start, end) => {
                        mappings.remove(start, end);
                        now[start as usize..end as usize].fill(None);
                    }
                }
            }
            for address in 0..100u64 {
                prop_assert_eq!(seen(&mappings, address), last[address as usize]);
                let current = mappings.current.find(address);
                let current = current.map(|found| (found.object.unwrap().0, found.offset_of(address)));
                prop_assert_eq!(current, now[address as usize]);
            }
            let ranges: Vec<_> = mappings.iter().map(|found| (found.start, found.end)).collect();
            prop_assert!(ranges.iter().all(|(start, end)| start < end));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        }
    }
}
