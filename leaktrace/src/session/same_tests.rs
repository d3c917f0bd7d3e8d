//! Stacks of two processes that have mapped one file at different addresses.

use std::fs::{self, File};

use leaktrace_common::key::{Process, SiteKey};

use super::super::python::{Named, PythonStack};
use super::*;
use crate::{python::merge, report::python::Python, symbol::mappings::Mapping, track::FrozenId};

/// Names Python frames by their position; of position 99 nothing is known yet.
struct Fake;

impl Interpreters for Fake {
    fn of_image(&self, _tgid: u32, _image: u16) -> Option<Python> {
        None
    }

    fn is_followed(&self, _tgid: u32, _image: u16) -> bool {
        true
    }

    fn place(&self, _tgid: u32, _image: u16, _address: u64) -> merge::Place {
        merge::Place::Outside
    }

    fn name(&self, _tgid: u32, _image: u16, _part: u64, frame: &PythonFrame) -> KnownFrame {
        if frame.position == 99 {
            return KnownFrame::NotYet;
        }
        KnownFrame::Named(Named {
            name: Arc::from("load"),
            file: Arc::from("/app/a.py"),
            line: Some(frame.position),
        })
    }
}

fn site(tgid: u32, stack_id: u64, space: Space) -> SiteRef {
    SiteRef {
        image: Image {
            tgid,
            image: 0,
            frozen: None,
        },
        key: SiteKey {
            stack_id,
            process: Process {
                tgid,
                image: 0,
                space: space as u8,
                device: 0,
            },
            call: 1,
            shard: 0,
        },
    }
}

/// 4 KiB of code of a file at this address.
fn mapped(object: Option<ObjectId>, start: u64) -> Mappings {
    let mut mappings = Mappings::new();
    mappings.insert(Mapping {
        start,
        end: start + 0x1000,
        file_offset: 0x3000,
        object,
        name: "/bin/a".to_owned(),
        executable: true,
    });
    mappings
}

fn stack(frames: &[u64], python: &[(u64, u32)]) -> Rc<Known> {
    let python = python.iter().map(|&(code, position)| PythonFrame {
        code,
        position,
        guard: code as u32,
    });
    Rc::new(Known {
        frames: frames.into(),
        python: PythonStack {
            frames: python.collect(),
            ..PythonStack::default()
        },
        ..Known::default()
    })
}

/// Two files that are open, and their numbers.
fn files() -> (Objects, [ObjectId; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let mut objects = Objects::new();
    let ids = ["a", "b"].map(|name| {
        let path = folder.path().join(name);
        fs::write(&path, name).unwrap();
        objects.insert(&path, File::open(&path).unwrap()).unwrap()
    });
    (objects, ids)
}

/// Process 1 has the file at `0x10000`, process 2 at `0x50000`.
struct Two {
    objects: Objects,
    mappings: [Mappings; 2],
    whereabouts: [Whereabout; 2],
}

impl Two {
    fn new() -> Self {
        let (objects, [file, _]) = files();
        let container = |id: &str| Whereabout {
            container: Some(Arc::new(Container {
                id: id.to_owned(),
                ..Container::default()
            })),
            inner_pid: None,
        };
        Self {
            objects,
            mappings: [mapped(Some(file), 0x10000), mapped(Some(file), 0x50000)],
            whereabouts: [container("web"), container("db")],
        }
    }

    fn about(&self, tgid: u32, comm: &'static str, exe: &'static str) -> About<'_> {
        let index = tgid as usize - 1;
        About {
            comm,
            exe: Some(Path::new(exe)),
            whereabout: Some(&self.whereabouts[index]),
            mappings: Some(&self.mappings[index]),
        }
    }

    fn group(&self, same: &mut Same, tgid: u32, stack: &Rc<Known>, about: &About<'_>) -> (Scope, Place) {
        let site = site(tgid, u64::from(tgid), Space::Heap);
        same.group(&site, stack, stack.frames.len(), about, &self.objects, &Fake)
    }
}

#[test]
fn the_same_code_of_two_processes_is_one_place() {
    let two = Two::new();
    let mut same = Same::new(By::Site);
    same.begin();
    let abouts = [two.about(1, "a", "/bin/a"), two.about(2, "b", "/bin/a")];
    let first = two.group(
        &mut same,
        1,
        &stack(&[0x10040, 0x10100], &[(8, 3), (1, 0)]),
        &abouts[0],
    );
    let second = two.group(
        &mut same,
        2,
        &stack(&[0x50040, 0x50100], &[(64, 3), (1, 0)]),
        &abouts[1],
    );
    assert_eq!(first, second);
    for other in [
        stack(&[0x50040, 0x50101], &[(64, 3), (1, 0)]),
        stack(&[0x50040, 0x50100], &[(64, 4), (1, 0)]),
        stack(&[0x50040, 0x50100], &[(64, 3)]),
        stack(&[0x50040, 0x50100, 0x10], &[(64, 3), (1, 0)]),
    ] {
        let site = site(2, other.frames[1] + other.frames.len() as u64, Space::Heap);
        let (scope, place) = same.group(&site, &other, other.frames.len(), &abouts[1], &two.objects, &Fake);
        assert_eq!(scope, first.0);
        assert_ne!(place, first.1, "{other:?}");
    }
    // A return address at the end of the code belongs to the call before it.
    let ends = [(1, 0x11000), (2, 0x51000)].map(|(tgid, end)| {
        let stack = stack(&[end - 0x1000, end], &[]);
        let site = site(tgid, 7, Space::Heap);
        same.group(&site, &stack, 2, &abouts[tgid as usize - 1], &two.objects, &Fake)
    });
    assert_eq!(ends[0], ends[1]);
}

