//! GPU memory read from tables made by hand.

use std::{cell::RefCell, rc::Rc};

use leaktrace_common::{
    call::Space,
    gpu::{Domain, device_code},
    math::Weight,
    record::{Live, Site},
};

use super::*;
use crate::track::{Scope, Settings, Tracker};

const MIB: u64 = 1 << 20;

/// What the kernel side would hold.
#[derive(Clone, Debug, Default)]
struct Fake(Rc<RefCell<Held>>);

#[derive(Debug, Default)]
struct Held {
    live: Vec<(GpuKey, GpuLive)>,
    errors: Vec<(GpuErrorKey, GpuErrors)>,
    torch: Vec<(GpuKey, TorchTotals)>,
}

impl Tables for Fake {
    fn for_each(&self, each: &mut dyn FnMut(&GpuKey, &GpuLive)) -> Result<(), TableError> {
        for (key, live) in &self.0.borrow().live {
            each(key, live);
        }
        Ok(())
    }

    fn take_image(
        &self,
        tgid: u32,
        image: u16,
        each: &mut dyn FnMut(&GpuKey, &GpuLive),
    ) -> Result<(), TableError> {
        let mut held = self.0.borrow_mut();
        let is_of = |process: Process| process.tgid == tgid && process.image == image;
        held.live.retain(|(key, live)| {
            if is_of(key.process) {
                each(key, live);
            }
            !is_of(key.process)
        });
        held.torch.retain(|(key, _)| !is_of(key.process));
        Ok(())
    }

    fn forget(&self, _tgid: u32, _image: u16) -> Result<(), TableError> {
        Ok(())
    }

    fn errors(&self) -> Result<Vec<(GpuErrorKey, GpuErrors)>, TableError> {
        Ok(self.0.borrow().errors.clone())
    }

    fn torch(&self) -> Result<Vec<(GpuKey, TorchTotals)>, TableError> {
        Ok(self.0.borrow().torch.clone())
    }
}

fn process(tgid: u32) -> Process {
    Process {
        tgid,
        image: 0,
        space: 0,
        device: 0,
    }
}

fn key(tgid: u32, address: u64, domain: Domain) -> GpuKey {
    GpuKey {
        address,
        process: Process {
            space: domain as u8,
            ..process(tgid)
        },
    }
}

fn record(space: Space, device: Option<i64>, size_bytes: u64) -> GpuLive {
    GpuLive {
        block: Live {
            size_bytes,
            time_ns: 1,
            stack_id: 7,
            call: 0x4000,
            shard: 0,
            weight: Weight::ONE,
        },
        context: 0,
        holds: 1 << 32,
        space: space as u8,
        device: device.map_or(0, device_code),
        flags: 0,
        pad: [0; 5],
    }
}

fn said(allocated_bytes: u64, reserved_bytes: u64) -> TorchTotals {
    TorchTotals {
        allocated_bytes,
        reserved_bytes,
        reports: 3,
        time_ns: 1_000_000,
    }
}

/// A snapshot of what the tables hold, as the collector makes it.
fn snapshot(gpu: &mut GpuMemory, tracker: &mut Tracker, is_running: bool) -> Snapshot {
    tracker.begin(5_000_000);
    let mut blocks = Vec::new();
    gpu.read(|_, _| is_running, |block| blocks.push(*block)).unwrap();
    for block in &blocks {
        tracker.add_totals(site_of(block), &totals_of(block));
        tracker.add_block(block);
    }
    tracker.finish(|site| (Scope::Image(site.image), site.key.stack_id))
}

fn site_of(block: &LiveBlock) -> SiteKey {
    SiteKey {
        stack_id: block.stack_id,
        process: block.process,
        call: block.call,
        shard: 0,
    }
}

fn totals_of(block: &LiveBlock) -> Site {
    Site {
        allocs: 1,
        alloc_bytes: block.size_bytes,
        ..Site::EMPTY
    }
}

fn report(gpu: &GpuMemory, snapshot: &Snapshot) -> Gpu {
    gpu.report(snapshot, NotTracked::default(), |_| ("train", "cudaMalloc"))
}

