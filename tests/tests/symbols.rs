//! Where names come from: separate debug files in the places where distributions put them, files from a server,
//! compressed symbols, dumps of JIT compilers.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
};

use leaktrace_tests::{
    fixtures::{self, Fixture},
    leaktrace::Leaktrace,
    report::Report,
    skip::{program, unless_missing},
    target::Target,
    trace,
};
use serde_json::Value;

/// The stack of the one block of the fixture `split` as the report has it: symbol and whether a line is known,
/// from the allocator's caller on.
const WHOLE: [(&str, bool); 2] = [("inlined", true), ("outer", true)];

/// A copy of the fixture in a folder of its own, its debug information cut off into `split.debug` beside it.
struct Split {
    folder: tempfile::TempDir,
    build_id: String,
}

fn run(folder: &Path, tool: &str, arguments: &[&str]) {
    let result = Command::new(tool).current_dir(folder).args(arguments).output();
    let result = result.unwrap_or_else(|error| panic!("{tool} does not start: {error}"));
    let seen = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(result.status.success(), "{tool} {arguments:?}: {seen}");
}

impl Split {
    fn new() -> Self {
        let flags = ["-Wl,--build-id=sha1", "-gz=none"];
        let whole = Fixture::c("split").flags(&flags).build();
        let whole = whole.expect("gcc is needed by all suites");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fixtures::copy(&whole, &folder.path().join("split"));
        run(
            folder.path(),
            "objcopy",
            &["--only-keep-debug", "split", "split.debug"],
        );
        let notes = Command::new("readelf")
            .args(["-n"])
            .arg(folder.path().join("split"))
            .output();
        let notes = String::from_utf8(notes.expect("readelf runs").stdout).expect("plain text");
        let id = notes
            .lines()
            .find_map(|line| line.trim().strip_prefix("Build ID: "));
        let build_id = id.expect("the fixture has a build id").to_owned();
        Self { folder, build_id }
    }

    fn strip(&self, more: &[&str]) {
        let arguments: Vec<_> = ["--strip-all"]
            .iter()
            .chain(more)
            .chain(&["split"])
            .copied()
            .collect();
        run(self.folder.path(), "objcopy", &arguments);
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("split")
    }

    fn debug_file(&self) -> PathBuf {
        self.folder.path().join("split.debug")
    }

    /// What the report says of the block, traced with these variables in leaktrace's environment.
    fn report(&self, environment: &[(&str, &Path)]) -> Report {
        let mut target = Target::program(&self.program(), &[]);
        target.ready();
        let mut leaktrace = Leaktrace::attach(&[target.pid()]);
        for (name, value) in environment {
            leaktrace = leaktrace.env(name, value);
        }
        let run = leaktrace.start();
        target.go();
        target.truth();
        let report = run.stop().report();
        target.finish_with(0);
        report
    }
}

/// The first frames above the allocator in the stack of the block of that size.
fn callers(report: &Report, bytes: u64, count: usize) -> Vec<(String, bool)> {
    let survivors = report.survivors();
    let survivor = survivors
        .iter()
        .find(|survivor| survivor.number("bytes") == bytes);
    let survivor = survivor.unwrap_or_else(|| panic!("no block of {bytes} bytes\n{}", report.summary()));
    let frames = survivor.frames().iter().skip(1).take(count);
    frames
        .map(|frame| {
            let symbol = frame["symbol"].as_str().unwrap_or("?").to_owned();
            (symbol, frame["line"] != Value::Null)
        })
        .collect()
}

fn assert_names(report: &Report, expected: &[(&str, bool)]) {
    let seen = callers(report, 4321, expected.len());
    let seen: Vec<_> = seen
        .iter()
        .map(|(symbol, line)| (symbol.as_str(), *line))
        .collect();
    assert_eq!(seen, expected, "{}", report.summary());
}

#[test]
fn debug_file_beside_the_program() {
    let split = Split::new();
    split.strip(&["--add-gnu-debuglink=split.debug"]);
    assert_names(&split.report(&[]), &WHOLE);
    // Another program's file of that name is not believed.
    fs::write(split.debug_file(), fs::read(split.program()).expect("readable")).expect("writable");
    assert_names(&split.report(&[]), &[("?", false)]);
}

/// Removes what was put into the system's folder, however the test ends.
struct Placed(PathBuf);

