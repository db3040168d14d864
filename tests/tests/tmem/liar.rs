//! A hypervisor that answers anything, does what it likes, and changes its mind between calls: frontswap never hands
//! out a wrong page as the right one.
#![expect(unsafe_code, reason = "an implementation of the port")]

use crate::rig::{Rig, boot_cpu, fill, pattern, slot, swap};
use ebb::port::{PageKey, PoolId, PoolKind, TmemOps};
use ebb::tmem::frontswap::{Frontswap, Hypervisor, Loaded, Stored};
use ebb::tmem::tier::Tier;
use ebb::tmem::{Pool, Tmem};
use ebb::units::Gfn;
use ebb_tests::model::WORDS;
use std::collections::HashMap;
use std::sync::Mutex;
use workload::random::Rng;
use xen_abi::Errno;

/// A generator of numbers.
struct Inner {
    dice: Rng,
    pages: HashMap<(i32, PageKey), Box<[u64; WORDS]>>,
}

/// Success it says only when it is true; everything else it says at random.
struct Liar<'r> {
    rig: &'r Rig,
    inner: Mutex<Inner>,
}

impl Liar<'_> {
    /// The truth, or something else, whatever was done.
    fn say(dice: &mut Rng, success: bool) -> Result<u64, Errno> {
        match dice.below(8) {
            0 => Errno::check(-1 - dice.below(4000).cast_signed()),
            1 => Ok(2 + dice.below(u64::from(u32::MAX))),
            2 => Ok(0),
            _ if success => Ok(1),
            _ => Err(Errno::ENOMEM),
        }
    }
}

// SAFETY: copies whole pages of the model's frames, when a call succeeds.
unsafe impl TmemOps for Liar<'_> {
    fn new_pool(&self, _: PoolKind) -> Result<PoolId, Errno> {
        Ok(PoolId::new(3))
    }
    fn destroy_pool(&self, _: PoolId) -> Result<u64, Errno> {
        Ok(1)
    }
    unsafe fn put(&self, pool: PoolId, key: PageKey, from: Gfn) -> Result<u64, Errno> {
        let mut inner = self.inner.lock().expect("no panic");
        let Inner { dice, pages } = &mut *inner;
        let stores = dice.below(3) > 0;
        if stores {
            let words = core::array::from_fn(|index| self.rig.model.read(from, index));
            pages.insert((pool.get(), key), Box::new(words));
        }
        Self::say(dice, stores)
    }
    unsafe fn get(&self, pool: PoolId, key: PageKey, into: Gfn) -> Result<u64, Errno> {
        let mut inner = self.inner.lock().expect("no panic");
        let Inner { dice, pages } = &mut *inner;
        let found = pages.get(&(pool.get(), key)).filter(|_| dice.below(4) > 0);
        match found {
            Some(words) => {
                words.iter().enumerate().for_each(|(index, word)| self.rig.model.write(into, index, *word))
            }
            None => self.rig.model.write(into, 0, dice.below(u64::MAX)),
        }
        Self::say(dice, found.is_some())
    }
    fn flush_page(&self, pool: PoolId, key: PageKey) -> Result<u64, Errno> {
        let mut inner = self.inner.lock().expect("no panic");
        let Inner { dice, pages } = &mut *inner;
        // "Frozen", "no such pool" and "no tmem" promise that the page is gone; the other answers do not.
        let answer = match dice.below(6) {
            0 => Self::say(dice, false),
            1 => Err(xen_abi::tmem::EFROZEN),
            _ => Ok(1),
        };
        let promised = matches!(answer, Ok(1) | Err(xen_abi::tmem::EFROZEN | Errno::ENODEV | Errno::ENOSYS));
        if promised || dice.below(2) == 0 {
            pages.remove(&(pool.get(), key));
        }
        answer
    }
    fn flush_object(&self, pool: PoolId, object: [u64; 3]) -> Result<u64, Errno> {
        let mut inner = self.inner.lock().expect("no panic");
        inner.pages.retain(|(id, key), _| *id != pool.get() || key.object != object);
        Ok(1)
    }
}

#[test]
fn no_answer_makes_a_wrong_page_of_a_right_one() {
    for seed in 1..=8 {
        let rig = Rig::xen412();
        let _cpu = boot_cpu(rig.host);
        let liar =
            Liar { rig: &rig, inner: Mutex::new(Inner { dice: Rng::new(!seed), pages: HashMap::new() }) };
        let tmem = Tmem::start(&liar, Ok(())).or_else(|_| Tmem::start(&liar, Ok(())));
        let Ok(tmem) = tmem else { continue };
        let pool = Pool::new(rig.host.rcu(), tmem).expect("the host has words");
        let _open = pool.open(PoolKind::Persistent).expect("a pool");
        let tier = Hypervisor::new(&pool);
        let tiers: [&dyn Tier; 1] = [&tier];
        let front = Frontswap::new(rig.host, &tiers);
        front.init(swap(1), 64).expect("a swap type");
        let mut dice = Rng::new(seed);
        let mut truth: HashMap<u64, u64> = HashMap::new();
        let (mut good, mut errors) = (0, 0);
        for step in 0..4000_u64 {
            let at = dice.below(64);
            let mut page = rig.page(10);
            match dice.below(4) {
                0 | 1 => {
                    fill(&mut page, step);
                    match front.store(slot(at), &page) {
                        Stored::Done => drop(truth.insert(at, step)),
                        Stored::WriteToo | Stored::No => drop(truth.remove(&at)),
                    }
                }
                2 => match front.load(slot(at), &mut page) {
                    Ok(Loaded::Copy) => {
                        assert_eq!(pattern(&page), truth.get(&at).copied(), "seed {seed}, step {step}");
                        good += 1;
                    }
                    Ok(other) => assert_eq!((other, truth.get(&at)), (Loaded::NotHere, None)),
                    Err(lost) => {
                        assert_eq!(lost.slot, slot(at));
                        errors += 1;
                    }
                },
                _ => {
                    front.invalidate_page(slot(at));
                    truth.remove(&at);
                }
            }
            assert_eq!(front.curr_pages(), truth.len() as u64, "seed {seed}, step {step}");
        }
        assert!(good > 50 && errors > 50, "{good} good loads and {errors} errors");
    }
}
