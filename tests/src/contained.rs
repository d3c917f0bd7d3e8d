//! Real servers of this machine's distribution, each as a container of its own without a network: they are
//! asked through a socket in a folder that both sides see.
//!
//! Must not know how they are traced.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::{
    containers::{Container, Engine},
    rootfs::{Rootfs, temporary},
    servers,
    skip::{Missing, program},
    wait,
};

/// Where a container has the folder that it shares.
const SHARED: &str = "/shared";

/// The user that runs PostgreSQL in its container; it refuses root.
const POSTGRES: u32 = 70;

/// A redis-server without persistence.
pub struct Redis {
    /// Its container.
    pub container: Container,
    folder: TempDir,
}

impl Redis {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When there is none on this machine.
    pub fn start(engine: &Engine, name: &str) -> Result<Self, Missing> {
        let redis = program("redis-server", "redis-server")?;
        program("redis-cli", "redis-tools")?;
        let rootfs = Rootfs::glibc()?;
        rootfs.with_program(&redis, "usr/bin/redis-server");
        engine.import("redis", &rootfs);
        let folder = temporary("redis");
        let socket = format!("{SHARED}/s");
        let container = engine
            .container(name, "redis")
            .args(&["-v", &shared(&folder)])
            .start(&[
                "/usr/bin/redis-server",
                "--port",
                "0",
                "--save",
                "",
                "--unixsocket",
                &socket,
            ]);
        let this = Self { container, folder };
        wait::until("redis to answer", || {
            let answer = this.command("redis-cli").arg("PING").output().ok()?;
            (answer.stdout == b"PONG\n").then_some(())
        });
        Ok(this)
    }

    /// A client with the connection's options.
    pub fn command(&self, client: &str) -> Command {
        let mut command = Command::new(client);
        command.arg("-s").arg(self.folder.path().join("s"));
        command
    }

    /// Sends one command and returns the answer, which must be one.
    pub fn ask(&self, words: &[&str]) -> String {
        answered(self.command("redis-cli").args(words), "redis")
    }

    /// Asks it to end and checks that it does so in good order.
    pub fn shut_down(mut self) {
        drop(self.command("redis-cli").args(["SHUTDOWN", "NOSAVE"]).output());
        let status = self.container.target.wait();
        let seen = self.container.target.seen();
        assert!(status.success(), "redis ended with {status}\n{seen}");
    }
}

/// A PostgreSQL server with an empty database.
pub struct Postgres {
    /// Its container.
    pub container: Container,
    programs: PathBuf,
    folder: TempDir,
}

impl Postgres {
    /// Makes a cluster, starts it and waits until it answers.
    ///
    /// # Errors
    /// When PostgreSQL is not on this machine.
    pub fn start(engine: &Engine, name: &str) -> Result<Self, Missing> {
        let programs = servers::newest_postgres()?;
        engine.import("postgres", &rootfs_of_postgres(&programs)?);
        let folder = temporary("postgres");
        let owned = std::os::unix::fs::chown(folder.path(), Some(POSTGRES), Some(POSTGRES));
        owned.expect("root can give a folder away");
        let user = POSTGRES.to_string();
        let (data, at) = (format!("{SHARED}/data"), programs.display().to_string());
        let settings = |name: &str| {
            engine
                .container(name, "postgres")
                .args(&["-v", &shared(&folder), "--user", &user])
        };
        let initdb = format!("{at}/initdb");
        let options = ["-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"];
        let mut maker = settings(&format!("{name}-initdb"))
            .start(&[&[initdb.as_str(), "-D", &data], &options[..]].concat());
        let made = maker.target.wait();
        assert!(made.success(), "initdb: {}", maker.target.seen());
        let postgres = format!("{at}/postgres");
        let container = settings(name).start(&[
            &postgres,
            "-D",
            &data,
            "-F",
            "-k",
            SHARED,
            "-c",
            "listen_addresses=",
            "-c",
            "max_connections=200",
        ]);
        let mut this = Self {
            container,
            programs,
            folder,
        };
        wait::until("postgres to answer", || {
            assert!(
                this.container.target.is_running(),
                "{}",
                this.container.target.seen()
            );
            let ready = this.client("pg_isready").output();
            ready.is_ok_and(|output| output.status.success()).then_some(())
        });
        Ok(this)
    }

    /// A client program with the connection's options.
    pub fn client(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.arg("-h").arg(self.folder.path()).args(["-U", "postgres"]);
        command
    }

    /// Runs a query and returns what it prints.
    pub fn query(&self, sql: &str) -> String {
        let mut psql = self.client("psql");
        answered(psql.args(["-At", "-d", "postgres", "-c", sql]), sql)
    }

    /// Ends it ("fast shutdown") and checks that it does so in good order.
    pub fn shut_down(mut self) {
        // The client hands it on to the container's first process.
        self.container.target.signal(nix::sys::signal::Signal::SIGINT);
        let status = self.container.target.wait();
        let seen = self.container.target.seen();
        assert!(status.success(), "postgres ended with {status}\n{seen}");
    }
}

/// Its programs and what they read, where they look for it, and a user for it.
fn rootfs_of_postgres(programs: &Path) -> Result<Rootfs, Missing> {
    let rootfs = Rootfs::glibc()?;
    let version = programs.parent().expect("a version has a folder");
    let shared = Path::new("/usr/share/postgresql").join(version.file_name().expect("it has a name"));
    for folder in [version, &shared, Path::new("/usr/share/zoneinfo")] {
        rootfs.with_folder(folder);
    }
    for name in ["postgres", "initdb"] {
        rootfs.libraries_of(&programs.join(name));
    }
    let users = format!("root:x:0:0::/:/bin/sh\npostgres:x:{POSTGRES}:{POSTGRES}::/tmp:/bin/sh\n");
    fs::write(rootfs.path().join("etc/passwd"), users).expect("a file of a root can be written");
    Ok(rootfs)
}

fn shared(folder: &TempDir) -> String {
    format!("{}:{SHARED}", folder.path().display())
}

/// What a client prints, which must succeed.
fn answered(command: &mut Command, what: &str) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the client starts");
    assert!(status.success(), "{what}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).trim().to_owned()
}
