//! `cargo xtask ebpf`: builds the kernel side and checks the object in, so that `cargo build` needs
//! neither LLVM nor the sources of `core`.
//!
//! The object must be the same wherever it is built from the same sources with the same toolchain: no
//! path of the building machine is in it, and no setting of that machine's cargo reaches the build.

mod sources;
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
pub(crate) use toolchain::{BPF_LINKER_INSTALL, DEBIAN_PACKAGES, LLVM_PREFIX, Toolchain};

use crate::process::{cargo_home, run as run_command, workspace};

/// The checked-in object.
const OBJECT: &str = "leaktrace-ebpf/prebuilt/leaktrace.bpf.o";

/// The checked-in hashes of the object and of what it was built from.
const SOURCES: &str = "leaktrace-ebpf/prebuilt/SOURCES.sha256";

const TARGET: &str = "bpfel-unknown-none";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing: fail if the checked-in object is older than its sources, say if a rebuild differs
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check {
        check().map(drop)
    } else {
        let object = build(&Toolchain::find()?, Lockfile::MayChange)?;
        install(&object)
    }
}

/// What a rebuild gave.
pub(crate) struct Rebuilt {
    /// The fresh object.
    pub(crate) object: PathBuf,
    /// Whether it is the checked-in one, byte for byte.
    pub(crate) same: bool,
}

/// Fails when the checked-in object is stale; rebuilds it and says whether the bytes are the same.
///
/// Other bytes from the same sources are no failure. Another compiler gives them, and so does another
/// directory: cargo hashes the path of leaktrace-common into the names of its symbols.
pub(crate) fn check() -> Result<Rebuilt> {
    sources::verify(workspace(), SOURCES)?;
    let object = build(&Toolchain::find()?, Lockfile::Locked)?;
    let fresh = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let checked_in = fs::read(workspace().join(OBJECT)).with_context(|| format!("cannot read {OBJECT}"))?;
    let same = fresh == checked_in;
    if same {
        println!(
            "{OBJECT}: rebuilt, the same byte for byte ({} bytes)",
            fresh.len()
        );
    } else {
        println!(
            "{OBJECT}: up to date with its sources; other bytes here ({}, checked in {}), as another \
             compiler or another directory gives",
            fresh.len(),
            checked_in.len()
        );
    }
    Ok(Rebuilt { object, same })
}

/// Puts `object` in the place of the checked-in one, with the hashes of what it was built from.
pub(crate) fn install(object: &Path) -> Result<()> {
    let destination = workspace().join(OBJECT);
    if let Some(dir) = destination.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let size_bytes = fs::copy(object, &destination)
        .with_context(|| format!("cannot copy {} to {OBJECT}", object.display()))?;
    sources::write(workspace(), SOURCES)?;
    println!("{OBJECT}: {size_bytes} bytes; {SOURCES} written");
    Ok(())
}

/// Puts the checked-in files back when dropped.
pub(crate) struct Restore(Vec<(PathBuf, Vec<u8>)>);

impl Restore {
    /// Remembers the checked-in object and its hashes as they are now.
    pub(crate) fn new() -> Result<Self> {
        let remember = |name: &str| -> Result<(PathBuf, Vec<u8>)> {
            let path = workspace().join(name);
            let bytes = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
            Ok((path, bytes))
        };
        Ok(Self(vec![remember(OBJECT)?, remember(SOURCES)?]))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        for (path, bytes) in &self.0 {
            if let Err(error) = fs::write(path, bytes) {
                eprintln!("cannot restore {}: {error}; use `git checkout`", path.display());
            }
        }
    }
}

/// Whether leaktrace-ebpf/Cargo.lock may be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lockfile {
    MayChange,
    Locked,
}

