//! Page faults of the whole machine, sampled by perf with registers and stack, or calls of a tracepoint in the same way:
//! what the kernel does when memory is touched for the first time, whatever asked for it.
//!
//! Every so many events are sampled, on each CPU by itself, and a sample stands for as many; how many follows the rate of
//! the last seconds, so that no CPU takes more than some samples a second for long. Not the rate of the moment: a change
//! begins the count anew, and after each burst of one process the next sample would be another's, and stand for the rest of
//! the burst. Nothing is put into any process. Must not know whose faults are wanted, nor how a stack is walked.

use std::{fs, io, os::fd::OwnedFd, path::Path, time::Instant};

use leaktrace_common::unwind::{raw, raw_base};
use perf_event_open::{
    config::{Clock, Cpu, Opts, Proc, RegsMask, SampleOn, Size, WakeUpOn},
    count::Counter,
    event::{sw::Software, tp::Tracepoint},
    sample::{
        Sampler,
        record::{Record, sample::Sample},
    },
};

use super::{clock::now_ns, raw::Raw, sideband::online_cpus};

/// Pages of a CPU's ring, as a power of two: 512 KiB, some 60 samples.
const RING_PAGES_LOG2: u8 = 7;

/// A ring that is as full as this is to be read.
const WAKE_BYTES: u32 = 192 << 10;

/// Bytes of stack that a sample has: the frames of most programs take less.
const STACK_BYTES: u32 = 8 << 10;

/// Samples that a CPU is to take in a second.
const SAMPLES_PER_S: f64 = 100.0;

/// Over how long the rate is averaged that this follows.
const RATE_S: f64 = 10.0;

/// Events from one sample to the next, to begin with and at most.
const PERIOD: u64 = 63;
const PERIOD_MAX: u64 = 1 << 20;

/// `PERF_REG_X86_BP`, `_SP`, `_IP` (`arch/x86/include/uapi/asm/perf_regs.h`); they come in this order.
const REGISTERS: u64 = 1 << 6 | 1 << 7 | 1 << 8;

/// Least size of a page, where the kernel does not say.
const PAGE_BYTES: u64 = 4096;

/// What is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Page faults that needed no file: memory that is touched for the first time.
    Faults,
    /// Calls that enlarge what a process has mapped. While they are, every system call of every process costs more.
    Calls(Call),
}

/// A system call that enlarges what is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `mmap`.
    Mmap,
    /// `brk`.
    Brk,
}

impl Call {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mmap => "mmap",
            Self::Brk => "brk",
        }
    }
}

/// A sampled event.
#[derive(Clone, Debug)]
pub struct Touch {
    /// The address that was touched; 0 for a call.
    pub address: u64,
    /// How many events it stands for.
    pub stands_for: f64,
    /// Size of the page that was made, in bytes: 2 MiB of a huge one.
    pub page_bytes: u64,
    /// Where user space was, with its stack.
    pub stack: Raw,
}

/// The ring of a CPU.
struct Ring {
    counter: Counter,
    sampler: Sampler,
    /// Events from one sample to the next.
    period: u64,
    /// Whether samples have the time of the clock that all else has.
    has_time: bool,
    /// Events when it was read last, and how many there are in a second of late.
    counted: u64,
    per_s: f64,
    /// The period has changed since, from this one.
    before: Option<u64>,
    /// When it was read last.
    read: Instant,
}

/// The open rings.
pub struct FaultRings {
    rings: Vec<Ring>,
    /// Samples that the kernel had to drop.
    pub lost: u64,
    /// How often the kernel has stopped sampling for the rest of a tick.
    pub throttled: u64,
    /// The kernel says how large pages are (5.11); if not, huge pages count as small ones.
    pub knows_page_sizes: bool,
}

impl std::fmt::Debug for FaultRings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultRings")
            .field("rings", &self.rings.len())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// Page faults cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// perf refuses.
    #[error(
        "cannot sample {what} on CPU {cpu}: {source}; run as root or with CAP_PERFMON, and where perf is locked, set kernel.perf_event_paranoid to -1"
    )]
    Open {
        /// What was to be sampled.
        what: &'static str,
        /// The CPU.
        cpu: u32,
        /// The errno.
        source: io::Error,
    },
    /// There is no such tracepoint.
    #[error(
        "cannot read the number of the tracepoint syscalls:sys_enter_{call}: {source}; mount tracefs on /sys/kernel/tracing, or leave --calls out"
    )]
    Tracepoint {
        /// The system call.
        call: &'static str,
        /// The errno.
        source: io::Error,
    },
}

