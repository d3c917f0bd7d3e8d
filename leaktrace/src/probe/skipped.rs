//! Functions that are found and not probed, and why.
//!
//! Must not decide anything about those that are.

use std::collections::HashMap;
use std::fmt;

/// A function that is not probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its symbol.
    pub function: String,
    /// Why.
    pub reason: Reason,
}

/// Why a function is not probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Every call that succeeds passes through another function, which is probed.
    Covered {
        /// That function.
        by: String,
    },
    /// Exceptions may leave it, so no return probe, and its `ret` instructions could not be proven.
    ReturnsUnproven(String),
    /// The symbol names a resolver that picks the function at run time.
    Indirect,
    /// The symbol lies outside the code of the file.
    NotCode,
    /// The loader's own allocator, in use until libc's takes over.
    Loader,
    /// The file has no such function.
    NotFound,
    /// It was looked for by what its code does, and is not there, or not by itself.
    Unrecognised(String),
}

impl Reason {
    /// Whether calls of the function go unseen.
    pub const fn is_blind(&self) -> bool {
        !matches!(self, Self::Covered { .. } | Self::Loader)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Covered { by } => write!(f, "its calls are seen in {by}, which it hands them to"),
            Self::ReturnsUnproven(why) => {
                write!(
                    f,
                    "it may throw, so a return probe could kill the process, and {why}"
                )
            }
            Self::Indirect => f.write_str("the symbol is a resolver (ifunc), the function itself has none"),
            Self::NotCode => f.write_str("the symbol lies outside the file's code"),
            Self::Loader => f.write_str("the dynamic loader's own allocator, replaced by libc's at start"),
            Self::Unrecognised(why) => f.write_str(why),
            Self::NotFound => {
                f.write_str("the file defines no function of this name (nm and nm -D list them)")
            }
        }
    }
}

/// Where a function hands its calls to one that hands them on, names the last, which is probed; if that
/// one could not be, neither function is seen.
pub(super) fn name_last_takers(skipped: &mut [Skipped]) {
    let handed: HashMap<String, Option<String>> = skipped
        .iter()
        .filter_map(|skipped| match &skipped.reason {
            Reason::Covered { by } => Some((skipped.function.clone(), Some(by.clone()))),
            Reason::ReturnsUnproven(_) => Some((skipped.function.clone(), None)),
            _ => None,
        })
        .collect();
    for skipped in skipped {
        let Reason::Covered { by } = &mut skipped.reason else {
            continue;
        };
        // Bounded by the number of steps: two functions of one name could close a circle.
        for _ in 0..handed.len() {
            match handed.get(by) {
                Some(Some(next)) => by.clone_from(next),
                Some(None) => {
                    let why = format!("{by}, which it hands its calls to, is not probed either");
                    skipped.reason = Reason::ReturnsUnproven(why);
                    break;
                }
                None => break,
            }
        }
    }
}
