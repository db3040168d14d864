//! The window: single frames outside RAM, mapped where there is room.
//!
//! Rings, `shared_info` and grant frames lie outside of the direct map. [`space::build`](super::space::build) has
//! made the window's one table, so that mapping needs no memory.

use super::{Access, AddressSpace, MapError, Mapping, Tables};
use crate::arch::layout::{WINDOW, WINDOW_SLOTS};
use crate::units::{FRAME_SIZE, Gfn, Order};

/// The window of an address space.
#[derive(Debug)]
pub struct Window<T>(AddressSpace<T>);

/// All slots of the window are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowFull;

impl core::fmt::Display for WindowFull {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no room for another frame outside RAM")
    }
}

impl core::error::Error for WindowFull {}

impl<T: Tables> Window<T> {
    /// The window of `space`.
    pub const fn new(space: AddressSpace<T>) -> Self {
        Self(space)
    }

    /// The address space.
    pub const fn space(&self) -> &AddressSpace<T> {
        &self.0
    }

    /// Maps `frame` for reading and writing and answers where.
    ///
    /// # Errors
    ///
    /// If there is no room.
    pub fn map(&mut self, frame: Gfn) -> Result<u64, WindowFull> {
        // The first slot stays empty, so that running off below the window faults.
        for slot in 1..WINDOW_SLOTS {
            let address = WINDOW + (slot * FRAME_SIZE) as u64;
            match self.0.map(address, frame, Order::FRAME, Access::Write) {
                Ok(()) => return Ok(address),
                Err(MapError::Occupied(_)) => {}
                Err(MapError::OutOfTables) => {
                    unreachable!("the window's table is made with the address space")
                }
            }
        }
        Err(WindowFull)
    }

    /// Takes the mapping at `address` away and answers its frame; `None` if there was none, or `address` is not
    /// the first of a page of the window. The caller invalidates the translation.
    pub fn unmap(&mut self, address: u64) -> Option<Gfn> {
        let offset = address.checked_sub(WINDOW)?;
        if offset >= (WINDOW_SLOTS * FRAME_SIZE) as u64 || !offset.is_multiple_of(FRAME_SIZE as u64) {
            return None;
        }
        match self.0.unmap(address, Order::FRAME) {
            Ok(was) => was.map(|Mapping { frame, .. }| frame),
            Err(_) => unreachable!("nothing in the window is a block that would have to be split"),
        }
    }
}
