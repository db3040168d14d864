//! Trading memory for holes with the hypervisor, and holes for memory: the one safe layer over the reservation
//! calls of [`MemoryOps`].
//!
//! It takes lists of tokens. What goes in as [`Extent<Owned>`](Owned) ends, frame by frame, either in the balloon
//! (the hypervisor has it; the frame table keeps it) or free again. What is withdrawn from the balloon ends free or
//! in the balloon. Nothing is lost between, whatever the hypervisor does:
//!
//! - A list that it did not finish is finished here. The first extents were done; the one at which it stopped may be
//!   half gone if it is a block, and is sorted out frame by frame, asking what is behind a number where a count does
//!   not tell ([`HvmOps::frame_type`]); what follows was not touched.
//! - A frame that would not go is shown in the direct map again and freed. A frame that came but cannot be shown goes
//!   back. Where even that fails, the frame waits in *limbo* and is tried again
//!   ([`retry_limbo`](Exchange::retry_limbo)).
//!
//! **Why this is sound.** The unsafe calls want that nobody uses a frame. A token is the only way to own its frames,
//! and is consumed here: an owned extent that is on its way out has no other holder, no object in it, and is no
//! longer in the direct map once the hypervisor hears of it. Only what is *known* to be a hole is put into the
//! balloon, and only what is in the balloon is populated, so no frame is ever populated over; and a frame is freed
//! only if it is known to be memory. Tokens of another allocator are impossible: lots are filled from this one, and
//! that this one's frames are this guest's is the promise of [`Exchange::new`].
//!
//! Nothing here allocates, waits for a lock of its own, or keeps state between calls but counters and limbo. So
//! several CPUs may be inside at once, each with its own lots, and [`populate`](Exchange::populate) may come on top
//! of anything, interrupts off or in a handler.
#![expect(unsafe_code, reason = "the layer that owns the frames whose memory comes and goes")]

mod counters;
mod fate;
mod limbo;
mod lot;
mod populate;
mod release;

#[cfg(test)]
mod tests;

use core::fmt;

use super::direct_map::DirectMap;
use super::frame::{
    Ballooned, Contents, Extent, FrameAllocator, LockKind, Owned, Owner, Rejected, State, Use,
};
use crate::port::{FrameType, HvmOps, MemoryOps};
use crate::units::{Frames, Gfn, Order, VcpuId};

use self::counters::{Counters, add};
use self::fate::Fate;
use self::limbo::{Limbo, Waiting};

pub use self::counters::ExchangeStats;
pub use self::lot::{LIST, Lot, Scratch};
pub use self::populate::Populated;
pub use self::release::Released;

/// Why an exchange ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The hypervisor did less than it was asked to. It does not say why.
    Refused,
    /// The direct map had no page table for an extent smaller than its mapping.
    NoTable,
    /// The caller changed its mind.
    Aborted,
}

/// No CPU's magazine: what comes back goes to the allocator's lists, where it can make blocks whole.
const NO_CPU: VcpuId = VcpuId::new(u32::MAX);

/// Frame numbers in one call for the pieces of a block; on the stack.
const PIECES: usize = 128;

/// The exchange: a hypervisor, a direct map and a frame allocator.
pub struct Exchange<'a, 'm, P, D, L: LockKind> {
    port: P,
    map: D,
    frames: &'a FrameAllocator<'m, L>,
    counters: Counters,
    limbo: Limbo,
}

impl<P, D, L: LockKind> fmt::Debug for Exchange<'_, '_, P, D, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("stats", &self.stats()).field("limbo", &self.limbo()).finish()
    }
}

impl<'a, 'm, P, D, L: LockKind> Exchange<'a, 'm, P, D, L> {
    /// An exchange in which nothing has happened.
    ///
    /// # Safety
    ///
    /// The frames that `frames` keeps books on are memory, or holes, of the very guest that `port` speaks for, under
    /// the same numbers; they are nobody's but a token's holder's; what the allocator has in its balloon are holes; and
    /// the map is the one through which that guest sees its memory. (An allocator touches no memory, so anybody can make
    /// one of any numbers: a token proves something only of memory that its allocator was given.)
    ///
    /// ```compile_fail,E0133
    /// # use ebb::mm::{direct_map::DirectMap, exchange::Exchange, frame::{FrameAllocator, TicketLocks}};
    /// # use ebb::xen::{Transport, Xen};
    /// fn gives_away<T: Transport>(xen: Xen<T>, map: impl DirectMap, of_any_numbers: &FrameAllocator<'_, TicketLocks>) {
    ///     let _ = Exchange::new(xen, map, of_any_numbers);
    /// }
    /// ```
    pub const unsafe fn new(port: P, map: D, frames: &'a FrameAllocator<'m, L>) -> Self {
        Self { port, map, frames, counters: Counters::new(), limbo: Limbo::new() }
    }

