//! Statements 121 to 130: the front ends over the hypervisor's tmem.

use crate::rig::{Ops, Rig, boot_cpu, fill, key, pattern, persistent, slot, swap};
use ebb::port::TmemOps;
use ebb::tmem::Tmem;
use ebb::tmem::cleancache::Cleancache;
use ebb::tmem::frontswap::{Choice, Counters, Frontswap, Hypervisor, InitError, Loaded, Lost, Stored};
use ebb::tmem::tier::{Loss, Refusal, Slot, Store, Tier};
use ebb_tests::conformance::tmem::{Control, Fault};
use ebb_tests::model::Config;
use percpu::host::Host;
use std::cell::RefCell;
use xen_abi::{Errno, hypercall, tmem as abi};

/// Runs over frontswap with one tier, the hypervisor's, and swap types 0 and 1 of 1024 slots; at the end nothing may be
/// left.
fn with_front(test: impl FnOnce(&Rig, &Frontswap<'_, Host>)) {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let charged = rig.charged();
    let pool = rig.pool();
    let open = persistent(&pool);
    let tier = Hypervisor::new(&pool);
    let tiers: [&dyn Tier; 1] = [&tier];
    let front = Frontswap::new(rig.host, &tiers);
    for number in [0, 1] {
        front.init(swap(number), 1024).expect("a swap type");
    }
    test(&rig, &front);
    for number in [0, 1] {
        front.invalidate_area(swap(number)).expect("flushes work");
    }
    assert_eq!(front.curr_pages(), 0);
    assert_eq!(open.close(), Ok(()));
    rig.is_clean(charged);
}

/// Stores the pattern.
fn store(rig: &Rig, front: &Frontswap<'_, Host>, at: Slot, value: u64) -> Stored {
    let mut page = rig.page(10);
    fill(&mut page, value);
    front.store(at, &page)
}

/// Loads; the pattern if it was a copy of the tier's.
fn load(rig: &Rig, front: &Frontswap<'_, Host>, at: Slot) -> Result<(Loaded, Option<u64>), Lost> {
    let mut page = rig.page(11);
    page.fill(0xDEAD);
    let loaded = front.load(at, &mut page)?;
    Ok((loaded, pattern(&page)))
}

/// Hypercalls that something makes.
fn calls<R>(rig: &Rig, run: impl FnOnce() -> R) -> (u64, R) {
    let before = rig.model.hypercalls();
    let result = run();
    (rig.model.hypercalls() - before, result)
}

#[test]
fn s121_a_store_that_failed_leaves_nothing() {
    with_front(|rig, front| {
        assert_eq!(calls(rig, || store(rig, front, slot(5), 1)), (1, Stored::Done));
        assert_eq!(load(rig, front, slot(5)), Ok((Loaded::Copy, Some(1))));
        for fault in [Fault::PreCheck, Fault::Metadata, Fault::Data, Fault::Copy] {
            let flushes = rig.model.tmem_calls(abi::FLUSH_PAGE);
            rig.model.tmem_fail(fault);
            assert_eq!(store(rig, front, slot(6), 2), Stored::No, "{fault:?}");
            assert_eq!(rig.model.tmem_calls(abi::FLUSH_PAGE), flushes + 1, "{fault:?}");
            assert_eq!(load(rig, front, slot(6)).map(|(loaded, _)| loaded), Ok(Loaded::NotHere), "{fault:?}");
        }
        let wanted = Counters { loads: 1, succ_stores: 1, failed_stores: 4, ..Counters::default() };
        assert_eq!((front.counters(), front.curr_pages()), (wanted, 1));
    });
}

#[test]
fn s122_a_load_of_what_is_not_there_asks_nobody() {
    with_front(|rig, front| {
        for at in [slot(5), slot(1024), Slot { swap: swap(9), offset: 0 }] {
            let (count, loaded) = calls(rig, || load(rig, front, at));
            assert_eq!((count, loaded.map(|(loaded, _)| loaded)), (0, Ok(Loaded::NotHere)), "{at}");
        }
    });
}

#[test]
fn s123_a_page_that_tmem_lost_is_an_error_by_name() {
    with_front(|rig, front| {
        let lost = |why| Err(Lost { slot: slot(5), tier: Some("tmem"), why });
        assert_eq!(store(rig, front, slot(5), 1), Stored::Done);
        // Somebody flushes it behind frontswap's back: alone, then with another page in the pool.
        let pool = ebb::port::PoolId::new(0);
        assert_eq!(rig.model.xen().flush_page(pool, key(0x15, 0)), Ok(1));
        assert_eq!(load(rig, front, slot(5)), lost(Loss::Missing));
        assert_eq!(store(rig, front, slot(6), 1), Stored::Done);
        assert_eq!(load(rig, front, slot(5)), lost(Loss::Missing));
        // Not for ever: what is stored again is there again.
        assert_eq!(store(rig, front, slot(5), 2), Stored::Done);
        assert_eq!(load(rig, front, slot(5)), Ok((Loaded::Copy, Some(2))));
        // A frame that it will not write to may be one that was not written to lately: that is tried again, and not for
        // ever. What fails is an error, too, and the next one works.
        let refuse =
            |times| (0..times).for_each(|_| rig.model.refuse(hypercall::TMEM_OP, None, Errno::EFAULT));
        refuse(3);
        assert_eq!(load(rig, front, slot(5)), Ok((Loaded::Copy, Some(2))));
        refuse(4);
        assert_eq!(load(rig, front, slot(5)), lost(Loss::BadFrame));
        assert_eq!(load(rig, front, slot(5)), Ok((Loaded::Copy, Some(2))));
        rig.model.tmem_restart();
        assert_eq!(load(rig, front, slot(5)), lost(Loss::TierGone));
        assert_eq!(front.counters().lost, 4);
        let text = Lost { slot: slot(5), tier: Some("tmem"), why: Loss::TierGone };
        assert_eq!(text.to_string(), "the page in slot 0x5 of swap 1 is lost: tmem: it is gone");
    });
}

#[test]
fn s124_write_through_keeps_a_copy_and_says_write() {
    with_front(|rig, front| {
        front.set_write_through(true);
        assert_eq!(store(rig, front, slot(5), 1), Stored::WriteToo);
        assert_eq!((front.curr_pages(), front.counters().succ_stores), (1, 1));
        front.set_write_through(false);
        assert_eq!(load(rig, front, slot(5)), Ok((Loaded::Copy, Some(1))));
        // It may be lost: the swap device has it.
        rig.model.tmem_restart();
        assert_eq!(load(rig, front, slot(5)).map(|(loaded, _)| loaded), Ok(Loaded::NotHere));
        assert_eq!((front.curr_pages(), front.counters().lost), (0, 0));
    });
}

#[test]
fn a_page_stored_before_write_through_is_still_the_only_copy() {
    with_front(|rig, front| {
        assert_eq!(store(rig, front, slot(5), 1), Stored::Done);
        front.set_write_through(true);
        rig.model.tmem_restart();
        assert!(load(rig, front, slot(5)).is_err());
    });
}

#[test]
fn s125_invalidating_a_page_flushes_it_once() {
    with_front(|rig, front| {
        assert_eq!(calls(rig, || front.invalidate_page(slot(5))).0, 0);
        assert_eq!(front.counters().invalidates, 0);
        assert_eq!(store(rig, front, slot(5), 1), Stored::Done);
        assert_eq!(calls(rig, || front.invalidate_page(slot(5))).0, 1);
        assert_eq!(calls(rig, || front.invalidate_page(slot(5))).0, 0);
        assert_eq!((front.counters().invalidates, front.curr_pages(), rig.model.tmem_pages()), (1, 0, 0));
    });
}

#[test]
fn s126_invalidating_an_area_flushes_sixteen_objects() {
    with_front(|rig, front| {
        for offset in 0..100 {
            assert_eq!(store(rig, front, slot(offset), offset), Stored::Done);
        }
        assert_eq!(store(rig, front, Slot { swap: swap(0), offset: 3 }, 3), Stored::Done);
        let flushes = rig.model.tmem_calls(abi::FLUSH_OBJECT);
        let (count, outcome) = calls(rig, || front.invalidate_area(swap(1)));
        assert_eq!((count, outcome), (16, Ok(())));
        assert_eq!(rig.model.tmem_calls(abi::FLUSH_OBJECT), flushes + 16);
        assert_eq!((front.pages_of(swap(1)), front.curr_pages(), rig.model.tmem_pages()), (0, 1, 1));
        assert_eq!(front.counters().invalidates, 0, "areas are not counted");
        assert_eq!(store(rig, front, slot(7), 7), Stored::No, "the type is out of use");
        assert_eq!(front.init(swap(1), 2000), Err(InitError::Smaller));
        assert_eq!(front.init(swap(1), 1024), Ok(()));
        assert_eq!(front.init(swap(1), 1024), Err(InitError::InUse));
        assert_eq!(store(rig, front, slot(7), 7), Stored::Done);
    });
}

#[test]
fn s127_a_store_over_a_page_flushes_that_first() {
    with_front(|rig, front| {
        assert_eq!(store(rig, front, slot(5), 0xA), Stored::Done);
        let (flushes, puts) = (rig.model.tmem_calls(abi::FLUSH_PAGE), rig.model.tmem_calls(abi::PUT_PAGE));
        assert_eq!(store(rig, front, slot(5), 0xB), Stored::Done);
        assert_eq!(rig.model.tmem_calls(abi::FLUSH_PAGE), flushes + 1);
        assert_eq!(rig.model.tmem_calls(abi::PUT_PAGE), puts + 1);
        assert_eq!((front.curr_pages(), front.counters().invalidates), (1, 0));
        rig.model.tmem_fail(Fault::PreCheck);
        assert_eq!(store(rig, front, slot(5), 0xC), Stored::No);
        assert_eq!((front.curr_pages(), rig.model.tmem_pages()), (0, 0), "not even the page that was there");
    });
}

#[test]
fn s128_an_offset_beyond_32_bits_is_refused_without_a_call() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let _open = persistent(&pool);
    let tier = Hypervisor::new(&pool);
    let (count, stored) = calls(&rig, || tier.store(slot(1 << 32), &rig.page(10)));
    assert_eq!((count, stored), (0, Store::Refused(Refusal::NoName)));
    assert_eq!(tier.store(slot(0x25), &rig.page(10)), Store::Stored);
    let mut page = rig.page(11);
    assert_eq!(page.copy_in(&rig.model.xen(), ebb::port::PoolId::new(0), key(0x15, 2)), Ok(1));
}

