//! The scheduler over real switches and in real parallel: each CPU is a thread of the host.
//!
//! The [simulated machine](crate::task::sim) chooses the order of events and so finds wrong decisions. Here
//! nothing is simulated but interrupts, which are polled whenever they are turned on: stacks are switched by
//! [`Context::switch`], and move between processors that run at the same time. So this finds wrong memory orders
//! and stacks that are used twice.

use crate::arch::context::tests::{free, stack};
use crate::arch::context::{Context, Stack};
use crate::task::{
    Completion, CpuId, Cpus, JoinHandle, Mutex, Platform, Scheduler, Semaphore, StackSource, WaitQueue,
};
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use core::time::Duration;
use std::boxed::Box;
use std::sync::{Arc, Condvar, Mutex as HostMutex, OnceLock};
use std::time::Instant;
use std::vec::Vec;

struct Machine {
    scheduler: OnceLock<Scheduler<Native>>,
    cpus: Vec<Cpu>,
    began: Instant,
    stacks: AtomicUsize,
    ended: HostMutex<bool>,
    end: Condvar,
}

#[derive(Default)]
struct Cpu {
    irqs_on: AtomicBool,
    preempt: AtomicU32,
    kicked: AtomicBool,
    /// When the timer fires; `u64::MAX` for never.
    timer_ns: AtomicU64,
    asleep: HostMutex<()>,
    woken: Condvar,
}

#[derive(Clone, Copy)]
struct Native(&'static Machine);

std::thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Not inlined: contexts move between host threads, so the address of a thread-local must not be kept.
#[inline(never)]
fn this_cpu() -> usize {
    CPU.get()
}

impl Native {
    fn cpu(self) -> &'static Cpu {
        &self.0.cpus[this_cpu()]
    }

    fn take_interrupts(self) {
        loop {
            let cpu = self.cpu();
            if !cpu.irqs_on.load(SeqCst) {
                return;
            }
            let kicked = cpu.kicked.swap(false, SeqCst);
            let timer = cpu.timer_ns.load(SeqCst) <= self.now_ns();
            if !kicked && !timer {
                return;
            }
            cpu.irqs_on.store(false, SeqCst);
            let scheduler = self.scheduler();
            scheduler.interrupt_enter();
            if timer {
                cpu.timer_ns.store(u64::MAX, SeqCst);
                scheduler.timer_interrupt();
            }
            if kicked {
                scheduler.kick_interrupt();
            }
            if scheduler.wants_switch() {
                scheduler.preempt();
            }
            self.cpu().irqs_on.store(true, SeqCst);
        }
    }
}

impl Cpus for Native {
    fn cpu_count(self) -> usize {
        self.0.cpus.len()
    }
    fn current_cpu(self) -> CpuId {
        CpuId::new(this_cpu()).unwrap()
    }
    fn preempt_disable(self) {
        // Polled interrupts cannot come between finding the CPU and counting.
        self.cpu().preempt.fetch_add(1, SeqCst);
    }
    fn preempt_enable(self) {
        let left = self.cpu().preempt.fetch_sub(1, SeqCst) - 1;
        if left == 0 && self.irqs_on() {
            self.scheduler().preempt_point();
        }
    }
    fn preempt_count(self) -> u32 {
        self.cpu().preempt.load(SeqCst)
    }
    fn irq_save(self) -> bool {
        self.cpu().irqs_on.swap(false, SeqCst)
    }
    fn irq_restore(self, on: bool) {
        self.cpu().irqs_on.store(on, SeqCst);
        self.take_interrupts();
    }
    fn irqs_on(self) -> bool {
        self.cpu().irqs_on.load(SeqCst)
    }
    fn relax(self) {
        std::thread::yield_now();
    }
}

impl StackSource for Native {
    type Stack = Stack;
    fn allocate_stack(self) -> Option<Stack> {
        self.0.stacks.fetch_add(1, SeqCst);
        Some(stack())
    }
    fn free_stack(self, stack: Stack) {
        self.0.stacks.fetch_sub(1, SeqCst);
        free(stack);
    }
}

impl Platform for Native {
    type Context = Context;
    fn scheduler(self) -> &'static Scheduler<Self> {
        self.0.scheduler.get().unwrap()
    }
    fn now_ns(self) -> u64 {
        self.0.began.elapsed().as_nanos() as u64
    }
    fn arm_timer(self, deadline_ns: u64) -> bool {
        self.cpu().timer_ns.store(deadline_ns, SeqCst);
        true
    }
    fn kick(self, cpu: CpuId) {
        let cpu = &self.0.cpus[cpu.get()];
        cpu.kicked.store(true, SeqCst);
        drop(cpu.asleep.lock().unwrap());
        cpu.woken.notify_one();
    }
    fn halt_unless(self, ready: impl FnOnce() -> bool) {
        if !ready() {
            let cpu = self.cpu();
            let mut asleep = cpu.asleep.lock().unwrap();
            while !cpu.kicked.load(SeqCst) && cpu.timer_ns.load(SeqCst) > self.now_ns() {
                let left_ns = cpu.timer_ns.load(SeqCst).saturating_sub(self.now_ns());
                asleep = cpu.woken.wait_timeout(asleep, Duration::from_nanos(left_ns)).unwrap().0;
            }
        }
        self.irq_restore(true);
    }
    fn adopt(self, context: &'static Context) {
        context.adopt();
    }
    fn prepare(self, context: &'static Context, stack: Stack, thread: u32) {
        // The entry of a context is a plain function, which finds its machine by number.
        let mut starts = STARTS.lock().unwrap();
        starts.push((self, thread));
        context.prepare(stack, enter, starts.len() - 1);
    }
    fn take_stack(self, context: &Context) -> Stack {
        context.take_stack()
    }
    fn switch(self, from: &Context, to: &Context) {
        from.switch(to);
    }
    fn is_guard(self, context: &Context, address: usize) -> bool {
        context.stack().is_some_and(|stack| (stack.start - 4096..stack.start).contains(&address))
    }
}

