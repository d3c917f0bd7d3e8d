//! The machine that is run on: what it has, how long there is, and the log of all that was seen.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    compile::Programs,
    table::Row,
    target::{Read, Target},
};
use crate::process::find_program;

/// How long a single command or a single step of a program may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Options of the kernel that uprobes and BPF programs are made of.
const KERNEL_OPTIONS: [&str; 3] = ["CONFIG_UPROBES", "CONFIG_UPROBE_EVENTS", "CONFIG_BPF_SYSCALL"];

pub(super) struct Machine {
    /// Where `--prepare` has put everything.
    prepared: PathBuf,
    /// Where programs are built and single runs write.
    pub(super) work: PathBuf,
    log: File,
    end: Instant,
    /// Name of the GPU and version of its driver; or why the fake driver is used.
    pub(super) gpu: Result<String, String>,
    /// Why nothing can be traced here, if so.
    tracing: Result<(), String>,
    programs: Option<Result<Programs, String>>,
}

/// What a command that has ended left.
pub(super) struct Ended {
    pub(super) succeeded: bool,
    /// Of both its streams.
    pub(super) text: String,
}

impl Machine {
    pub(super) fn look(prepared: &Path, out: &Path, fake: bool, limit: Duration) -> Result<Self> {
        let prepared = prepared.canonicalize().with_context(|| {
            format!(
                "no {}; make it by `cargo xtask gpu-accept --prepare`",
                prepared.display()
            )
        })?;
        let leaktrace = prepared.join("leaktrace");
        ensure!(
            leaktrace.exists(),
            "no {}; make it by `cargo xtask gpu-accept --prepare`",
            leaktrace.display()
        );
        let work = prepared.join("work");
        fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
        let log = out.join("raw.log");
        let mut this = Self {
            prepared,
            work,
            log: File::create(&log).with_context(|| format!("cannot write {}", log.display()))?,
            end: Instant::now() + limit,
            gpu: Err("--fake".to_owned()),
            tracing: Ok(()),
            programs: None,
        };
        if !fake {
            this.gpu = this.look_for_gpu();
        }
        let doctor = this.run("leaktrace doctor", Command::new(leaktrace).arg("doctor"));
        this.tracing = match doctor {
            Ok(ended) if ended.succeeded => Ok(()),
            Ok(ended) => Err(format!("`leaktrace doctor` says: {}", last_line(&ended.text))),
            Err(error) => Err(format!("{error:#}")),
        };
        Ok(this)
    }

    fn look_for_gpu(&mut self) -> Result<String, String> {
        let query = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
        let ended = self
            .run("nvidia-smi, in short", Command::new("nvidia-smi").args(query))
            .map_err(|_not_there| "no nvidia-smi".to_owned())?;
        let line = ended.text.lines().next().unwrap_or_default().trim().to_owned();
        if !ended.succeeded || !line.contains(',') {
            return Err(format!("nvidia-smi says: {}", last_line(&ended.text)));
        }
        Ok(line)
    }

    /// What one sentence says of it, for the head of the table.
    pub(super) fn about(&self) -> String {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let prepared = fs::read_to_string(self.prepared.join("about.txt")).unwrap_or_default();
        let gpu = match &self.gpu {
            Ok(gpu) => format!("GPU: {gpu} (name, driver)"),
            Err(why) => format!("**No GPU was used** ({why}): the tests' fake driver stands in for one"),
        };
        format!(
            "{gpu}. Kernel {}. {}",
            kernel.trim(),
            prepared.trim().replace('\n', " ")
        )
    }

    /// How long there is.
    pub(super) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// How long may be waited for one thing.
    pub(super) fn patience(&self) -> Duration {
        // What has begun may end: a step that is cut off has shown nothing.
        PATIENCE.min(self.left() + PATIENCE / 4)
    }

    /// Whether leaktrace works here; if not, a row says so.
    pub(super) fn can_trace(&self, what: &str, rows: &mut Vec<Row>) -> bool {
        if let Err(why) = &self.tracing {
            rows.push(Row::not_run(what, why));
        }
        self.tracing.is_ok()
    }

    /// Whether there is a GPU; if not, a row says so.
    pub(super) fn has_gpu(&self, what: &str, rows: &mut Vec<Row>) -> bool {
        if let Err(why) = &self.gpu {
            rows.push(Row::not_run(what, format!("no GPU here: {why}")));
        }
        self.gpu.is_ok()
    }

