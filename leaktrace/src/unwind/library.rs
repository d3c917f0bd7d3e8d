//! The tables of files: each made once, by several threads, and shared by all that map the file.
//!
//! From memory, from the [`Store`], or built. Must not know processes, nor where tables lie in the kernel.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use object::elf::{self, FileHeader64};
use object::read::ReadCache;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{LittleEndian, ReadRef};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::build::{self, BuildError, Cursor, Rows};
use super::store::Store;
use super::table::Table;

/// Most threads that build tables. A cold start of a large program gains little from more.
const THREADS_MAX: usize = 8;

/// Files with less code are built faster than they are read from the store.
const STORED_TEXT_BYTES_MIN: u64 = 256 << 10;

/// Bytes of a build id: that of the GNU linker has 20, the longest in use 32.
const BUILD_ID_BYTES: std::ops::RangeInclusive<usize> = 8..=64;

/// Largest vdso: some pages.
const VDSO_BYTES_MAX: u64 = 1 << 20;

/// What makes a file the same as another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TableKey {
    /// By build id. The size as well: tools that move code keep the id.
    BuildId {
        /// GNU build id.
        id: Box<[u8]>,
        /// Bytes of the file.
        size_bytes: u64,
    },
    /// By place and time, where there is no build id.
    Inode {
        /// Device (`st_dev`).
        device: u64,
        /// Inode.
        inode: u64,
        /// When it was last written, in nanoseconds since 1970.
        written_ns: i128,
        /// Bytes of the file.
        size_bytes: u64,
    },
}

impl TableKey {
    /// The key of an open file, whose position stays as it is.
    ///
    /// # Errors
    /// When its status cannot be read.
    pub fn of(file: &File) -> io::Result<Self> {
        let status = file.metadata()?;
        let size_bytes = status.size();
        let cache = ReadCache::new(Cursor::new(file));
        Ok(match build_id(&cache) {
            Some(id) => Self::BuildId { id, size_bytes },
            None => Self::Inode {
                device: status.dev(),
                inode: status.ino(),
                written_ns: i128::from(status.mtime()) * 1_000_000_000 + i128::from(status.mtime_nsec()),
                size_bytes,
            },
        })
    }
}

/// As a name for a file.
impl fmt::Display for TableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuildId { id, size_bytes } => {
                for byte in id {
                    write!(f, "{byte:02x}")?;
                }
                write!(f, "-{size_bytes:x}")
            }
            Self::Inode {
                device,
                inode,
                written_ns,
                size_bytes,
            } => write!(f, "inode-{device:x}-{inode:x}-{written_ns:x}-{size_bytes:x}"),
        }
    }
}

fn build_id<'d>(data: impl ReadRef<'d>) -> Option<Box<[u8]>> {
    /// Notes are some hundred bytes; a file that says otherwise is not read for them.
    const NOTES_BYTES_MAX: u64 = 64 << 10;
    let header = FileHeader64::<LittleEndian>::parse(data).ok()?;
    header
        .program_headers(LittleEndian, data)
        .ok()?
        .iter()
        .filter(|program| program.p_filesz(LittleEndian) <= NOTES_BYTES_MAX)
        .filter_map(|program| program.notes(LittleEndian, data).ok().flatten())
        .flat_map(|notes| notes.map_while(Result::ok))
        .find(|note| note.name() == elf::ELF_NOTE_GNU && note.n_type(LittleEndian) == elf::NT_GNU_BUILD_ID)
        .map(|note| note.desc())
        .filter(|id| BUILD_ID_BYTES.contains(&id.len()))
        .map(Into::into)
}

/// A file whose table is wanted.
#[derive(Debug)]
pub struct Source {
    /// Open for reading; its position is neither used nor changed.
    pub file: File,
    /// As messages call it.
    pub name: String,
    /// What makes it the same as another.
    pub key: TableKey,
}

/// Why there is no table of a file.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "cannot unwind in {name} by its tables: {why}; its frames are followed by frame pointers (build it with -fno-omit-frame-pointer)"
)]
pub struct LoadError {
    /// The file.
    pub name: String,
    /// Why.
    pub why: BuildError,
}

/// What [`Library`] gives.
pub type Loaded = Result<Arc<Table>, LoadError>;

/// The tables of files. What was requested is finished also after it is dropped.
#[derive(Debug)]
pub struct Library {
    shelf: Arc<Shelf>,
    threads: ThreadPool,
}

/// What the threads share.
#[derive(Debug)]
struct Shelf {
    store: Option<Store>,
    known: Mutex<HashMap<TableKey, Weak<Table>>>,
}

impl Library {
    /// Tables are kept in the directory `cache`, if it is given and can be written to.
    pub fn new(cache: Option<PathBuf>) -> Self {
        let store = cache.and_then(|path| match Store::open(&path) {
            Ok(store) => Some(store),
            Err(error) => {
                tracing::debug!("unwind tables are not kept in {}: {error}", path.display());
                None
            }
        });
        let shelf = Arc::new(Shelf {
            store,
            known: Mutex::default(),
        });
        Self {
            shelf,
            threads: threads(),
        }
    }