#[test]
fn exclusive_gets_leave_the_only_copy_with_the_guest() {
    with_front(|rig, front| {
        assert_eq!(store(rig, front, slot(5), 1), Stored::Done);
        front.set_exclusive_gets(true);
        assert_eq!(load(rig, front, slot(5)), Ok((Loaded::Only, Some(1))));
        assert_eq!((front.curr_pages(), rig.model.tmem_pages()), (0, 0));
        assert_eq!(load(rig, front, slot(5)).map(|(loaded, _)| loaded), Ok(Loaded::NotHere));
    });
}

#[test]
fn a_slot_in_doubt_is_not_loaded_and_is_settled_by_the_next_flush() {
    with_front(|rig, front| {
        assert_eq!(store(rig, front, slot(5), 0xA), Stored::Done);
        let break_next = || rig.model.refuse(hypercall::TMEM_OP, None, Errno::EIO);
        break_next(); // the flush before the put
        assert_eq!(store(rig, front, slot(5), 0xB), Stored::No);
        assert_eq!((front.curr_pages(), rig.model.tmem_pages()), (0, 1), "the old page is there");
        let lost = Lost { slot: slot(5), tier: None, why: Loss::Missing };
        assert_eq!(calls(rig, || load(rig, front, slot(5))), (0, Err(lost)));
        break_next();
        assert_eq!(store(rig, front, slot(5), 0xC), Stored::No, "still in doubt");
        assert_eq!(store(rig, front, slot(5), 0xD), Stored::Done);
        assert_eq!(load(rig, front, slot(5)), Ok((Loaded::Copy, Some(0xD))));
        break_next();
        front.invalidate_page(slot(5));
        assert!(load(rig, front, slot(5)).is_err());
        front.invalidate_page(slot(5));
        assert_eq!(load(rig, front, slot(5)).map(|(loaded, _)| loaded), Ok(Loaded::NotHere));
    });
}

