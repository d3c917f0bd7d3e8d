//! The kernel's side-band: every new executable mapping, exec and fork on the machine, from perf's
//! per-CPU rings (`PERF_RECORD_MMAP2`, `COMM`, `FORK`, `LOST`).
//!
//! It is how perf itself knows which file an address belonged to in a process that is already gone. It
//! costs the traced program nothing per allocation. Must not know what is traced.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::clock::now_ns;
use perf_event_open::{
    config::{Clock, Cpu, Opts, Proc, WakeUpOn},
    count::Counter,
    event::sw::Software,
    sample::{
        Sampler,
        record::{Record, mmap},
    },
};

/// Pages of a CPU's ring, as a power of two: 512 KiB, some 4000 mappings.
const RING_PAGES_LOG2: u8 = 7;

/// Between two readings ahead.
const READ_EVERY: Duration = Duration::from_millis(20);

/// What is kept until somebody asks for it, some 200 bytes each.
const ENTRIES_MAX: usize = 500_000;

/// Readings in a row, on a machine where processes start all the time.
const READINGS_MAX: usize = 4;

/// Something that happened to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An executable mapping came.
    Mapped {
        /// First address.
        start: u64,
        /// Address behind the last.
        end: u64,
        /// Offset in the file.
        offset: u64,
        /// Device and inode of the file, as in `/proc/PID/maps`.
        device: (u32, u32),
        /// See `device`.
        inode: u64,
        /// Path as the process sees it, or a name in brackets or `//anon`.
        path: PathBuf,
    },
    /// It called `exec`; its old mappings are gone.
    Exec {
        /// Its new name.
        comm: String,
    },
    /// It was forked off `parent`.
    Forked {
        /// Process id of the parent.
        parent: u32,
    },
    /// Its first thread has ended, and with it as a rule the process.
    Ended,
}

/// A change with its process and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// The process.
    pub pid: u32,
    /// What happened.
    pub change: Change,
}

/// The open rings.
pub struct Sideband {
    rings: Arc<Mutex<Rings>>,
    reader: Option<Reader>,
}

/// The rings and what has been read of them.
struct Rings {
    by_cpu: Vec<(Counter, Sampler)>,
    entries: Vec<Entry>,
    lost: u64,
}

/// Reads ahead until it is dropped.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads perf's side-band has failed");
        }
    }
}

impl std::fmt::Debug for Sideband {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sideband")
            .field("reads_ahead", &self.reader.is_some())
            .finish_non_exhaustive()
    }
}

/// The side-band cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot open perf's side-band on CPU {cpu}: {source}; run as root or with CAP_PERFMON, and where perf is locked, set kernel.perf_event_paranoid to 2 or less"
)]
pub struct SidebandError {
    cpu: u32,
    source: io::Error,
}

impl Sideband {
    /// Opens a ring on every CPU that is on line.
    ///
    /// # Errors
    /// [`SidebandError`].
    pub fn open() -> Result<Self, SidebandError> {
        let rings = online_cpus()
            .into_iter()
            .map(open_ring)
            .collect::<Result<_, _>>()?;
        let rings = Rings {
            by_cpu: rings,
            entries: Vec::new(),
            lost: 0,
        };
        Ok(Self {
            rings: Arc::new(Mutex::new(rings)),
            reader: None,
        })
    }

    /// Has the rings read by a thread too, so that they do not overflow while nobody asks: processes that come by the
    /// hundred fill them in a second.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn read_ahead(&mut self) -> io::Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("side-band".to_owned()).spawn({
            let (stop, rings) = (Arc::clone(&stop), Arc::clone(&self.rings));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    lock(&rings).read();
                    // By time and not by the descriptors' readiness: who asks for that takes it away from the others
                    // (kernel/events/core.c: `perf_poll`).
                    std::thread::sleep(READ_EVERY);
                }
            }
        })?;
        self.reader = Some(Reader {
            stop,
            thread: Some(thread),
        });
        Ok(())
    }

    /// The descriptors that become readable when something has happened.
    ///
    /// # Errors
    /// When they cannot be duplicated.
    pub fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        lock(&self.rings)
            .by_cpu
            .iter()
            .map(|(counter, _)| counter.file().try_clone().map(OwnedFd::from))
            .collect()
    }

    /// Records the kernel had to drop since the start.
    pub fn lost(&self) -> u64 {
        lock(&self.rings).lost
    }

    /// What has happened since the last call, in order of time.
    ///
    /// The rings are read one after another, so what is younger than the start of a reading may have something
    /// older on a CPU that has been read already: then they are read once more.
    pub fn drain(&mut self) -> Vec<Entry> {
        let mut rings = lock(&self.rings);
        for _ in 0..READINGS_MAX {
            let start_ns = now_ns();
            let read = rings.entries.len();
            rings.read();
            if rings.entries[read..]
                .iter()
                .all(|entry| entry.time_ns <= start_ns)
            {
                break;
            }
        }
        let mut entries = std::mem::take(&mut rings.entries);
        drop(rings);
        entries.sort_by_key(|entry: &Entry| entry.time_ns);
        entries
    }
}

