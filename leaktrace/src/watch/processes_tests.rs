use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::*;

struct Pids(Vec<u32>);

impl Members for Pids {
    fn names(&mut self, pid: u32, _comm: &str, _user: u32) -> bool {
        self.0.contains(&pid)
    }
}

struct Told(Vec<u32>);

impl Dirty for Told {
    fn take(&mut self) -> Changed {
        Changed::Only(self.0.iter().copied().collect())
    }
}

const WINDOW: Duration = Duration::from_mins(1);

#[test]
fn status_is_read() {
    let text = "Name:\ta (b) c\nUmask:\t0022\nUid:\t1000\t0\t0\t0\nVmRSS:\t    2048 kB\nRssAnon:\t    1024 kB\n\
                RssFile:\t 1024 kB\nVmSwap:\t     512 kB\n";
    let status = Status::parse(text).unwrap();
    assert_eq!((status.comm.as_str(), status.user), ("a (b) c", 1000));
    assert_eq!((status.rss_bytes, status.anon_bytes), (2 << 20, 3 << 19));
    // A thread of the kernel, and a zombie.
    assert_eq!(Status::parse("Name:\tkthreadd\nUid:\t0\t0\t0\t0\n"), None);
}

#[test]
fn stat_is_read_whatever_the_name_is() {
    let text = b"4242 (a) b (c) S 1 4242 4242 0 -1 2097152 5 6 7 8 9 10 11 12 20 0 1 0 987654 1 2 3";
    let stat = Stat::parse(text).unwrap();
    assert!(stat.is_kernel);
    assert_eq!(stat.parent, 1);
    assert_eq!(stat.start_ticks, 987_654);
    let own = Stat::read(std::process::id()).unwrap();
    assert!(!own.is_kernel);
    assert_eq!(own.start_ticks, process::start_ticks(std::process::id()).unwrap());
}

/// A shell that takes memory when it is told to. Not this process: other tests take and give back memory in it. Nor a
/// child of it, but one of another shell's.
struct Grower {
    parent: Child,
    said: BufReader<ChildStdout>,
    pid: u32,
}

impl Grower {
    fn start() -> Self {
        let script = "echo $$; read _; kept=$(head -c 33554432 /dev/zero | tr '\\0' x); echo; read _";
        let mut parent = Command::new("sh")
            .args(["-c", "sh -c \"$1\"; :", "sh", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(parent.stdout.take().unwrap());
        let mut grower = Self { parent, said, pid: 0 };
        grower.pid = grower.line().parse().unwrap();
        grower
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.said.read_line(&mut line).unwrap() > 0);
        line.trim().to_owned()
    }

    /// 32 MiB, and what the shell needs to make them.
    fn grow(&mut self) {
        self.parent.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.line();
    }
}

impl Drop for Grower {
    fn drop(&mut self) {
        drop(self.parent.stdin.take());
        self.parent.wait().unwrap();
    }
}

#[test]
fn memory_that_is_taken_is_seen() {
    let mut grower = Grower::start();
    let pid = grower.pid;
    let mut processes = Processes::new(WINDOW);
    let mut members = Pids(vec![pid]);
    let look = processes.look(1, 1, &mut members, &mut ReadAll).unwrap();
    assert_eq!(look, Look::default());
    let before = processes.get(pid).unwrap().history.bytes();
    assert!(before > 0);
    grower.grow();
    processes.look(2, 2, &mut members, &mut ReadAll).unwrap();
    let watched = processes.get(pid).unwrap();
    assert!(watched.history.bytes() >= before + (24 << 20), "{watched:?}");
    assert!(watched.rss_bytes >= watched.history.bytes() / 2);
    assert_eq!(processes.len(), 1);
}

#[test]
fn what_is_told_to_be_unchanged_is_not_read() {
    let mut grower = Grower::start();
    let pid = grower.pid;
    let mut processes = Processes::new(WINDOW);
    let mut members = Pids(vec![pid]);
    processes.look(1, 1, &mut members, &mut ReadAll).unwrap();
    let before = processes.get(pid).unwrap().history.bytes();
    grower.grow();
    processes.look(2, 2, &mut members, &mut Told(vec![])).unwrap();
    assert_eq!(processes.get(pid).unwrap().history.bytes(), before);
    processes.look(3, 3, &mut members, &mut Told(vec![pid])).unwrap();
    assert!(processes.get(pid).unwrap().history.bytes() > before);
}

#[test]
fn a_process_that_has_ended_is_told_of_once() {
    // Not a child of this process, but one of a shell that waits for it.
    let mut shell = Command::new("sh")
        .args(["-c", "sleep 1000 & echo $!; wait"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let pid: u32 = line.trim().parse().unwrap();
    let mut processes = Processes::new(WINDOW);
    let mut members = Pids(vec![pid]);
    processes.look(1, 1, &mut members, &mut ReadAll).unwrap();
    let id = processes.get(pid).unwrap().id;
    assert!(is_same(id));
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    shell.wait().unwrap();
    let look = processes.look(2, 2, &mut members, &mut ReadAll).unwrap();
    assert_eq!(look.ended, [id]);
    assert!(processes.is_empty() && !is_same(id));
    let look = processes.look(3, 3, &mut members, &mut ReadAll).unwrap();
    assert_eq!(look, Look::default());
}
