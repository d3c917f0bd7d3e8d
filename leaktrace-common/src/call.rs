//! Which allocator call a probe belongs to, and how its arguments and result are read.
//!
//! The kernel side never looks a function up: everything it needs is packed into the attach cookie, so
//! a new allocator is a row in a userspace table and no change here or in the kernel side. Must not
//! know symbol names or ELF.

/// Number of the call in reports. User space owns the meaning (a row of its table); the kernel side
/// only carries it from the probe into the site.
pub type CallId = u16;

/// What a probed function does to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// Hands out a new block: `malloc`, `posix_memalign`, `operator new`.
    Alloc = 0,
    /// Takes a block (or NULL) and hands out another or the same: `realloc`.
    Realloc = 1,
    /// Takes a block back: `free`, `operator delete`.
    Free = 2,
}

/// Where the address of the new block is found when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResultIn {
    /// In the return value; NULL is failure.
    ReturnValue = 0,
    /// Written through the pointer argument; a return value of 0 is success (`posix_memalign`).
    OutPointer = 1,
}

/// Kinds of memory that may carry the same number at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// Blocks of a heap allocator.
    Heap = 0,
    /// Blocks of a custom pair: a pool's first block has the address of the heap block it is cut from.
    Custom = 1,
    /// Arenas that CPython maps for its small objects: memory beside the heap's.
    PythonArena = 2,
    /// Pools that CPython cuts from arenas, one for objects of one size: memory that is counted as arenas' already.
    PythonPool = 3,
    /// Device memory.
    Device = 4,
    /// Memory that moves between the host and devices as it is used: an address range of which some is on a device.
    Managed = 5,
    /// Host memory of the driver's, pinned for devices.
    Pinned = 6,
    /// Memory of another space, pinned for devices.
    Registered = 7,
    /// Arrays for textures: device memory of at least this size.
    Array = 8,
    /// Device memory without an address of its own, which is mapped.
    Vmm = 9,
    /// The same of host memory.
    VmmHost = 10,
    /// Openings of other processes' memory: of no size.
    Ipc = 11,
    /// Addresses without memory.
    Reservation = 12,
    /// Tensors of `PyTorch`, in memory that it has from the driver.
    Tensor = 13,
    /// What a process has mapped by itself: memory beside the heap's, of which no more is there than has been touched.
    Mapping = 14,
}

impl Space {
    /// All of them, by number.
    pub const ALL: [Self; 15] = [
        Self::Heap,
        Self::Custom,
        Self::PythonArena,
        Self::PythonPool,
        Self::Device,
        Self::Managed,
        Self::Pinned,
        Self::Registered,
        Self::Array,
        Self::Vmm,
        Self::VmmHost,
        Self::Ipc,
        Self::Reservation,
        Self::Tensor,
        Self::Mapping,
    ];

    /// Whether its bytes are of the sum of what a process holds of the host's memory. Those of the GPU's calls are of no
    /// sum: each kind is another memory. Pools are counted as arenas already. Custom blocks are of it: a call of the
    /// heap's allocator inside a custom one is a part of it, see [`Cookie::layer`]. Mappings are not: their size is what
    /// was reserved.
    pub const fn is_of_sum(self) -> bool {
        matches!(self, Self::Heap | Self::Custom | Self::PythonArena)
    }

    /// Whether it is of a GPU or for one.
    pub const fn is_gpus(self) -> bool {
        self as u8 >= Self::Device as u8 && self as u8 <= Self::Tensor as u8
    }

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Custom => "custom",
            Self::PythonArena => "python-arena",
            Self::PythonPool => "python-pool",
            Self::Device => "device",
            Self::Managed => "managed",
            Self::Pinned => "pinned",
            Self::Registered => "registered",
            Self::Array => "array",
            Self::Vmm => "vmm",
            Self::VmmHost => "vmm-host",
            Self::Ipc => "ipc",
            Self::Reservation => "reservation",
            Self::Tensor => "tensor",
            Self::Mapping => "mapping",
        }
    }

    /// The space that a key carries; `None` for a number that no space has.
    pub const fn of(number: u8) -> Option<Self> {
        if (number as usize) < Self::ALL.len() {
            Some(Self::ALL[number as usize])
        } else {
            None
        }
    }
}

/// A register that holds an integer argument, or none.
///
/// By number: the argument registers of System V on x86-64, rdi, rsi, rdx, rcx, r8, r9, and behind them those that a
/// function may copy an argument to without saving them first: rax, r10, r11.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arg(u8);

impl Arg {
    /// This call has no such argument.
    pub const NONE: Self = Self(0xf);

