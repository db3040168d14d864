//! The GS-relative fast paths, run on the host: GS points at the area of the CPU that a thread is, and signals are
//! interrupts.
//!
//! An interrupt at *every* instruction of a get or put is made by single-stepping it, with a whole switch to atomic
//! mode (grace period and fold) inside the interrupt. Statements 16, 17 and 77 of the conformance list.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "signals, GS, and an implementation of the platform traits")]

use percpu::gs::{self, Section};
use percpu::host::{Host, Machine, OnCpu};
use percpu::primitive::{AtomicU64, AtomicUsize};
use percpu::rcu::Laziness;
use percpu::{
    CpuId, Cpus, Owner, PercpuCounter, PercpuRef, Platform, Rcu, Report, Reusable, Start, WordIndex, Words,
};
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr};
use std::thread;

/// The host's platform, with the per-CPU words reached through GS.
#[derive(Clone, Copy, Debug)]
struct Gs(Host, &'static Rcu<Gs>);

/// Makes a machine whose domain of RCU is of this platform.
fn machine(cpus: usize) -> Gs {
    let host = Machine::new(cpus);
    // The domain wants the platform and the platform the domain: the memory is there before either.
    let memory = Box::leak(Box::<Rcu<Gs>>::new_uninit());
    let address: *mut Rcu<Gs> = memory.as_mut_ptr();
    // SAFETY: written below, before anybody looks.
    let gs = Gs(host, unsafe { &*address });
    // SAFETY: freshly allocated for one.
    unsafe { address.write(Rcu::new(gs, Laziness::DEFAULT)) };
    gs
}

/// This thread is a CPU, and GS points at its area.
struct OnGs(Gs, CpuId, #[expect(dead_code, reason = "held")] OnCpu);

impl Gs {
    fn enter(self, number: usize) -> OnGs {
        let cpu = CpuId::new(number).unwrap();
        let on = self.0.enter(cpu);
        const ARCH_SET_GS: i32 = 0x1001;
        // SAFETY: sets GS of this thread, which nothing else uses on Linux, to the area, which lives for ever.
        let set = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, self.0.area(cpu).as_ptr()) };
        assert_eq!(set, 0, "the kernel sets GS");
        // SAFETY: this thread is that CPU.
        unsafe { self.1.idle_exit(cpu) };
        OnGs(self, cpu, on)
    }
}

impl Drop for OnGs {
    fn drop(&mut self) {
        // SAFETY: in no section; the host checks that.
        unsafe { self.0.1.idle_enter(self.1) };
    }
}

/// Turns the signal that stands for interrupts off or on; whether it was off, as it is in its handler.
fn signals(how: i32) -> bool {
    // SAFETY: all zeroes is an empty set of signals.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut old = set;
    // SAFETY: a valid set and a valid signal.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGUSR1) };
    // SAFETY: two valid sets.
    unsafe { libc::pthread_sigmask(how, &raw const set, &raw mut old) };
    // SAFETY: as above.
    unsafe { libc::sigismember(&raw const old, libc::SIGUSR1) == 1 }
}

// SAFETY: forwards to an implementation that promises the same; interrupts are a signal, which is blocked.
unsafe impl Cpus for Gs {
    fn cpu_count(self) -> usize {
        self.0.cpu_count()
    }
    fn preempt_disable(self) {
        self.0.preempt_disable();
    }
    unsafe fn preempt_enable(self) {
        // SAFETY: our caller's promise.
        unsafe { self.0.preempt_enable() };
    }
    fn current_cpu(self) -> CpuId {
        self.0.current_cpu()
    }
    fn irq_save(self) -> usize {
        let was_off = signals(libc::SIG_BLOCK);
        self.0.irq_save() << 1 | usize::from(was_off)
    }
    unsafe fn irq_restore(self, state: usize) {
        // SAFETY: our caller's promise.
        unsafe { self.0.irq_restore(state >> 1) };
        if state & 1 == 0 {
            signals(libc::SIG_UNBLOCK);
        }
    }
    fn may_block(self) -> bool {
        self.0.may_block()
    }
}

