//! Builds the corpus's programs into `target/corpus/bin`, those anew whose sources have changed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};

use super::cases::{Case, Source};
use crate::process::{find_program, output, workspace};

/// Whole stacks, and no allocation elided.
const FLAGS: [&str; 9] = [
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-builtin",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Werror",
];

/// How each program is started.
pub(super) struct Programs {
    bin: PathBuf,
    by_source: BTreeMap<String, Vec<String>>,
}

impl Programs {
    /// Builds what the cases need.
    ///
    /// # Errors
    /// When a compiler or Python is missing, or a program does not compile.
    pub(super) fn build(bin: &Path, cases: &[&Case]) -> Result<Self> {
        fs::create_dir_all(bin).with_context(|| format!("cannot create {}", bin.display()))?;
        let mut programs = Self {
            bin: bin.to_owned(),
            by_source: BTreeMap::new(),
        };
        for case in cases {
            let key = format!("{:?}", case.source);
            if !programs.by_source.contains_key(&key) {
                let words = programs.one(case.source)?;
                programs.by_source.insert(key, words);
            }
        }
        Ok(programs)
    }

    /// The command of a case, without its options.
    pub(super) fn command(&self, case: &Case) -> Command {
        let words = &self.by_source[&format!("{:?}", case.source)];
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("PYTHONDONTWRITEBYTECODE", "1");
        if matches!(case.source, Source::Gpu(_)) {
            command.env("LD_LIBRARY_PATH", &self.bin);
        }
        command
    }

    fn one(&self, source: Source) -> Result<Vec<String>> {
        let corpus = workspace().join("tests/corpus");
        let path = match source {
            Source::C(name) => {
                self.native("gcc", &["-std=gnu11", "-lm"], &corpus.join("c").join(name), "c")?
            }
            Source::Cpp(name) => {
                self.native("g++", &["-std=c++17"], &corpus.join("cpp").join(name), "cpp")?
            }
            Source::Gpu(name) => {
                let driver = self.driver()?;
                let driver = driver.to_str().context("target/ has a plain path")?;
                self.native(
                    "gcc",
                    &["-std=gnu11", "-lm", driver],
                    &corpus.join("c").join(name),
                    "c",
                )?
            }
            Source::Rust(name) => self.rust(&corpus.join("rust").join(name).with_extension("rs"))?,
            Source::Python(name) => {
                // The distribution's: others may be wrapped in scripts.
                let python = Some(PathBuf::from("/usr/bin/python3")).filter(|path| path.exists());
                let python = python
                    .or_else(|| find_program("python3"))
                    .context("python3 is needed: install it")?;
                let script = corpus.join("python").join(name).with_extension("py");
                return Ok([python, script].map(|path| path.display().to_string()).into());
            }
        };
        Ok(vec![path.display().to_string()])
    }

    fn native(&self, compiler: &str, flags: &[&str], source: &Path, extension: &str) -> Result<PathBuf> {
        let source = source.with_extension(extension);
        let built = self.built(&source);
        let header = workspace().join("tests/corpus/c/corpus.h");
        if is_stale(&built, &[&source, &header])? {
            compile(
                Command::new(compiler).args(FLAGS).arg(&source).args(flags),
                &built,
            )?;
        }
        Ok(built)
    }

    fn rust(&self, source: &Path) -> Result<PathBuf> {
        let built = self.built(source);
        let shared = source.with_file_name("corpus.rs");
        if is_stale(&built, &[source, &shared])? {
            let mut rustc = Command::new("rustc");
            rustc.args(["--edition", "2024", "-O", "-g", "-C", "force-frame-pointers=yes"]);
            compile(rustc.arg(source), &built)?;
        }
        Ok(built)
    }

    /// `libcuda.so.1`, as the suites have it.
    fn driver(&self) -> Result<PathBuf> {
        let sources = workspace().join("tests/programs/gpu");
        let built = self.bin.join("libcuda.so.1");
        let parts = ["fake_driver.c", "fake_vmm.c"].map(|part| sources.join(part));
        if is_stale(&built, &[&parts[0], &parts[1]])? {
            let mut gcc = Command::new("gcc");
            gcc.args(FLAGS)
                .args(["-std=gnu11", "-shared", "-fPIC", "-fno-ipa-icf"]);
            gcc.args(["-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic-functions"]);
            compile(gcc.args(&parts), &built)?;
        }
        Ok(built)
    }

    /// Of C++ and Rust too, whose sources may be called alike.
    fn built(&self, source: &Path) -> PathBuf {
        let name = source
            .file_name()
            .map(|name| name.to_string_lossy().replace('.', "_"));
        self.bin.join(name.unwrap_or_default())
    }
}

fn compile(command: &mut Command, into: &Path) -> Result<()> {
    output(command.arg("-o").arg(into)).map(drop)
}

fn is_stale(built: &Path, sources: &[&Path]) -> Result<bool> {
    let changed = |path: &Path| -> Result<SystemTime> {
        let metadata = path.metadata();
        let changed = metadata.and_then(|metadata| metadata.modified());
        changed.with_context(|| format!("cannot look at {}", path.display()))
    };
    if !built.exists() {
        return Ok(true);
    }
    ensure!(!sources.is_empty(), "{} is made of nothing", built.display());
    let built = changed(built)?;
    for source in sources {
        if changed(source)? > built {
            return Ok(true);
        }
    }
    Ok(false)
}
