//! Names of C++ and Rust functions as they were written.

use std::borrow::Cow;

/// The name as it was written. A plain C name stays as it is: to a demangler of C++ a function `t` is
/// `unsigned short`, so only what carries a mangling prefix is looked at.
pub(super) fn demangle(name: &str) -> Cow<'_, str> {
    // Symbols of parts of a function: `_Zfoo.cold`, `_Zfoo.part.0`, `_Zfoo.llvm.123`.
    let is_cpp = name.starts_with("_Z") || name.starts_with("__Z");
    if is_cpp || name.starts_with("_R") {
        // `_ZN...17h<16 digits>E` is Rust's old mangling, which C++ would read as well, with the hash.
        if let Ok(rust) = rustc_demangle::try_demangle(name) {
            return Cow::Owned(format!("{rust:#}"));
        }
    }
    if is_cpp
        && let Ok(symbol) = cpp_demangle::Symbol::new(name)
        && let Ok(cpp) = symbol.demangle()
    {
        return Cow::Owned(cpp);
    }
    Cow::Borrowed(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpp_and_rust_are_read_and_c_is_left_alone() {
        for (mangled, name) in [
            ("_Znwm", "operator new(unsigned long)"),
            (
                "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE",
                "core::fmt::Write::write_fmt",
            ),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("t", "t"),
            ("i", "i"),
            ("Pc", "Pc"),
            ("malloc", "malloc"),
            ("_Zno such", "_Zno such"),
        ] {
            assert_eq!(demangle(mangled), name);
        }
    }
}
