//! Per-CPU references, RCU and counters in the image, under preemption and interrupts: the statements of
//! `docs/percpu-conformance.md` that only a guest can decide, and what they rest on.

use crate::threads::{Thread, everywhere, figure, spawn, spawn_on};
use crate::{ensure, failed, same};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use ebb::smp::CpuId;
use ebb_boot::cases::Not;
use ebb_boot::platform::{fast_paths, reports, words_in_use};
use ebb_boot::{Kernel, Machine, case, rcu, threads};
use percpu::rcu::Deferred;
use percpu::{Events, Misuse, PercpuCounter, PercpuRef, Reusable, Start};
use spin::once::Once;

/// How long a case waits for others.
const BOUND_NS: u64 = 10_000_000_000;

/// What a count has told.
#[derive(Default)]
pub(crate) struct Seen {
    released: AtomicU64,
    confirmed: AtomicU64,
    switched: AtomicU64,
}

impl Seen {
    /// How often the last reference was dropped.
    pub(crate) fn released(&self) -> u64 {
        self.all()[0]
    }

    fn all(&self) -> [u64; 3] {
        [&self.released, &self.confirmed, &self.switched].map(|events| events.load(Ordering::SeqCst))
    }
}

/// Counts what it is told.
pub(crate) struct Watch(Arc<Seen>);

impl Events for Watch {
    fn release(&self) {
        self.0.released.fetch_add(1, Ordering::SeqCst);
    }
    fn confirmed(&self) {
        self.0.confirmed.fetch_add(1, Ordering::SeqCst);
    }
    fn switched(&self) {
        self.0.switched.fetch_add(1, Ordering::SeqCst);
    }
}

/// A count of this image.
pub(crate) type Count = PercpuRef<Kernel, Watch, Reusable>;

/// A living count, and what it tells.
pub(crate) fn count(name: &'static str, start: Start) -> Result<(Arc<Count>, Arc<Seen>), Not> {
    let seen = Arc::new(Seen::default());
    let count = PercpuRef::reusable(rcu(), name, Watch(Arc::clone(&seen)), start).map_err(misuse)?;
    Ok((Arc::new(count), seen))
}

/// A refusal that the case did not expect.
pub(crate) fn misuse(error: Misuse) -> Not {
    Not::Failed(format!("refused: {error:?}"))
}

/// References, as the count sees them.
pub(crate) fn references(count: &Count) -> i64 {
    count.inspect().map_or(i64::MIN, |found| found.references)
}

/// Repeatable randomness (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % bound
    }
}

/// What a case must leave as it was.
pub(crate) struct Clean {
    words: usize,
    reports: u64,
}

impl Clean {
    pub(crate) fn begin() -> Self {
        Self { words: words_in_use(), reports: reports() }
    }

    /// Nothing was reported or is left, and the books are right.
    pub(crate) fn end(&self) -> Result<(), Not> {
        rcu().barrier().map_err(misuse)?;
        same("per-CPU words in use", words_in_use(), self.words)?;
        same("reports of misuse", reports(), self.reports)?;
        rcu().validate().map_err(Not::from)
    }
}

case!("percpu.s016_a_fast_path_has_no_lock_and_one_store", |_| {
    /// The length of a memory operand that begins with this ModRM byte.
    fn operand(code: &[u8]) -> usize {
        let (mode, base) = (code[0] >> 6, code[0] & 7);
        let sib = usize::from(base == 4);
        1 + sib
            + match mode {
                0 if base == 5 || (sib == 1 && code[1] & 7 == 5) => 4,
                0 => 0,
                1 => 1,
                _ => 4,
            }
    }
    // Load, test of the tags, branch, add through GS: anything else has no place.
    let mut found = 0;
    for path in fast_paths() {
        let mut code = path;
        let mut kinds = Vec::new();
        while !code.is_empty() {
            let (kind, length) = match *code {
                [0x48..=0x4f, 0x8b, ..] => ("load", 2 + operand(&code[2..])),
                [0xa8, 3, ..] => ("test", 2),
                [0xf6, modrm, 3, ..] if modrm >> 3 == 0b11000 => ("test", 3),
                [0x40..=0x4f, 0xf6, modrm, 3, ..] if modrm >> 3 == 0b11000 => ("test", 4),
                [0x75, ..] => ("branch", 2),
                [0x0f, 0x85, ..] => ("branch", 6),
                [0x65, 0x48..=0x4f, 0xff, modrm, ..] if matches!(modrm >> 3 & 7, 0 | 1) => {
                    ("add", 3 + operand(&code[3..]))
                }
                [0x65, 0x48..=0x4f, 0x01, ..] => ("add", 3 + operand(&code[3..])),
                _ => return Err(format!("no part of a fast path: {code:02x?}").into()),
            };
            kinds.push(kind);
            code = code.get(length..).ok_or("an instruction is cut")?;
        }
        same("a fast path", kinds, ["load", "test", "branch", "add"].to_vec())?;
        found += 1;
    }
    ensure(found >= 3, "the fast paths are not in the image's section")
});

