//! Debug information that is not in the object: where it is found, and what is not taken for it.

use super::*;

fn objcopy(folder: &Path, arguments: &[&str]) {
    let status = Command::new("objcopy")
        .current_dir(folder)
        .args(arguments)
        .status();
    assert!(status.unwrap().success());
}

/// A stripped program as a process of another root sees it, its debug file to be put somewhere.
struct Split {
    root: tempfile::TempDir,
    whole: Program,
    build_id: Vec<u8>,
}

impl Split {
    /// `/app/program` in a root of its own, with a link to `program.debug`, which is beside the root's folders.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let binary = compile(root.path(), &["-g", "-O2", "-Wl,--build-id=sha1"]);
        let whole = Program::load(&binary);
        objcopy(root.path(), &["--only-keep-debug", "program", "program.debug"]);
        objcopy(
            root.path(),
            &["--strip-all", "--add-gnu-debuglink=program.debug", "program"],
        );
        fs::create_dir(root.path().join("app")).unwrap();
        fs::rename(binary, root.path().join("app/program")).unwrap();
        let build_id = whole
            .objects
            .get(whole.id)
            .unwrap()
            .content
            .clone()
            .unwrap()
            .build_id;
        Self {
            root,
            whole,
            build_id: build_id.unwrap(),
        }
    }

    /// Where distributions put the file.
    fn by_build_id(&self) -> String {
        let id = crate::symbol::debug_file::hexadecimal(&self.build_id);
        format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..])
    }

    fn put(&self, place: &str) {
        let path = self.root.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(self.root.path().join("program.debug"), path).unwrap();
    }

    /// The names of the call in `outer`, by a symbolizer that has seen nothing.
    fn names(&self) -> Vec<(Option<String>, Option<u32>)> {
        let binary = self.root.path().join("app/program");
        let root = Arc::new(File::open(self.root.path()).unwrap());
        let mut objects = Objects::new();
        let id = objects
            .insert_below(
                Path::new("/app/program"),
                File::open(&binary).unwrap(),
                Some(root),
            )
            .unwrap();
        let mut stripped = Program::map(&binary, objects, id);
        (stripped.outer, stripped.outer_end) = (self.whole.outer, self.whole.outer_end);
        let frames = stripped.call_in_outer(&mut Blaze::default());
        frames
            .iter()
            .map(|frame| (frame.symbol.as_deref().map(str::to_owned), frame.line))
            .collect()
    }
}

fn inlined_names() -> Vec<(Option<String>, Option<u32>)> {
    INLINED
        .iter()
        .map(|(symbol, _, line, _)| (symbol.map(str::to_owned), *line))
        .collect()
}

const NO_NAME: [(Option<String>, Option<u32>); 1] = [(None, None)];

#[test]
fn separate_debug_file_is_found_in_each_place_of_the_targets_root() {
    for place in [
        "by build id",
        "app/program.debug",
        "app/.debug/program.debug",
        "usr/lib/debug/app/program.debug",
    ] {
        let split = Split::new();
        assert_eq!(split.names(), NO_NAME, "{place}");
        if place == "by build id" {
            split.put(&split.by_build_id());
        } else {
            split.put(place);
        }
        assert_eq!(split.names(), inlined_names(), "{place}");
    }
}

#[test]
fn a_debug_file_of_something_else_is_refused() {
    let split = Split::new();
    let other = compile(split.root.path(), &["-g", "-O0", "-Wl,--build-id=sha1"]);
    fs::rename(&other, split.root.path().join("program.debug")).unwrap();
    split.put(&split.by_build_id());
    split.put("app/program.debug");
    assert_eq!(split.names(), NO_NAME);
    // Without build ids the checksum decides.
    let nameless = compile(split.root.path(), &["-g", "-O0", "-Wl,--build-id=none"]);
    fs::rename(&nameless, split.root.path().join("program.debug")).unwrap();
    split.put("app/program.debug");
    assert_eq!(split.names(), NO_NAME);
}

#[test]
fn without_build_ids_the_checksum_decides() {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile(folder.path(), &["-g", "-O2", "-Wl,--build-id=none"]);
    let whole = Program::load(&binary);
    objcopy(folder.path(), &["--only-keep-debug", "program", "program.debug"]);
    objcopy(
        folder.path(),
        &["--strip-all", "--add-gnu-debuglink=program.debug", "program"],
    );
    let names = || {
        let mut stripped = Program::load(&binary);
        (stripped.outer, stripped.outer_end) = (whole.outer, whole.outer_end);
        stripped.call_in_outer(&mut Blaze::default())
    };
    assert_eq!(shown(&names()), INLINED);
    let debug = folder.path().join("program.debug");
    let mut bytes = fs::read(&debug).unwrap();
    bytes.push(0);
    fs::write(&debug, bytes).unwrap();
    assert_eq!(shown(&names()), [(None, None, None, false)]);
}

#[test]
fn what_is_no_file_in_a_target_is_not_opened() {
    let split = Split::new();
    let pipe = split.root.path().join("app/program.debug");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    // A link is followed within the root of the target only.
    let outside = tempfile::tempdir().unwrap();
    let debug = outside.path().join("program.debug");
    fs::copy(split.root.path().join("program.debug"), &debug).unwrap();
    fs::create_dir_all(split.root.path().join("app/.debug")).unwrap();
    std::os::unix::fs::symlink(&debug, split.root.path().join("app/.debug/program.debug")).unwrap();
    assert_eq!(split.names(), NO_NAME);
}

#[test]
fn compressed_symbols_are_used_where_there_are_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile(folder.path(), &["-O2"]);
    let whole = Program::load(&binary);
    objcopy(folder.path(), &["--strip-debug", "program", "symbols"]);
    objcopy(folder.path(), &["--only-keep-debug", "symbols", "symbols"]);
    let status = Command::new("xz")
        .current_dir(folder.path())
        .arg("symbols")
        .status();
    assert!(status.expect("xz is there").success());
    objcopy(
        folder.path(),
        &[
            "--strip-all",
            "--add-section",
            ".gnu_debugdata=symbols.xz",
            "program",
        ],
    );
    let mut stripped = Program::load(&binary);
    (stripped.outer, stripped.outer_end) = (whole.outer, whole.outer_end);
    let frames = stripped.call_in_outer(&mut Blaze::default());
    assert_eq!(shown(&frames), [(Some("outer"), None, None, false)]);
}
