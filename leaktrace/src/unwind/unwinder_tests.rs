//! The unwinder on this process's own files, its arrays in memory.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use leaktrace_common::unwind::{CHUNK_ROWS, Layout, Rule};

use super::{
    memory::{Found, Memory},
    shelf::GRACE_NS,
    *,
};
use crate::{
    kernel::tables::Sizes,
    probe::process::{self, Mapping as Line},
    symbol::objects::ObjectId,
};

const SIZES: Sizes = Sizes {
    rows: 8 * CHUNK_ROWS as u32,
    pages: 1 << 16,
    rules: 1 << 14,
    mappings: 4096,
    layouts: 4,
};

const PID: u32 = 42;
const MS: u64 = 1_000_000;

struct World {
    memory: Memory,
    unwinder: Unwinder,
    objects: Objects,
    known: HashMap<PathBuf, ObjectId>,
}

impl World {
    fn new(sizes: Sizes) -> Self {
        let memory = Memory::new(sizes);
        Self {
            unwinder: Unwinder::new(Files::new(None), Box::new(memory.clone())),
            memory,
            objects: Objects::new(),
            known: HashMap::new(),
        }
    }

    fn object(&mut self, path: &Path) -> Option<ObjectId> {
        if let Some(id) = self.known.get(path) {
            return Some(*id);
        }
        let id = self.objects.insert(path, File::open(path).ok()?).ok()?;
        self.known.insert(path.to_owned(), id);
        Some(id)
    }

    fn mapping(&mut self, line: &Line) -> Mapping {
        Mapping {
            start: line.start,
            end: line.end,
            file_offset: line.offset,
            object: line.path.as_deref().and_then(|path| self.object(path)),
            name: line
                .path
                .as_ref()
                .map_or_else(|| line.label.clone(), |path| path.display().to_string()),
            executable: line.executable,
        }
    }

    /// What this process has mapped.
    fn own(&mut self) -> Mappings {
        let mut mappings = Mappings::new();
        for line in process::mappings(std::process::id()).unwrap() {
            if line.executable {
                let mapping = self.mapping(&line);
                mappings.insert(mapping);
            }
        }
        mappings
    }

    fn publish(&mut self, image: u16, mappings: &Mappings, now_ns: u64) -> bool {
        self.unwinder.publish(PID, image, mappings, &self.objects, now_ns)
    }

    /// Publishes until no table is on its way.
    fn publish_whole(&mut self, mappings: &Mappings) {
        self.publish(0, mappings, 0);
        let given_up = Instant::now() + Duration::from_mins(1);
        while self.unwinder.processes[&PID].waits {
            assert!(Instant::now() < given_up, "tables have not come");
            if self.unwinder.take_over() == [PID] {
                self.publish(0, mappings, 0);
            }
            std::thread::yield_now();
        }
    }
}

fn anonymous(start: u64) -> Mapping {
    Mapping {
        start,
        end: start + 0x1000,
        file_offset: 0,
        object: None,
        name: String::new(),
        executable: true,
    }
}

#[test]
fn all_code_of_this_process_is_found_by_its_tables() {
    let mut world = World::new(SIZES);
    let mappings = world.own();
    let slot = world.unwinder.join(PID, 0);
    assert_eq!(world.memory.find(slot, 0x1000), Found::Nothing);
    world.publish_whole(&mappings);
    assert_eq!(world.memory.slot(slot).raw_left, RAW_STACKS);

    let mut rules = 0;
    for mapping in mappings.iter() {
        let table = match mapping.object {
            Some(object) => match world.unwinder.files.of_object(object, &world.objects) {
                Known::Ready(_, table) => table,
                known => panic!("{}: {known:?}", mapping.name),
            },
            None if mapping.name == VDSO => library::Library::vdso().unwrap(),
            None => continue,
        };
        if table.rows.is_empty() {
            continue;
        }
        let bias = table.bias(mapping.start, mapping.file_offset).unwrap();
        for address in (mapping.start..mapping.end).step_by(61) {
            let expected = table.rule_at(address - bias);
            let found = world.memory.find(slot, address);
            assert_eq!(found, Found::Rule(expected), "{} at {address:#x}", mapping.name);
            rules += usize::from(expected != Rule::default());
        }
        assert!(
            rules > 0,
            "{}: {} rows and not one rule",
            mapping.name,
            table.rows.len()
        );
    }
    assert_eq!(world.memory.find(slot, 0x1000), Found::Unknown);
}

