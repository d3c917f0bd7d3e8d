//! A GPU that is none: builds the fake driver, runtime library and `PyTorch` allocator of `programs/gpu` and programs over
//! them, says how these are started, and compares reports with what they did.
//!
//! It knows nothing of what the libraries do inside; `programs/gpu` owns that.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    fixtures::{self, Fixture},
    leaktrace::Leaktrace,
    report::{GPU_SPACES, Held, Report, Survivor, Truth},
    skip::Missing,
    target::Target,
};

/// Like the real libraries: no frame pointers in the runtime library, and calls that return to it.
const RUNTIME_FLAGS: [&str; 6] = [
    "-O2",
    "-fomit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-ipa-icf",
    "-fvisibility=hidden",
    "-fPIC",
];

const NO_GCC: &str = "gcc is needed by all suites: install gcc and libc6-dev";

/// Counters of the ledger that a program with a GPU knows exactly; zero unless its truth names them.
const CAUSES: [&str; 7] = [
    "gpu_free_unknown",
    "tensor_free_unknown",
    "gpu_untracked",
    "gpu_full",
    "gpu_errors_full",
    "gpu_context_freed",
    "gpu_context_unsure",
];

/// Which of the two layers' calls is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The calls that the program makes.
    Outermost,
    /// The driver's, because the runtime library's are not to be found.
    Driver,
}

/// How a program has its runtime library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// As `libcudart.so.12`.
    Shared,
    /// The same, compiled so that it jumps into the driver where that is the last thing it does.
    SharedJumping,
    /// Linked in; most of its functions are local symbols.
    Static,
    /// Linked in, without symbols of its own; the program's are there.
    StaticNameless,
    /// Linked in, and the program has no symbols at all.
    StaticStripped,
}

/// Which version of `PyTorch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torch {
    /// Totals without a sign.
    Current,
    /// Totals with one: another mangled name.
    Old,
}

/// `libcuda.so.1`.
pub fn driver() -> PathBuf {
    let driver = Fixture::gpu("fake_driver").named("libcuda.so.1");
    let driver = driver.flags(&["-shared", "-fPIC", "-fno-ipa-icf", "-Wl,-soname,libcuda.so.1"]);
    let driver = driver.flags(&["-Wl,-Bsymbolic-functions"]).and("gpu/fake_vmm.c");
    driver.build().expect(NO_GCC)
}

/// `libcudart.so.12`.
pub fn runtime() -> PathBuf {
    runtime_with(&[])
}

fn runtime_with(flags: &[&str]) -> PathBuf {
    let runtime = Fixture::gpu("fake_runtime").named("libcudart.so.12");
    let runtime = runtime.flags(&RUNTIME_FLAGS).flags(&["-DSHARED", "-shared"]);
    let runtime = runtime.flags(&["-Wl,-soname,libcudart.so.12"]).flags(flags);
    runtime.build().expect(NO_GCC)
}

