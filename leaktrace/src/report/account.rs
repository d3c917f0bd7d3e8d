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

impl Account {
    /// Sites have other indices now; of those that have none what they hold is that of other sites.
    pub fn renumber(&mut self, place_of: impl Fn(usize) -> Option<usize>) {
        let mut others = Amount::default();
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in std::mem::take(&mut self.parts) {
            match (part.kind, part.site.and_then(&place_of)) {
                (Kind::Site, Some(place)) => parts.push(Part {
                    site: Some(place),
                    ..part
                }),
                (Kind::Site | Kind::OtherSites, _) => {
                    others.bytes += part.amount.bytes;
                    others.change_bytes += part.amount.change_bytes;
                }
                _ => parts.push(part),
            }
        }
        if others != Amount::default() {
            let at = parts.iter().take_while(|part| part.kind == Kind::Site).count();
            let others = Part {
                kind: Kind::OtherSites,
                site: None,
                amount: others,
            };
            parts.insert(at, others);
        }
        self.parts = parts;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_any_more_is_of_other_sites() {
        let part = |kind, site, bytes| Part {
            kind,
            site,
            amount: Amount::since(0, bytes),
        };
        let mut account = Account {
            pid: 7,
            over_s: 1.0,
            rss: Amount::default(),
            pss: None,
            anonymous: Amount::default(),
            file: Amount::default(),
            swap: Amount::default(),
            parts: vec![
                part(Kind::Site, Some(0), 1),
                part(Kind::Site, Some(1), 2),
                part(Kind::Site, Some(2), 4),
                part(Kind::OtherSites, None, 8),
                part(Kind::HeapFree, None, 16),
            ],
            unexplained_bytes: 0,
            mappings: Vec::new(),
            line: String::new(),
        };
        account.renumber(|index| [None, Some(0), None][index]);
        let expected = [
            part(Kind::Site, Some(0), 2),
            part(Kind::OtherSites, None, 13),
            part(Kind::HeapFree, None, 16),
        ];
        assert_eq!(account.parts, expected);
        account.renumber(Some);
        assert_eq!(account.parts, expected);
    }
}
