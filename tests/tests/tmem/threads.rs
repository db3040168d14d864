//! Statements 113 to 118, on threads that are the guest's CPUs.

use crate::rig::{Rig, boot_cpu, fill, key, pattern, persistent, slot, swap};
use ebb::port::{PoolKind, TmemOps};
use ebb::tmem::frontswap::{Choice, Frontswap, Hypervisor, Loaded, Stored};
use ebb::tmem::tier::{Slot, Tier};
use ebb::tmem::{Flush, Get, Put, Refused, Tmem};
use ebb_tests::model::Hazard;
use percpu::CpuId;
use percpu::host::Host;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The CPUs of the threads; the test itself is CPU 0.
const CPUS: usize = 4;
/// After this long a test that waits for a race gives up.
const BOUND: Duration = Duration::from_secs(20);

/// Runs `work` on so many other CPUs at once, then this one's.
fn on_cpus<R>(host: Host, cpus: usize, work: impl Fn(usize) + Sync, own: impl FnOnce() -> R) -> R {
    thread::scope(|scope| {
        let threads: Vec<_> = (1..=cpus)
            .map(|cpu| {
                let work = &work;
                scope.spawn(move || {
                    let _cpu = host.enter(CpuId::new(cpu).expect("a CPU"));
                    work(cpu);
                })
            })
            .collect();
        let result = own();
        // This CPU must not hold a grace period up while it waits for the others.
        host.idle(|| threads.into_iter().for_each(|thread| thread.join().expect("no failure")));
        result
    })
}

#[test]
fn s113_s114_pages_are_never_mixed() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let open = persistent(&pool);
    let got = AtomicU64::new(0);
    on_cpus(
        rig.host,
        CPUS,
        |cpu| {
            let mut page = rig.page(10 + cpu as u64);
            for round in 0..300 {
                if cpu <= 2 {
                    fill(&mut page, cpu as u64);
                    assert_eq!(pool.put(key(1, 1), &page), Put::Stored);
                    if round % 50 == 49 {
                        assert_eq!(pool.flush_page(key(1, 1)), Flush::Gone);
                    }
                } else {
                    match pool.get(key(1, 1), &mut page) {
                        Get::Hit => {
                            assert!(matches!(pattern(&page), Some(1 | 2)), "one put's page, whole");
                            got.fetch_add(1, Ordering::Relaxed);
                        }
                        missed => assert!(matches!(missed, Get::Miss | Get::Empty), "{missed:?}"),
                    }
                }
            }
        },
        || (),
    );
    assert!(got.into_inner() > 0);
    assert_eq!(open.close(), Ok(()));
}

#[test]
fn s115_of_two_gets_one_hits() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let open = pool.open(PoolKind::Ephemeral).expect("the model makes pools");
    let (hits, rounds) = (AtomicU64::new(0), 200);
    let line = Barrier::new(CPUS);
    on_cpus(
        rig.host,
        CPUS,
        |cpu| {
            let mut page = rig.page(10 + cpu as u64);
            for round in 0..rounds {
                if cpu == 1 {
                    fill(&mut page, round);
                    assert_eq!(pool.put(key(1, 1), &page), Put::Stored);
                }
                rig.host.idle(|| line.wait());
                if pool.get(key(1, 1), &mut page) == Get::Hit {
                    assert_eq!(pattern(&page), Some(round));
                    hits.fetch_add(1, Ordering::Relaxed);
                }
                rig.host.idle(|| line.wait());
                assert_eq!(hits.load(Ordering::Relaxed), round + 1, "one hit in each round");
                rig.host.idle(|| line.wait());
            }
        },
        || (),
    );
    assert_eq!(open.close(), Ok(()));
}

#[test]
fn s116_a_reply_is_visible_to_later_calls_everywhere() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let open = persistent(&pool);
    let stored = AtomicU64::new(0);
    on_cpus(
        rig.host,
        2,
        |cpu| {
            let mut page = rig.page(10 + cpu as u64);
            if cpu == 1 {
                for round in 1..=500 {
                    fill(&mut page, round);
                    assert_eq!(pool.put(key(1, 1), &page), Put::Stored);
                    stored.store(round, Ordering::Release);
                }
                return;
            }
            let mut seen = 0;
            while seen < 500 {
                let before = stored.load(Ordering::Acquire);
                if before == 0 {
                    thread::yield_now();
                    continue;
                }
                assert_eq!(pool.get(key(1, 1), &mut page), Get::Hit);
                seen = pattern(&page).expect("a whole page");
                assert!(seen >= before, "saw put {seen} after the reply to put {before}");
            }
        },
        || (),
    );
    assert_eq!(open.close(), Ok(()));
}