#[test]
fn s129_cleancache_maps_every_answer() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let charged = rig.charged();
    let cache = Cleancache::new(rig.host.rcu(), Some(rig.tmem())).expect("the host has words");
    let fs = cache.init_fs();
    assert!(fs.has_pool());
    let (mut page, mut other) = (rig.page(10), rig.page(11));
    let file = [1, 2, 3];
    assert!(!fs.get_page(file, 0, &mut other), "the pool is empty");
    fill(&mut page, 1);
    assert!(fs.put_page(file, 0, &page));
    assert!(!fs.get_page(file, 1, &mut other), "another page");
    assert!(fs.get_page(file, 0, &mut other));
    assert_eq!(pattern(&other), Some(1));
    assert!(!fs.get_page(file, 0, &mut other), "a hit takes the page");

    assert!(fs.put_page(file, 0, &page));
    rig.model.refuse(hypercall::TMEM_OP, None, Errno::EFAULT);
    assert!(!fs.get_page(file, 0, &mut other), "-14 is a miss");
    let flushes = rig.model.tmem_calls(abi::FLUSH_PAGE);
    rig.model.tmem_fail(Fault::PreCheck);
    assert!(fs.put_page(file, 0, &page), "what comes of a put does not matter");
    assert_eq!(rig.model.tmem_calls(abi::FLUSH_PAGE), flushes + 1, "but an old page must go");
    assert!(!fs.get_page(file, 0, &mut other));

    for index in 0..3 {
        assert!(fs.put_page(file, index, &page));
    }
    assert!(fs.invalidate_page(file, 0) && !fs.get_page(file, 0, &mut other));
    assert!(fs.invalidate_inode(file) && !fs.get_page(file, 1, &mut other));
    let (count, _) = calls(&rig, || {
        assert!(fs.put_page(file, 1 << 32, &page));
        assert!(!fs.get_page(file, 1 << 32, &mut other));
        assert!(fs.invalidate_page(file, 1 << 32));
    });
    assert_eq!(count, 0, "an index beyond 32 bits has no name");
    let counters = cache.counters();
    assert_eq!((counters.succ_gets, counters.failed_gets), (1, 8));
    assert_eq!((counters.puts, counters.invalidates), (6, 1));

    rig.model.tmem_restart();
    assert!(!fs.get_page(file, 0, &mut other), "-19 is a miss");
    assert_eq!(fs.invalidate_fs(), Ok(()));
    rig.is_clean(charged);
}