    /// The tables of many files, in their order. Returns when all are there.
    pub fn load_all(&self, sources: Vec<Source>) -> Vec<Loaded> {
        // Each key once, at its first place.
        let mut places = HashMap::new();
        let mut distinct = Vec::new();
        let mut order = Vec::with_capacity(sources.len());
        for source in sources {
            let place = *places.entry(source.key.clone()).or_insert(distinct.len());
            if place == distinct.len() {
                distinct.push(source);
            }
            order.push(place);
        }
        let loaded: Vec<Loaded> = self.threads.install(|| {
            distinct
                .par_iter()
                .with_max_len(1)
                .map(|source| self.shelf.load(source))
                .collect()
        });
        order.into_iter().map(|place| loaded[place].clone()).collect()
    }

    /// Has the table of a file made in the background; `then` is called with it there.
    pub fn request(&self, source: Source, then: impl FnOnce(Loaded) + Send + 'static) {
        let shelf = Arc::clone(&self.shelf);
        self.threads.spawn(move || then(shelf.load(&source)));
    }

    /// The table of the vdso, which is the same in all processes of this architecture.
    pub fn vdso() -> Loaded {
        static VDSO: OnceLock<Loaded> = OnceLock::new();
        VDSO.get_or_init(|| {
            let failed = |why| LoadError {
                name: "[vdso]".to_owned(),
                why,
            };
            let image = vdso_image().map_err(|error| failed(BuildError::Unreadable(error.to_string())))?;
            guarded(|| build::build(&image, Rows::CallSites))
                .map(Arc::new)
                .map_err(failed)
        })
        .clone()
    }
}

impl Shelf {
    fn load(&self, source: &Source) -> Loaded {
        if let Some(table) = self.known(&source.key) {
            return Ok(table);
        }
        let began = Instant::now();
        let stored = self.store.as_ref().and_then(|store| store.load(&source.key));
        let was_stored = stored.is_some();
        let table = match stored {
            Some(table) => Arc::new(table),
            None => Arc::new(self.build(source)?),
        };
        tracing::info!(
            "unwind table of {}: {}, {} in {:.1} ms",
            source.name,
            table.summary(),
            if was_stored { "read" } else { "built" },
            began.elapsed().as_secs_f64() * 1e3
        );
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, table| table.strong_count() > 0);
        known.insert(source.key.clone(), Arc::downgrade(&table));
        Ok(table)
    }

    fn known(&self, key: &TableKey) -> Option<Arc<Table>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).and_then(Weak::upgrade)
    }

    fn build(&self, source: &Source) -> Result<Table, LoadError> {
        let table = guarded(|| build::build_file(&source.file, Rows::CallSites).map(|(table, _)| table))
            .map_err(|why| LoadError {
                name: source.name.clone(),
                why,
            })?;
        if let Some(store) = &self.store
            && table.text_bytes >= STORED_TEXT_BYTES_MIN
            && let Err(error) = store.save(&source.key, &table)
        {
            tracing::debug!("the unwind table of {} is not kept: {error}", source.name);
        }
        Ok(table)
    }
}

/// A file is anybody's, and a fault in reading it must not end the run.
fn guarded(build: impl FnOnce() -> Result<Table, BuildError>) -> Result<Table, BuildError> {
    catch_unwind(AssertUnwindSafe(build)).unwrap_or_else(|_panic| {
        Err(BuildError::Broken {
            part: "its unwind information",
            why: "leaktrace has a fault; please report this with the file".to_owned(),
        })
    })
}

fn threads() -> ThreadPool {
    let count = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX);
    let threads = |count| {
        ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|_| "leaktrace-table".to_owned())
    };
    match threads(count).build() {
        Ok(threads) => threads,
        // The caller's own thread then does the work, now and then: no thread is needed for that.
        Err(_no_thread) => threads(1)
            .use_current_thread()
            .build()
            .unwrap_or_else(|error| unreachable!("a pool without threads: {error}")),
    }
}

/// Where tables are kept by default; `None` without a home directory.
pub fn default_cache_dir() -> Option<PathBuf> {
    cache_dir(|name| std::env::var_os(name))
}

fn cache_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    // XDG Base Directory Specification: a path that is not absolute is ignored.
    let caches = path("XDG_CACHE_HOME").or_else(|| path("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("leaktrace/unwind"))
}

pub(super) fn vdso_image() -> io::Result<Vec<u8>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let bounds = line
        .and_then(|line| line.split_once(' '))
        .and_then(|(range, _)| range.split_once('-'))
        .and_then(|(start, end)| {
            let address = |text| u64::from_str_radix(text, 16).ok();
            Some((address(start)?, address(end)?))
        });
    let (start, end) = bounds.ok_or(io::ErrorKind::NotFound)?;
    let mut image = vec![0; end.saturating_sub(start).min(VDSO_BYTES_MAX) as usize];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, start)?;
    Ok(image)
}

#[cfg(test)]
#[path = "library_tests.rs"]
mod tests;
