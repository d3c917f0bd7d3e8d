//! Real containers. A docker daemon of the test's own, with its own data, socket and runtime state, and
//! podman beside it, also with storage of its own; both without a network. Images are made of root file
//! systems that the test puts together, so that nothing is fetched.
//!
//! Must not know what runs in them. Everything ends with the value that stands for it: containers are
//! removed, the daemon ends, its mounts and its folder are gone.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    rootfs::{Rootfs, temporary},
    skip::{self, Missing},
    target::Target,
    wait,
};

/// Whose containers they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// dockerd, its containerd and runc.
    Docker,
    /// podman and runc: no daemon.
    Podman,
}

/// A container engine with nothing in it but what the test puts there.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    client: PathBuf,
    /// Options of the client before its command.
    options: Vec<OsString>,
    /// dockerd, or podman's service of docker's API.
    daemon: Option<Child>,
    socket: PathBuf,
    /// Where data and state are, on a real disk.
    folder: TempDir,
    /// Where the socket is: the path of one is short (`sun_path`, 108 bytes).
    _sockets: TempDir,
}

impl Engine {
    /// Starts a docker daemon and waits until it answers.
    ///
    /// # Errors
    /// When there is none on this machine, or it does not start here; says why.
    pub fn docker() -> Result<Self, Missing> {
        skip::program("runc", "runc")?;
        let daemon = skip::program("dockerd", "docker.io")?;
        let client = skip::program("docker", "docker.io (from Debian 13 on: docker-cli)")?;
        let (folder, sockets) = folders("docker");
        let (socket, at) = (sockets.path().join("s"), folder.path());
        let mut command = bound_to_this(&daemon)?;
        command
            .args(["--iptables=false", "--bridge=none", "--log-level=warn"])
            .arg("--data-root")
            .arg(at.join("data"))
            .arg("--exec-root")
            .arg(at.join("exec"))
            .arg("-H")
            .arg(address(&socket))
            .arg("-p")
            .arg(at.join("pid"));
        let options = vec!["-H".into(), address(&socket)];
        Self::begin(Inner {
            runtime: Runtime::Docker,
            client,
            options,
            daemon: Some(logged(&mut command, at)),
            socket,
            folder,
            _sockets: sockets,
        })
    }

