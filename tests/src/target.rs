//! A program that is traced: started by the test, stepped through its handshake, and killed when the
//! test drops it, however the test ends.

use std::{
    io::{ErrorKind, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

use crate::{fixtures, lines::Lines, report::Truth, wait};

/// A running target.
pub struct Target {
    child: Child,
    name: String,
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
}

impl Target {
    /// Starts a command with its standard streams connected to the test.
    pub fn spawn(command: &mut Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let name = format!("{command:?}");
        // A program that a test has just written may still be open for writing in a child that another
        // test is forking off at this moment.
        let mut child = wait::until("a start of the program", || match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => None,
            started => Some(started.unwrap_or_else(|error| panic!("{name} does not start: {error}"))),
        });
        let stdin = child.stdin.take();
        let stdout = Lines::of(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Lines::of(child.stderr.take().expect("stderr is a pipe"));
        Self {
            child,
            name,
            stdin,
            stdout,
            stderr,
        }
    }

    /// Starts a program.
    pub fn program(path: &Path, arguments: &[&str]) -> Self {
        Self::spawn(Command::new(path).args(arguments))
    }

    /// Starts the C fixture `name`.
    pub fn c(name: &str, arguments: &[&str]) -> Self {
        Self::program(&fixtures::c(name), arguments)
    }

    /// Starts a program as another user, who has no name.
    pub fn as_user(uid: u32, path: &Path, arguments: &[&str]) -> Self {
        Self::spawn(Command::new(path).args(arguments).uid(uid).gid(uid))
    }

    /// Starts a program with a library preloaded.
    pub fn preloaded(path: &Path, arguments: &[&str], library: &Path) -> Self {
        Self::spawn(Command::new(path).args(arguments).env("LD_PRELOAD", library))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has printed a line that `wanted` accepts.
    pub fn line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        match self.stdout.wait_for(wanted) {
            Ok(Some(line)) => line,
            Ok(None) => panic!("{} ended without {what}\n{}", self.name, self.seen()),
            Err(error) => panic!("{} does not come to {what}: {error}\n{}", self.name, self.seen()),
        }
    }

    /// Waits until it stands at a step and waits for the test.
    pub fn at(&mut self, step: &str) {
        self.line(&format!("step {step}"), |line| line == step);
    }

    /// Waits until it stands at its first step.
    pub fn ready(&mut self) {
        self.at("ready");
    }

    /// Lets it go on from where it waits.
    pub fn go(&mut self) {
        self.send(b"g");
    }

    /// Writes to its stdin.
    pub fn send(&mut self, bytes: &[u8]) {
        let Some(stdin) = &mut self.stdin else { return };
        // It may be gone: then the test sees that by what it does next.
        if stdin.write_all(bytes).and_then(|()| stdin.flush()).is_err() {
            self.stdin = None;
        }
    }

    /// Waits for its ground truth.
    pub fn truth(&mut self) -> Truth {
        let line = self.line("its truth", |line| line.starts_with('{'));
        Truth::parse(&line)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid().cast_signed());
        nix::sys::signal::kill(pid, signal).expect("the target can be signalled");
    }

    /// Lets it go on and waits for its end.
    pub fn finish(&mut self) -> ExitStatus {
        self.go();
        self.stdin = None;
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait::until("the target's end", || {
            child.try_wait().expect("a child can be waited for")
        })
    }

    /// Lets it do its work from "ready" to its end, for a test that does not look at what it did.
    pub fn finish_with_truth(&mut self, code: i32) {
        self.go();
        self.truth();
        self.finish_with(code);
    }

    /// Lets it go on, waits for its end and checks that this was an exit with `code`.
    pub fn finish_with(&mut self, code: i32) {
        let status = self.finish();
        assert_eq!(
            (status.code(), status.signal()),
            (Some(code), None),
            "{} ended otherwise\n{}",
            self.name,
            self.seen()
        );
    }

    /// What it has printed, for messages.
    pub fn seen(&self) -> String {
        format!(
            "--- its stdout:\n{}--- its stderr:\n{}",
            self.stdout.text(),
            self.stderr.text()
        )
    }

    /// All that it has printed, once it has ended: what it wrote last may still be on its way then.
    pub fn seen_to_end(&self) -> String {
        format!(
            "--- its stdout:\n{}--- its stderr:\n{}",
            self.stdout.text_to_end(),
            self.stderr.text_to_end()
        )
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
