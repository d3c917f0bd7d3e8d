//! Versions of the kernel, and what depends on them because it cannot be tried.

/// A kernel's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    /// The 6 of 6.12.3.
    pub major: u32,
    /// The 12 of 6.12.3.
    pub minor: u32,
    /// The 3 of 6.12.3.
    pub patch: u32,
}

impl KernelVersion {
    /// A version from its numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads what `uname -r` prints: `6.12.3`, `6.1.0-18-amd64`, `6.14-rc2`.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release
            .trim()
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .next()?
            .split('.')
            .map(|number| number.parse::<u32>().ok());
        let major = numbers.next()??;
        let minor = numbers.next()??;
        Some(Self {
            major,
            minor,
            patch: numbers.next().flatten().unwrap_or(0),
        })
    }

    /// The oldest kernel leaktrace runs on: below it, hash maps that allocate as they grow are not safe
    /// in uprobes (see leaktrace-ebpf/src/maps.rs).
    pub const MINIMUM: Self = Self::new(6, 1, 0);

    /// Whether a return probe kills a process that filters its system calls.
    ///
    /// 6.11 made the return trampoline a system call (commit ff474a78cef5), which seccomp filters did not
    /// know and denied. "seccomp: passthrough uretprobe systemcall without filtering" (cf6cb56ef244)
    /// mends it in 6.14, 6.13.3 and 6.12.14; 6.11 never got it (CVE-2025-21834). Distributions that
    /// took the fix earlier are refused too: their version numbers do not tell.
    pub const fn return_probes_break_seccomp(self) -> bool {
        match (self.major, self.minor) {
            (6, 11) => true,
            (6, 12) => self.patch < 14,
            (6, 13) => self.patch < 3,
            _ => false,
        }
    }

    /// Whether a return probe kills a process that runs on a user shadow stack.
    ///
    /// User shadow stacks came with 6.6. "x86/shstk: Make return uprobe work with shadow stack"
    /// (1713b63a07a2) is in 6.11, and was taken into 6.10.3 and 6.6.44.
    pub const fn return_probes_break_shadow_stacks(self) -> bool {
        match (self.major, self.minor) {
            (6, 6) => self.patch < 44,
            (6, 7..=9) => true,
            (6, 10) => self.patch < 3,
            _ => false,
        }
    }
}

impl std::fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_uname() {
        for (release, version) in [
            ("6.12.3", (6, 12, 3)),
            ("6.1.0-18-amd64\n", (6, 1, 0)),
            ("6.14-rc2", (6, 14, 0)),
            ("6.14.0-rc2+", (6, 14, 0)),
            ("5.15.167.4-microsoft-standard-WSL2", (5, 15, 167)),
            ("6.18.44-fc-v669", (6, 18, 44)),
        ] {
            let version = KernelVersion::new(version.0, version.1, version.2);
            assert_eq!(KernelVersion::parse(release), Some(version), "{release}");
        }
        for release in ["", "six", "6", "6.", "-6.1"] {
            assert_eq!(KernelVersion::parse(release), None, "{release}");
        }
        assert!(version_below_minimum("5.15.0"));
        assert!(KernelVersion::new(6, 9, 9) < KernelVersion::new(6, 10, 0));
    }

    fn version_below_minimum(release: &str) -> bool {
        KernelVersion::parse(release).is_some_and(|version| version < KernelVersion::MINIMUM)
    }
}
