//! Another tool's return probe: one of the kernel's own tracing events, which nothing has to be installed for.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::skip::{self, Missing};

/// A return probe that is there as long as this lives.
pub struct ReturnProbe {
    event: String,
}

fn tracing(file: &str) -> PathBuf {
    Path::new("/sys/kernel/tracing").join(file)
}

/// Appends, because writing would remove all events.
fn append(file: &Path, line: &str) -> std::io::Result<()> {
    OpenOptions::new()
        .append(true)
        .open(file)?
        .write_all(line.as_bytes())
}

impl ReturnProbe {
    /// Sets one on `function` of `program`, for all processes.
    ///
    /// # Errors
    /// When `nm` or the kernel's tracing files are not there.
    pub fn set(program: &Path, function: &str) -> Result<Self, Missing> {
        let events = tracing("uprobe_events");
        if !events.exists() {
            return Err(Missing(
                "no /sys/kernel/tracing/uprobe_events; mount tracefs".to_owned(),
            ));
        }
        let offset = offset_of(&skip::program("nm", "binutils")?, program, function);
        let event = format!("leaktrace_tests/{function}_{}", std::process::id());
        let line = format!("r:{event} {}:{offset:#x}", program.display());
        append(&events, &line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let probe = Self { event };
        fs::write(probe.switch(), "1").expect("an event can be switched on");
        Ok(probe)
    }

    fn switch(&self) -> PathBuf {
        tracing("events").join(&self.event).join("enable")
    }
}

impl Drop for ReturnProbe {
    fn drop(&mut self) {
        // What fails here leaves an event behind, which hurts nobody.
        drop(fs::write(self.switch(), "0"));
        drop(append(&tracing("uprobe_events"), &format!("-:{}", self.event)));
    }
}

/// Where a function is in a position-independent program whose code is mapped at its offset, as gcc's linker does.
fn offset_of(nm: &Path, program: &Path, function: &str) -> u64 {
    let output = Command::new(nm).arg(program).output().expect("nm starts");
    let symbols = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = symbols
        .lines()
        .find(|line| line.split_ascii_whitespace().nth(2) == Some(function));
    let line = line.unwrap_or_else(|| panic!("no {function} in {}", program.display()));
    let address = line.split_ascii_whitespace().next().expect("an address");
    u64::from_str_radix(address, 16).expect("hexadecimal digits")
}