#[test]
fn s117_a_pool_is_torn_down_under_load() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let charged = rig.charged();
    let pool = rig.pool();
    let stop = AtomicBool::new(false);
    let (stored, closed) = (AtomicU64::new(0), AtomicU64::new(0));
    on_cpus(
        rig.host,
        CPUS,
        |cpu| {
            let mut page = rig.page(10 + cpu as u64);
            let name = key(cpu as u64, 1);
            fill(&mut page, cpu as u64);
            while !stop.load(Ordering::Acquire) {
                match pool.put(name, &page) {
                    Put::Stored => drop(stored.fetch_add(1, Ordering::Relaxed)),
                    Put::Refused(Refused::Closed) => drop(closed.fetch_add(1, Ordering::Relaxed)),
                    other => unreachable!("{other:?}"),
                }
                match pool.get(name, &mut page) {
                    Get::Hit => assert_eq!(pattern(&page), Some(cpu as u64)),
                    Get::Miss | Get::Empty | Get::Refused(Refused::Closed) => {}
                    other => unreachable!("{other:?}"),
                }
                assert_eq!(pool.flush_page(name), Flush::Gone);
                rig.host.rcu().quiesce();
                thread::yield_now();
            }
        },
        || {
            let began = Instant::now();
            let mut lives = 0;
            while began.elapsed() < BOUND
                && (lives < 30
                    || stored.load(Ordering::Relaxed) < 100
                    || closed.load(Ordering::Relaxed) < 100)
            {
                let open = persistent(&pool);
                let before = stored.load(Ordering::Relaxed);
                while stored.load(Ordering::Relaxed) < before + 3 && began.elapsed() < BOUND {
                    rig.host.idle(thread::yield_now);
                }
                assert_eq!(open.close(), Ok(()));
                assert_eq!(rig.model.tmem_pages(), 0, "nobody puts into a pool that is gone");
                lives += 1;
            }
            stop.store(true, Ordering::Release);
            assert!(lives >= 30, "{lives} lives");
        },
    );
    rig.is_clean(charged);
    assert!(stored.into_inner() >= 100 && closed.into_inner() >= 100);
    assert_eq!(rig.host.take_reports(), []);
}

/// The hazard that the guard is for does happen without it.
#[test]
fn a_pool_destroyed_without_the_guard_is_destroyed_in_use() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    rig.tmem();
    let stop = AtomicBool::new(false);
    let xen = rig.model.xen();
    on_cpus(
        rig.host,
        2,
        |_| {
            while !stop.load(Ordering::Acquire) {
                let _ = xen.flush_page(ebb::port::PoolId::new(0), key(1, 1));
            }
        },
        || {
            let began = Instant::now();
            while rig.model.tmem_hazards().is_empty() && began.elapsed() < BOUND {
                let made = xen.new_pool(PoolKind::Ephemeral).expect("the model makes pools");
                assert_eq!(xen.destroy_pool(made), Ok(1));
            }
            stop.store(true, Ordering::Release);
        },
    );
    assert_eq!(rig.model.tmem_hazards().first(), Some(&Hazard::DestroyedInUse));
}

#[test]
fn s118_the_first_call_is_made_once() {
    let first_calls = |start_first: bool| {
        let rig = Rig::xen412();
        let _cpu = boot_cpu(rig.host);
        let xen = rig.model.xen();
        if start_first {
            Tmem::start(xen, xen.probe_tmem()).expect("the model serves tmem");
        }
        let line = Barrier::new(2);
        on_cpus(
            rig.host,
            2,
            |_| {
                rig.host.idle(|| line.wait());
                for _ in 0..20 {
                    let _ = xen.flush_page(ebb::port::PoolId::new(0), key(1, 1));
                }
            },
            || (),
        );
        rig.model.tmem_hazards()
    };
    for _ in 0..20 {
        assert_eq!(first_calls(true), [], "started before there were others");
    }
    let began = Instant::now();
    while first_calls(false).is_empty() {
        assert!(began.elapsed() < BOUND, "two first calls at once do happen");
    }
}

#[test]
fn stores_loads_invalidations_shrinks_and_teardown_at_once() {
    const SLOTS: u64 = 24;
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let charged = rig.charged();
    let pool = rig.pool();
    let tier = Hypervisor::new(&pool);
    let tiers: [&dyn Tier; 1] = [&tier];
    let front = Frontswap::new(rig.host, &tiers);
    front.init(swap(1), SLOTS).expect("a swap type");
    let stop = AtomicBool::new(false);
    let right = AtomicU64::new(0);
    // A page's pattern names its slot: whatever is loaded must be of the slot that was asked for.
    let check = |at: u64, frame: u64| {
        let mut page = rig.page(frame);
        match front.load(slot(at), &mut page) {
            Ok(Loaded::Copy) => {
                assert_eq!(pattern(&page).map(|value| value % SLOTS), Some(at));
                right.fetch_add(1, Ordering::Relaxed);
                true
            }
            Ok(_) => false,
            Err(lost) => {
                assert_eq!(lost.slot, slot(at));
                false
            }
        }
    };
    on_cpus(
        rig.host,
        CPUS,
        |cpu| {
            let frame = 10 + cpu as u64;
            let mut round = cpu as u64;
            while !stop.load(Ordering::Acquire) {
                round += 7;
                let at = round % SLOTS;
                match round % 5 {
                    0 | 1 => {
                        let mut page = rig.page(frame);
                        fill(&mut page, round / SLOTS * SLOTS + at);
                        assert_ne!(front.store(slot(at), &page), Stored::WriteToo);
                    }
                    2 => front.invalidate_page(slot(at)),
                    3 => {
                        let home = |slot: Slot| {
                            let came = check(slot.offset, frame);
                            front.invalidate_page(slot);
                            came
                        };
                        front.shrink(SLOTS / 2, u64::MAX, Choice::Fixed, &home);
                    }
                    _ => drop(check(at, frame)),
                }
                rig.host.rcu().quiesce();
            }
        },
        || {
            let began = Instant::now();
            let mut lives = 0;
            while began.elapsed() < BOUND && (lives < 10 || right.load(Ordering::Relaxed) < 50) {
                let open = persistent(&pool);
                let until = Instant::now() + Duration::from_millis(20);
                while Instant::now() < until {
                    rig.host.idle(thread::yield_now);
                }
                assert_eq!(open.close(), Ok(()));
                lives += 1;
            }
            stop.store(true, Ordering::Release);
        },
    );
    assert!(right.load(Ordering::Relaxed) >= 50);
    assert_eq!(front.invalidate_area(swap(1)), Ok(()));
    assert_eq!(front.curr_pages(), 0);
    rig.is_clean(charged);
    assert_eq!(rig.host.take_reports(), []);
}
