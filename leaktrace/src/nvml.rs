//! What NVIDIA's driver says that a process uses of each GPU: the number that leaktrace's own stands beside.
//!
//! From NVML, the library of the driver that nvidia-smi is made with. It is loaded when it is asked for, and a machine
//! without it lacks nothing but this number. Must not know of probes, sites or reports.

use std::{collections::BTreeMap, ffi::OsStr};

use nvml_wrapper::{Device, enums::device::UsedGpuMemory, error::NvmlError, struct_wrappers::device::ProcessInfo};

/// The name by which the driver's packages and container tools provide it: without the `.1` it belongs to the
/// development files.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// The driver's own book-keeping, as long as it can be asked.
#[derive(Debug)]
pub struct Nvml {
    library: nvml_wrapper::Nvml,
}

/// What a process uses of a device, by the driver's count.
///
/// That is all that the application uses (`nvmlProcessInfo_t` in NVIDIA's "NVML API Reference Guide"): its context, its
/// code and what pools hold back are in it, so it is more than the memory that its calls have asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedByProcess {
    /// The process id, in the first pid namespace.
    pub pid: u32,
    /// Number of the device in NVML and nvidia-smi: by PCI bus, and all devices of the machine. CUDA counts otherwise,
    /// and only those that `CUDA_VISIBLE_DEVICES` leaves.
    pub device_index: u32,
    /// Such as `NVIDIA H200`; empty where it cannot be read.
    pub device_name: String,
    /// Such as `GPU-9f2...`: the same in CUDA; empty where it cannot be read.
    pub device_uuid: String,
    /// Bytes of device memory; `None` where the driver does not say, as in some containers and on parts of a device (MIG).
    pub used_bytes: Option<u64>,
}

impl Nvml {
    /// Loads NVML and connects to the driver. It makes no context on any device.
    ///
    /// # Errors
    /// Without a driver, without its library, or where that may not be used: a sentence for a log, nothing to fail for.
    pub fn load() -> Result<Self, String> {
        Self::load_from(LIBRARY.as_ref())
    }

    fn load_from(library: &OsStr) -> Result<Self, String> {
        let loaded = nvml_wrapper::Nvml::builder().lib_path(library).init();
        let library = loaded.map_err(|error| {
            format!(
                "{}: {error}; what processes use by the driver's own count is not shown",
                library.display()
            )
        })?;
        Ok(Self { library })
    }

    /// What these processes use, by device and process; those that use none are not in it, nor are devices that cannot be
    /// asked.
    ///
    /// A process with a context for graphics alone is not counted by the driver here, and with CUDA's multi-process
    /// service (MPS) it files what its clients use under that service.
    pub fn used(&self, pids: &[u32]) -> Vec<UsedByProcess> {
        let mut used = Vec::new();
        for index in 0..self.library.device_count().unwrap_or(0) {
            let Ok(device) = self.library.device_by_index(index) else {
                continue;
            };
            let Ok(processes) = processes(&device) else {
                continue;
            };
            let by_process = by_process(&processes, pids);
            if by_process.is_empty() {
                continue;
            }
            let name = device.name().unwrap_or_default();
            let uuid = device.uuid().unwrap_or_default();
            used.extend(by_process.into_iter().map(|(pid, used_bytes)| UsedByProcess {
                pid,
                device_index: index,
                device_name: name.clone(),
                device_uuid: uuid.clone(),
                used_bytes,
            }));
        }
        used
    }
}

/// Drivers before 510 have the second version of the call only, and so have 535.98 and some that followed it.
fn processes(device: &Device<'_>) -> Result<Vec<ProcessInfo>, NvmlError> {
    device
        .running_compute_processes()
        .or_else(|_without_v3| device.running_compute_processes_v2())
}

/// Bytes by process: a process is listed once for each part of the device that it uses (MIG).
fn by_process(processes: &[ProcessInfo], pids: &[u32]) -> BTreeMap<u32, Option<u64>> {
    let mut sums = BTreeMap::new();
    for process in processes.iter().filter(|process| pids.contains(&process.pid)) {
        let used_bytes = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        sums.entry(process.pid)
            .and_modify(|sum: &mut Option<u64>| {
                *sum = sum.zip(used_bytes).map(|(sum, bytes)| sum.saturating_add(bytes));
            })
            .or_insert(used_bytes);
    }
    sums
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use super::*;

    /// Two processes on the first device, one of them twice, and one on the second that the driver has no number for.
    const PROCESSES: &str = "0:4242:1048576 0:77:4096 0:77:8192 0:5:1 1:77: 1:5:1";

    fn fake(directory: &Path, options: &[&str]) -> Option<Nvml> {
        let source = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/programs/gpu/fake_nvml.c"
        );
        let library = directory.join(LIBRARY);
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O1", source, "-o"])
            .arg(&library)
            .arg(format!("-DFAKE_NVML=\"{PROCESSES}\""))
            .args(options);
        // Without a compiler there is nothing to load here; the end-to-end suites fail without one.
        let compiled = compiler.status().ok()?;
        assert!(compiled.success());
        Some(Nvml::load_from(library.as_os_str()).expect("the fake is loaded"))
    }

    fn check(nvml: &Nvml) {
        let used = nvml.used(&[77, 4242, 9]);
        let seen: Vec<_> = used
            .iter()
            .map(|used| (used.device_index, used.pid, used.used_bytes))
            .collect();
        assert_eq!(
            seen,
            [(0, 77, Some(12288)), (0, 4242, Some(1_048_576)), (1, 77, None)]
        );
        assert_eq!(used[2].device_name, "Fake GPU 1");
        assert!(
            used[2].device_uuid.starts_with("GPU-") && used[2].device_uuid.ends_with('1'),
            "{used:?}"
        );
        assert_eq!(nvml.used(&[]), []);
        assert_eq!(nvml.used(&[9]), []);
    }

    #[test]
    fn what_processes_use_is_read_by_device() {
        let directory = tempfile::tempdir().expect("a temporary folder can be made");
        if let Some(nvml) = fake(directory.path(), &[]) {
            check(&nvml);
        }
    }

    #[test]
    fn drivers_without_the_third_version_of_the_call_are_read_by_the_second() {
        let directory = tempfile::tempdir().expect("a temporary folder can be made");
        if let Some(nvml) = fake(directory.path(), &["-DWITHOUT_V3"]) {
            check(&nvml);
        }
    }

    #[test]
    fn without_a_library_there_is_a_reason() {
        let why = Nvml::load_from("/nowhere/libnvidia-ml.so.1".as_ref()).expect_err("it is not there");
        assert!(why.starts_with("/nowhere/libnvidia-ml.so.1: "), "{why}");
    }
}
