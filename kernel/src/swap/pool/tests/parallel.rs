//! Several CPUs at once.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;

/// The page whose number its first bytes say.
fn numbered(number: u64) -> Page {
    let mut page = page(64 + number as usize % 1500, number);
    page[4088..].copy_from_slice(&number.to_le_bytes());
    page
}

fn number(page: &Page) -> u64 {
    u64::from_le_bytes(page[4088..].try_into().unwrap())
}

#[test]
fn stores_loads_frees_evictions_and_compaction_at_once() {
    const CPUS: usize = 3;
    const STEPS: u64 = 1500;
    let host = Machine::new(CPUS + 1);
    let frames = HostFrames::new();
    let settings = Settings::new(Frames::new(150));
    let pool = TestPool::new(&frames, host, Config { shards: 2, settings, ..config(1024) }).unwrap();
    let done = AtomicBool::new(false);
    let evicted = thread::scope(|scope| {
        let workers: Vec<_> = (0..CPUS)
            .map(|cpu| {
                let pool = &pool;
                scope.spawn(move || {
                    let _cpu = host.enter(CpuId::new(cpu).unwrap());
                    let mut rng = Rng::new(cpu as u64);
                    let mut held: Vec<(Handle, u64)> = Vec::new();
                    let mut lost = 0;
                    let mut buffer = [0; FRAME_SIZE];
                    for step in 0..STEPS {
                        let name = (cpu as u64) << 32 | step;
                        if let Ok(handle) = pool.store(&numbered(name)) {
                            held.push((handle, name));
                        }
                        for free in [false, true] {
                            if held.is_empty() || (free && held.len() < 60) {
                                continue;
                            }
                            let at = rng.below(held.len() as u64) as usize;
                            let (handle, name) = held[at];
                            match pool.load(handle, &mut buffer) {
                                Ok(()) => assert!(buffer == numbered(name), "{handle:?}"),
                                Err(why) => assert_eq!(why, Fault::NotStored, "only evicted"),
                            }
                            if free {
                                held.swap_remove(at);
                                lost += u64::from(pool.free(handle).is_err());
                            }
                        }
                    }
                    for (handle, _) in held {
                        lost += u64::from(pool.free(handle).is_err());
                    }
                    lost
                })
            })
            .collect();
        let other = scope.spawn(|| {
            let _cpu = host.enter(CpuId::new(CPUS).unwrap());
            let mut buffer = [0; FRAME_SIZE];
            let mut taken = 0;
            while !done.load(Ordering::SeqCst) {
                let evicted = evict(&pool, &mut buffer, |_, page| {
                    assert!(*page == numbered(number(page)), "whole pages leave");
                    if number(page).is_multiple_of(3) { Verdict::Keep } else { Verdict::Taken }
                });
                assert!(!matches!(evicted, Evicted::Corrupt(..)));
                taken += u64::from(matches!(evicted, Evicted::Taken(_)));
                pool.compact();
                if taken % 16 == 0 {
                    pool.validate().unwrap();
                }
            }
            taken
        });
        let lost: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        done.store(true, Ordering::SeqCst);
        let taken = other.join().unwrap();
        assert!(lost <= taken, "{lost} were lost, {taken} evicted");
        taken
    });
    let _cpu = host.enter(CpuId::BOOT);
    let stats = pool.stats();
    assert_eq!((stats.stored, stats.corrupt, frames.held()), (0, 0, 0), "{stats:?}");
    assert!(evicted > 0 && stats.evicted >= evicted, "{evicted} were taken: {stats:?}");
}
