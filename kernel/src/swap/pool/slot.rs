//! Slots: the table of a shard's frames.
//!
//! A slot is vacant, or has a frame of the log, or a frame of entries. Frames of the log are a list in order of age;
//! objects lie in them one after the other, and may begin in one frame and end in the next.

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// A slot. 32 bytes: what each frame of the pool costs beside itself.
#[derive(Debug)]
pub(super) enum Slot<T> {
    /// No frame.
    Vacant {
        /// The next vacant one.
        next: u32,
    },
    /// A frame of objects.
    Log(Log<T>),
    /// A frame of entries.
    Entries(Entries<T>),
}

/// A frame of objects.
#[derive(Debug)]
pub(super) struct Log<T> {
    pub(super) frame: T,
    /// The next older frame of the log.
    pub(super) older: u32,
    /// The next younger one. What an object does not find room for here is there, from its first byte on.
    pub(super) younger: u32,
    /// The pool's count of stores when the frame was taken.
    pub(super) stamp: u32,
    /// Bytes at the beginning that the last object of the next older frame needs, or did.
    pub(super) over: u16,
    /// Where the first object begins. What is between is dead.
    pub(super) first: u16,
    /// Where the next object would begin: objects that begin here follow each other from `first` to here. A whole
    /// frame where the last one goes on in the younger frame.
    pub(super) end: u16,
    /// Bytes here, headers and padding included, of objects that are stored.
    pub(super) live: u16,
    /// A header is not sound, so what follows cannot be walked. Who has a handle still reaches what is stored.
    pub(super) damaged: bool,
}

/// A frame of entries.
#[derive(Debug)]
pub(super) struct Entries<T> {
    pub(super) frame: T,
    /// Neighbours in the list of frames with a vacant entry.
    pub(super) previous: u32,
    pub(super) next: u32,
    /// Entries in use.
    pub(super) live: u16,
    /// The first vacant entry, or [`PER_FRAME`](super::entry::PER_FRAME).
    pub(super) vacant: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_32_bytes() {
        assert_eq!(size_of::<Slot<u64>>(), 32);
        assert_eq!(size_of::<Slot<alloc::boxed::Box<u8>>>(), 32);
    }
}