#[test]
fn what_pytorch_says_stands_beside_what_the_driver_has_handed_out_on_the_same_device() {
    let fake = Fake::default();
    {
        let mut held = fake.0.borrow_mut();
        held.live = vec![
            (
                key(1, 0xa, Domain::Device),
                record(Space::Device, Some(0), 30 * MIB),
            ),
            (
                key(1, 0xb, Domain::Device),
                record(Space::Device, Some(1), 8 * MIB),
            ),
            (
                key(1, 0xc, Domain::Host),
                record(Space::Pinned, Some(0), 99 * MIB),
            ),
            (
                key(1, 0xd, Domain::Tensor),
                record(Space::Tensor, Some(0), 5 * MIB),
            ),
            // Another process's.
            (
                key(2, 0xa, Domain::Device),
                record(Space::Device, Some(0), 77 * MIB),
            ),
        ];
        held.torch = vec![
            (key(1, 1, Domain::Tensor), said(MIB, 10 * MIB)),
            (key(1, 0, Domain::Tensor), said(5 * MIB, 20 * MIB)),
        ];
    }
    let mut gpu = GpuMemory::new(Box::new(fake.clone()));
    let mut tracker = Tracker::new(Settings::default(), 0);
    let now = snapshot(&mut gpu, &mut tracker, true);
    let shown = report(&gpu, &now);
    let lines: Vec<_> = shown
        .torch
        .iter()
        .map(|torch| {
            (
                torch.device,
                torch.driver_live_bytes,
                torch.outside_bytes,
                torch.of_all_devices,
            )
        })
        .collect();
    let mib = MIB.cast_signed();
    assert_eq!(
        lines,
        [
            (0, 30 * MIB, 10 * mib, false),
            // Reserved before the attach.
            (1, 8 * MIB, -2 * mib, false),
        ]
    );
    assert_eq!((shown.torch[0].age_ms, shown.torch[0].reports), (4, 3));

    // Of some of it the device is not known: of all devices, then.
    let unknown = record(Space::Vmm, None, 2 * MIB);
    fake.0
        .borrow_mut()
        .live
        .push((key(1, 0xe, Domain::Handle), unknown));
    let mut tracker = Tracker::new(Settings::default(), 0);
    let now = snapshot(&mut gpu, &mut tracker, true);
    let shown = report(&gpu, &now);
    for torch in &shown.torch {
        assert_eq!(
            (torch.driver_live_bytes, torch.outside_bytes, torch.of_all_devices),
            (40 * MIB, 10 * mib, true)
        );
    }
}

#[test]
fn what_has_failed_is_listed_by_size_and_stays_when_its_process_has_ended() {
    let fake = Fake::default();
    let failure = |code, largest_bytes| {
        let key = GpuErrorKey {
            stack_id: 9,
            process: process(1),
            call: 0x4000,
            code,
        };
        let errors = GpuErrors {
            count: 2,
            bytes: 2 * largest_bytes,
            largest_bytes,
            last_ns: 2_000_000,
        };
        (key, errors)
    };
    {
        let mut held = fake.0.borrow_mut();
        held.errors = vec![failure(1, 0), failure(2, 20 << 30), failure(4711, 5)];
        held.torch = vec![(key(1, 0, Domain::Tensor), said(MIB, 2 * MIB))];
        held.live = vec![(key(1, 0xa, Domain::Device), record(Space::Device, Some(0), MIB))];
    }
    let mut gpu = GpuMemory::new(Box::new(fake));
    let mut tracker = Tracker::new(Settings::default(), 0);
    let now = snapshot(&mut gpu, &mut tracker, true);
    let shown = report(&gpu, &now);
    let listed: Vec<_> = shown
        .errors
        .iter()
        .map(|failures| (failures.code, failures.name, failures.age_ms))
        .collect();
    assert_eq!(
        listed,
        [
            (2, Some("out of memory"), 3),
            (4711, None, 3),
            (1, Some("invalid value"), 3)
        ]
    );
    assert!(
        gpu.failed()
            .iter()
            .all(|failed| failed.site.image.frozen.is_none())
    );

    let mut freezing = tracker.freeze(1, 0, State::Exited, 6_000_000);
    let left = gpu
        .take_image(1, 0, |block| {
            freezing.add_totals(site_of(block), &totals_of(block));
            freezing.add_block(block);
        })
        .unwrap();
    assert!(left.is_something());
    let id = freezing.finish().id;
    gpu.keep(left, 1, 0, State::Exited, id);
    let last = snapshot(&mut gpu, &mut tracker, false);
    let shown = report(&gpu, &last);
    assert_eq!((last.sites[0].state, last.sites[0].bytes), (State::Exited, MIB));
    let torch = &shown.torch[0];
    assert_eq!(
        (torch.state, torch.reserved_bytes, torch.driver_live_bytes),
        (State::Exited, 2 * MIB, MIB)
    );
    assert!(
        gpu.failed()
            .iter()
            .all(|failed| failed.site.image.frozen == Some(id))
    );
    // A process that has the pid again does not get them.
    assert_eq!(shown.errors.len(), 3);
}

#[test]
fn segments_of_the_caching_allocator_are_told_by_call_stack_and_totals() {
    let fake = Fake::default();
    fake.0.borrow_mut().torch = vec![(key(1, 0, Domain::Tensor), said(MIB, 2 * MIB))];
    let mut gpu = GpuMemory::new(Box::new(fake));
    gpu.read(|_, _| true, |_| {}).unwrap();
    let site = |tgid| SiteRef {
        image: Image {
            tgid,
            image: 0,
            frozen: None,
        },
        key: SiteKey {
            stack_id: 7,
            process: process(tgid),
            call: 0x4000,
            shard: 0,
        },
    };
    let torch = ["/lib/libcudart.so.12", "/venv/torch/lib/libc10_cuda.so"];
    let other = ["/lib/libcudart.so.12", "/opt/libc10_cuda.so.bak"];
    let by = |tgid, call, files: &[&str]| gpu.reserved_by(&site(tgid), call, files.iter().copied());
    assert_eq!(by(1, "cudaMalloc", &torch), Some("PyTorch"));
    assert_eq!(by(1, "cudaMallocAsync", &torch), None);
    assert_eq!(by(1, "cudaMalloc", &other), None);
    assert_eq!(by(2, "cudaMalloc", &torch), None);
}
