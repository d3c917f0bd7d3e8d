//! Keys of the kernel's maps. Padding is spelled out: a hash map compares it.

/// Identity of one program image of one process: the process id and how often it has called `exec`
/// since it became a target. Blocks of the image before an `exec` are gone with its address space and
/// must not be mixed with those of the image after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Process {
    /// Process id in the first pid namespace (the kernel's tgid).
    pub tgid: u32,
    /// 0 for the image found at attach, one more after each `exec`.
    pub image: u16,
    /// Which memory ([`crate::call::Space`] as a number); 0 where it has no meaning.
    pub space: u8,
    /// Which device ([`crate::gpu::device_code`]); 0 where none is known or it has no meaning.
    pub device: u8,
}

/// Key of a live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LiveKey {
    /// What the allocator returned.
    pub address: u64,
    /// Whose address, and in which space.
    pub process: Process,
}

/// Key of a site: one allocator call from one stack of one process image. The kernel keeps a site in shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct SiteKey {
    /// Hash of the frames: key of the stack table. 0 when the stack could not be kept.
    pub stack_id: u64,
    /// Whose site, and in which space.
    pub process: Process,
    /// The call ([`crate::call::CallId`]).
    pub call: u32,
    /// Which CPUs have counted; always 0 in user space, which sums the shards.
    pub shard: u32,
}

const _: () = assert!(size_of::<Process>() == 8);
const _: () = assert!(size_of::<LiveKey>() == 16);
const _: () = assert!(size_of::<SiteKey>() == 24);
