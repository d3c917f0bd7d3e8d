//! Runs one program of the corpus under leaktrace, and writes down all that both say.
//!
//! Knows the handshake of `tests/corpus/c/corpus.h` and leaktrace's command line; must not know what a verdict is.
//!
//! What is written is one JSON value a line: `{"run":{..}}`, what was run and when leaktrace attached; `{"program":{..}}`,
//! a line of the program's; `{"t":SECONDS,"report":{..}}`, a report with the time at which it was read, the list of probes
//! left out and each stack as a list of symbols. Times are `CLOCK_BOOTTIME`.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{build::Programs, cases::Case, record::Sampling};

/// How long a program may take to start or leaktrace to attach or to end.
const LIMIT: Duration = Duration::from_mins(2);

/// One run of a case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) case: &'static Case,
    pub(super) speed: u32,
    pub(super) sampling: Sampling,
    pub(super) seconds: u32,
}

impl Run {
    /// What its file is called.
    pub(super) fn file_name(&self) -> String {
        format!(
            "{}-x{}-{}.jsonl",
            self.case.name,
            self.speed,
            self.sampling.name()
        )
    }

    /// Runs it, and writes its file into a folder.
    ///
    /// # Errors
    /// When the program or leaktrace does not do what it should in time.
    pub(super) fn execute(&self, programs: &Programs, leaktrace: &Path, folder: &Path) -> Result<()> {
        let path = folder.join(self.file_name());
        self.trace(programs, leaktrace, &path).with_context(|| {
            format!(
                "{} at speed {}, {}",
                self.case.name,
                self.speed,
                self.sampling.name()
            )
        })
    }

    fn trace(&self, programs: &Programs, leaktrace: &Path, path: &Path) -> Result<()> {
        let (say, hear) = channel();
        let mut command = programs.command(self.case);
        command.args([
            "--seconds",
            &self.seconds.to_string(),
            "--speed",
            &self.speed.to_string(),
        ]);
        if !self.case.variant.is_empty() {
            command.arg(self.case.variant);
        }
        let mut program = Process::start(command.stdin(Stdio::piped()), Stream::Program, &say)?;
        let mut told = Told::new(hear, path)?;
        told.until("the program's start", LIMIT, |line| line.is("ready"))?;
        if let Some(event) = self.case.late {
            program.go()?;
            let limit = LIMIT + Duration::from_secs(self.seconds.into());
            told.until(event, limit, |line| line.is_event(event))?;
        }
        let pid = program.0.id();
        let mut tracer = Process::start(&mut self.leaktrace(leaktrace, pid), Stream::Leaktrace, &say)?;
        told.until("leaktrace's attach", LIMIT, Line::is_attached)?;
        told.write(&json!({"run": {
            "case": self.case.name, "speed": self.speed, "sampling": self.sampling.name(), "seconds": self.seconds,
            "attached_t": now_s()?, "attached_rss_bytes": resident_bytes(pid)?,
        }}))?;
        if self.case.late.is_none() {
            program.go()?;
        }
        let limit = LIMIT + Duration::from_secs(self.seconds.into());
        told.until("the program's end", limit, |line| line.is_event("end"))?;
        kill(Pid::from_raw(tracer.0.id().cast_signed()), Signal::SIGINT).context("cannot stop leaktrace")?;
        told.until("leaktrace's last report", LIMIT, |line| {
            line.stream == Stream::Ended
        })?;
        tracer.0.wait().context("leaktrace cannot be waited for")?;
        program.go()?;
        told.finish()
    }

    fn leaktrace(&self, leaktrace: &Path, pid: u32) -> Command {
        let mut command = Command::new(leaktrace);
        command.args(["-p", &pid.to_string(), "-i", "1s", "--format", "json"]);
        command.args(["--top", "1000000", "--max-overhead", "off"]);
        command.args(["--sample-bytes", self.sampling.bytes()]);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// Who has said a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Program,
    Leaktrace,
    /// On its standard error.
    Diagnostics,
    /// Nobody: leaktrace has ended its output.
    Ended,
}

struct Line {
    stream: Stream,
    t: f64,
    text: String,
}

impl Line {
    fn is(&self, key: &str) -> bool {
        self.stream == Stream::Program && self.text.contains(&format!("\"{key}\":"))
    }

    fn is_event(&self, event: &str) -> bool {
        self.stream == Stream::Program && self.text.contains(&format!("\"event\":\"{event}\""))
    }