#[test]
fn without_tmem_cleancache_finds_nothing() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let cache = Cleancache::<_, Ops<'_>>::new(rig.host.rcu(), None::<Tmem<Ops<'_>>>).expect("no words");
    let fs = cache.init_fs();
    let (count, _) = calls(&rig, || {
        assert!(!fs.has_pool() && fs.put_page([1; 3], 0, &rig.page(10)));
        assert!(!fs.get_page([1; 3], 0, &mut rig.page(11)));
        assert!(fs.invalidate_page([1; 3], 0) && fs.invalidate_inode([1; 3]));
    });
    assert_eq!((count, cache.counters().failed_gets, cache.counters().puts), (0, 1, 0));
    assert_eq!(fs.invalidate_fs(), Ok(()));
}

#[test]
fn cleancache_shares_by_uuid_and_forgets_a_file_system() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let charged = rig.charged();
    let cache = Cleancache::new(rig.host.rcu(), Some(rig.tmem())).expect("the host has words");
    let mut uuid = [0; 16];
    (uuid[0], uuid[8]) = (7, 9);
    let own = Config::default().domid;
    assert_eq!(rig.model.tmem_control(Control::Authorise(own, [7, 9])).code, 1);
    let (one, two) = (cache.init_shared_fs(uuid), cache.init_shared_fs(uuid));
    let private = cache.init_fs();
    let (mut page, mut other) = (rig.page(10), rig.page(11));
    fill(&mut page, 5);
    assert!(one.put_page([1; 3], 0, &page));
    for fs in [&one, &two] {
        assert!(fs.get_page([1; 3], 0, &mut other), "a shared pool keeps what is got");
        assert_eq!(pattern(&other), Some(5));
    }
    assert!(!private.get_page([1; 3], 0, &mut other));
    assert!(private.put_page([1; 3], 0, &page));
    assert_eq!(private.invalidate_fs(), Ok(()));
    let again = cache.init_fs();
    assert!(!again.get_page([1; 3], 0, &mut other), "a file system begins with nothing");
    for fs in [one, two, again] {
        assert_eq!(fs.invalidate_fs(), Ok(()));
    }
    rig.is_clean(charged);
}