    /// The compiled programs; if they cannot be had, a row says so.
    pub(super) fn programs(&mut self, what: &str, rows: &mut Vec<Row>) -> Option<Programs> {
        if self.programs.is_none() {
            self.programs = Some(Programs::build(self).map_err(|error| format!("{error:#}")));
        }
        match self.programs.as_ref()? {
            Ok(programs) => Some(programs.clone()),
            Err(why) => {
                rows.push(Row::not_run(what, why));
                None
            }
        }
    }

    /// The folder with the programs' sources.
    pub(super) fn sources(&self) -> PathBuf {
        self.prepared.join("gpu")
    }

    /// The released program.
    pub(super) fn leaktrace(&self) -> Command {
        Command::new(self.prepared.join("leaktrace"))
    }

    /// Runs a command to its end. Both its streams go to the log under this title.
    pub(super) fn run(&mut self, title: &str, command: &mut Command) -> Result<Ended> {
        let path = self.work.join("output");
        let output = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut child = command.spawn().with_context(|| format!("cannot start {title}"))?;
        let end = Instant::now() + self.patience();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let how = status.map_or_else(|| "killed: too slow".to_owned(), |status| status.to_string());
        self.log(&format!("{title}: {command:?}: {how}"), &text);
        Ok(Ended {
            succeeded: status.is_some_and(|status| status.success()),
            text,
        })
    }

    /// Starts a program that is driven through its steps.
    pub(super) fn start(&mut self, name: &str, command: &mut Command) -> Result<Target> {
        let rest = self.work.join(format!("{}.stderr", file_name(name)));
        self.log(&format!("{name}: {command:?}"), "");
        Target::start(command, name, Read::Stdout, &rest)
    }

    /// Adds to the log.
    pub(super) fn log(&mut self, title: &str, text: &str) {
        let written = write!(self.log, "## {title}\n{text}\n").and_then(|()| self.log.flush());
        if let Err(error) = written {
            eprintln!("raw.log: {error}");
        }
    }
}

/// A name as part of a file's.
pub(super) fn file_name(name: &str) -> String {
    name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-")
}

pub(super) fn last_line(text: &str) -> String {
    text.trim_end()
        .lines()
        .next_back()
        .unwrap_or("nothing")
        .to_owned()
}

/// Finds one of CUDA's tools: in PATH, or where its packages put them.
pub(super) fn cuda_tool(name: &str) -> Option<PathBuf> {
    let usual = [
        PathBuf::from("/usr/local/cuda/bin").join(name),
        PathBuf::from("/opt/cuda/bin").join(name),
    ];
    find_program(name).or_else(|| usual.into_iter().find(|path| path.is_file()))
}

/// Step 1: what the machine is.
pub(super) fn facts(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    match machine.gpu.clone() {
        Ok(gpu) => {
            rows.push(Row::judged("GPU and driver", "one", gpu, true));
            machine.run("nvidia-smi", &mut Command::new("nvidia-smi"))?;
        }
        Err(why) => rows.push(Row::not_run("GPU and driver", why)),
    }
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    rows.push(Row::same(
        "the kernel describes its types: /sys/kernel/btf/vmlinux",
        true,
        btf,
    ));
    match machine.run("kernel options", Command::new("zcat").arg("/proc/config.gz")) {
        Ok(config) if config.succeeded => {
            let missing: Vec<_> = KERNEL_OPTIONS
                .into_iter()
                .filter(|option| !config.text.lines().any(|line| line == format!("{option}=y")))
                .collect();
            rows.push(Row::judged(
                "kernel options for probes and BPF",
                KERNEL_OPTIONS.join(", "),
                if missing.is_empty() {
                    "all".to_owned()
                } else {
                    format!("not {}", missing.join(", "))
                },
                missing.is_empty(),
            ));
        }
        _ => rows.push(Row::not_run("kernel options", "no /proc/config.gz")),
    }
    rows.push(match &machine.tracing {
        Ok(()) => Row::same("leaktrace doctor", "can trace", "can trace"),
        Err(why) => Row::differs("leaktrace doctor", "can trace", why),
    });
    let tools: Vec<_> = ["nvcc", "compute-sanitizer", "g++", "python3"]
        .into_iter()
        .map(|tool| match cuda_tool(tool) {
            Some(path) => path.display().to_string(),
            None => format!("no {tool}"),
        })
        .collect();
    machine.log(
        "tools",
        &format!("{}\nPATH {:?}", tools.join("\n"), env::var_os("PATH")),
    );
    Ok(())
}
