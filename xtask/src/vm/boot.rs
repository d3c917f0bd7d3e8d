//! One run of qemu, bounded in time.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::initramfs::DONE;

/// Boots `kernel` with `initramfs` and returns what came over the serial line.
///
/// Fails when the machine does not get to the end of its commands within `limit`.
pub(super) fn run(kernel: &Path, initramfs: &Path, kvm: bool, limit: Duration) -> Result<String> {
    // One thread for all processors: with one for each, QEMU before 8.1 now and then runs instructions that are
    // being patched (a static key switched, such as that of BPF run times) as they were, and the kernel panics
    // over an `int3` (bugzilla.redhat.com 2216496; fixed by QEMU commit deba78709a, "accel/tcg: Always lock
    // pages before translation").
    let accelerator = if kvm { "kvm" } else { "tcg,thread=single" };
    let log = initramfs.with_extension("serial");
    let mut qemu = Qemu(
        Command::new("qemu-system-x86_64")
            // Without cmpxchg16b: with it Linux 6.12 crashed at boot now and then under qemu 7.2's emulation,
            // with garbage in the flags register, and does not without. The kernel needs it not.
            .args([
                "-accel",
                accelerator,
                "-cpu",
                "max,-cx16",
                "-smp",
                "2",
                "-m",
                "2G",
            ])
            .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial"])
            .arg(format!("file:{}", log.display()))
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1"])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start qemu-system-x86_64: apt-get install qemu-system-x86")?,
    );
    let started = Instant::now();
    let finished = loop {
        if let Some(status) = qemu.0.try_wait().context("cannot wait for qemu")? {
            ensure!(status.success(), "qemu: {status}");
            break true;
        }
        if started.elapsed() > limit {
            break false;
        }
        thread::sleep(Duration::from_millis(100));
    };
    drop(qemu);
    let bytes = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let serial = String::from_utf8_lossy(&bytes).replace('\r', "");
    if !finished {
        bail!(
            "the machine was not done after {} s; it printed:\n{serial}",
            limit.as_secs()
        );
    }
    ensure!(
        serial.contains(DONE),
        "the machine stopped before its commands had run; it printed:\n{serial}"
    );
    Ok(serial)
}

/// Never outlives its run.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself.
        if self.0.kill().is_ok() {
            let _status = self.0.wait();
        }
    }
}
