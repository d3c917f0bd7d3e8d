//! Where the memory of a process is: the process line and what it is made of. Plain data.
//!
//! Must not know how it was found: that is `account`.

use serde::Serialize;

use super::model::Frame;

/// The memory of one process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    /// Process id.
    pub pid: u32,
    /// Seconds that the changes refer to: since the attach, or since the process was first looked at.
    pub over_s: f64,
    /// Resident memory, bytes.
    pub rss: Amount,
    /// Resident memory, what is shared counted in part; none where the kernel does not say.
    pub pss: Option<Amount>,
    /// Of that, what is of no file: resident or in swap.
    pub anonymous: Amount,
    /// Resident pages of files and shared memory.
    pub file: Amount,
    /// In swap.
    pub swap: Amount,
    /// What it is of. Their changes and `unexplained_bytes` add up to the changes of `rss` and `swap`.
    pub parts: Vec<Part>,
    /// What of the changes no part has, bytes.
    pub unexplained_bytes: i64,
    /// What the process has mapped by itself since then, by call and stack: what holds most first.
    pub mappings: Vec<Mapping>,
    /// All of it in a sentence.
    pub line: String,
}

/// How much there is, and how it has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Bytes now.
    pub bytes: u64,
    /// More than at first.
    pub change_bytes: i64,
}

impl Amount {
    /// Of what was `first_bytes` at first.
    pub const fn since(first_bytes: u64, bytes: u64) -> Self {
        Self {
            bytes,
            change_bytes: bytes.wrapping_sub(first_bytes) as i64,
        }
    }
}

/// What memory is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Outstanding blocks of a site, in the heap: `site` says which. What is there of them, with the allocator's headers
    /// and rounding where those are known.
    Site,
    /// Those of all other sites.
    OtherSites,
    /// Mapped by an allocator and not outstanding: free, between blocks, in its caches, or handed out before the attach.
    HeapFree,
    /// Mapped by the process itself, since the attach.
    Mappings,
    /// Stacks of threads.
    Stacks,
    /// Anonymous memory that was mapped before the attach and is no allocator's as far as is known.
    Before,
    /// Pages of files and of shared memory, and copies of them.
    Files,
}

/// A part of a process's resident memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// What it is of.
    pub kind: Kind,
    /// Of [`Kind::Site`]: index in the report's `survivors`.
    pub site: Option<usize>,
    /// Bytes that are there, resident or in swap, and how they have changed.
    #[serde(flatten)]
    pub amount: Amount,
}

/// What a process has mapped by one call from one stack, and not unmapped.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mapping {
    /// `mmap`, `mremap` or `brk`; none where it is not known who mapped it.
    pub call: Option<&'static str>,
    /// Bytes of it that are there, resident or in swap.
    pub held_bytes: u64,
    /// Bytes of addresses, whatever is there.
    pub mapped_bytes: u64,
    /// In how many stretches.
    pub stretches: u64,
    /// The stack, as the kernel side knows it; 0 for none.
    #[serde(skip)]
    pub stack_id: u64,
    /// The stack, outermost last; empty where it was not taken.
    pub frames: Vec<Frame>,
}
