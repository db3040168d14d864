//! Other domains of the host: some frames of RAM, an account, and tmem.
#![expect(unsafe_code, reason = "a transport takes the caller's promise about addresses")]

use crate::model::Model;
use crate::model::host::Mfn;
use crate::model::pages::{Pages, word_at};
use ebb::units::{Frames, Gfn};
use ebb::xen::transport::Arguments;
use ebb::xen::{Transport, Xen};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::vec::Vec;
use xen_abi::{Errno, hypercall};

/// Frames of RAM that a neighbour has.
pub(super) const RAM_FRAMES: u64 = 16;

/// What the host knows of a neighbour.
pub(super) struct Domain {
    pub(super) charged: u64,
    pub(super) limit: u64,
    pub(super) ram: Vec<Mfn>,
    memory: Pages,
}

impl Domain {
    pub(super) fn new(ram: Vec<Mfn>) -> Self {
        let charged = ram.len() as u64;
        Self { charged, limit: charged + 256, ram, memory: Pages::new(charged) }
    }

    /// Where a frame is, if it is RAM.
    pub(super) fn page(&mut self, frame: Gfn) -> Option<NonNull<u8>> {
        (frame.get() < self.ram.len() as u64).then(|| self.memory.address(frame))
    }
}

/// Another domain of the model's host. It can do nothing but tmem.
#[derive(Clone, Copy)]
pub struct Neighbour<'m> {
    model: &'m Model,
    domid: u16,
}

impl<'m> Neighbour<'m> {
    pub(super) fn new(model: &'m Model, domid: u16) -> Self {
        Self { model, domid }
    }

    /// Its typed hypercalls.
    #[must_use]
    pub fn xen(self) -> Xen<Self> {
        Xen::new(self)
    }

    /// Reads a word of a frame of its RAM.
    ///
    /// # Panics
    ///
    /// If it has no such frame.
    #[must_use]
    pub fn read(&self, frame: Gfn, index: usize) -> u64 {
        word_at(self.page(frame), index).load(Ordering::SeqCst)
    }

    /// Writes a word of a frame of its RAM.
    ///
    /// # Panics
    ///
    /// If it has no such frame.
    pub fn write(&self, frame: Gfn, index: usize, value: u64) {
        word_at(self.page(frame), index).store(value, Ordering::SeqCst);
    }

    fn page(&self, frame: Gfn) -> NonNull<u8> {
        let mut state = self.model.state();
        let page = state.tmem.neighbours.get_mut(&self.domid).and_then(|domain| domain.page(frame));
        page.expect("model: a frame of the neighbour's")
    }

    /// What it is charged.
    #[must_use]
    pub fn charged(&self) -> Frames {
        let state = self.model.state();
        Frames::new(state.tmem.neighbours.get(&self.domid).map_or(0, |domain| domain.charged))
    }

    /// Sets the most that it may be charged.
    pub fn set_limit(&self, limit: Frames) {
        if let Some(domain) = self.model.state().tmem.neighbours.get_mut(&self.domid) {
            domain.limit = limit.get();
        }
    }
}

// SAFETY: as the model's own: decodes the argument as Xen's ABI says.
unsafe impl Transport for Neighbour<'_> {
    unsafe fn call(&self, number: u32, arguments: Arguments) -> i64 {
        match number {
            // SAFETY: the caller's promise.
            hypercall::TMEM_OP => unsafe { self.model.state().tmem_of_neighbour(self.domid, arguments[0]) },
            _ => Errno::ENOSYS.to_rax(),
        }
    }
}