/// The same, to be linked in.
fn runtime_object() -> PathBuf {
    let runtime = Fixture::gpu("fake_runtime").named("cudart_static.o");
    runtime
        .flags(&RUNTIME_FLAGS)
        .flags(&["-c"])
        .build()
        .expect(NO_GCC)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A program and what it needs to run.
pub struct Rig {
    /// The program.
    pub program: PathBuf,
    /// Folders of its libraries.
    folders: Vec<PathBuf>,
    variables: Vec<(&'static str, OsString)>,
    /// Of a program that was changed.
    folder: Option<TempDir>,
}

impl Rig {
    fn new(program: PathBuf, libraries: &[&Path]) -> Self {
        let folder = |library: &&Path| library.parent().expect("it is in a folder").to_owned();
        Self {
            program,
            folders: libraries.iter().map(folder).collect(),
            variables: Vec::new(),
            folder: None,
        }
    }

    /// `programs/gpu/NAME.c`, linked with the driver.
    pub fn driver(name: &str) -> Self {
        let driver = driver();
        let program = Fixture::gpu(name).linked(&[text(&driver)]).build().expect(NO_GCC);
        Self::new(program, &[&driver])
    }

    /// `programs/gpu/NAME.c`, linked with nothing of a GPU; the driver can be opened.
    pub fn unlinked(name: &str) -> Self {
        Self::new(Fixture::gpu(name).build().expect(NO_GCC), &[&driver()])
    }

    /// `programs/gpu/NAME.c`, linked with the runtime library.
    ///
    /// # Errors
    /// When binutils are not on this machine.
    pub fn runtime(name: &str, runtime: Runtime) -> Result<Self, Missing> {
        if let Runtime::Shared | Runtime::SharedJumping = runtime {
            let shared = match runtime {
                Runtime::SharedJumping => runtime_with(&["-foptimize-sibling-calls"]),
                _ => self::runtime(),
            };
            let program = Fixture::gpu(name).linked(&[text(&shared)]).build().expect(NO_GCC);
            return Ok(Self::new(program, &[&driver(), &shared]));
        }
        let object = runtime_object();
        let program = Fixture::gpu(name).linked(&[text(&object)]).build().expect(NO_GCC);
        let mut rig = Self::new(program, &[&driver()]);
        match runtime {
            Runtime::StaticNameless => rig.strip(&["--wildcard", "--strip-symbol=cuda*"])?,
            Runtime::StaticStripped => rig.strip(&["--strip-all"])?,
            Runtime::Shared | Runtime::SharedJumping | Runtime::Static => {}
        }
        Ok(rig)
    }

    /// `programs/gpu/NAME.cpp`, linked with `PyTorch` and the runtime library.
    ///
    /// # Errors
    /// When g++ is not on this machine.
    pub fn torch(name: &str, torch: Torch) -> Result<Self, Missing> {
        let runtime = runtime();
        let version: &[&str] = match torch {
            Torch::Current => &[],
            Torch::Old => &["-DOLD_TOTALS"],
        };
        let library = |source: &str, name: &str| {
            let library = Fixture::gpu_cpp(source).named(name).flags(version);
            let soname = format!("-Wl,-soname,{name}");
            library.flags(&["-shared", "-fPIC", "-fvisibility=hidden", &soname])
        };
        let c10 = library("fake_c10", "libc10.so").build()?;
        let cuda = library("fake_c10_cuda", "libc10_cuda.so");
        let cuda = cuda.linked(&[text(&c10), text(&runtime)]).build()?;
        let program = Fixture::gpu_cpp(name).flags(version);
        let program = program
            .linked(&[text(&cuda), text(&c10), text(&runtime)])
            .build()?;
        Ok(Self::new(program, &[&driver(), &runtime, &c10, &cuda]))
    }

    /// Goes on with a copy of the program that `objcopy` has changed.
    fn strip(&mut self, options: &[&str]) -> Result<(), Missing> {
        let objcopy = crate::skip::program("objcopy", "binutils")?;
        let folder = TempDir::new().expect("a temporary folder can be made");
        let program = folder.path().join(self.program.file_name().expect("a name"));
        let done = Command::new(objcopy)
            .args(options)
            .arg(&self.program)
            .arg(&program)
            .status();
        assert!(done.expect("objcopy starts").success(), "objcopy {options:?}");
        self.program = program;
        self.folder = Some(folder);
        Ok(())
    }

    /// The same with a variable of the fake driver.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// The same without the driver.
    #[must_use]
    pub fn without_driver(mut self) -> Self {
        let driver = driver();
        self.folders.retain(|folder| driver.parent() != Some(folder));
        self
    }

    /// Where its libraries are, as the value of `LD_LIBRARY_PATH`.
    pub fn library_path(&self) -> OsString {
        std::env::join_paths(&self.folders).expect("plain paths")
    }

    /// Starts it.
    pub fn start(&self, arguments: &[&str]) -> Target {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("LD_LIBRARY_PATH", self.library_path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Target::spawn(&mut command)
    }

    /// Has leaktrace start it.
    pub fn command(&self, arguments: &[&str]) -> Leaktrace {
        let path = self.library_path();
        let command = Leaktrace::command(&self.program, arguments).env("LD_LIBRARY_PATH", Path::new(&path));
        let variables = self.variables.iter();
        variables.fold(command, |command, (name, value)| {
            command.env(name, Path::new(value))
        })
    }

    /// All of its shared libraries, each as a file.
    pub fn libraries(&self) -> Vec<PathBuf> {
        let in_folder = |folder: &PathBuf| {
            let files = std::fs::read_dir(folder).expect("a fixture's folder can be read");
            let files = files.map(|file| file.expect("a file").path());
            files
                .filter(|file| file.to_string_lossy().contains(".so"))
                .collect::<Vec<_>>()
        };
        self.folders.iter().flat_map(in_folder).collect()
    }

    /// Copies its libraries into a folder.
    pub fn copy_libraries(&self, to: &Path) {
        std::fs::create_dir_all(to).expect("folders can be made");
        for library in self.libraries() {
            fixtures::copy(&library, &to.join(library.file_name().expect("a name")));
        }
    }
}

/// What the truth says of a site beside its numbers.
struct GpuSite<'a> {
    name: &'a str,
    value: &'a Value,
}

impl GpuSite<'_> {
    fn text(&self, name: &str) -> &str {
        self.value[name]
            .as_str()
            .unwrap_or_else(|| panic!("no {name} in {}", self.value))
    }

    fn number(&self, name: &str) -> u64 {
        self.value[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name} in {}", self.value))
    }

    fn is_of_device(&self) -> bool {
        ["device", "managed", "array", "vmm"].contains(&self.text("space"))
    }
}

/// What a report is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    truth: &'a Truth,
    layer: Layer,
    reservations: bool,
    named: bool,
}

