//! Programs of a later release of Debian than this machine's, with its C library and all, unpacked under
//! `target/fixtures` on demand, once, and run in that folder as their root: nothing is installed.
//!
//! Must not know what the programs are for.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    fixtures::target_directory,
    skip::{self, Missing},
};

/// Signs all of Debian's releases.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A folder with those of `packages` that `suite` has, and with all that they need.
///
/// # Errors
/// When this is no Debian system, or its mirror does not have them.
pub fn unpacked(suite: &str, packages: &[&str]) -> Result<PathBuf, Missing> {
    for program in ["apt-get", "apt-cache", "dpkg", "chroot"] {
        skip::program(program, "apt, dpkg and coreutils")?;
    }
    let directory = target_directory()
        .join("fixtures")
        .join(format!("debian-{suite}"));
    fs::create_dir_all(&directory).expect("the folder for a release can be made");
    let directory = directory.canonicalize().expect("the folder is there");
    // Suites run in parallel, as threads and as processes: one of them unpacks, the others wait.
    let lock = File::create(directory.join("lock")).expect("the lock of a release can be made");
    lock.lock().expect("the lock of a release can be taken");
    let (root, whole) = (directory.join("root"), directory.join("whole"));
    let wanted = packages.join(" ");
    if fs::read_to_string(&whole).is_ok_and(|had| had == wanted) {
        return Ok(root);
    }
    let apt = Apt::new(&directory, suite)?;
    apt.download(packages)?;
    unpack(&directory.join("cache/archives"), &root)?;
    fs::write(&whole, wanted).expect("a release can be marked as whole");
    Ok(root)
}

/// apt with lists and a state of its own: it knows one suite, and no package is installed.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(directory: &Path, suite: &str) -> Result<Self, Missing> {
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(folder)).expect("apt's folders can be made");
        }
        let (sources, status) = (directory.join("sources.list"), directory.join("status"));
        let line = format!("deb [signed-by={KEYS}] {} {suite} main\n", mirror()?);
        fs::write(&sources, line).expect("apt's list of sources can be written");
        fs::write(&status, "").expect("an empty list of installed packages can be written");
        let option = |name: &str, value: &Path| format!("-o{name}={}", value.display());
        let options = vec![
            option("Dir::Etc::SourceList", &sources),
            option("Dir::Etc::SourceParts", Path::new("/dev/null")),
            option("Dir::State", &directory.join("state")),
            option("Dir::State::status", &status),
            option("Dir::Cache", &directory.join("cache")),
            // Icons and texts of desktop programs.
            "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "-oAPT::Sandbox::User=root".to_owned(),
        ];
        Ok(Self { options })
    }

    fn download(&self, packages: &[&str]) -> Result<(), Missing> {
        said(Command::new("apt-get").args(&self.options).args(["update", "-q"]))?;
        let mut known = Command::new("apt-cache");
        let known = said(known.args(&self.options).args(["pkgnames"]))?;
        let had: Vec<&&str> = packages
            .iter()
            .filter(|package| known.lines().any(|name| name == **package))
            .collect();
        let mut install = Command::new("apt-get");
        install.args(&self.options).args([
            "install",
            "-q",
            "--yes",
            "--no-install-recommends",
            "--download-only",
        ]);
        said(install.args(had)).map(drop)
    }
}

/// The mirror that this machine's apt uses.
fn mirror() -> Result<String, Missing> {
    let mut targets = Command::new("apt-get");
    let targets = said(targets.args([
        "indextargets",
        "--format",
        "$(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let mirror = targets.lines().find_map(|line| line.strip_prefix("Debian "));
    mirror
        .map(str::to_owned)
        .ok_or_else(|| Missing("apt knows no mirror of Debian; run `apt-get update`".to_owned()))
}

fn unpack(archives: &Path, root: &Path) -> Result<(), Missing> {
    for folder in ["lib", "lib64", "bin", "sbin"] {
        fs::create_dir_all(root.join("usr").join(folder)).expect("the folders of a root can be made");
        // Where the packages say `/lib`: Debian has had one folder for both since bookworm.
        let link = root.join(folder);
        if !link.exists() {
            std::os::unix::fs::symlink(Path::new("usr").join(folder), link).expect("a link can be made");
        }
    }
    fs::create_dir_all(root.join("tmp")).expect("the folders of a root can be made");
    for entry in fs::read_dir(archives)
        .expect("what apt has loaded can be listed")
        .flatten()
    {
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            said(Command::new("dpkg").arg("-x").arg(entry.path()).arg(root))?;
        }
    }
    Ok(())
}

/// What a command prints, if it succeeds.
fn said(command: &mut Command) -> Result<String, Missing> {
    let output = command
        .env("LC_ALL", "C")
        .output()
        .expect("a program that is there starts");
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    Err(Missing(format!(
        "{} fails, so there is no later release of Debian: {last}",
        command.get_program().display()
    )))
}
