//! What the kernel side tells user space at once: rare things only, never an allocation.

/// Kinds of [`Event`].
pub mod kind {
    /// A target called `exec` from its first thread; `value` is the number of its new image.
    pub const EXEC: u32 = 1;
    /// The same from another thread: the kernel's record of the process, which probes are scoped by, is
    /// another from now on, and they are gone.
    pub const EXEC_BY_THREAD: u32 = 3;
    /// A live block did not fit the current tier any more; `value` is the tier it went to.
    pub const TIER_FULL: u32 = 2;
    /// A return address is in no mapping of the process's layout; `value` is the address. Told once until user
    /// space clears [`crate::unwind::LayoutSlot::asked`].
    pub const UNKNOWN_ADDRESS: u32 = 4;
    /// The dynamic linker of a process has unmapped libraries: its layout does not hold any more.
    pub const UNMAPPED: u32 = 5;
    /// A process has become a target by itself, or such a one has had its first block recorded
    /// ([`crate::record::Control::tells_at_once`]); `value` is its image.
    pub const JOINED: u32 = 6;
    /// A target has ended, or has become a program that is none: what it was when it was one belongs to the images up to
    /// `value`. Told of those that user space knows of.
    pub const LEFT: u32 = 7;
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// One of [`kind`].
    pub kind: u32,
    /// The process.
    pub tgid: u32,
    /// Depends on the kind.
    pub value: u64,
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
}

const _: () = assert!(size_of::<Event>() == 24);