    fn is_attached(&self) -> bool {
        self.stream == Stream::Diagnostics && self.text.starts_with("leaktrace: tracing")
    }
}

/// A child that never outlives its run.
struct Process(Child, Option<ChildStdin>);

impl Process {
    /// Starts it and has its lines sent on.
    fn start(command: &mut Command, stream: Stream, say: &Sender<Line>) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        if let Some(output) = child.stdout.take() {
            send(output, stream, say.clone());
        }
        if let Some(diagnostics) = child.stderr.take() {
            send(diagnostics, Stream::Diagnostics, say.clone());
        }
        let stdin = child.stdin.take();
        Ok(Self(child, stdin))
    }

    fn go(&mut self) -> Result<()> {
        let stdin = self.1.as_mut().context("it has a standard input")?;
        stdin
            .write_all(b"\n")
            .and_then(|()| stdin.flush())
            .context("the program is gone")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as good.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn send(output: impl std::io::Read + Send + 'static, stream: Stream, say: Sender<Line>) {
    thread::spawn(move || {
        for text in BufReader::new(output).lines().map_while(Result::ok) {
            let t = now_s().unwrap_or_default();
            if say.send(Line { stream, t, text }).is_err() {
                return;
            }
        }
        if stream == Stream::Leaktrace {
            // Nobody listens any more where a run has failed.
            drop(say.send(Line {
                stream: Stream::Ended,
                t: 0.0,
                text: String::new(),
            }));
        }
    });
}

/// What both have said, in the order of its coming; it is written down as it comes.
struct Told {
    hear: Receiver<Line>,
    file: BufWriter<File>,
    path: PathBuf,
    part: PathBuf,
    diagnostics: String,
}

impl Told {
    fn new(hear: Receiver<Line>, path: &Path) -> Result<Self> {
        // It has its name when it is whole.
        let part = path.with_extension("part");
        let file = File::create(&part).with_context(|| format!("cannot create {}", part.display()))?;
        Ok(Self {
            hear,
            file: BufWriter::new(file),
            path: path.to_owned(),
            part,
            diagnostics: String::new(),
        })
    }

    fn until(&mut self, what: &str, limit: Duration, wanted: impl Fn(&Line) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let line = match self
                .hear
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => bail!("waited {limit:?} for {what}\n{}", self.diagnostics),
                Err(RecvTimeoutError::Disconnected) => bail!("no {what}\n{}", self.diagnostics),
            };
            self.keep(&line)?;
            if wanted(&line) {
                return Ok(());
            }
            if line.is_event("end") {
                bail!("the program came to its end before {what}\n{}", self.diagnostics);
            }
            if line.stream == Stream::Ended {
                bail!("leaktrace ended before {what}\n{}", self.diagnostics);
            }
        }
    }

    fn keep(&mut self, line: &Line) -> Result<()> {
        let value = || -> Result<Value> {
            serde_json::from_str(&line.text).with_context(|| format!("no JSON: {}", line.text))
        };
        match line.stream {
            Stream::Diagnostics => {
                self.diagnostics += &line.text;
                self.diagnostics.push('\n');
                Ok(())
            }
            Stream::Program => self.write(&json!({"program": value()?})),
            Stream::Ended => Ok(()),
            Stream::Leaktrace => self.write(&json!({"t": line.t, "report": shortened(value()?)})),
        }
    }

    fn write(&mut self, value: &Value) -> Result<()> {
        writeln!(self.file, "{value}").with_context(|| format!("cannot write {}", self.part.display()))
    }

    fn finish(mut self) -> Result<()> {
        self.file
            .flush()
            .and_then(|()| fs::rename(&self.part, &self.path))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// A report without its list of probes, and with symbols in place of frames: the two make up nine tenths of it.
fn shortened(mut report: Value) -> Value {
    if let Some(tracing) = report.get_mut("tracing").and_then(Value::as_object_mut) {
        tracing.remove("sites");
        tracing.remove("skipped");
    }
    let survivors = report.get_mut("survivors").and_then(Value::as_array_mut);
    for survivor in survivors.into_iter().flatten() {
        let Some(frames) = survivor.get_mut("frames") else {
            continue;
        };
        let symbols = frames.as_array().into_iter().flatten();
        *frames = symbols.map(|frame| frame["symbol"].clone()).collect();
    }
    report
}

fn now_s() -> Result<f64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).context("cannot read CLOCK_BOOTTIME")?;
    Ok(Duration::from(now).as_secs_f64())
}

/// Resident bytes, summed over the page tables: `VmRSS` is inexact since 6.2 (`mm/memory.c`).
fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no Rss"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_stacks_the_symbols_are_kept() {
        let report = json!({
            "tracing": {"sites": [1], "attach": "session"},
            "survivors": [{"bytes": 7, "frames": [{"symbol": "malloc", "line": 3}, {"symbol": null}]}],
        });
        let expected = json!({
            "tracing": {"attach": "session"},
            "survivors": [{"bytes": 7, "frames": ["malloc", null]}],
        });
        assert_eq!(shortened(report), expected);
    }
}
