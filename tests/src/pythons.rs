//! The Python interpreters on this machine: which there are, what each is, and how each is started.
//!
//! Must not know what leaktrace makes of them.

use std::{
    collections::BTreeSet,
    env,
    fmt::{self, Display},
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    debian,
    fixtures::{self, Fixture, target_directory},
    skip::{self, Missing},
};

/// Further interpreters, as paths with colons between them.
const FURTHER: &str = "LEAKTRACE_TEST_PYTHONS";

/// Minor versions of CPython 3 that leaktrace reads.
pub const VERSIONS: std::ops::RangeInclusive<u8> = 8..=14;

/// The release of Debian with newer interpreters than this machine's, and their packages; those it does not have are
/// left out, and the version is missed below.
const LATER: &str = "forky";
const LATER_PACKAGES: [&str; 4] = ["python3.13", "python3.14", "python3.15", "libpython3.14"];

/// Says of itself what it is.
const ABOUT: &str = "import sys, sysconfig; print(sys.version_info[1], sys.implementation.name, \
                     int(bool(sysconfig.get_config_var('Py_GIL_DISABLED'))), sys.version.split()[0], sys.prefix)";

/// A Python interpreter.
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a build")]
#[derive(Clone, Debug)]
pub struct Python {
    /// What it is, in words.
    pub name: String,
    /// Its version, such as `3.11.2`.
    pub version: String,
    /// The second number of it.
    pub minor: u8,
    /// Whether it is CPython.
    pub is_cpython: bool,
    /// Whether it has no global lock.
    pub is_free_threaded: bool,
    /// Whether it is in a shared library.
    pub is_shared: bool,
    /// Whether the file with it has no symbols but those for linking.
    pub is_stripped: bool,
    /// The file with it, as this process sees it.
    pub object: PathBuf,
    /// As it sees it itself.
    program: PathBuf,
    prefix: PathBuf,
    /// Its root folder, if not this process's.
    root: Option<PathBuf>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Display for Python {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |is: bool, word: &'static str| if is { word } else { "" };
        write!(
            formatter,
            "{} ({}{}{}{})",
            self.name,
            self.version,
            word(self.is_shared, ", shared"),
            word(self.is_stripped, ", stripped"),
            word(self.is_free_threaded, ", free-threaded"),
        )
    }
}

/// A folder that an interpreter sees, with the Python programs in it; gone when dropped.
pub struct Workplace {
    folder: TempDir,
    seen: PathBuf,
}

impl Workplace {
    /// A file in it, as this process sees it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As the interpreter sees it.
    pub fn seen(&self, name: &str) -> String {
        let path = self.seen.join(name);
        path.into_os_string().into_string().expect("a plain path")
    }
}

