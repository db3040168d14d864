//! Event channels in the 2-level layout: 64 words of 64 ports, shared with Xen.
//!
//! [`Channels`] is the view of the pending and mask words, [`VcpuInfo`] of one vCPU's selector. The interrupt
//! handler calls [`Channels::scan`]; what it finds goes into a [`PortSet`] from which waiters take it.
//!
//! Xen raises an upcall only when a port's pending bit *and* the word's selector bit are newly set (Xen:
//! `xen/common/event_2l.c`). Three ways to go deaf follow, and the code here avoids each: lowering the upcall
//! flag without draining the selector, clearing a selector bit without scanning its word, and leaving a pending
//! bit set on a port that is not masked. Every update of a shared word is one atomic read-modify-write.
//!
//! Everything here is lock-free, never blocks and may be used in an interrupt handler. A model checker runs this file
//! over its own atomics: `tests/loom` does.

use super::SharedPage;
use super::shared::AtomicU64;
use crate::port::EventOps;
use crate::units::{EventPort, VcpuId};
use core::sync::atomic::Ordering;
use xen_abi::Errno;
use xen_abi::shared_info::{LEGACY_VCPUS, MASK, PENDING, PORT_WORDS, vcpu};

/// Ports of the 2-level layout. Port 0 is never valid.
pub const PORTS: u32 = 4096;

/// The word that holds `port` and the port's bit in it, if the port fits the layout and may be valid.
const fn slot(port: EventPort) -> Option<(usize, u64)> {
    let number = port.get();
    if number == 0 || number >= PORTS {
        return None;
    }
    Some(((number / 64) as usize, 1 << (number % 64)))
}

/// One vCPU's part: the upcall flag, the selector, and its copy of the clock.
#[derive(Clone, Copy, Debug)]
pub struct VcpuInfo {
    page: SharedPage,
    offset: usize,
}

impl VcpuInfo {
    /// The part that was registered at `offset` of `page`, or `None` where Xen would refuse it: 64 bytes inside
    /// the page, aligned to 8.
    #[must_use]
    pub fn registered(page: SharedPage, offset: usize) -> Option<Self> {
        let fits = offset.is_multiple_of(8) && offset <= crate::units::FRAME_SIZE - vcpu::SIZE;
        fits.then_some(Self { page, offset })
    }

    /// Where it is: the page, and the byte offset in it.
    #[must_use]
    pub const fn place(&self) -> (SharedPage, usize) {
        (self.page, self.offset)
    }

    /// Whether Xen has an upcall for this vCPU.
    #[must_use]
    pub fn upcall_pending(&self) -> bool {
        self.page.u8(self.offset + vcpu::UPCALL_PENDING).load(Ordering::SeqCst) != 0
    }

    /// Lowers the upcall flag with a full barrier: what Xen publishes later raises it again, what it published
    /// before is visible to the reads that follow.
    fn lower_upcall(&self) {
        self.page.u8(self.offset + vcpu::UPCALL_PENDING).swap(0, Ordering::SeqCst);
    }

    /// Takes the selector: the words that Xen touched.
    fn take_selector(&self) -> u64 {
        self.page.u64(self.offset + vcpu::PENDING_SELECTOR).swap(0, Ordering::SeqCst)
    }
}

/// The ports of this domain, as the shared-info page shows them.
#[derive(Clone, Copy, Debug)]
pub struct Channels {
    page: SharedPage,
}

impl Channels {
    /// The ports in the shared-info page.
    #[must_use]
    pub const fn new(shared_info: SharedPage) -> Self {
        Self { page: shared_info }
    }

    /// The part of `vcpu` in the same page, or `None` beyond the first 32, which must register theirs.
    #[must_use]
    pub fn vcpu(&self, vcpu: VcpuId) -> Option<VcpuInfo> {
        (vcpu.get() < LEGACY_VCPUS)
            .then(|| VcpuInfo { page: self.page, offset: vcpu.get() as usize * vcpu::SIZE })
    }

    fn pending(&self, word: usize) -> &AtomicU64 {
        self.page.u64(PENDING + word * 8)
    }

    fn masks(&self, word: usize) -> &AtomicU64 {
        self.page.u64(MASK + word * 8)
    }

    /// Masks every port. To be done first, before interrupts are on: the page comes zeroed, so that otherwise
    /// each port that anyone signals interrupts a kernel that has no handler for it.
    pub fn mask_all(&self) {
        for word in 0..PORT_WORDS {
            self.masks(word).swap(u64::MAX, Ordering::SeqCst);
        }
    }

