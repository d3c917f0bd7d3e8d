//! GPU memory in the report: sums by kind and device, what `PyTorch` says, what failed, what the driver's own tool
//! counts. Plain data.
//!
//! Kinds of memory are never one sum: each is another memory. What is compared with a device's memory as a whole says so.
//! Must not know how any of it was read.

use leaktrace_common::call::Space;
use serde::Serialize;

use super::model::{Frame, State};

/// GPU memory of all traced processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Gpu {
    /// Whether it is followed.
    pub state: GpuState,
    /// Sums by kind of memory and device; kinds of which nothing was seen are left out.
    pub spaces: Vec<PlaceSums>,
    /// What `PyTorch`'s caching allocator has last said, by process and device.
    pub torch: Vec<Torch>,
    /// Failed calls, those that asked for most bytes first.
    pub errors: Vec<Failures>,
    /// What the driver says that the processes use; none where its library is not there or was not asked.
    pub nvml: Option<Nvml>,
    /// Calls that make memory which is not followed.
    pub not_tracked: NotTracked,
}

/// Whether GPU memory is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuState {
    /// It was asked for, and no process has mapped CUDA's driver yet.
    #[default]
    Waiting,
    /// It is.
    Followed,
}

/// Sums over one kind of memory on one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlaceSums {
    /// Which memory, by its name in reports.
    pub space: &'static str,
    /// The number that CUDA gives the device in the process; none where it is not known.
    pub device: Option<u8>,
    /// Outstanding bytes.
    pub live_bytes: u64,
    /// Outstanding blocks.
    pub live_blocks: u64,
    /// Bytes handed out since the attach.
    pub alloc_bytes: u64,
    /// Blocks handed out since the attach.
    pub allocs: u64,
    /// Of those, blocks taken back.
    pub frees: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Change of the outstanding bytes per second, over the interval.
    pub live_bytes_per_s: f64,
}

/// What `PyTorch`'s caching allocator has last said of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Torch {
    /// Process id.
    pub pid: u32,
    /// Whether it still runs; of one that does not, it is what was said last.
    pub state: State,
    /// The device's number.
    pub device: u32,
    /// Bytes of tensors, those of before the attach included.
    pub allocated_bytes: u64,
    /// Bytes that it has from the driver, those of before the attach included.
    pub reserved_bytes: u64,
    /// How often it has said so since the attach.
    pub reports: u64,
    /// Milliseconds since the last time.
    pub age_ms: u64,
    /// Device memory that the driver has handed out to the process since the attach: kinds `device`, `array` and `vmm`.
    pub driver_live_bytes: u64,
    /// Whether that is of all devices, because of some of it the device is not known.
    pub of_all_devices: bool,
    /// What others than `PyTorch` have of it: `driver_live_bytes` less what is reserved (on all devices, where that is what
    /// the other is of). Negative where more was reserved before the attach than others hold.
    pub outside_bytes: i64,
}

/// Calls from one place that failed with one result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failures {
    /// Process id.
    pub pid: u32,
    /// The process's name.
    pub comm: String,
    /// The call.
    pub call: String,
    /// What it returned.
    pub code: u32,
    /// That in words; none where it is not known.
    pub name: Option<&'static str>,
    /// How many.
    pub count: u64,
    /// Bytes that were asked for, of all together.
    pub bytes: u64,
    /// Of the largest.
    pub largest_bytes: u64,
    /// Milliseconds since the last.
    pub age_ms: u64,
    /// The stack; empty of calls that make no memory.
    pub frames: Vec<Frame>,
}

/// What the driver's management library says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nvml {
    /// Why something is not known.
    pub why: Option<String>,
    /// The processes, by pid.
    pub processes: Vec<NvmlProcess>,
}

/// What the driver says that a process uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NvmlProcess {
    /// Process id.
    pub pid: u32,
    /// Bytes on all devices; none where the driver does not tell.
    pub used_bytes: Option<u64>,
    /// Device memory that it was seen to hand out: kinds `device`, `array` and `vmm`.
    pub driver_live_bytes: u64,
    /// The difference: contexts, code, what was handed out before the attach. Negative where what was handed out is not
    /// in use yet.
    pub more_bytes: Option<i64>,
    /// By device.
    pub devices: Vec<NvmlDevice>,
}

/// What a process uses of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NvmlDevice {
    /// The number that the library gives it, which need not be that of CUDA.
    pub index: u32,
    /// The product's name.
    pub name: String,
    /// Bytes; none where the driver does not tell.
    pub used_bytes: Option<u64>,
}

/// Calls that make memory which is not followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotTracked {
    /// How many since the attach.
    pub calls: u64,
    /// By function, where the calls were counted.
    pub functions: Vec<NotTrackedFunction>,
}

