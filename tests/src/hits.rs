//! How often instructions of a file are run, as the kernel counts them: uprobe events of tracefs, which know
//! nothing of leaktrace. Every process that maps the file counts, so it must be one that only the test uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{skip::Missing, wait};

/// Counters in place; they go when this is dropped.
pub struct Hits {
    tracefs: tempfile::TempDir,
    group: String,
    offsets: BTreeMap<String, u64>,
}

impl Hits {
    /// Counts at each offset of the file.
    ///
    /// # Errors
    /// When this kernel has no tracefs that can be mounted.
    pub fn of(file: &Path, offsets: impl IntoIterator<Item = u64>) -> Result<Self, Missing> {
        let tracefs = tempfile::tempdir().expect("a temporary folder can be made");
        let mounted = Command::new("mount")
            .args(["-t", "tracefs", "nodev"])
            .arg(tracefs.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) || !tracefs.path().join("uprobe_events").exists() {
            return Err(Missing("no tracefs with uprobe events in this kernel".to_owned()));
        }
        let unique = tracefs.path().file_name().unwrap_or_default().to_string_lossy();
        let letters = unique.chars().filter(char::is_ascii_alphanumeric);
        let mut hits = Self {
            group: format!("leaktrace_{}", letters.collect::<String>()),
            tracefs,
            offsets: BTreeMap::new(),
        };
        for offset in offsets.into_iter().collect::<BTreeSet<u64>>() {
            // The profile leaves groups out, so the name itself says whose event it is.
            let event = format!("{}_{offset:x}", hits.group);
            hits.define(&format!(
                "p:{}/{event} {}:{offset:#x}",
                hits.group,
                file.display()
            ));
            hits.offsets.insert(event, offset);
        }
        hits.enable(true);
        Ok(hits)
    }

    /// Hits so far, by offset.
    pub fn read(&self) -> BTreeMap<u64, u64> {
        // The list may skip an event while another test takes its own out.
        wait::until("all counters in uprobe_profile", || {
            let profile = fs::read_to_string(self.path("uprobe_profile")).expect("the profile can be read");
            let lines = profile.lines().filter_map(|line| {
                // The file, the event without its group, the hits. A path may have spaces.
                let mut words = line.split_ascii_whitespace().rev();
                let (count, event) = (words.next()?, words.next()?);
                Some((*self.offsets.get(event)?, count.parse().ok()?))
            });
            let hits: BTreeMap<u64, u64> = lines.collect();
            (hits.len() == self.offsets.len()).then_some(hits)
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tracefs.path().join(name)
    }

    fn define(&self, line: &str) {
        let file = OpenOptions::new().append(true).open(self.path("uprobe_events"));
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("{line}: {error}"));
    }

    fn enable(&self, on: bool) {
        let path = self.path("events").join(&self.group).join("enable");
        let written = fs::write(&path, if on { "1" } else { "0" });
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Drop for Hits {
    fn drop(&mut self) {
        self.enable(false);
        for event in self.offsets.keys() {
            self.define(&format!("-:{}/{event}", self.group));
        }
        // Else the folder could not be removed.
        let unmounted = Command::new("umount").arg(self.tracefs.path()).status();
        assert!(
            unmounted.is_ok_and(|status| status.success()),
            "tracefs is still mounted"
        );
    }
}