impl Python {
    /// Asks the interpreter `program`, in the folder `root` if that is given, what it is.
    ///
    /// # Errors
    /// When it does not run.
    fn ask(
        name: &str,
        program: &Path,
        root: Option<&Path>,
        environment: Vec<(&'static str, PathBuf)>,
    ) -> Result<Self, Missing> {
        let mut this = Self {
            name: name.to_owned(),
            version: String::new(),
            minor: 0,
            is_cpython: false,
            is_free_threaded: false,
            is_shared: false,
            is_stripped: false,
            object: PathBuf::new(),
            program: program.to_owned(),
            prefix: PathBuf::new(),
            root: root.map(Path::to_owned),
            environment,
        };
        let failed = |why: &str| Missing(format!("{name} ({}) does not run: {why}", program.display()));
        let output = this.command(&["-c", ABOUT]).output();
        let output = output.map_err(|error| failed(&error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let mut words = said.splitn(5, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        this.minor = word()
            .parse()
            .map_err(|_not_a_number| failed(&String::from_utf8_lossy(&output.stderr)))?;
        this.is_cpython = word() == "cpython";
        this.is_free_threaded = word() == "1";
        this.version = word();
        this.prefix = word().into();
        this.look_at_object();
        Ok(this)
    }

    /// Finds the file that the interpreter is in: its program, or the library that this needs.
    fn look_at_object(&mut self) {
        let root = self.root.clone().unwrap_or_else(|| PathBuf::from("/"));
        let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        let program = inside(&self.program);
        let program = program.canonicalize().unwrap_or(program);
        let needed = readelf(&["-dW"], &program);
        let library = needed
            .lines()
            .filter_map(|line| line.split_once("Shared library: [")?.1.strip_suffix(']'))
            .find(|name| name.starts_with("libpython"));
        self.is_shared = library.is_some();
        let folders = self.environment.iter().map(|(_, value)| value.clone()).chain([
            inside(&self.prefix.join("lib")),
            inside(Path::new("/usr/lib/x86_64-linux-gnu")),
            inside(Path::new("/usr/lib/aarch64-linux-gnu")),
        ]);
        let library =
            library.and_then(|name| folders.map(|folder| folder.join(name)).find(|path| path.exists()));
        self.object = library.unwrap_or(program);
        self.is_stripped = !readelf(&["-SW"], &self.object).contains(" .symtab ");
    }

    /// Its command line.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut words = self.words();
        let mut command = Command::new(words.remove(0));
        command.args(words).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The words that start it: the program, and its root.
    pub fn words(&self) -> Vec<PathBuf> {
        let chroot = self
            .root
            .iter()
            .flat_map(|root| [Path::new("chroot"), root.as_path()]);
        chroot.map(Path::to_owned).chain([self.program.clone()]).collect()
    }

    /// A folder to work in, with copies of these programs of `programs/python`.
    pub fn workplace(&self, programs: &[&str]) -> Workplace {
        let root = self.root.clone().unwrap_or_else(|| PathBuf::from("/"));
        let parent = if self.root.is_some() {
            root.join("tmp")
        } else {
            env::temp_dir()
        };
        let folder = TempDir::new_in(parent).expect("a temporary folder can be made");
        for program in programs {
            let copied = fs::copy(
                fixtures::python(program),
                folder.path().join(format!("{program}.py")),
            );
            copied.expect("a program can be copied");
        }
        fs::create_dir(folder.path().join("modules")).expect("a folder for modules can be made");
        let seen = match &self.root {
            Some(root) => Path::new("/").join(folder.path().strip_prefix(root).expect("it is in the root")),
            None => folder.path().to_owned(),
        };
        Workplace { folder, seen }
    }

    /// The same interpreter without symbols.
    fn stripped(&self) -> Result<Self, Missing> {
        let strip = skip::program("strip", "binutils")?;
        let mut hasher = DefaultHasher::new();
        (&self.object, &self.version).hash(&mut hasher);
        let directory = target_directory()
            .join("fixtures")
            .join(format!("python-stripped-{:016x}", hasher.finish()));
        fs::create_dir_all(&directory).expect("a folder for an interpreter can be made");
        let directory = directory.canonicalize().expect("the folder is there");
        let lock = File::create(directory.join("lock")).expect("the lock of an interpreter can be made");
        lock.lock().expect("the lock of an interpreter can be taken");
        let place = |file: &Path| directory.join(file.file_name().expect("a file has a name"));
        let program = self.program.canonicalize().expect("the interpreter is there");
        for file in BTreeSet::from([&program, &self.object]) {
            if !place(file).exists() {
                let unfinished = directory.join("unfinished");
                let mut command = Command::new(&strip);
                command.arg("--strip-all").arg("-o").arg(&unfinished).arg(file);
                let status = command.status().expect("strip starts");
                assert!(status.success(), "{command:?} failed");
                fs::rename(&unfinished, place(file)).expect("an interpreter can be moved to its place");
            }
        }
        let environment = vec![
            ("LD_LIBRARY_PATH", directory.clone()),
            ("PYTHONHOME", self.prefix.clone()),
        ];
        let stripped = Self::ask(&self.name, &place(&program), None, environment)?;
        assert!(
            stripped.is_stripped,
            "{stripped} has symbols: {}",
            stripped.object.display()
        );
        Ok(stripped)
    }
}

/// All interpreters, stripped copies included. What one would expect and is not here is said as a skipped test is.
pub fn all() -> Vec<Python> {
    let mut found: Vec<Python> = Vec::new();
    let mut missing = Vec::new();
    for python in [pyenv(), further(), debians(), later()].concat() {
        match python {
            Ok(python) => found.push(python),
            Err(Missing(why)) => missing.push(why),
        }
    }
    let stripped: Vec<_> = found
        .iter()
        .filter(|python| python.is_cpython && !python.is_stripped && python.root.is_none())
        .map(Python::stripped)
        .collect();
    for python in stripped {
        match python {
            Ok(python) => found.push(python),
            Err(Missing(why)) => missing.push(why),
        }
    }
    for minor in VERSIONS {
        if !found
            .iter()
            .any(|python| python.is_supported() && python.minor == minor)
        {
            missing.push(format!(
                "no CPython 3.{minor} on this machine; name one in {FURTHER}"
            ));
        }
    }
    if !found.iter().any(|python| python.is_free_threaded) {
        missing.push(format!(
            "no free-threaded CPython on this machine; name one in {FURTHER}"
        ));
    }
    for why in missing {
        skip::skip(&why);
    }
    found
}

impl Python {
    /// Whether it sees the files that this process sees.
    pub const fn is_here(&self) -> bool {
        self.root.is_none()
    }

    /// Whether its stacks must have their Python frames with lines.
    pub fn is_supported(&self) -> bool {
        self.is_cpython && !self.is_free_threaded && VERSIONS.contains(&self.minor)
    }
}

/// Debian's own, which every test of Python needs.
pub fn debians_python3() -> Result<Python, Missing> {
    Python::ask(
        "Debian's python3",
        Path::new("/usr/bin/python3"),
        None,
        Vec::new(),
    )
}

fn debians() -> Vec<Result<Python, Missing>> {
    let pypy = skip::program("pypy3", "pypy3")
        .and_then(|program| Python::ask("Debian's pypy3", &program, None, Vec::new()));
    vec![debians_python3(), embedded(), pypy]
}

/// A program of its own around this machine's libpython.
pub fn embedded() -> Result<Python, Missing> {
    let minor = debians_python3()?.minor;
    let file = format!("libpython3.{minor}.so.1.0");
    let library = skip::library(&file, &format!("libpython3.{minor}"))?;
    let library = library.to_str().expect("a plain path");
    let program = Fixture::c("embeds_python").linked(&[library]).build()?;
    // It is nowhere near the modules.
    Python::ask(
        "a program with Python in it",
        &program,
        None,
        vec![("PYTHONHOME", "/usr".into())],
    )
}

/// Those of pyenv that are not too old to be of interest.
pub fn pyenv() -> Vec<Result<Python, Missing>> {
    let home = || Some(Path::new(&env::var_os("HOME")?).join(".pyenv"));
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(home);
    let versions = root.and_then(|root| fs::read_dir(root.join("versions")).ok());
    let mut programs: Vec<PathBuf> = versions
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin/python3"))
        .filter(|program| program.exists())
        .collect();
    programs.sort();
    let asked = programs
        .iter()
        .map(|program| Python::ask("pyenv's python3", program, None, Vec::new()));
    // Older ones are none of leaktrace's.
    asked
        .filter(|python| {
            python
                .as_ref()
                .is_ok_and(|python| python.minor >= *VERSIONS.start())
        })
        .collect()
}

fn further() -> Vec<Result<Python, Missing>> {
    let paths = env::var_os(FURTHER).unwrap_or_default();
    env::split_paths(&paths)
        .filter(|path| !path.as_os_str().is_empty())
        .map(|path| Python::ask("python3", &path, None, Vec::new()))
        .collect()
}

fn later() -> Vec<Result<Python, Missing>> {
    let root = match debian::unpacked(LATER, &LATER_PACKAGES) {
        Ok(root) => root,
        Err(missing) => return vec![Err(missing)],
    };
    let programs = LATER_PACKAGES
        .iter()
        .filter(|package| !package.starts_with("lib"))
        .map(|package| Path::new("/usr/bin").join(package))
        .filter(|program| {
            root.join("usr/bin")
                .join(program.file_name().unwrap_or_default())
                .exists()
        })
        .map(|program| Python::ask(&format!("Debian {LATER}'s"), &program, Some(&root), Vec::new()));
    programs.chain([later_embedded(&root)]).collect()
}

/// The same release's shared library, in a program of its own.
fn later_embedded(root: &Path) -> Result<Python, Missing> {
    let name = LATER_PACKAGES.iter().find(|package| package.starts_with("lib"));
    let start = format!("{}.so.", name.expect("one of them is a library"));
    let library = ["x86_64", "aarch64"]
        .iter()
        .filter_map(|machine| fs::read_dir(root.join(format!("usr/lib/{machine}-linux-gnu"))).ok())
        .flat_map(Iterator::flatten)
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains(&start))
        // The longest name is the file's, the others are links to it.
        .max()
        .ok_or_else(|| Missing(format!("Debian {LATER} has no {start}; name a newer release")))?;
    let library = library.to_str().expect("a plain path");
    // It needs a newer C library than this machine's.
    let fixture = Fixture::c("embeds_python").linked(&[library, "-Wl,--allow-shlib-undefined"]);
    let (built, inside) = (fixture.build()?, Path::new("/usr/bin/embeds_python"));
    let program = root.join("usr/bin/embeds_python");
    if !program.exists() {
        let unfinished = program.with_extension(std::process::id().to_string());
        fixtures::copy(&built, &unfinished);
        fs::rename(&unfinished, &program).expect("a program can be moved to its place");
    }
    let environment = vec![("PYTHONHOME", "/usr".into())];
    Python::ask(
        &format!("a program with Debian {LATER}'s Python in it"),
        inside,
        Some(root),
        environment,
    )
}

/// What readelf prints; nothing where it is not there, which the compiler brings.
fn readelf(options: &[&str], file: &Path) -> String {
    let output = Command::new("readelf")
        .args(options)
        .arg(file)
        .env("LC_ALL", "C")
        .output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}
