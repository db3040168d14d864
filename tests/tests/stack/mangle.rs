//! Tmem between the guest and Xen that answers what it likes.
//!
//! A call is made or not, and what is answered says the truth or anything else; the next call may find it honest again.
//! One thing it never does: say that something was done which was not. A hypervisor that does has thrown data away, and
//! no client can know until it asks for the page; that is a test of its own.
#![expect(unsafe_code, reason = "an implementation of the port")]

use ebb::port::{PageKey, PoolId, PoolKind, TmemOps};
use ebb::units::Gfn;
use ebb::xen::Xen;
use ebb_tests::model::Model;
use percpu::Cpus;
use percpu::host::Host;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use workload::random::Rng;
use xen_abi::{Errno, tmem as abi};

/// The port. Honest until it is told otherwise.
pub(crate) struct Mangled {
    model: &'static Model,
    host: Host,
    random: Mutex<Rng>,
    /// What becomes of the next calls.
    script: Mutex<VecDeque<Fate>>,
    /// One call in so many is mangled; 0 for none.
    one_in: AtomicU64,
    mangled: AtomicU64,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// It is made, and its answer passed on.
    Honest,
    /// It is made, and this is answered.
    DoneAndDenied(Result<u64, Errno>),
    /// It is not made.
    NotDone(Result<u64, Errno>),
}

impl Mangled {
    pub(crate) fn new(model: &'static Model, host: Host, seed: u64) -> Self {
        let zero = || AtomicU64::new(0);
        let random = Mutex::new(Rng::new(seed));
        Self { model, host, random, script: Mutex::default(), one_in: zero(), mangled: zero() }
    }

    /// Has this become of the next calls, in order; whatever was to become of others before is forgotten.
    pub(crate) fn script(&self, fates: &[Fate]) {
        *self.script.lock().expect("no panic") = fates.iter().copied().collect();
    }

    pub(crate) fn mangle_one_in(&self, calls: u64) {
        self.one_in.store(calls, Ordering::Relaxed);
    }

    pub(crate) fn mangled(&self) -> u64 {
        self.mangled.load(Ordering::Relaxed)
    }

    /// The way to Xen. A thread that makes a call may lose its CPU there: grace periods may end, unless it holds on to it.
    fn xen(&self) -> Xen<&'static Model> {
        if self.host.may_block() {
            self.host.rcu().quiesce();
        }
        self.model.xen()
    }

    fn roll(&self, sides: u64) -> u64 {
        self.random.lock().expect("no panic").below(sides)
    }

    /// Any number that is no success, errors that promise nothing among them.
    fn nonsense(&self) -> Result<u64, Errno> {
        match self.roll(6) {
            0 => Ok(0),
            1 => Ok(2 + self.roll(u64::from(u32::MAX))),
            2 => Err(Errno::EFAULT),
            3 => Err(Errno::ENOMEM),
            4 => Err(Errno::ENOSPC),
            // Anything else, but for those that say that there is nothing any more.
            _ => match Errno::check(-1 - self.roll(4000).cast_signed()) {
                Err(Errno::ENODEV | Errno::ENOSYS | abi::EFROZEN) | Ok(_) => Err(Errno::EIO),
                other => other,
            },
        }
    }

    fn fate(&self) -> Fate {
        if let Some(fate) = self.script.lock().expect("no panic").pop_front() {
            return fate;
        }
        let one_in = self.one_in.load(Ordering::Relaxed);
        if one_in == 0 || self.roll(one_in) != 0 {
            return Fate::Honest;
        }
        self.mangled.fetch_add(1, Ordering::Relaxed);
        let answer = self.nonsense();
        if self.roll(2) == 0 { Fate::DoneAndDenied(answer) } else { Fate::NotDone(answer) }
    }

    fn call(&self, make: impl FnOnce(Xen<&'static Model>) -> Result<u64, Errno>) -> Result<u64, Errno> {
        match self.fate() {
            Fate::Honest => make(self.xen()),
            Fate::DoneAndDenied(answer) => {
                let _ = make(self.xen());
                answer
            }
            Fate::NotDone(answer) => answer,
        }
    }

    /// A flush may also be answered as if there were no pool, or no tmem, or a freeze; then it was done.
    fn flush(&self, make: impl FnOnce(Xen<&'static Model>) -> Result<u64, Errno>) -> Result<u64, Errno> {
        let one_in = self.one_in.load(Ordering::Relaxed);
        let scripted = !self.script.lock().expect("no panic").is_empty();
        if one_in != 0 && !scripted && self.roll(2 * one_in) == 0 {
            let _ = make(self.xen());
            return Err([Errno::ENODEV, Errno::ENOSYS, abi::EFROZEN][self.roll(3) as usize]);
        }
        self.call(make)
    }
}

// SAFETY: forwards to an implementation that promises the same, or does nothing; a get that is not made may scribble over
// the first word of its frame.
unsafe impl TmemOps for Mangled {
    fn new_pool(&self, kind: PoolKind) -> Result<PoolId, Errno> {
        match self.fate() {
            Fate::Honest => self.xen().new_pool(kind),
            // Made and denied, it would be there for good.
            Fate::DoneAndDenied(answer) | Fate::NotDone(answer) => Err(answer.err().unwrap_or(Errno::EINVAL)),
        }
    }

    fn destroy_pool(&self, pool: PoolId) -> Result<u64, Errno> {
        // That there is no such pool would be a promise.
        let garbage = |answer: Result<u64, Errno>| if answer == Ok(0) { Err(Errno::EIO) } else { answer };
        match self.fate() {
            Fate::Honest => self.xen().destroy_pool(pool),
            Fate::DoneAndDenied(answer) => {
                let _ = self.xen().destroy_pool(pool);
                garbage(answer)
            }
            Fate::NotDone(answer) => garbage(answer),
        }
    }

    unsafe fn put(&self, pool: PoolId, key: PageKey, from: Gfn) -> Result<u64, Errno> {
        // SAFETY: the caller's promise is the one that the callee wants.
        self.call(|xen| unsafe { xen.put(pool, key, from) })
    }

    unsafe fn get(&self, pool: PoolId, key: PageKey, into: Gfn) -> Result<u64, Errno> {
        match self.fate() {
            // SAFETY: the caller's promise is the one that the callee wants.
            Fate::Honest => unsafe { self.xen().get(pool, key, into) },
            Fate::DoneAndDenied(answer) => {
                // SAFETY: the caller's promise is the one that the callee wants.
                let _ = unsafe { self.xen().get(pool, key, into) };
                answer
            }
            Fate::NotDone(answer) => {
                self.model.write(into, 0, self.roll(u64::MAX));
                answer
            }
        }
    }

    fn flush_page(&self, pool: PoolId, key: PageKey) -> Result<u64, Errno> {
        self.flush(|xen| xen.flush_page(pool, key))
    }

    fn flush_object(&self, pool: PoolId, object: [u64; 3]) -> Result<u64, Errno> {
        self.flush(|xen| xen.flush_object(pool, object))
    }
}
