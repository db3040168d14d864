//! The host's memory: frames in 2 MiB chunks, as the buddy allocator sees them.

use std::vec::Vec;

/// Frames in a chunk.
const CHUNK: u64 = 512;

/// A frame of the host.
pub(super) type Mfn = u32;

#[derive(Clone)]
struct Chunk {
    used: [u64; 8],
    free: u16,
}

impl Chunk {
    /// The first free aligned run of `count` frames, a power of two.
    fn find(&self, count: u64) -> Option<u64> {
        (0..CHUNK).step_by(count as usize).find(|start| (*start..start + count).all(|bit| !self.is_used(bit)))
    }

    fn is_used(&self, bit: u64) -> bool {
        self.used[(bit / 64) as usize] & 1 << (bit % 64) != 0
    }

    fn flip(&mut self, bit: u64) {
        self.used[(bit / 64) as usize] ^= 1 << (bit % 64);
    }
}

/// The frames that no domain has.
pub(super) struct Host {
    chunks: Vec<Chunk>,
    free: u64,
    most_free: u64,
}

impl Host {
    pub(super) fn new(frames: u64) -> Self {
        let chunks = frames / CHUNK;
        let empty = Chunk { used: [0; 8], free: CHUNK as u16 };
        let free = chunks * CHUNK;
        Self { chunks: std::vec![empty; chunks as usize], free, most_free: free }
    }

    /// Contiguous aligned frames, from an already broken chunk if there is one.
    pub(super) fn allocate(&mut self, order: u32) -> Option<Mfn> {
        let count = 1 << order;
        if order > 9 || count > self.free {
            return None;
        }
        let run = |whole: bool| {
            move |(index, chunk): (usize, &Chunk)| {
                let eligible = u64::from(chunk.free) >= count && (u64::from(chunk.free) == CHUNK) == whole;
                if eligible { chunk.find(count).map(|start| (index, start)) } else { None }
            }
        };
        let (index, start) = self
            .chunks
            .iter()
            .enumerate()
            .find_map(run(false))
            .or_else(|| self.chunks.iter().enumerate().find_map(run(true)))?;
        let chunk = &mut self.chunks[index];
        (start..start + count).for_each(|bit| chunk.flip(bit));
        chunk.free -= count as u16;
        self.free -= count;
        Some((index as u64 * CHUNK + start) as Mfn)
    }

    /// One frame back. A chunk merges when its last frame comes back.
    pub(super) fn free(&mut self, mfn: Mfn) {
        let (index, bit) = ((u64::from(mfn) / CHUNK) as usize, u64::from(mfn) % CHUNK);
        let chunk = &mut self.chunks[index];
        assert!(chunk.is_used(bit), "model: host frame {mfn:#x} freed twice");
        chunk.flip(bit);
        chunk.free += 1;
        self.free += 1;
        self.most_free = self.most_free.max(self.free);
    }

    /// The most frames that were ever free.
    pub(super) fn most_free(&self) -> u64 {
        self.most_free
    }

    pub(super) fn is_used(&self, mfn: Mfn) -> bool {
        self.chunks[(u64::from(mfn) / CHUNK) as usize].is_used(u64::from(mfn) % CHUNK)
    }

    pub(super) fn free_frames(&self) -> u64 {
        self.free
    }

    pub(super) fn free_chunks(&self) -> u64 {
        self.chunks.iter().filter(|chunk| u64::from(chunk.free) == CHUNK).count() as u64
    }

    /// Every frame that is in use.
    pub(super) fn used(&self) -> impl Iterator<Item = Mfn> {
        let frames = self.chunks.len() as u64 * CHUNK;
        (0..frames).map(|mfn| mfn as Mfn).filter(|mfn| self.is_used(*mfn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_chunks_are_used_up_first_and_merge_again() {
        let mut host = Host::new(1024);
        let first = host.allocate(0).unwrap();
        let second = host.allocate(0).unwrap();
        assert_eq!((host.free_chunks(), host.free_frames()), (1, 1022));
        assert!(host.allocate(9).is_some());
        assert_eq!(host.allocate(9), None, "no whole chunk is left");
        assert!(host.allocate(8).is_some(), "but half a one is");
        host.free(first);
        host.free(second);
        assert_eq!((host.free_chunks(), host.free_frames()), (0, 256));
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_double_free_is_noticed() {
        let mut host = Host::new(512);
        let mfn = host.allocate(0).unwrap();
        host.free(mfn);
        host.free(mfn);
    }
}
