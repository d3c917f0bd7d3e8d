//! `cargo xtask ci`: what a change must pass. `.ci/run` is this command.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    debian::{self, Outcome},
    ebpf::{self, Toolchain},
    process::{cargo, find_program, is_root, run as run_command, step, workspace},
};

pub(crate) fn run() -> Result<()> {
    step("formatting");
    run_command(cargo().args(["fmt", "--all", "--check"]))?;
    run_command(cargo().args(["fmt", "--check", "--manifest-path", "leaktrace-ebpf/Cargo.toml"]))?;

    step("lints");
    run_command(cargo().args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-Dwarnings",
    ]))?;

    step("documentation");
    run_command(
        cargo()
            .args([
                "doc",
                "--locked",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ])
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;

    step("licences, advisories, sources");
    if find_program("cargo-deny").is_some() {
        run_command(cargo().args(["deny", "--all-features", "check"]))?;
    } else {
        println!("SKIPPED: cargo-deny is not installed (`cargo install cargo-deny`)");
    }

    step("the kernel side, rebuilt");
    install_toolchain()?;
    let rebuilt = ebpf::check()?;
    // The suite runs on what was built here, not on what was checked in.
    let restore = if rebuilt.same {
        None
    } else {
        let restore = ebpf::Restore::new()?;
        ebpf::install(&rebuilt.object)?;
        Some(restore)
    };

    // As typed by anybody. Where this is root, a suite that cannot run is no success, and what kernels before
    // 6.13 use is tested too.
    let mut test = cargo();
    test.args(["xtask", "test"]);
    if is_root() {
        test.args(["--require-e2e", "--also", "multi"]);
    }
    let result = run_command(&mut test);
    drop(restore);
    result
}

/// Installs what the kernel side is built with, if it is missing and this is root.
fn install_toolchain() -> Result<()> {
    let Err(reason) = Toolchain::find() else {
        return Ok(());
    };
    if !is_root() {
        return Err(reason);
    }
    println!("{reason:#}");
    if let Outcome::Missing { packages, reason } = debian::ensure(&ebpf::DEBIAN_PACKAGES, true)? {
        println!("not installed: {} ({reason})", packages.join(", "));
    }
    if find_program("bpf-linker").is_none() {
        let target_dir = workspace().join("target/bpf-linker");
        run_command(
            Command::new(cargo().get_program())
                .args(ebpf::BPF_LINKER_INSTALL)
                .arg("--locked")
                .arg("--target-dir")
                .arg(&target_dir)
                .env("LLVM_PREFIX", ebpf::LLVM_PREFIX),
        )?;
        fs::remove_dir_all(&target_dir).with_context(|| format!("cannot remove {}", target_dir.display()))?;
    }
    Toolchain::find().map(drop)
}
