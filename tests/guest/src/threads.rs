//! Threads of the image: that they begin and end, take turns, sleep, meet, and move.

use crate::{ensure, failed, same};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use ebb::smp::CpuId;
use ebb::task::{Condvar, JoinHandle};
use ebb_boot::cases::{Ends, Not};
use ebb_boot::platform::{Mutex, StackCounts, stack_counts, trim_stacks};
use ebb_boot::{Kernel, Machine, case, fault, report, threads};

/// How long a case waits for others. Generous: a host that is busy with other things takes away whole CPUs for a while.
const BOUND_NS: u64 = 60_000_000_000;

/// A handle of a thread of this image.
pub(crate) type Thread<T> = JoinHandle<T, Kernel>;

/// Begins a thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    function: impl FnOnce() -> T + Send + 'static,
) -> Result<Thread<T>, Not> {
    threads().spawn(name, function).map_err(|error| failed("a thread")(&error))
}

/// Begins a thread that stays on `cpu`.
pub(crate) fn spawn_on<T: Send + 'static>(
    cpu: CpuId,
    name: &str,
    function: impl FnOnce() -> T + Send + 'static,
) -> Result<Thread<T>, Not> {
    threads().spawn_on(cpu, name, function).map_err(|error| failed("a thread")(&error))
}

/// Runs `function` in a thread of every CPU at once, and answers what each did.
pub(crate) fn everywhere<T: Send + 'static>(
    machine: &'static Machine,
    name: &str,
    function: impl Fn(CpuId) -> T + Send + Sync + 'static,
) -> Result<Vec<T>, Not> {
    let function = Arc::new(function);
    let begin = |cpu| {
        let function = Arc::clone(&function);
        spawn_on(cpu, name, move || function(cpu))
    };
    let all: Vec<_> = machine.cpus().online().iter().map(begin).collect::<Result<_, _>>()?;
    Ok(all.into_iter().map(Thread::join).collect())
}

/// A figure, for people and for whoever collects them.
pub(crate) fn figure(what: &str, value: u64, unit: &str) {
    report("figure", &[("what", &what), ("value", &value), ("unit", &unit)]);
    log::info!("{what}: {value} {unit}");
}

/// Half of ten thousand threads: two cases, because on a busy host each thread takes milliseconds.
fn five_thousand_begin_and_end(machine: &'static Machine) -> Result<(), Not> {
    const THREADS: u64 = 5_000;
    const AT_ONCE: u64 = 50;
    // One that an earlier case has joined may still be on its way out here, and not afterwards.
    let before = threads().census().threads;
    let begun_ns = machine.cpus().now_ns();
    let mut sum = 0;
    for first in (0..THREADS).step_by(AT_ONCE as usize) {
        let some: Vec<_> = (first..first + AT_ONCE)
            .map(|number| spawn("short", move || number))
            .collect::<Result<_, _>>()?;
        sum += some.into_iter().map(Thread::join).sum::<u64>();
    }
    figure("5,000 threads, begun and joined", (machine.cpus().now_ns() - begun_ns) / 1000, "us");
    same("the sum of what they answered", sum, THREADS * (THREADS - 1) / 2)?;
    let gone = || threads().census().threads <= before;
    ensure(machine.cpus().wait_until(BOUND_NS, gone), "threads are left")
}

case!("threads.ten_thousand_begin_and_end_1", five_thousand_begin_and_end);
case!("threads.ten_thousand_begin_and_end_2", five_thousand_begin_and_end);

/// Uses most of a stack, page by page, and answers how many pages that was.
#[inline(never)]
fn deep(pages: u64) -> u64 {
    let page = core::hint::black_box([pages as u8; 4096]);
    let below = if pages > 1 { deep(pages - 1) } else { 0 };
    below + u64::from(page[page.len() - 1] == pages as u8)
}

