//! Figures that were measured on Xen 4.12, beyond those of the statements.

use crate::rig::{Rig, boot_cpu, key, persistent};
use ebb::port::{MemoryOps, PoolKind, TmemOps};
use ebb::tmem::{Flush, Get, Put, Refused};
use ebb::units::{Frames, Gfn};
use ebb_tests::model::Config;

#[test]
fn what_each_page_costs() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let (charged, pool) = (rig.charged(), rig.pool());
    let open = persistent(&pool);
    let page = rig.page(10);
    let cost = || rig.charged() - charged;
    assert_eq!(cost(), 0, "a pool costs nothing");
    for (index, after) in [(0, 2), (1, 3), (1, 3), (2, 4)] {
        assert_eq!(pool.put(key(1, index), &page), Put::Stored);
        assert_eq!(cost(), after, "after page {index}");
    }
    for (index, after) in [(0, 3), (1, 2), (2, 0)] {
        assert_eq!(pool.flush_page(key(1, index)), Flush::Gone);
        assert_eq!(cost(), after, "without page {index}");
    }
    assert_eq!(open.close(), Ok(()));
    rig.is_clean(charged);
}

#[test]
fn a_refused_put_may_end_a_page_below_the_limit() {
    // A limit of 128 with 16 in use takes 108, and ends at 127.
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let neighbour = rig.model.neighbour(9);
    assert_eq!(neighbour.charged(), Frames::new(16));
    neighbour.set_limit(Frames::new(128));
    let xen = neighbour.xen();
    let pool = xen.new_pool(PoolKind::Persistent).expect("the model makes pools");
    // SAFETY: a frame of the neighbour's, which nothing writes to.
    #[expect(unsafe_code, reason = "the port's own contract")]
    let put = |index| unsafe { xen.put(pool, key(1, index), Gfn::new(1)) };
    let accepted = (0..200).take_while(|index| put(*index) == Ok(1)).count();
    assert_eq!((accepted, neighbour.charged()), (108, Frames::new(127)));
}

#[test]
fn at_the_limit_ballooning_up_gets_nothing_and_flushing_makes_room() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let open = persistent(&pool);
    let page = rig.page(10);
    rig.set_headroom(1239);
    // As Linux lays it out.
    let name = |nth: u32| key(u64::from(nth % 16), nth / 16);
    let fill =
        |from: u32| (from..).take_while(|nth| pool.put(name(*nth), &page) == Put::Stored).count() as u32;
    assert_eq!(fill(0), 1203);
    assert_eq!(pool.put(name(1203), &page), Put::Refused(Refused::NoRoom));
    assert_eq!(rig.charged(), rig.model.xen().maximum_reservation().expect("Xen says").get());
    let hole = Gfn::new(0xFD000);
    #[expect(unsafe_code, reason = "populates a hole of the model's")]
    // SAFETY: a hole that is nobody's.
    let populated = unsafe { rig.model.xen().populate_physmap(ebb::units::Order::FRAME, &[hole]) };
    assert_eq!(populated.map(|done| done.count()), Ok(0));

    assert_eq!(pool.flush_page(name(5)), Flush::Gone);
    assert_eq!(
        (pool.put(name(1203), &page), pool.put(name(1204), &page)),
        (Put::Stored, Put::Refused(Refused::NoRoom))
    );
    let flushed = (600..1100).filter(|nth| pool.flush_page(name(*nth)) == Flush::Gone).count();
    assert_eq!(flushed, 500);
    let let_in = fill(2000);
    assert!((495..=520).contains(&let_in), "flushing 500 let {let_in} in");
    assert_eq!(open.close(), Ok(()));
}

#[test]
fn ephemeral_survivors_are_the_newest_without_a_gap() {
    const PUTS: u32 = 20_000;
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let open = pool.open(PoolKind::Ephemeral).expect("the model makes pools");
    let mut page = rig.page(10);
    let free = rig.model.host_free().0.get();
    assert!(free < u64::from(PUTS));
    for nth in 0..PUTS {
        page.fill(u64::from(nth));
        assert_eq!(pool.put(key(u64::from(nth / 64), nth % 64), &page), Put::Stored, "page {nth}");
    }
    let mut survivors = 0_u32;
    for nth in 0..PUTS {
        match pool.get(key(u64::from(nth / 64), nth % 64), &mut page) {
            Get::Hit => {
                survivors += 1;
                assert_eq!(page.same_filled(), Some(u64::from(nth)));
            }
            missed => assert_eq!((missed, survivors), (Get::Miss, 0), "page {nth}, younger than a survivor"),
        }
    }
    assert!(u64::from(survivors) < free && u64::from(survivors) > free * 9 / 10, "{survivors} of {free}");
    assert_eq!(open.close(), Ok(()));
}

#[test]
fn a_host_full_of_ephemeral_pages_still_populates() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let _open = pool.open(PoolKind::Ephemeral).expect("the model makes pools");
    let page = rig.page(10);
    for nth in 0..14_000_u32 {
        assert_eq!(pool.put(key(u64::from(nth / 64), nth % 64), &page), Put::Stored);
    }
    rig.set_headroom(600);
    let before = rig.model.tmem_pages();
    let holes: Vec<_> = (0..512).map(|index| Gfn::new(0xFD000 + index)).collect();
    #[expect(unsafe_code, reason = "populates holes of the model's")]
    // SAFETY: holes that are nobody's.
    let populated = unsafe { rig.model.xen().populate_physmap(ebb::units::Order::FRAME, &holes) };
    assert_eq!(populated.map(|done| done.count()), Ok(512));
    assert!(rig.model.tmem_pages() < before, "something was evicted for it");
    rig.model.validate().expect("the model's books balance");
}

#[test]
fn below_the_reserve_the_pre_check_finds_plenty() {
    // Xen's subtraction wraps: puts are refused a little above the reserve, and accepted below it.
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let _open = persistent(&pool);
    let page = rig.page(10);
    let reserve = Config::default().host_mib * 256 / 128;
    for (left, put) in [
        (reserve + 300, Put::Stored),
        (reserve + 100, Put::Refused(Refused::NoRoom)),
        (reserve - 1, Put::Stored),
    ] {
        rig.model.host_take_all_but(Frames::new(left));
        assert_eq!(pool.put(key(1, 1), &page), put, "{left} frames left");
    }
}
