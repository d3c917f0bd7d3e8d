//! Where a dynamic linker tells debuggers of what it maps and unmaps: glibc's <link.h>, `struct r_debug`. Its function is
//! empty; whoever wants to know puts a breakpoint there. Must not know what follows from it.

use leaktrace_common::unwind::linker::STATE_OFFSET;
use object::ReadRef;

use super::image::Image;

/// What a dynamic linker calls before and after it changes what is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linker {
    /// Offset of the function in the file.
    pub offset: u64,
    /// What to add to its address to have that of `r_debug.r_state`, modulo 2^64.
    pub to_state: u64,
}

/// That of a file, if it is glibc's dynamic linker. musl's never unmaps a library (`dlclose` in its ldso/dynlink.c).
pub(crate) fn find<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Linker> {
    let function = image.dynamic_symbol(b"_dl_debug_state")?;
    let debug = image.dynamic_symbol(b"_r_debug")?;
    Some(Linker {
        offset: image.code_offset(function)?,
        to_state: debug.wrapping_add(STATE_OFFSET).wrapping_sub(function),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn linker(path: &str) -> Option<Linker> {
        let data = fs::read(path).unwrap();
        find(&Image::open(&*data).unwrap())
    }

    #[test]
    fn the_dynamic_linker_has_one_and_a_program_has_none() {
        let loader = linker("/lib64/ld-linux-x86-64.so.2").unwrap();
        // Code comes before data.
        assert!(loader.offset > 0 && loader.to_state < 1 << 30, "{loader:x?}");
        assert_eq!(linker("/proc/self/exe"), None);
    }
}