impl Rings {
    fn read(&mut self) {
        for (_, sampler) in &self.by_cpu {
            // There is one iterator at a time: this one.
            let Some(records) = sampler.iter() else { continue };
            for (_, record) in records {
                match record {
                    Record::LostRecords(lost) => self.lost += lost.lost_records,
                    _ if self.entries.len() >= ENTRIES_MAX => self.lost += 1,
                    record => self.entries.extend(translate(record)),
                }
            }
        }
    }
}

/// A reader that has panicked leaves the rings as they were: usable.
fn lock(rings: &Mutex<Rings>) -> MutexGuard<'_, Rings> {
    rings.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_ring(cpu: u32) -> Result<(Counter, Sampler), SidebandError> {
    let mut opts = Opts::default();
    opts.extra_record.mmap.code = true;
    opts.extra_record.mmap.ext = Some(perf_event_open::config::UseBuildId(false));
    opts.extra_record.comm = true;
    opts.extra_record.task = true;
    opts.record_id_all = true;
    opts.record_id_format.time = true;
    opts.timer = Some(Clock::BootTime);
    opts.wake_up.on = WakeUpOn::Bytes(1);
    let open = || {
        let counter = Counter::new(Software::Dummy, (Proc::ALL, Cpu(cpu)), &opts)?;
        let sampler = counter.sampler(RING_PAGES_LOG2)?;
        counter.enable()?;
        Ok((counter, sampler))
    };
    open().map_err(|source| SidebandError { cpu, source })
}

fn translate(record: Record) -> Option<Entry> {
    match record {
        Record::Mmap(map) => {
            let time_ns = map.record_id.as_ref()?.time?;
            let mmap::Info::Device {
                major, minor, inode, ..
            } = map.ext?.info
            else {
                return None;
            };
            let change = Change::Mapped {
                start: map.addr,
                end: map.addr.saturating_add(map.len),
                offset: map.page_offset,
                device: (major, minor),
                inode,
                path: PathBuf::from(std::ffi::OsStr::from_bytes(map.file.as_bytes())),
            };
            Some(Entry {
                time_ns,
                pid: map.task.pid,
                change,
            })
        }
        Record::Comm(comm) if comm.by_execve => Some(Entry {
            time_ns: comm.record_id.as_ref()?.time?,
            pid: comm.task.pid,
            change: Change::Exec {
                comm: comm.comm.to_string_lossy().into_owned(),
            },
        }),
        // A new thread is a fork within its process.
        Record::Fork(fork) if fork.task.pid != fork.parent_task.pid => Some(Entry {
            time_ns: fork.time,
            pid: fork.task.pid,
            change: Change::Forked {
                parent: fork.parent_task.pid,
            },
        }),
        Record::Exit(exit) if exit.task.pid == exit.task.tid => Some(Entry {
            time_ns: exit.time,
            pid: exit.task.pid,
            change: Change::Ended,
        }),
        _ => None,
    }
}

/// CPUs that are on line, from sysfs's list of ranges.
pub(super) fn online_cpus() -> Vec<u32> {
    let list = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let cpus = parse_cpus(&list);
    if cpus.is_empty() { vec![0] } else { cpus }
}

fn parse_cpus(list: &str) -> Vec<u32> {
    list.trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_cpus_are_read() {
        assert_eq!(parse_cpus("0-1\n"), [0, 1]);
        assert_eq!(parse_cpus("0,2-4,7"), [0, 2, 3, 4, 7]);
        assert_eq!(parse_cpus(""), [] as [u32; 0]);
    }
}