    /// Argument `index`, counted from 0.
    ///
    /// # Panics
    /// When `index` is above 5: further arguments are passed on the stack, which no probe reads.
    pub const fn new(index: u8) -> Self {
        assert!(index < 6, "only the six register arguments can be read");
        Self(index)
    }

    /// The register of a number below [`REGISTERS`].
    ///
    /// # Panics
    /// When there is no such register.
    pub const fn in_register(number: u8) -> Self {
        assert!((number as usize) < REGISTERS, "no register has this number");
        Self(number)
    }

    /// The register's number, which is the argument's index where the call is entered; or `None`.
    pub const fn index(self) -> Option<u8> {
        if self.0 == Self::NONE.0 {
            None
        } else {
            Some(self.0)
        }
    }
}

/// Registers that an [`Arg`] can be.
pub const REGISTERS: usize = 9;

/// How one probed function is read. Packed into the 64-bit attach cookie by [`Shape::cookie`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What the call does.
    pub op: Op,
    /// The size in bytes.
    pub size: Arg,
    /// A count that multiplies the size (`calloc`, `reallocarray`).
    pub count: Arg,
    /// The block taken (free, realloc), or the out-pointer of [`ResultIn::OutPointer`].
    pub pointer: Arg,
    /// Where the result is.
    pub result: ResultIn,
    /// A failed realloc frees the old block all the same (`reallocf`).
    pub frees_on_failure: bool,
    /// A free that may pass its block on to another probed free (`free_sized` calling `free`): the
    /// inner one must not count as a free of an unknown block.
    pub delegates: bool,
    /// Which memory.
    pub space: Space,
}

/// The cookie: what the kernel side gets with every hit of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie(pub u64);

const OP_SHIFT: u32 = 16;
const SIZE_SHIFT: u32 = 20;
const COUNT_SHIFT: u32 = 24;
const POINTER_SHIFT: u32 = 28;
const RESULT_SHIFT: u32 = 32;
const FREES_ON_FAILURE_BIT: u64 = 1 << 36;
const DELEGATES_BIT: u64 = 1 << 37;
const RET_INSTRUCTIONS_BIT: u64 = 1 << 38;
const HANDS_OVER_BIT: u64 = 1 << 39;
const SPACE_SHIFT: u32 = 40;
const SLOT_SHIFT: u32 = 48;

impl Shape {
    /// See [`Cookie::layer`].
    pub const fn layer(self) -> u8 {
        self.cookie(0).layer()
    }

    /// Packs the shape and the number of its call.
    pub const fn cookie(self, call: CallId) -> Cookie {
        let mut bits = call as u64
            | (self.op as u64) << OP_SHIFT
            | (self.size.0 as u64) << SIZE_SHIFT
            | (self.count.0 as u64) << COUNT_SHIFT
            | (self.pointer.0 as u64) << POINTER_SHIFT
            | (self.result as u64) << RESULT_SHIFT
            | (self.space as u64) << SPACE_SHIFT;
        if self.frees_on_failure {
            bits |= FREES_ON_FAILURE_BIT;
        }
        if self.delegates {
            bits |= DELEGATES_BIT;
        }
        Cookie(bits)
    }
}

impl Cookie {
    /// The same for a function whose return is seen at its `ret` instructions: its return address is not
    /// replaced by a return probe's, so the kernel side can tell from it whether the call is still under
    /// way. Such functions are those that can be left by an exception.
    #[must_use]
    pub const fn with_ret_instructions(self) -> Self {
        Self(self.0 | RET_INSTRUCTIONS_BIT)
    }

    /// See [`Self::with_ret_instructions`].
    #[inline(always)]
    pub const fn has_ret_instructions(self) -> bool {
        self.0 & RET_INSTRUCTIONS_BIT != 0
    }

    /// The same for a function that may get its block from another probed function. Where sampling leaves the
    /// outer call out, the inner one must be known as its part, or the block would be drawn for twice.
    #[must_use]
    pub const fn with_handing_over(self) -> Self {
        Self(self.0 | HANDS_OVER_BIT)
    }

    /// See [`Self::with_handing_over`].
    #[inline(always)]
    pub const fn hands_over(self) -> bool {
        self.0 & HANDS_OVER_BIT != 0
    }

    /// The same with the place of the function in the kernel's table of hits.
    #[must_use]
    pub const fn with_slot(self, slot: u16) -> Self {
        Self(self.0 & !(0xffff << SLOT_SHIFT) | (slot as u64) << SLOT_SHIFT)
    }

    /// Place in the table of hits; 0 is shared by all that have none of their own.
    #[inline(always)]
    pub const fn slot(self) -> u16 {
        (self.0 >> SLOT_SHIFT) as u16
    }

    /// The call's number.
    #[inline(always)]
    pub const fn call(self) -> CallId {
        self.0 as CallId
    }