#[test]
fn whose_sites_are_one_goes_by_what_was_asked_for() {
    let two = Two::new();
    let frames = [stack(&[0x10040], &[]), stack(&[0x50040], &[])];
    let groups = |by, comms: [&'static str; 2], exes: [&'static str; 2]| {
        let mut same = Same::new(by);
        same.begin();
        let mut group = |tgid: u32| {
            let index = tgid as usize - 1;
            let about = two.about(tgid, comms[index], exes[index]);
            two.group(&mut same, tgid, &frames[index], &about)
        };
        group(1) == group(2)
    };
    assert!(groups(By::Site, ["a", "b"], ["/bin/a", "/bin/a"]));
    assert!(!groups(By::Site, ["a", "a"], ["/bin/a", "/bin/b"]));
    assert!(groups(By::Comm, ["a", "a"], ["/bin/a", "/bin/b"]));
    assert!(!groups(By::Comm, ["a", "b"], ["/bin/a", "/bin/a"]));
    assert!(!groups(By::Container, ["a", "a"], ["/bin/a", "/bin/a"]));
    assert!(!groups(By::Process, ["a", "a"], ["/bin/a", "/bin/a"]));
    let [first, _] = two.whereabouts;
    let two = Two {
        whereabouts: [first.clone(), first],
        ..Two::new()
    };
    let mut same = Same::new(By::Container);
    same.begin();
    let groups = [1, 2].map(|tgid| {
        let index = tgid as usize - 1;
        let about = two.about(tgid, ["a", "b"][index], "/bin/a");
        two.group(&mut same, tgid, &frames[index], &about)
    });
    assert_eq!(groups[0], groups[1]);
}

#[test]
fn gpu_memory_is_by_process_whatever_was_asked_for() {
    let two = Two::new();
    let mut same = Same::new(By::Site);
    same.begin();
    let about = two.about(1, "a", "/bin/a");
    let site = site(1, 5, Space::Device);
    let stack = stack(&[0x10040], &[]);
    let (scope, place) = same.group(&site, &stack, 1, &about, &two.objects, &Fake);
    assert_eq!(scope, Scope::Image(site.image));
    assert_eq!(place, Place::Addresses([0x10040].into(), [].into()));
}

#[test]
fn what_was_not_known_is_looked_at_again_and_what_is_not_asked_for_is_forgotten() {
    let two = Two::new();
    let mut same = Same::new(By::Site);
    same.begin();
    let nothing = Mappings::new();
    let (late, known, python) = (
        stack(&[0x10040], &[]),
        stack(&[0x50040], &[]),
        stack(&[0x50040], &[(8, 99)]),
    );
    let unmapped = About {
        mappings: Some(&nothing),
        ..two.about(1, "a", "/bin/a")
    };
    let about = two.about(2, "a", "/bin/a");
    let before = two.group(&mut same, 1, &late, &unmapped);
    let second = two.group(&mut same, 2, &known, &about);
    assert_ne!(before, second);
    assert_eq!(same.found.len(), 1);
    let site = site(3, 9, Space::Heap);
    same.group(&site, &python, 1, &about, &two.objects, &Fake);
    assert_eq!(same.found.len(), 1, "a Python frame is still to be read");
    same.end();

    same.begin();
    let after = two.group(&mut same, 1, &late, &two.about(1, "a", "/bin/a"));
    assert_eq!(after.1, second.1);
    same.end();
    assert_eq!(same.found.len(), 1, "nobody has asked for that of process 2");

    // Of one that has ended no more will be known; and a stack that was walked on is another one.
    same.begin();
    let frozen = SiteRef {
        image: Image {
            frozen: Some(FrozenId(0)),
            ..site.image
        },
        ..site
    };
    same.group(&frozen, &python, 1, &about, &two.objects, &Fake);
    assert_eq!(same.found.len(), 2);
    let longer = stack(&[0x10040, 0x10080], &[]);
    let walked_on = two.group(&mut same, 1, &longer, &two.about(1, "a", "/bin/a"));
    assert_ne!(walked_on.1, after.1);
}
