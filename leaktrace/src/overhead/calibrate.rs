//! What a trap costs here: measured on leaktrace itself with empty programs, in a few milliseconds.
//!
//! The price differs by a factor of ten between machines, and by more between kinds of instruction, so no
//! table could hold it. Must not know allocators.

use std::{io, os::fd::AsFd as _, path::Path};

use super::cost::TrapCosts;
use crate::{
    kernel::{
        caps::{AttachKind, constant_program},
        clock::thread_cpu_ns,
        sys::{PerfUprobe, Point, probed},
    },
    probe::{
        attach::{Link, Placement},
        process::{self, ProcessError},
    },
};

/// The cost of tracing is not known.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// leaktrace cannot find itself.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The function is not in any mapped file.
    #[error("leaktrace's own code at {address:#x} is in no file that it maps")]
    Unmapped {
        /// Where it was looked for.
        address: u64,
    },
    /// The kernel refused the program or the probe.
    #[error("cannot probe leaktrace itself: {0}")]
    Probe(#[from] io::Error),
}

/// Rounds over all kinds; of each kind the median counts. One that a timer interrupts does no harm.
const ROUNDS: usize = 9;
/// Calls in a round; single-stepped ones cost ten times as much.
const CALLS: u32 = 50;
const CALLS_SINGLE_STEPPED: u32 = 10;

/// Measures. `pmu` is needed for [`AttachKind::Perf`].
///
/// # Errors
/// [`CalibrateError`]: then the cost of tracing is unknown, and tracing can go on.
pub fn calibrate(kind: AttachKind, pmu: Option<PerfUprobe>) -> Result<TrapCosts, CalibrateError> {
    let untraced = rounds();
    let probes = Probes::place(kind, pmu)?;
    let traced = rounds();
    // The kernel waits for grace periods when a link goes; nobody else has to.
    std::thread::spawn(move || drop(probes));
    let [emulated_ns, returning_ns, single_stepped_ns] =
        std::array::from_fn(|index| (traced[index] - untraced[index]).max(0.0));
    Ok(TrapCosts {
        emulated_ns,
        single_stepped_ns,
        return_ns: (returning_ns - emulated_ns).max(0.0),
    })
}

/// What holds the probes in place.
struct Probes {
    _links: Vec<Vec<Link>>,
}

impl Probes {
    fn place(kind: AttachKind, pmu: Option<PerfUprobe>) -> Result<Self, CalibrateError> {
        let multi = kind.attach_type_of_multi();
        let keep = constant_program(multi, 0)?;
        let entry = |program, attach_type, on_return| Placement {
            program,
            attach_type,
            on_return,
            kind,
            pmu,
        };
        let path = Path::new("/proc/self/exe");
        let pid = std::process::id();
        let at = |function: extern "C" fn()| -> Result<[Point; 1], CalibrateError> {
            Ok([Point {
                offset: file_offset(function as usize as u64)?,
                cookie: 0,
            }])
        };
        let emulated = at(probed::emulated)?;
        let returning = at(probed::returning)?;
        let single_stepped = at(probed::single_stepped)?;
        let mut links = vec![
            entry(keep.as_fd(), multi, false).place(path, pid, &emulated)?,
            entry(keep.as_fd(), multi, false).place(path, pid, &single_stepped)?,
        ];
        if kind == AttachKind::Session {
            let session_type = AttachKind::SESSION_ATTACH_TYPE;
            let session = constant_program(session_type, 0)?;
            links.push(entry(session.as_fd(), session_type, false).place(path, pid, &returning)?);
        } else {
            links.push(entry(keep.as_fd(), multi, true).place(path, pid, &returning)?);
            links.push(entry(keep.as_fd(), multi, false).place(path, pid, &returning)?);
        }
        Ok(Self { _links: links })
    }
}

/// Nanoseconds of a call of each function: emulated, returning, single-stepped.
fn rounds() -> [f64; 3] {
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        times[0].push(per_call_ns(probed::emulated, CALLS));
        times[1].push(per_call_ns(probed::returning, CALLS));
        times[2].push(per_call_ns(probed::single_stepped, CALLS_SINGLE_STEPPED));
    }
    times.map(median)
}

/// By the thread's CPU time, as the target's is counted: a machine with other work must not make traps look dearer.
fn per_call_ns(function: extern "C" fn(), calls: u32) -> f64 {
    let start_ns = thread_cpu_ns();
    for _ in 0..calls {
        function();
    }
    (thread_cpu_ns() - start_ns) as f64 / f64::from(calls)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// Where in the executable the code at an address of ours comes from.
fn file_offset(address: u64) -> Result<u64, CalibrateError> {
    let mappings = process::mappings(std::process::id())?;
    mappings
        .iter()
        .find(|mapping| (mapping.start..mapping.end).contains(&address) && mapping.inode != 0)
        .map(|mapping| address - mapping.start + mapping.offset)
        .ok_or(CalibrateError::Unmapped { address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_functions_are_found_in_its_own_file() {
        use std::os::unix::fs::FileExt as _;
        let offset = file_offset(probed::emulated as *const () as usize as u64).unwrap();
        let mut first = [0_u8; 1];
        let exe = std::fs::File::open("/proc/self/exe").unwrap();
        exe.read_exact_at(&mut first, offset).unwrap();
        assert_eq!(first, [0x55], "push %rbp");
        assert!(file_offset(1).is_err());
    }

    #[test]
    fn the_median_is_not_moved_by_an_interruption() {
        assert!((median(vec![2.0, 1e9, 1.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).abs() < f64::EPSILON);
    }
}
