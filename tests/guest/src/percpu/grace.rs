//! Grace periods: readers that are inside, CPUs that are halted or busy, callbacks in haste and without.

use super::{BOUND_NS, misuse};
use crate::threads::{Thread, figure, spawn, spawn_on};
use crate::{ensure, failed, same};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use ebb::smp::CpuId;
use ebb_boot::{case, rcu, threads};
use percpu::Misuse;
use percpu::rcu::Deferred;

case!("percpu.s064_no_callback_while_an_older_reader_is_inside", |machine| {
    static GONE: AtomicBool = AtomicBool::new(false);
    static INSIDE: AtomicUsize = AtomicUsize::new(0);
    static RELEASE: AtomicBool = AtomicBool::new(false);
    struct Told;
    impl Drop for Told {
        fn drop(&mut self) {
            GONE.store(true, Ordering::SeqCst);
        }
    }
    let cpus = machine.cpus();
    GONE.store(false, Ordering::SeqCst);
    INSIDE.store(0, Ordering::SeqCst);
    RELEASE.store(false, Ordering::SeqCst);
    // On every other CPU a reader that stays inside; on this one, the case itself.
    let readers: Vec<_> = cpus
        .online()
        .without(CpuId::BOOT)
        .iter()
        .map(|cpu| {
            spawn_on(cpu, "reader", || {
                let section = rcu().read_lock();
                INSIDE.fetch_add(1, Ordering::SeqCst);
                while !RELEASE.load(Ordering::SeqCst) {
                    core::hint::spin_loop();
                }
                drop(section);
            })
        })
        .collect::<Result<_, _>>()?;
    let all_inside = cpus.wait_until(BOUND_NS, || INSIDE.load(Ordering::SeqCst) == readers.len());
    let section = rcu().read_lock();
    rcu().drop_soon(Deferred::boxed(Told));
    let early = cpus.wait_until(10_000_000, || GONE.load(Ordering::SeqCst));
    drop(section);
    let early = early || (!readers.is_empty() && cpus.wait_until(30_000_000, || GONE.load(Ordering::SeqCst)));
    RELEASE.store(true, Ordering::SeqCst);
    readers.into_iter().for_each(Thread::join);
    ensure(all_inside, "the readers do not come in")?;
    ensure(!early, "the callback ran with a reader inside")?;
    rcu().barrier().map_err(misuse)?;
    ensure(GONE.load(Ordering::SeqCst), "the callback never ran")
});

case!("percpu.s066_halted_cpus_delay_no_grace_period", |machine| {
    const ROUNDS: u64 = 200;
    let cpus = machine.cpus();
    let others = cpus.online().without(CpuId::BOOT);
    // They have nothing to do, so they halt, and are left alone.
    let at_rest = cpus.wait_until(BOUND_NS, || others.iter().all(|cpu| rcu().is_idle(cpu)));
    ensure(at_rest, "the other CPUs do not come to rest")?;
    let begun_ns = cpus.now_ns();
    for _ in 0..ROUNDS {
        rcu().synchronize().map_err(misuse)?;
    }
    let each_ns = (cpus.now_ns() - begun_ns) / ROUNDS;
    figure("synchronize, the other CPUs halted", each_ns, "ns");
    ensure(each_ns < 100_000_000, "a halted CPU delays grace periods")
});

