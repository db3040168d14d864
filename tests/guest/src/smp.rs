//! Several CPUs: that all are up and are themselves, and that they reach each other.
//!
//! The cases run with any number of CPUs; with one, those about others have nothing to ask.

use crate::threads::spawn_on;
use crate::{ensure, failed};
use alloc::format;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use ebb::arch::local;
use ebb::port::VcpuOps;
use ebb::smp::{CallError, CpuId, CpuSet, MAX_CPUS, SharedCpuSet};
use ebb::units::VcpuId;
use ebb::xen::wait::Halt;
use ebb_boot::cases::{Ends, Not};
use ebb_boot::domain::Processor;
use ebb_boot::{Cpus, Machine, case, fault};
use spin::once::Once;

/// How long a case waits for another CPU. Generous: a busy host takes away whole CPUs for a while.
const BOUND_NS: u64 = 30_000_000_000;

/// A slow machine ends what is done again and again after so long, if it was done as often as shows anything: what runs
/// on all CPUs must end within a bound of theirs.
const TIME_NS: u64 = 4_000_000_000;

/// When that is over for the case that runs.
static ENOUGH_NS: AtomicU64 = AtomicU64::new(u64::MAX);

/// From now on.
fn begin(cpus: Cpus) {
    ENOUGH_NS.store(cpus.now_ns() + TIME_NS, Ordering::Relaxed);
}

/// Whether there may be another round after `rounds` of at least `fewest`.
fn goes_on(cpus: Cpus, rounds: usize, fewest: usize) -> bool {
    rounds < fewest || cpus.now_ns() < ENOUGH_NS.load(Ordering::Relaxed)
}

/// One number for each CPU.
type PerCpu<T> = [T; MAX_CPUS];

/// The machine, for functions that run elsewhere.
static MACHINE: Once<&'static Machine> = Once::new();

fn cpus(machine: &'static Machine) -> Cpus {
    MACHINE.call_once(|| machine).cpus()
}

/// The machine's CPUs, on a CPU to which a function was sent.
fn here() -> Cpus {
    MACHINE
        .get()
        .map(|machine| machine.cpus())
        .unwrap_or_else(|| unreachable!("a case has noted the machine"))
}

/// More than one, or there is nothing to ask.
fn several(machine: &'static Machine) -> Result<Cpus, Not> {
    let cpus = cpus(machine);
    if cpus.count() > 1 { Ok(cpus) } else { Err(Not::Skipped("one CPU".into())) }
}

/// Waits until `done`, within [`BOUND_NS`].
fn eventually(cpus: Cpus, what: &str, done: impl FnMut() -> bool) -> Result<(), Not> {
    ensure(cpus.wait_until(BOUND_NS, done), &format!("{what}: not within its bound"))
}

fn on(cpu: CpuId) -> impl Fn(CallError) -> Not {
    move |error| failed(&format!("{cpu}"))(&error)
}

fn on_one((cpu, error): (CpuId, CallError)) -> Not {
    on(cpu)(error)
}

case!("smp.every_cpu_is_up_and_has_its_own_number", |machine| {
    static FOUND: PerCpu<AtomicU32> = [const { AtomicU32::new(u32::MAX) }; MAX_CPUS];
    let cpus = cpus(machine);
    let present = match machine.domain() {
        Some(domain) => {
            let exists = |number: &u32| domain.xen().is_up(VcpuId::new(*number)).is_ok();
            (0..512).take_while(exists).count()
        }
        None => cpus.present(),
    };
    let line = machine.boot_info().command_line();
    if !line.contains("maxcpus") && !line.contains("nosmp") {
        ensure(cpus.count() == present.min(MAX_CPUS), &format!("{} of {present} CPUs are up", cpus.count()))?;
    }
    ensure(cpus.online() == CpuId::first(cpus.count()).collect(), "the numbers have gaps")?;
    for cpu in cpus.online().iter() {
        let ask = |index: usize| FOUND[index].store(local::cpu().get() as u32, Ordering::Relaxed);
        cpus.call(cpu, ask, cpu.get()).map_err(on(cpu))?;
        let found = FOUND[cpu.get()].load(Ordering::Relaxed);
        ensure(found == cpu.get() as u32, &format!("{cpu} takes itself for {found}"))?;
    }
    ensure(cpus.this() == CpuId::BOOT, "a case does not run on the boot CPU")
});