// SAFETY: words as the host's; the adds are single instructions on the area of the CPU that the thread is (`enter`),
// and code that is interrupted in between is restarted where a test reports quiescent states over it.
unsafe impl Words for Gs {
    fn alloc_word(self) -> Option<WordIndex> {
        self.0.alloc_word()
    }
    fn free_word(self, word: WordIndex) {
        self.0.free_word(word);
    }
    fn word(self, cpu: CpuId, number: usize) -> &'static AtomicU64 {
        self.0.word(cpu, number)
    }
    #[inline(always)]
    unsafe fn local_inc(self, tagged: &AtomicUsize) -> bool {
        // SAFETY: GS points at the words (`enter`); our caller vouches for the tagged word.
        unsafe { gs::inc::<0>(tagged) }
    }
    #[inline(always)]
    unsafe fn local_dec(self, tagged: &AtomicUsize) -> bool {
        // SAFETY: as above.
        unsafe { gs::dec::<0>(tagged) }
    }
    #[inline(always)]
    unsafe fn local_add(self, tagged: &AtomicUsize, delta: u64) -> bool {
        // SAFETY: as above.
        unsafe { gs::add::<0>(tagged, delta) }
    }
    fn local_add_within(self, word: &WordIndex, amount: i64, bound: i64) -> bool {
        // SAFETY: as above.
        unsafe { gs::add_within::<0>(word.offset(), amount, bound) }
    }
}

impl Platform for Gs {
    fn now_ns(self) -> u64 {
        self.0.now_ns()
    }
    fn kick(self, cpu: CpuId) {
        self.0.kick(cpu);
    }
    fn rcu_work(self) {
        self.0.rcu_work();
    }
    fn wait_until(self, key: usize, done: &dyn Fn() -> bool) {
        self.0.wait_until(key, done);
    }
    fn wake_all(self, key: usize) {
        self.0.wake_all(key);
    }
    fn report(self, report: Report) {
        self.0.report(report);
    }
}

unsafe extern "C" {
    static __start_percpu_restart: Section;
    static __stop_percpu_restart: Section;
}

fn sections() -> &'static [Section] {
    let (begin, end) = (&raw const __start_percpu_restart, &raw const __stop_percpu_restart);
    let count = (end.addr() - begin.addr()) / size_of::<Section>();
    // SAFETY: the linker lays the entries between its two symbols.
    unsafe { std::slice::from_raw_parts(begin, count) }
}

/// Signal handlers are of the whole process: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

fn install(signal: i32, handler: Handler) {
    // SAFETY: all zeroes is an empty action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: a valid action; the handlers below keep to what is allowed in them.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, null_mut()) }, 0);
}

type Count = PercpuRef<Gs, fn(), Reusable>;

static NOTHING: fn() = || {};

fn count(gs: Gs) -> &'static Count {
    Box::leak(Box::new(PercpuRef::reusable(gs.1, "gs", NOTHING, Start::Percpu).unwrap()))
}

fn references(count: &Count) -> i64 {
    count.inspect().unwrap().references
}

#[test]
fn s016_a_fast_path_is_four_instructions_without_lock() {
    let gs = machine(1);
    let _cpu = gs.enter(0);
    let counted = count(gs);
    let owner = counted.owner().unwrap();
    // All four variants are in this program.
    drop((owner.get(), owner.get_many(2), counted.tryget_live()));
    assert!(sections().len() >= 3, "the sections are found");
    for section in sections() {
        // SAFETY: an instruction sequence of this program.
        let code = unsafe {
            std::slice::from_raw_parts(section.begin() as *const u8, section.end() - section.begin())
        };
        let instructions = decode(code);
        assert_eq!(instructions, [Op::Load, Op::TestTags, Op::Branch, Op::AddThroughGs], "{code:02x?}");
    }
    std::mem::forget(owner);
}

#[derive(Debug, PartialEq)]
enum Op {
    Load,
    TestTags,
    Branch,
    AddThroughGs,
}

