//! A report of a process with GPU memory and tensors.

use super::{super::gpu::*, *};

fn gpu_survivor(call: &str, space: &str, device: Option<u8>, bytes: u64, blocks: u64) -> Survivor {
    let libcuda = "/usr/lib/x86_64-linux-gnu/libcuda.so.1";
    Survivor {
        call: text(call),
        space: text(space),
        device,
        bytes,
        blocks,
        mean_bytes: bytes as f64 / blocks as f64,
        allocs: blocks,
        frees: 0,
        lifetime_ms: None,
        frames: vec![
            frame("0x7f0000099500", libcuda, "0x99500", call, None),
            frame(
                "0x55d000001300",
                "/usr/bin/server",
                "0x1300",
                "load_weights",
                Some(("src/model.cc", 31)),
            ),
        ],
        ..survivors().remove(0)
    }
}

fn place(space: &'static str, device: Option<u8>, live_bytes: u64, live_blocks: u64) -> PlaceSums {
    PlaceSums {
        space,
        device,
        live_bytes,
        live_blocks,
        alloc_bytes: live_bytes + (1 << 20),
        allocs: live_blocks + 1,
        frees: 1,
        freed_bytes: 1 << 20,
        live_bytes_per_s: 4096.0,
    }
}

/// The same with GPU memory on two devices, tensors of `PyTorch`, a failure, and something that is not followed.
pub(crate) fn gpu() -> Report {
    let mut report = report();
    let mut segment = gpu_survivor("cudaMalloc", "device", Some(0), 40 * MIB, 2);
    segment.reserved_by = Some(PYTORCH);
    let mut unsure = gpu_survivor("cuMemAllocHost_v2", "pinned", Some(1), 3 * MIB, 3);
    unsure.unsure = Some(Unsure {
        bytes: MIB,
        blocks: 1,
        why: Unsure::CONTEXT,
    });
    let tensors = gpu_survivor("reportMemoryUsageToProfiler", "tensor", Some(0), 30 * MIB, 6);
    report.survivors.splice(..0, [segment, unsure, tensors]);
    let host = report.totals.by_space.of(Space::Heap);
    report.totals.by_space = by_space(&[
        (Space::Heap, host.live_bytes, host.live_blocks),
        (Space::Device, 64 * MIB, 4),
        (Space::Pinned, 3 * MIB, 3),
        (Space::Tensor, 30 * MIB, 6),
    ]);
    report.omitted.gpu = vec![OmittedSpace {
        space: "device",
        sites: 1,
        blocks: 2,
        bytes: 24 * MIB,
    }];
    report.gpu = Some(Gpu {
        state: GpuState::Followed,
        spaces: vec![
            place("device", Some(0), 48 * MIB, 3),
            place("device", Some(1), 16 * MIB, 1),
            place("pinned", Some(1), 3 * MIB, 3),
            place("tensor", Some(0), 30 * MIB, 6),
        ],
        torch: vec![Torch {
            pid: 4242,
            state: State::Running,
            device: 0,
            allocated_bytes: 30 * MIB,
            reserved_bytes: 40 * MIB,
            reports: 7,
            age_ms: 1_200,
            driver_live_bytes: 48 * MIB,
            of_all_devices: false,
            outside_bytes: 8 << 20,
        }],
        errors: vec![Failures {
            pid: 4242,
            comm: text("server"),
            call: text("cudaMalloc"),
            code: 2,
            name: Some("out of memory"),
            count: 3,
            bytes: 60 << 30,
            largest_bytes: 20 << 30,
            age_ms: 400,
            frames: stack_of_server(),
        }],
        nvml: Some(Nvml {
            why: None,
            processes: vec![NvmlProcess {
                pid: 4242,
                used_bytes: Some(612 * MIB),
                driver_live_bytes: 64 * MIB,
                more_bytes: Some(548 << 20),
                devices: vec![NvmlDevice {
                    index: 3,
                    name: text("NVIDIA H200"),
                    used_bytes: Some(612 * MIB),
                }],
            }],
        }),
        not_tracked: NotTracked {
            calls: 2,
            functions: vec![NotTrackedFunction {
                function: text("cuImportExternalMemory"),
                calls: 2,
            }],
        },
    });
    report
}
