//! GPU memory: how a call of CUDA is read, and what the kernel side keeps of such memory.
//!
//! Like [`crate::call`] it knows no names: everything is in the cookie. What the calls mean is NVIDIA's documentation of
//! its driver API, sections "Memory Management", "Virtual Memory Management", "Stream Ordered Memory Allocator",
//! "Context Management" and "Primary Context Management".

use crate::{
    call::{Arg, CallId, Cookie, Space},
    key::{LiveKey, Process},
    record::{Live, Pending},
};

/// What a call does, and with that which of its arguments and results are read.
///
/// Arguments are numbered from 0. All calls return 0 for success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GpuOp {
    /// A call of the runtime library: gives its name and stack to the driver's calls inside it.
    Runtime = 0,
    /// `cudaSetDevice`: argument 0 is the device that the thread uses from now on.
    SetDevice = 1,
    /// Writes an identity through argument 0; the size is an argument. `cuMemAlloc_v2` and many more.
    Alloc = 2,
    /// The same with a pitch written through argument 1, by which argument 3, the rows, is multiplied.
    AllocPitch = 3,
    /// Argument 0 is memory of the caller's.
    Register = 4,
    /// Argument 1 points to a `CUDA_ARRAY_DESCRIPTOR`.
    Array = 5,
    /// Argument 1 points to a `CUDA_ARRAY3D_DESCRIPTOR`.
    Array3d = 6,
    /// The same; argument 2 is a number of levels, each half as large in each dimension.
    Mipmap = 7,
    /// Takes back what argument 0 identifies in the cookie's domain.
    Free = 8,
    /// `cuMemCreate`: argument 2 points to a `CUmemAllocationProp`.
    Create = 9,
    /// `cuMemRelease`: one reference less.
    Release = 10,
    /// `cuMemRetainAllocationHandle`: one reference more to the handle written through argument 0.
    Retain = 11,
    /// `cuMemImportFromShareableHandle`: the same, and it may be another process's memory.
    Import = 12,
    /// `cuMemMap`: (address, size, offset, handle).
    Map = 13,
    /// `cuMemUnmap`: (address, size), of one mapping or several in a row.
    Unmap = 14,
    /// `cuMulticastCreate`: a handle without memory.
    Multicast = 15,
    /// Opens another process's memory at the address written through argument 0; each opening counts.
    OpenForeign = 16,
    /// Takes back one opening of the address in argument 0.
    CloseForeign = 17,
    /// Makes a context of the device in an argument; written through argument 0.
    ContextCreate = 18,
    /// Argument 0 is the thread's context from now on.
    ContextSet = 19,
    /// The same, above the one before.
    ContextPush = 20,
    /// Back to the one before.
    ContextPop = 21,
    /// Ends the context in argument 0.
    ContextDestroy = 22,
    /// Writes the primary context of device argument 1 through argument 0; each call counts.
    PrimaryRetain = 23,
    /// One less for device argument 0; the last one ends its primary context.
    PrimaryRelease = 24,
    /// Ends the primary context of device argument 0, whoever uses it.
    PrimaryReset = 25,
    /// A call that makes memory which is not followed.
    Untracked = 26,
    /// `PyTorch` reports a tensor's memory: (address, bytes more or less, bytes allocated, bytes reserved, device).
    Tensor = 27,
    /// The C library's `exit`.
    Exit = 28,
}

/// What an identity is one of: the same number may be in use in two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Domain {
    /// Addresses of device memory and of all that is in its address space.
    Device = 0,
    /// Addresses of host memory that the driver has made.
    Host = 1,
    /// Addresses of the caller's host memory.
    Registered = 2,
    /// Arrays, mipmapped ones too.
    Array = 3,
    /// Handles of memory without an address.
    Handle = 4,
    /// Addresses that are only reserved.
    Reservation = 5,
    /// Addresses of tensors.
    Tensor = 6,
    /// Mappings of handles: of [`Mapping`], by address.
    Mapping = 7,
    /// Contexts: of [`Context`].
    Context = 8,
    /// Primary contexts: of [`Context`], by device.
    Primary = 9,
}

/// How a call is read. Packed by [`GpuShape::cookie`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GpuShape {
    /// What it does.
    pub op: GpuOp,
    /// The size in bytes; of a call of the runtime library only for the count of failures.
    pub size: Arg,
    /// The device.
    pub device: Arg,
    /// Of what its identity is one.
    pub domain: Domain,
    /// Where its bytes are accounted.
    pub space: Space,
    /// The memory goes with its context.
    pub dies_with_context: bool,
    /// It makes memory: its stack is taken, and a failure is a failed allocation.
    pub allocates: bool,
}

/// A [`Cookie`] of a GPU call: number of the call, slot and space are where that has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuCookie(pub u64);

const OP_SHIFT: u32 = 16;
const SIZE_SHIFT: u32 = 24;
const DOMAIN_SHIFT: u32 = 28;
const DEVICE_SHIFT: u32 = 32;
const DIES_WITH_CONTEXT_BIT: u64 = 1 << 36;
const ALLOCATES_BIT: u64 = 1 << 37;
const SPACE_SHIFT: u32 = 40;