#[test]
fn what_is_known_already_is_not_published_again() {
    let mut world = World::new(SIZES);
    let mut mappings = Mappings::new();
    mappings.insert(anonymous(0x1000));
    let slot = world.unwinder.join(PID, 0);
    let generation = |world: &World| Layout(world.memory.slot(slot).layout).generation();
    assert!(world.publish(0, &mappings, 0));
    let first = generation(&world);
    assert!(!world.publish(0, &mappings, 0));
    assert_eq!(generation(&world), first);
    // The next image has the same mapped, and is another.
    assert!(world.publish(0x101, &mappings, 0));
    assert!(generation(&world) > first);
    assert_eq!(Layout(world.memory.slot(slot).layout).epoch(), 1);
    mappings.insert(anonymous(0x5000));
    assert!(world.publish(0x101, &mappings, 0));
    assert_eq!(world.memory.find(slot, 0x5fff), Found::FramePointer);
    assert!(!world.unwinder.publish(7, 0, &mappings, &world.objects, 0));
}

#[test]
fn slots_and_mappings_are_used_again_only_when_no_walk_can_read_them() {
    let mut world = World::new(Sizes { mappings: 3, ..SIZES });
    let (mut one, mut two) = (Mappings::new(), Mappings::new());
    one.insert(anonymous(0x1000));
    two.insert(anonymous(0x1000));
    two.insert(anonymous(0x3000));
    let slots: Vec<u32> = (0..4).map(|pid| world.unwinder.join(pid, 0)).collect();
    assert_eq!(slots, [1, 2, 3, slots::NO_SLOT]);
    let publish = |world: &mut World, pid, mappings: &Mappings, now_ns| {
        world.unwinder.publish(pid, 0, mappings, &world.objects, now_ns);
        Layout(world.memory.slot(slots[pid as usize]).layout).count()
    };
    assert_eq!(publish(&mut world, 0, &one, 0), 1);
    assert_eq!(publish(&mut world, 0, &two, 0), 2);
    // The mapping of the first layout is free, and may still be read.
    assert_eq!(publish(&mut world, 1, &one, GRACE_NS - 1), 0);
    assert_eq!(world.unwinder.missed, Missed::default());
    let due = world.unwinder.take_due(GRACE_NS - 1 + SOON_NS);
    assert_eq!(due, [Due::Again(1)]);
    // All are in use then; what does not fit is said once.
    assert_eq!(publish(&mut world, 1, &one, GRACE_NS), 1);
    for _ in 0..2 {
        assert_eq!(publish(&mut world, 2, &one, GRACE_NS), 0);
        assert_eq!(world.unwinder.missed.mappings_left_out, 1);
    }
    assert_eq!(world.unwinder.due_ns(), Some(GRACE_NS + AGAIN_NS));
    // Without a slot there is no layout.
    assert_eq!(publish(&mut world, 3, &one, GRACE_NS), 0);
    assert_eq!(world.unwinder.missed.mappings_left_out, 2);

    world.unwinder.forget(0, GRACE_NS);
    assert_eq!(world.memory.find(slots[0], 0x1000), Found::Nothing);
    assert_eq!(world.unwinder.join(5, 2 * GRACE_NS - 1), slots::NO_SLOT);
    assert_eq!(world.unwinder.join(5, 2 * GRACE_NS), slots[0]);
    assert_eq!(world.memory.find(slots[0], 0x1000), Found::Nothing);
}

/// Code of the program that runs this test.
const fn missing_address() {}

#[test]
fn a_table_without_room_is_counted_once_and_tried_again() {
    let mut world = World::new(Sizes { pages: 1, ..SIZES });
    let mappings = world.own();
    let slot = world.unwinder.join(PID, 0);
    world.publish_whole(&mappings);
    let missed = world.unwinder.missed.tables_full;
    assert!(missed > 0);
    let own = missing_address as fn() as usize as u64;
    assert_eq!(world.memory.find(slot, own), Found::Unknown);
    assert_eq!(world.unwinder.due_ns(), Some(AGAIN_NS));
    assert_eq!(world.unwinder.take_due(AGAIN_NS), [Due::Again(PID)]);
    assert!(!world.publish(0, &mappings, AGAIN_NS));
    assert_eq!(world.unwinder.missed.tables_full, missed);
}

