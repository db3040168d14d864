//! A domain that plays a part in a case: the guest's own, or another one of the lab's.
#![expect(unsafe_code, reason = "tells the hypervisor of frames and structures that are the cases' own")]

use super::Lab;
use crate::conformance::check::{answers, done, same};
use crate::conformance::{Env, Outcome, Stop, own};
use core::cell::Cell;
use ebb::port::{MemoryOps, PageKey, PoolId, PoolKind, TmemOps};
use ebb::units::{Frames, Gfn};
use ebb::xen::transport::Arguments;
use ebb::xen::{Transport, Xen};
use xen_abi::tmem::{NewPool, PageOp};
use xen_abi::{Errno, hypercall, tmem as abi};

/// Words in a frame.
const WORDS: usize = 512;

/// A page of object `object`, at `index`.
pub(super) const fn key(object: u64, index: u32) -> PageKey {
    PageKey { object: [object, 0, 0], index }
}

/// One domain. Destroys the pools that it made when the case is over.
pub(super) struct Actor<'e, E: Env> {
    env: &'e E,
    other: Option<(&'e dyn Lab, u16)>,
    made: Cell<u32>,
}

/// The guest itself. Cases do not come here where no tmem is served: see [`Case::pointless`].
///
/// [`Case::pointless`]: crate::conformance::Case::pointless
pub(super) fn own<E: Env>(env: &E) -> Actor<'_, E> {
    Actor { env, other: None, made: Cell::new(0) }
}

/// Another domain, where there are others.
pub(super) fn other<E: Env>(env: &E, domid: u16) -> Result<Actor<'_, E>, Stop> {
    Ok(Actor { env, other: Some((lab(env)?, domid)), made: Cell::new(0) })
}

/// The lab, where there is one.
pub(super) fn lab<E: Env>(env: &E) -> Result<&dyn Lab, Stop> {
    env.lab().ok_or(Stop::Skip("there are no other domains and no toolstack to ask"))
}

/// Whether the hypervisor behaves as Xen 4.12; every real one does.
pub(super) fn has_defects<E: Env>(env: &E) -> bool {
    env.lab().is_none_or(|lab| lab.has_defects())
}

fn number(result: Result<u64, Errno>) -> i64 {
    result.map_or_else(Errno::to_rax, u64::cast_signed)
}