impl GpuShape {
    /// Packs the shape and the number of its call.
    pub const fn cookie(self, call: CallId) -> GpuCookie {
        let mut bits = call as u64
            | (self.op as u64) << OP_SHIFT
            | register(self.size) << SIZE_SHIFT
            | (self.domain as u64) << DOMAIN_SHIFT
            | register(self.device) << DEVICE_SHIFT
            | (self.space as u64) << SPACE_SHIFT;
        if self.dies_with_context {
            bits |= DIES_WITH_CONTEXT_BIT;
        }
        if self.allocates {
            bits |= ALLOCATES_BIT;
        }
        GpuCookie(bits)
    }
}

const fn register(arg: Arg) -> u64 {
    match arg.index() {
        Some(index) => index as u64,
        None => 0xf,
    }
}

impl GpuCookie {
    /// The same bits.
    pub const fn plain(self) -> Cookie {
        Cookie(self.0)
    }

    /// What it does: a [`GpuOp`] as a number.
    #[inline(always)]
    pub const fn op(self) -> u8 {
        (self.0 >> OP_SHIFT) as u8
    }

    /// Whether it is this.
    #[inline(always)]
    pub const fn is(self, op: GpuOp) -> bool {
        self.op() == op as u8
    }

    /// Whether it is one of the runtime library's: the driver's may be inside it.
    #[inline(always)]
    pub const fn is_of_runtime(self) -> bool {
        self.op() <= GpuOp::SetDevice as u8
    }

    /// Register of the size; 15 for none.
    #[inline(always)]
    pub const fn size_arg(self) -> u64 {
        (self.0 >> SIZE_SHIFT) & 0xf
    }

    /// Register of the device; 15 for none.
    #[inline(always)]
    pub const fn device_arg(self) -> u64 {
        (self.0 >> DEVICE_SHIFT) & 0xf
    }

    /// See [`Domain`].
    #[inline(always)]
    pub const fn domain(self) -> u8 {
        ((self.0 >> DOMAIN_SHIFT) & 0xf) as u8
    }

    /// Where its bytes are accounted.
    #[inline(always)]
    pub const fn space(self) -> u8 {
        (self.0 >> SPACE_SHIFT) as u8
    }

    /// The call's number.
    #[inline(always)]
    pub const fn call(self) -> CallId {
        self.0 as CallId
    }

    /// See [`GpuShape::dies_with_context`].
    #[inline(always)]
    pub const fn dies_with_context(self) -> bool {
        self.0 & DIES_WITH_CONTEXT_BIT != 0
    }

    /// See [`GpuShape::allocates`].
    #[inline(always)]
    pub const fn allocates(self) -> bool {
        self.0 & ALLOCATES_BIT != 0
    }
}

/// Key of all that is known by an identity: of a block the identity, of a context the context or the number of its
/// device. The process's `space` is the [`Domain`], its `device` is 0.
pub type GpuKey = LiveKey;

/// No device is known.
pub const NO_DEVICE: u8 = 0;

/// A device's number as it is kept beside a space: from 1 on; [`NO_DEVICE`] for one that has no place.
#[inline(always)]
pub const fn device_code(ordinal: i64) -> u8 {
    if ordinal >= 0 && ordinal < 255 {
        ordinal as u8 + 1
    } else {
        NO_DEVICE
    }
}

/// The number that CUDA gives a device, from what [`device_code`] has made of it.
pub const fn device_ordinal(code: u8) -> Option<u8> {
    code.checked_sub(1)
}

/// Memory of a GPU or for one, as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GpuLive {
    /// The block; its process's site is in `space` and `device`.
    pub block: Live,
    /// The context that it was made in; 0 where that is not known.
    pub context: u64,
    /// References in the upper half, mappings in the lower one: it lives as long as there is either. One reference where
    /// it is not counted.
    pub holds: u64,
    /// Where its bytes are accounted: a [`Space`].
    pub space: u8,
    /// Its device: [`device_code`].
    pub device: u8,
    /// Bits of [`gpu_flag`].
    pub flags: u8,
    /// Always 0.
    pub pad: [u8; 5],
}

/// Of [`GpuLive::holds`].
pub const ONE_REFERENCE: u64 = 1 << 32;

/// Of [`GpuLive::holds`].
pub const ONE_MAPPING: u64 = 1;

/// Bits of [`GpuLive::flags`].
pub mod gpu_flag {
    /// It goes with its context.
    pub const DIES_WITH_CONTEXT: u8 = 1;
    /// A context has ended that may have been its own.
    pub const UNSURE: u8 = 2;
    /// It is no memory, only something that is given back like it: of no site.
    pub const UNCOUNTED: u8 = 4;
}

/// A mapping of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Mapping {
    /// What is mapped.
    pub handle: u64,
    /// When that was made: a handle's number comes back.
    pub made_ns: u64,
    /// How much address space it takes.
    pub size_bytes: u64,
}

/// A context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Context {
    /// Of a primary one, by device: the context; 0 where that is not known.
    pub context: u64,
    /// Of a primary one, by device: how often it was retained.
    pub references: u32,
    /// Its device: [`device_code`].
    pub device: u32,
}