impl FaultRings {
    /// Opens a ring on every CPU that is on line.
    ///
    /// # Errors
    /// [`FaultsError`].
    pub fn open(source: Source) -> Result<Self, FaultsError> {
        let tracepoint = match source {
            Source::Faults => None,
            Source::Calls(call) => Some(tracepoint(call)?),
        };
        let what = match source {
            Source::Faults => "page faults",
            Source::Calls(call) => call.name(),
        };
        let open_all = |page_sizes| {
            let open = |cpu| {
                open_ring(tracepoint, cpu, page_sizes).map_err(|source| FaultsError::Open {
                    what,
                    cpu,
                    source,
                })
            };
            online_cpus().into_iter().map(open).collect::<Result<Vec<_>, _>>()
        };
        let asks = source == Source::Faults;
        let (rings, knows_page_sizes) = match open_all(asks) {
            Ok(rings) => (rings, asks),
            // PERF_SAMPLE_DATA_PAGE_SIZE came with 5.11.
            Err(_older) if asks => (open_all(false)?, false),
            Err(error) => return Err(error),
        };
        Ok(Self {
            rings,
            lost: 0,
            throttled: 0,
            knows_page_sizes,
        })
    }

    /// The descriptors that become readable when a ring fills.
    ///
    /// # Errors
    /// When they cannot be duplicated.
    pub fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let files = self.rings.iter().map(|ring| ring.counter.file());
        files.map(|file| file.try_clone().map(OwnedFd::from)).collect()
    }

    /// Takes what has been sampled since the last call. `wanted` is asked before a stack is taken over: most are not.
    pub fn drain(&mut self, mut wanted: impl FnMut(u32) -> bool) -> Vec<Touch> {
        let mut touches = Vec::new();
        for ring in &mut self.rings {
            let first = touches.len();
            let (mut samples, mut lost) = (0_u64, 0);
            let restarted = ring.before.is_some();
            // There is one iterator at a time: this one.
            let Some(records) = ring.sampler.iter() else {
                continue;
            };
            for (_, record) in records {
                match record {
                    Record::Sample(sample) => {
                        samples += 1;
                        let pid = sample.record_id.task.as_ref().map_or(0, |task| task.pid);
                        if wanted(pid) {
                            let stands_for = ring.stands_for(restarted && samples == 1);
                            touches.extend(touch(*sample, pid, stands_for));
                        }
                    }
                    Record::LostRecords(records) => lost += records.lost_records,
                    Record::Throttle(_) => self.throttled += 1,
                    _ => {}
                }
            }
            if samples > 0 {
                ring.before = None;
            }
            ring.settle();
            self.lost += lost;
            // What was lost came with those that were not.
            let with_lost = (samples + lost) as f64 / samples.max(1) as f64;
            for touch in &mut touches[first..] {
                touch.stands_for *= with_lost;
                if !ring.has_time {
                    touch.stack.time_ns = now_ns();
                }
            }
        }
        touches
    }
}

impl Ring {
    /// How many events a sample stands for. The first one after the period was changed comes at once, in the place of the
    /// one that was due: on average half a period was over.
    fn stands_for(&self, is_first: bool) -> f64 {
        match self.before {
            Some(before) if is_first => before as f64 / 2.0,
            _ => self.period as f64,
        }
    }

    /// After a reading: sets the period for the next ones.
    fn settle(&mut self) {
        let Ok(stat) = self.counter.stat() else {
            return;
        };
        let events = stat.count.saturating_sub(self.counted);
        let elapsed_s = self.read.elapsed().as_secs_f64().max(1e-4);
        self.counted = stat.count;
        self.read = Instant::now();
        let weight = 1.0 - (-elapsed_s / RATE_S).exp();
        self.per_s += (events as f64 / elapsed_s - self.per_s) * weight;
        let wanted = ((self.per_s / SAMPLES_PER_S) as u64).clamp(1, PERIOD_MAX) | 1;
        if wanted > 2 * self.period || 4 * wanted < self.period {
            match self.sampler.sample_on(wanted) {
                Ok(()) => {
                    self.before.get_or_insert(self.period);
                    self.period = wanted;
                }
                Err(error) => tracing::debug!("a period of {wanted} events cannot be set: {error}"),
            }
        }
    }
}

