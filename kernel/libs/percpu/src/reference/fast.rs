//! The fast paths: one add to a word of the own CPU, if no tag is set.
//!
//! A put is made through a raw pointer, because it may release the object, and the count with it: nothing of the
//! count is borrowed at that moment.
#![expect(unsafe_code, reason = "adds to per-CPU words, and puts that outlive their count")]

use super::block::BlockPtr;
use super::{AT_ONCE, Events, Kind, PercpuRef};
use crate::platform::Platform;
use crate::report::Report;

impl<P: Platform, E: Events, K: Kind> PercpuRef<P, E, K> {
    /// Takes `n` references if the count is per CPU; whether it did.
    #[inline]
    pub(super) fn get_fast(&self, n: u64) -> bool {
        if n == 1 {
            // SAFETY: the word is a count's: a tag, or the offset of the word that the count owns.
            unsafe { self.platform.local_inc(&self.word) }
        } else {
            // SAFETY: as above.
            n <= AT_ONCE && unsafe { self.platform.local_add(&self.word, n) }
        }
    }

    /// Gives `n` references back.
    #[inline]
    pub(super) fn put(&self, n: u64) {
        // SAFETY: borrowed for the whole call.
        unsafe { Self::put_at(self, n) };
    }

    /// Gives `n` references back to the count at `this`, which the put may bring to its end.
    ///
    /// # Safety
    ///
    /// `this` is valid until the references are given back.
    #[inline]
    pub(super) unsafe fn put_at(this: *const Self, n: u64) {
        // SAFETY: valid: nothing has been given back. Only the word is borrowed.
        let word = unsafe { &(*this).word };
        // SAFETY: as above; copied.
        let platform = unsafe { (*this).platform };
        let fast = if n == 1 {
            // SAFETY: the word is a count's: a tag, or the offset of the word that the count owns.
            unsafe { platform.local_dec(word) }
        } else {
            // SAFETY: as above.
            n <= AT_ONCE && unsafe { platform.local_add(word, n.wrapping_neg()) }
        };
        if !fast {
            // SAFETY: as above; copied, so that nothing of the count is touched from here on.
            let block = unsafe { (*this).block };
            Self::put_slow(platform, block, n);
        }
    }

    #[cold]
    fn put_slow(platform: P, block: Option<BlockPtr<P, E>>, n: u64) {
        match block {
            Some(block) => block.give_back(n),
            None => platform.report(Report::UseAfterExit),
        }
    }
}