/// Builds leaktrace-ebpf and returns the object's path.
fn build(toolchain: &Toolchain, lockfile: Lockfile) -> Result<PathBuf> {
    println!("{toolchain}");
    let krate = workspace().join("leaktrace-ebpf");
    let target_dir = krate.join("target");

    let cargo = |subcommand: &str| {
        let mut cargo = Command::new(&toolchain.cargo);
        isolate(&mut cargo);
        cargo
            .arg(subcommand)
            .current_dir(&krate)
            .env("RUSTC", &toolchain.rustc)
            // A released compiler refuses `-Z` and the unstable features of aya-ebpf without it.
            .env("RUSTC_BOOTSTRAP", "1");
        if lockfile == Lockfile::Locked {
            cargo.arg("--locked");
        }
        cargo
    };
    // First, so that the registry's directories exist when the flags are made from their names.
    run_command(cargo("fetch").arg("--quiet"))?;
    let mut build = cargo("build");
    build
        .args([
            "--release",
            "--target",
            TARGET,
            "-Zbuild-std=core",
            "--target-dir",
        ])
        .arg(&target_dir)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.bpf_linker)
        // The encoded form overrides `build.rustflags` of every configuration file, the workspace's
        // `force-frame-pointers` among them, and takes paths with blanks.
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain)?.join("\x1f"));
    run_command(&mut build).context("the kernel side does not build")?;

    let object = target_dir.join(TARGET).join("release/leaktrace");
    refuse_local_paths(&object)?;
    Ok(object)
}

/// Keeps this machine's settings out of the build.
fn isolate(cargo: &mut Command) {
    // Of the variables that cargo reads as settings, only those which say where it fetches from stay.
    let settings = [
        "CARGO_BUILD_",
        "CARGO_TARGET_",
        "CARGO_PROFILE_",
        "CARGO_UNSTABLE_",
    ];
    for (name, _) in env::vars_os() {
        if settings
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            cargo.env_remove(name);
        }
    }
    for name in ["RUSTFLAGS", "CARGO_INCREMENTAL", "RUSTUP_TOOLCHAIN", "RUSTC_LOG"] {
        cargo.env_remove(name);
    }
    // Empty, not removed: that also overrides a wrapper named in a configuration file.
    for name in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env(name, "");
    }
}

/// The compiler's flags, one an item.
fn rustflags(toolchain: &Toolchain) -> Result<Vec<String>> {
    let mut flags = vec![
        r#"--cfg=bpf_target_arch="x86_64""#.to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    // The last matching prefix wins, so the widest come first.
    let cargo_home = cargo_home().context("neither CARGO_HOME nor HOME is set: set one")?;
    // One directory a registry, named after its host, which is a mirror's on some machines.
    let registries = list(&cargo_home.join("registry/src"));
    let mut prefixes = vec![(cargo_home, "/cargo"), (workspace().to_owned(), "/leaktrace")];
    prefixes.extend(registries.into_iter().map(|dir| (dir, "/cargo/registry")));
    prefixes.extend(toolchain.rust_sources().into_iter().map(|dir| (dir, "/rust")));
    for (prefix, name) in prefixes {
        let prefix = prefix
            .to_str()
            .with_context(|| format!("{} is not UTF-8", prefix.display()))?;
        flags.push(format!("--remap-path-prefix={prefix}={name}"));
    }
    Ok(flags)
}

/// What is in a directory; nothing when it cannot be read (the registry's, before the first download).
fn list(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// Fails when a path of this machine is in the object.
fn refuse_local_paths(object: &Path) -> Result<()> {
    let bytes = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    ensure!(
        bytes.starts_with(b"\x7fELF"),
        "{} is not an ELF object",
        object.display()
    );
    for path in [Some(workspace().to_owned()), cargo_home()].into_iter().flatten() {
        let needle = path.as_os_str().as_encoded_bytes();
        if bytes.windows(needle.len()).any(|window| window == needle) {
            bail!(
                "{} names {}: a --remap-path-prefix is missing in xtask/src/ebpf/mod.rs",
                object.display(),
                path.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checked_in_object_is_up_to_date_with_its_sources() {
        if let Err(stale) = sources::verify(workspace(), SOURCES) {
            panic!("{stale:#}");
        }
    }
}
