//! Runs the leaktrace binary. Every wait has a deadline, and what it printed is part of every failure.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::OnceLock,
};

use nix::sys::signal::Signal;

use crate::{
    fixtures,
    lines::Lines,
    report::{self, Report},
    wait,
};

/// The binary under test: `LEAKTRACE_BIN`, or the newer of the workspace's debug and release builds.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("LEAKTRACE_BIN") {
        return PathBuf::from(path);
    }
    let built =
        ["debug", "release"].map(|profile| fixtures::target_directory().join(profile).join("leaktrace"));
    let newest = built
        .iter()
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max();
    let Some((_, path)) = newest else {
        panic!("no leaktrace binary: run `cargo build`, or `cargo xtask test`, or set LEAKTRACE_BIN")
    };
    path.canonicalize().expect("the binary is there")
}

/// Fails the test with one clear sentence if nothing can be traced here. Looks once a process.
pub fn require_tracing() {
    static VERDICT: OnceLock<Result<(), String>> = OnceLock::new();
    let verdict = VERDICT.get_or_init(|| {
        if !nix::unistd::geteuid().is_root() {
            return Err("the end-to-end suites need root: run them by `sudo -E cargo xtask test`".to_owned());
        }
        let doctor = Command::new(binary()).arg("doctor").stdin(Stdio::null()).output();
        match doctor {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!(
                "this machine cannot trace; `leaktrace doctor` says:\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )),
            Err(error) => Err(format!("{} does not start: {error}", binary().display())),
        }
    });
    if let Err(why) = verdict {
        panic!("{why}");
    }
}

/// Runs the suites with one of the kernel's mechanisms instead of the best: `session`, `multi`, `perf`.
const ATTACH: &str = "LEAKTRACE_TEST_ATTACH";

/// Has every run follow GPU memory from its start, found or not.
const GPU: &str = "LEAKTRACE_TEST_GPU";

/// Whether the suites run with perf's probes.
pub fn by_perf() -> bool {
    std::env::var_os(ATTACH).is_some_and(|kind| kind == "perf")
}

/// A leaktrace command line in the making.
pub struct Leaktrace {
    options: Vec<OsString>,
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// The words that start it: the binary under test, unless it is run by another program.
    words: Vec<OsString>,
    /// Where the reports go when stdout belongs to the traced command.
    file: Option<tempfile::NamedTempFile>,
    stdin: bool,
}

impl Leaktrace {
    /// `leaktrace OPTIONS` with nothing implied.
    pub fn bare(options: &[&str]) -> Self {
        Self {
            options: options.iter().map(OsString::from).collect(),
            command: Vec::new(),
            environment: Vec::new(),
            words: vec![binary().into()],
            file: None,
            stdin: false,
        }
    }

    /// Attaches to processes; one JSON report at the end with every site. Later options win.
    pub fn attach(pids: &[u32]) -> Self {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        Self::bare(&["-p", &pids.join(","), "--format", "json"])
            .args(&["-i", "0", "--top", "1000000"])
            // What is compared with the truth is to be whole, whatever it costs.
            .args(&["--max-overhead", "off", "--by", "process"])
    }

    /// Traces what a selection means; one JSON report at the end with every site, and every allocation in it, a
    /// process at a time.
    pub fn selecting(selection: &[&str]) -> Self {
        Self::bare(selection)
            .args(&["--format", "json", "-i", "0", "--top", "1000000"])
            .args(&["--sample-bytes", "0", "--max-overhead", "off", "--by", "process"])
    }

    /// Starts a command and traces it; one JSON report at the end, written to a file, because stdout is
    /// the command's.
    pub fn command(program: &Path, arguments: &[&str]) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let path = file.path().to_owned();
        let mut this = Self::bare(&["--format", "json", "-i", "0", "--top", "1000000", "-o"]);
        this.options.push(path.into());
        this.command.push(program.into());
        this.command.extend(arguments.iter().map(OsString::from));
        this.file = Some(file);
        this
    }

    /// Adds options.
    #[must_use]
    pub fn args(mut self, options: &[&str]) -> Self {
        for option in options {
            // An option that is given again replaces the one implied: clap refuses a repetition.
            let earlier = self.options.iter().position(|earlier| earlier == option);
            if let Some(at) = earlier.filter(|_| is_replaceable(option)) {
                self.options.drain(at..at + 2);
            }
            self.options.push(option.into());
        }
        self
    }

    /// Sets a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &Path) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Has it run by another program, which hands its signals on: `words` come before the options.
    #[must_use]
    pub fn through(mut self, words: Vec<OsString>) -> Self {
        self.words = words;
        self
    }

    /// Keeps a pipe to its stdin, for [`Run::send`]. Without it stdin is empty.
    #[must_use]
    pub const fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Starts it and returns at once.
    pub fn spawn(self) -> Run {
        let (program, words) = self.words.split_first().expect("there is a program");
        let mut command = Command::new(program);
        command.args(words).args(&self.options);
        let chosen = self.options.iter().any(|option| option == "--attach");
        // Subcommands have no such option.
        let traces = self
            .options
            .first()
            .is_some_and(|option| option.as_encoded_bytes().starts_with(b"-"));
        if let Some(kind) = std::env::var_os(ATTACH).filter(|_| !chosen && traces) {
            command.arg("--attach").arg(kind);
        }
        let decided = self
            .options
            .iter()
            .any(|option| option == "--gpu" || option == "--no-gpu");
        if std::env::var_os(GPU).is_some() && !decided && traces {
            command.arg("--gpu");
        }
        if !self.command.is_empty() {
            command.arg("--").args(&self.command);
        }
        command.envs(self.environment);
        command.stdin(if self.stdin { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = format!("{command:?}");
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let stdin = child.stdin.take();
        let stdout = Lines::of(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Lines::of(child.stderr.take().expect("stderr is a pipe"));
        Run {
            child,
            name,
            stdin,
            stdout,
            stderr,
            file: self.file,
        }
    }

    /// Starts it and waits until its probes are in place.
    pub fn start(self) -> Run {
        require_tracing();
        let mut run = self.spawn();
        run.stderr_line("its line `leaktrace: tracing`", |line| {
            line.starts_with("leaktrace: tracing")
        });
        run
    }

    /// Starts it and waits for its end.
    pub fn run(self) -> Finished {
        self.spawn().wait()
    }
}

/// Options with a value that [`Leaktrace::attach`] and [`Leaktrace::command`] imply.
fn is_replaceable(option: &str) -> bool {
    matches!(
        option,
        "-i" | "--top" | "--format" | "-o" | "-d" | "--sort" | "--sample-bytes" | "--by"
    )
}

/// A running leaktrace. Dropping it kills it.
pub struct Run {
    child: Child,
    name: String,
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
    file: Option<tempfile::NamedTempFile>,
}

impl Run {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process id of the command that it has started.
    pub fn target_pid(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        wait::until("leaktrace's child", || {
            let children = std::fs::read_to_string(&path).ok()?;
            children.split_ascii_whitespace().next()?.parse().ok()
        })
    }

    /// Waits for a line on its stderr.
    pub fn stderr_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        match self.stderr.wait_for(wanted) {
            Ok(Some(line)) => line,
            Ok(None) => panic!("{} ended without {what}\n{}", self.name, self.seen()),
            Err(error) => panic!("{} does not come to {what}: {error}\n{}", self.name, self.seen()),
        }
    }

    /// Waits for a line on its stdout.
    pub fn stdout_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        match self.stdout.wait_for(wanted) {
            Ok(Some(line)) => line,
            Ok(None) => panic!("{} ended without {what}\n{}", self.name, self.seen()),
            Err(error) => panic!("{} does not come to {what}: {error}\n{}", self.name, self.seen()),
        }
    }

    /// Waits for the next of its repeated reports that `wanted` accepts.
    pub fn report_where(&mut self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let line = self.stdout_line(what, |line| {
            serde_json::from_str(line).is_ok_and(|value| wanted(&Report::from_value(value)))
        });
        Report::from_value(serde_json::from_str(&line).expect("it was parsed a moment ago"))
    }

    /// Writes to its stdin, which is the traced command's.
    pub fn send(&mut self, bytes: &[u8]) {
        use std::io::Write as _;
        let stdin = self.stdin.as_mut().expect("stdin was asked for");
        stdin
            .write_all(bytes)
            .and_then(|()| stdin.flush())
            .expect("it reads its stdin");
    }

    /// What the file of [`Leaktrace::command`] has in it so far.
    pub fn file(&self) -> String {
        let file = self.file.as_ref().expect("only a command's reports go to a file");
        std::fs::read_to_string(file.path()).expect("the report's file can be read")
    }

    /// Closes its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid().cast_signed());
        nix::sys::signal::kill(pid, signal).expect("leaktrace can be signalled");
    }

    /// Ends it as a user does, by Ctrl-C, and waits.
    pub fn stop(self) -> Finished {
        self.signal(Signal::SIGINT);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Finished {
        let status = loop_until_end(&mut self);
        let stdout = self.stdout.text_to_end();
        let stderr = self.stderr.text_to_end();
        let file = if self.file.is_some() {
            self.file()
        } else {
            String::new()
        };
        Finished {
            status,
            stdout,
            stderr,
            file,
            name: self.name.clone(),
        }
    }

    /// What it has printed, for messages.
    pub fn seen(&self) -> String {
        format!(
            "--- its stdout:\n{}--- its stderr:\n{}",
            self.stdout.text(),
            self.stderr.text()
        )
    }
}

fn loop_until_end(run: &mut Run) -> ExitStatus {
    let deadline = std::time::Instant::now() + wait::PATIENCE;
    loop {
        if let Some(status) = run.child.try_wait().expect("a child can be waited for") {
            return status;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{} does not end within {:?}\n{}",
            run.name,
            wait::PATIENCE,
            run.seen()
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A leaktrace that has ended.
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: String,
    /// All of its stderr.
    pub stderr: String,
    /// What it wrote to the file of [`Leaktrace::command`].
    pub file: String,
    name: String,
}

impl Finished {
    /// Checks that it ended with exit code `code`.
    #[must_use]
    pub fn exited_with(self, code: i32) -> Self {
        assert_eq!(
            (self.status.code(), self.status.signal()),
            (Some(code), None),
            "{} ended otherwise\n{}",
            self.name,
            self.seen()
        );
        self
    }

    /// All its reports.
    pub fn reports(&self) -> Vec<Report> {
        let text = if self.file.is_empty() {
            &self.stdout
        } else {
            &self.file
        };
        report::parse_all(text).unwrap_or_else(|error| panic!("{}: {error}\n{}", self.name, self.seen()))
    }

    /// Its last report, after a good end.
    pub fn report(self) -> Report {
        self.exited_with(0).last_report()
    }

    /// Its last report, whatever its exit code.
    pub fn last_report(&self) -> Report {
        let report = self.reports().pop();
        report.unwrap_or_else(|| panic!("{} gave no report\n{}", self.name, self.seen()))
    }

    /// Checks the form of every refusal: exit code 2, nothing on stdout, one line on stderr that starts
    /// with `leaktrace: ` and contains each of `words`.
    pub fn refused(self, words: &[&str]) -> String {
        let this = self.exited_with(2);
        let lines: Vec<&str> = this.stderr.lines().collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("leaktrace: "),
            "{}: not one line `leaktrace: ...`\n{}",
            this.name,
            this.seen()
        );
        assert_eq!(this.stdout, "", "{}: something on stdout", this.name);
        for word in words {
            assert!(
                lines[0].contains(word),
                "{}: {word:?} is not in {:?}",
                this.name,
                lines[0]
            );
        }
        lines[0].to_owned()
    }

    /// What it has printed, for messages.
    pub fn seen(&self) -> String {
        format!(
            "--- its stdout:\n{}--- its stderr:\n{}--- its file:\n{}",
            self.stdout, self.stderr, self.file
        )
    }
}
