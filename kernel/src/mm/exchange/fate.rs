//! What became of each frame of an extent that was not done as one.

/// Frames in the largest extent.
const FRAMES: usize = 512;

/// What is behind a frame number now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Memory.
    Memory,
    /// Nothing: the hypervisor has it.
    Gone,
    /// The hypervisor would not say.
    Unknown,
}

/// The fates of the frames of one extent.
#[derive(Debug)]
pub(super) struct Fates {
    gone: [u64; FRAMES / 64],
    unknown: [u64; FRAMES / 64],
}

impl Fates {
    /// All of them are memory.
    pub(super) const fn new() -> Self {
        Self { gone: [0; FRAMES / 64], unknown: [0; FRAMES / 64] }
    }

    pub(super) fn set(&mut self, index: usize, fate: Fate) {
        let bit = 1 << (index % 64);
        self.gone[index / 64] &= !bit;
        self.unknown[index / 64] &= !bit;
        match fate {
            Fate::Memory => {}
            Fate::Gone => self.gone[index / 64] |= bit,
            Fate::Unknown => self.unknown[index / 64] |= bit,
        }
    }

    fn get(&self, index: usize) -> Fate {
        let is = |map: &[u64]| map[index / 64] >> (index % 64) & 1 != 0;
        match (is(&self.gone), is(&self.unknown)) {
            (true, _) => Fate::Gone,
            (_, true) => Fate::Unknown,
            _ => Fate::Memory,
        }
    }

    /// The fate that `count` frames share, if they do.
    pub(super) fn common(&self, start: usize, count: usize) -> Option<Fate> {
        let first = self.get(start);
        (start..start + count).all(|index| self.get(index) == first).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_fate_if_its_frames_agree() {
        let mut fates = Fates::new();
        assert_eq!(fates.common(0, 512), Some(Fate::Memory));
        (0..100).for_each(|index| fates.set(index, Fate::Gone));
        fates.set(511, Fate::Unknown);
        assert_eq!((fates.common(0, 64), fates.common(64, 64)), (Some(Fate::Gone), None));
        assert_eq!((fates.common(128, 128), fates.common(511, 1)), (Some(Fate::Memory), Some(Fate::Unknown)));
        fates.set(511, Fate::Memory);
        assert_eq!(fates.common(256, 256), Some(Fate::Memory));
    }
}
