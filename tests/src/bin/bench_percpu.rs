//! Measures a get and put of `PercpuRef`, as a kernel makes it (through GS), beside an unlocked per-CPU increment and
//! decrement with the same test of its mode, a bare atomic, and `Arc`.
//!
//! Prints JSON lines as `bench_frames` does. A round measures the four one after the other, on one thread several
//! times, of which it keeps the best; a figure is the median of the rounds. With several threads, it is what the
//! slowest needed.
//!
//! `bench_percpu --loop WHO PAIRS` runs one of them once, for an instruction counter: the difference between two runs
//! with different PAIRS is the cost of the pairs alone. WHO is `ours`, `unlocked`, `atomic` or `arc`.
#![expect(unsafe_code, reason = "GS, and an implementation of the platform traits")]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;

use percpu::gs;
use percpu::host::{Host, Machine, OnCpu};
use percpu::primitive::{AtomicU64, AtomicUsize};
use percpu::rcu::Laziness;
use percpu::{
    CachePadded, CpuId, Cpus, MAX_CPUS, Owner, PercpuRef, Platform, Rcu, Report, Reusable, Start, WordIndex,
    Words,
};

const ROUNDS: usize = 15;
/// Times that a round measures each, on one thread.
const TRIES: usize = 4;
const PAIRS: u64 = 200_000;

/// The host's platform, with the per-CPU words reached through GS. Of no size, as a kernel's.
#[derive(Clone, Copy, Debug)]
struct Gs;

static HOST: OnceLock<Host> = OnceLock::new();
static RCU: OnceLock<Rcu<Gs>> = OnceLock::new();

fn host() -> Host {
    *HOST.get_or_init(|| Machine::new(MAX_CPUS))
}

/// This thread is a CPU, and GS points at its area.
struct OnGs(CpuId, #[expect(dead_code, reason = "held")] OnCpu);

fn enter(number: usize) -> OnGs {
    const ARCH_SET_GS: i32 = 0x1001;
    let Some(cpu) = CpuId::new(number) else { unreachable!("at most {MAX_CPUS} threads are started") };
    let on = host().enter(cpu);
    // SAFETY: sets GS of this thread, which nothing else uses on Linux, to the area, which lives for ever.
    let set = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, host().area(cpu).as_ptr()) };
    assert_eq!(set, 0, "the kernel sets GS");
    // SAFETY: this thread is that CPU.
    unsafe { rcu().idle_exit(cpu) };
    OnGs(cpu, on)
}

impl Drop for OnGs {
    fn drop(&mut self) {
        // SAFETY: in no section, and none follows on this CPU before the next `enter`.
        unsafe { rcu().idle_enter(self.0) };
    }
}

fn rcu() -> &'static Rcu<Gs> {
    RCU.get_or_init(|| Rcu::new(Gs, Laziness::DEFAULT))
}

// SAFETY: forwards to an implementation that promises the same.
unsafe impl Cpus for Gs {
    fn cpu_count(self) -> usize {
        host().cpu_count()
    }
    fn preempt_disable(self) {
        host().preempt_disable();
    }
    unsafe fn preempt_enable(self) {
        // SAFETY: our caller's promise.
        unsafe { host().preempt_enable() };
    }
    fn current_cpu(self) -> CpuId {
        host().current_cpu()
    }
    fn irq_save(self) -> usize {
        host().irq_save()
    }
    unsafe fn irq_restore(self, state: usize) {
        // SAFETY: our caller's promise.
        unsafe { host().irq_restore(state) };
    }
    fn may_block(self) -> bool {
        host().may_block()
    }
}

// SAFETY: words as the host's; the adds are single instructions on the area of the CPU that the thread is (`enter`),
// and quiescent states are reported between them only.
unsafe impl Words for Gs {
    fn alloc_word(self) -> Option<WordIndex> {
        host().alloc_word()
    }
    fn free_word(self, word: WordIndex) {
        host().free_word(word);
    }
    fn word(self, cpu: CpuId, number: usize) -> &'static AtomicU64 {
        host().word(cpu, number)
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
        host().now_ns()
    }
    fn kick(self, cpu: CpuId) {
        host().kick(cpu);
    }
    fn rcu_work(self) {
        host().rcu_work();
    }
    fn wait_until(self, key: usize, done: &dyn Fn() -> bool) {
        host().wait_until(key, done);
    }
    fn wake_all(self, key: usize) {
        host().wake_all(key);
    }
    fn report(self, report: Report) {
        host().report(report);
    }
}

type Count = PercpuRef<Gs, fn(), Reusable>;

