//! Finds what the kernel side is built with: a compiler that comes with the sources of `core`, the cargo
//! that fits it, and bpf-linker; says what to install when one is missing.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{find_program, output};

/// Debian packages that give the compiler, the sources of `core`, and what bpf-linker is built with.
pub(crate) const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "rust-web-src", "llvm-22-dev", "libpolly-22-dev"];

/// Arguments of `cargo` that install bpf-linker; with `LLVM_PREFIX` in the environment.
pub(crate) const BPF_LINKER_INSTALL: [&str; 7] = [
    "install",
    "bpf-linker",
    "--version",
    "0.13.0",
    "--no-default-features",
    "--features",
    "llvm-22",
];

/// Where Debian's llvm-22-dev is, for `LLVM_PREFIX`.
pub(crate) const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Names a compiler that goes before all others.
const RUSTC_VARIABLE: &str = "LEAKTRACE_EBPF_RUSTC";

/// Where the sources of the standard library are below a sysroot.
const RUST_SOURCES: &str = "lib/rustlib/src/rust";

/// What the kernel side is built with.
pub(crate) struct Toolchain {
    /// The compiler.
    pub(super) rustc: PathBuf,
    /// The cargo to run.
    pub(super) cargo: PathBuf,
    /// The linker.
    pub(super) bpf_linker: PathBuf,
    sysroot: PathBuf,
    version: String,
    bpf_linker_version: String,
}

impl Toolchain {
    /// Finds all parts, or says what to install.
    pub(crate) fn find() -> Result<Self> {
        let (rustc, sysroot) = find_rustc()?;
        let version = output(Command::new(&rustc).arg("--version"))?.trim().to_owned();
        let bpf_linker = find_program("bpf-linker").with_context(how_to_install_bpf_linker)?;
        let bpf_linker_version = output(Command::new(&bpf_linker).arg("--version"))?
            .trim()
            .to_owned();
        ensure!(
            minor_version(&bpf_linker_version).is_some_and(|minor| minor >= 13),
            "{} is {bpf_linker_version}: {}",
            bpf_linker.display(),
            how_to_install_bpf_linker()
        );
        // `-Zbuild-std` follows the layout of the library's sources, so a toolchain's own cargo fits best.
        // Debian's compiler is newer than the cargo beside it, which this must not find.
        let own_cargo = sysroot.join("bin/cargo");
        let cargo = if sysroot != Path::new("/usr") && own_cargo.is_file() {
            own_cargo
        } else {
            env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
        };
        Ok(Self {
            rustc,
            cargo,
            bpf_linker,
            sysroot,
            version,
            bpf_linker_version,
        })
    }

    /// Directories whose names the compiler writes into debug information for the sources of `core`: the
    /// one below the sysroot, and what it links to (Debian keeps them in /usr/src).
    pub(super) fn rust_sources(&self) -> Vec<PathBuf> {
        let dir = self.sysroot.join(RUST_SOURCES);
        let real = dir.canonicalize().ok().filter(|real| *real != dir);
        std::iter::once(dir).chain(real).collect()
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}), {}",
            self.version,
            self.rustc.display(),
            self.bpf_linker_version
        )
    }
}

/// The first compiler that has the sources of `core`, and its sysroot.
fn find_rustc() -> Result<(PathBuf, PathBuf)> {
    if let Some(named) = env::var_os(RUSTC_VARIABLE) {
        let Some(found) = with_sources(Path::new(&named)) else {
            bail!(
                "{RUSTC_VARIABLE}={} is no compiler with the sources of `core` below its sysroot \
                 ({RUST_SOURCES}/library/core): install them, or unset the variable",
                named.display()
            );
        };
        return Ok(found);
    }
    let nightly = output(Command::new("rustup").args(["which", "rustc", "--toolchain", "nightly"]));
    let candidates = [
        Some(PathBuf::from("rustc")),
        nightly.ok().map(|path| PathBuf::from(path.trim())),
        Some(PathBuf::from("/usr/bin/rustc")),
    ];
    candidates
        .iter()
        .flatten()
        .find_map(|rustc| with_sources(rustc))
        .with_context(|| {
            format!(
                "no Rust compiler here has the sources of `core`. Install one of:\n  \
             rustup toolchain install nightly --component rust-src\n  \
             apt-get install {} (Debian)\n\
             or name one in {RUSTC_VARIABLE}",
                DEBIAN_PACKAGES[..2].join(" ")
            )
        })
}

/// The compiler itself (not rustup's stand-in for it) and its sysroot, if the sources of `core` are there.
fn with_sources(rustc: &Path) -> Option<(PathBuf, PathBuf)> {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    let sysroot = PathBuf::from(sysroot.trim());
    let core = sysroot.join(RUST_SOURCES).join("library/core/src/lib.rs");
    let rustc = sysroot.join("bin/rustc");
    (core.is_file() && rustc.is_file()).then_some((rustc, sysroot))
}

fn how_to_install_bpf_linker() -> String {
    format!(
        "bpf-linker 0.13 is needed. Install it:\n  \
         apt-get install {}\n  \
         LLVM_PREFIX={LLVM_PREFIX} cargo {}",
        DEBIAN_PACKAGES[2..].join(" "),
        BPF_LINKER_INSTALL.join(" ")
    )
}

/// `13` of `bpf-linker 0.13.0`; anything from 1.0 on counts as newer than every 0.x.
fn minor_version(version: &str) -> Option<u32> {
    let mut numbers = version.split_whitespace().last()?.split('.');
    let major: u32 = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some(if major > 0 { u32::MAX } else { minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_version_of_the_linker_is_read() {
        assert_eq!(minor_version("bpf-linker 0.13.0"), Some(13));
        assert_eq!(minor_version("bpf-linker 0.9.15"), Some(9));
        assert_eq!(minor_version("bpf-linker 1.0.0"), Some(u32::MAX));
        assert_eq!(minor_version("bpf-linker"), None);
    }
}