impl Drop for Placed {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
        // Only if nothing else is in it.
        drop(self.0.parent().map(fs::remove_dir));
    }
}

#[test]
fn debug_file_where_distributions_put_it() {
    let split = Split::new();
    split.strip(&[]);
    assert_names(&split.report(&[]), &[("?", false)]);
    let (folder, name) = split.build_id.split_at(2);
    let place = Path::new("/usr/lib/debug/.build-id")
        .join(folder)
        .join(format!("{name}.debug"));
    fs::create_dir_all(place.parent().expect("a folder")).expect("the suites run as root");
    let placed = Placed(place);
    fs::copy(split.debug_file(), &placed.0).expect("the suites run as root");
    assert_names(&split.report(&[]), &WHOLE);
}

#[test]
fn compressed_symbols() {
    let Some(_xz) = unless_missing(program("xz", "xz-utils")) else {
        return;
    };
    let split = Split::new();
    let folder = split.folder.path();
    run(folder, "objcopy", &["--strip-debug", "split.debug", "symbols"]);
    run(folder, "xz", &["symbols"]);
    split.strip(&["--add-section", ".gnu_debugdata=symbols.xz"]);
    assert_names(&split.report(&[]), &[("outer", false)]);
}

/// A server of debug files: answers by the request's path; what was asked comes out of the channel.
fn serve(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it has an address"));
    let (asked, requests) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
            let first = lines.next().and_then(Result::ok).unwrap_or_default();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            answer(&path, &mut stream);
            if asked.send(path).is_err() {
                return;
            }
        }
    });
    (url, requests)
}

fn respond(stream: &mut TcpStream, status: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // leaktrace may have ended.
    drop(
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body)),
    );
}

#[test]
fn debug_file_from_a_server_is_kept_for_the_next_run() {
    let split = Split::new();
    split.strip(&[]);
    let (bytes, wanted) = (
        fs::read(split.debug_file()).expect("readable"),
        split.build_id.clone(),
    );
    let (url, requests) = serve(move |path, stream| {
        if path == format!("/buildid/{wanted}/debuginfo") {
            respond(stream, "200 OK", &bytes);
        } else {
            respond(stream, "404 Not Found", b"");
        }
    });
    let cache = split.folder.path().join("cache");
    let environment = [
        ("DEBUGINFOD_URLS", Path::new(&url)),
        ("DEBUGINFOD_CACHE_PATH", &cache),
    ];
    // The only report is the last one, and that one waits.
    assert_names(&split.report(&environment), &WHOLE);
    let asked = requests
        .try_iter()
        .filter(|path| path.contains(&split.build_id))
        .count();
    assert_eq!(asked, 1);
    assert!(cache.join(&split.build_id).join("debuginfo").exists());
    assert_names(&split.report(&environment), &WHOLE);
    let asked = requests
        .try_iter()
        .filter(|path| path.contains(&split.build_id))
        .count();
    assert_eq!(asked, 0, "it is in the cache");
}

#[test]
fn a_server_that_is_silent_costs_names_only() {
    let split = Split::new();
    split.strip(&[]);
    let (held, _open) = mpsc::channel();
    let (url, _requests) = serve(move |_path, stream| {
        drop(held.send(stream.try_clone().expect("a socket can be shared")));
    });
    let cache = split.folder.path().join("cache");
    let report = split.report(&[
        ("DEBUGINFOD_URLS", Path::new(&url)),
        ("DEBUGINFOD_CACHE_PATH", &cache),
    ]);
    assert_names(&report, &[("?", false)]);
    let said = report
        .warnings()
        .iter()
        .any(|warning| warning.contains("being fetched"));
    assert!(said, "{:?}", report.warnings());
}

#[test]
fn code_recorded_by_a_jit_compiler() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let jitted = Fixture::c("jitted").build().expect("gcc is needed by all suites");
    let mut target = Target::program(&jitted, &[folder.path().to_str().expect("a plain path")]);
    let traced = trace(&mut target, &[]);
    let seen = callers(&traced.report, 5432, 2);
    let names: Vec<_> = seen.iter().map(|(symbol, _)| symbol.as_str()).collect();
    assert_eq!(names, ["jitted_function", "main"], "{}", traced.report.summary());
    target.finish_with(0);
}
