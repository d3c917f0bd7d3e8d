//! Debian packages: which are missing, and installing them where that is allowed. Knows no command of
//! xtask.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process::{find_program, is_root, output, run};

/// What became of a request for packages.
pub(crate) enum Outcome {
    /// All are installed.
    Complete,
    /// These are not, and why.
    Missing { packages: Vec<String>, reason: String },
}

/// Sees to it that `packages` are installed; installs what is missing when `may_install` and this is root
/// on a system with apt.
pub(crate) fn ensure(packages: &[&str], may_install: bool) -> Result<Outcome> {
    if find_program("dpkg-query").is_none() || find_program("apt-get").is_none() {
        let packages = packages.iter().map(ToString::to_string).collect();
        return Ok(missing(
            packages,
            "not a Debian system: install what corresponds to these",
        ));
    }
    let absent: Vec<String> = packages
        .iter()
        .filter(|package| !is_installed(package))
        .map(ToString::to_string)
        .collect();
    if absent.is_empty() {
        return Ok(Outcome::Complete);
    }
    if !may_install {
        return Ok(missing(absent, "--no-install was given"));
    }
    if !is_root() {
        let reason = format!("not root: run `apt-get install {}` as root", absent.join(" "));
        return Ok(missing(absent, &reason));
    }
    install(absent)
}

fn missing(packages: Vec<String>, reason: &str) -> Outcome {
    Outcome::Missing {
        packages,
        reason: reason.to_owned(),
    }
}

fn is_installed(package: &str) -> bool {
    let status =
        output(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]));
    status.is_ok_and(|status| status == "installed")
}

/// Whether a package can be installed from the sources that apt knows.
fn is_available(package: &str) -> bool {
    let policy = output(
        Command::new("apt-cache")
            .args(["policy", package])
            .env("LC_ALL", "C"),
    );
    policy.is_ok_and(|policy| {
        policy
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Candidate:"))
            .any(|candidate| candidate.trim() != "(none)")
    })
}

/// A machine without a network or with a broken apt is no reason not to run the rest.
fn install(absent: Vec<String>) -> Result<Outcome> {
    if let Err(error) = run(Command::new("apt-get").args(["update", "--quiet"])) {
        return Ok(missing(absent, &format!("{error:#}")));
    }
    let (available, unknown): (Vec<_>, Vec<_>) =
        absent.into_iter().partition(|package| is_available(package));
    if !available.is_empty() {
        let _quiet = NoServices::new()?;
        let installed = run(Command::new("apt-get")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(&available)
            .env("DEBIAN_FRONTEND", "noninteractive"));
        if let Err(error) = installed {
            return Ok(missing([available, unknown].concat(), &format!("{error:#}")));
        }
    }
    Ok(if unknown.is_empty() {
        Outcome::Complete
    } else {
        missing(unknown, "this release of the distribution does not have them")
    })
}

/// Keeps packages from starting their services (redis-server, postgresql) while it lives: the tests start
/// their own. A policy that is there already is the administrator's and stays.
struct NoServices(Option<PathBuf>);

impl NoServices {
    /// What invoke-rc.d asks before it starts anything; 101 forbids it.
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        let path = Path::new(Self::POLICY);
        match fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(path)
        {
            Ok(mut file) => {
                let guard = Self(Some(path.to_owned()));
                file.write_all(b"#!/bin/sh\nexit 101\n")
                    .with_context(|| format!("cannot write {}", Self::POLICY))?;
                Ok(guard)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Self(None)),
            Err(error) => Err(error).with_context(|| format!("cannot create {}", Self::POLICY)),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!(
                "cannot remove {}: {error}; remove it, or no package starts a service",
                path.display()
            );
        }
    }
}