/// What is known of a process image that uses a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GpuProcess {
    /// Contexts that have been seen and have not ended.
    pub contexts: u64,
    /// Not 0 once it has called the C library's `exit`: a context that ends from then on ends with the process, whose
    /// memory is reported as live at exit.
    pub exits: u64,
}

/// Key of failures: of one call, from one stack, with one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct GpuErrorKey {
    /// Where it was called; 0 for calls whose stack is not taken.
    pub stack_id: u64,
    /// By whom; no space.
    pub process: Process,
    /// The call.
    pub call: u32,
    /// What it returned.
    pub code: u32,
}

/// Failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GpuErrors {
    /// How many.
    pub count: u64,
    /// Bytes that were asked for, of all together.
    pub bytes: u64,
    /// Of the largest.
    pub largest_bytes: u64,
    /// When the last one was, nanoseconds of `CLOCK_BOOTTIME`.
    pub last_ns: u64,
}

/// What `PyTorch`'s allocator has last said of a device. The key is [`GpuKey`] with the device's number as identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TorchTotals {
    /// Bytes of tensors.
    pub allocated_bytes: u64,
    /// Bytes that it has from the driver.
    pub reserved_bytes: u64,
    /// How often it has said so.
    pub reports: u64,
    /// When last, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
}

/// Contexts of a thread that are kept one above the other. A power of two.
pub const CONTEXTS_OF_THREAD: usize = 8;

/// A call that has been entered and has not returned, with its arguments.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct GpuPending {
    /// The call. Its `out_pointer` is argument 0.
    pub call: Pending,
    /// Arguments 1, 2 and 3.
    pub args: [u64; 3],
    /// What it takes back, if `call.old_known`.
    pub taken: GpuLive,
    /// The call that the program made: this one, or the runtime library's around it.
    pub owner: u32,
    /// Whether it is inside one of the runtime library.
    pub within: u32,
}

/// What the kernel side keeps of a thread that calls CUDA.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct GpuThread {
    /// The outermost call of the runtime library.
    pub runtime: GpuPending,
    /// The outermost call of the driver, inside that or by itself.
    pub driver: GpuPending,
    /// Its contexts, the current one at `depth`.
    pub contexts: [u64; CONTEXTS_OF_THREAD],
    /// See `contexts`.
    pub depth: u32,
    /// The device it has chosen: [`device_code`].
    pub device: u32,
    /// What it is unmapping.
    pub unmapped: Unmapped,
}

/// A range whose mappings are taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Unmapped {
    /// Where the next mapping is looked for.
    pub next: u64,
    /// Behind the last byte.
    pub end: u64,
    /// Mappings found so far.
    pub found: u64,
}

const _: () = assert!(size_of::<GpuLive>() == 56);
const _: () = assert!(size_of::<Mapping>() == 24);
const _: () = assert!(size_of::<Context>() == 16);
const _: () = assert!(size_of::<GpuErrorKey>() == 24);
const _: () = assert!(size_of::<GpuPending>() == 208);
const _: () = assert!(size_of::<GpuThread>() == 512);
const _: () = assert!(CONTEXTS_OF_THREAD.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_keeps_every_field() {
        let shape = GpuShape {
            op: GpuOp::AllocPitch,
            size: Arg::new(3),
            device: Arg::NONE,
            domain: Domain::Primary,
            space: Space::Tensor,
            dies_with_context: true,
            allocates: false,
        };
        let cookie = shape.cookie(0xabcd);
        assert!(cookie.is(GpuOp::AllocPitch) && !cookie.is(GpuOp::Alloc) && !cookie.is_of_runtime());
        assert_eq!(
            (cookie.call(), cookie.size_arg(), cookie.device_arg()),
            (0xabcd, 3, 15)
        );
        assert_eq!((cookie.domain(), cookie.space()), (9, Space::Tensor as u8));
        assert!(cookie.dies_with_context() && !cookie.allocates());
        let plain = cookie.plain().with_slot(0x1234);
        assert_eq!(
            (plain.call(), plain.slot(), plain.space()),
            (0xabcd, 0x1234, cookie.space())
        );
        assert_eq!(GpuCookie(plain.0).domain(), 9);

        let other = GpuShape {
            op: GpuOp::SetDevice,
            device: Arg::new(5),
            size: Arg::NONE,
            dies_with_context: false,
            allocates: true,
            ..shape
        };
        let cookie = other.cookie(1);
        assert!(cookie.is_of_runtime() && cookie.allocates() && !cookie.dies_with_context());
        assert_eq!((cookie.size_arg(), cookie.device_arg()), (15, 5));
    }

    #[test]
    fn devices_have_a_code_beside_none() {
        assert_eq!(device_code(-1), NO_DEVICE);
        assert_eq!(device_code(255), NO_DEVICE);
        for ordinal in [0, 1, 7, 254] {
            assert_eq!(device_ordinal(device_code(ordinal.into())), Some(ordinal));
        }
        assert_eq!(device_ordinal(NO_DEVICE), None);
    }
}