    /// podman with storage of its own, and with its service of docker's API, by which names are asked for.
    ///
    /// # Errors
    /// When there is none on this machine, or it does not run here; says why.
    pub fn podman() -> Result<Self, Missing> {
        skip::program("runc", "runc")?;
        let client = skip::program("podman", "podman")?;
        let (folder, sockets) = folders("podman");
        let (socket, at) = (sockets.path().join("s"), folder.path());
        let mut options: Vec<OsString> = Vec::new();
        for (option, below) in [("--root", "data"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            options.push(option.into());
            options.push(at.join(below).into());
        }
        // crun refuses cgroups of both versions side by side ("hybrid"), which such machines have.
        options.extend(
            [
                "--cgroup-manager=cgroupfs",
                "--events-backend=none",
                "--runtime=runc",
            ]
            .map(OsString::from),
        );
        let mut command = bound_to_this(&client)?;
        command
            .args(&options)
            .args(["system", "service", "--time=0"])
            .arg(address(&socket));
        Self::begin(Inner {
            runtime: Runtime::Podman,
            client,
            options,
            daemon: Some(logged(&mut command, at)),
            socket,
            folder,
            _sockets: sockets,
        })
    }

    /// Waits until the daemon answers.
    fn begin(mut inner: Inner) -> Result<Self, Missing> {
        let log = inner.folder.path().join("log");
        let up = wait::until("the container engine to answer", || {
            let daemon = inner.daemon.as_mut().expect("it was started");
            if let Some(status) = daemon.try_wait().expect("a child can be waited for") {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let last = said.trim_end().lines().next_back().unwrap_or_default();
                return Some(Err(Missing(format!(
                    "{:?} does not run here: it ended with {status}: {last}",
                    inner.runtime
                ))));
            }
            // podman's client needs no daemon, and would answer at once.
            let answers = inner.socket.exists() && output(inner.command(&["version"])).status.success();
            answers.then_some(Ok(()))
        });
        up.map(|()| Self(Arc::new(inner)))
    }

    /// Which one it is.
    pub fn runtime(&self) -> Runtime {
        self.0.runtime
    }

    /// What `DOCKER_HOST` must be for its names to be found.
    pub fn host(&self) -> PathBuf {
        PathBuf::from(address(&self.0.socket))
    }

    /// Makes an image of a root file system.
    pub fn import(&self, image: &str, rootfs: &Rootfs) {
        let archive = rootfs.archive(self.0.folder.path());
        let mut import = self.0.command(&["import"]);
        said(import.arg(&archive).arg(image));
        fs::remove_file(archive).expect("an archive can be removed");
    }

    /// A container to be: with its own pid, mount, network and cgroup namespaces.
    pub fn container(&self, name: &str, image: &str) -> Settings {
        let mut options: Vec<String> = ["--name", name, "--network", "none", "--cgroupns", "private"]
            .map(str::to_owned)
            .to_vec();
        if self.runtime() == Runtime::Podman {
            // Its default is more than root may have where the limits of the machine are lower.
            options
                .extend(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"].map(str::to_owned));
        }
        Settings {
            engine: self.clone(),
            name: name.to_owned(),
            image: image.to_owned(),
            options,
        }
    }

    /// A field of a container, by Go's template.
    pub fn inspect(&self, name: &str, template: &str) -> String {
        said(self.0.command(&["inspect", "-f", template]).arg(name))
    }
}

/// A container to be started.
#[derive(Clone)]
pub struct Settings {
    engine: Engine,
    name: String,
    image: String,
    options: Vec<String>,
}

impl Settings {
    /// Adds options of `run`.
    #[must_use]
    pub fn args(mut self, options: &[&str]) -> Self {
        self.options
            .extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// With a user namespace of its own: root in it is nobody outside. podman only: a docker daemon has
    /// one for all of its containers, or none.
    #[must_use]
    pub fn own_users(self) -> Self {
        self.args(&["--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536"])
    }

    /// As privileged as the machine's root, and with its processes: what a tracer in a container needs.
    #[must_use]
    pub fn privileged(self) -> Self {
        let this = self.args(&["--pid=host"]);
        if has_capability(SYS_RESOURCE) {
            return this.args(&["--privileged"]);
        }
        // Root of some virtual machines lacks this one capability, and then no container can have all of
        // them, which `--privileged` insists on: the same in parts, without that one.
        this.args(&["--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"])
            .args(&["--security-opt", "seccomp=unconfined"])
            .args(&["--security-opt", "apparmor=unconfined"])
            .args(&["--security-opt", "systempaths=unconfined"])
            .args(&["--device-cgroup-rule", "a *:* rwm", "-v", "/sys:/sys"])
    }

    /// The words that run it in the foreground with a pipe as its stdin, up to the image: for a program
    /// that is started by other means than [`Self::start`].
    pub fn words(&self) -> Vec<OsString> {
        let mut words = vec![self.engine.0.client.clone().into_os_string()];
        words.extend(self.engine.0.options.iter().cloned());
        words.extend(["run", "--rm", "-i"].map(OsString::from));
        words.extend(self.options.iter().map(OsString::from));
        words.push(self.image.clone().into());
        words
    }

    /// Starts `program` in it, with its standard streams connected to the test as a [`Target`]'s are.
    pub fn start(self, program: &[&str]) -> Container {
        let words = self.words();
        let (client, options) = words.split_first().expect("the client is a word");
        let mut command = Command::new(client);
        // It is removed by name at the end, also when it has ended before.
        command.args(options.iter().filter(|word| *word != "--rm"));
        let mut target = Target::spawn(command.args(program));
        let pid = wait::until("the container's process", || {
            assert!(
                target.is_running()
                    || output(self.engine.0.command(&["inspect", &self.name]))
                        .status
                        .success(),
                "the container does not start\n{}",
                target.seen()
            );
            let pid = output(
                self.engine
                    .0
                    .command(&["inspect", "-f", "{{.State.Pid}}", &self.name]),
            );
            let pid: u32 = String::from_utf8_lossy(&pid.stdout).trim().parse().ok()?;
            (pid > 0).then_some(pid)
        });
        let id = self.engine.inspect(&self.name, "{{.Id}}");
        Container {
            target,
            pid,
            id,
            name: self.name,
            engine: self.engine,
        }
    }
}

/// A running container, and its first process as a target: its exit status is the client's.
pub struct Container {
    /// The client, which has the streams of the program in the container.
    pub target: Target,
    /// The program's process, as the host counts.
    pub pid: u32,
    /// The container's full id.
    pub id: String,
    name: String,
    engine: Engine,
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts a further program in it. Its own process is a child of the runtime's: find it by [`inside`].
    pub fn exec(&self, program: &[&str]) -> Target {
        Target::spawn(self.engine.0.command(&["exec", "-i", &self.name]).args(program))
    }

    /// The ground truth of its program, with the process as the host counts it.
    pub fn truth(&mut self) -> crate::report::Truth {
        let mut truth = self.target.truth();
        truth.pid = self.pid;
        truth
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended, and been removed.
        drop(output(self.engine.0.command(&["rm", "-f", &self.name])));
    }
}

/// The process, as the host counts, that has the pid `inner` in the pid namespace of `pid`.
pub fn inside(pid: u32, inner: u32) -> u32 {
    let space = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = space(pid).expect("the container lives");
    wait::until("a process in the container", || {
        let processes = fs::read_dir("/proc").expect("/proc can be listed").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.into_iter()
            .find(|&pid| space(pid).as_ref() == Some(&wanted) && inner_pid(pid) == Some(inner))
    })
}

/// The pid that a process has in its own pid namespace.
pub fn inner_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
}

impl Inner {
    /// The client with its options and a command.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.args(&self.options).args(words);
        command
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let listed = output(self.command(&["ps", "-aq"])).stdout;
        for id in String::from_utf8_lossy(&listed).lines() {
            drop(output(self.command(&["rm", "-f", id])));
        }
        if let Some(daemon) = &mut self.daemon {
            // In good order: a docker daemon ends its containerd and takes its mounts away.
            if kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).is_ok() {
                drop(daemon.wait());
            }
        }
        // What one that was killed has left: the deepest first.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = self.folder.path().display().to_string();
        let left = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for mount in left.filter(|mount| mount.starts_with(&below)).rev() {
            drop(Command::new("umount").args(["-l", mount]).status());
        }
    }
}

/// `CAP_SYS_RESOURCE` of linux/capability.h.
const SYS_RESOURCE: u32 = 24;

/// Whether a process of this machine's root can have a capability.
fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("/proc can be read");
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    bounding.expect("a set of capabilities") >> bit & 1 == 1
}

fn folders(name: &str) -> (TempDir, TempDir) {
    let sockets = TempDir::new().expect("a temporary folder can be made");
    (temporary(name), sockets)
}

fn address(socket: &Path) -> OsString {
    format!("unix://{}", socket.display()).into()
}

/// A daemon that ends with the thread that starts it, also when a test is killed.
fn bound_to_this(program: &Path) -> Result<Command, Missing> {
    let mut command = Command::new(skip::program("setpriv", "util-linux")?);
    command.args(["--pdeathsig", "TERM"]).arg(program);
    Ok(command)
}

fn logged(command: &mut Command, folder: &Path) -> Child {
    let log = File::create(folder.join("log")).expect("a log can be made");
    let again = log.try_clone().expect("a file can be opened twice");
    command.stdin(Stdio::null()).stdout(log).stderr(again);
    command.spawn().expect("a daemon starts")
}

fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the client starts")
}

/// What a command prints, which must succeed.
fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("the client starts");
    assert!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
