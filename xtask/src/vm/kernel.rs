//! Debian's kernels: found, downloaded and unpacked below target/vm, with a package index of their own, so
//! that neither the system's apt sources nor its packages change.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process::{output, run};

/// Where the kernels are: 6.1 is bookworm's, 6.12 a backport to it.
const SUITES: [&str; 2] = ["bookworm", "bookworm-backports"];

/// The flavour for virtual machines: what this needs of it is built in as in the others, and it is a
/// quarter of the size.
const FLAVOUR: &str = "-cloud-amd64";

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads the newest kernel of a version ("6.1") and returns the path of its image.
pub(super) fn download(version: &str, directory: &Path) -> Result<PathBuf> {
    let unpacked = directory.join(format!("linux-{version}"));
    if let Some(image) = find_image(&unpacked) {
        return Ok(image);
    }
    let apt = Apt::new(&directory.join("apt"))?;
    run(apt.command("apt-get").args(["update", "--quiet"]))?;
    let pattern = format!(r"^linux-image-{}\..*{FLAVOUR}$", version.replace('.', r"\."));
    let found = output(
        apt.command("apt-cache")
            .args(["search", "--names-only", &pattern]),
    )?;
    let package = newest(&found).with_context(|| {
        format!(
            "no Linux {version} in {} of {MIRROR}: name 6.1 or 6.12",
            SUITES.join(", ")
        )
    })?;

    fs::create_dir_all(&unpacked).with_context(|| format!("cannot create {}", unpacked.display()))?;
    run(apt
        .command("apt-get")
        .args(["download", "--quiet", package])
        .current_dir(&unpacked))?;
    let archive =
        find(&unpacked, |name| name.starts_with(package)).context("apt-get downloaded no package")?;
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(&archive)
        .arg(&unpacked))?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    find_image(&unpacked).with_context(|| format!("{package} has no boot/vmlinuz-*"))
}

fn find_image(unpacked: &Path) -> Option<PathBuf> {
    find(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))
}

fn find(directory: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(&wanted)
    })
}

/// The package with the highest version among the lines of `apt-cache search`.
fn newest(found: &str) -> Option<&str> {
    found
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .max_by_key(|package| numbers(package))
}

/// The numbers of a package's version, in order: they compare as versions do.
fn numbers(package: &str) -> Vec<u64> {
    let version = package.trim_end_matches(FLAVOUR);
    version
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// apt with an index and sources of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(directory: &Path) -> Result<Self> {
        for name in ["lists/partial", "archives/partial"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let sources = directory.join("sources.list");
        let text = SUITES
            .map(|suite| format!("deb [signed-by={KEYRING}] {MIRROR} {suite} main\n"))
            .concat();
        fs::write(&sources, text).with_context(|| format!("cannot write {}", sources.display()))?;
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", directory.join("lists").display()),
            format!("Dir::Cache={}", directory.display()),
            // apt's own user may not write below a home directory.
            "APT::Sandbox::User=root".to_owned(),
        ];
        Ok(Self {
            options: options.to_vec(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_package_is_found_by_number() {
        let found = "linux-image-6.12.9+deb12-cloud-amd64 - Linux 6.12\n\
                     linux-image-6.12.90+deb12.1-cloud-amd64 - Linux 6.12\n\
                     linux-image-6.12.90+deb12-cloud-amd64 - Linux 6.12\n";
        assert_eq!(newest(found), Some("linux-image-6.12.90+deb12.1-cloud-amd64"));
        assert_eq!(newest(""), None);
    }
}
