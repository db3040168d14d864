//! A page that somebody outside writes too: Xen, or a daemon in dom0.
//!
//! Nothing in such a page is ever borrowed as plain data. Words are atomics, bytes are copied in and out one by
//! one, and whoever reads them validates the copy.
#![expect(unsafe_code, reason = "atomic views into memory that the other side writes")]

use crate::units::FRAME_SIZE;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

pub(super) use core::sync::atomic::AtomicU64;

/// A mapped frame shared with the outside.
///
/// Offsets are constants of the protocols; one that does not fit the page is a broken invariant and panics.
#[derive(Clone, Copy, Debug)]
pub struct SharedPage {
    base: NonNull<u8>,
}

// SAFETY: a view of memory that is mapped for as long as it is used (constructor), on every CPU alike.
unsafe impl Send for SharedPage {}
// SAFETY: every access of the view is an atomic one, so that those of several threads are no data race.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// The page mapped at `base`.
    ///
    /// # Safety
    ///
    /// `base` is aligned to a page and maps a readable and writable frame for as long as the value or a copy is
    /// used, and no Rust object lives there: all access is through this type, or from outside.
    ///
    /// # Panics
    ///
    /// If `base` is not aligned.
    #[must_use]
    pub unsafe fn new(base: NonNull<u8>) -> Self {
        assert!(base.addr().get().is_multiple_of(FRAME_SIZE), "a shared page is page-aligned");
        Self { base }
    }

    /// A zeroed page of the host's own memory, for those who test or play the other side. It is never freed.
    #[cfg(any(test, not(target_os = "none")))]
    #[must_use]
    pub fn leaked() -> Self {
        #[repr(align(4096))]
        struct Memory(#[expect(dead_code, reason = "reached through the view only")] [u8; FRAME_SIZE]);

        let memory = std::boxed::Box::leak(std::boxed::Box::new(Memory([0; FRAME_SIZE])));
        // SAFETY: aligned and sized by its type, never freed, and the only reference to it ends here, so that
        // views are the only access from now on.
        unsafe { Self::new(NonNull::from(memory).cast()) }
    }

    /// A pointer to `offset`, checked for a `T` there.
    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(
            offset.is_multiple_of(align_of::<T>())
                && offset.checked_add(size_of::<T>()).is_some_and(|end| end <= FRAME_SIZE),
            "offset {offset:#x} does not fit the shared page"
        );
        self.base.as_ptr().wrapping_add(offset).cast()
    }

    /// The byte at `offset`.
    #[must_use]
    pub fn u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: in bounds and aligned (`at`), mapped for as long as `self` (constructor), atomics only.
        unsafe { AtomicU8::from_ptr(self.at(offset)) }
    }

    /// The 32-bit word at `offset`.
    #[must_use]
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: in bounds and aligned (`at`), mapped for as long as `self` (constructor), atomics only.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    /// The 64-bit word at `offset`.
    #[must_use]
    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: in bounds and aligned (`at`), mapped for as long as `self` (constructor), atomics only.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// Copies bytes out. They may change while they are copied; validate the copy.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = self.u8(offset + index).load(Ordering::Relaxed);
        }
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, from: &[u8]) {
        for (index, byte) in from.iter().enumerate() {
            self.u8(offset + index).store(*byte, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page(#[expect(dead_code, reason = "reached through the pointer")] [u8; FRAME_SIZE]);

    fn page(memory: &mut Page) -> SharedPage {
        // SAFETY: a whole aligned page that outlives the use and is touched through the view only.
        unsafe { SharedPage::new(NonNull::from(memory).cast()) }
    }

    #[test]
    fn words_and_bytes_are_the_same_memory() {
        let mut memory = Page([0; FRAME_SIZE]);
        let page = page(&mut memory);
        page.write(8, &[1, 2, 3, 4]);
        assert_eq!(page.u32(8).load(Ordering::Relaxed), 0x0403_0201);
        page.u64(4088).store(u64::MAX, Ordering::Relaxed);
        let mut bytes = [0; 2];
        page.read(4094, &mut bytes);
        assert_eq!(bytes, [0xFF, 0xFF]);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_word_beyond_the_page_is_refused() {
        let mut memory = Page([0; FRAME_SIZE]);
        let _ = page(&mut memory).u64(4096);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_misaligned_word_is_refused() {
        let mut memory = Page([0; FRAME_SIZE]);
        let _ = page(&mut memory).u32(2);
    }
}
