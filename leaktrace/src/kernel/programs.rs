//! The uprobe programs of the kernel side, loaded for the chosen mechanism; those of GPU calls when they are first wanted.
//!
//! Must not know where they are attached.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use aya_obj::Object;

use super::{
    caps::AttachKind,
    object::LoadError,
    sys::{self, ProgramImage},
};

/// The parsed object, whose programs use the maps that are loaded.
#[derive(Debug)]
pub(super) struct Loader {
    /// With its maps and calls put in.
    pub(super) object: Object,
    /// Its types, in the kernel.
    pub(super) btf: Option<OwnedFd>,
    /// Mechanism to load for.
    pub(super) kind: AttachKind,
}

/// The uprobe programs, loaded for one mechanism.
#[derive(Debug)]
pub struct Programs {
    /// Mechanism they are loaded for.
    pub kind: AttachKind,
    /// Entry of an allocation call.
    pub alloc_enter: OwnedFd,
    /// Its return.
    pub alloc_exit: OwnedFd,
    /// Both in one; only for [`AttachKind::Session`].
    pub alloc_session: Option<OwnedFd>,
    /// Entry of a free.
    pub free_enter: OwnedFd,
    /// What the dynamic linker calls when it changes what is mapped.
    pub linker_state: OwnedFd,
    gpu: [OnceLock<OwnedFd>; GpuProgram::ALL.len()],
    loader: Loader,
}

/// Those for calls of CUDA. Each is loaded when it is first wanted, in a tenth of a second or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GpuProgram {
    /// Entry of a call.
    Enter,
    /// Its return.
    Exit,
    /// Both in one; only for [`AttachKind::Session`].
    Session,
    /// Entry of a call of which nothing else is of interest.
    Note,
    /// Entry of the function that tensors are reported to.
    Tensor,
}

impl GpuProgram {
    /// All of them.
    const ALL: [Self; 5] = [Self::Enter, Self::Exit, Self::Session, Self::Note, Self::Tensor];

    const fn name(self) -> &'static str {
        match self {
            Self::Enter => "gpu_enter",
            Self::Exit => "gpu_exit",
            Self::Session => "gpu_session",
            Self::Note => "gpu_note",
            Self::Tensor => "gpu_tensor",
        }
    }
}

/// Which of the uprobe programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Program {
    /// Entry of an allocation call.
    AllocEnter,
    /// Its return.
    AllocExit,
    /// Both in one.
    AllocSession,
    /// Entry of a free.
    FreeEnter,
    /// One for calls of CUDA.
    Gpu(GpuProgram),
}

impl Loader {
    fn load(&self, name: &'static str, attach_type: u32) -> Result<OwnedFd, LoadError> {
        let program = self
            .object
            .programs
            .get(name)
            .ok_or_else(|| LoadError::Maps(format!("no program {name}")))?;
        let function = &self.object.functions[&program.function_key()];
        sys::load_program(&ProgramImage {
            name,
            instructions: &function.instructions,
            attach_type,
            btf: self.btf.as_ref().map(OwnedFd::as_fd),
            functions: &function.func_info.func_info,
            lines: &function.line_info.line_info,
        })
        .map_err(|(source, log)| {
            tracing::info!("verifier log of {name}:\n{log}");
            LoadError::Program {
                program: name,
                source,
                log,
            }
        })
        .inspect(|program| {
            if let Ok((instructions, verified)) = sys::program_size(program.as_fd()) {
                tracing::info!(
                    "program {name}: {instructions} instructions, {verified} looked at by the verifier"
                );
            }
        })
    }

    fn load_session(&self, name: &'static str) -> Result<OwnedFd, LoadError> {
        self.load(name, AttachKind::SESSION_ATTACH_TYPE)
    }

    /// By entry or return, whichever a link says.
    fn load_plain(&self, name: &'static str) -> Result<OwnedFd, LoadError> {
        self.load(name, self.kind.attach_type_of_multi())
    }

    fn has_sessions(&self) -> bool {
        self.kind == AttachKind::Session
    }
}

impl Programs {
    /// Loads all but those of GPU calls.
    pub(super) fn load(loader: Loader) -> Result<Self, LoadError> {
        let session = loader
            .has_sessions()
            .then(|| loader.load_session("alloc_session"));
        Ok(Self {
            kind: loader.kind,
            alloc_enter: loader.load_plain("alloc_enter")?,
            alloc_exit: loader.load_plain("alloc_exit")?,
            alloc_session: session.transpose()?,
            free_enter: loader.load_plain("free_enter")?,
            linker_state: loader.load_plain("linker_state")?,
            gpu: [const { OnceLock::new() }; GpuProgram::ALL.len()],
            loader,
        })
    }

    /// One of those for calls of CUDA.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn gpu(&self, program: GpuProgram) -> Result<BorrowedFd<'_>, LoadError> {
        let slot = &self.gpu[program as usize];
        if let Some(loaded) = slot.get() {
            return Ok(loaded.as_fd());
        }
        let loaded = if program == GpuProgram::Session {
            self.loader.load_session(program.name())?
        } else {
            self.loader.load_plain(program.name())?
        };
        Ok(slot.get_or_init(|| loaded).as_fd())
    }

    /// Whether entry and return are one program.
    pub fn has_sessions(&self) -> bool {
        self.loader.has_sessions()
    }

    /// All that are loaded.
    pub fn each(&self) -> impl Iterator<Item = (Program, BorrowedFd<'_>)> {
        let session = self
            .alloc_session
            .as_ref()
            .map(|fd| (Program::AllocSession, fd.as_fd()));
        let gpu = GpuProgram::ALL.into_iter().filter_map(|program| {
            let loaded = self.gpu[program as usize].get()?;
            Some((Program::Gpu(program), loaded.as_fd()))
        });
        [
            (Program::AllocEnter, self.alloc_enter.as_fd()),
            (Program::AllocExit, self.alloc_exit.as_fd()),
            (Program::FreeEnter, self.free_enter.as_fd()),
        ]
        .into_iter()
        .chain(session)
        .chain(gpu)
    }

    /// The session program, or the entry program where there are no sessions.
    pub fn alloc_entry(&self) -> BorrowedFd<'_> {
        self.alloc_session.as_ref().unwrap_or(&self.alloc_enter).as_fd()
    }
}
