//! Real servers from the distribution, on free ports and in temporary folders, ended with the test.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    skip::{Missing, program},
    target::Target,
    wait,
};

/// A port that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
    listener.local_addr().expect("it has an address").port()
}

/// A redis-server without persistence.
pub struct Redis {
    /// The process.
    pub server: Target,
    /// Its port on the loopback address.
    pub port: u16,
    _folder: TempDir,
}

impl Redis {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When there is none on this machine.
    pub fn start() -> Result<Self, Missing> {
        let redis = program("redis-server", "redis-server")?;
        let folder = TempDir::new().expect("a temporary folder can be made");
        let port = free_port();
        let mut command = Command::new(redis);
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.arg("--dir").arg(folder.path());
        let server = Target::spawn(&mut command);
        let this = Self {
            server,
            port,
            _folder: folder,
        };
        wait::until("redis to answer", || {
            this.try_ask(&[b"PING"]).filter(|answer| answer == "+PONG")
        });
        Ok(this)
    }

    /// Sends one command on a connection of its own and returns the first line of the answer.
    pub fn ask(&self, words: &[&[u8]]) -> String {
        self.try_ask(words)
            .unwrap_or_else(|| panic!("redis does not answer\n{}", self.server.seen()))
    }

    fn try_ask(&self, words: &[&[u8]]) -> Option<String> {
        let mut connection = self.connect().ok()?;
        connection.ask(words).ok()
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the server does not accept it.
    pub fn connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        Ok(Connection {
            stream: BufReader::new(stream),
        })
    }

    /// Asks it to end and checks that it does so in good order.
    pub fn shut_down(mut self) {
        drop(self.try_ask(&[b"SHUTDOWN", b"NOSAVE"]));
        let status = self.server.wait();
        assert!(
            status.success(),
            "redis ended with {status}\n{}",
            self.server.seen()
        );
    }
}

/// A connection to redis.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Sends one command and returns the first line of the answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn ask(&mut self, words: &[&[u8]]) -> std::io::Result<String> {
        let mut message = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            message.extend(format!("${}\r\n", word.len()).bytes());
            message.extend(*word);
            message.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&message)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

/// A PostgreSQL server with an empty database, run by the user `postgres`.
pub struct Postgres {
    /// The postmaster.
    pub server: Target,
    /// Its port on the loopback address.
    pub port: u16,
    programs: PathBuf,
    uid: u32,
    gid: u32,
    folder: TempDir,
}

impl Postgres {
    /// Makes a cluster in a temporary folder, starts it and waits until it answers.
    ///
    /// # Errors
    /// When PostgreSQL or its user is not on this machine.
    pub fn start() -> Result<Self, Missing> {
        Self::with(&[])
    }

    /// The same with further options of the server.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with(options: &[&str]) -> Result<Self, Missing> {
        let programs = newest_postgres()?;
        let user = nix::unistd::User::from_name("postgres").ok().flatten();
        let user = user.ok_or_else(|| Missing("no user postgres; install postgresql".to_owned()))?;
        let folder = TempDir::new().expect("a temporary folder can be made");
        std::os::unix::fs::chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .expect("root can give a folder away");
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        let data = folder.path().join("data");
        let mut initdb = as_user(&programs.join("initdb"), uid, gid, folder.path());
        let made = initdb
            .args(["-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .output();
        let made = made.expect("initdb starts");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let port = free_port();
        let mut command = as_user(&programs.join("postgres"), uid, gid, folder.path());
        command
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-F", "-h", "127.0.0.1", "-k"]);
        command.arg(folder.path()).args(options);
        let server = Target::spawn(&mut command);
        let mut this = Self {
            server,
            port,
            programs,
            uid,
            gid,
            folder,
        };
        wait::until("postgres to answer", || {
            assert!(this.server.is_running(), "postgres ended\n{}", this.server.seen());
            let mut ready = this.client("pg_isready");
            ready
                .output()
                .is_ok_and(|output| output.status.success())
                .then_some(())
        });
        Ok(this)
    }

    /// A client program with the connection's options, run by the same user.
    pub fn client(&self, name: &str) -> Command {
        let mut command = as_user(&self.programs.join(name), self.uid, self.gid, self.folder.path());
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        command
    }

    /// Runs a query and returns what it prints.
    pub fn query(&self, sql: &str) -> String {
        let output = self
            .client("psql")
            .args(["-At", "-d", "postgres", "-c", sql])
            .output()
            .expect("psql starts");
        assert!(
            output.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Ends it ("fast shutdown") and checks that it does so in good order.
    pub fn shut_down(mut self) {
        self.server.signal(Signal::SIGINT);
        let status = self.server.wait();
        assert!(
            status.success(),
            "postgres ended with {status}\n{}",
            self.server.seen()
        );
    }
}

fn as_user(path: &Path, uid: u32, gid: u32, folder: &Path) -> Command {
    let mut command = Command::new(path);
    command.uid(uid).gid(gid).current_dir(folder).env("HOME", folder);
    command
}

/// Debian keeps the server's programs out of PATH, one folder a version.
pub(crate) fn newest_postgres() -> Result<PathBuf, Missing> {
    let missing = || Missing("no PostgreSQL server on this machine; install postgresql".to_owned());
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .ok()
        .ok_or_else(missing)?;
    let newest = versions
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("pgbench").exists());
    newest.max().ok_or_else(missing)
}