#[test]
fn s130_shrink_brings_home_what_is_too_much_from_one_device() {
    with_front(|rig, front| {
        let first = |offset| Slot { swap: swap(0), offset };
        for offset in 0..30 {
            assert_eq!(store(rig, front, first(offset), offset), Stored::Done);
            assert_eq!(store(rig, front, slot(offset * 3), 100 + offset), Stored::Done);
        }
        let came = RefCell::new(Vec::new());
        let home = |at: Slot| {
            let value = if at.swap == swap(0) { at.offset } else { 100 + at.offset / 3 };
            assert_eq!(load(rig, front, at), Ok((Loaded::Copy, Some(value))));
            front.invalidate_page(at);
            came.borrow_mut().push(at);
            true
        };
        let plenty = u64::MAX;
        for target in [60, 61, plenty] {
            let (count, shrunk) = calls(rig, || front.shrink(target, plenty, Choice::Original, &home));
            assert_eq!((count, shrunk), (0, 0), "there is nothing to do");
        }
        assert_eq!(front.shrink(50, plenty, Choice::Original, &home), 10);
        assert_eq!(*came.borrow(), (0..10).map(first).collect::<Vec<_>>());
        assert_eq!(front.curr_pages(), 50);

        // The original empties the first device, and stops, though more was asked for.
        assert_eq!(front.shrink(10, plenty, Choice::Original, &home), 20);
        assert_eq!((front.pages_of(swap(0)), front.pages_of(swap(1))), (0, 30));
        // And then asks the empty one for ever.
        assert_eq!(front.shrink(10, plenty, Choice::Original, &home), 0);
        // The plan goes on to the next.
        assert_eq!(front.shrink(10, 5, Choice::Fixed, &home), 5, "as far as there is room");
        assert_eq!(front.shrink(10, plenty, Choice::Fixed, &home), 15);
        assert_eq!(front.curr_pages(), 10);
        // A page that cannot come home is passed over.
        let stuck = RefCell::new(0);
        let some = |at: Slot| {
            if at.offset.is_multiple_of(2) {
                *stuck.borrow_mut() += 1;
                return false;
            }
            home(at)
        };
        assert_eq!(front.shrink(0, plenty, Choice::Fixed, &some), 5);
        assert_eq!((front.curr_pages(), *stuck.borrow()), (5, 5));
    });
}
