//! What is not traced, and why: every case in which probes would harm the target or see nothing.
//!
//! Decides on facts alone and attaches nothing. There is no way round a refusal: each one is here
//! because the target would be killed or the answer would be wrong.

use super::elf::{Class, Scan};
use super::process::{Facts, Seccomp};
use crate::kernel::version::KernelVersion;

/// Why a process is not traced: one line, with the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// leaktrace's allocations would be made by its looking at them.
    #[error("process {pid} is leaktrace itself; trace another process (`leaktrace demo` brings one)")]
    Itself {
        /// The pid.
        pid: u32,
    },
    /// The Go runtime copies stacks.
    #[error(
        "process {pid} ({comm}) is a Go program: its runtime moves stacks when they grow, and with them the return \
         addresses that probes put there, which crashes it; use Go's own heap profile (net/http/pprof)"
    )]
    Go {
        /// The pid.
        pid: u32,
        /// Its name.
        comm: String,
    },
    /// Another machine's code.
    #[error(
        "process {pid} ({comm}) runs {what} code and leaktrace reads 64-bit x86 only; use a 64-bit build of the program"
    )]
    NotX86_64 {
        /// The pid.
        pid: u32,
        /// Its name.
        comm: String,
        /// What it runs.
        what: String,
    },
    /// The kernel's trampoline makes a system call that the filter denies.
    #[error(
        "process {pid} ({comm}) filters its system calls (seccomp) and kernel {kernel} would kill it at the first return \
         probe (CVE-2025-21834); boot Linux 6.12.14, 6.13.3, 6.14 or newer, or run the program without its seccomp filter"
    )]
    Seccomp {
        /// The pid.
        pid: u32,
        /// Its name.
        comm: String,
        /// The running kernel.
        kernel: KernelVersion,
    },
    /// The kernel does not keep the shadow stack in step.
    #[error(
        "process {pid} ({comm}) runs on a shadow stack and kernel {kernel} would kill it at the first return probe; boot \
         Linux 6.6.44, 6.10.3, 6.11 or newer, or start it with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK"
    )]
    ShadowStack {
        /// The pid.
        pid: u32,
        /// Its name.
        comm: String,
        /// The running kernel.
        kernel: KernelVersion,
    },
}

/// Says whether a process may be traced. `exe` is the scan of its executable, `None` if that could not be
/// read; `needs_return_probes` is false where plain probes alone are set.
///
/// # Errors
/// The [`Refusal`] that comes first.
pub fn check(
    pid: u32,
    facts: &Facts,
    exe: Option<&Scan>,
    kernel: KernelVersion,
    needs_return_probes: bool,
) -> Result<(), Refusal> {
    if pid == std::process::id() {
        return Err(Refusal::Itself { pid });
    }
    let comm = || facts.comm.clone();
    if let Some(exe) = exe {
        if !exe.is_supported() {
            return Err(Refusal::NotX86_64 {
                pid,
                comm: comm(),
                what: describe(exe),
            });
        }
        if exe.is_go {
            return Err(Refusal::Go { pid, comm: comm() });
        }
    }
    if needs_return_probes && facts.seccomp != Seccomp::Off && kernel.return_probes_break_seccomp() {
        return Err(Refusal::Seccomp {
            pid,
            comm: comm(),
            kernel,
        });
    }
    if needs_return_probes && facts.shadow_stack && kernel.return_probes_break_shadow_stacks() {
        return Err(Refusal::ShadowStack {
            pid,
            comm: comm(),
            kernel,
        });
    }
    Ok(())
}

