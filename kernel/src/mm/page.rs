//! A frame lent to somebody who copies it away or fills it: the proof that nobody else is using it.
//!
//! Storing a page elsewhere (in the hypervisor, in a compressed pool) reads a whole frame, and fetching it back writes
//! one. Neither may happen while a mapping of the frame is being used, a device works on it, or the frame is a hole.
//! [`Page`] is the one way to name a frame to code that does this; whoever makes one says why that is true, and the
//! borrow keeps it true.
#![expect(unsafe_code, reason = "whoever lends a frame promises that nobody else uses it")]

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;
use core::{fmt, ptr};

use super::frame::Extent;
use super::paged::{Mmu, Words};
use super::pool_frames::FrameBytes;
use crate::port::{PageKey, PoolId, TmemOps};
use crate::swap::same;
use crate::units::{Gfn, Order};
use xen_abi::Errno;

/// One frame of ordinary, writable memory of this guest that nobody else reads or writes while this value lives.
///
/// It keeps words that are atomics because a hypervisor may be the one that fills the frame: no reference to plain memory
/// lives through its call. A shared borrow of the page is enough to copy it away; to fill it takes an exclusive one.
pub struct Page<'a> {
    frame: Gfn,
    words: &'a Words,
}

impl<'a> Page<'a> {
    /// The page in `frame`, which the guest sees as `words`.
    ///
    /// # Safety
    ///
    /// For `'a`: `words` is the memory of `frame`; that is RAM of this domain, populated, writable, and no mapping of
    /// another domain's; nothing but this value reads or writes it: no mapping that could be used, no device, no other
    /// `Page`; and it does not leave the domain.
    #[must_use]
    pub const unsafe fn new(frame: Gfn, words: &'a Words) -> Self {
        Self { frame, words }
    }

    /// The page of an extent of one frame, which is lent for as long; `None` if the extent is larger.
    #[must_use]
    pub fn of<M: Mmu>(extent: &'a mut Extent, mmu: &'a M) -> Option<Self> {
        let frame = (extent.order() == Order::FRAME).then_some(extent.first())?;
        // SAFETY: the token says that the frame is allocated memory of ours (of this machine's: the contract of `Mmu`), and
        // is borrowed exclusively: who holds it holds the frame, and nobody who has put objects there lends the token
        // meanwhile.
        let words = unsafe { mmu.words(frame) };
        // SAFETY: as above; a frame in the hands of an owner is neither a hole nor on its way out.
        Some(unsafe { Self::new(frame, words) })
    }

    /// The frame.
    #[must_use]
    pub const fn frame(&self) -> Gfn {
        self.frame
    }

    /// The contents.
    #[must_use]
    pub const fn bytes(&self) -> &FrameBytes {
        // SAFETY: memory that nobody else writes to (the promise of `new`). Who writes through this value borrows it
        // exclusively, so not while it is lent here.
        unsafe { &*self.cell().get() }
    }

    /// The contents, to be filled.
    pub const fn bytes_mut(&mut self) -> &mut FrameBytes {
        // SAFETY: as above; nobody else reads it either, and this borrow is exclusive.
        unsafe { &mut *self.cell().get() }
    }

    /// The contents as what they are: bytes that may change behind a shared reference.
    const fn cell(&self) -> &UnsafeCell<FrameBytes> {
        // SAFETY: words that are atomics, which are cells; as many bytes, aligned to less, and any is a value.
        unsafe { &*ptr::from_ref(self.words).cast() }
    }

    /// The contents as words, to be filled.
    pub const fn words_mut(&mut self) -> &Words {
        self.words
    }

    /// The word that the page consists of, if it consists of one.
    #[must_use]
    pub fn same_filled(&self) -> Option<u64> {
        same::detect(self.bytes())
    }

    /// Has tmem copy the page. The answer is the hypervisor's: see [`TmemOps::put`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn copy_out<T: TmemOps>(&self, tmem: &T, pool: PoolId, key: PageKey) -> Result<u64, Errno> {
        // SAFETY: ordinary memory of ours; nobody writes to it while the page is borrowed.
        unsafe { tmem.put(pool, key, self.frame) }
    }

    /// Has tmem fill the page. The answer is the hypervisor's: see [`TmemOps::get`]. What is not filled is as it was.
    ///
    /// The page is written to before. While a toolstack has the domain's writes logged, as it does to migrate it live, Xen
    /// takes a frame that was not written to lately for none that it may write to, and refuses (`EFAULT`); from a private
    /// ephemeral pool the page would be lost besides.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn copy_in<T: TmemOps>(&mut self, tmem: &T, pool: PoolId, key: PageKey) -> Result<u64, Errno> {
        let [first, ..] = self.words;
        first.fetch_xor(1, Ordering::Relaxed);
        // SAFETY: ordinary, writable memory of ours, borrowed exclusively; the words are atomics, so that no
        // reference to plain contents lives through the call.
        let answer = unsafe { tmem.get(pool, key, self.frame) };
        if answer != Ok(1) {
            first.fetch_xor(1, Ordering::Relaxed);
        }
        answer
    }

    /// Fills the page with a word.
    pub fn fill(&mut self, value: u64) {
        same::fill(value, self.bytes_mut());
    }
}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Page").field(&self.frame).finish()
    }
}

#[cfg(test)]
impl Page<'static> {
    /// A page of a test's own, for good.
    pub(crate) fn leaked() -> Self {
        use core::sync::atomic::AtomicU64;
        let words: &Words = std::boxed::Box::leak(std::boxed::Box::new([const { AtomicU64::new(0) }; 512]));
        // SAFETY: nobody else has it. It stands for a frame that no hypervisor is told of.
        unsafe { Self::new(Gfn::new(3), words) }
    }

    /// A page with these contents.
    pub(crate) fn with(bytes: &FrameBytes) -> Self {
        let mut page = Self::leaked();
        page.bytes_mut().copy_from_slice(bytes);
        page
    }

    /// What is in it.
    pub(crate) fn to_bytes(&self) -> FrameBytes {
        *self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn a_page_knows_whether_it_is_one_word() {
        let words: Words = [const { AtomicU64::new(7) }; 512];
        // SAFETY: memory of this test alone, which stands for a frame that no hypervisor is told of.
        let mut page = unsafe { Page::new(Gfn::new(3), &words) };
        assert_eq!((page.frame(), page.same_filled()), (Gfn::new(3), Some(7)));
        page.words_mut()[511].store(8, Ordering::Relaxed);
        assert_eq!(page.bytes().last_chunk(), Some(&8_u64.to_ne_bytes()));
        assert_eq!(page.same_filled(), None);
        page.fill(0);
        assert_eq!(page.same_filled(), Some(0));
        page.bytes_mut()[8] = 5;
        assert_eq!((page.words_mut()[1].load(Ordering::Relaxed), page.same_filled()), (5, None));
    }
}
