//! Reclaim of this machine: who takes pages out of memory, and when.
//!
//! | who | when |
//! |---|---|
//! | whoever touches a page | there is no free frame, and the balloon brings none |
//! | whoever allocates for the kernel | the same, if it may block; if not, it has the thread called |
//! | the thread `reclaim` | somebody called it; it goes on until the high watermark is free |
//! | selfballooning's worker | its policy wants idle pages out |
//!
//! **No recursion.** Taking pages out needs some memory itself: frames of the pool, and books. These come from the frame
//! allocator's reserve, of which other allocations leave at least half, and a thread that is at it does not begin again
//! when it needs some: it is marked.

use crate::platform::{self, Kernel};
use crate::tunables::tunables;
use crate::{Machine, cpus, elastic, paged, swap};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use ebb::mm::paged::Reclaimed;
use ebb::task::{Held, Next, Worker};
use ebb::tunable::Id;
use ebb::units::Frames;
use spin::once::Once;

/// Frames that the thread takes out at a time, before it looks again.
const STEP: Frames = Frames::new(128);
/// Frames that a thread takes out at least that needs some: all CPUs forget the pages together, and the next one need not.
const CLUSTER: Frames = Frames::new(32);
/// How long the thread rests when as many others as can be are at it.
const REST_NS: u64 = 100_000_000;

static WORKER: Once<Worker<Kernel>> = Once::new();
/// Somebody who could not call the thread wants it called.
static CALL: AtomicBool = AtomicBool::new(false);
/// Threads that had to reclaim for themselves, and how long that took them.
static DIRECT: AtomicU64 = AtomicU64::new(0);
static DIRECT_NS: AtomicU64 = AtomicU64::new(0);

/// Numbers of the threads that are reclaiming, plus 1. More than can evict at a time.
static MARKS: [AtomicU32; 64] = [const { AtomicU32::new(0) }; 64];

/// The running thread is reclaiming while this lives.
struct Mark(&'static AtomicU32);

impl Mark {
    /// Marks the running thread. `None` if there are no marks left. For threads.
    fn set() -> Option<Self> {
        let mine = platform::threads().current().index() + 1;
        let take =
            |mark: &&AtomicU32| mark.compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        MARKS.iter().find(take).map(Self)
    }
}

/// Whether the running thread is reclaiming. For threads.
pub(crate) fn is_reclaiming() -> bool {
    let mine = platform::threads().current().index() + 1;
    MARKS.iter().any(|mark| mark.load(Ordering::Relaxed) == mine)
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Begins the thread. Once there is swap.
pub(crate) fn start(machine: &'static Machine) {
    match Worker::spawn(Kernel, "reclaim", move || step(machine)) {
        Ok(worker) => {
            WORKER.call_once(|| worker);
        }
        Err(error) => log::error!("nobody reclaims ahead: {error}"),
    }
}

/// Takes pages out of memory until `want` frames have come free, or nothing more can be done; see
/// [`Paged::reclaim`](ebb::mm::paged::Paged::reclaim). Does nothing for one who is at it already. For threads that may
/// block.
pub fn reclaim(want: Frames) -> Reclaimed {
    if is_reclaiming() {
        return Reclaimed::default();
    }
    match Mark::set() {
        Some(_mark) => paged::get().reclaim(want),
        None => Reclaimed { busy: true, ..Reclaimed::default() },
    }
}

/// Makes memory free for a thread that needs `want` frames, and says whether another try makes sense: stacks that nobody
/// uses go, or else pages leave. May block.
pub(crate) fn relieve(want: Frames) -> bool {
    if platform::trim_stacks() > Frames::ZERO {
        return true;
    }
    if !swap::is_on() || !tunables().is_on(Id::SwapEvict) {
        return false;
    }
    let begun_ns = cpus::now_ns();
    let outcome = reclaim(want.max(CLUSTER));
    DIRECT.fetch_add(1, Ordering::Relaxed);
    DIRECT_NS.fetch_add(cpus::now_ns().saturating_sub(begun_ns), Ordering::Relaxed);
    if outcome.freed > Frames::ZERO {
        // So that the next one need not wait.
        wake();
        return true;
    }
    if outcome.busy {
        platform::threads().yield_now();
    }
    outcome.busy
}

/// Has the thread look whether memory is short. Not with a lock held that the scheduler's work could want, as the kernel
/// heap's.
pub(crate) fn wake() {
    if let Some(worker) = WORKER.get() {
        worker.run_now();
    }
}

/// The same, in any context: the thread is called at the end of the next interrupt, or when somebody comes by who may.
pub(crate) fn wake_later() {
    CALL.store(true, Ordering::Release);
}

/// Calls the thread if somebody wants that, and `may` answers that [`wake`] may be called here. One load if nobody does.
#[inline]
pub(crate) fn pass_on_calls(may: impl FnOnce() -> bool) {
    if CALL.load(Ordering::Relaxed) && may() && CALL.swap(false, Ordering::Acquire) {
        wake();
    }
}

/// Has the thread stand still, if there is one.
pub(crate) fn hold() -> Option<Held<'static, Kernel>> {
    WORKER.get().map(Worker::hold)
}

/// One step of the thread: it goes on until the high watermark is free, and then until swap has room.
fn step(machine: &Machine) -> Next {
    let stats = machine.frames().stats();
    let missing = stats.watermarks.high.saturating_sub(stats.available());
    if missing == Frames::ZERO {
        // What the balloon is to have is no room for pages.
        let moved = !elastic::wants_memory() && swap::make_room(machine);
        return if moved { Next::After(0) } else { Next::Idle };
    }
    if !tunables().is_on(Id::SwapEvict) {
        return Next::Idle;
    }
    if elastic::can_bring() {
        // What the host has costs less than what somebody here still uses, and comes when an allocation needs it.
        return Next::Idle;
    }
    let outcome = reclaim(missing.min(STEP));
    if outcome.freed > Frames::ZERO {
        Next::After(0)
    } else if outcome.busy {
        Next::After(REST_NS)
    } else {
        // Until somebody is short again.
        Next::Idle
    }
}

/// Threads that had to reclaim for themselves since boot, and the time that it took them, in nanoseconds.
pub(crate) fn stalls() -> (u64, u64) {
    (DIRECT.load(Ordering::Relaxed), DIRECT_NS.load(Ordering::Relaxed))
}
