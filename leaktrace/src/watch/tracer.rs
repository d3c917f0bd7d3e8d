//! Traces armed processes: each by a tracer of its own, which has a share of the budget and can be ended at any moment
//! without the others.
//!
//! Must not know why a process is armed.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::processes::Id;
use crate::{config::Share, kernel::clock};

/// Mean gap between samples in an armed process.
const SAMPLE: &str = "512KiB";

/// What of a process that is not traced any more is kept: as many as that.
const ENDED_MAX: usize = 8;

/// Traces the armed.
pub trait Tracer {
    /// Begins to trace a process, for at most this share of its CPU time.
    ///
    /// # Errors
    /// When that cannot begin.
    fn arm(&mut self, id: Id, budget: Share) -> io::Result<()>;

    /// Takes the probes out of a process. What was found in it stays.
    fn disarm(&mut self, id: Id);

    /// Takes all probes out at once.
    fn disarm_all(&mut self);

    /// Whether a process is still traced.
    fn is_busy(&mut self) -> bool;

    /// Processes whose tracing has ended by itself since the last call, and why.
    fn ended(&mut self) -> Vec<(Id, String)>;

    /// The newest report of each process that is or was traced: `leaktrace.report/1`, and its share of the budget.
    fn reports(&mut self) -> Vec<(Id, Share, Option<Value>)>;

    /// CPU time that tracing has taken besides this process's, in nanoseconds.
    fn cpu_ns(&mut self) -> u64;
}

/// One armed process.
#[derive(Debug)]
struct Armed {
    child: Option<Child>,
    budget: Share,
    report: Option<Value>,
    /// What it said last on standard error.
    said: Option<String>,
    cpu_ns: u64,
    /// It was told to end.
    told: bool,
}

/// What a tracer says.
#[derive(Debug)]
enum Said {
    Report(Id, Value),
    Line(Id, String),
}

/// Runs a `leaktrace -p` for each armed process: its own maps and its own budget. What the kernel side has of one process
/// goes with its tracer, however that ends.
#[derive(Debug)]
pub struct Children {
    interval: Duration,
    killswitch: PathBuf,
    armed: BTreeMap<Id, Armed>,
    say: Sender<Said>,
    said: Receiver<Said>,
}

impl Children {
    /// None armed; each will report in this interval, and end by itself too when the killswitch is thrown.
    pub fn new(interval: Duration, killswitch: PathBuf) -> Self {
        let (say, said) = mpsc::channel();
        Self {
            interval,
            killswitch,
            armed: BTreeMap::new(),
            say,
            said,
        }
    }

    fn command(&self, id: Id, budget: Share) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["-p", &id.pid.to_string(), "--sample-bytes", SAMPLE])
            .args(["--max-overhead", &format!("{:.4}%", budget.to_f64() * 100.0)])
            .args([
                "--format",
                "json",
                "-i",
                &format!("{}ms", self.interval.as_millis()),
            ])
            .arg("--killswitch")
            .arg(&self.killswitch)
            .args(["--ends-with-parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    fn hear(&mut self) {
        for said in self.said.try_iter() {
            match said {
                Said::Report(id, report) => {
                    if let Some(armed) = self.armed.get_mut(&id) {
                        armed.report = Some(report);
                    }
                }
                Said::Line(id, line) => {
                    if let Some(armed) = self.armed.get_mut(&id) {
                        armed.said = Some(line);
                    }
                }
            }
        }
    }

    /// Of those that have ended, the oldest go.
    fn forget_old(&mut self) {
        let ended: Vec<Id> = self
            .armed
            .iter()
            .filter(|(_, armed)| armed.child.is_none())
            .map(|(id, _)| *id)
            .collect();
        let too_many = ended.len().saturating_sub(ENDED_MAX);
        for id in &ended[..too_many] {
            if let Some(armed) = self.armed.get_mut(id) {
                armed.report = None;
            }
        }
    }
}

