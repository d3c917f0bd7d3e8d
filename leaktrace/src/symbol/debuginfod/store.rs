//! The folder in which clients of debuginfod keep what they have fetched, shared with elfutils and gdb: its
//! layout is that of elfutils' `debuginfod_find_debuginfo` (its manual page, "CACHE").
//!
//! `BUILDID/debuginfo` is the file; an empty one says that no server had it when it was written.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

/// For how long a server is not asked again, unless the file `cache_miss_s` says otherwise: elfutils' default.
const ABSENT_FOR: Duration = Duration::from_mins(10);

/// What a run that was killed has left is removed after this time.
const UNFINISHED_FOR: Duration = Duration::from_hours(24);

/// What the store says of a build id.
#[derive(Debug)]
pub(super) enum Look {
    /// It holds the file.
    Here(File),
    /// No server had it a short while ago.
    Absent,
    /// It has to be asked for.
    Unknown,
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    /// The folder that elfutils would take.
    pub(super) fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let path = |name| {
            variable(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        if let Some(folder) = path("DEBUGINFOD_CACHE_PATH") {
            return Some(Self::new(folder));
        }
        let home = path("HOME").or_else(env::home_dir);
        let old = home.as_ref().map(|home| home.join(".debuginfod_client_cache"));
        if let Some(folder) = old.filter(|folder| folder.is_dir()) {
            return Some(Self::new(folder));
        }
        let caches = path("XDG_CACHE_HOME").or_else(|| home.map(|home| home.join(".cache")))?;
        Some(Self::new(caches.join("debuginfod_client")))
    }

    /// A store in this folder, which is made when something is put there.
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, build_id: &str) -> PathBuf {
        self.folder.join(build_id).join("debuginfo")
    }

    /// What is known of a build id.
    pub(super) fn look(&self, build_id: &str) -> Look {
        let Ok(facts) = fs::metadata(self.path(build_id)) else {
            return Look::Unknown;
        };
        if facts.len() > 0 {
            return File::open(self.path(build_id)).map_or(Look::Unknown, Look::Here);
        }
        if is_younger(&facts, self.absent_for()) {
            Look::Absent
        } else {
            Look::Unknown
        }
    }

    fn absent_for(&self) -> Duration {
        fs::read_to_string(self.folder.join("cache_miss_s"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .map_or(ABSENT_FOR, Duration::from_secs)
    }

    /// Notes that no server has it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn note_absent(&self, build_id: &str) -> io::Result<()> {
        self.make_folder(build_id)?;
        let path = self.path(build_id);
        // The time of the note is what counts: a new file, not the old one again.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        options.open(path).map(drop)
    }

    /// A file to write into, which is gone unless it is kept.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn begin(&self, build_id: &str) -> io::Result<NamedTempFile> {
        let folder = self.make_folder(build_id)?;
        for entry in fs::read_dir(&folder)?.flatten() {
            let unfinished = entry.file_name().to_string_lossy().starts_with("debuginfo.");
            if unfinished
                && entry
                    .metadata()
                    .is_ok_and(|facts| !is_younger(&facts, UNFINISHED_FOR))
            {
                fs::remove_file(entry.path())?;
            }
        }
        tempfile::Builder::new().prefix("debuginfo.").tempfile_in(folder)
    }

    /// Keeps the file.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn keep(&self, build_id: &str, file: NamedTempFile) -> io::Result<()> {
        file.persist(self.path(build_id))?;
        Ok(())
    }

    fn make_folder(&self, build_id: &str) -> io::Result<PathBuf> {
        let folder = self.folder.join(build_id);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(folder)
    }
}

fn is_younger(facts: &fs::Metadata, age: Duration) -> bool {
    let now = SystemTime::now();
    // A time to come is that of a clock set back: taken for now.
    facts
        .modified()
        .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|passed| passed < age) || modified > now)
}