/// Decodes the few instructions that a fast path may consist of; anything else is refused.
fn decode(mut code: &[u8]) -> Vec<Op> {
    let mut ops = Vec::new();
    while !code.is_empty() {
        let (op, length) = match *code {
            [0x48..=0x4f, 0x8b, ..] => (Op::Load, 2 + operand(&code[2..])),
            [0xa8, 3, ..] => (Op::TestTags, 2),
            [0xf6, modrm, 3, ..] if modrm >> 3 == 0b11000 => (Op::TestTags, 3),
            [0x40..=0x4f, 0xf6, modrm, 3, ..] if modrm >> 3 == 0b11000 => (Op::TestTags, 4),
            [0x75, ..] => (Op::Branch, 2),
            [0x0f, 0x85, ..] => (Op::Branch, 6),
            // inc, dec, add register: 64 bits, with the GS prefix.
            [0x65, 0x48..=0x4f, 0xff, modrm, ..] if matches!(modrm >> 3 & 7, 0 | 1) => {
                (Op::AddThroughGs, 3 + operand(&code[3..]))
            }
            [0x65, 0x48..=0x4f, 0x01, ..] => (Op::AddThroughGs, 3 + operand(&code[3..])),
            _ => panic!("an instruction that has no place in a fast path: {code:02x?}"),
        };
        ops.push(op);
        code = &code[length..];
    }
    ops
}

/// The length of a memory operand.
fn operand(code: &[u8]) -> usize {
    let (mode, base) = (code[0] >> 6, code[0] & 7);
    let sib = usize::from(base == 4);
    let displacement = match mode {
        0 if base == 5 || (base == 4 && code[1] & 7 == 5) => 4,
        0 => 0,
        1 => 1,
        2 => 4,
        _ => panic!("a register where memory is meant"),
    };
    1 + sib + displacement
}

/// What the handler of the interrupt tests works on.
static SHARED: AtomicPtr<Interrupted> = AtomicPtr::new(null_mut());
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

struct Interrupted {
    owner: Owner<'static, Gs, fn(), Reusable>,
    counter: PercpuCounter<Gs>,
}

/// Takes, keeps and gives references, and adds: in the middle of whatever the thread is doing.
extern "C" fn interrupt(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: set before the first signal, to something that lives for ever.
    let shared = unsafe { &*SHARED.load(SeqCst) };
    let n = INTERRUPTS.fetch_add(1, Relaxed);
    let kept = shared.owner.get();
    drop(kept.get_many(3));
    // The batch is 8: sometimes local, sometimes with the lock.
    shared.counter.add([5, -5, 6][n as usize % 3]);
    shared.counter.validate().expect("the local part stays within the batch");
    drop(kept);
}

#[test]
fn s017_s077_interrupted_gets_puts_and_adds_lose_nothing() {
    const ITERATIONS: u64 = 10_000_000;
    const LEAST: u64 = 1_000;
    const ENOUGH: u64 = 300_000;
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let gs = machine(2);
    let _cpu = gs.enter(0);
    let counted = count(gs);
    let shared: &'static Interrupted = Box::leak(Box::new(Interrupted {
        owner: counted.owner().unwrap(),
        counter: PercpuCounter::new(gs, 8).unwrap(),
    }));
    SHARED.store(std::ptr::from_ref(shared).cast_mut(), SeqCst);
    INTERRUPTS.store(0, Relaxed);
    install(libc::SIGUSR1, interrupt);
    let stop = AtomicBool::new(false);
    // SAFETY: answers this thread.
    let target = unsafe { libc::pthread_self() };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) && INTERRUPTS.load(Relaxed) < ENOUGH {
                // SAFETY: the thread lives: it waits for this one.
                unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
                thread::yield_now();
            }
        });
        let mut n = 0;
        // However the two threads are scheduled, some interrupts hit.
        while n < ITERATIONS || INTERRUPTS.load(Relaxed) < LEAST {
            let reference = shared.owner.get();
            shared.counter.add(1);
            shared.counter.add(-1);
            drop(reference);
            n += 1;
        }
        stop.store(true, Relaxed);
    });
    let interrupts = INTERRUPTS.load(Relaxed);
    println!("{interrupts} interrupts in at least {ITERATIONS} iterations");
    assert_eq!(references(counted), 1);
    let (rounds, rest) = (interrupts / 3, interrupts % 3);
    let expected = 6 * rounds as i64 + [0, 5, 0][rest as usize];
    assert_eq!(shared.counter.sum(), expected);
    shared.counter.validate().unwrap();
}

/// The step at which the single-stepped code is preempted, how many there were, and whether it is restarted.
static PREEMPT_AT: AtomicU64 = AtomicU64::new(0);
static STEPS: AtomicU64 = AtomicU64::new(0);
static RESTARTS: AtomicBool = AtomicBool::new(true);

