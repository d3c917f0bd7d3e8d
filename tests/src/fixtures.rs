//! Builds the fixtures in `programs/`, on demand, once: the result is kept under `target/fixtures` in a
//! folder named by the hash of the sources and of the command, so that nothing stale is ever used.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use crate::skip::{self, Missing};

/// Frame pointers, so that stacks are whole also where they are walked by nothing else; no builtins, so that no allocation is elided.
const C_FLAGS: &[&str] = &[
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-builtin",
    "-Wall",
    "-Wextra",
    "-Wno-alloc-size-larger-than",
    "-Werror",
];

/// A fixture to be built.
#[derive(Clone, Debug)]
pub struct Fixture {
    source: PathBuf,
    name: String,
    compiler: String,
    package: &'static str,
    before: Vec<String>,
    after: Vec<String>,
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// Where the workspace's build results are.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

impl Fixture {
    fn new(source: &str, name: &str, compiler: &str, package: &'static str, flags: &[&str]) -> Self {
        Self {
            source: programs().join(source),
            name: name.to_owned(),
            compiler: compiler.to_owned(),
            package,
            before: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            after: Vec::new(),
        }
    }

    /// `programs/c/NAME.c`, dynamically linked.
    pub fn c(name: &str) -> Self {
        Self::new(&format!("c/{name}.c"), name, "gcc", "gcc", C_FLAGS).flags(&["-std=gnu11", "-pthread"])
    }

    /// `programs/c/NAME.c`, linked statically with musl.
    pub fn musl(name: &str) -> Self {
        Self::new(&format!("c/{name}.c"), name, "musl-gcc", "musl-tools", C_FLAGS)
            .flags(&["-std=gnu11", "-static"])
    }

    /// `programs/c/NAME.c`, dynamically linked with musl: it runs where that is, in a container of its own.
    pub fn musl_dynamic(name: &str) -> Self {
        Self::new(&format!("c/{name}.c"), name, "musl-gcc", "musl-tools", C_FLAGS).flags(&["-std=gnu11"])
    }

    /// `programs/c/NAME.c` as a shared library `libNAME.so`.
    pub fn library(name: &str) -> Self {
        Self::new(
            &format!("c/{name}.c"),
            &format!("lib{name}.so"),
            "gcc",
            "gcc",
            C_FLAGS,
        )
        .flags(&["-std=gnu11", "-shared", "-fPIC"])
    }

    /// `programs/c/NAME.c` with nothing but itself: no C library, static.
    pub fn freestanding(name: &str) -> Self {
        Self::new(
            &format!("c/{name}.c"),
            name,
            "gcc",
            "gcc",
            &["-O1", "-nostdlib", "-static", "-fno-pie"],
        )
        .flags(&["-no-pie", "-fno-stack-protector"])
    }

    /// `programs/cpp/NAME.cpp`.
    pub fn cpp(name: &str) -> Self {
        Self::new(&format!("cpp/{name}.cpp"), name, "g++", "g++", C_FLAGS).flags(&["-std=c++17"])
    }

    /// `programs/rust/NAME.rs`.
    pub fn rust(name: &str) -> Self {
        Self::new(
            &format!("rust/{name}.rs"),
            name,
            "rustc",
            "rustc",
            &["--edition", "2021", "-O", "-g"],
        )
        .flags(&["-C", "force-frame-pointers=yes"])
    }

    /// `programs/gpu/NAME.c`.
    pub fn gpu(name: &str) -> Self {
        Self::new(&format!("gpu/{name}.c"), name, "gcc", "gcc", C_FLAGS).flags(&["-std=gnu11", "-pthread"])
    }

    /// `programs/gpu/NAME.cpp`.
    pub fn gpu_cpp(name: &str) -> Self {
        Self::new(&format!("gpu/{name}.cpp"), name, "g++", "g++", C_FLAGS).flags(&["-std=c++17", "-pthread"])
    }

    /// The same with one more source, of `programs`.
    #[must_use]
    pub fn and(mut self, source: &str) -> Self {
        self.after.push(programs().join(source).display().to_string());
        self
    }

