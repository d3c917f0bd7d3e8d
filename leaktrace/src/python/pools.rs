//! Which pools of the object allocator are still what they were when they were taken into use: by their headers, read
//! from outside while the process runs. Must not know how it is learnt that a pool is taken into use.

use std::collections::HashMap;

use super::memory::{Memory, Piece};

/// Bytes of `struct pool_header` that are read: up to the size class (Objects/obmalloc.c, 3.8 to 3.14).
const HEADER_BYTES: usize = 40;
/// Offset of the number of objects in use, 32 bits.
const OBJECTS: usize = 0;
/// Offset of the size class, 32 bits.
const CLASS: usize = 36;
/// Bytes from one size class to the next (`ALIGNMENT`).
const CLASS_BYTES: u32 = 16;

/// A pool that was taken into use, and when (nanoseconds of any one clock).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Its address.
    pub address: u64,
    /// When.
    pub since_ns: u64,
}

/// What is known of the pools of a process.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    /// The class that each had when it was first looked at.
    classes: HashMap<Pool, u32>,
}

impl Pools {
    /// Those of `pools`, all that are known of the process, that are of no use to anybody any more: free, given back to
    /// the system, or in use for objects of another size. None where nothing at all can be read: the process has ended.
    ///
    /// A pool that was emptied and taken into use for objects of the same size between two looks is not told from one
    /// that was in use all the time; that it was taken into use again is learnt in the other way.
    pub fn dead(&mut self, memory: &impl Memory, pools: &[Pool]) -> Vec<Pool> {
        let mut headers = vec![[0; HEADER_BYTES]; pools.len()];
        let mut pieces: Vec<Piece<'_>> = pools
            .iter()
            .zip(&mut headers)
            .map(|(pool, header)| Piece::new(pool.address, header))
            .collect();
        memory.read_many(&mut pieces);
        let read: Vec<bool> = pieces.iter().map(|piece| piece.done).collect();
        if !read.contains(&true) {
            return Vec::new();
        }
        let mut known = HashMap::with_capacity(pools.len());
        let mut dead = Vec::new();
        for ((pool, header), read) in pools.iter().zip(&headers).zip(read) {
            let class = number_at(header, CLASS);
            let before = *self.classes.get(pool).unwrap_or(&class);
            if read && number_at(header, OBJECTS) > 0 && class == before {
                known.insert(*pool, class);
            } else {
                dead.push(*pool);
            }
        }
        self.classes = known;
        dead
    }

    /// Bytes of an object in a pool; `None` for one that has not been looked at.
    pub fn object_bytes(&self, pool: Pool) -> Option<u32> {
        let class = self.classes.get(&pool)?;
        Some(class.saturating_add(1).saturating_mul(CLASS_BYTES))
    }
}

fn number_at(header: &[u8; HEADER_BYTES], offset: usize) -> u32 {
    let bytes = header[offset..].first_chunk();
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::memory::fake::Fake;

    fn header(objects: u32, class: u32) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[OBJECTS..OBJECTS + 4].copy_from_slice(&objects.to_le_bytes());
        bytes[CLASS..].copy_from_slice(&class.to_le_bytes());
        bytes
    }

    const fn pool(number: u64) -> Pool {
        Pool {
            address: 0x10_0000 + number * 0x4000,
            since_ns: 7,
        }
    }

    #[test]
    fn a_pool_that_is_free_unmapped_or_of_another_class_is_dead() {
        let memory = Fake::default();
        let all: Vec<Pool> = (0..4).map(pool).collect();
        for pool in &all {
            memory.put(pool.address, &header(3, 2));
        }
        let mut pools = Pools::default();
        assert_eq!(pools.dead(&memory, &all), []);
        assert_eq!(pools.object_bytes(pool(1)), Some(48));
        memory.put(pool(0).address, &header(0, 2));
        memory.put(pool(2).address, &header(3, 5));
        assert_eq!(pools.dead(&memory, &all), [pool(0), pool(2)]);
        assert_eq!(pools.object_bytes(pool(2)), None);
        let missing = Pool {
            address: 0x10,
            since_ns: 1,
        };
        assert_eq!(pools.dead(&memory, &[pool(1), missing]), [missing]);
    }

    #[test]
    fn of_a_process_that_has_ended_nothing_is_known() {
        let mut pools = Pools::default();
        assert_eq!(pools.dead(&Fake::default(), &[pool(0), pool(1)]), []);
    }
}
