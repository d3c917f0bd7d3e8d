//! What `leaktrace doctor` says, and the choice of the mechanism that it announces.

use nix::sys::resource::{Resource, getrlimit};

use crate::{
    config::Unwind,
    kernel::{
        caps::{AttachKind, Caps},
        version::KernelVersion,
    },
    report::doctor::{Check, Doctor, Status},
};

/// The way out for a user without the rights.
const AS_ROOT: &str = "run as root (sudo leaktrace ...), or with CAP_BPF and CAP_PERFMON";

/// The way out of a container.
const HOST_PIDS: &str = "run it on the host, or in a container with the host's pids (docker run --pid=host)";

/// The mechanism for a run: the one asked for, else the best.
///
/// # Errors
/// One line with the way out when tracing is impossible here.
pub fn choose(caps: &Caps, wanted: Option<AttachKind>) -> Result<AttachKind, String> {
    if caps.version < KernelVersion::MINIMUM {
        return Err(format!(
            "kernel {} is too old: leaktrace needs {} or newer; boot a newer kernel",
            caps.release,
            KernelVersion::MINIMUM
        ));
    }
    if let Err(reason) = &caps.pids {
        return Err(format!("{reason}; {HOST_PIDS}"));
    }
    if let Err(reason) = &caps.load {
        return Err(format!(
            "cannot load a probe program into the kernel: {reason}; {AS_ROOT}"
        ));
    }
    if let Some(wanted) = wanted {
        return caps.check(wanted).map(|()| wanted).map_err(|reason| {
            format!("--attach {wanted} is not possible here: {reason}; leave the option out to use the best there is")
        });
    }
    caps.best().ok_or_else(|| {
        "this kernel has no uprobes for BPF programs; boot one with CONFIG_UPROBE_EVENTS and CONFIG_BPF_EVENTS".to_owned()
    })
}

/// How stacks are walked in a run: as asked for, else in the best way.
///
/// # Errors
/// One line with the way out when what was asked for is impossible here.
pub fn choose_unwind(caps: &Caps, wanted: Option<Unwind>) -> Result<Unwind, String> {
    match (wanted, &caps.bpf_loop) {
        (Some(Unwind::FramePointers), _) | (None, Err(_)) => Ok(Unwind::FramePointers),
        (_, Ok(())) => Ok(Unwind::Tables),
        (Some(Unwind::Tables), Err(reason)) => Err(format!(
            "--unwind tables is not possible here: {reason}; leave the option out to walk stacks by frame pointers"
        )),
    }
}

/// Looks at everything.
pub fn examine(caps: &Caps) -> Doctor {
    let choice = choose(caps, None);
    Doctor {
        kernel: caps.release.clone(),
        checks: checks(caps),
        attach: choice.as_ref().ok().map(ToString::to_string),
        verdict: choice.map(|kind| format!("tracing is possible; probes are attached by {kind}")),
    }
}

fn checks(caps: &Caps) -> Vec<Check> {
    let mut checks = vec![version(caps)];
    checks.extend(
        caps.capabilities
            .iter()
            .map(|&(name, held)| capability(name, held)),
    );
    // Without the rights nothing else can be found out.
    let fix = |fix| if caps.load.is_ok() { fix } else { AS_ROOT };
    let perf = caps.perf.clone().map(drop);
    let perf_missing = if caps.multi.is_ok() {
        Status::Limited
    } else {
        Status::Missing
    };
    for (name, result, if_not, fix) in [
        ("pids of the host", &caps.pids, Status::Missing, HOST_PIDS),
        ("BPF programs", &caps.load, Status::Missing, AS_ROOT),
        (
            "uprobe.session links",
            &caps.session,
            Status::Limited,
            fix("kernel 6.13 has them; leaktrace does without"),
        ),
        (
            "uprobe.multi links",
            &caps.multi,
            Status::Limited,
            fix("kernel 6.10 has them; leaktrace does without"),
        ),
        (
            "perf uprobes",
            &perf,
            perf_missing,
            fix("a kernel with CONFIG_UPROBE_EVENTS and a mounted sysfs has them"),
        ),
        (
            "batch reads of maps",
            &caps.batch,
            Status::Missing,
            fix("kernel 5.6 has them"),
        ),
        ("perf side-band", &caps.sideband, Status::Missing, AS_ROOT),
    ] {
        checks.push(found(name, result, if_not, fix));
    }
    checks.push(stacks(caps));
    checks.push(kernel_btf(caps));
    checks.push(open_files());
    checks
}

fn stacks(caps: &Caps) -> Check {
    let missing = caps.bpf_loop.as_ref().err();
    Check {
        name: "stacks".to_owned(),
        status: if missing.is_none() {
            Status::Ok
        } else {
            Status::Limited
        },
        found: missing.map_or_else(
            || "by unwind tables in the kernel (bpf_loop)".to_owned(),
            |reason| format!("by frame pointers: {reason}"),
        ),
        fix: missing.map(|_| {
            if caps.load.is_ok() {
                "kernel 5.17 has bpf_loop".to_owned()
            } else {
                AS_ROOT.to_owned()
            }
        }),
    }
}

/// Where the kernel keeps the return addresses that return probes stand in for.
fn kernel_btf(caps: &Caps) -> Check {
    let thread_pointer = caps.thread_pointer.as_ref().err();
    let missing = caps.return_probes.as_ref().err().or(thread_pointer);
    Check {
        name: "kernel BTF".to_owned(),
        status: if missing.is_none() {
            Status::Ok
        } else {
            Status::Limited
        },
        found: missing.map_or_else(
            || "finds return addresses under return probes, and Python's frames".to_owned(),
            Clone::clone,
        ),
        fix: missing.map(|_| "a kernel with CONFIG_DEBUG_INFO_BTF has it; leaktrace does without".to_owned()),
    }
}

fn version(caps: &Caps) -> Check {
    let old = caps.version < KernelVersion::MINIMUM;
    Check {
        name: "kernel".to_owned(),
        status: if old { Status::Missing } else { Status::Ok },
        found: caps.release.clone(),
        fix: old.then(|| format!("boot {} or newer", KernelVersion::MINIMUM)),
    }
}

fn capability(name: &str, held: bool) -> Check {
    // CAP_SYS_ADMIN is only needed to open files that are deleted and still mapped.
    let optional = name == "CAP_SYS_ADMIN";
    Check {
        name: name.to_owned(),
        status: match (held, optional) {
            (true, _) => Status::Ok,
            (false, true) => Status::Limited,
            (false, false) => Status::Missing,
        },
        found: if held { "held" } else { "not held" }.to_owned(),
        fix: (!held).then(|| {
            format!(
                "run as root, or: setcap {}+ep on the leaktrace binary",
                name.to_lowercase()
            )
        }),
    }
}

fn found(name: &str, result: &Result<(), String>, if_not: Status, fix: &str) -> Check {
    Check {
        name: name.to_owned(),
        status: if result.is_ok() { Status::Ok } else { if_not },
        found: result.clone().err().unwrap_or_else(|| "work".to_owned()),
        fix: result.is_err().then(|| fix.to_owned()),
    }
}

/// Each probed object in each process takes up to four descriptors with session links, one a probe with
/// perf.
fn open_files() -> Check {
    const ENOUGH: u64 = 4096;
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    Check {
        name: "open files".to_owned(),
        status: if hard >= ENOUGH {
            Status::Ok
        } else {
            Status::Limited
        },
        found: format!("at most {hard}"),
        fix: (hard < ENOUGH).then(|| format!("ulimit -Hn {ENOUGH}")),
    }
}
