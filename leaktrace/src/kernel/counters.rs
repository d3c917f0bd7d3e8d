//! Reading the kernel's part of the ledger, and how often each probe was hit.

use aya::maps::{MapData, PerCpuArray};
use leaktrace_common::{counter::Counter, record::Hits};

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

/// How often each probe was hit, by the slot in its cookie.
pub struct HitTable(PerCpuArray<MapData, [u64; 2]>);

impl HitTable {
    /// Takes the map out of the object.
    ///
    /// # Errors
    /// aya's, when the map is absent or of another type.
    pub fn new(ebpf: &mut aya::Ebpf) -> Result<Self, String> {
        let map = ebpf.take_map("HITS").ok_or("no map HITS")?;
        PerCpuArray::try_from(map)
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Hits of one slot so far, summed over the CPUs.
    ///
    /// # Errors
    /// aya's, when the map cannot be read.
    pub fn read(&self, slot: u16) -> Result<Hits, String> {
        let values = self
            .0
            .get(&u32::from(slot), 0)
            .map_err(|error| error.to_string())?;
        let sum = |hits: Hits, [entries, returns]: &[u64; 2]| Hits {
            entries: hits.entries + entries,
            returns: hits.returns + returns,
        };
        Ok(values.iter().fold(Hits::default(), sum))
    }
}