/// What contexts begin with: a machine, and the number of a thread.
static STARTS: HostMutex<Vec<(Native, u32)>> = HostMutex::new(Vec::new());

fn enter(argument: usize) -> &'static Context {
    let (machine, thread) = STARTS.lock().unwrap()[argument];
    machine.scheduler().thread_main(thread)
}

/// Runs `main` as the first thread of a machine whose CPUs are then left behind, halted.
fn run(cpus: usize, main: impl FnOnce(Native) + Send + 'static) {
    let cpu = || Cpu { timer_ns: AtomicU64::new(u64::MAX), ..Cpu::default() };
    let machine = Native(Box::leak(Box::new(Machine {
        scheduler: OnceLock::new(),
        cpus: (0..cpus).map(|_| cpu()).collect(),
        began: Instant::now(),
        stacks: AtomicUsize::new(0),
        ended: HostMutex::new(false),
        end: Condvar::new(),
    })));
    machine.0.scheduler.get_or_init(|| Scheduler::new(machine, 8));
    for number in 1..cpus {
        std::thread::spawn(move || {
            CPU.set(number);
            machine.scheduler().adopt_cpu().unwrap();
            machine.irq_restore(true);
            machine.scheduler().idle()
        });
    }
    std::thread::spawn(move || {
        machine.scheduler().adopt_cpu().unwrap();
        let body = move || {
            main(machine);
            *machine.0.ended.lock().unwrap() = true;
            machine.0.end.notify_all();
        };
        machine.scheduler().spawn("main", body).unwrap().detach();
        machine.irq_restore(true);
        machine.scheduler().idle()
    });
    let ended = machine.0.ended.lock().unwrap();
    let limit = Duration::from_secs(100);
    let (_ended, timeout) = machine.0.end.wait_timeout_while(ended, limit, |ended| !*ended).unwrap();
    // A panic in a thread ends here too: its processor is gone, and with it the machine.
    assert!(!timeout.timed_out(), "the machine does not come to an end");
}

#[test]
fn ten_thousand_threads_are_created_and_joined() {
    run(4, |machine| {
        let sum = Arc::new(AtomicU64::new(0));
        for _ in 0..100 {
            let batch: Vec<_> = (0..100_u64)
                .map(|i| {
                    let sum = Arc::clone(&sum);
                    machine.scheduler().spawn("one of many", move || sum.fetch_add(i, SeqCst)).unwrap()
                })
                .collect();
            batch.into_iter().for_each(|thread| {
                thread.join();
            });
        }
        assert_eq!(sum.load(SeqCst), 100 * 4950);
        assert!(machine.0.stacks.load(SeqCst) < 200, "stacks are freed or used again");
    });
}

#[test]
fn threads_contend_on_several_processors() {
    const THREADS: usize = 24;
    const ROUNDS: u64 = 300;
    run(4, |machine| {
        let scheduler = machine.scheduler();
        let counter = Arc::new(Mutex::new(machine, "counter", 0_u64));
        let permits = Arc::new(Semaphore::new(machine, 3));
        let tokens = Arc::new((AtomicU64::new(0), WaitQueue::new(machine)));
        let threads: Vec<JoinHandle<u64, Native>> = (0..THREADS as u64)
            .map(|number| {
                let (counter, permits, tokens) =
                    (Arc::clone(&counter), Arc::clone(&permits), Arc::clone(&tokens));
                let body = move || {
                    // Values on this stack, which must come through all the switches.
                    let mut witness = [number; 32];
                    for round in 0..ROUNDS {
                        match (round + number) % 4 {
                            0 => *counter.lock() += 1,
                            1 => {
                                permits.acquire();
                                scheduler.yield_now();
                                permits.release();
                            }
                            2 => {
                                tokens.0.fetch_add(1, SeqCst);
                                tokens.1.wake_one();
                                let one_less = |tokens: u64| tokens.checked_sub(1);
                                tokens.1.wait_until(|| tokens.0.try_update(SeqCst, SeqCst, one_less).is_ok());
                            }
                            _ => scheduler.sleep_for(round * 100),
                        }
                        witness = witness.map(|value| value + 1);
                    }
                    assert!(witness.iter().all(|value| *value == number + ROUNDS));
                    witness[0]
                };
                scheduler.spawn("contender", body).unwrap()
            })
            .collect();
        let results: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
        assert!(results.into_iter().eq((0..THREADS as u64).map(|number| number + ROUNDS)));
        assert_eq!(*counter.lock(), THREADS as u64 * ROUNDS / 4);
        assert_eq!((permits.permits(), tokens.0.load(SeqCst)), (3, 0));
    });
}

#[test]
fn a_switch_there_and_back_between_threads() {
    run(1, |machine| {
        let scheduler = machine.scheduler();
        let stop = Arc::new(Completion::new(machine));
        let seen = Arc::clone(&stop);
        let partner = scheduler.spawn("partner", move || {
            let mut turns = 0_u64;
            while !seen.is_done() {
                scheduler.yield_now();
                turns += 1;
            }
            turns
        });
        (0..100_000).for_each(|_| scheduler.yield_now());
        stop.complete();
        // Fewer where the timer came first: then a turn had been cut in two.
        assert!(partner.unwrap().join() > 50_000);
    });
}
