//! What `cargo xtask bench core` measures in a guest: frames, threads that take turns, grace periods. Not tests: they
//! run only when named.
//!
//! Each figure is a record `figure` with `what`, `value` and `unit`.

use crate::threads::{Thread, figure, spawn_on};
use crate::{ensure, failed};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use ebb::arch::cpu;
use ebb::mm::frame::{
    Block, Config, Contents, Entry, FrameAllocator, LockKind, Magazine, Metadata, Request, SharedGate, Use,
};
use ebb::smp::CpuId;
use ebb::units::{BLOCK_FRAMES, FrameRange, Gfn, VcpuId};
use ebb_boot::cases::{Ends, Needs, Not};
use ebb_boot::frames::KernelLocks;
use ebb_boot::{Machine, case, rcu, threads};

case!("bench.frames", Needs::Nothing, frames, Ends::WithHelp);
case!("bench.switch", Needs::Nothing, switch, Ends::WithHelp);
case!("bench.grace_periods", Needs::Cpus, grace_periods, Ends::WithHelp);

/// The image's locks, with magazines that any CPU may enter, by an exchange.
enum Exchanged {}

impl LockKind for Exchanged {
    type Of<T: Send> = <KernelLocks as LockKind>::Of<T>;
    type Gate = SharedGate;
}

/// Ticks of the time stamp counter for a frame taken and given back, and nanoseconds by the clock. Where the counter
/// counts instructions, as below, the ticks are instructions. The shortest of many portions counts.
///
/// From the image's own allocator, and from one beside it, over frames that there are not: in what is measured, no
/// memory is touched.
fn frames(machine: &'static Machine) -> Result<(), Not> {
    const FRAMES: u64 = BLOCK_FRAMES;
    time_frames("", machine, machine.frames())?;
    let memory = [FrameRange::new(Gfn::new(0), Gfn::new(FRAMES))];
    let mut entries: Vec<Entry> = (0..FRAMES).map(|_| Entry::unused()).collect();
    let (mut blocks, mut magazines) = ([Block::new()], [Magazine::new()]);
    let metadata = Metadata { entries: &mut entries, blocks: &mut blocks, magazines: &mut magazines };
    let config = Config { memory: &memory, reserved: &[], id: 2 };
    let shared = FrameAllocator::<Exchanged>::new(config, metadata);
    time_frames(", shared magazine", machine, &shared.map_err(|error| failed("an allocator")(&error))?)
}

fn time_frames<L: LockKind>(
    how: &str,
    machine: &'static Machine,
    frames: &FrameAllocator<'_, L>,
) -> Result<(), Not> {
    const PORTIONS: usize = 400;
    const PAIRS: u64 = 500;
    let (cpus, cpu) = (machine.cpus(), VcpuId::new(0));
    let pair = || {
        let extent =
            frames.alloc(Request::new(Use::Kernel, cpu)).map_err(|error| failed("a frame")(&error))?;
        frames.free(extent, Contents::Unknown, cpu).map_err(|rejected| failed("free")(&rejected))
    };
    let shortest = |now: &dyn Fn() -> u64| {
        let mut least = u64::MAX;
        for _ in 0..PORTIONS {
            let begun = now();
            (0..PAIRS).try_for_each(|_| pair())?;
            least = least.min(now().wrapping_sub(begun));
        }
        Ok::<_, Not>(least)
    };
    figure(&format!("frame taken and given back{how}"), shortest(&cpu::time_stamp)? / PAIRS, "ticks");
    figure(&format!("frame, by the clock{how}"), shortest(&|| cpus.now_ns())? / PAIRS, "ns");
    Ok(())
}

/// Ticks of the time stamp counter for one yield of a thread, with and without another one to switch to. Where the
/// counter counts instructions (QEMU's `-icount shift=0`), these are instructions.
///
/// The shortest of many portions counts: in the others came a timer's interrupt.
fn switch(_: &'static Machine) -> Result<(), Not> {
    const PORTIONS: usize = 200;
    const YIELDS: u64 = 50;
    fn portion() -> u64 {
        let begun = cpu::time_stamp();
        for _ in 0..YIELDS {
            threads().yield_now();
        }
        cpu::time_stamp().wrapping_sub(begun)
    }
    let shortest = || (0..PORTIONS).map(|_| portion()).min().unwrap_or_default();
    // This thread waits for each of them, so nobody else is ready.
    let alone = spawn_on(CpuId::BOOT, "alone", shortest)?.join();
    let stop = Arc::new(AtomicBool::new(false));
    let other = {
        let stop = Arc::clone(&stop);
        spawn_on(CpuId::BOOT, "other", move || {
            let mut turns = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                turns += 1;
                threads().yield_now();
            }
            turns
        })?
    };
    let turns = spawn_on(CpuId::BOOT, "one", shortest)?.join();
    stop.store(true, Ordering::Relaxed);
    let others = other.join();
    ensure(others >= PORTIONS as u64 * YIELDS, &format!("the other one had only {others} turns"))?;
    figure("yield, nobody else ready", alone / YIELDS, "ticks");
    // A yield of this thread comes back after one of the other's: two switches.
    figure("yield to another thread", turns / YIELDS / 2, "ticks");
    Ok(())
}

/// How long a grace period takes, at rest and with every CPU reading.
fn grace_periods(machine: &'static Machine) -> Result<(), Not> {
    const ROUNDS: usize = 100;
    const BOUND_NS: u64 = 20_000_000_000;
    let cpus = machine.cpus();
    let measure = |what: &str| {
        let mut took_ns = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let begun_ns = cpus.now_ns();
            rcu().synchronize().map_err(|misuse| failed("synchronize")(&misuse))?;
            took_ns.push(cpus.now_ns() - begun_ns);
        }
        took_ns.sort_unstable();
        let at = |share: usize| took_ns.get(ROUNDS * share / 100).copied().unwrap_or_default();
        figure(&format!("grace period, {what}, median"), at(50), "ns");
        figure(&format!("grace period, {what}, 99 of 100"), at(99), "ns");
        Ok::<_, Not>(())
    };
    let others = cpus.online().without(CpuId::BOOT);
    let at_rest = cpus.wait_until(BOUND_NS, || others.iter().all(|cpu| rcu().is_idle(cpu)));
    ensure(at_rest, "the other CPUs do not come to rest")?;
    measure("idle")?;
    let stop = Arc::new(AtomicBool::new(false));
    let read = |cpu| {
        let stop = Arc::clone(&stop);
        spawn_on(cpu, "reader", move || {
            while !stop.load(Ordering::Relaxed) {
                let section = rcu().read_lock();
                (0..50).for_each(|_| core::hint::spin_loop());
                drop(section);
            }
        })
    };
    let readers: Vec<_> = cpus.online().iter().map(read).collect::<Result<_, _>>()?;
    let measured = measure("busy");
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(Thread::join);
    measured
}