/// A get and a put and nothing else, for a disassembler: `cargo xtask test` looks for it by name.
#[inline(never)]
fn get_put(owner: &Owner<'_, Gs, fn(), Reusable>) {
    drop(owner.get());
}

/// What all threads share.
struct Shared {
    owner: Owner<'static, Gs, fn(), Reusable>,
    /// The offset of a word in each CPU's area, tagged when it must not be used.
    mode: CachePadded<AtomicUsize>,
    atomic: CachePadded<AtomicU64>,
    arc: Arc<CachePadded<u64>>,
}

impl Shared {
    /// To be made, and checked, on a CPU.
    fn leaked() -> &'static Self {
        static NOTHING: fn() = || {};
        let Ok(count) = Count::reusable(rcu(), "bench", NOTHING, Start::Percpu) else {
            unreachable!("there are words and memory for one count")
        };
        let count: &'static Count = Box::leak(Box::new(count));
        let Ok(owner) = count.owner() else { unreachable!("the count is new") };
        let Some(word) = Gs.alloc_word() else { unreachable!("there are words for two") };
        Box::leak(Box::new(Self {
            owner,
            mode: CachePadded::new(AtomicUsize::new(word.offset())),
            atomic: CachePadded::new(AtomicU64::new(1)),
            arc: Arc::new(CachePadded::new(0)),
        }))
    }

    /// Whether every get was put, and every increment taken back.
    fn is_balanced(&self) -> bool {
        let references = self.owner.count().inspect().map(|seen| seen.references);
        let word = self.mode.load(Relaxed) / size_of::<u64>();
        let sum =
            CpuId::first(MAX_CPUS).fold(0_u64, |sum, cpu| sum.wrapping_add(Gs.word(cpu, word).load(Relaxed)));
        references == Some(1)
            && sum == 0
            && self.atomic.load(Relaxed) == 1
            && Arc::strong_count(&self.arc) == 1
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Subject {
    Ours,
    Unlocked,
    Atomic,
    Arc,
}

const SUBJECTS: [(Subject, &str); 4] = [
    (Subject::Ours, "ours"),
    (Subject::Unlocked, "unlocked"),
    (Subject::Atomic, "atomic"),
    (Subject::Arc, "arc"),
];

/// An increment and a decrement of a word of this CPU, each unless the mode is tagged: the least that any per-CPU count
/// with a mode can do.
#[inline(always)]
fn unlocked(mode: &AtomicUsize) -> bool {
    // SAFETY: reads the mode, which is borrowed, and adds to a word of this CPU's area (`enter`), which `Shared` owns.
    unsafe {
        std::arch::asm!(
            "mov {word}, qword ptr [{mode}]",
            "test {word:l}, 3",
            "jnz {slow}",
            "inc qword ptr gs:[{word}]",
            "mov {word}, qword ptr [{mode}]",
            "test {word:l}, 3",
            "jnz {slow}",
            "dec qword ptr gs:[{word}]",
            mode = in(reg) mode.as_ptr(),
            word = out(reg) _,
            slow = label { return false },
            options(nostack),
        );
    }
    true
}

/// Runs about `pairs` pairs of one of them; the exact number is a multiple of eight.
///
/// Eight to a turn, so that it hardly matters how the loop itself lies in the cache: with one to a turn, loops of the
/// very same instructions differ by a quarter. No compiler can see through the assembly of the first two, and none
/// joins the atomic operations of the others, so nothing has to be hidden from it.
#[inline(never)]
fn run(shared: &Shared, subject: Subject, pairs: u64) {
    macro_rules! eight {
        ($pair:expr) => {
            for _ in 0..pairs.div_ceil(8) {
                $pair;
                $pair;
                $pair;
                $pair;
                $pair;
                $pair;
                $pair;
                $pair;
            }
        };
    }
    match subject {
        // Through a reference that is at hand, as the others are.
        Subject::Ours => {
            let held = shared.owner.get();
            eight!(drop(held.clone()));
        }
        Subject::Unlocked => {
            let mode = &*shared.mode;
            eight!(assert!(unlocked(mode), "the mode is not tagged"));
        }
        Subject::Atomic => eight!({
            shared.atomic.fetch_add(1, Relaxed);
            shared.atomic.fetch_sub(1, Release);
        }),
        Subject::Arc => {
            let held = Arc::clone(&shared.arc);
            eight!(drop(Arc::clone(&held)));
        }
    }
}

/// Keeps this thread on one processor, if that is possible: it is no error if the threads share one.
fn pin(cpu: usize) {
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: within the set, which has room for 1024.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: a valid set, of the size that is given; 0 is this thread.
    let _ = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

/// Nanoseconds for which this thread has had a processor: on a busy machine, others have it in between.
fn cpu_time_ns() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to the variable.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(read, 0, "every thread has that clock");
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds of a pair of each, in the order of [`SUBJECTS`], with so many threads at once.
fn round(shared: &Shared, threads: usize) -> [f64; 4] {
    // Several threads have to meet: longer, and once, because the best would be the one in which they did not.
    let tries = if threads == 1 { TRIES } else { 1 };
    let mut best = [f64::MAX; 4];
    for _ in 0..tries {
        for (best, (subject, _)) in best.iter_mut().zip(SUBJECTS) {
            let pairs = match subject {
                _ if threads == 1 => PAIRS,
                Subject::Ours | Subject::Unlocked => 100 * PAIRS,
                Subject::Atomic | Subject::Arc => 10 * PAIRS,
            };
            let start = Barrier::new(threads);
            let timed = |cpu| {
                if threads > 1 {
                    pin(cpu);
                }
                let _cpu = enter(cpu);
                run(shared, subject, 1_000);
                start.wait();
                let begun = cpu_time_ns();
                run(shared, subject, pairs);
                (cpu_time_ns() - begun) / pairs as f64
            };
            let slowest = thread::scope(|scope| {
                let all: Vec<_> = (0..threads).map(|cpu| scope.spawn(move || timed(cpu))).collect();
                all.into_iter().filter_map(|thread| thread.join().ok()).fold(0_f64, f64::max)
            });
            *best = best.min(slowest);
        }
    }
    best
}

fn all() {
    let shared = {
        let _cpu = enter(0);
        Shared::leaked()
    };
    let most = thread::available_parallelism().map_or(1, usize::from).min(MAX_CPUS);
    let mut counts = vec![1, most];
    counts.dedup();
    let mut atomic_alone = None;
    for threads in counts {
        let rounds: Vec<[f64; 4]> = (0..ROUNDS).map(|_| round(shared, threads)).collect();
        let [ours, unlocked, atomic, arc] = [0, 1, 2, 3].map(|at| {
            let mut times: Vec<f64> = rounds.iter().map(|round| round[at]).collect();
            times.sort_by(f64::total_cmp);
            times[ROUNDS / 2]
        });
        let alone = threads == 1;
        // Threads that run at the same time get in each other's way at one atomic. If not, the figures say nothing.
        let met = atomic > 1.5 * *atomic_alone.get_or_insert(atomic);
        let note = match (alone, met) {
            (true, _) => "host, median of 15 rounds, each the best of 4",
            (false, true) => "host, median of 15 rounds",
            (false, false) => {
                "host, median of 15 rounds; this machine hardly ran the threads at the same time"
            }
        };
        // 1.2 times the time is a ratio of 1 / 1.2.
        print(threads, ours, unlocked, "unlocked per-CPU increment with mode test", Some(0.83), note);
        print(threads, ours, atomic, "bare atomic add and subtract", alone.then_some(4.0), note);
        print(threads, ours, arc, "Arc clone and drop", None, note);
    }
    let _cpu = enter(0);
    assert!(shared.is_balanced(), "after the benchmark, a count is wrong");
}

fn print(threads: usize, ours: f64, peer: f64, peer_name: &str, target: Option<f64>, note: &str) {
    let round = |x: f64| (x * 100.0).round() / 100.0;
    let ratio = round(peer / ours);
    println!(
        "{}",
        serde_json::json!({
            "bench": "percpu", "case": format!("PercpuRef, {threads} thread{}", if threads == 1 { "" } else { "s" }), "metric": "get + put", "unit": "ns",
            "ours": round(ours), "peer": round(peer), "peer_name": peer_name, "ratio": ratio, "target": target,
            "met": target.map(|target| ratio >= target), "note": note,
        })
    );
}

/// One of them, once, for an instruction counter.
fn single(who: &str, pairs: &str) -> Option<()> {
    let (subject, _) = SUBJECTS.into_iter().find(|(_, name)| *name == who)?;
    let pairs = pairs.parse().ok()?;
    let _cpu = enter(0);
    let shared = Shared::leaked();
    get_put(black_box(&shared.owner));
    run(shared, subject, pairs);
    assert!(shared.is_balanced(), "after the benchmark, a count is wrong");
    println!("{pairs}");
    Some(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => all(),
        ["--loop", who, pairs] if single(who, pairs).is_some() => {}
        _ => {
            eprintln!("usage: bench_percpu [--loop ours|unlocked|atomic|arc PAIRS]");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