    /// Whether the call is an [`Op::Realloc`].
    #[inline(always)]
    pub const fn is_realloc(self) -> bool {
        (self.0 >> OP_SHIFT) & 0xf == Op::Realloc as u64
    }

    /// Whether the call is an [`Op::Free`].
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        (self.0 >> OP_SHIFT) & 0xf == Op::Free as u64
    }

    /// Register index of the size; 15 for none.
    #[inline(always)]
    pub const fn size_arg(self) -> u64 {
        (self.0 >> SIZE_SHIFT) & 0xf
    }

    /// Register index of the count; 15 for none.
    #[inline(always)]
    pub const fn count_arg(self) -> u64 {
        (self.0 >> COUNT_SHIFT) & 0xf
    }

    /// Register index of the pointer; 15 for none.
    #[inline(always)]
    pub const fn pointer_arg(self) -> u64 {
        (self.0 >> POINTER_SHIFT) & 0xf
    }

    /// Whether the result is behind the pointer argument.
    #[inline(always)]
    pub const fn result_in_out_pointer(self) -> bool {
        (self.0 >> RESULT_SHIFT) & 0xf == ResultIn::OutPointer as u64
    }

    /// See [`Shape::frees_on_failure`].
    #[inline(always)]
    pub const fn frees_on_failure(self) -> bool {
        self.0 & FREES_ON_FAILURE_BIT != 0
    }

    /// See [`Shape::delegates`].
    #[inline(always)]
    pub const fn delegates(self) -> bool {
        self.0 & DELEGATES_BIT != 0
    }

    /// The space, as stored in keys.
    #[inline(always)]
    pub const fn space(self) -> u8 {
        (self.0 >> SPACE_SHIFT) as u8
    }

    /// Whether it is of the memory of Python's object allocator.
    #[inline(always)]
    pub const fn is_pythons(self) -> bool {
        let space = self.space();
        space == Space::PythonArena as u8 || space == Space::PythonPool as u8
    }

    /// Which calls may be inside one another: those of one layer are one call to the program, of which the
    /// outermost owns the block. A custom allocator stands on the heap's, so both are one layer.
    #[inline(always)]
    pub const fn layer(self) -> u8 {
        let space = self.space();
        if space == Space::Custom as u8 {
            Space::Heap as u8
        } else {
            space
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_keeps_every_field() {
        let realloc = Shape {
            op: Op::Realloc,
            size: Arg::new(2),
            count: Arg::new(1),
            pointer: Arg::new(0),
            result: ResultIn::ReturnValue,
            frees_on_failure: true,
            delegates: false,
            space: Space::Heap,
        };
        let cookie = realloc.cookie(0xabcd);
        assert_eq!(cookie.call(), 0xabcd);
        assert!(cookie.is_realloc() && !cookie.is_free());
        assert_eq!(
            (cookie.size_arg(), cookie.count_arg(), cookie.pointer_arg()),
            (2, 1, 0)
        );
        assert_eq!((cookie.space(), cookie.layer()), (0, 0));
        assert!(cookie.frees_on_failure() && !cookie.delegates() && !cookie.result_in_out_pointer());

        let free = Shape {
            op: Op::Free,
            size: Arg::NONE,
            count: Arg::NONE,
            pointer: Arg::new(5),
            result: ResultIn::OutPointer,
            frees_on_failure: false,
            delegates: true,
            space: Space::Custom,
        };
        let cookie = free.cookie(1);
        assert!(!cookie.has_ret_instructions() && cookie.with_ret_instructions().has_ret_instructions());
        assert!(cookie.is_free() && cookie.delegates() && cookie.result_in_out_pointer());
        assert_eq!(
            (cookie.size_arg(), cookie.count_arg(), cookie.pointer_arg()),
            (15, 15, 5)
        );
        assert_eq!((cookie.space(), cookie.layer()), (1, 0));
        assert_eq!(cookie.slot(), 0);
        let placed = cookie.with_slot(0xbeef).with_slot(0xcafe).with_handing_over();
        assert_eq!((placed.slot(), placed.space()), (0xcafe, 1));
        assert!(placed.hands_over() && !cookie.hands_over() && placed.is_free());
        assert_eq!(Space::of(cookie.space()), Some(Space::Custom));
        for (number, space) in (0..).zip(Space::ALL) {
            assert_eq!((space as u8, Space::of(number)), (number, Some(space)));
        }
        assert_eq!(Space::of(15), None);
    }

    #[test]
    fn what_is_mapped_is_no_gpus_and_of_no_sum() {
        let gpus = Space::ALL.into_iter().filter(|space| space.is_gpus()).count();
        assert_eq!(gpus, 10);
        assert!(!Space::Mapping.is_gpus() && !Space::Mapping.is_of_sum());
    }
}
