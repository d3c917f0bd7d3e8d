//! What the kernel side knows of GPU memory, as user space reads and purges it. Must not know what is made of it.

use std::os::fd::{AsFd as _, OwnedFd};

use leaktrace_common::{
    gpu::{Context, GpuErrorKey, GpuErrors, GpuKey, GpuLive, Mapping, TorchTotals},
    key::Process,
};

use super::{
    maps::{TableError, belongs, error},
    object::{KernelSide, LoadError},
    sys,
};

/// The tables of GPU memory.
#[derive(Debug)]
pub struct GpuTables {
    live: OwnedFd,
    mappings: OwnedFd,
    contexts: OwnedFd,
    processes: OwnedFd,
    errors: OwnedFd,
    torch: OwnedFd,
}

impl GpuTables {
    /// # Errors
    /// [`LoadError`] when the object lacks the maps.
    pub fn new(kernel: &KernelSide) -> Result<Self, LoadError> {
        Ok(Self {
            live: kernel.map("GPU_LIVE")?,
            mappings: kernel.map("GPU_MAPPINGS")?,
            contexts: kernel.map("GPU_CONTEXTS")?,
            processes: kernel.map("GPU_PROCESSES")?,
            errors: kernel.map("GPU_ERRORS")?,
            torch: kernel.map("TORCH_TOTALS")?,
        })
    }

    /// Hands every living record to `each`, of whichever process.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn for_each(&self, each: impl FnMut(&GpuKey, &GpuLive)) -> Result<(), TableError> {
        sys::map_for_each(self.live.as_fd(), each).map_err(error("GPU_LIVE", "read"))
    }

    /// Takes the records of a process image that is gone out of the table, handing each to `each`, and forgets the rest
    /// that is known of it, but for its failures.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn take_image(
        &self,
        tgid: u32,
        image: u16,
        mut each: impl FnMut(&GpuKey, &GpuLive),
    ) -> Result<(), TableError> {
        let mut gone = Vec::new();
        self.for_each(|key, record| {
            if belongs(key.process, tgid, image) {
                each(key, record);
                gone.push(*key);
            }
        })?;
        sys::map_delete_all(self.live.as_fd(), &gone).map_err(error("GPU_LIVE", "purge"))?;
        purge::<Mapping>(&self.mappings, "GPU_MAPPINGS", tgid, image)?;
        purge::<Context>(&self.contexts, "GPU_CONTEXTS", tgid, image)?;
        purge::<TorchTotals>(&self.torch, "TORCH_TOTALS", tgid, image)?;
        self.forget(tgid, image)
    }

    /// Forgets what is known of a process image that has never made a context: that it has called `exit`.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn forget(&self, tgid: u32, image: u16) -> Result<(), TableError> {
        let process = Process {
            tgid,
            image,
            space: 0,
            device: 0,
        };
        sys::map_delete(self.processes.as_fd(), &process).map_err(error("GPU_PROCESSES", "purge"))
    }

    /// All calls that have failed, of processes that have ended too.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn errors(&self) -> Result<Vec<(GpuErrorKey, GpuErrors)>, TableError> {
        let mut all = Vec::new();
        sys::map_for_each(self.errors.as_fd(), |key: &GpuErrorKey, errors: &GpuErrors| {
            all.push((*key, *errors));
        })
        .map_err(error("GPU_ERRORS", "read"))?;
        Ok(all)
    }

    /// What `PyTorch` has last said of each device: the key's address is the device's number.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn torch(&self) -> Result<Vec<(GpuKey, TorchTotals)>, TableError> {
        let mut all = Vec::new();
        sys::map_for_each(self.torch.as_fd(), |key: &GpuKey, totals: &TorchTotals| {
            all.push((*key, *totals));
        })
        .map_err(error("TORCH_TOTALS", "read"))?;
        Ok(all)
    }
}

/// Takes what is kept of an image out of a table.
fn purge<V: sys::Plain>(
    table: &OwnedFd,
    name: &'static str,
    tgid: u32,
    image: u16,
) -> Result<(), TableError> {
    let mut gone = Vec::new();
    sys::map_for_each(table.as_fd(), |key: &GpuKey, _: &V| {
        if belongs(key.process, tgid, image) {
            gone.push(*key);
        }
    })
    .map_err(error(name, "read"))?;
    sys::map_delete_all(table.as_fd(), &gone).map_err(error(name, "purge"))
}