fn describe(exe: &Scan) -> String {
    match (exe.class, exe.machine) {
        (Class::Bits32, 3) => "32-bit x86".to_owned(),
        (Class::Bits32, 62) => "x32".to_owned(),
        (Class::Bits32, machine) => format!("32-bit (ELF machine {machine})"),
        (Class::Bits64, 183) => "64-bit Arm".to_owned(),
        (Class::Bits64, machine) => format!("foreign (ELF machine {machine})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::gear::Group;

    fn facts() -> Facts {
        Facts {
            pid: 7,
            comm: "server".to_owned(),
            exe: None,
            start_ticks: 1,
            seccomp: Seccomp::Off,
            shadow_stack: false,
            threads: 1,
        }
    }

    fn exe() -> Scan {
        Scan {
            build_id: None,
            class: Class::Bits64,
            machine: 62,
            functions: Vec::new(),
            skipped: Vec::new(),
            arenas: Group::default(),
            pools: Group::default(),
            gpu: Group::default(),
            inlines_objects: false,
            python: crate::python::runtime::Facts::default(),
            is_go: false,
            interpreter: None,
            soname: None,
            segments: Vec::new(),
            linker: None,
            exit: None,
        }
    }

    const FIXED: KernelVersion = KernelVersion::new(6, 18, 44);

    fn refused(facts: &Facts, exe: &Scan, kernel: KernelVersion) -> String {
        let refusal = check(7, facts, Some(exe), kernel, true).unwrap_err().to_string();
        assert!(!refusal.contains('\n') && refusal.contains("; "), "{refusal}");
        assert!(refusal.starts_with("process 7 (server)"), "{refusal}");
        refusal
    }

    #[test]
    fn an_ordinary_process_is_traced() {
        assert_eq!(check(7, &facts(), Some(&exe()), FIXED, true), Ok(()));
        assert_eq!(check(7, &facts(), None, FIXED, true), Ok(()));
    }

    #[test]
    fn leaktrace_itself_is_not() {
        let pid = std::process::id();
        assert_eq!(
            check(pid, &facts(), None, FIXED, true),
            Err(Refusal::Itself { pid })
        );
    }

    #[test]
    fn go_programs_are_not() {
        assert!(refused(&facts(), &Scan { is_go: true, ..exe() }, FIXED).contains("Go program"));
    }

    #[test]
    fn other_machines_are_not() {
        let class = Class::Bits32;
        assert!(
            refused(
                &facts(),
                &Scan {
                    class,
                    machine: 3,
                    ..exe()
                },
                FIXED
            )
            .contains("32-bit x86 code")
        );
        assert!(refused(&facts(), &Scan { class, ..exe() }, FIXED).contains("x32 code"));
        assert!(
            refused(
                &facts(),
                &Scan {
                    machine: 183,
                    ..exe()
                },
                FIXED
            )
            .contains("64-bit Arm")
        );
        assert!(
            refused(
                &facts(),
                &Scan {
                    machine: 243,
                    ..exe()
                },
                FIXED
            )
            .contains("ELF machine 243")
        );
    }

    #[test]
    fn filtered_processes_are_not_on_the_kernels_that_kill_them() {
        for seccomp in [Seccomp::Filter, Seccomp::Strict] {
            let facts = Facts { seccomp, ..facts() };
            for kernel in [(6, 11, 0), (6, 11, 11), (6, 12, 0), (6, 12, 13), (6, 13, 2)] {
                let kernel = KernelVersion::new(kernel.0, kernel.1, kernel.2);
                assert!(refused(&facts, &exe(), kernel).contains("seccomp"), "{kernel}");
                assert_eq!(check(7, &facts, Some(&exe()), kernel, false), Ok(()));
            }
            for kernel in [
                (5, 15, 0),
                (6, 10, 14),
                (6, 12, 14),
                (6, 13, 3),
                (6, 14, 0),
                (6, 18, 44),
                (7, 11, 0),
            ] {
                let kernel = KernelVersion::new(kernel.0, kernel.1, kernel.2);
                assert_eq!(check(7, &facts, Some(&exe()), kernel, true), Ok(()), "{kernel}");
            }
        }
        assert_eq!(
            check(7, &facts(), Some(&exe()), KernelVersion::new(6, 11, 0), true),
            Ok(())
        );
    }

    #[test]
    fn shadow_stacks_are_not_on_the_kernels_that_break_them() {
        let facts = Facts {
            shadow_stack: true,
            ..facts()
        };
        for kernel in [
            (6, 6, 0),
            (6, 6, 43),
            (6, 7, 12),
            (6, 8, 0),
            (6, 9, 12),
            (6, 10, 2),
        ] {
            let kernel = KernelVersion::new(kernel.0, kernel.1, kernel.2);
            assert!(
                refused(&facts, &exe(), kernel).contains("shadow stack"),
                "{kernel}"
            );
            assert_eq!(check(7, &facts, Some(&exe()), kernel, false), Ok(()));
        }
        for kernel in [(6, 6, 44), (6, 10, 3), (6, 11, 0), (6, 18, 0)] {
            let kernel = KernelVersion::new(kernel.0, kernel.1, kernel.2);
            assert_eq!(check(7, &facts, Some(&exe()), kernel, true), Ok(()), "{kernel}");
        }
    }
}