case!("smp.each_cpu_reaches_its_own_area", |machine| {
    static BASES: PerCpu<AtomicU64> = [const { AtomicU64::new(0) }; MAX_CPUS];
    static COUNTS: PerCpu<AtomicU32> = [const { AtomicU32::new(0) }; MAX_CPUS];
    static AGAIN: AtomicUsize = AtomicUsize::new(0);
    /// All at once, each as often as its number says: a shared count would be wrong.
    fn count(_: usize) {
        let cpu = local::cpu().get();
        BASES[cpu].store(local::gs_base(), Ordering::Relaxed);
        for _ in 0..1000 * (cpu + 1) {
            local::preempt_disable();
        }
        COUNTS[cpu].store(local::preempt_count(), Ordering::Relaxed);
        for _ in 0..1000 * (cpu + 1) {
            #[expect(unsafe_code, reason = "the count is what this is about")]
            // SAFETY: as often as it was disabled above.
            if unsafe { local::preempt_enable() } {
                AGAIN.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    let cpus = cpus(machine);
    AGAIN.store(0, Ordering::Relaxed);
    cpus.run_on_all(count, 0).map_err(on_one)?;
    for cpu in cpus.online().iter() {
        let counted = COUNTS[cpu.get()].load(Ordering::Relaxed);
        ensure(counted == 1000 * (cpu.get() as u32 + 1), &format!("{cpu} counted {counted}"))?;
        let base = BASES[cpu.get()].load(Ordering::Relaxed);
        let same = |other: &CpuId| BASES[other.get()].load(Ordering::Relaxed) == base;
        ensure(cpus.online().iter().filter(same).count() == 1, "two CPUs have one area")?;
    }
    ensure(AGAIN.load(Ordering::Relaxed) == cpus.count(), "preemption is on again once on each")
});

case!(on several CPUs: "smp.a_call_goes_from_each_to_each_and_back", |machine| {
    static HITS: AtomicUsize = AtomicUsize::new(0);
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    static ERRORS: AtomicUsize = AtomicUsize::new(0);
    fn hit(target: usize) {
        if local::cpu().get() == target {
            HITS.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn from_here(rounds: usize) {
        let cpus = here();
        for _ in (0..rounds).take_while(|round| goes_on(cpus, *round, FEWEST)) {
            for cpu in cpus.online().iter() {
                CALLS.fetch_add(1, Ordering::Relaxed);
                if cpus.call(cpu, hit, cpu.get()).is_err() {
                    ERRORS.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
    const ROUNDS: usize = 20;
    const FEWEST: usize = 3;
    let cpus = several(machine)?;
    let all = cpus.count();
    for counter in [&HITS, &CALLS, &ERRORS] {
        counter.store(0, Ordering::Relaxed);
    }
    // One after the other, then all at once: they call each other crosswise.
    for cpu in cpus.online().iter() {
        begin(cpus);
        cpus.run_on(cpu, from_here, ROUNDS).map_err(on(cpu))?;
    }
    begin(cpus);
    cpus.run_on_all(from_here, ROUNDS).map_err(on_one)?;
    ensure(ERRORS.load(Ordering::Relaxed) == 0, "a call failed")?;
    let (hits, wanted) = (HITS.load(Ordering::Relaxed), CALLS.load(Ordering::Relaxed));
    ensure(wanted >= 2 * FEWEST * all * all, &format!("{wanted} calls only"))?;
    ensure(hits == wanted, &format!("{hits} of {wanted} calls arrived"))
});

case!("smp.a_function_runs_on_all", |machine| {
    static RAN: SharedCpuSet = SharedCpuSet::new();
    let cpus = cpus(machine);
    let ran = |_: usize| _ = RAN.insert(local::cpu());
    for run in [Cpus::call_all, Cpus::run_on_all] {
        RAN.set(CpuSet::EMPTY);
        run(cpus, ran, 0).map_err(on_one)?;
        ensure(RAN.get() == cpus.online(), &format!("it ran on {}", RAN.get()))?;
    }
    Ok(())
});

case!("smp.a_cpu_that_is_not_up_is_refused", |machine| {
    let cpus = cpus(machine);
    for absent in CpuId::first(MAX_CPUS).filter(|cpu| !cpus.online().contains(*cpu)) {
        let refused = cpus.call(absent, |_| {}, 0) == Err(CallError::Offline)
            && cpus.run_on(absent, |_| {}, 0) == Err(CallError::Offline);
        ensure(refused, &format!("{absent} was called"))?;
        // Nobody is there; nothing happens.
        cpus.kick(absent);
    }
    Ok(())
});

case!("smp.every_cpu_has_a_timer_that_is_not_early", |machine| {
    static ARMED: PerCpu<AtomicU64> = [const { AtomicU64::new(0) }; MAX_CPUS];
    fn arm(delay_ns: usize) {
        let cpus = here();
        let deadline_ns = cpus.now_ns() + delay_ns as u64;
        let armed = cpus.arm_timer(Some(deadline_ns));
        ARMED[cpus.this().get()].store(if armed { deadline_ns } else { u64::MAX }, Ordering::Relaxed);
    }
    let cpus = cpus(machine);
    for delay_ns in [1, 1_000_000, 7_000_000] {
        for cpu in cpus.online().iter() {
            let count = || cpus.timer_record(cpu).map_or(0, |record| record.count);
            let before = count();
            cpus.call(cpu, arm, delay_ns).map_err(on(cpu))?;
            let deadline_ns = ARMED[cpu.get()].load(Ordering::Relaxed);
            ensure(deadline_ns != u64::MAX, &format!("{cpu} cannot arm its timer"))?;
            eventually(cpus, &format!("the timer of {cpu}"), || count() > before)?;
            let record = cpus.timer_record(cpu).ok_or("no such CPU")?;
            ensure(record.count == before + 1, "it fired twice")?;
            ensure(
                record.last_ns >= deadline_ns,
                &format!("{} ns early", deadline_ns.saturating_sub(record.last_ns)),
            )?;
        }
    }
    Ok(())
});

case!("smp.a_timer_that_was_stopped_does_not_fire", |machine| {
    fn arm_and_stop(_: usize) {
        let cpus = here();
        cpus.arm_timer(Some(cpus.now_ns() + 3_000_000));
        cpus.arm_timer(None);
    }
    let cpus = cpus(machine);
    let fired =
        || cpus.online().iter().filter_map(|cpu| cpus.timer_record(cpu)).map(|record| record.count).sum();
    let before: u64 = fired();
    cpus.call_all(arm_and_stop, 0).map_err(on_one)?;
    ensure(!cpus.wait_until(10_000_000, || fired() != before), "it fired")
});

case!(on several CPUs: "smp.one_time_for_all", |machine| {
    static LAST_NS: AtomicU64 = AtomicU64::new(0);
    static TURN: AtomicUsize = AtomicUsize::new(0);
    static WORST_NS: AtomicU64 = AtomicU64::new(0);
    const TURNS: usize = 1000;
    const FEWEST: usize = 100;
    /// The CPUs pass the turn around; each looks whether its time is before that of the one before it.
    fn watch(all: usize) {
        let cpus = here();
        let me = cpus.this().get();
        loop {
            let mine = || {
                let turn = TURN.load(Ordering::Acquire);
                turn >= TURNS || turn % all == me
            };
            if eventually(cpus, "the turn", mine).is_err() || TURN.load(Ordering::Acquire) >= TURNS {
                return;
            }
            let now_ns = cpus.now_ns();
            let behind_ns = LAST_NS.load(Ordering::Relaxed).saturating_sub(now_ns);
            WORST_NS.fetch_max(behind_ns, Ordering::Relaxed);
            LAST_NS.store(now_ns, Ordering::Relaxed);
            let turn = TURN.load(Ordering::Relaxed) + 1;
            TURN.store(if goes_on(cpus, turn, FEWEST) { turn } else { TURNS }, Ordering::Release);
        }
    }
    let cpus = several(machine)?;
    begin(cpus);
    cpus.run_on_all(watch, cpus.count()).map_err(on_one)?;
    let turns = TURN.load(Ordering::Relaxed);
    ensure(turns >= TURNS, &format!("{turns} of {TURNS} turns"))?;
    let worst_ns = WORST_NS.load(Ordering::Relaxed);
    ensure(worst_ns == 0, &format!("time went back by {worst_ns} ns from one CPU to the next"))
});

case!(on several CPUs: "smp.flushes_from_all_sides_end", |machine| {
    static LEFT: AtomicUsize = AtomicUsize::new(0);
    const FEWEST: usize = 4;
    fn flush(rounds: usize) {
        let cpus = here();
        for round in (0..rounds).take_while(|round| goes_on(cpus, *round, FEWEST)) {
            if round % 2 == 0 {
                // With interrupts off each must answer while it waits.
                x86_64::instructions::interrupts::without_interrupts(|| cpus.flush(0, 1));
            } else {
                cpus.flush_all();
            }
        }
        LEFT.fetch_sub(1, Ordering::Relaxed);
    }
    let cpus = several(machine)?;
    LEFT.store(cpus.count(), Ordering::Relaxed);
    begin(cpus);
    cpus.run_on_all(flush, 50).map_err(on_one)?;
    ensure(LEFT.load(Ordering::Relaxed) == 0, "a CPU did not end")
});

case!(on several CPUs: "smp.a_kick_between_the_check_and_the_halt_is_not_lost", |machine| {
    static SLEEPER: AtomicUsize = AtomicUsize::new(0);
    static WAKER: AtomicUsize = AtomicUsize::new(0);
    /// The kick that the sleeper is about to wait for, the last that was sent, the last that has ended a sleep.
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    static KICKED: AtomicUsize = AtomicUsize::new(0);
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    /// How many there are to be; less on a host that is so busy that they would take longer than a case may.
    static LAST: AtomicUsize = AtomicUsize::new(0);
    const ROUNDS: usize = 1000;
    const LEAST_ROUNDS: usize = 50;
    const MOST_NS: u64 = 20_000_000_000;
    /// Halts until each kick; says before each halt that it is about to, with interrupts off.
    fn sleep(waker: CpuId) {
        for round in (1..).take_while(|round| *round <= LAST.load(Ordering::Acquire)) {
            let kicked = || KICKED.load(Ordering::Acquire) >= round;
            while !kicked() {
                Processor.halt_unless(|| {
                    let ready = kicked();
                    BEGUN.store(round, Ordering::Release);
                    // Its wait may have become a nap, which nothing but a ring ends early.
                    here().kick(waker);
                    // Now the kick comes: after the question, before the halt.
                    (0..round % 50).for_each(|_| core::hint::spin_loop());
                    ready
                });
            }
            SEEN.store(round, Ordering::Release);
        }
    }
    /// Kicks as soon as the sleeper is about to sleep. Were one kick lost, it would not come to the next sleep.
    fn wake(sleeper: CpuId) {
        let cpus = here();
        let enough_ns = cpus.now_ns() + MOST_NS / cpus.count() as u64;
        for round in 1..=ROUNDS {
            if round > LEAST_ROUNDS && cpus.now_ns() > enough_ns {
                // Before the sleeper can have come to its end.
                LAST.store(round, Ordering::Release);
            }
            if eventually(cpus, "the sleeper", || BEGUN.load(Ordering::Acquire) >= round).is_err() {
                // Let it go, so that the case ends.
                KICKED.store(usize::MAX, Ordering::Release);
                cpus.kick(sleeper);
                return;
            }
            KICKED.store(round, Ordering::Release);
            cpus.kick(sleeper);
            if LAST.load(Ordering::Relaxed) == round {
                return;
            }
        }
    }
    fn play(_: usize) {
        let number = |at: &AtomicUsize| CpuId::new(at.load(Ordering::Relaxed)).unwrap_or(CpuId::BOOT);
        let (sleeper, waker) = (number(&SLEEPER), number(&WAKER));
        match local::cpu() {
            me if me == sleeper => sleep(waker),
            me if me == waker => wake(sleeper),
            _ => {}
        }
    }
    let cpus = several(machine)?;
    for sleeper in cpus.online().iter() {
        for counter in [&BEGUN, &KICKED, &SEEN] {
            counter.store(0, Ordering::Relaxed);
        }
        LAST.store(ROUNDS, Ordering::Relaxed);
        let waker = cpus.online().without(sleeper).iter().next().ok_or("one CPU")?;
        SLEEPER.store(sleeper.get(), Ordering::Relaxed);
        WAKER.store(waker.get(), Ordering::Relaxed);
        cpus.run_on_all(play, 0).map_err(on_one)?;
        let (kicked, seen) = (KICKED.load(Ordering::Relaxed), SEEN.load(Ordering::Relaxed));
        let (begun, last) = (BEGUN.load(Ordering::Relaxed), LAST.load(Ordering::Relaxed));
        ensure((kicked, seen) == (last, last), &format!("{sleeper} slept on at {begun} of {last}"))?;
        if last < ROUNDS {
            log::warn!("{sleeper} was kicked {last} times only, not {ROUNDS}: the host is busy");
        }
    }
    Ok(())
});

/// Sends `function` to the last CPU, to end the machine there.
fn on_the_last(machine: &'static Machine, function: fn(usize)) -> Result<(), Not> {
    let cpus = several(machine)?;
    let last = cpus.online().iter().last().ok_or("no CPU")?;
    cpus.run_on(last, function, 0).map_err(on(last))?;
    Err("a CPU survived its end".into())
}

case!(on several CPUs:
    "smp.a_panic_elsewhere_names_the_cpu",
    |machine| on_the_last(machine, |_| fault::panic()),
    Ends::EpitaphElsewhere { what: "panic", through: "fault::panic" }
);

case!(on several CPUs:
    "smp.a_panic_is_told_while_another_cpu_prints",
    |machine| {
        static LINES: AtomicUsize = AtomicUsize::new(0);
        let cpus = several(machine)?;
        let last = cpus.online().iter().last().ok_or("no CPU")?;
        // It mostly waits for somebody to read, with the console held.
        let _printer = spawn_on(last, "printer", || {
            loop {
                let line = LINES.fetch_add(1, Ordering::Relaxed);
                log::info!("line {line} of somebody who prints all the time, as fast as the console takes it");
            }
        })?;
        eventually(cpus, "the printer", || LINES.load(Ordering::Relaxed) > 100)?;
        fault::panic();
        Err("a panic returned".into())
    },
    Ends::Epitaph { what: "panic", through: "fault::panic" }
);

case!(on several CPUs:
    "smp.a_stack_overflow_elsewhere_is_named",
    |machine| on_the_last(machine, |_| fault::overflow_stack()),
    Ends::EpitaphElsewhere { what: "double fault", through: "fault::overflow_stack" }
);

case!(on several CPUs:
    "smp.a_cpu_that_takes_no_interrupts_is_stopped_too",
    |machine| {
        static DEAF: SharedCpuSet = SharedCpuSet::new();
        /// Everywhere else nothing comes through any more; then the boot CPU fails.
        fn fail_among_the_deaf(_: usize) {
            if local::cpu() != CpuId::BOOT {
                x86_64::instructions::interrupts::disable();
                DEAF.insert(local::cpu());
                loop {
                    core::hint::spin_loop();
                }
            }
            let others = here().online().without(CpuId::BOOT);
            if eventually(here(), "the other CPUs", || DEAF.get() == others).is_ok() {
                fault::panic();
            }
        }
        several(machine)?.run_on_all(fail_among_the_deaf, 0).map_err(on_one)?;
        Err("a panic returned".into())
    },
    Ends::Epitaph { what: "panic", through: "fault::panic" }
);