#[test]
fn an_unknown_address_is_looked_for_soon_and_ever_less_often() {
    let mut world = World::new(SIZES);
    let mut mappings = Mappings::new();
    mappings.insert(anonymous(0x1000));
    let slot = world.unwinder.join(PID, 0);
    world.publish(0, &mappings, 0);
    let asked = |world: &World| world.memory.slot(slot).asked == 1;

    let mut now_ns = 5_000 * MS;
    let mut silences = Vec::new();
    for _ in 0..10 {
        world.memory.ask(slot);
        world.unwinder.unknown(PID, now_ns);
        world.unwinder.unknown(PID, now_ns + 1);
        assert_eq!(world.unwinder.due_ns(), Some(now_ns + LOOK_AFTER_NS));
        assert_eq!(world.unwinder.take_due(now_ns), []);
        now_ns += LOOK_AFTER_NS;
        assert_eq!(world.unwinder.take_due(now_ns), [Due::Look(PID)]);
        // Nothing new.
        let changed = world.publish(0, &mappings, now_ns);
        world.unwinder.looked(PID, changed, now_ns);
        assert!(asked(&world));
        let answered_ns = world.unwinder.due_ns().unwrap();
        silences.push((answered_ns - now_ns) / MS);
        now_ns = answered_ns;
        assert_eq!(world.unwinder.take_due(now_ns), []);
        assert!(!asked(&world));
    }
    assert_eq!(silences, [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);

    // Something new: it may ask at once, and is patiently answered again.
    world.memory.ask(slot);
    mappings.insert(anonymous(0x5000));
    assert!(world.publish(0, &mappings, now_ns));
    world.unwinder.looked(PID, true, now_ns);
    assert!(!asked(&world));
    assert_eq!(world.unwinder.due_ns(), None);
    world.unwinder.looked(PID, false, now_ns);
    assert_eq!(world.unwinder.due_ns(), Some(now_ns + 10 * MS));
}

#[test]
fn a_layout_holds_until_libraries_are_unmapped_and_from_the_look_after_that() {
    let mut world = World::new(SIZES);
    let mut mappings = Mappings::new();
    mappings.insert(anonymous(0x1000));
    let slot = world.unwinder.join(PID, 0);
    world.publish(0, &mappings, 0);
    let holds = |world: &World| {
        let slot = world.memory.slot(slot);
        Layout(slot.layout).epoch() == LayoutSlot::epoch(0, slot.closes)
    };
    assert!(holds(&world));

    // It begins: a look now could find both what goes and what stays.
    world.memory.close(slot);
    assert!(!holds(&world));
    assert_eq!(world.unwinder.closes(PID), None);
    // It is done: a look is due at once, and until then what is known is of before.
    world.memory.close(slot);
    let now_ns = 5_000 * MS;
    world.unwinder.unmapped(PID, now_ns);
    assert_eq!(world.unwinder.take_due(now_ns), [Due::Look(PID)]);
    assert!(!world.publish(0, &mappings, now_ns));
    assert!(!holds(&world));
    // Also where the look finds the same as before.
    let closes = world.unwinder.closes(PID).unwrap();
    world.unwinder.looked_from(PID, closes);
    assert!(world.publish(0, &mappings, now_ns));
    assert!(holds(&world));
}

#[test]
fn a_file_that_cannot_be_understood_is_walked_by_frame_pointers() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(SIZES);
    let mut mappings = Mappings::new();
    for (start, content) in [
        (0x1000, b"\x7fELF and no more".as_slice()),
        (0x3000, b"code of a JIT"),
    ] {
        let path = folder.path().join(format!("{start}"));
        std::fs::write(&path, content).unwrap();
        mappings.insert(Mapping {
            object: world.object(&path),
            name: path.display().to_string(),
            ..anonymous(start)
        });
    }
    // One that could not be opened.
    mappings.insert(Mapping {
        name: "/gone".to_owned(),
        ..anonymous(0x5000)
    });
    let slot = world.unwinder.join(PID, 0);
    world.publish_whole(&mappings);
    let found = [0x1000, 0x3000, 0x5000].map(|address| world.memory.find(slot, address));
    assert_eq!(found, [Found::FramePointer, Found::FramePointer, Found::Unknown]);
}

#[test]
fn room_for_rows_is_twice_what_is_needed_within_its_bounds() {
    const MIB: u64 = 1 << 20;
    let chunks = |rows| row_chunks(rows, 64 * MIB);
    assert_eq!([0, 1, CHUNK_ROWS * 2].map(chunks), [8, 8, 8]);
    assert_eq!(chunks(CHUNK_ROWS * 10 + 1), 26);
    assert_eq!(chunks(usize::MAX / 4), 256);
    assert_eq!(row_chunks(CHUNK_ROWS * 100, 0), 8);
    assert_eq!(row_chunks(CHUNK_ROWS * 100_000, u64::MAX), 65536);
}