/// A function that makes memory which is not followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotTrackedFunction {
    /// Its symbol.
    pub function: String,
    /// How often it was called since the attach.
    pub calls: u64,
}

/// Part of a survivor that may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Unsure {
    /// Bytes.
    pub bytes: u64,
    /// Blocks.
    pub blocks: u64,
    /// Why.
    pub why: &'static str,
}

impl Unsure {
    /// A context has ended that may have been theirs.
    pub const CONTEXT: &'static str = "context destroyed";
}

/// Who has memory from the driver to hand it on.
pub const PYTORCH: &str = "PyTorch";

/// The tables of survivors, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Memory of GPUs or for them.
    Gpu,
    /// Tensors, which lie in memory of the first table.
    Tensors,
    /// All else.
    Host,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gpu, Self::Tensors, Self::Host];

    /// In which a kind of memory is listed.
    pub const fn of(space: Space) -> Self {
        match space {
            Space::Tensor => Self::Tensors,
            _ if space.is_gpus() => Self::Gpu,
            _ => Self::Host,
        }
    }

    /// The same by the name in reports.
    pub fn of_name(space: &str) -> Self {
        let known = Space::ALL.into_iter().find(|known| known.name() == space);
        known.map_or(Self::Host, Self::of)
    }

    /// What stands above it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Gpu => "GPU memory",
            Self::Tensors => "tensors",
            Self::Host => "host memory",
        }
    }
}

/// Whether memory of this kind takes a device's memory, whole and at once: that of `Managed` moves as it is used.
pub const fn takes_device_memory(space: Space) -> bool {
    matches!(space, Space::Device | Space::Array | Space::Vmm)
}

/// What a result of CUDA's driver or runtime means; `None` of one that is not in the table.
///
/// From NVIDIA's documentation of `CUresult` and `cudaError_t`, whose numbers are the same from 100 on and for the few
/// below that calls for memory return.
pub fn code_name(code: u32) -> Option<&'static str> {
    let index = CODES.binary_search_by_key(&code, |(number, _)| *number).ok()?;
    Some(CODES[index].1)
}

const CODES: &[(u32, &str)] = &[
    (1, "invalid value"),
    (2, "out of memory"),
    (3, "not initialized"),
    (4, "driver shutting down"),
    (12, "invalid pitch"),
    (17, "invalid device pointer"),
    (34, "stub library"),
    (35, "driver older than the runtime"),
    (46, "device unavailable"),
    (100, "no device"),
    (101, "invalid device"),
    (102, "device not licensed"),
    (103, "validity of the software not established"),
    (200, "invalid image"),
    (201, "invalid context"),
    (205, "mapping failed"),
    (206, "unmapping failed"),
    (207, "array is mapped"),
    (208, "already mapped"),
    (209, "no binary for the device"),
    (211, "not mapped"),
    (214, "uncorrectable memory error"),
    (216, "context already in use"),
    (217, "peer access not supported"),
    (304, "operating system call failed"),
    (400, "invalid handle"),
    (401, "illegal state"),
    (500, "not found"),
    (600, "not ready"),
    (700, "illegal address"),
    (701, "launch out of resources"),
    (702, "launch timed out"),
    (704, "peer access already enabled"),
    (705, "peer access not enabled"),
    (708, "primary context active"),
    (709, "context is destroyed"),
    (710, "assertion on the device"),
    (711, "too many peers"),
    (712, "host memory already registered"),
    (713, "host memory not registered"),
    (714, "hardware stack error"),
    (715, "illegal instruction"),
    (716, "misaligned address"),
    (717, "invalid address space"),
    (718, "invalid program counter"),
    (719, "launch failed"),
    (800, "not permitted"),
    (801, "not supported"),
    (802, "system not ready"),
    (803, "driver and system do not fit"),
    (804, "compatibility mode not supported by the device"),
    (900, "not permitted while a stream is captured"),
    (901, "stream capture invalidated"),
    (999, "unknown error"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_found() {
        assert!(CODES.is_sorted_by_key(|(number, _)| *number));
        assert_eq!(code_name(2), Some("out of memory"));
        assert_eq!(code_name(999), Some("unknown error"));
        assert_eq!((code_name(0), code_name(6)), (None, None));
    }

    #[test]
    fn every_space_is_in_one_table() {
        for space in Space::ALL {
            assert_eq!(Table::of_name(space.name()), Table::of(space));
            assert_eq!(Table::of(space) == Table::Host, !space.is_gpus());
        }
        assert_eq!(Table::of_name("unknown"), Table::Host);
        assert!(Table::ALL.is_sorted());
    }
}
