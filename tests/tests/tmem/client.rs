//! The probe, and pools that are opened, closed and left.

use crate::rig::{Rig, boot_cpu, fill, key, pattern, persistent};
use ebb::port::PoolKind;
use ebb::tmem::{Absent, Flush, Get, PoolError, Put, Refused, Tmem};
use ebb_tests::conformance::tmem::Fault;
use ebb_tests::model::Service;
use xen_abi::{Errno, hypercall, tmem as abi};

#[test]
fn the_probe_tells_absent_from_switched_off_and_neither_is_an_error() {
    for (service, absent) in [
        (Service::Absent, Absent::NotThere),
        (Service::Disabled, Absent::SwitchedOff),
        (Service::Denied, Absent::Refused(Errno::EPERM)),
    ] {
        let rig = Rig::new(service);
        let xen = rig.model.xen();
        assert_eq!(Tmem::start(xen, xen.probe_tmem()).map(|_| ()), Err(absent));
    }
}

#[test]
fn the_probe_is_the_first_call_and_makes_the_client() {
    let rig = Rig::xen412();
    rig.tmem();
    assert_eq!((rig.model.tmem_calls(abi::CONTROL), rig.model.tmem_calls(abi::FLUSH_PAGE)), (1, 1));
    rig.freeze(true); // which would fail without a client
}

#[test]
fn every_way_to_fail_has_a_name_and_leaves_nothing() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let (charged, pool) = (rig.charged(), rig.pool());
    let open = persistent(&pool);
    let (mut page, mut other) = (rig.page(10), rig.page(11));
    assert_eq!(pool.get(key(1, 1), &mut other), Get::Empty);
    fill(&mut page, 1);
    assert_eq!(pool.put(key(1, 1), &page), Put::Stored);
    assert_eq!((pool.get(key(1, 1), &mut other), pattern(&other)), (Get::Hit, Some(1)));
    assert_eq!(pool.get(key(1, 2), &mut other), Get::Miss);
    for (fault, why) in [
        (Fault::PreCheck, Refused::NoRoom),
        (Fault::Data, Refused::LostOld),
        (Fault::Copy, Refused::BadFrame),
    ] {
        assert_eq!(pool.put(key(1, 1), &page), Put::Stored);
        rig.model.tmem_fail(fault);
        assert_eq!(pool.put(key(1, 1), &page), Put::Refused(why));
        assert_ne!(pool.get(key(1, 1), &mut other), Get::Hit, "{why}: the old page is gone, too");
    }
    rig.model.tmem_fail(Fault::Metadata);
    assert_eq!(pool.put(key(2, 1), &page), Put::Refused(Refused::NoRoom));
    assert_eq!(pool.put(key(1, 1), &page), Put::Stored);
    rig.freeze(true);
    assert_eq!(pool.put(key(3, 1), &page), Put::Refused(Refused::Frozen));
    assert_eq!(pool.put(key(1, 1), &page), Put::Stored, "old names are replaced");
    assert_eq!(
        (pool.flush_page(key(1, 1)), pool.flush_object([1, 0, 0])),
        (Flush::GoneFrozen, Flush::GoneFrozen)
    );
    rig.freeze(false);
    rig.model.tmem_restart();
    assert_eq!(pool.put(key(1, 1), &page), Put::Refused(Refused::NoPool));
    assert_eq!(pool.get(key(1, 1), &mut other), Get::Refused(Refused::NoPool));
    assert_eq!(pool.flush_page(key(1, 1)), Flush::Gone, "no pool has no pages");
    assert_eq!(open.close(), Ok(()));
    rig.is_clean(charged);
}

#[test]
fn a_flush_that_fails_after_a_put_leaves_a_doubt() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let _open = persistent(&pool);
    let page = rig.page(10);
    assert_eq!(pool.put(key(1, 1), &page), Put::Stored);
    for error in [Errno::ENOMEM, Errno::EIO] {
        rig.model.refuse(hypercall::TMEM_OP, None, error);
    }
    assert_eq!(pool.put(key(1, 1), &page), Put::Doubtful { put: Refused::NoRoom, flush: Errno::EIO });
    assert_eq!((pool.doubtful(), rig.model.tmem_pages()), (1, 1), "the old page is there, indeed");
}

#[test]
fn a_pool_lives_again_and_is_empty() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let (charged, pool) = (rig.charged(), rig.pool());
    let mut page = rig.page(10);
    assert_eq!(pool.put(key(1, 1), &page), Put::Refused(Refused::Closed), "it was never open");
    for kind in [PoolKind::Persistent, PoolKind::Ephemeral, PoolKind::Persistent] {
        let open = pool.open(kind).expect("the model makes pools");
        assert_eq!(pool.open(kind).map(|_| ()), Err(PoolError::Busy));
        assert_eq!(pool.tear_down(), Err(PoolError::Busy));
        assert_eq!(pool.get(key(1, 1), &mut page), Get::Empty);
        assert_eq!(pool.put(key(1, 1), &page), Put::Stored);
        assert_eq!(open.close(), Ok(()));
        assert_eq!(pool.get(key(1, 1), &mut page), Get::Refused(Refused::Closed));
        rig.is_clean(charged);
    }
    let (destroyed, made) = (rig.model.tmem_calls(abi::DESTROY_POOL), rig.model.tmem_calls(abi::NEW_POOL));
    assert_eq!((destroyed, made), (3, 3));
}

#[test]
fn an_open_pool_that_is_dropped_is_torn_down_later() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let (charged, pool) = (rig.charged(), rig.pool());
    let open = persistent(&pool);
    assert_eq!(pool.put(key(1, 1), &rig.page(10)), Put::Stored);
    drop(open);
    assert_eq!(pool.put(key(1, 1), &rig.page(10)), Put::Refused(Refused::Closed));
    assert_eq!(rig.model.tmem_pages(), 1, "nobody has waited yet");
    assert_eq!(pool.tear_down(), Ok(()));
    rig.is_clean(charged);
    drop(persistent(&pool));
    let open = persistent(&pool);
    assert_eq!(pool.get(key(1, 1), &mut rig.page(10)), Get::Empty, "the new life has a pool of its own");
    assert_eq!(open.close(), Ok(()));
    rig.is_clean(charged);
}

#[test]
fn a_destroy_that_is_refused_is_tried_again() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let (charged, pool) = (rig.charged(), rig.pool());
    let open = persistent(&pool);
    assert_eq!(pool.put(key(1, 1), &rig.page(10)), Put::Stored);
    rig.model.refuse(hypercall::TMEM_OP, None, Errno::EFAULT);
    assert_eq!(open.close(), Err(PoolError::Refused(Errno::EFAULT)));
    assert!(!pool.is_open());
    assert_eq!(pool.tear_down(), Ok(()));
    rig.is_clean(charged);
}

#[test]
fn there_are_sixteen_pools() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pools: Vec<_> = (0..17).map(|_| rig.pool()).collect();
    let open: Vec<_> = pools.iter().take(16).map(|pool| persistent(pool)).collect();
    assert_eq!(pools[16].open(PoolKind::Ephemeral).map(|_| ()), Err(PoolError::NoMore));
    drop(open);
    assert_eq!(pools[7].tear_down(), Ok(()));
    assert!(
        pools[16].open(PoolKind::Ephemeral).is_ok(),
        "there is a free one now, and refusal was not for ever"
    );
}