case!("percpu.s066_waking_a_halted_cpu_misses_no_reader", |machine| {
    /// 1 while the value may be read.
    static VALID: AtomicU64 = AtomicU64::new(1);
    static CURRENT: AtomicU64 = AtomicU64::new(0);
    static BROKEN: AtomicU64 = AtomicU64::new(0);
    static READS: AtomicU64 = AtomicU64::new(0);
    /// In an interrupt, mostly of a halted CPU: whoever sees the value as current finds it valid.
    fn read(_: usize) {
        let section = rcu().read_lock();
        if CURRENT.load(Ordering::Acquire) == 1 {
            for _ in 0..20 {
                if VALID.load(Ordering::Acquire) != 1 {
                    BROKEN.fetch_add(1, Ordering::Relaxed);
                }
            }
            READS.fetch_add(1, Ordering::Relaxed);
        }
        drop(section);
    }
    let cpus = machine.cpus();
    let stop = Arc::new(AtomicBool::new(false));
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    ROUNDS.store(0, Ordering::Relaxed);
    let writer = {
        let stop = Arc::clone(&stop);
        spawn("writer", move || {
            while !stop.load(Ordering::Relaxed) {
                VALID.store(1, Ordering::Release);
                CURRENT.store(1, Ordering::Release);
                threads().yield_now();
                CURRENT.store(0, Ordering::Release);
                rcu().synchronize()?;
                VALID.store(0, Ordering::Release);
                ROUNDS.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Misuse>(())
        })?
    };
    let end_ns = cpus.now_ns() + BOUND_NS;
    let mut calls = 0;
    while (calls < 300 || ROUNDS.load(Ordering::Relaxed) < 50) && cpus.now_ns() < end_ns {
        cpus.call_all(read, 0).map_err(|(cpu, error)| failed(&format!("{cpu}"))(&error))?;
        threads().yield_now();
        calls += 1;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().map_err(misuse)?;
    let rounds = ROUNDS.load(Ordering::Relaxed);
    figure("grace periods against interrupts that read", rounds, "periods");
    ensure(rounds >= 50, "hardly a grace period")?;
    same("reads of what was gone", BROKEN.load(Ordering::Relaxed), 0)
});

case!("percpu.s068_a_hurried_callback_passes_ten_thousand_lazy_ones", |machine| {
    const LAZY: u64 = 9_999;
    static LAZY_RAN: AtomicU64 = AtomicU64::new(0);
    static BEFORE: AtomicU64 = AtomicU64::new(u64::MAX);
    struct Lazy;
    impl Drop for Lazy {
        fn drop(&mut self) {
            LAZY_RAN.fetch_add(1, Ordering::Relaxed);
        }
    }
    struct Hurried;
    impl Drop for Hurried {
        fn drop(&mut self) {
            BEFORE.store(LAZY_RAN.load(Ordering::Relaxed), Ordering::Release);
        }
    }
    rcu().barrier().map_err(misuse)?;
    LAZY_RAN.store(0, Ordering::Relaxed);
    BEFORE.store(u64::MAX, Ordering::Relaxed);
    for _ in 0..LAZY {
        rcu().drop_later(Deferred::boxed(Lazy));
    }
    let waiting = LAZY_RAN.load(Ordering::Relaxed);
    let begun_ns = machine.cpus().now_ns();
    rcu().drop_soon(Deferred::boxed(Hurried));
    let ran = || BEFORE.load(Ordering::Acquire) != u64::MAX;
    while !ran() && machine.cpus().now_ns() - begun_ns < BOUND_NS {
        threads().yield_now();
    }
    let took_ns = machine.cpus().now_ns() - begun_ns;
    figure("a hurried callback behind 9,999 lazy ones", took_ns / 1000, "us");
    ensure(ran(), "the hurried callback does not run")?;
    same("lazy ones that ran before it", BEFORE.load(Ordering::Relaxed), waiting)?;
    rcu().barrier().map_err(misuse)?;
    same("lazy ones", LAZY_RAN.load(Ordering::Relaxed), LAZY)
});

case!("percpu.s068_grace_periods_under_load", |machine| {
    const ROUNDS: u64 = 100;
    let cpus = machine.cpus();
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = cpus
        .online()
        .iter()
        .map(|cpu| {
            let stop = Arc::clone(&stop);
            spawn_on(cpu, "busy", move || {
                while !stop.load(Ordering::Relaxed) {
                    let section = rcu().read_lock();
                    (0..50).for_each(|_| core::hint::spin_loop());
                    drop(section);
                }
            })
        })
        .collect::<Result<_, _>>()?;
    let mut worst_ns = 0;
    let begun_ns = cpus.now_ns();
    let mut last_ns = begun_ns;
    for _ in 0..ROUNDS {
        rcu().synchronize().map_err(misuse)?;
        let now_ns = cpus.now_ns();
        worst_ns = worst_ns.max(now_ns - last_ns);
        last_ns = now_ns;
    }
    stop.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(Thread::join);
    figure("synchronize, all CPUs busy with readers", (last_ns - begun_ns) / ROUNDS / 1000, "us");
    figure("synchronize, all CPUs busy, at most", worst_ns / 1000, "us");
    ensure(worst_ns < BOUND_NS, "a grace period does not end")
});

case!("percpu.a_lazy_callback_runs_though_every_cpu_is_busy", |machine| {
    static RAN: AtomicBool = AtomicBool::new(false);
    struct Told;
    impl Drop for Told {
        fn drop(&mut self) {
            RAN.store(true, Ordering::SeqCst);
        }
    }
    RAN.store(false, Ordering::SeqCst);
    let cpus = machine.cpus();
    let stop = Arc::new(AtomicBool::new(false));
    let hogs: Vec<_> = cpus
        .online()
        .without(CpuId::BOOT)
        .iter()
        .map(|cpu| {
            let stop = Arc::clone(&stop);
            spawn_on(cpu, "hog", move || {
                // Alone on its CPU: no tick, no switch.
                while !stop.load(Ordering::Relaxed) {
                    core::hint::spin_loop();
                }
            })
        })
        .collect::<Result<_, _>>()?;
    // As many as make lazy ones ask for a grace period that nobody hurries. The one that tells is among them: behind
    // them it could find all others gone, and would wait for as long as a lazy one may.
    rcu().drop_later(Deferred::boxed(Told));
    (0..10_000).for_each(|_| rcu().drop_later(Deferred::boxed(())));
    let end_ns = cpus.now_ns() + BOUND_NS;
    while !RAN.load(Ordering::SeqCst) && cpus.now_ns() < end_ns {
        threads().sleep_for(1_000_000);
        // The limit is per CPU, and counts those that wait: one more asks again.
        rcu().drop_later(Deferred::boxed(()));
    }
    let ran = RAN.load(Ordering::SeqCst);
    stop.store(true, Ordering::Relaxed);
    hogs.into_iter().for_each(Thread::join);
    rcu().barrier().map_err(misuse)?;
    ensure(ran, "busy CPUs delay a grace period for ever")
});
