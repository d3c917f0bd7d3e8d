//! The traced programs, compiled where they run: by nvcc where there is a GPU, else by g++ with the fake driver and its
//! runtime library.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::machine::{Machine, cuda_tool, last_line};

/// How a program carries CUDA's runtime library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Build {
    /// Linked into it, as nvcc does without being asked: the library's functions are local symbols.
    Static,
    /// The same without symbols, but for the program's own `leak_` functions.
    Stripped,
    /// Beside it.
    Shared,
}

impl Build {
    pub(super) const ALL: [Self; 3] = [Self::Static, Self::Stripped, Self::Shared];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Stripped => "stripped",
            Self::Shared => "shared",
        }
    }
}

/// Stacks are walked by tables, so these are for the eye of who looks at one; no tail calls, as a caller must stay in them.
const FLAGS: [&str; 4] = [
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
    "-fno-optimize-sibling-calls",
];

/// Where they are.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    directory: PathBuf,
    /// Of the fake driver; none where there is a GPU.
    fake: Option<PathBuf>,
}

impl Programs {
    /// `accept_leak` in a build.
    pub(super) fn leak(&self, build: Build) -> Command {
        self.program(&format!("accept_leak_{}", build.name()))
    }

    /// Another program.
    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.directory.join(name));
        self.environment(&mut command);
        command
    }

    /// leaktrace is to have it too where it starts the program.
    pub(super) fn environment(&self, command: &mut Command) {
        if let Some(fake) = &self.fake {
            command.env("LD_LIBRARY_PATH", fake);
        }
    }

    pub(super) fn path(&self, build: Build) -> PathBuf {
        self.directory.join(format!("accept_leak_{}", build.name()))
    }

    pub(super) fn build(machine: &mut Machine) -> Result<Self> {
        let directory = machine.work.clone();
        let compiler = if machine.gpu.is_ok() {
            let nvcc = cuda_tool("nvcc").context("no nvcc in PATH or /usr/local/cuda/bin")?;
            Compiler::Nvcc(nvcc)
        } else {
            let fake = directory.join("fake");
            build_fake(machine, &fake)?;
            Compiler::Gxx(fake)
        };
        for build in Build::ALL {
            let name = format!("accept_leak_{}", build.name());
            compile(machine, &compiler, "accept_leak.cpp", &name, build)?;
        }
        compile(
            machine,
            &compiler,
            "accept_names.cpp",
            "accept_names",
            Build::Static,
        )?;
        compile(
            machine,
            &compiler,
            "accept_cost.cpp",
            "accept_cost",
            Build::Static,
        )?;
        let fake = match compiler {
            Compiler::Nvcc(_) => None,
            Compiler::Gxx(fake) => Some(fake),
        };
        Ok(Self { directory, fake })
    }
}

enum Compiler {
    /// By its path.
    Nvcc(PathBuf),
    /// With the fake libraries in this folder.
    Gxx(PathBuf),
}

fn compile(machine: &mut Machine, compiler: &Compiler, source: &str, name: &str, build: Build) -> Result<()> {
    let sources = machine.sources();
    let mut command = match compiler {
        Compiler::Nvcc(path) => {
            let mut command = Command::new(path);
            command.args(["-Xcompiler", &FLAGS.join(","), "-Xcompiler", "-pthread"]);
            command
        }
        Compiler::Gxx(_) => {
            let mut command = Command::new("g++");
            command.args(FLAGS).arg("-pthread");
            command
        }
    };
    command
        .arg("-I")
        .arg(&sources)
        .arg(sources.join(source))
        .arg("-o")
        .arg(machine.work.join(name));
    if build == Build::Stripped {
        // Without a `strip`, which need not be there.
        command.args(["-Xlinker", "-s", "-Xlinker", "--export-dynamic-symbol=leak_*"]);
    }
    match (compiler, build) {
        (Compiler::Nvcc(path), Build::Shared) => {
            command.args(["-cudart", "shared"]);
            // The folders of the toolkit need not be known to the loader.
            for folder in library_folders(path) {
                command.args(["-Xlinker", "-rpath", "-Xlinker"]).arg(folder);
            }
        }
        (Compiler::Nvcc(_), _) => {
            command.args(["-cudart", "static"]);
        }
        (Compiler::Gxx(fake), Build::Shared) => {
            command.arg(fake.join("libcudart.so.12"));
        }
        (Compiler::Gxx(fake), _) => {
            command.arg(fake.join("libcudart_static.a"));
        }
    }
    done(machine, name, command.arg("-ldl"))
}

fn library_folders(nvcc: &Path) -> Vec<PathBuf> {
    let nvcc = nvcc.canonicalize().unwrap_or_else(|_| nvcc.to_owned());
    let root = nvcc.parent().and_then(Path::parent).map(Path::to_owned);
    let root = root.unwrap_or_default();
    ["lib64", "lib", "targets/x86_64-linux/lib"]
        .map(|folder| root.join(folder))
        .into_iter()
        .filter(|folder| folder.is_dir())
        .collect()
}

/// As the tests build it: the runtime library has no frame pointers, like NVIDIA's.
fn build_fake(machine: &mut Machine, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let sources = machine.sources();
    let gcc = |files: &[&str], flags: &[&str], output: &str| {
        let mut command = Command::new("gcc");
        command.args([
            "-std=gnu11",
            "-g",
            "-O1",
            "-fPIC",
            "-fno-optimize-sibling-calls",
            "-fno-ipa-icf",
        ]);
        command.args(flags);
        command.args(files.iter().map(|file| sources.join(file)));
        command
            .arg("-o")
            .arg(folder.join(output))
            .args(["-ldl", "-lpthread"]);
        command
    };
    let hidden = "-fvisibility=hidden";
    let driver = ["-shared", "-fno-omit-frame-pointer", "-Wl,-soname,libcuda.so.1"];
    let shared = [
        "-shared",
        "-DSHARED",
        "-fomit-frame-pointer",
        hidden,
        "-Wl,-soname,libcudart.so.12",
    ];
    let archived = ["-c", "-fomit-frame-pointer", hidden];
    done(
        machine,
        "the fake driver",
        &mut gcc(&["fake_driver.c", "fake_vmm.c"], &driver, "libcuda.so.1"),
    )?;
    done(
        machine,
        "the fake runtime library",
        &mut gcc(&["fake_runtime.c"], &shared, "libcudart.so.12"),
    )?;
    done(
        machine,
        "the fake runtime library, static",
        &mut gcc(&["fake_runtime.c"], &archived, "runtime.o"),
    )?;
    let mut archive = Command::new("ar");
    archive
        .arg("rcs")
        .arg(folder.join("libcudart_static.a"))
        .arg(folder.join("runtime.o"));
    done(machine, "the fake runtime library's archive", &mut archive)
}

fn done(machine: &mut Machine, name: &str, command: &mut Command) -> Result<()> {
    let ended = machine.run(name, command)?;
    if !ended.succeeded {
        bail!("{name} does not compile: {}", last_line(&ended.text));
    }
    Ok(())
}

/// Refuses what a prepared folder does not have.
pub(super) fn check_sources(folder: &Path) -> Result<()> {
    for name in [
        "accept_leak.cpp",
        "accept_steps.py",
        "driver.h",
        "fake_driver.c",
        "fake_runtime.c",
        "runtime.h",
    ] {
        ensure!(folder.join(name).is_file(), "no {name} in {}", folder.display());
    }
    Ok(())
}
