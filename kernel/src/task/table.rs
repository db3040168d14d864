//! Control blocks of threads, and where the unused ones wait.
//!
//! Blocks are made in chunks that double in size and are never given back, so a reference to a block is good for
//! ever and a lookup takes no lock. What is given back is the large part, the stack: an unused block may keep one
//! for the next thread (a *spare*), and [`Scheduler::trim`](super::Scheduler::trim) frees those beyond a number.

use super::cpu::{Sched, Threads};
use super::deadlock::WaitsFor;
use super::id::{Name, ThreadId};
use super::list::{Link, List};
use super::lock::SpinLock;
use super::platform::Platform;
use super::wait::{WaitQueue, Waits};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::once::Once;

/// Blocks in the first chunk.
const FIRST: u32 = 64;
/// Chunks that there can be: together 262,080 threads.
const CHUNKS: usize = 12;

/// What a thread does, once.
pub(super) trait Body: Send {
    /// Does it, and answers the box with its result.
    fn run(self: Box<Self>) -> Box<dyn Any + Send>;
}

/// One thread after another.
pub(super) struct Thread<P: Platform> {
    pub(super) index: u32,
    generation: AtomicU32,
    pub(super) sched: Sched,
    /// The place in a wait queue, guarded by that queue; in the pool while the block is unused.
    pub(super) wait: Link,
    pub(super) context: P::Context,
    pub(super) life: SpinLock<Life, P>,
    /// Who waits for the end.
    pub(super) exit: WaitQueue<P>,
    pub(super) waits_for: WaitsFor<P>,
}

/// The thread's way through life.
#[derive(Default)]
pub(super) struct Life {
    pub(super) name: Name,
    /// Until it runs.
    pub(super) body: Option<Box<dyn Body>>,
    /// From its end until it is joined.
    pub(super) result: Option<Box<dyn Any + Send>>,
    /// Its function has returned.
    pub(super) exited: bool,
    /// It is off its stack.
    pub(super) gone: bool,
    /// Somebody holds its handle.
    pub(super) claimed: bool,
}

impl<P: Platform> Thread<P> {
    fn new(platform: P, index: u32) -> Self {
        Self {
            index,
            generation: AtomicU32::new(1),
            sched: Sched::new(),
            wait: Link::new(),
            context: P::Context::default(),
            life: SpinLock::new(platform, Life::default()),
            exit: WaitQueue::new(platform),
            waits_for: WaitsFor::new(platform),
        }
    }

    /// The thread that has the block now, or will next.
    pub(super) fn id(&self) -> ThreadId {
        ThreadId::new(self.index, self.generation.load(Ordering::Relaxed))
    }

    /// The name, as far as it can be had without waiting.
    pub(super) fn name(&self) -> Name {
        self.life.try_lock().map_or_else(|| Name::new("?"), |life| life.name)
    }
}

/// The unused blocks.
struct Pool {
    /// With a stack.
    spare: List,
    /// Without.
    bare: List,
    /// Blocks that have ever been used: 0 to this.
    fresh: u32,
    chunks: usize,
}

/// All control blocks.
pub(super) struct Table<P: Platform> {
    platform: P,
    chunks: [Once<Box<[Thread<P>]>>; CHUNKS],
    pool: SpinLock<Pool, P>,
}

/// How many blocks there are, and of what sort.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) made: u32,
    pub(super) spare: u32,
    pub(super) bare: u32,
}

/// Why there is no control block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoBlock {
    Memory,
    Number,
}

impl<P: Platform> Threads for Table<P> {
    fn sched(&self, index: u32) -> &Sched {
        &self.get(index).sched
    }
}

impl<P: Platform> Table<P> {
    pub(super) fn new(platform: P) -> Self {
        let pool = Pool { spare: List::new(), bare: List::new(), fresh: 0, chunks: 0 };
        Self { platform, chunks: [const { Once::new() }; CHUNKS], pool: SpinLock::new(platform, pool) }
    }

