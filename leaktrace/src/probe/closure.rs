//! Which files a command will map before its first instruction runs: its executable, its loader, its
//! libraries and what is preloaded.
//!
//! The probes of a started command are set on these before it runs, so that static constructors are
//! seen. Files only: a library that turns out not to be mapped costs nothing, one that is missed here is
//! found when it is mapped. Must not know what is in the files.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use lddtree::{DependencyAnalyzer, DependencyTree};
use nix::unistd::{AccessFlags, access};

/// Why a command cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum ClosureError {
    /// No such program.
    #[error("no program '{program}' in PATH; give its path (leaktrace -- ./{program} ...)")]
    NotInPath {
        /// What was given.
        program: String,
    },
    /// No such file.
    #[error("no file {path}; check the command after --")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be run.
    #[error("{path} is not executable; make it so (chmod +x {path})")]
    NotExecutable {
        /// The path.
        path: PathBuf,
    },
    /// A directory was named.
    #[error("{path} is a directory; name a program in it")]
    Directory {
        /// The path.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("cannot read {path}: {source}; run leaktrace as root")]
    Read {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its dependencies could not be read.
    #[error("cannot find the libraries of {path}: {problem}; check it with ldd {path}")]
    Libraries {
        /// The path.
        path: PathBuf,
        /// What was wrong.
        problem: String,
    },
    /// Interpreters of interpreters without end.
    #[error("{path} is a script whose interpreters lead on and on; name the last one yourself")]
    TooManyInterpreters {
        /// The path.
        path: PathBuf,
    },
}

/// How the command will see an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The kernel gives up after as many (`exec_binprm`, fs/exec.c, 6.12).
const MAX_INTERPRETERS: usize = 5;

/// The kernel reads no more of a `#!` line (`BINPRM_BUF_SIZE`).
const SCRIPT_HEAD_BYTES: u64 = 256;

/// Where `execvp` looks without a PATH (glibc).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Files that `program` will map at its start, each once, all links resolved; the file that is run comes
/// first. A script is followed to its interpreter, through `env` too.
///
/// # Errors
/// [`ClosureError`] when there is no such program or it cannot be run.
pub fn objects_of_command(program: &OsStr, env: Environment<'_>) -> Result<Vec<PathBuf>, ClosureError> {
    let mut objects = Objects::default();
    let mut program = resolve_program(program, env)?;
    for _ in 0..MAX_INTERPRETERS {
        match read_head(&program)? {
            Head::Elf => {
                objects.add_with_libraries(&program, env)?;
                for preloaded in preloaded(env) {
                    // The loader skips what it cannot preload, and so does this.
                    let Ok(()) = objects.add_with_libraries(&preloaded, env) else {
                        continue;
                    };
                }
                return Ok(objects.paths);
            }
            Head::Script {
                interpreter,
                argument,
            } => {
                program = if interpreter.file_name() == Some(OsStr::new("env")) {
                    // env itself allocates little and execs at once, but it is the first image.
                    objects.add_with_libraries(&resolve_program(interpreter.as_os_str(), env)?, env)?;
                    match command_of_env(&argument) {
                        Some(name) => resolve_program(&name, env)?,
                        None => return Ok(objects.paths),
                    }
                } else {
                    resolve_program(interpreter.as_os_str(), env)?
                };
            }
            // execvp hands what the kernel does not know to the shell.
            Head::Other => program = PathBuf::from("/bin/sh"),
        }
    }
    Err(ClosureError::TooManyInterpreters { path: program })
}

/// Finds a program as `execvp` does.
///
/// # Errors
/// [`ClosureError`].
pub fn resolve_program(program: &OsStr, env: Environment<'_>) -> Result<PathBuf, ClosureError> {
    if program.as_bytes().contains(&b'/') {
        let path = PathBuf::from(program);
        return check_program(&path).map(|()| path);
    }
    let directories = env("PATH").unwrap_or_else(|| OsString::from(DEFAULT_PATH));
    let mut refused = None;
    if !program.is_empty() {
        for directory in std::env::split_paths(&directories) {
            // An empty element of PATH is the working directory.
            let directory = if directory.as_os_str().is_empty() {
                PathBuf::from(".")
            } else {
                directory
            };
            let path = directory.join(program);
            match check_program(&path) {
                Ok(()) => return Ok(path),
                Err(error @ ClosureError::NotExecutable { .. }) => refused = refused.or(Some(error)),
                Err(_) => {}
            }
        }
    }
    Err(refused.unwrap_or_else(|| ClosureError::NotInPath {
        program: program.to_string_lossy().into_owned(),
    }))
}

fn check_program(path: &Path) -> Result<(), ClosureError> {
    let path = path.to_owned();
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Err(ClosureError::Directory { path }),
        Ok(_) if access(&path, AccessFlags::X_OK).is_ok() => Ok(()),
        Ok(_) => Err(ClosureError::NotExecutable { path }),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(ClosureError::NotFound { path })
        }
        Err(source) => Err(ClosureError::Read { path, source }),
    }
}