impl Tracer for Children {
    fn arm(&mut self, id: Id, budget: Share) -> io::Result<()> {
        let mut child = self.command(id, budget)?.spawn()?;
        listen(&mut child, id, &self.say)?;
        // CPU time of an earlier tracer of the same process still counts.
        let cpu_ns = self.armed.remove(&id).map_or(0, |armed| armed.cpu_ns);
        self.armed.insert(
            id,
            Armed {
                child: Some(child),
                budget,
                report: None,
                said: None,
                cpu_ns,
                told: false,
            },
        );
        self.forget_old();
        Ok(())
    }

    fn disarm(&mut self, id: Id) {
        let Some(armed) = self.armed.get_mut(&id) else {
            return;
        };
        let Some(child) = &armed.child else { return };
        armed.told = true;
        // It takes its probes out, writes its last report, and is reaped by `ended`.
        if let Err(error) = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM) {
            tracing::debug!("the tracer of {} cannot be told to end: {error}", id.pid);
        }
    }

    fn disarm_all(&mut self) {
        // The kernel takes the probes out when their last descriptor is closed: nothing is quicker than the end of the
        // process that holds them.
        for armed in self.armed.values_mut() {
            let Some(mut child) = armed.child.take() else {
                continue;
            };
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                tracing::warn!("a tracer cannot be ended: {error}");
            }
        }
        self.hear();
    }

    fn is_busy(&mut self) -> bool {
        for armed in self.armed.values_mut() {
            let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)));
            armed.child.take_if(|child| armed.told && ended(child));
        }
        self.armed.values().any(|armed| armed.child.is_some())
    }

    fn ended(&mut self) -> Vec<(Id, String)> {
        self.hear();
        let mut ended = Vec::new();
        for (id, armed) in &mut self.armed {
            let Some(child) = &mut armed.child else { continue };
            if let Some(cpu_ns) = clock::process_cpu_ns(child.id()) {
                armed.cpu_ns = armed.cpu_ns.max(cpu_ns);
            }
            let Ok(Some(status)) = child.try_wait() else {
                continue;
            };
            armed.child = None;
            if !armed.told {
                let why = match armed.said.take().filter(|_| !status.success()) {
                    Some(line) => line.strip_prefix("leaktrace: ").unwrap_or(&line).to_owned(),
                    None => "it has ended".to_owned(),
                };
                ended.push((*id, why));
            }
        }
        ended
    }

    fn reports(&mut self) -> Vec<(Id, Share, Option<Value>)> {
        self.hear();
        let all = self.armed.iter();
        let told = all.filter(|(_, armed)| armed.child.is_some() || armed.report.is_some());
        told.map(|(id, armed)| (*id, armed.budget, armed.report.clone()))
            .collect()
    }

    fn cpu_ns(&mut self) -> u64 {
        self.armed.values().map(|armed| armed.cpu_ns).sum()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.disarm_all();
    }
}

/// Reads what a tracer writes, in threads that end with it.
fn listen(child: &mut Child, id: Id, say: &Sender<Said>) -> io::Result<()> {
    if let Some(stdout) = child.stdout.take() {
        let say = say.clone();
        thread::Builder::new()
            .name("reports".to_owned())
            .spawn(move || read_reports(stdout, id, &say))?;
    }
    if let Some(stderr) = child.stderr.take() {
        let say = say.clone();
        thread::Builder::new()
            .name("diagnostics".to_owned())
            .spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    tracing::debug!("tracer of {}: {line}", id.pid);
                    if say.send(Said::Line(id, line)).is_err() {
                        return;
                    }
                }
            })?;
    }
    Ok(())
}

/// One report follows another; the only one of a run is written on several lines.
fn read_reports(stdout: ChildStdout, id: Id, say: &Sender<Said>) {
    let reports = serde_json::Deserializer::from_reader(BufReader::new(stdout)).into_iter::<Value>();
    for report in reports.map_while(Result::ok) {
        if say.send(Said::Report(id, report)).is_err() {
            return;
        }
    }
}
