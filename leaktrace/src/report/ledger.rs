//! The lines of the ledger: the kernel side's counters and user space's, each with what it means.

use leaktrace_common::counter::Counter;

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its name in reports.
    pub name: &'static str,
    /// What it counts, in a sentence.
    pub help: &'static str,
    /// Whether a number above zero means that the report misses something it should have.
    pub is_loss: bool,
}

/// Probed late.
pub const OBJECTS_LATE: Line = Line {
    name: "objects_late",
    help: "Files with allocator functions that were probed only after a process had mapped them: what it allocated \
           in between is not in the report.",
    is_loss: true,
};
/// Followed late.
pub const FORKS_FOLLOWED_LATE: Line = Line {
    name: "forks_followed_late",
    help: "Children that were probed only after they had begun to run: what they did before is not in the report.",
    is_loss: true,
};
/// Not followed.
pub const FORKS_NOT_FOLLOWED: Line = Line {
    name: "forks_not_followed",
    help: "Children of the targets that were not traced: without --follow-forks all of them, with it those that had \
           ended before they could be.",
    is_loss: false,
};
/// Gone before they could be probed.
pub const PROCESSES_UNPROBED: Line = Line {
    name: "processes_unprobed",
    help: "Targets that ended before their probes were in place: nothing of them is in the report. --scope host sees \
           them, at the price of a trap for each call of other processes that map the same files.",
    is_loss: true,
};
/// Gone before they could be looked at.
pub const PROCESSES_UNNAMED: Line = Line {
    name: "processes_unnamed",
    help: "Targets that ended before they were looked at and of which perf's side-band told nothing: their blocks are in \
           the report, their names and most of their frames are not.",
    is_loss: true,
};
/// Lost by perf.
pub const SIDEBAND_LOST: Line = Line {
    name: "sideband_lost",
    help: "Mappings, forks or execs that were missed: some frames have no names, some objects no probes.",
    is_loss: true,
};
/// Garbage tails.
pub const STACKS_CUT: Line = Line {
    name: "stacks_cut",
    help: "Stacks that end where the frame pointers led out of the program's code.",
    is_loss: false,
};
/// Tables without room.
pub const UNWIND_TABLES_FULL: Line = Line {
    name: "unwind_tables_full",
    help: "Files whose unwind tables did not fit into the kernel: stacks that lead through them are not whole. Give \
           them more memory with --max-unwind, or trace fewer processes at a time.",
    is_loss: true,
};
/// Mappings without room.
pub const UNWIND_MAPPINGS_LEFT_OUT: Line = Line {
    name: "unwind_mappings_left_out",
    help: "Executable mappings that did not fit into the kernel's list of them: stacks that lead through them are not \
           whole. Trace fewer processes at a time.",
    is_loss: true,
};
/// Stretches without room.
pub const MAPPINGS_FULL: Line = Line {
    name: "mappings_full",
    help: "Mappings of the targets that were not kept for want of room: what is there of them is in the process line, who \
           has made them is not known.",
    is_loss: true,
};
/// Not listed any more.
pub const PROCESSES_FORGOTTEN: Line = Line {
    name: "processes_forgotten",
    help: "Processes that have ended and are not listed, because too many have: what they left is in the sums, and, but \
           by process, in the sites.",
    is_loss: false,
};
/// Torn reads.
pub const TORN: Line = Line {
    name: "torn",
    help: "Totals of a site that were read while they changed and have been put right.",
    is_loss: false,
};

/// The lines that user space counts.
const OF_USER_SPACE: [Line; 12] = [
    OBJECTS_LATE,
    FORKS_FOLLOWED_LATE,
    FORKS_NOT_FOLLOWED,
    PROCESSES_UNPROBED,
    PROCESSES_UNNAMED,
    SIDEBAND_LOST,
    STACKS_CUT,
    UNWIND_TABLES_FULL,
    UNWIND_MAPPINGS_LEFT_OUT,
    MAPPINGS_FULL,
    PROCESSES_FORGOTTEN,
    TORN,
];

/// All lines: the kernel side's first, related ones together.
pub fn lines() -> impl Iterator<Item = Line> {
    let of_kernel = Counter::ALL.iter().map(|counter| Line {
        name: counter.name(),
        help: counter.help(),
        is_loss: counter.is_loss(),
    });
    of_kernel.chain(OF_USER_SPACE)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_there_once() {
        let names: HashSet<_> = lines().map(|line| line.name).collect();
        assert_eq!(names.len(), lines().count());
    }
}
