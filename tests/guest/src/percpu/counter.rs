//! Counters and per-CPU words.

use super::{Clean, misuse};
use crate::threads::{Thread, everywhere, spawn_on};
use crate::{ensure, failed, same};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb_boot::platform::words_in_use;
use ebb_boot::{Kernel, case};
use percpu::PercpuCounter;
use spin::once::Once;

case!("percpu.s077_adds_in_interrupts_keep_the_batch_bound", |machine| {
    static COUNTER: Once<PercpuCounter<Kernel>> = Once::new();
    static IN_INTERRUPTS: AtomicU64 = AtomicU64::new(0);
    fn add_in_interrupt(_: usize) {
        if let Some(counter) = COUNTER.get() {
            counter.add(3);
            IN_INTERRUPTS.fetch_add(3, Ordering::Relaxed);
        }
    }
    const ADDS: i64 = 200_000;
    let counter = COUNTER.try_call_once(|| PercpuCounter::new(Kernel, 32)).map_err(misuse)?;
    counter.set(0);
    IN_INTERRUPTS.store(0, Ordering::Relaxed);
    let cpus = machine.cpus();
    let users: Vec<_> = cpus
        .online()
        .iter()
        .map(|cpu| {
            spawn_on(cpu, "adder", || {
                for number in 0..ADDS {
                    counter.add(if number % 5 == 4 { -3 } else { 1 });
                }
            })
        })
        .collect::<Result<_, _>>()?;
    for _ in 0..100 {
        cpus.call_all(add_in_interrupt, 0).map_err(|(cpu, error)| failed(&format!("{cpu}"))(&error))?;
    }
    users.into_iter().for_each(Thread::join);
    let wanted = cpus.count() as i64 * (ADDS / 5) + IN_INTERRUPTS.load(Ordering::Relaxed) as i64;
    same("the sum", counter.sum(), wanted)?;
    let off = (counter.read() - wanted).abs();
    ensure(off <= counter.error_bound(), &format!("{off} off, beyond {}", counter.error_bound()))?;
    ensure(counter.validate().is_ok(), "a local part is beyond the batch")
});

case!("percpu.every_cpu_has_its_own_words", |machine| {
    let clean = Clean::begin();
    let counter = Arc::new(PercpuCounter::new(Kernel, 1_000).map_err(misuse)?);
    let adder = Arc::clone(&counter);
    everywhere(machine, "adder", move |cpu| adder.add(cpu.get() as i64 + 1))?;
    let cpus = machine.cpus().count() as i64;
    same("what is global", counter.read(), 0)?;
    same("the sum", counter.sum(), cpus * (cpus + 1) / 2)?;
    drop(counter);
    same("the pool", words_in_use(), clean.words)?;
    clean.end()
});