/// Takes and gives back references, over and over, with others held in between.
fn get_and_put(count: &Count, pairs: u64) -> u64 {
    let mut got = 0;
    for _ in 0..pairs / 2 {
        let one = count.tryget_live();
        let other = count.tryget();
        got += u64::from(one.is_some()) + u64::from(other.is_some());
    }
    got
}

case!("percpu.s017_interrupted_gets_and_puts_lose_nothing", |machine| {
    const PAIRS: u64 = 5_000_000;
    let clean = Clean::begin();
    let (count, seen) = count("s017", Start::Percpu)?;
    let owner = count.owner().map_err(misuse)?;
    let cpus = machine.cpus();
    // Two threads on each CPU, so that an interrupt may switch; and one that interrupts them all the time.
    let each = PAIRS / (2 * cpus.count() as u64);
    let mut users = Vec::new();
    for cpu in cpus.online().iter().chain(cpus.online().iter()) {
        let count = Arc::clone(&count);
        users.push(spawn_on(cpu, "user", move || get_and_put(&count, each))?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let kicker = {
        let stop = Arc::clone(&stop);
        spawn("kicker", move || {
            let mut kicks = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                cpus.online().iter().for_each(|cpu| threads().kick(cpu));
                kicks += 1;
                threads().sleep_for(100_000);
            }
            kicks
        })?
    };
    let begun_ns = cpus.now_ns();
    let got: u64 = users.into_iter().map(Thread::join).sum();
    stop.store(true, Ordering::Relaxed);
    let kicks = kicker.join();
    figure("a get and a put, under preemption", (cpus.now_ns() - begun_ns) * 1000 / got, "ps");
    ensure(kicks > 0, "nobody was interrupted")?;
    same("gets", got, 2 * cpus.count() as u64 * (each / 2) * 2)?;
    same("references that are left", references(&count), 1)?;
    owner.kill().wait_zero().map_err(misuse)?;
    same("releases", seen.all(), [1, 0, 0])?;
    drop(count);
    clean.end()
});

case!("percpu.s037_kill_and_puts_racing_release_once", |machine| {
    const LIVES: u64 = 300;
    let clean = Clean::begin();
    let (count, seen) = count("s037", Start::Percpu)?;
    let stop = Arc::new(AtomicBool::new(false));
    let used = Arc::new(AtomicU64::new(0));
    let users: Vec<_> = machine
        .cpus()
        .online()
        .iter()
        .map(|cpu| {
            let (count, stop, used) = (Arc::clone(&count), Arc::clone(&stop), Arc::clone(&used));
            spawn_on(cpu, "user", move || {
                while !stop.load(Ordering::Relaxed) {
                    let held: Vec<_> = (0..4).filter_map(|_| count.tryget_live()).collect();
                    used.fetch_add(held.len() as u64, Ordering::Relaxed);
                }
            })
        })
        .collect::<Result<_, _>>()?;
    let mut owner = count.owner().map_err(misuse)?;
    for life in 1..=LIVES {
        // Every tenth life is killed only when somebody has used it; the others at once.
        if life % 10 == 0 {
            let before = used.load(Ordering::Relaxed);
            while used.load(Ordering::Relaxed) == before {
                threads().yield_now();
            }
        }
        let dying = owner.kill_and_confirm();
        dying.wait_zero().map_err(misuse)?;
        same("releases and confirmations", seen.all(), [life, life, 0])?;
        ensure(count.tryget().is_none(), "a reference to what is gone")?;
        owner = dying.reinit().map_err(|refused| misuse(refused.why))?;
    }
    stop.store(true, Ordering::Relaxed);
    users.into_iter().for_each(Thread::join);
    ensure(used.load(Ordering::Relaxed) >= LIVES / 10, "nobody has used it")?;
    same("references", references(&count), 1)?;
    owner.kill().wait_zero().map_err(misuse)?;
    same("releases", seen.all(), [LIVES + 1, LIVES, 0])?;
    drop(count);
    clean.end()
});

case!("percpu.s046_switches_of_mode_under_load_are_exact", |machine| {
    /// Wanted; a slow machine does fewer, but not below the second number.
    const SWITCHES: u64 = 100_000;
    const FEWEST: u64 = 100;
    const AT_MOST_NS: u64 = 6_000_000_000;
    let clean = Clean::begin();
    let (count, seen) = count("s046", Start::Percpu)?;
    let stop = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = machine
        .cpus()
        .online()
        .iter()
        .map(|cpu| {
            let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
            spawn_on(cpu, "user", move || {
                let mut kept = Vec::new();
                let mut random = Random(cpu.get() as u64);
                while !stop.load(Ordering::Relaxed) {
                    match random.below(3) {
                        0 => kept.extend(count.tryget_live()),
                        1 => kept.extend(kept.last().cloned()),
                        _ => kept.truncate(kept.len() / 2),
                    }
                    // Now and then, so that who switches has a turn before the end of a slice.
                    if random.below(256) == 0 {
                        threads().yield_now();
                    }
                }
            })
        })
        .collect::<Result<_, _>>()?;
    let owner = count.owner().map_err(misuse)?;
    let begun_ns = machine.cpus().now_ns();
    let mut switches = 0;
    while switches < SWITCHES && machine.cpus().now_ns() - begun_ns < AT_MOST_NS {
        owner.switch_to_atomic_sync().map_err(misuse)?;
        owner.switch_to_percpu().map_err(misuse)?;
        switches += 1;
    }
    let took_ns = machine.cpus().now_ns() - begun_ns;
    stop.store(true, Ordering::Relaxed);
    users.into_iter().for_each(Thread::join);
    figure("switches to atomic mode and back, under load", switches, "switches");
    figure("a switch to atomic mode and back", took_ns / 1000 / switches.max(1), "us");
    ensure(switches >= FEWEST, &format!("{switches} switches only"))?;
    same("switches that were told", seen.all(), [0, 0, switches])?;
    same("references", references(&count), 1)?;
    owner.kill().wait_zero().map_err(misuse)?;
    drop(count);
    clean.end()
});

case!("percpu.s046_switches_of_mode_at_rest_are_exact", |machine| {
    const SWITCHES: u64 = 200;
    let clean = Clean::begin();
    let (count, seen) = count("s046", Start::Percpu)?;
    let owner = count.owner().map_err(misuse)?;
    let begun_ns = machine.cpus().now_ns();
    for _ in 0..SWITCHES {
        let held = owner.get_many(3);
        owner.switch_to_atomic_sync().map_err(misuse)?;
        drop(held);
        owner.switch_to_percpu().map_err(misuse)?;
    }
    figure("a switch of mode and back, at rest", (machine.cpus().now_ns() - begun_ns) / SWITCHES, "ns");
    same("switches", seen.all(), [0, 0, SWITCHES])?;
    same("references", references(&count), 1)?;
    drop(owner);
    drop(count);
    clean.end()
});

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
    // As many as make lazy ones ask for a grace period that nobody hurries.
    (0..10_000).for_each(|_| rcu().drop_later(Deferred::boxed(())));
    rcu().drop_later(Deferred::boxed(Told));
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

/// What a count should be, one operation after the other.
struct Oracle {
    held: u64,
    alive: bool,
    sticky: bool,
    released: u64,
    confirmed: u64,
    switched: u64,
}

/// One history: gets, puts, changes of mode and lives at random, each compared with the oracle, on whichever CPUs the
/// scheduler chooses. Every switch is waited for, so that what is seen does not depend on when it ends.
fn history(seed: u64, operations: u64) -> Result<(), Not> {
    let (count, seen) = count("history", Start::Percpu)?;
    let mut random = Random(seed);
    let mut oracle = Oracle { held: 0, alive: true, sticky: false, released: 0, confirmed: 0, switched: 0 };
    let mut held = Vec::new();
    let (mut owner, mut dying) = (Some(count.owner().map_err(misuse)?), None);
    for step in 0..operations {
        match random.below(1000) {
            0..450 => {
                let got = count.tryget();
                let wanted = oracle.alive || oracle.held > 0;
                ensure(got.is_some() == wanted, &format!("seed {seed} step {step}: tryget"))?;
                oracle.held += u64::from(wanted);
                held.extend(got);
            }
            450..900 if !held.is_empty() => {
                let index = random.below(held.len() as u64) as usize;
                drop(held.swap_remove(index));
                oracle.held -= 1;
                oracle.released += u64::from(oracle.held == 0 && !oracle.alive);
            }
            900..970 => {
                let got = count.tryget_live().is_some();
                ensure(got == oracle.alive, &format!("seed {seed} step {step}: tryget_live"))?;
            }
            970..996 => threads().yield_now(),
            996..998 => match (owner.take(), dying.take()) {
                (Some(alive), _) => {
                    let was_sticky = oracle.sticky;
                    dying = Some(alive.kill_and_confirm());
                    oracle.alive = false;
                    rcu().barrier().map_err(misuse)?;
                    oracle.confirmed += 1;
                    oracle.released += u64::from(oracle.held == 0);
                    ensure(was_sticky == oracle.sticky, "unreachable")?;
                }
                (None, Some(dead)) if oracle.held == 0 => {
                    owner = Some(dead.reinit().map_err(|refused| misuse(refused.why))?);
                    oracle.alive = true;
                }
                (None, Some(dead)) => {
                    owner = Some(dead.resurrect().map_err(|refused| misuse(refused.why))?);
                    oracle.alive = true;
                }
                (None, None) => return Err("neither alive nor dying".into()),
            },
            998.. => {
                if let Some(owner) = &owner {
                    if oracle.sticky {
                        owner.switch_to_percpu().map_err(misuse)?;
                    } else {
                        owner.switch_to_atomic_sync().map_err(misuse)?;
                        oracle.switched += 1;
                    }
                    oracle.sticky = !oracle.sticky;
                }
            }
            _ => {}
        }
        if step % 16 == 0 {
            let place = format!("seed {seed} step {step}");
            let wanted = (oracle.held + u64::from(oracle.alive)) as i64;
            same(&format!("{place}: references"), references(&count), wanted)?;
            same(&place, seen.all(), [oracle.released, oracle.confirmed, oracle.switched])?;
        }
    }
    drop(held);
    drop((owner, dying));
    rcu().barrier().map_err(misuse)?;
    drop(count);
    same("the block was freed", Arc::strong_count(&seen), 1)
}

/// Histories that run side by side: 125,000 operations, so that the eight cases are a million. On Xen a tenth of that:
/// every change of mode waits for grace periods of tens of milliseconds there.
fn histories(machine: &'static Machine, first_seed: u64) -> Result<(), Not> {
    const OPERATIONS: u64 = 125_000;
    const LENGTH: u64 = 2_500;
    let clean = Clean::begin();
    let players = 2 * machine.cpus().count() as u64;
    let share = if machine.domain().is_some() { 10 } else { 1 };
    let each = (OPERATIONS / share / LENGTH).div_ceil(players);
    let play = |player: u64| {
        spawn("history", move || {
            let first = first_seed + player * each;
            (first..first + each).try_for_each(|seed| history(seed, LENGTH))
        })
    };
    let all: Vec<_> = (0..players).map(play).collect::<Result<_, _>>()?;
    all.into_iter().map(Thread::join).collect::<Result<Vec<_>, _>>()?;
    clean.end()
}

case!("percpu.s010_random_histories_agree_with_the_oracle_1", |machine| histories(machine, 0));
case!("percpu.s010_random_histories_agree_with_the_oracle_2", |machine| histories(machine, 1_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_3", |machine| histories(machine, 2_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_4", |machine| histories(machine, 3_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_5", |machine| histories(machine, 4_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_6", |machine| histories(machine, 5_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_7", |machine| histories(machine, 6_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_8", |machine| histories(machine, 7_000));

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