/// What kind of file is run.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    Elf,
    Script { interpreter: PathBuf, argument: Vec<u8> },
    Other,
}

fn read_head(path: &Path) -> Result<Head, ClosureError> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SCRIPT_HEAD_BYTES).read_to_end(&mut head))
        .map_err(|source| ClosureError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(parse_head(&head))
}

fn parse_head(head: &[u8]) -> Head {
    if head.starts_with(b"\x7fELF") {
        return Head::Elf;
    }
    let Some(line) = head
        .strip_prefix(b"#!")
        .and_then(|rest| rest.split(|byte| *byte == b'\n').next())
    else {
        return Head::Other;
    };
    let line = line.trim_ascii();
    let end = line
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(end);
    if interpreter.is_empty() {
        return Head::Other;
    }
    Head::Script {
        interpreter: PathBuf::from(OsString::from_vec(interpreter.to_vec())),
        argument: argument.trim_ascii().to_vec(),
    }
}

/// The program that `env` runs: the first word that is neither option nor assignment.
fn command_of_env(argument: &[u8]) -> Option<OsString> {
    argument
        .split(u8::is_ascii_whitespace)
        .map(|word| word.strip_prefix(b"-S").unwrap_or(word))
        .find(|word| !word.is_empty() && !word.starts_with(b"-") && !word.contains(&b'='))
        .map(|word| OsString::from_vec(word.to_vec()))
}

/// Files found so far, in order.
#[derive(Default)]
struct Objects {
    paths: Vec<PathBuf>,
    known: HashSet<PathBuf>,
}

impl Objects {
    fn add(&mut self, path: &Path) {
        if let Ok(path) = fs::canonicalize(path)
            && self.known.insert(path.clone())
        {
            self.paths.push(path);
        }
    }

    fn add_with_libraries(&mut self, path: &Path, env: Environment<'_>) -> Result<(), ClosureError> {
        self.add(path);
        let Some(tree) = libraries(path, env)? else {
            return Ok(());
        };
        // With musl this is libc itself.
        if let Some(interpreter) = &tree.interpreter {
            self.add(Path::new(interpreter));
        }
        let mut found: Vec<&Path> = tree
            .libraries
            .values()
            .filter_map(|library| library.realpath.as_deref())
            .collect();
        found.sort_unstable();
        for library in found {
            self.add(library);
        }
        // The loader prefers builds for newer processors, in directories beside the plain ones.
        for library in tree.libraries.values().filter(|library| library.found()) {
            for level in ["x86-64-v2", "x86-64-v3", "x86-64-v4"] {
                if let (Some(directory), Some(name)) = (library.path.parent(), library.path.file_name()) {
                    self.add(&directory.join("glibc-hwcaps").join(level).join(name));
                }
            }
        }
        Ok(())
    }
}

/// The tree of needed libraries; `None` when names are not text, which the crate that finds them asks for.
fn libraries(path: &Path, env: Environment<'_>) -> Result<Option<DependencyTree>, ClosureError> {
    let named_in_text = fs::canonicalize(path).is_ok_and(|path| path.to_str().is_some());
    if !named_in_text {
        return Ok(None);
    }
    let wrong = |problem: lddtree::Error| ClosureError::Libraries {
        path: path.to_owned(),
        problem: problem.to_string(),
    };
    let analyze = |extra: Vec<PathBuf>| {
        DependencyAnalyzer::default()
            .library_paths(extra)
            .analyze(path)
            .map_err(wrong)
    };
    let directories = library_path(env);
    let tree = analyze(directories.clone())?;
    if tree.rpath.is_empty() || tree.libraries.values().all(lddtree::Library::found) {
        return Ok(Some(tree));
    }
    // DT_RPATH of the executable also serves the libraries beneath it, which the crate leaves out.
    analyze(tree.rpath.iter().map(PathBuf::from).chain(directories).collect()).map(Some)
}

fn library_path(env: Environment<'_>) -> Vec<PathBuf> {
    let Some(value) = env("LD_LIBRARY_PATH") else {
        return Vec::new();
    };
    value
        .as_bytes()
        .split(|byte| matches!(byte, b':' | b';'))
        .filter(|directory| !directory.is_empty())
        .filter_map(|directory| fs::canonicalize(OsStr::from_bytes(directory)).ok())
        .collect()
}