case!("threads.stacks_go_back_when_a_crowd_has_ended", |machine| {
    const CROWD: u64 = 96;
    /// Of the 15 pages of a stack.
    const DEEP: u64 = 10;
    static GO: AtomicBool = AtomicBool::new(false);
    for _ in 0..3 {
        let before = threads().census().threads;
        GO.store(false, Ordering::Release);
        let wait = || {
            while !GO.load(Ordering::Acquire) {
                threads().sleep_for(1_000_000);
            }
            deep(DEEP)
        };
        let crowd: Result<Vec<_>, Not> = (0..CROWD).map(|_| spawn("one of many", wait)).collect();
        let crowded = stack_counts();
        GO.store(true, Ordering::Release);
        same("pages that were used", crowd?.into_iter().map(Thread::join).sum(), CROWD * DEEP)?;
        let gone = || threads().census().threads <= before;
        ensure(machine.cpus().wait_until(BOUND_NS, gone), "threads are left")?;
        // Those that ended threads have kept go back, too.
        threads().trim(0);
        let now = stack_counts();
        // Other threads may begin or end meanwhile, but not that many.
        let given_back = crowded.mapped.saturating_sub(now.mapped) as u64;
        ensure(given_back >= CROWD / 2, &format!("{crowded:?}, and then {now:?}"))?;
        ensure(now.free <= StackCounts::MOST_FREE, &format!("{now:?}"))?;
        trim_stacks();
        same("free stacks when memory is short", stack_counts().free, 0)?;
    }
    machine.frames().validate().map_err(|error| format!("the books on frames: {error:?}").into())
});

case!("threads.one_that_never_yields_starves_nobody", |machine| {
    let all = everywhere(machine, "hog", |cpu| {
        let stop = Arc::new(AtomicBool::new(false));
        let other = {
            let stop = Arc::clone(&stop);
            spawn_on(cpu, "polite", move || {
                let turns = (0..5).map(|_| threads().sleep_for(1_000_000)).count();
                stop.store(true, Ordering::Release);
                turns
            })
        };
        // Not a word to the scheduler until the other one has had its turns.
        while other.is_ok() && !stop.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
        other.map(Thread::join)
    })?;
    all.into_iter().try_for_each(|turns| same("turns", turns?, 5))
});

case!("threads.a_sleep_is_not_early", |machine| {
    static WORST_NS: AtomicU64 = AtomicU64::new(0);
    WORST_NS.store(0, Ordering::Relaxed);
    let cpus = machine.cpus();
    let early = everywhere(machine, "sleeper", move |_| {
        let early = |sleep_ns: &u64| {
            let deadline_ns = cpus.now_ns() + sleep_ns;
            threads().sleep_until(deadline_ns);
            let now_ns = cpus.now_ns();
            WORST_NS.fetch_max(now_ns.saturating_sub(deadline_ns), Ordering::Relaxed);
            deadline_ns.saturating_sub(now_ns)
        };
        [0, 1, 1_000, 1_000_000, 5_000_000, 20_000_000].iter().map(early).max()
    })?;
    figure("a sleep, at most too long", WORST_NS.load(Ordering::Relaxed) / 1000, "us");
    same("nanoseconds too early", early.into_iter().flatten().max(), Some(0))
});

case!("threads.sleepers_share_a_timer", |machine| {
    static WOKEN: AtomicUsize = AtomicUsize::new(0);
    WOKEN.store(0, Ordering::Relaxed);
    let cpus = machine.cpus();
    let at_ns = cpus.now_ns() + 50_000_000;
    let sleep = |number: u64| {
        let deadline_ns = at_ns + number % 10 * 1_000_000;
        spawn("sleeper", move || {
            threads().sleep_until(deadline_ns);
            WOKEN.fetch_add(1, Ordering::Relaxed);
            cpus.now_ns() >= deadline_ns
        })
    };
    // As many at once as a small machine has stacks for.
    let all: Vec<_> = (0..32).map(sleep).collect::<Result<_, _>>()?;
    ensure(all.into_iter().all(Thread::join), "one woke early")?;
    same("sleepers that woke", WOKEN.load(Ordering::Relaxed), 32)
});

case!("threads.ping_pong_by_mutex_and_condvar", |machine| {
    const ROUNDS: u64 = 200;
    struct Table {
        turn: Mutex<u64>,
        changed: Condvar<Kernel>,
    }
    let table = Arc::new(Table { turn: Mutex::new(Kernel, "turn", 0), changed: Condvar::new(Kernel) });
    let online = machine.cpus().online();
    let (first, last) = (CpuId::BOOT, online.iter().last().unwrap_or(CpuId::BOOT));
    let begun_ns = machine.cpus().now_ns();
    let player = |cpu, side: u64| {
        let table = Arc::clone(&table);
        spawn_on(cpu, "player", move || {
            for _ in 0..ROUNDS {
                let turn = table.turn.lock();
                let mut turn = table.changed.wait_while(turn, |turn| *turn % 2 != side);
                *turn += 1;
                drop(turn);
                table.changed.notify_one();
            }
        })
    };
    let (one, other) = (player(first, 0)?, player(last, 1)?);
    one.join();
    other.join();
    figure("a turn of two threads", (machine.cpus().now_ns() - begun_ns) / (2 * ROUNDS), "ns");
    same("turns", *table.turn.lock(), 2 * ROUNDS)
});

