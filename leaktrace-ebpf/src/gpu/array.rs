//! How large an array is, from its description: its elements, without what the driver adds for the order in which it keeps
//! them (CUDA driver API, `CUDA_ARRAY_DESCRIPTOR`, `CUDA_ARRAY3D_DESCRIPTOR`, `CUarray_format`).

use leaktrace_common::counter::Counter;

use crate::{counter::bump, registers::read_word};

/// Flag of layers and flag of a cube's faces: the depth is their number, which no level halves.
const LAYERED: u64 = 1;
const CUBE: u64 = 4;

/// Levels of the largest array that a GPU can have.
const LEVELS_MAX: u64 = 16;

/// Offsets of a description.
struct Form {
    depth: Option<u64>,
    format: u64,
    flags: Option<u64>,
}

const FLAT: Form = Form {
    depth: None,
    format: 16,
    flags: None,
};

const DEEP: Form = Form {
    depth: Some(16),
    format: 24,
    flags: Some(32),
};

/// Bytes of an array in two dimensions.
#[inline(always)]
pub fn flat_bytes(description: u64) -> u64 {
    bytes(description, &FLAT, 1)
}

/// In three; of all `levels` together.
#[inline(always)]
pub fn deep_bytes(description: u64, levels: u64) -> u64 {
    bytes(description, &DEEP, levels)
}

#[inline(always)]
fn bytes(description: u64, form: &Form, levels: u64) -> u64 {
    let at = |offset: u64| read_word(description.wrapping_add(offset)).unwrap_or(0);
    let (mut width, mut height) = (at(0), at(8));
    let mut depth = form.depth.map_or(1, at);
    let flags = form.flags.map_or(0, at) as u32;
    let kind = at(form.format);
    let element = element_bytes(kind as u32).wrapping_mul(kind >> 32);
    if element == 0 {
        bump(Counter::GpuSizeUnknown);
        return 0;
    }
    let halves_depth = u64::from(flags) & (LAYERED | CUBE) == 0;
    let mut sum = 0_u64;
    for level in 0..LEVELS_MAX {
        if level >= levels {
            break;
        }
        let elements = at_least_one(width)
            .wrapping_mul(at_least_one(height))
            .wrapping_mul(at_least_one(depth));
        sum = sum.wrapping_add(elements.wrapping_mul(element));
        width >>= 1;
        height >>= 1;
        if halves_depth {
            depth >>= 1;
        }
    }
    sum
}

#[inline(always)]
const fn at_least_one(extent: u64) -> u64 {
    if extent == 0 { 1 } else { extent }
}

/// Of one channel; 0 for formats that are not made of channels of one size.
#[inline(always)]
const fn element_bytes(format: u32) -> u64 {
    match format {
        0x01 | 0x08 => 1,
        0x02 | 0x09 | 0x10 => 2,
        0x03 | 0x0a | 0x20 => 4,
        _ => 0,
    }
}