    /// `programs/go`, a Go program.
    pub fn go() -> Self {
        Self::new("go/main.go", "gowaits", "go", "golang-go", &["build"])
    }

    /// The same with another name: it is what `comm` shows.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The same with further compiler flags.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.before.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// The same, linked with further libraries (`-lNAME` or paths).
    #[must_use]
    pub fn linked(mut self, libraries: &[&str]) -> Self {
        self.after
            .extend(libraries.iter().map(|library| (*library).to_owned()));
        self
    }

    /// Builds it unless that was done before.
    ///
    /// # Errors
    /// When the compiler is not on this machine. A program that does not compile is a panic.
    pub fn build(&self) -> Result<PathBuf, Missing> {
        let compiler = skip::program(&self.compiler, self.package)?;
        let directory = target_directory()
            .join("fixtures")
            .join(format!("{:016x}", self.fingerprint()));
        let program = directory.join(&self.name);
        fs::create_dir_all(&directory).expect("the folder for fixtures can be made");
        // Suites run in parallel, as threads and as processes: one of them builds, the others wait.
        let lock = File::create(directory.join("lock")).expect("the lock of a fixture can be made");
        lock.lock().expect("the lock of a fixture can be taken");
        if !program.exists() {
            let unfinished = directory.join("unfinished");
            self.compile(&compiler, &unfinished);
            fs::rename(&unfinished, &program).expect("a fixture can be moved to its place");
        }
        // Canonical, because that is how /proc and reports show it.
        Ok(program.canonicalize().expect("the fixture is there"))
    }

    fn compile(&self, compiler: &Path, output: &Path) {
        let mut command = Command::new(compiler);
        command
            .args(&self.before)
            .arg("-o")
            .arg(output)
            .arg(&self.source)
            .args(&self.after);
        if self.compiler == "go" {
            command.env("GOFLAGS", "-mod=mod").env("GO111MODULE", "off");
            command.env("GOCACHE", target_directory().join("fixtures/go-cache"));
        }
        let result = command.output().expect("the compiler runs");
        assert!(
            result.status.success(),
            "{command:?} failed:\n{}",
            String::from_utf8_lossy(&result.stderr)
        );
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (
            &self.compiler,
            &self.name,
            &self.before,
            &self.after,
            &self.source,
        )
            .hash(&mut hasher);
        fs::read(&self.source)
            .expect("the fixture's source can be read")
            .hash(&mut hasher);
        for header in ["c/truth.h", "c/pool.h", "c/chain.h", "c/short.h"] {
            fs::read(programs().join(header))
                .expect("the fixtures' headers can be read")
                .hash(&mut hasher);
        }
        if self.source.starts_with(programs().join("gpu")) {
            for file in gpu_shared() {
                fs::read(&file)
                    .expect("the GPU fixtures' sources can be read")
                    .hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

/// What the fixtures of a GPU include, and sources that are the second of one.
fn gpu_shared() -> Vec<PathBuf> {
    [
        "gpu.h",
        "driver.h",
        "runtime.h",
        "torch.h",
        "fake_state.h",
        "fake_vmm.c",
    ]
    .map(|file| programs().join("gpu").join(file))
    .to_vec()
}

/// A C fixture that needs gcc only. Without gcc nothing can be tested: that fails.
pub fn c(name: &str) -> PathBuf {
    Fixture::c(name)
        .build()
        .expect("gcc is needed by all suites: install gcc and libc6-dev")
}

/// Copies a program that is to be run. By a process of its own: a file that this one has open for writing is open in
/// every child that another test forks meanwhile, and the kernel runs no file that is open for writing (`ETXTBSY`).
pub fn copy(program: &Path, to: &Path) {
    let copied = Command::new("cp").arg(program).arg(to).status();
    assert!(
        copied.expect("cp starts").success(),
        "{} cannot be copied",
        program.display()
    );
}

/// The Python fixture.
pub fn python(name: &str) -> PathBuf {
    programs().join(format!("python/{name}.py"))
}

/// The fixture for node.
pub fn node(name: &str) -> PathBuf {
    programs().join(format!("node/{name}.js"))
}
