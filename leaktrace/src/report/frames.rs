//! What the formats have in common about frames: their names, and which one is the user's own.

use std::borrow::{Borrow, Cow};

use super::model::{Frame, Lang, Survivor};

/// The frames of a site that are shown: without the probed function where that only repeats the call, and without an
/// interpreter's plumbing unless it is asked for.
pub(super) fn shown(survivor: &Survivor, native: bool) -> Vec<&Frame> {
    let callers = callers(survivor).iter();
    callers.filter(|frame| native || !frame.plumbing).collect()
}

fn callers(survivor: &Survivor) -> &[Frame] {
    match survivor.frames.as_slice() {
        [probed, callers @ ..] if probed.symbol.as_deref() == Some(survivor.call.as_str()) => callers,
        frames => frames,
    }
}

/// The function, else `object+0xoffset`, else the address.
pub(super) fn name(frame: &Frame) -> Cow<'_, str> {
    match (&frame.symbol, &frame.object, &frame.offset) {
        (Some(symbol), _, _) => Cow::Borrowed(symbol),
        (None, Some(object), Some(offset)) => Cow::Owned(format!("{}+{offset}", base_name(object))),
        (None, Some(object), None) => Cow::Owned(format!("{}({})", base_name(object), frame.address)),
        (None, None, _) => Cow::Borrowed(&frame.address),
    }
}

/// The last part of a path.
pub(super) fn base_name(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

/// Index of the innermost frame that is neither an allocator's nor a language runtime's: where a
/// person starts to read. `None` when there are only such, or bare addresses. In a stack with Python frames it is one
/// of those: a program's own before those of libraries.
pub(crate) fn innermost_user<F: Borrow<Frame>>(frames: &[F]) -> Option<usize> {
    let find = |wanted: fn(&Frame) -> bool| frames.iter().position(|frame| wanted(frame.borrow()));
    let named = |frame: &Frame| frame.symbol.is_some() || frame.object.is_some();
    find(is_own_python).or_else(|| find(is_python)).or_else(|| {
        frames
            .iter()
            .position(|frame| named(frame.borrow()) && !is_runtime(frame.borrow()))
    })
}

pub(super) fn is_python(frame: &Frame) -> bool {
    frame.lang == Lang::Python
}

/// Whether a Python frame is the program's own: not of the standard library, and not of an installed package.
fn is_own_python(frame: &Frame) -> bool {
    let of_library = |file: &str| file.starts_with("<frozen ") || library_path(file).is_some();
    is_python(frame) && frame.file.as_deref().is_some_and(|file| !of_library(file))
}

/// Where the innermost Python line is, `file.py:line in function`, and from which line of the program's own it was come
/// to where that is another. `None` without Python frames.
pub(super) fn python_site<F: Borrow<Frame>>(frames: &[F]) -> Option<String> {
    let mut python = frames.iter().map(Borrow::borrow).filter(|frame| is_python(frame));
    let innermost = python.next()?;
    if is_own_python(innermost) {
        return Some(python_place(innermost));
    }
    let own = python.find(|frame| is_own_python(frame));
    Some(own.map_or_else(
        || python_place(innermost),
        |own| format!("{}, called from {}", python_place(innermost), python_place(own)),
    ))
}

fn python_place(frame: &Frame) -> String {
    let name = name(frame);
    place(frame).map_or_else(|| name.to_string(), |place| format!("{place} in {name}"))
}

/// File and line, as far as they are known. Python's files are shortened: those of the interpreter and of packages are
/// known by the end of their paths.
pub(super) fn place(frame: &Frame) -> Option<String> {
    let file = frame.file.as_deref()?;
    let file = if is_python(frame) {
        library_path(file).unwrap_or(file)
    } else {
        file
    };
    Some(
        frame
            .line
            .map_or_else(|| file.to_owned(), |line| format!("{file}:{line}")),
    )
}

/// The path of a file of Python's library or of a package from the directory on that all of them are in
/// (`site-packages/numpy/linalg.py`, `python3.11/json/decoder.py`); none for other files.
fn library_path(file: &str) -> Option<&str> {
    let packages = ["/site-packages/", "/dist-packages/"];
    if let Some(at) = packages.iter().find_map(|name| file.rfind(name)) {
        return Some(&file[at + 1..]);
    }
    let library = ["/lib/python", "/lib64/python"];
    let at = library
        .iter()
        .find_map(|name| Some(file.find(name)? + name.len()))?;
    let version = file[at..].starts_with(|first: char| first.is_ascii_digit());
    version.then(|| &file[at - "python".len()..])
}

/// Objects that pass allocations on for others. Compared up to the first `.` or `-`.
const RUNTIME_OBJECTS: &[&str] = &[
    "libc",
    "ld",
    "libstdc++",
    "libc++",
    "libc++abi",
    "libjemalloc",
    "libtcmalloc",
    "libtcmalloc_minimal",
    "libmimalloc",
    "libcuda",
    "libcudart",
    "libc10",
    "libc10_cuda",
    "libtorch",
    "libtorch_cpu",
    "libtorch_cuda",
    "libtorch_python",
];

/// Starts of functions that pass allocations on for others, in executables that carry them inside.
const RUNTIME_SYMBOLS: &[&str] = &[
    "operator new",
    "std::",
    "<std::",
    "core::",
    "<core::",
    "alloc::",
    "<alloc::",
    "hashbrown::",
    "<hashbrown::",
    "__gnu_cxx::",
    "__rust_",
    "__rustc",
    "_RNvCs", // what is left of Rust's allocator shims when they are not demangled
    "__rdl_",
    "void* std::",
];

/// Whether a frame passes calls on for others: an allocator's, libc's or a language runtime's.
pub(super) fn is_runtime(frame: &Frame) -> bool {
    if is_python(frame) {
        // How a module is imported; Python's own tracebacks leave it out too (Python/import.c, remove_importlib_frames).
        let file = frame.file.as_deref();
        return file.is_some_and(|file| file.starts_with("<frozen importlib"));
    }
    // Where Rust's standard library says it was built.
    if frame
        .file
        .as_deref()
        .is_some_and(|file| file.starts_with("/rustc/"))
    {
        return true;
    }
    if let Some(symbol) = &frame.symbol
        && RUNTIME_SYMBOLS.iter().any(|start| symbol.starts_with(start))
    {
        return true;
    }
    let Some(object) = &frame.object else { return false };
    let name = base_name(object);
    let stem = name.split(['.', '-']).next().unwrap_or(name);
    name.contains(".so") && RUNTIME_OBJECTS.contains(&stem)
}

/// A function's name within `width` columns, the telling parts kept: first the arguments go, then the
/// template arguments, then the middle.
pub(super) fn shorten(name: &str, width: usize) -> Cow<'_, str> {
    if columns(name) <= width {
        return Cow::Borrowed(name);
    }
    let name = without(name, '(', ')');
    if columns(&name) <= width {
        return Cow::Owned(name);
    }
    let name = without(&name, '<', '>');
    if columns(&name) <= width {
        return Cow::Owned(name);
    }
    Cow::Owned(elide(&name, width))
}