case!("threads.a_switch_keeps_what_is_on_the_stack", |machine| {
    const SWITCHES: u64 = 20_000;
    let begun_ns = machine.cpus().now_ns();
    let loops = |seed: u64| {
        spawn_on(CpuId::BOOT, "yielder", move || {
            let mut sum = seed;
            for _ in 0..SWITCHES / 2 {
                sum = core::hint::black_box(sum).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                threads().yield_now();
            }
            sum
        })
    };
    let (one, other) = (loops(1)?, loops(2)?);
    let sums = [one.join(), other.join()];
    figure("a switch by yield", (machine.cpus().now_ns() - begun_ns) / SWITCHES, "ns");
    let wanted = [1_u64, 2].map(|seed| {
        (0..SWITCHES / 2).fold(seed, |sum, _| sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1))
    });
    same("what was computed", sums, wanted)
});

case!(on several CPUs: "threads.cpus_without_work_take_some", |machine| {
    static STOP: AtomicBool = AtomicBool::new(false);
    static SEEN: AtomicU32 = AtomicU32::new(0);
    STOP.store(false, Ordering::Relaxed);
    SEEN.store(0, Ordering::Relaxed);
    let cpus = machine.cpus();
    let moved = || {
        let stats = cpus.online().iter().map(|cpu| threads().cpu_stats(cpu));
        stats.map(|stats| stats.steals + stats.gifts).sum::<u64>()
    };
    let before = moved();
    let all = cpus.online().iter().fold(0_u32, |all, cpu| all | 1 << cpu.get());
    // One CPU is kept busy, so what is queued there must move or wait.
    let busy = cpus.online().iter().last().ok_or("no CPU")?;
    let hog = spawn_on(busy, "hog", || {
        while !STOP.load(Ordering::Relaxed) {
            core::hint::spin_loop();
        }
    })?;
    // However fast each CPU is: the workers go on until every CPU has had one. Then each ends where it is, but not on
    // the busy CPU: those that are there end only when another CPU, which has run out of work, has taken them.
    let deadline_ns = cpus.now_ns() + BOUND_NS;
    let work = |_| {
        spawn("worker", move || {
            loop {
                let here = cpus.this();
                if SEEN.fetch_or(1 << here.get(), Ordering::Relaxed) == all && here != busy {
                    return true;
                }
                if cpus.now_ns() > deadline_ns {
                    return false;
                }
            }
        })
    };
    let workers: Vec<_> = (0..6 * cpus.count()).map(work).collect::<Result<_, _>>()?;
    let ended = workers.into_iter().map(Thread::join).filter(|ended| *ended).count();
    STOP.store(true, Ordering::Relaxed);
    hog.join();
    same("CPUs that worked", SEEN.load(Ordering::Relaxed), all)?;
    same("workers that ended beside the busy CPU", ended, 6 * cpus.count())?;
    ensure(moved() > before, "no thread has moved")
});

case!("threads.the_books_are_right", |machine| {
    // Exact only while nothing happens: the thread that drives RCU may run at any moment.
    let mut last = Ok(());
    let right = || {
        last = threads().validate();
        last.is_ok()
    };
    let found = machine.cpus().wait_until(BOUND_NS, right);
    ensure(found, &format!("{last:?}"))
});

case!(
    "threads.an_overflow_is_named",
    |_| {
        spawn("deep", fault::overflow_stack)?.join();
        Err("an endless recursion returned".into())
    },
    Ends::Epitaph { what: "double fault", through: "fault::overflow_stack" }
);

case!(
    "threads.a_panic_is_named",
    |_| {
        spawn("unlucky", fault::panic)?.join();
        Err("a panic returned".into())
    },
    Ends::Epitaph { what: "panic", through: "fault::panic" }
);

case!("threads.the_guard_page_of_a_stack_is_not_mapped", |machine| {
    // The thread looks itself: a stack may be given back when its thread has ended.
    spawn("who", || {
        let here = core::hint::black_box(0_u64);
        let at = (&raw const here).addr() as u64;
        let slot = ebb::arch::layout::STACK_SLOT;
        let guard = ebb::arch::layout::STACKS + (at - ebb::arch::layout::STACKS) / slot * slot;
        ensure(machine.look_up(at).is_some(), "a stack is not mapped")?;
        ensure(machine.look_up(guard + 0x1000).is_some(), "the lowest page of a stack is not mapped")?;
        ensure(machine.look_up(guard).is_none(), "the page below a stack is mapped")
    })?
    .join()
});
