//! The virtual machine's only file system: busybox, the programs with their libraries, and an `init` that
//! runs the commands and switches the machine off.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::process::{find_program, output, run};

/// What the machine prints when all commands have run.
pub(super) const DONE: &str = "=== done";

/// Compiles a C program with debug information and frame pointers.
pub(super) fn compile(source: &Path, program: &Path) -> Result<PathBuf> {
    run(Command::new("cc")
        .args([
            "-g",
            "-O1",
            "-fno-omit-frame-pointer",
            "-fno-optimize-sibling-calls",
            "-o",
        ])
        .arg(program)
        .arg(source))?;
    Ok(program.to_owned())
}

/// What the machine is to have.
pub(super) struct Contents<'a> {
    /// Programs: name in /bin, path here.
    pub programs: &'a [(&'a str, &'a PathBuf)],
    /// Other files: path there, path here.
    pub files: &'a [(PathBuf, PathBuf)],
    /// What `init` runs.
    pub commands: &'a [String],
}

/// Writes an archive with these contents.
pub(super) fn make(archive: &Path, contents: &Contents<'_>) -> Result<()> {
    let root = archive.with_extension("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        let path = root.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let busybox = find_program("busybox").context("busybox is missing: apt-get install busybox-static")?;
    copy(&busybox, &root.join("bin/busybox"))?;
    let mut directories = BTreeSet::new();
    for (name, path) in contents.programs {
        copy(path, &root.join("bin").join(name))?;
        for library in libraries(path)? {
            copy(
                &library,
                &root.join(library.strip_prefix("/").unwrap_or(&library)),
            )?;
            directories.extend(
                library
                    .parent()
                    .map(|directory| format!("{}\n", directory.display())),
            );
        }
    }
    for (there, here) in contents.files {
        copy(here, &root.join(there.strip_prefix("/").unwrap_or(there)))?;
    }
    // As on any Debian: without it only the loader itself knows the directories of its architecture.
    let configuration = root.join("etc/ld.so.conf");
    fs::write(&configuration, directories.into_iter().collect::<String>())
        .with_context(|| format!("cannot write {}", configuration.display()))?;
    let init = root.join("init");
    fs::write(&init, init_script(contents.commands))
        .with_context(|| format!("cannot write {}", init.display()))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", init.display()))?;
    pack(&root, archive)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The shared objects that a program is started with, the loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = output(Command::new("ldd").arg(program))?;
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

fn init_script(commands: &[String]) -> String {
    let commands = commands.join("\n");
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin HOME=/tmp\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n\
         mount -t tracefs tracefs /sys/kernel/tracing\n\
         {commands}\n\
         echo '{DONE}'\n\
         poweroff -f\n"
    )
}

/// Packs a directory as the kernel wants it: a cpio archive in the `newc` format.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let names = output(Command::new("find").arg(".").current_dir(root))?;
    let file = fs::File::create(archive).with_context(|| format!("cannot create {}", archive.display()))?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet", "--owner=0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .context("cannot start cpio: apt-get install cpio")?;
    if let Some(mut stdin) = cpio.stdin.take() {
        stdin
            .write_all(names.as_bytes())
            .context("cannot write to cpio")?;
    }
    let status = cpio.wait().context("cannot wait for cpio")?;
    ensure!(status.success(), "cpio: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_runs_the_commands_in_order_and_switches_off() {
        let script = init_script(&["uname -r".to_owned(), "leak 1".to_owned()]);
        let tail: Vec<_> = script.lines().rev().take(4).collect();
        assert_eq!(
            tail,
            ["poweroff -f", &format!("echo '{DONE}'"), "leak 1", "uname -r"]
        );
    }
}