/// `text` within `width` columns, the middle left out.
pub(super) fn elide(text: &str, width: usize) -> String {
    let length = columns(text);
    if length <= width {
        return text.to_owned();
    }
    // The end of a name tells more than its start: the function after its path.
    let kept = width.saturating_sub(1);
    let tail = kept - kept / 3;
    let head: String = text.chars().take(kept - tail).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    format!("{head}…{tail}")
}

/// Columns that a text takes on a terminal; wide characters are rare enough in names.
pub(super) fn columns(text: &str) -> usize {
    text.chars().count()
}

/// What stands between the outermost brackets replaced by `…`. Brackets that do not pair, such as
/// those of `operator<`, and a name that starts with one, leave it as it is.
fn without(name: &str, open: char, close: char) -> String {
    let mut short = String::with_capacity(name.len());
    let mut depth = 0_usize;
    for c in name.replace("->", "\u{1}").chars() {
        if c == open {
            if depth == 0 {
                if short.is_empty() {
                    return name.to_owned();
                }
                short.push(open);
                short.push('…');
            }
            depth += 1;
        } else if c == close {
            let Some(outer) = depth.checked_sub(1) else {
                return name.to_owned();
            };
            depth = outer;
            if depth == 0 {
                short.push(close);
            }
        } else if depth == 0 {
            short.push(c);
        }
    }
    if depth == 0 {
        short.replace('\u{1}', "->")
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(symbol: Option<&str>, object: Option<&str>) -> Frame {
        Frame {
            address: "0x7f00".to_owned(),
            object: object.map(str::to_owned),
            offset: object.map(|_| "0x1234".to_owned()),
            symbol: symbol.map(str::to_owned),
            ..Frame::default()
        }
    }

    #[test]
    fn names_fall_back_to_the_object_and_the_address() {
        assert_eq!(name(&frame(Some("main"), Some("/bin/x"))), "main");
        assert_eq!(name(&frame(None, Some("/usr/lib/libx.so.1"))), "libx.so.1+0x1234");
        assert_eq!(name(&frame(None, None)), "0x7f00");
    }

    #[test]
    fn runtimes_are_not_the_users_own() {
        let frames = [
            frame(Some("operator new(unsigned long)"), Some("/lib/libstdc++.so.6")),
            frame(Some("std::vector<int>::push_back(int&&)"), Some("/bin/x")),
            frame(None, Some("/lib/x86_64-linux-gnu/libc.so.6")),
            frame(Some("load"), Some("/bin/x")),
            frame(Some("main"), Some("/bin/x")),
        ];
        assert_eq!(innermost_user(&frames), Some(3));
        assert_eq!(innermost_user(&frames[..3]), None);
        assert_eq!(innermost_user::<Frame>(&[]), None);
        assert_eq!(
            innermost_user(&[frame(None, None), frame(None, Some("/bin/x"))]),
            Some(1)
        );
        assert_eq!(
            innermost_user(&[frame(Some("f"), Some("/opt/libc/server"))]),
            Some(0)
        );
        assert_eq!(
            innermost_user(&[frame(Some("f"), Some("/lib/libcurl.so.4"))]),
            Some(0)
        );
    }

    fn python(symbol: &str, file: &str, line: u32) -> Frame {
        Frame {
            lang: Lang::Python,
            file: Some(file.to_owned()),
            line: Some(line),
            ..frame(Some(symbol), None)
        }
    }

    #[test]
    fn a_python_line_comes_before_what_it_has_called() {
        let frames = [
            frame(Some("array_zeros"), Some("/x/numpy/core/_multiarray.so")),
            python(
                "ones",
                "/venv/lib/python3.11/site-packages/numpy/core/numeric.py",
                191,
            ),
            python("Cache.load", "/srv/app/cache.py", 42),
            python("<module>", "/srv/app/main.py", 3),
        ];
        assert_eq!(innermost_user(&frames), Some(2));
        assert_eq!(
            python_site(&frames).unwrap(),
            "site-packages/numpy/core/numeric.py:191 in ones, called from /srv/app/cache.py:42 in Cache.load"
        );
        assert_eq!(
            python_site(&frames[2..]).unwrap(),
            "/srv/app/cache.py:42 in Cache.load"
        );
        // Only libraries.
        assert_eq!(innermost_user(&frames[..2]), Some(1));
        assert_eq!(
            python_site(&frames[..2]).unwrap(),
            "site-packages/numpy/core/numeric.py:191 in ones"
        );
        assert_eq!(python_site(&frames[..1]), None);
    }

    #[test]
    fn a_python_function_that_is_gone_is_a_name() {
        let gone = Frame {
            lang: Lang::Python,
            ..frame(Some("<code 0x7f00>"), None)
        };
        assert_eq!(python_site(&[gone]).unwrap(), "<code 0x7f00>");
    }

    #[test]
    fn files_of_libraries_are_known_by_their_end() {
        for (file, short) in [
            (
                "/usr/lib/python3.11/json/decoder.py",
                Some("python3.11/json/decoder.py"),
            ),
            ("/usr/lib64/python3.9/ast.py", Some("python3.9/ast.py")),
            (
                "/usr/lib/python3/dist-packages/apt/cache.py",
                Some("dist-packages/apt/cache.py"),
            ),
            (
                "/v/lib/python3.12/site-packages/a/b.py",
                Some("site-packages/a/b.py"),
            ),
            ("/srv/lib/pythonic/a.py", None),
            ("/srv/app/main.py", None),
            ("<string>", None),
        ] {
            assert_eq!(library_path(file), short, "{file}");
        }
    }

    #[test]
    fn imports_are_a_runtime_and_never_the_programs_own() {
        let import = python("_find_and_load", "<frozen importlib._bootstrap>", 1176);
        assert!(is_runtime(&import) && !is_own_python(&import));
        assert!(!is_runtime(&python("main", "/srv/app/main.py", 3)));
    }

    #[test]
    fn long_names_lose_arguments_then_templates_then_the_middle() {
        let name = "app::Cache<std::string, std::vector<int>>::insert(std::string const&, int)";
        assert_eq!(shorten(name, 80), name);
        assert_eq!(
            shorten(name, 60),
            "app::Cache<std::string, std::vector<int>>::insert(…)"
        );
        assert_eq!(shorten(name, 30), "app::Cache<…>::insert(…)");
        let short = shorten(name, 16);
        assert_eq!(short, "app::…:insert(…)");
        assert_eq!(columns(&short), 16);
    }

    #[test]
    fn brackets_that_do_not_pair_stay() {
        assert_eq!(without("operator<", '<', '>'), "operator<");
        assert_eq!(without("a>b", '<', '>'), "a>b");
        assert_eq!(
            without("<T as core::Clone>::clone", '<', '>'),
            "<T as core::Clone>::clone"
        );
        assert_eq!(without("P<T>::operator->", '<', '>'), "P<…>::operator->");
        assert_eq!(elide("abcdef", 0), "…");
    }
}
