//! Names of C++ and Rust functions as they were written, and of the parts that compilers make of functions as
//! the function they are a part of.

use std::borrow::Cow;

/// The name as it was written, of the function that a symbol is or is a part of.
///
/// A plain C name stays as it is: to a demangler of C++ a function `t` is `unsigned short`, so only what
/// carries a mangling prefix is looked at.
pub(super) fn demangle(name: &str) -> Cow<'_, str> {
    let name = whole_function(name);
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

/// What compilers and linkers append to the name of a function for a part or a copy of it; most of them are
/// followed by a number. GCC: `clone_function_name` in gcc/cgraphclones.cc and its callers; LLVM: `.llvm.` of
/// `ThinLTO`, `.__uniq.` of -funique-internal-linkage-names, `.__part.` of basic block sections.
/// Not among them are `._omp_fn`, `.resolver` and the like: functions of their own.
const SUFFIXES: &[&str] = &[
    "cold",
    "part",
    "isra",
    "constprop",
    "lto_priv",
    "localalias",
    "clone",
    "simdclone",
    "specialized",
    "llvm",
    "__uniq",
    "__part",
    "warm",
];

/// The name without such suffixes: `foo.isra.0.constprop.1` is `foo`.
fn whole_function(name: &str) -> &str {
    let mut name = name;
    loop {
        let without_number = match name.rsplit_once('.') {
            Some((rest, number))
                if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                rest
            }
            _ => name,
        };
        match without_number.rsplit_once('.') {
            Some((rest, suffix)) if SUFFIXES.contains(&suffix) && !rest.is_empty() => name = rest,
            _ => return name,
        }
    }
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

    #[test]
    fn parts_and_copies_carry_the_name_of_their_function() {
        for (symbol, name) in [
            ("foo.cold", "foo"),
            ("foo.cold.12", "foo"),
            ("foo.part.0", "foo"),
            ("foo.isra.0.constprop.1", "foo"),
            ("foo.llvm.1234567890", "foo"),
            ("foo.lto_priv.0", "foo"),
            ("foo.lto_priv.0.cold", "foo"),
            ("_Z3foov.cold", "foo()"),
            ("_Z3fooi.constprop.0.isra.0", "foo(int)"),
            (
                "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE.llvm.17",
                "core::fmt::Write::write_fmt",
            ),
            (
                "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE.cold",
                "core::fmt::Write::write_fmt",
            ),
            ("_RNvCs1234_7mycrate3foo.llvm.17", "mycrate::foo"),
            // Functions of their own, and names that only look alike.
            ("main._omp_fn.0", "main._omp_fn.0"),
            ("memcpy.resolver", "memcpy.resolver"),
            ("main.func1", "main.func1"),
            ("state.3", "state.3"),
            (".cold", ".cold"),
            (".part.0", ".part.0"),
            ("cold", "cold"),
            ("foo.", "foo."),
            ("", ""),
        ] {
            assert_eq!(demangle(symbol), name, "{symbol}");
        }
    }
}
