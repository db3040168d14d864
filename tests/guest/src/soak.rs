//! Everything at once, for as long as is wished: threads that allocate frames and heap memory, take and drop
//! references, and are preempted, while lives of the references end and begin. Afterwards nothing may be missing.

use crate::percpu::{Clean, Random, count, misuse, references};
use crate::threads::{figure, spawn};
use crate::{Wish, ensure, failed, same};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use ebb::mm::frame::{Contents, Extent, FrameState, Inconsistency, Owner, Request, Use};
use ebb::units::{Order, VcpuId};
use ebb_boot::cases::Not;
use ebb_boot::{Machine, case, heap, rcu, report, threads};
use percpu::Start;
use percpu::rcu::Deferred;

/// How long the soak lasts if nothing else is wished, in seconds.
const SECONDS: u64 = 3;
/// How long what is over may take to be cleared away, on a host that is busy with other things.
const BOUND_NS: u64 = 60_000_000_000;
/// How long nothing changes where nothing goes on.
const REST_NS: u64 = 3_000_000_000;
/// Between two looks whether it is.
const SETTLE_NS: u64 = 20_000_000;
/// Threads at once that no soak has: 2 for each CPU, one more, and those that have ended and are not yet cleared away.
const WAITERS: u64 = 100;
/// How often the harness hears that there is progress: it waits for a part of its bound only.
const PROGRESS_NS: u64 = 10_000_000_000;
/// The tag of a thread's frames in the frame table is this, and the thread's number.
const TAG: u64 = 0x50AC_0000;
/// The largest order that threads ask for: a small machine has several such extents for each.
const MOST_ORDER: u64 = 6;

/// Extents that one thread holds.
struct Extents {
    machine: &'static Machine,
    owner: Owner,
    held: Vec<Extent>,
}

impl Extents {
    /// The CPU that runs this, or another one: any magazine will do.
    fn cpu(&self) -> VcpuId {
        VcpuId::new(self.machine.cpus().this().get() as u32)
    }

    /// Takes one more, if there is memory.
    fn take(&mut self, random: &mut Random) {
        let order = Order::new(random.below(MOST_ORDER + 1) as u8).unwrap_or(Order::FRAME);
        let usage = [Use::Kernel, Use::Special, Use::Paged, Use::PageCache][random.below(4) as usize];
        let request = Request::new(usage, self.cpu()).order(order).owner(self.owner);
        self.held.extend(self.machine.frames().alloc(request));
    }

    /// Gives back all but the first `keep`; each must still be what it was.
    fn give_back(&mut self, keep: usize) -> Result<(), &'static str> {
        while self.held.len() > keep {
            let Some(extent) = self.held.pop() else { break };
            let last = ebb::units::Gfn::new(extent.first().get() + extent.frames().get() - 1);
            match self.machine.frames().state(last) {
                FrameState::Used(found)
                    if (found.first, found.order, found.owner)
                        == (extent.first(), extent.order(), self.owner) => {}
                _ => return Err("the frame table says something else of an extent"),
            }
            let freed = self.machine.frames().free(extent, Contents::Unknown, self.cpu());
            freed.map_err(|_| "the allocator refuses its own extent")?;
        }
        Ok(())
    }
}

/// What one thread does until it is told to stop. Answers how many operations that were.
fn use_everything(
    machine: &'static Machine,
    number: u64,
    count: &crate::percpu::Count,
    stop: &AtomicBool,
) -> Result<u64, &'static str> {
    let mut random = Random(number);
    let (mut kept, mut memory) = (Vec::new(), Vec::new());
    let owner = Owner::new(TAG + number).ok_or("no such tag")?;
    let mut extents = Extents { machine, owner, held: Vec::new() };
    let mut operations = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        operations += 1;
        match random.below(10) {
            0 | 1 => match count.tryget_live() {
                Some(reference) => kept.push(reference),
                // It is dying, and would never be through if all kept what they have.
                None => kept.clear(),
            },
            2 if random.below(4) == 0 => kept.extend(count.tryget()),
            3 => kept.truncate(kept.len() / 2),
            4 if memory.len() < 64 => {
                let size = 1 + random.below(2000) as usize;
                memory.push(alloc::vec![number as u8; size]);
            }
            5 => give_back_memory(&mut memory, number as u8)?,
            6 => rcu().drop_later(Deferred::boxed(operations)),
            7 if extents.held.len() < 16 => extents.take(&mut random),
            8 => extents.give_back(extents.held.len() / 2)?,
            _ if operations.is_multiple_of(64) => threads().yield_now(),
            _ => {}
        }
        if kept.len() > 32 {
            kept.clear();
        }
    }
    extents.give_back(0)?;
    Ok(operations)
}

/// Gives back half of `memory`, rounded up, all of which must still be filled with `mark`.
fn give_back_memory(memory: &mut Vec<Vec<u8>>, mark: u8) -> Result<(), &'static str> {
    let given_back = memory.drain(memory.len() / 2..);
    let damaged = given_back.flatten().any(|byte| byte != mark);
    if damaged { Err("somebody else's memory") } else { Ok(()) }
}