/// Where tracepoints have their numbers; the older place is where debugfs is mounted and tracefs is not.
const TRACING: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The number of the tracepoint where a system call begins.
fn tracepoint(call: Call) -> Result<u64, FaultsError> {
    let call = call.name();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for root in TRACING {
        let path = Path::new(root).join(format!("events/syscalls/sys_enter_{call}/id"));
        let id = fs::read_to_string(path).and_then(|text| text.trim().parse().map_err(io::Error::other));
        match id {
            Ok(id) => return Ok(id),
            Err(error) => last = error,
        }
    }
    Err(FaultsError::Tracepoint { call, source: last })
}

/// A ring for page faults, or for the tracepoint with this number.
fn open_ring(tracepoint: Option<u64>, cpu: u32, page_sizes: bool) -> io::Result<Ring> {
    let mut opts = Opts {
        // Without PERF_SAMPLE_PERIOD: with it, perf_swevent_event (kernel/events/core.c, 6.18) samples every event. And not by
        // frequency: perf_adjust_period there lets a period end early, so that what it says a sample stands for is too much.
        sample_on: SampleOn::Count(PERIOD),
        ..Opts::default()
    };
    opts.sample_format.data_addr = true;
    opts.sample_format.data_page_size = page_sizes;
    opts.sample_format.user_regs = Some(RegsMask(REGISTERS));
    opts.sample_format.user_stack = Some(Size(STACK_BYTES));
    opts.record_id_format.task = true;
    opts.record_id_format.time = true;
    opts.record_id_all = true;
    // Tracepoints may come in an NMI as far as perf knows, where CLOCK_BOOTTIME cannot be read (perf_event_set_clock,
    // kernel/events/core.c): their samples are as old as their reading.
    opts.timer = tracepoint.is_none().then_some(Clock::BootTime);
    opts.wake_up.on = WakeUpOn::Bytes(WAKE_BYTES);
    let target = (Proc::ALL, Cpu(cpu));
    let counter = match tracepoint {
        Some(id) => Counter::new(Tracepoint { id }, target, &opts)?,
        // Minor faults are counted when they are done (mm_account_fault in mm/memory.c, 5.9), so that the page is there
        // and its size can be told. A page that comes back from swap or a file is a major one: it does not grow anything.
        None => Counter::new(Software::MinorPageFault, target, &opts)?,
    };
    let sampler = counter.sampler(RING_PAGES_LOG2)?;
    counter.enable()?;
    Ok(Ring {
        counter,
        sampler,
        period: PERIOD,
        has_time: tracepoint.is_none(),
        counted: 0,
        per_s: PERIOD as f64 * SAMPLES_PER_S,
        before: None,
        read: Instant::now(),
    })
}

/// None for a thread of the kernel, which has no registers of user space.
fn touch(sample: Sample, pid: u32, stands_for: f64) -> Option<Touch> {
    let (registers, _) = sample.user_regs?;
    let &[bp, sp, address] = registers.as_slice() else {
        return None;
    };
    let stack = sample.user_stack.unwrap_or_default();
    // As the kernel side sends stacks: from the beginning of a window.
    let before = (sp - raw_base(sp)) as usize;
    let mut bytes = vec![0; before + stack.len()];
    bytes[before..].copy_from_slice(&stack);
    Some(Touch {
        address: sample.data_addr.unwrap_or_default(),
        stands_for,
        page_bytes: sample
            .data_page_size
            .filter(|size| *size > 0)
            .unwrap_or(PAGE_BYTES),
        stack: Raw {
            stack_id: 0,
            tgid: pid,
            image: 0,
            kind: raw::INTERRUPTED,
            address,
            sp,
            bp,
            time_ns: sample.record_id.time.unwrap_or_default(),
            bytes: bytes.into(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_touches_of_this_process_are_sampled_with_their_pages() {
        // Where perf is locked there is nothing to see.
        let Ok(mut rings) = FaultRings::open(Source::Faults) else {
            return;
        };
        let mut memory = vec![0_u8; 64 << 20];
        for at in (0..memory.len()).step_by(4096) {
            memory[at] = 1;
        }
        let range = memory.as_ptr() as u64..memory.as_ptr() as u64 + memory.len() as u64;
        let own = std::process::id();
        let touches = rings.drain(|pid| pid == own);
        let inside: Vec<&Touch> = touches
            .iter()
            .filter(|touch| range.contains(&touch.address))
            .collect();
        assert!(!inside.is_empty(), "{} samples, none of the block", touches.len());
        for touch in inside {
            assert_eq!(touch.stack.tgid, own);
            assert!(touch.stands_for >= 1.0);
            assert!(touch.page_bytes >= 4096 && touch.page_bytes.is_power_of_two());
            assert!(touch.stack.word(touch.stack.sp).is_some());
        }
    }
}
