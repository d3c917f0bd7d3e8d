//! Reading the kernel's part of the ledger.

use aya::maps::{MapData, PerCpuArray};
use leaktrace_common::counter::Counter;

/// The counters of the kernel side.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// Takes the map out of the object.
    ///
    /// # Errors
    /// aya's, when the map is absent or of another type.
    pub fn new(ebpf: &mut aya::Ebpf) -> Result<Self, String> {
        let map = ebpf.take_map("COUNTERS").ok_or("no map COUNTERS")?;
        PerCpuArray::try_from(map)
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Value of one counter, summed over the CPUs.
    ///
    /// # Errors
    /// aya's, when the map cannot be read.
    pub fn read(&self, counter: Counter) -> Result<u64, String> {
        let values = self
            .0
            .get(&(counter as u32), 0)
            .map_err(|error| error.to_string())?;
        Ok(values.iter().sum())
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_all(&self) -> Result<Vec<(&'static str, u64)>, String> {
        Counter::ALL
            .iter()
            .map(|&counter| Ok((counter.name(), self.read(counter)?)))
            .collect()
    }
}