impl<'a> Expected<'a> {
    /// All that the program has done, but for reserved addresses.
    pub const fn of(truth: &'a Truth) -> Self {
        Self {
            truth,
            layer: Layer::Outermost,
            reservations: false,
            named: true,
        }
    }

    /// With the names of this layer.
    #[must_use]
    pub const fn by(mut self, layer: Layer) -> Self {
        self.layer = layer;
        self
    }

    /// With reserved addresses.
    #[must_use]
    pub const fn with_reservations(mut self) -> Self {
        self.reservations = true;
        self
    }

    /// The program's functions have no names: only sums are compared.
    #[must_use]
    pub const fn nameless(mut self) -> Self {
        self.named = false;
        self
    }

    fn sites(&self) -> Vec<GpuSite<'a>> {
        let sites = self.truth.raw["gpu"]["sites"]
            .as_object()
            .expect("a truth with a GPU");
        let sites = sites.iter().map(|(name, value)| GpuSite { name, value });
        sites
            .filter(|site| self.reservations || site.text("space") != "reservation")
            .collect()
    }

    fn is_its(&self, survivor: Survivor<'_>) -> bool {
        survivor.number("pid") == u64::from(self.truth.pid)
            && survivor.is_gpus()
            && survivor.text("space") != "tensor"
    }

    /// Checks everything: sites, sums of each space, failed calls, the ledger, and that nothing else is there.
    pub fn check(&self, report: &Report) {
        report.assert_adds_up();
        report.assert_no_losses();
        self.check_spaces(report);
        self.check_ledger(report);
        if self.named {
            self.check_sites(report);
            self.check_errors(report);
        }
    }

    fn summary(&self, report: &Report) -> String {
        format!("truth: {}\n{}", self.truth.raw, report.summary())
    }

    /// Checks the sites alone, each to the block and byte.
    pub fn check_sites(&self, report: &Report) {
        for site in self.sites() {
            self.check_site(report, &site);
        }
        let sites = self.sites();
        let is_foreign = |survivor: &Survivor<'_>| {
            self.is_its(*survivor) && !sites.iter().any(|site| survivor.has_caller(site.name))
        };
        let foreign = report.tally(is_foreign);
        assert_eq!(
            foreign.blocks,
            0,
            "survivors of no site: {foreign:?}\n{}",
            self.summary(report)
        );
    }

    fn check_site(&self, report: &Report, site: &GpuSite<'_>) {
        let name = site.name;
        let truth = self.truth.site(name);
        let summary = || format!("site {name}\n{}", self.summary(report));
        let here = |survivor: &Survivor<'_>| self.is_its(*survivor) && survivor.has_caller(name);
        let tally = report.tally(here);
        assert_eq!(
            (tally.blocks, tally.bytes),
            (truth.blocks, truth.bytes),
            "{}",
            summary()
        );
        let call = match self.layer {
            Layer::Outermost => truth.calls[0].as_str(),
            Layer::Driver => site.text("driver_call"),
        };
        let mut unsure = Held::default();
        for survivor in report.survivors().into_iter().filter(|survivor| here(survivor)) {
            assert_eq!(
                (survivor.text("call"), survivor.text("space")),
                (call, site.text("space")),
                "{}",
                summary()
            );
            unsure.blocks += survivor.unsure().blocks;
            unsure.bytes += survivor.unsure().bytes;
            if let Some(line) = survivor.line_in(name) {
                assert_eq!(line, truth.line, "line of {}", summary());
            } else {
                panic!("no line of {}", summary());
            }
            if site.value["device_known"] == false {
                assert_eq!(survivor.device(), None, "device of {}", summary());
            } else if let Some(device) = site.value["device"].as_u64().filter(|_| site.is_of_device()) {
                assert_eq!(survivor.device(), Some(device), "device of {}", summary());
            }
        }
        if tally.blocks > 0 {
            assert_eq!(
                (tally.allocs, tally.frees),
                (truth.allocs, truth.frees),
                "{}",
                summary()
            );
        }
        let expected = Held {
            blocks: site.number("unsure_blocks"),
            bytes: site.number("unsure_bytes"),
        };
        assert_eq!(unsure, expected, "unsure of {}", summary());
    }

    fn check_spaces(&self, report: &Report) {
        for space in GPU_SPACES.iter().filter(|space| **space != "tensor") {
            let mut held = Held::default();
            let mut sums = [0; 4];
            for site in self.sites().iter().filter(|site| site.text("space") == *space) {
                let truth = self.truth.site(site.name);
                held.blocks += truth.blocks;
                held.bytes += truth.bytes;
                let alloc_bytes = site.number("alloc_bytes");
                let of_site = [truth.allocs, alloc_bytes, truth.frees, alloc_bytes - truth.bytes];
                sums = std::array::from_fn(|index| sums[index] + of_site[index]);
            }
            assert_eq!(report.space(space), held, "{space}\n{}", self.summary(report));
            let names = ["allocs", "alloc_bytes", "frees", "freed_bytes"];
            let seen = names.map(|name| report.gpu_number(space, name));
            assert_eq!(seen, sums, "{names:?} of {space}\n{}", self.summary(report));
        }
    }

    fn check_ledger(&self, report: &Report) {
        for name in CAUSES {
            let expected = self.truth.ledger.get(name).copied().unwrap_or(0);
            assert_eq!(
                report.ledger(name),
                expected,
                "ledger.{name}\n{}",
                self.summary(report)
            );
        }
    }

    /// Failed calls whose stack is taken; of others, such as frees, there is no truth.
    fn check_errors(&self, report: &Report) {
        let errors = self.truth.raw["gpu"]["errors"]
            .as_array()
            .expect("a list of failed calls");
        let has_frames = |error: &&Value| {
            error["frames"]
                .as_array()
                .is_some_and(|frames| !frames.is_empty())
        };
        let seen: Vec<&Value> = report.gpu_errors().iter().filter(has_frames).collect();
        let name = match self.layer {
            Layer::Outermost => "call",
            Layer::Driver => "driver_call",
        };
        for error in errors {
            let is_it = |seen: &&&Value| {
                let frames = seen["frames"].as_array().into_iter().flatten();
                let is_here =
                    |frame: &Value| frame["symbol"] == error["function"] && frame["line"] == error["line"];
                seen["call"] == error[name] && seen["code"] == error["code"] && frames.skip(1).any(is_here)
            };
            let found = seen.iter().find(is_it);
            let found = found.unwrap_or_else(|| panic!("no failure {error}\n{}", self.summary(report)));
            for number in ["count", "bytes", "largest_bytes"] {
                assert_eq!(
                    found[number],
                    error[number],
                    "{number} of {error}\n{}",
                    self.summary(report)
                );
            }
            assert_eq!(found["pid"], self.truth.pid, "{error}\n{}", self.summary(report));
        }
        assert_eq!(seen.len(), errors.len(), "failed calls\n{}", self.summary(report));
        let failed: u64 = errors.iter().filter_map(|error| error["count"].as_u64()).sum();
        assert_eq!(
            report.ledger("failed"),
            failed,
            "ledger.failed\n{}",
            self.summary(report)
        );
    }
}
