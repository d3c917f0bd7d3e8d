//! What a workload can be run under, by name. Must not know how any of it is started.

/// One row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    Untraced,
    /// Empty programs at leaktrace's sites; the return of an allocating call traps too.
    FloorReturn,
    /// The same, but the entry run skips the return.
    FloorSkip,
    /// As [`Setup::FloorReturn`], at the first instructions.
    FloorSymbols,
    Full,
    Sampled64,
    Sampled512,
    /// leaktrace with a `--min-size` that nothing reaches.
    Filtered,
    Heaptrack,
    Bpftrace,
    /// leaktrace with a program of its own for the entry, so that this can be timed by itself.
    Tables,
    /// The same, by frame pointers.
    FramePointers,
    /// Programs that copy 4 KiB of the stack at entry, and do nothing else.
    CopyStack,
    /// leaktrace without Python's frames and objects.
    NoPython,
    /// leaktrace with nothing but a target and a report each second: Python is held to a bound, its objects are counted.
    Bounded,
    Memray,
    /// memray with Python's own allocators, as it sees small objects.
    MemrayObjects,
    /// The same with native frames: all that it can.
    MemrayNative,
    /// tracemalloc with one frame a block, as it comes.
    Tracemalloc,
    /// tracemalloc with 25 frames a block.
    Tracemalloc25,
}

impl Setup {
    /// What `cargo xtask bench overhead` compares.
    pub(super) const ALL: [Self; 10] = [
        Self::Untraced,
        Self::FloorReturn,
        Self::FloorSkip,
        Self::FloorSymbols,
        Self::Full,
        Self::Sampled64,
        Self::Sampled512,
        Self::Filtered,
        Self::Heaptrack,
        Self::Bpftrace,
    ];

    /// As typed after `--only`, and in the JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::FloorReturn => "floor-return",
            Self::FloorSkip => "floor-skip",
            Self::FloorSymbols => "floor-symbols",
            Self::Full => "full",
            Self::Sampled64 => "64KiB",
            Self::Sampled512 => "512KiB",
            Self::Filtered => "min-size",
            Self::Heaptrack => "heaptrack",
            Self::Bpftrace => "bpftrace",
            Self::Tables => "tables",
            Self::FramePointers => "frame-pointers",
            Self::CopyStack => "copy",
            Self::NoPython => "no-python",
            Self::Bounded => "bounded",
            Self::Memray => "memray",
            Self::MemrayObjects => "memray-objects",
            Self::MemrayNative => "memray-native",
            Self::Tracemalloc => "tracemalloc",
            Self::Tracemalloc25 => "tracemalloc-25",
        }
    }

    /// As in the table.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::FloorReturn => "floor with return",
            Self::FloorSkip => "floor without return",
            Self::FloorSymbols => "floor at the symbols, with return",
            Self::Full => "leaktrace",
            Self::Sampled64 => "leaktrace --sample-bytes 64KiB",
            Self::Sampled512 => "leaktrace --sample-bytes 512KiB",
            Self::Filtered => "leaktrace --min-size 1GiB",
            Self::Heaptrack => "heaptrack",
            Self::Bpftrace => "bpftrace script",
            Self::Tables => "unwind tables",
            Self::FramePointers => "frame pointers",
            Self::CopyStack => "4 KiB of stack copied, not walked",
            Self::NoPython => "leaktrace --no-python",
            Self::Bounded => "leaktrace -p, as it is",
            Self::Memray => "memray",
            Self::MemrayObjects => "memray --trace-python-allocators",
            Self::MemrayNative => "memray --trace-python-allocators --native",
            Self::Tracemalloc => "tracemalloc, 1 frame",
            Self::Tracemalloc25 => "tracemalloc, 25 frames",
        }
    }

    /// What leaktrace is told; `None` for other tracers.
    pub(super) const fn options(self) -> Option<&'static [&'static str]> {
        match self {
            // Running Python processes are held to a bound by default.
            Self::Full => Some(&["--max-overhead", "off"]),
            Self::Bounded => Some(&[]),
            Self::NoPython => Some(&["--no-python"]),
            Self::Sampled64 => Some(&["--sample-bytes", "64KiB"]),
            Self::Sampled512 => Some(&["--sample-bytes", "512KiB"]),
            Self::Filtered => Some(&["--min-size", "1GiB"]),
            Self::Tables => Some(&["--attach", "multi"]),
            Self::FramePointers => Some(&["--attach", "multi", "--unwind", "frame-pointers"]),
            _ => None,
        }
    }

    /// How often leaktrace reports.
    pub(super) const fn interval(self) -> &'static str {
        match self {
            Self::Bounded => "1s",
            _ => "0",
        }
    }

    /// What memray is told; `None` for other tracers.
    pub(super) const fn memray(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Memray => Some(&[]),
            Self::MemrayObjects => Some(&["--trace-python-allocators"]),
            Self::MemrayNative => Some(&["--trace-python-allocators", "--native"]),
            _ => None,
        }
    }

    /// Frames that tracemalloc keeps of a block; `None` for other tracers.
    pub(super) const fn tracemalloc(self) -> Option<u32> {
        match self {
            Self::Tracemalloc => Some(1),
            Self::Tracemalloc25 => Some(25),
            _ => None,
        }
    }

    /// What the example `floor` is told; `None` for what is no floor.
    pub(super) const fn floor(self) -> Option<&'static [&'static str]> {
        match self {
            Self::FloorReturn => Some(&["--at", "sites", "--returns", "take"]),
            Self::FloorSkip => Some(&["--at", "sites", "--returns", "skip"]),
            Self::FloorSymbols => Some(&["--at", "symbols", "--returns", "take"]),
            Self::CopyStack => Some(&["--at", "sites", "--returns", "skip", "--copy"]),
            _ => None,
        }
    }
}