    /// The block with this number, which has been handed out.
    pub(super) fn get(&self, index: u32) -> &Thread<P> {
        let chunk = (index / FIRST + 1).ilog2();
        let within = index - FIRST * ((1 << chunk) - 1);
        let found =
            self.chunks.get(chunk as usize).and_then(Once::get).and_then(|chunk| chunk.get(within as usize));
        let Some(thread) = found else { unreachable!("there is no thread {index}") };
        thread
    }

    /// An unused block, and whether it has a stack; it has none unless `with_stack` allows it.
    pub(super) fn take(&self, with_stack: bool) -> Result<(&Thread<P>, bool), NoBlock> {
        loop {
            let chunks = {
                let mut pool = self.pool.lock();
                if with_stack && let Some(index) = pool.spare.pop(&Waits(self)) {
                    return Ok((self.get(index), true));
                }
                if let Some(index) = pool.bare.pop(&Waits(self)) {
                    return Ok((self.get(index), false));
                }
                if pool.fresh < Self::blocks_in(pool.chunks) {
                    pool.fresh += 1;
                    return Ok((self.get(pool.fresh - 1), false));
                }
                pool.chunks
            };
            // Not under the lock: the heap may have to ask for memory.
            self.grow(chunks)?;
        }
    }

    /// Blocks in the first `chunks` chunks.
    const fn blocks_in(chunks: usize) -> u32 {
        FIRST * ((1 << chunks) - 1)
    }

    /// Makes chunk number `chunk`, unless somebody else has.
    fn grow(&self, chunk: usize) -> Result<(), NoBlock> {
        let place = self.chunks.get(chunk).ok_or(NoBlock::Number)?;
        let mut blocks = Vec::new();
        blocks.try_reserve_exact((FIRST as usize) << chunk).map_err(|_| NoBlock::Memory)?;
        blocks.extend(
            (Self::blocks_in(chunk)..Self::blocks_in(chunk + 1)).map(|i| Thread::new(self.platform, i)),
        );
        let mut blocks = Some(blocks.into_boxed_slice());
        let mut pool = self.pool.lock();
        if pool.chunks == chunk {
            // Under the lock, so nobody ever waits in the `Once`.
            place.call_once(|| blocks.take().unwrap_or_default());
            pool.chunks += 1;
        }
        drop(pool);
        // What is left of `blocks` here, another CPU has made at the same time.
        Ok(())
    }

    /// Takes a block back whose thread is over, with its stack or without.
    pub(super) fn put(&self, thread: &Thread<P>, has_stack: bool) {
        let generation = thread.generation.load(Ordering::Relaxed);
        thread.generation.store(ThreadId::next_generation(generation), Ordering::Relaxed);
        let mut pool = self.pool.lock();
        let list = if has_stack { &mut pool.spare } else { &mut pool.bare };
        list.push(&Waits(self), thread.index);
    }

    /// Takes a block with a stack if there are more than `keep` of them.
    pub(super) fn take_spare(&self, keep: u32) -> Option<&Thread<P>> {
        let mut pool = self.pool.lock();
        let index = (pool.spare.len() > keep).then(|| pool.spare.pop(&Waits(self))).flatten();
        drop(pool);
        index.map(|index| self.get(index))
    }

    pub(super) fn counts(&self) -> Counts {
        let pool = self.pool.lock();
        Counts { made: pool.fresh, spare: pool.spare.len(), bare: pool.bare.len() }
    }

    /// Walks the pool and says what is wrong.
    pub(super) fn validate(&self) -> Result<(), &'static str> {
        let pool = self.pool.lock();
        let links = Waits(self);
        pool.spare.validate(&links)?;
        pool.bare.validate(&links)?;
        for index in pool.spare.iter(&links).chain(pool.bare.iter(&links)) {
            if self.get(index).sched.state() != super::cpu::State::Unused {
                return Err("a thread in the pool");
            }
        }
        Ok(())
    }
}