    /// The hypervisor.
    pub const fn port(&self) -> &P {
        &self.port
    }

    /// The direct map.
    pub const fn map(&self) -> &D {
        &self.map
    }

    /// The allocator whose frames are traded.
    pub const fn frames(&self) -> &'a FrameAllocator<'m, L> {
        self.frames
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> ExchangeStats {
        self.counters.snapshot()
    }

    /// Frames that wait until they can be shown, or until the hypervisor says what they are.
    #[must_use]
    pub fn limbo(&self) -> Frames {
        self.limbo.frames()
    }

    /// Those of them of which nobody knows whether they have memory.
    #[must_use]
    pub fn doubtful(&self) -> Frames {
        self.limbo.doubtful()
    }

    /// Those that found no room among the waiting and will not be tried again. Never anything but zero on a sane
    /// machine.
    #[must_use]
    pub fn stranded(&self) -> Frames {
        self.limbo.overflowed()
    }
}

impl<P: MemoryOps + HvmOps, D: DirectMap, L: LockKind> Exchange<'_, '_, P, D, L> {
    /// Tries once more with every extent in limbo. Answers how many frames turned out to be gone, and are in the
    /// balloon now. Constant time while limbo is empty.
    pub fn retry_limbo(&self) -> Frames {
        let mut gone = Frames::ZERO;
        self.limbo.retry(|Waiting { first, order, doubtful }| {
            // SAFETY: `leave_in_limbo` detached it and left it to limbo, which gives it out once.
            let Ok(extent) = (unsafe { self.frames.attach(first, order) }) else {
                unreachable!("an extent in limbo is held by somebody else")
            };
            if doubtful {
                gone += self.look_again(extent);
            } else {
                self.readmit(extent, Contents::Unknown);
            }
        });
        gone
    }

    /// What is behind a frame number.
    fn probe(&self, frame: Gfn) -> Fate {
        add(&self.counters.probe_calls, 1);
        match self.port.frame_type(frame) {
            Ok(FrameType::ReadWrite) => Fate::Memory,
            Ok(FrameType::HoleOrDevice) => Fate::Gone,
            // Nothing makes a frame of ours read-only.
            Ok(FrameType::ReadOnly) | Err(_) => Fate::Unknown,
        }
    }

    /// The hypervisor has the extent: into the balloon.
    fn keep_as_gone(&self, extent: Extent<Owned>) -> Frames {
        let count = extent.frames();
        self.deposit(ours(self.frames.mark_ballooned(extent)));
        count
    }

    fn deposit(&self, extent: Extent<Ballooned>) {
        ours(self.frames.deposit(extent));
    }

    /// An extent that was hidden and is memory: shown and freed, or into limbo.
    fn readmit(&self, extent: Extent<Owned>, contents: Contents) {
        if self.map.show(extent.first(), extent.order()).is_ok() {
            ours(self.frames.free(extent, contents, NO_CPU));
        } else {
            add(&self.counters.show_failures, 1);
            self.leave_in_limbo(extent, false);
        }
    }

    fn leave_in_limbo(&self, mut extent: Extent<Owned>, doubtful: bool) {
        let order = extent.order();
        assert!(
            self.frames.assign(&mut extent, Use::Ballooning, Owner::NONE).is_ok(),
            "the exchange holds a foreign extent"
        );
        let first = ours(self.frames.detach(extent));
        self.limbo.put(Waiting { first, order, doubtful });
    }
}

/// The result of an operation on a token that was taken from this very allocator.
fn ours<T, S: State>(result: Result<T, Rejected<S>>) -> T {
    match result {
        Ok(value) => value,
        Err(rejected) => unreachable!("the exchange holds an extent that is not its own: {rejected}"),
    }
}

/// The frame at `index` of an extent.
fn frame_of(first: Gfn, index: usize) -> Gfn {
    first + Frames::new(index as u64)
}

/// Fills `list` with the frames `from..to` of an extent, as far as there is room.
fn list_pieces(list: &mut [Gfn; PIECES], first: Gfn, from: usize, to: usize) -> &[Gfn] {
    let count = PIECES.min(to - from);
    for (index, entry) in list[..count].iter_mut().enumerate() {
        *entry = frame_of(first, from + index);
    }
    &list[..count]
}

const _: () = assert!((Order::BLOCK.frames().get() as usize).is_multiple_of(PIECES));
