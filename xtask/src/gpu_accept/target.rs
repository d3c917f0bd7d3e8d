//! A program that is driven through its steps: it prints a word and waits for a byte. Every wait has a deadline.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    mem,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

/// Between two looks at a program that is ending.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running program. Dropping it kills it.
pub(super) struct Target {
    child: Child,
    name: String,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Lines that were passed over on the way to another.
    passed: Vec<String>,
    /// What it has said on the stream that is not read line by line.
    rest: PathBuf,
}

/// Which of its streams are read line by line; the other goes to a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Stdout,
    Stderr,
}

impl Target {
    /// Starts a command. `rest` is where the other of its two streams goes.
    pub(super) fn start(command: &mut Command, name: &str, read: Read, rest: &Path) -> Result<Self> {
        let file = File::create(rest).with_context(|| format!("cannot write {}", rest.display()))?;
        command.stdin(Stdio::piped());
        match read {
            Read::Stdout => command.stdout(Stdio::piped()).stderr(file),
            Read::Stderr => command.stdout(file).stderr(Stdio::piped()),
        };
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        let (sender, lines) = mpsc::channel();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        thread::spawn(move || match (stdout, stderr) {
            (Some(stream), _) => pass_on(BufReader::new(stream).lines(), &sender),
            (_, Some(stream)) => pass_on(BufReader::new(stream).lines(), &sender),
            (None, None) => {}
        });
        Ok(Self {
            child,
            name: name.to_owned(),
            stdin,
            lines,
            passed: Vec::new(),
            rest: rest.to_owned(),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line.
    pub(super) fn line(
        &mut self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if wanted(&line) => return Ok(line),
                Ok(line) => self.passed.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "{} did not come to {what} within {} s",
                        self.name,
                        patience.as_secs()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(anyhow!(
                        "{} ended without {what}: {}",
                        self.name,
                        self.last_words()
                    ));
                }
            }
        }
    }

    /// Waits until it stands at a word.
    pub(super) fn at(&mut self, word: &str, patience: Duration) -> Result<()> {
        self.line(word, patience, |line| line == word).map(drop)
    }

    /// Waits for the line of what it did.
    pub(super) fn truth(&mut self, patience: Duration) -> Result<serde_json::Value> {
        let line = self.line("its truth", patience, |line| line.starts_with('{'))?;
        serde_json::from_str(&line).with_context(|| format!("{}: no JSON: {line}", self.name))
    }

    /// Lets it go on. That it is gone already shows in what comes next.
    pub(super) fn go(&mut self) {
        let written = self
            .stdin
            .as_mut()
            .map(|stdin| stdin.write_all(b"g").and_then(|()| stdin.flush()));
        if !matches!(written, Some(Ok(()))) {
            self.stdin = None;
        }
    }

    /// Lets it go on to its end.
    pub(super) fn finish(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.go();
        self.wait(patience)
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.stdin = None;
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} did not end within {} s", self.name, patience.as_secs());
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits for a line that may have been passed over already.
    pub(super) fn line_ever(
        &mut self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<()> {
        if self.passed.iter().any(|line| wanted(line)) {
            return Ok(());
        }
        self.line(what, patience, wanted).map(drop)
    }

    /// The lines that were passed over, or that nobody has waited for.
    pub(super) fn unread(&mut self) -> Vec<String> {
        self.passed.extend(self.lines.try_iter());
        mem::take(&mut self.passed)
    }

    /// The end of its other stream.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.rest).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

fn pass_on(lines: impl Iterator<Item = std::io::Result<String>>, sender: &mpsc::Sender<String>) {
    for line in lines.map_while(Result::ok) {
        if sender.send(line).is_err() {
            return;
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