/// Files named by `LD_PRELOAD` and `/etc/ld.so.preload` that exist.
fn preloaded(env: Environment<'_>) -> Vec<PathBuf> {
    let variable = env("LD_PRELOAD").unwrap_or_default();
    let file = fs::read("/etc/ld.so.preload").unwrap_or_default();
    preload_names(variable.as_bytes())
        .into_iter()
        .chain(
            file.split(|byte| *byte == b'\n')
                .flat_map(|line| preload_names(line.split(|byte| *byte == b'#').next().unwrap_or_default())),
        )
        .flat_map(|name| preload_candidates(&name, env))
        .filter(|path| path.is_file())
        .collect()
}

/// Colons and white space separate the names.
fn preload_names(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|byte| *byte == b':' || byte.is_ascii_whitespace())
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// Where a preloaded library may be: `$LIB` stands for a directory that distributions set themselves, and
/// a bare name is looked up as a needed library is.
fn preload_candidates(name: &[u8], env: Environment<'_>) -> Vec<PathBuf> {
    let Ok(name) = std::str::from_utf8(name) else {
        return vec![PathBuf::from(OsString::from_vec(name.to_vec()))];
    };
    let names: Vec<String> = if name.contains("$LIB") || name.contains("${LIB}") {
        ["lib/x86_64-linux-gnu", "lib64", "lib"]
            .iter()
            .map(|directory| name.replace("${LIB}", directory).replace("$LIB", directory))
            .collect()
    } else {
        vec![name.to_owned()]
    };
    if name.contains('/') {
        return names.into_iter().map(PathBuf::from).collect();
    }
    let configured = lddtree::ld_so_conf::parse_ld_so_conf("/etc/ld.so.conf", "/").unwrap_or_default();
    let trusted = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"]
        .iter()
        .map(PathBuf::from);
    let found = library_path(env)
        .into_iter()
        .chain(configured.into_iter().map(PathBuf::from))
        .chain(trusted)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::{Command, Stdio};

    fn no_environment(_: &str) -> Option<OsString> {
        None
    }

    fn file_names(paths: &[PathBuf]) -> Vec<String> {
        paths
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_program_brings_its_libraries_and_loader() {
        // Not this process: other tests load libraries into it.
        let mut cat = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cat.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        // It answers once its libraries are loaded.
        cat.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let own = fs::read_link(format!("/proc/{}/exe", cat.id())).unwrap();
        let objects = objects_of_command(own.as_os_str(), &no_environment).unwrap();
        assert_eq!(objects[0], fs::canonicalize(&own).unwrap());
        let mapped = super::super::process::mappings(cat.id());
        drop(cat.stdin.take());
        assert!(cat.wait().unwrap().success());
        let mapped: HashSet<PathBuf> = mapped
            .unwrap()
            .into_iter()
            .filter(|mapping| mapping.executable)
            .filter_map(|mapping| mapping.path)
            .collect();
        assert!(mapped.len() >= 2);
        for path in mapped {
            assert!(
                objects.contains(&path),
                "{} is mapped and was not found in {objects:?}",
                path.display()
            );
        }
        let distinct: HashSet<_> = objects.iter().collect();
        assert_eq!(distinct.len(), objects.len());
    }

    #[test]
    fn programs_are_found_as_execvp_finds_them() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        fs::create_dir_all(first.join("dir")).unwrap();
        fs::create_dir_all(&second).unwrap();
        write(&first.join("tool"), "x", 0o644);
        write(&second.join("tool"), "x", 0o755);
        write(&first.join("plain"), "x", 0o644);
        let path = std::env::join_paths([&first, &second]).unwrap();
        let env = |name: &str| (name == "PATH").then(|| path.clone());
        assert_eq!(
            resolve_program(OsStr::new("tool"), &env).unwrap(),
            second.join("tool")
        );
        let error = resolve_program(OsStr::new("plain"), &env).unwrap_err();
        assert!(error.to_string().contains("chmod +x"), "{error}");
        let error = resolve_program(OsStr::new("nowhere"), &env).unwrap_err();
        assert!(matches!(error, ClosureError::NotInPath { .. }) && error.to_string().contains("./nowhere"));
        assert!(matches!(
            resolve_program(OsStr::new(""), &env),
            Err(ClosureError::NotInPath { .. })
        ));
        assert!(matches!(
            resolve_program(OsStr::new("dir"), &env),
            Err(ClosureError::NotInPath { .. })
        ));
        let missing = first.join("none");
        assert!(matches!(
            resolve_program(missing.as_os_str(), &env),
            Err(ClosureError::NotFound { .. })
        ));
        assert!(matches!(
            resolve_program(first.as_os_str(), &env),
            Err(ClosureError::Directory { .. })
        ));
        // Without a PATH the shell is still found.
        assert!(
            resolve_program(OsStr::new("sh"), &no_environment)
                .unwrap()
                .ends_with("sh")
        );
    }

    #[test]
    fn scripts_lead_to_their_interpreter() {
        let directory = tempfile::tempdir().unwrap();
        let shell = fs::canonicalize("/bin/sh").unwrap();
        let path = std::env::join_paths(["/bin", "/usr/bin"]).unwrap();
        let env = |name: &str| (name == "PATH").then(|| path.clone());
        for (name, text) in [
            ("direct", "#!/bin/sh\n"),
            ("argument", "#! /bin/sh -e\n"),
            ("env", "#!/usr/bin/env sh\n"),
            ("split", "#!/usr/bin/env -S A=1 sh -e\n"),
            ("bare", "echo no interpreter line\n"),
        ] {
            let script = directory.path().join(name);
            write(&script, text, 0o755);
            let objects = objects_of_command(script.as_os_str(), &env).unwrap();
            assert!(objects.contains(&shell), "{name}: {objects:?}");
            assert!(
                file_names(&objects)
                    .iter()
                    .any(|name| name.starts_with("libc.so") || name.starts_with("ld-musl"))
            );
        }
        let endless = directory.path().join("endless");
        write(&endless, &format!("#!{}\n", endless.display()), 0o755);
        let error = objects_of_command(endless.as_os_str(), &env).unwrap_err();
        assert!(matches!(error, ClosureError::TooManyInterpreters { .. }));
        write(&directory.path().join("lost"), "#!/nowhere/interpreter\n", 0o755);
        let error = objects_of_command(directory.path().join("lost").as_os_str(), &env).unwrap_err();
        assert!(error.to_string().contains("/nowhere/interpreter"), "{error}");
    }

    #[test]
    fn heads_are_told_apart() {
        let script = |interpreter: &str, argument: &str| Head::Script {
            interpreter: interpreter.into(),
            argument: argument.as_bytes().to_vec(),
        };
        assert_eq!(parse_head(b"\x7fELF\x02"), Head::Elf);
        assert_eq!(parse_head(b"#!/bin/sh"), script("/bin/sh", ""));
        assert_eq!(
            parse_head(b"#!  /usr/bin/env  -S python3 -u \nx"),
            script("/usr/bin/env", "-S python3 -u")
        );
        for other in [&b"#!\n"[..], b"", b"echo", b"#!   "] {
            assert_eq!(parse_head(other), Head::Other);
        }
        assert_eq!(command_of_env(b"-S python3 -u"), Some("python3".into()));
        assert_eq!(command_of_env(b"-Spython3 -u"), Some("python3".into()));
        assert_eq!(command_of_env(b"A=1 -i perl"), Some("perl".into()));
        assert_eq!(command_of_env(b"-i"), None);
    }

    #[test]
    fn preloaded_libraries_are_included() {
        assert_eq!(
            preload_names(b" a.so:b.so  c.so:"),
            [b"a.so".to_vec(), b"b.so".to_vec(), b"c.so".to_vec()]
        );
        let libc = objects_of_command(OsStr::new("/bin/sh"), &no_environment)
            .unwrap()
            .into_iter()
            .find(|path| {
                path.to_str().unwrap().contains("libc.so") || path.to_str().unwrap().contains("ld-musl")
            })
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let preloaded = fs::canonicalize(directory.path())
            .unwrap()
            .join("libpreloaded.so");
        fs::copy(&libc, &preloaded).unwrap();
        let by_path = |name: &str| (name == "LD_PRELOAD").then(|| preloaded.clone().into_os_string());
        assert!(
            objects_of_command(OsStr::new("/bin/sh"), &by_path)
                .unwrap()
                .contains(&preloaded)
        );
        let by_name = |name: &str| match name {
            "LD_PRELOAD" => Some(OsString::from("missing.so libpreloaded.so")),
            "LD_LIBRARY_PATH" => Some(directory.path().as_os_str().to_owned()),
            _ => None,
        };
        assert!(
            objects_of_command(OsStr::new("/bin/sh"), &by_name)
                .unwrap()
                .contains(&preloaded)
        );
        assert_eq!(
            preload_candidates(b"/usr/$LIB/libx.so", &no_environment)[1],
            Path::new("/usr/lib64/libx.so")
        );
    }
}