/// A trap after each instruction. At one of them the thread is preempted: its CPU passes a quiescent state, and a
/// switch to atomic mode runs to its end, before the thread goes on.
extern "C" fn step(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if STEPS.fetch_add(1, Relaxed) + 1 != PREEMPT_AT.load(Relaxed) {
        return;
    }
    // SAFETY: the third argument of a SA_SIGINFO handler.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let ip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    if RESTARTS.load(Relaxed) {
        *ip = gs::restart(*ip as usize, sections()) as i64;
    }
    // SAFETY: set before the first step, to something that lives for ever.
    let shared = unsafe { &*SHARED.load(SeqCst) };
    // SAFETY: as above.
    let rcu = unsafe { &*RCU.load(SeqCst) };
    shared.owner.switch_to_atomic().unwrap();
    // The stepped code is the only thing on this CPU, and has no lock: a preempted thread, over which the
    // scheduler reports a quiescent state.
    while shared.owner.count().inspect().unwrap().switching {
        rcu.advance();
    }
}

static RCU: AtomicPtr<Rcu<Gs>> = AtomicPtr::new(null_mut());

/// Runs `work` with a trap after each instruction.
fn stepped(work: impl FnOnce()) {
    // SAFETY: sets the trap flag; the handler is installed.
    unsafe { std::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    work();
    // SAFETY: clears it.
    unsafe { std::arch::asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
}

/// Preempts `work` at each of its instructions in turn; after which steps the count was wrong.
fn preempted_everywhere(restart: bool, change: i64, work: fn(&'static Count)) -> Vec<u64> {
    let gs = machine(2);
    let _cpu = gs.enter(0);
    let counted = count(gs);
    let shared: &'static Interrupted = Box::leak(Box::new(Interrupted {
        owner: counted.owner().unwrap(),
        counter: PercpuCounter::new(gs, 1).unwrap(),
    }));
    SHARED.store(std::ptr::from_ref(shared).cast_mut(), SeqCst);
    RCU.store(std::ptr::from_ref(gs.1).cast_mut(), SeqCst);
    RESTARTS.store(restart, Relaxed);
    let mut wrong = Vec::new();
    let mut at = 0;
    loop {
        at += 1;
        shared.owner.switch_to_percpu().unwrap();
        let before = references(counted);
        PREEMPT_AT.store(at, Relaxed);
        STEPS.store(0, Relaxed);
        stepped(|| work(counted));
        if references(counted) != before + change {
            wrong.push(at);
            // Put right, for the next round.
            let missing = before + change - references(counted);
            if missing > 0 {
                // SAFETY: the owner has a reference.
                unsafe { counted.get_raw(missing.unsigned_abs()) };
            } else {
                // SAFETY: there are that many too many.
                unsafe { PercpuRef::put_raw(counted, missing.unsigned_abs()) };
            }
        }
        if STEPS.load(Relaxed) < at {
            break;
        }
    }
    println!("preempted at each of {at} steps (restart: {restart}): wrong at {wrong:?}");
    wrong
}

#[inline(never)]
fn one_get(count: &'static Count) {
    // SAFETY: the owner has a reference.
    unsafe { count.get_raw(1) };
}

#[inline(never)]
fn one_put(count: &'static Count) {
    // SAFETY: the test has taken one; or puts right what was lost.
    unsafe { PercpuRef::put_raw(count, 1) };
}

#[inline(never)]
fn many_gets(count: &'static Count) {
    // SAFETY: the owner has a reference.
    unsafe { count.get_raw(5) };
}

#[test]
fn a_switch_inside_a_preempted_fast_path_loses_no_count() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    install(libc::SIGTRAP, step);
    assert_eq!(preempted_everywhere(true, 1, one_get), []);
    assert_eq!(preempted_everywhere(true, 5, many_gets), []);
    assert_eq!(
        preempted_everywhere(true, 0, |count| {
            one_get(count);
            one_put(count);
        }),
        []
    );
    // The control: if the interrupted code is not sent back, then behind the load, the test and the branch the add
    // is still to come when the fold is over, and is lost.
    assert_eq!(preempted_everywhere(false, 1, one_get).len(), 3);
}
