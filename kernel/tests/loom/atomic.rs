//! The atomics that the models give to the kernel's source: loom's, made in constants, and sometimes mistaken.
//!
//! Loom's atomics cannot be made in a constant, so these make theirs when they are first used. That counts as a write
//! by the thread that does it, and loom reports an access that is not ordered behind it: a model uses everything
//! once before it starts its threads.

use crate::interrupt;
use crate::model::{Mistake, made, weakened};
use core::sync::atomic::Ordering;
use std::sync::OnceLock;

macro_rules! atomics {
    ($($name:ident: $value:ty;)+) => {$(
        /// One of loom's, made when it is first used.
        #[derive(Debug)]
        pub(crate) struct $name {
            first: $value,
            real: OnceLock<loom::sync::atomic::$name>,
        }

        impl $name {
            pub(crate) const fn new(first: $value) -> Self {
                Self { first, real: OnceLock::new() }
            }

            fn real(&self) -> &loom::sync::atomic::$name {
                self.real.get_or_init(|| loom::sync::atomic::$name::new(self.first))
            }
        }
    )+};
}

atomics! {
    AtomicBool: bool;
    AtomicU8: u8;
    AtomicU16: u16;
    AtomicU32: u32;
    AtomicU64: u64;
}

impl AtomicBool {
    pub(crate) fn load(&self, order: Ordering) -> bool {
        interrupt::point();
        self.real().load(order)
    }

    pub(crate) fn store(&self, value: bool, order: Ordering) {
        interrupt::point();
        self.real().store(value, weakened(order, Mistake::RelaxedLeave));
    }

    pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
        if made(Mistake::SplitEnter) {
            let before = self.real().load(order);
            self.real().store(value, Ordering::Relaxed);
            return before;
        }
        self.real().swap(value, weakened(order, Mistake::RelaxedEnter))
    }
}

/// The gate for one CPU; the states are `lock.rs`'s.
impl AtomicU8 {
    /// The upcall flag is lowered with this.
    pub(crate) fn swap(&self, value: u8, order: Ordering) -> u8 {
        self.real().swap(value, order)
    }

    pub(crate) fn load(&self, order: Ordering) -> u8 {
        interrupt::point();
        if made(Mistake::OneLook) { 0 } else { self.real().load(order) }
    }

    pub(crate) fn store(&self, value: u8, order: Ordering) {
        const PARKED: u8 = 2;
        let order = if value == PARKED { weakened(order, Mistake::RelaxedPark) } else { order };
        self.real().store(value, order);
    }

    pub(crate) fn compare_exchange(
        &self,
        from: u8,
        to: u8,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u8, u8> {
        const AFAR: u8 = 3;
        if made(Mistake::DrainedAwake) && to == AFAR {
            // Whatever it was.
            return Ok(self.real().swap(to, success));
        }
        self.real().compare_exchange(from, to, weakened(success, Mistake::RelaxedWake), failure)
    }
}

/// What is asked of the CPU that has a magazine.
impl AtomicU16 {
    pub(crate) fn load(&self, order: Ordering) -> u16 {
        interrupt::point();
        if made(Mistake::DeafLeave) && interrupt::is_interruptible() { 0 } else { self.real().load(order) }
    }

    pub(crate) fn fetch_or(&self, bits: u16, order: Ordering) -> u16 {
        self.real().fetch_or(bits, order)
    }

    pub(crate) fn fetch_and(&self, bits: u16, order: Ordering) -> u16 {
        interrupt::point();
        if made(Mistake::SplitHeed) {
            let before = self.real().load(Ordering::Acquire);
            self.real().store(before & bits, Ordering::Release);
            return before;
        }
        self.real().fetch_and(bits, weakened(order, Mistake::RelaxedHeed))
    }

    pub(crate) fn fetch_add(&self, amount: u16, order: Ordering) -> u16 {
        self.real().fetch_add(amount, order)
    }

    pub(crate) fn fetch_sub(&self, amount: u16, order: Ordering) -> u16 {
        self.real().fetch_sub(amount, order)
    }
}

impl AtomicU32 {
    pub(crate) fn load(&self, order: Ordering) -> u32 {
        self.real().load(order)
    }

    pub(crate) fn store(&self, value: u32, order: Ordering) {
        self.real().store(value, weakened(order, Mistake::RelaxedPost));
    }

    pub(crate) fn compare_exchange(
        &self,
        from: u32,
        to: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        if made(Mistake::SplitChange) {
            let before = self.real().load(Ordering::Acquire);
            if before != from {
                return Err(before);
            }
            self.real().store(to, Ordering::Release);
            return Ok(before);
        }
        let failure = weakened(failure, Mistake::RelaxedGivingUp);
        self.real().compare_exchange(from, to, weakened(success, Mistake::RelaxedChange), failure)
    }
}

impl AtomicU64 {
    /// Loom takes a sequentially consistent load for one that acquires, but knows the fence.
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        if order == Ordering::SeqCst {
            loom::sync::atomic::fence(order);
        }
        self.real().load(order)
    }

    pub(crate) fn swap(&self, value: u64, order: Ordering) -> u64 {
        if made(Mistake::SplitSwap) {
            let before = self.real().load(Ordering::Acquire);
            self.real().store(value, Ordering::Release);
            return before;
        }
        self.real().swap(value, order)
    }

    pub(crate) fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        if made(Mistake::SplitInsert) {
            let before = self.real().load(Ordering::Acquire);
            self.real().store(before | bits, Ordering::Release);
            return before;
        }
        self.real().fetch_or(bits, weakened(order, Mistake::RelaxedInsert))
    }

    pub(crate) fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        if made(Mistake::SplitTake) {
            let before = self.real().load(Ordering::Acquire);
            self.real().store(before & bits, Ordering::Release);
            return before;
        }
        self.real().fetch_and(bits, weakened(order, Mistake::RelaxedTake))
    }

    /// Xen sets bits, and makes no mistakes.
    pub(crate) fn signal(&self, bits: u64) -> u64 {
        self.real().fetch_or(bits, Ordering::SeqCst)
    }

    /// Xen clears all but some.
    pub(crate) fn clear(&self, bits: u64) -> u64 {
        self.real().fetch_and(bits, Ordering::SeqCst)
    }
}