impl<E: Env> Actor<'_, E> {
    fn xen(&self) -> Xen<&Self> {
        Xen::new(self)
    }

    /// One of the domain's own frames.
    pub(super) fn frame(&self, nth: u64) -> Gfn {
        match self.other {
            Some(_) => Gfn::new(nth),
            None => own::frame(self.env, nth),
        }
    }

    /// A frame number with nothing behind it.
    pub(super) fn bad_frame(&self) -> Gfn {
        match self.other {
            Some(_) => Gfn::new(0x1000),
            None => own::hole(self.env, 7),
        }
    }

    /// Frames that it is charged.
    pub(super) fn charged(&self) -> Result<u64, Stop> {
        match self.other {
            Some((lab, domid)) => Ok(lab.charged(domid)),
            None => done("current_reservation", self.env.xen().current_reservation()).map(Frames::get),
        }
    }

    /// Makes the structure's call.
    pub(super) fn raw<A>(&self, op: &mut A) -> i64 {
        const { assert!(size_of::<A>() == abi::OP_SIZE) };
        let pointer = core::ptr::from_mut(op).expose_provenance() as u64;
        // SAFETY: a structure of the right size; the frames that cases name are their own, or not RAM.
        unsafe { self.call(hypercall::TMEM_OP, [pointer, 0, 0, 0, 0]) }
    }

    /// A call whose structure is nowhere.
    pub(super) fn unreadable(&self) -> i64 {
        // SAFETY: nothing is mapped there, so the call reads nothing.
        unsafe { self.call(hypercall::TMEM_OP, [self.env.unmapped_address(), 0, 0, 0, 0]) }
    }

    fn op(&self, cmd: u32, pool: i32) -> Result<u64, Errno> {
        Errno::check(self.raw(&mut PageOp { cmd, pool_id: pool, ..PageOp::default() }))
    }

    /// Any command on a pool id, with everything else zero (and so frame 0, which is never RAM of the cases: no command
    /// that copies may come here with a pool that exists).
    pub(super) fn command(&self, cmd: u32, pool: i32) -> i64 {
        number(self.op(cmd, pool))
    }

    /// Makes a pool with these flags; answers what the hypervisor does.
    pub(super) fn create(&self, flags: u32) -> i64 {
        self.create_odd(flags, [0; 2], 0, 0)
    }

    /// Makes a pool, with every field to choose.
    pub(super) fn create_odd(&self, flags: u32, uuid: [u64; 2], pool_id: i32, arg1: u32) -> i64 {
        let mut op = NewPool { cmd: abi::NEW_POOL, pool_id, uuid, flags, arg1, ..NewPool::default() };
        let id = self.raw(&mut op);
        self.note(id);
        id
    }

    fn note(&self, id: i64) {
        if let 0..16 = id {
            self.made.set(self.made.get() | 1 << id);
        }
    }

    /// Makes a pool, through the typed call.
    pub(super) fn try_pool(&self, kind: PoolKind) -> i64 {
        let made = self.xen().new_pool(kind).map(|id| i64::from(id.get()));
        let id = made.unwrap_or_else(Errno::to_rax);
        self.note(id);
        id
    }

    /// Makes a pool, which must succeed.
    pub(super) fn pool(&self, kind: PoolKind) -> Result<PoolId, Stop> {
        let id = done("a new pool", Errno::check(self.try_pool(kind)))?;
        Ok(PoolId::new(id as i32))
    }

    /// A persistent pool.
    pub(super) fn persistent(&self) -> Result<PoolId, Stop> {
        self.pool(PoolKind::Persistent)
    }

    /// A private ephemeral pool.
    pub(super) fn ephemeral(&self) -> Result<PoolId, Stop> {
        self.pool(PoolKind::Ephemeral)
    }

    /// Destroys a pool.
    pub(super) fn destroy(&self, pool: PoolId) -> i64 {
        if let 0..16 = pool.get() {
            self.made.set(self.made.get() & !(1 << pool.get()));
        }
        number(self.xen().destroy_pool(pool))
    }

    /// Puts a frame.
    pub(super) fn put_frame(&self, pool: PoolId, key: PageKey, frame: Gfn) -> i64 {
        // SAFETY: a frame of the cases, whose words are atomics, or one that is not RAM.
        number(unsafe { self.xen().put(pool, key, frame) })
    }

    /// Gets into a frame.
    pub(super) fn get_frame(&self, pool: PoolId, key: PageKey, frame: Gfn) -> i64 {
        // SAFETY: a frame of the cases, whose words are atomics, or one that is not RAM.
        number(unsafe { self.xen().get(pool, key, frame) })
    }

    /// Puts the page with this pattern, from frame 0.
    pub(super) fn put(&self, pool: PoolId, key: PageKey, pattern: u64) -> i64 {
        self.fill(0, pattern);
        self.put_frame(pool, key, self.frame(0))
    }

    /// Puts the page, which must succeed.
    pub(super) fn must_put(&self, pool: PoolId, key: PageKey, pattern: u64) -> Outcome {
        answers("put", self.put(pool, key, pattern), 1)
    }

    /// Gets into frame 1, which holds something else before.
    pub(super) fn get(&self, pool: PoolId, key: PageKey) -> i64 {
        self.mark(1, 0xDEAD);
        self.get_frame(pool, key, self.frame(1))
    }

    /// Gets the page, which must be there with this pattern.
    pub(super) fn must_get(&self, pool: PoolId, key: PageKey, pattern: u64) -> Outcome {
        answers("get", self.get(pool, key), 1)?;
        self.has(1, pattern)
    }

    /// The page must not be there, nor the frame written to.
    pub(super) fn must_miss(&self, pool: PoolId, key: PageKey) -> Outcome {
        let got = self.get(pool, key);
        if got != 0 && got != abi::EEMPTY.to_rax() {
            return answers("a get that misses", got, 0);
        }
        self.has_mark(1, 0xDEAD)
    }

    /// Flushes a page.
    pub(super) fn flush(&self, pool: PoolId, key: PageKey) -> i64 {
        number(self.xen().flush_page(pool, key))
    }

    /// Flushes an object.
    pub(super) fn flush_object(&self, pool: PoolId, object: u64) -> i64 {
        number(self.xen().flush_object(pool, [object, 0, 0]))
    }

    /// A put of a page with only its ends written: for many.
    pub(super) fn put_mark(&self, pool: PoolId, key: PageKey, value: u64) -> i64 {
        self.mark(2, value);
        self.put_frame(pool, key, self.frame(2))
    }

    /// Writes a word of a frame.
    fn write(&self, nth: u64, index: usize, value: u64) {
        match self.other {
            Some((lab, domid)) => lab.write(domid, self.frame(nth), index, value),
            None => self.env.write(self.frame(nth), index, value),
        }
    }

    fn read(&self, nth: u64, index: usize) -> u64 {
        match self.other {
            Some((lab, domid)) => lab.read(domid, self.frame(nth), index),
            None => self.env.read(self.frame(nth), index),
        }
    }

    /// Fills a frame with a pattern, which differs in every word.
    pub(super) fn fill(&self, nth: u64, pattern: u64) {
        (0..WORDS).for_each(|index| self.write(nth, index, word(pattern, index)));
    }

    /// Every word of the frame has the pattern.
    pub(super) fn has(&self, nth: u64, pattern: u64) -> Outcome {
        (0..WORDS)
            .try_for_each(|index| same("a word of the page", self.read(nth, index), word(pattern, index)))
    }

    /// Writes the ends of a frame.
    pub(super) fn mark(&self, nth: u64, value: u64) {
        self.write(nth, 0, value);
        self.write(nth, WORDS - 1, !value);
    }

    /// The ends of the frame are as they were written.
    pub(super) fn has_mark(&self, nth: u64, value: u64) -> Outcome {
        same("the first word of the page", self.read(nth, 0), value)?;
        same("the last word of the page", self.read(nth, WORDS - 1), !value)
    }
}

/// Patterns below this are compressible: they change every 64 words.
pub(super) const COMPRESSIBLE: u64 = 1 << 32;

fn word(pattern: u64, index: usize) -> u64 {
    let step = if pattern < COMPRESSIBLE { index as u64 / 64 } else { index as u64 };
    pattern.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ step.wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

// SAFETY: forwards to the environment's transport, or to the lab's domain, which keep to the ABI.
unsafe impl<E: Env> Transport for Actor<'_, E> {
    unsafe fn call(&self, number: u32, arguments: Arguments) -> i64 {
        match self.other {
            // SAFETY: the caller's promise.
            Some((lab, domid)) => unsafe { lab.call(domid, arguments[0]) },
            // SAFETY: the caller's promise.
            None => unsafe { self.env.xen().transport().call(number, arguments) },
        }
    }
}

impl<E: Env> Drop for Actor<'_, E> {
    fn drop(&mut self) {
        for id in (0..16).filter(|id| self.made.get() & 1 << id != 0) {
            self.destroy(PoolId::new(id));
        }
    }
}