/// One soak: threads use everything while lives of the reference count end and begin. All that is counted here is
/// given back when it returns.
fn soak(machine: &'static Machine, seconds: u64) -> Result<(u64, u64), Not> {
    let (count, seen) = count("soak", Start::Percpu)?;
    let cpus = machine.cpus();
    let stop = Arc::new(AtomicBool::new(false));
    let user = |number: u64| {
        let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
        spawn("soaker", move || use_everything(machine, number, &count, &stop))
    };
    let users: Vec<_> = (0..2 * cpus.count() as u64 + 1).map(user).collect::<Result<_, _>>()?;
    let begun_ns = cpus.now_ns();
    let end_ns = begun_ns + seconds * 1_000_000_000;
    let mut tell_ns = begun_ns + PROGRESS_NS;
    let (mut owner, mut lives) = (count.owner().map_err(misuse)?, 0_u64);
    // On a busy host a life takes its time; each kind is lived once in any case.
    while cpus.now_ns() < end_ns || lives < 3 {
        let short = spawn("short", move || lives)?;
        match lives % 3 {
            0 => {
                owner.switch_to_atomic_sync().map_err(misuse)?;
                owner.switch_to_percpu().map_err(misuse)?;
            }
            1 => {
                let dying = owner.kill_and_confirm();
                rcu().barrier().map_err(misuse)?;
                owner = dying.resurrect().map_err(|refused| misuse(refused.why))?;
            }
            _ => {
                let dying = owner.kill();
                dying.wait_zero().map_err(misuse)?;
                owner = dying.reinit().map_err(|refused| misuse(refused.why))?;
            }
        }
        same("what a thread answered", short.join(), lives)?;
        lives += 1;
        if cpus.now_ns() >= tell_ns {
            report("progress", &[("lives", &lives)]);
            tell_ns += PROGRESS_NS;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut operations = 0;
    for user in users {
        operations += user.join().map_err(Not::from)?;
    }
    ensure(operations > 0, "nothing happened")?;
    same("references", references(&count), 1)?;
    owner.kill().wait_zero().map_err(misuse)?;
    ensure(seen.released() > 0, "no release")?;
    Ok((operations, lives))
}

/// What must be the same before and after, once threads that ended are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Books {
    threads: u32,
    heap_bytes: usize,
    movable_frames: u64,
    /// Frames that carry a soaker's tag.
    tagged_frames: u64,
}

impl Books {
    fn read(machine: &'static Machine) -> Self {
        let frames = machine.frames();
        let tagged = |state| matches!(state, FrameState::Used(held) if held.owner.get() & !0xFFFF == TAG);
        let ram = machine.boot_info().ram().ranges().iter().flat_map(|range| range.iter());
        Self {
            threads: threads().census().threads,
            heap_bytes: heap::usage().0,
            movable_frames: frames.stats().movable.get(),
            tagged_frames: ram.filter(|frame| tagged(frames.state(*frame))).count() as u64,
        }
    }
}

/// Waits until `right` finds nothing wrong: the kernel's own threads may be at work while it looks. That may take long.
fn settle(machine: &'static Machine, mut right: impl FnMut() -> Result<(), Not>) -> Result<(), Not> {
    let end_ns = machine.cpus().now_ns() + BOUND_NS;
    loop {
        let found = right();
        if found.is_ok() || machine.cpus().now_ns() >= end_ns {
            return found;
        }
        threads().sleep_for(SETTLE_NS);
    }
}

/// What there is once it has been the same for a while: other threads of the kernel begin their work, too.
fn at_rest(machine: &'static Machine) -> Result<Books, Not> {
    let now_ns = || machine.cpus().now_ns();
    let (mut books, mut since_ns) = (Books::read(machine), now_ns());
    let end_ns = since_ns + BOUND_NS;
    while now_ns() < since_ns + REST_NS {
        threads().sleep_for(SETTLE_NS);
        let found = Books::read(machine);
        if found != books {
            (books, since_ns) = (found, now_ns());
        }
        ensure(now_ns() < end_ns, "the kernel does not come to rest")?;
    }
    Ok(books)
}

/// Has the kernel's tables grow, which stay as large as they have ever been, beyond what a soak needs.
fn grow_tables() -> Result<(), Not> {
    let gate = Arc::new(AtomicBool::new(false));
    let waiter = |_| {
        let gate = Arc::clone(&gate);
        spawn("waiter", move || {
            while !gate.load(Ordering::Acquire) {
                threads().sleep_for(SETTLE_NS);
            }
        })
    };
    let waiters: Result<Vec<_>, _> = (0..WAITERS).map(waiter).collect();
    gate.store(true, Ordering::Release);
    waiters?.into_iter().for_each(|waiter| waiter.join());
    Ok(())
}

case!("soak.frames_heap_threads_and_references", |machine| {
    let wish = Wish::read(machine.boot_info().command_line());
    grow_tables()?;
    soak(machine, 1)?;
    let clean = Clean::begin();
    clean.end()?;
    let before = at_rest(machine)?;
    let misuses = machine.frames().stats().misuses;
    let (operations, lives) = soak(machine, wish.soak_s.unwrap_or(SECONDS))?;
    figure("soak: operations", operations, "operations");
    figure("soak: cycles of kill, switch and life", lives, "cycles");
    clean.end()?;
    settle(machine, || same("threads, heap and frames", Books::read(machine), before))?;
    same("misuse of frames", machine.frames().stats().misuses, misuses)?;
    settle(machine, || threads().validate().map_err(Not::from))?;
    settle(machine, || {
        let wrong = |error: Inconsistency| failed("the books on frames")(&error);
        machine.frames().validate().map_err(wrong)
    })
});
