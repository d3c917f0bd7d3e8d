//! Where the memory of a process is: the process line and what it is made of. Plain data.
//!
//! Must not know how it was found: that is `account`.

use serde::Serialize;

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
    /// What the changes of resident memory come from: their sum is that of `rss`, but for `unexplained`.
    pub parts: Vec<Part>,
    /// The change of `rss` that no part has, bytes.
    pub unexplained_bytes: i64,
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

/// What memory is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Outstanding blocks of a site, in the heap: `site` says which.
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
    /// Resident bytes, and how they have changed.
    #[serde(flatten)]
    pub amount: Amount,
}
