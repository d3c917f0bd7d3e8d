//! Where probes are: at the sites that leaktrace chooses it sees the same calls with the same arguments as at
//! the entries of the functions. The kernel's own counters tell how often each place is passed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use leaktrace_tests::{
    fixtures,
    fixtures::Fixture,
    hits::Hits,
    report::{Report, Truth},
    skip::{library, unless_missing},
    target::Target,
    trace,
};
use serde_json::Value;

const ROUNDS: &str = "300";

/// An allocator in a file of its own, and how to run the fixture on it.
struct Place {
    /// Holds the copy.
    _folder: tempfile::TempDir,
    /// The file that has the allocator; nothing but the fixture maps it.
    object: PathBuf,
    program: PathBuf,
    /// Variable that makes the program use it, and its value.
    variable: Option<(&'static str, PathBuf)>,
    /// `free` is probed where a free of NULL does not come by.
    skips_null: bool,
}

impl Place {
    fn copy(file: &Path, name: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let object = folder.path().join(name);
        fixtures::copy(file, &object);
        (folder, object)
    }

    fn preloaded((file, package): (&str, &str), skips_null: bool) -> Option<Self> {
        let (folder, object) = Self::copy(&unless_missing(library(file, package))?, file);
        Some(Self {
            variable: Some(("LD_PRELOAD", object.clone())),
            program: fixtures::c("placement"),
            _folder: folder,
            object,
            skips_null,
        })
    }

    fn glibc() -> Option<Self> {
        let (folder, object) = Self::copy(&unless_missing(library("libc.so.6", "libc6"))?, "libc.so.6");
        Some(Self {
            variable: Some(("LD_LIBRARY_PATH", folder.path().to_owned())),
            program: fixtures::c("placement"),
            _folder: folder,
            object,
            skips_null: true,
        })
    }

    fn musl() -> Option<Self> {
        let program = unless_missing(Fixture::musl("placement").build())?;
        let (folder, object) = Self::copy(&program, "placement-musl");
        Some(Self {
            variable: None,
            program: object.clone(),
            _folder: folder,
            object,
            skips_null: false,
        })
    }

    fn start(&self) -> Target {
        let mut command = Command::new(&self.program);
        command.arg(ROUNDS);
        if let Some((name, value)) = &self.variable {
            command.env(name, value);
        }
        Target::spawn(&mut command)
    }

    /// Traces a run and compares it with the truth, call by call; gives the probes in the object.
    fn traced(&self, probe_at: &str) -> Vec<Probe> {
        let mut target = self.start();
        let traced = trace(&mut target, &["--probe-at", probe_at]);
        target.finish_with(0);
        let (report, truth) = (&traced.report, &traced.truth);
        report.assert_sites(truth);
        for counter in ["abandoned", "free_missed", "free_unknown", "realloc_unknown"] {
            assert_eq!(
                report.ledger(counter),
                0,
                "{probe_at} {counter}\n{}",
                report.summary()
            );
        }
        // A site of which nothing is left is in the totals only.
        for (name, site) in truth.sites.iter().filter(|(_, site)| site.blocks > 0) {
            let seen = report.site(name);
            assert_eq!(
                (seen.allocs, seen.frees),
                (site.allocs, site.frees),
                "{probe_at} {name}\n{}",
                report.summary()
            );
        }
        probes(report, &self.object)
    }

    /// Everything that holds wherever the probes are.
    fn compare(&self) {
        let (probes, entries) = (self.traced("site"), self.traced("entry"));
        assert!(
            !probes.is_empty() && probes.iter().any(Probe::is_moved),
            "{probes:?}"
        );
        let places = |probes: &[Probe]| -> Vec<(String, u64)> {
            let places = probes.iter().map(|probe| (probe.function.clone(), probe.entry));
            places.collect()
        };
        assert_eq!(places(&probes), places(&entries));
        assert!(!entries.iter().any(Probe::is_moved), "{entries:?}");
        self.count(&probes);
    }

    /// Runs it with nothing but the kernel's counters, at the entry and at the site of every function.
    fn count(&self, probes: &[Probe]) {
        let mut target = self.start();
        target.ready();
        let offsets = probes.iter().flat_map(|probe| [probe.entry, probe.site]);
        let Some(hits) = unless_missing(Hits::of(&self.object, offsets)) else {
            return;
        };
        target.go();
        let truth = target.truth();
        let counted = hits.read();
        target.go();
        target.finish_with(0);
        drop(hits);
        for probe in probes {
            let nulls = if probe.function == "free" && self.skips_null {
                truth.fact("free_null")
            } else {
                0
            };
            assert_eq!(
                counted[&probe.site],
                counted[&probe.entry] - nulls,
                "{probe:?} {counted:?}"
            );
        }
        // The counters have seen the fixture.
        let free = probes.iter().find(|probe| probe.function == "free");
        let free = free.expect("free is probed");
        assert!(counted[&free.entry] >= total_frees(&truth), "{counted:?}");
    }
}

/// Frees that the fixture has asked for, those of NULL included; realloc does the others itself.
fn total_frees(truth: &Truth) -> u64 {
    truth.site("a_malloc").frees + truth.fact("free_null")
}

/// A probe of the report.
#[derive(Debug)]
struct Probe {
    function: String,
    /// Offsets in the file.
    entry: u64,
    site: u64,
}

impl Probe {
    const fn is_moved(&self) -> bool {
        self.site != self.entry
    }
}

fn probes(report: &Report, object: &Path) -> Vec<Probe> {
    let sites = report.value()["tracing"]["sites"].as_array();
    let offset = |site: &Value, name: &str| {
        let digits = site[name].as_str().and_then(|text| text.strip_prefix("0x"));
        u64::from_str_radix(digits.expect("an offset"), 16).expect("hexadecimal")
    };
    let here = |site: &&Value| {
        site["object"]
            .as_str()
            .is_some_and(|path| Path::new(path) == object)
    };
    let found = sites
        .expect("a list of probes")
        .iter()
        .filter(here)
        .map(|site| Probe {
            function: site["function"].as_str().expect("a name").to_owned(),
            entry: offset(site, "function_offset"),
            site: offset(site, "offset"),
        });
    found.collect()
}

fn compare(place: Option<Place>) {
    if let Some(place) = place {
        place.compare();
    }
}

#[test]
fn glibc() {
    compare(Place::glibc());
}

#[test]
fn jemalloc() {
    compare(Place::preloaded(("libjemalloc.so.2", "libjemalloc2"), false));
}

#[test]
fn tcmalloc() {
    compare(Place::preloaded(
        ("libtcmalloc.so.4", "libgoogle-perftools4"),
        false,
    ));
}

#[test]
fn tcmalloc_minimal() {
    let library = ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4");
    compare(Place::preloaded(library, false));
}

#[test]
fn mimalloc() {
    compare(Place::preloaded(("libmimalloc.so.2", "libmimalloc2.0"), true));
}

#[test]
fn static_musl() {
    compare(Place::musl());
}

#[test]
fn the_probed_instruction_is_told_with_minus_v() {
    let mut target = Target::c("pairs", &["10"]);
    let traced = trace(&mut target, &["-v"]);
    target.finish_with(0);
    for words in ["malloc", "begins with", "probed at +", "emulate"] {
        assert!(traced.stderr.contains(words), "{words}: {}", traced.stderr);
    }
}
