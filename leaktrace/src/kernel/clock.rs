//! The clock that the kernel side, the side-band and user space have in common, and the CPU time of processes.

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// Nanoseconds of `CLOCK_BOOTTIME`: since boot, suspend included.
pub fn now_ns() -> u64 {
    // Linux has had this clock since 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, nanoseconds)
}

/// Nanoseconds of CPU time that a process has used, its ended threads included; `None` if it is gone.
///
/// The process's POSIX CPU clock: exact, one call, and of the whole process. `/proc/PID/stat` counts in
/// hundredths of a second, and `/proc/PID/task/*/schedstat` forgets threads that have ended.
pub fn process_cpu_ns(pid: u32) -> Option<u64> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32)).ok()?;
    clock_gettime(clock).ok().map(nanoseconds)
}

/// The same of leaktrace itself.
pub fn own_cpu_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, nanoseconds)
}

/// The same of this thread alone.
pub fn thread_cpu_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, nanoseconds)
}

const fn nanoseconds(time: TimeSpec) -> u64 {
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_clock_of_a_process_is_read_by_its_pid() {
        let before = own_cpu_ns();
        let by_pid = process_cpu_ns(std::process::id()).unwrap();
        assert!(before <= by_pid && by_pid <= own_cpu_ns());
        // PID_MAX_LIMIT, include/linux/threads.h: no pid is as large.
        assert_eq!(process_cpu_ns(4 << 20), None);
    }
}