    /// Masks one port. An event that comes is remembered in the pending bit.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a port that the layout does not have.
    pub fn mask(&self, port: EventPort) -> Result<(), Errno> {
        let (word, bit) = slot(port).ok_or(Errno::EINVAL)?;
        self.masks(word).fetch_or(bit, Ordering::SeqCst);
        Ok(())
    }

    /// Unmasks one port of any vCPU; an event that came while it was masked is delivered.
    ///
    /// Mostly one instruction. If the port is found pending, Xen has to raise the upcall, on the vCPU that the
    /// port is bound to. Xen does so only for a port whose mask bit it clears itself, so that the bit is set
    /// again for it first.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a port that the layout or the domain does not have.
    pub fn unmask(&self, events: &impl EventOps, port: EventPort) -> Result<(), Errno> {
        let (word, bit) = slot(port).ok_or(Errno::EINVAL)?;
        self.masks(word).fetch_and(!bit, Ordering::SeqCst);
        // The order matters: an event after the line above finds the port open, one before it is seen here.
        if self.pending(word).load(Ordering::SeqCst) & bit == 0 {
            return Ok(());
        }
        self.masks(word).fetch_or(bit, Ordering::SeqCst);
        events.unmask(port)
    }

    /// Takes the pending bit of one port, without looking at its mask: for a port that is polled.
    pub fn take_pending(&self, port: EventPort) -> bool {
        slot(port).is_some_and(|(word, bit)| {
            self.pending(word).load(Ordering::SeqCst) & bit != 0
                && self.pending(word).fetch_and(!bit, Ordering::SeqCst) & bit != 0
        })
    }

    /// Hands every port of `owned` that is pending and not masked to `deliver`, and answers how many.
    ///
    /// For the interrupt handler of the vCPU whose part is `vcpu`, with interrupts off. `owned` is the set of
    /// ports bound to this vCPU: neighbours in a word may belong to another, which gets its own upcall for them.
    /// A port's bit is cleared before it is handed over, so that an event during `deliver` is a new one. Returns
    /// when the upcall flag is down.
    pub fn scan(&self, vcpu: &VcpuInfo, owned: &PortSet, mut deliver: impl FnMut(EventPort)) -> usize {
        let mut delivered = 0;
        loop {
            vcpu.lower_upcall();
            for word in bits(vcpu.take_selector()) {
                let ready = self.pending(word).load(Ordering::SeqCst)
                    & !self.masks(word).load(Ordering::SeqCst)
                    & owned.word(word);
                for index in bits(ready) {
                    self.pending(word).fetch_and(!(1 << index), Ordering::SeqCst);
                    #[expect(clippy::cast_possible_truncation, reason = "below PORTS")]
                    deliver(EventPort::new((word * 64 + index) as u32));
                    delivered += 1;
                }
            }
            if !vcpu.upcall_pending() {
                return delivered;
            }
        }
    }
}

/// The positions of the set bits, lowest first.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let index = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(index)
    })
}

/// A set of ports that interrupt handlers and waiters share without a lock.
///
/// Two uses: the ports that have fired since somebody last took them, and the ports bound to one vCPU. Adding a
/// port publishes what was written before it to whoever takes it.
#[derive(Debug)]
pub struct PortSet {
    words: [AtomicU64; PORT_WORDS],
}

impl PortSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: [const { AtomicU64::new(0) }; PORT_WORDS] }
    }

    /// Adds a port. One that the layout does not have is ignored: nobody can signal it.
    pub fn insert(&self, port: EventPort) {
        if let Some((word, bit)) = slot(port) {
            self.words[word].fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// Whether the port is in the set.
    #[must_use]
    pub fn contains(&self, port: EventPort) -> bool {
        slot(port).is_some_and(|(word, bit)| self.words[word].load(Ordering::Acquire) & bit != 0)
    }

    /// Removes a port and answers whether it was there. Of several callers one is told so.
    pub fn take(&self, port: EventPort) -> bool {
        slot(port).is_some_and(|(word, bit)| {
            self.words[word].load(Ordering::Acquire) & bit != 0
                // Acquires anew: the port may have been added again since the line above.
                && self.words[word].fetch_and(!bit, Ordering::AcqRel) & bit != 0
        })
    }

    fn word(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Acquire)
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "events/tests.rs"] // also where a model includes this file
mod tests;
