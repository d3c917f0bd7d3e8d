//! Starting the command of `leaktrace -- CMD ARGS`, held just before its `exec` until the probes are in
//! place, so that it is traced from its first instruction.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    process::{Child, Command},
    thread::JoinHandle,
};

use nix::{fcntl::OFlag, unistd::pipe2};

use crate::kernel::sys;

/// The command could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {program:?}: {source}; check the name and that it is executable")]
pub struct LaunchError {
    program: OsString,
    source: io::Error,
}

/// A child that waits.
#[derive(Debug)]
pub struct Held {
    /// Its process id.
    pub pid: u32,
    program: OsString,
    /// Writing a byte lets it go; closing it makes it give up.
    gate: OwnedFd,
    /// `Command::spawn` returns only when the child has executed the program.
    spawned: JoinHandle<io::Result<Child>>,
}

/// Forks the child. Its standard streams and its environment are leaktrace's, but for what `environment` sets.
///
/// # Errors
/// [`LaunchError`].
pub fn hold(program: &OsStr, args: &[OsString], environment: &[(&str, &str)]) -> Result<Held, LaunchError> {
    let fail = |source| LaunchError {
        program: program.to_owned(),
        source,
    };
    let (mut report_read, report_write) = pipe().map_err(fail)?;
    let (gate_read, gate_write) = pipe().map_err(fail)?;
    let mut command = Command::new(program);
    command.args(args).envs(environment.iter().copied());
    sys::hold_before_exec(
        &mut command,
        report_write,
        gate_read.into(),
        gate_write.as_raw_fd(),
    );
    let spawned = std::thread::spawn(move || command.spawn());
    let mut pid = [0_u8; 4];
    match report_read.read_exact(&mut pid) {
        Ok(()) => Ok(Held {
            pid: u32::from_ne_bytes(pid),
            program: program.to_owned(),
            gate: gate_write,
            spawned,
        }),
        // The fork itself failed: the reason is with the thread.
        Err(error) => Err(fail(join(spawned).err().unwrap_or(error))),
    }
}

impl Held {
    /// Lets the child execute the program.
    ///
    /// # Errors
    /// [`LaunchError`] when the program cannot be executed.
    pub fn release(self) -> Result<Child, LaunchError> {
        let Self {
            pid: _,
            program,
            gate,
            spawned,
        } = self;
        let released = File::from(gate).write_all(&[1]);
        let child = join(spawned);
        released
            .and(child)
            .map_err(|source| LaunchError { program, source })
    }
}

fn pipe() -> io::Result<(File, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((read.into(), write))
}

fn join(thread: JoinHandle<io::Result<Child>>) -> io::Result<Child> {
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the starting thread failed")))
}
