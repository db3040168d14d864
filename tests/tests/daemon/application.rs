//! What the memory is for: an application whose pages are movable, that checks what it wrote, and that gets relief from
//! the balloon when nothing is free, as paged memory does in the image.

use super::guest::{CPU, Guest};
use ebb::balloon::{Evacuate, Reason};
use ebb::mm::frame::{AllocError, Contents, Extent, Request, SparseBlock, Use};
use ebb::units::{Frames, VcpuId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use workload::random::Rng;

/// What one emergency is taken to last: the clock stands still in it.
const EMERGENCY_NS: u64 = 1_000_000;
/// How often relief is asked for one frame before that counts as a failure.
const TRIES: u32 = 64;
/// Where in a frame its mark is.
const MARK: usize = 5;

/// The pages: by their frame, with what was written into each.
type Pages = BTreeMap<u64, (Extent, u64)>;

/// The application and what the kernel counts of it.
pub(crate) struct Application<'h, 'g> {
    guest: &'h Guest<'g>,
    pages: Mutex<Pages>,
    random: Mutex<Rng>,
    /// What it has been promised.
    pub(crate) committed: Frames,
    pub(crate) urgent: AtomicBool,
    pub(crate) stalls: AtomicU64,
    pub(crate) taken: AtomicU64,
    /// Frames that were moved to make blocks whole.
    pub(crate) moved: AtomicU64,
    /// How often a frame was not to be had, and why the last time.
    pub(crate) failures: u64,
    pub(crate) last_failure: Option<Reason>,
    marks: u64,
}

impl<'h, 'g> Application<'h, 'g> {
    pub(crate) fn new(guest: &'h Guest<'g>) -> Self {
        Self {
            guest,
            pages: Mutex::default(),
            random: Mutex::new(Rng::new(0xA11_0CA7E)),
            committed: Frames::ZERO,
            urgent: AtomicBool::new(false),
            stalls: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            failures: 0,
            last_failure: None,
            marks: 0,
        }
    }

    /// The time that allocations have waited.
    pub(crate) fn stall_ns(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed) * EMERGENCY_NS
    }

    pub(crate) fn resident(&self) -> Frames {
        Frames::new(self.with(|pages| pages.len() as u64))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Pages) -> R) -> R {
        work(&mut self.pages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for `wish`, of which `most` is granted: that is the commitment. Then moves towards it by at most `pace`
    /// frames, and answers whether it got there.
    pub(crate) fn want(&mut self, wish: Frames, most: Frames, pace: Frames) -> bool {
        self.committed = wish.min(most);
        let (has, wants) = (self.resident().get(), self.committed.get());
        let got = (has..wants).take(pace.get() as usize).all(|_| self.take());
        for _ in (wants..has).take(pace.get() as usize) {
            self.give();
        }
        got && self.resident() == self.committed
    }

    /// Touches one more page.
    fn take(&mut self) -> bool {
        match self.frame() {
            Ok(extent) => {
                self.marks += 1;
                self.guest.model.write(extent.first(), MARK, self.marks);
                let mark = self.marks;
                self.with(|pages| pages.insert(extent.first().get(), (extent, mark)));
                self.taken.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(reason) => {
                self.failures += 1;
                self.last_failure = reason;
                false
            }
        }
    }

    /// A frame, with relief if it is needed.
    fn frame(&self) -> Result<Extent, Option<Reason>> {
        relieved(|| self.guest.frames.alloc(Request::new(Use::Paged, CPU)), || self.relieve(Frames::new(1)))
    }

    /// What the image's slow path does.
    pub(crate) fn relieve(&self, need: Frames) -> Result<Frames, Option<Reason>> {
        let deflated = self.guest.balloon.deflate_now(need);
        self.stalls.fetch_add(1, Ordering::Relaxed);
        self.urgent.store(true, Ordering::Release);
        match deflated.stopped {
            _ if deflated.frames > Frames::ZERO => Ok(deflated.frames),
            Some(Reason::InTransit) => {
                std::thread::yield_now();
                Ok(Frames::ZERO)
            }
            stopped => Err(stopped),
        }
    }

    /// Gives some page up, after it has looked whether what was written is still there.
    fn give(&self) {
        let page = self.with(|pages| {
            let highest = *pages.last_key_value()?.0;
            let at = self.random.lock().unwrap_or_else(PoisonError::into_inner).below(highest + 1);
            let first = *pages.range(at..).next()?.0;
            pages.remove(&first)
        });
        let Some((extent, mark)) = page else { return };
        assert_eq!(self.guest.model.read(extent.first(), MARK), mark, "{extent:?} was lost");
        self.guest.frames.free(extent, Contents::Unknown, CPU).expect("the application's own");
    }

    /// Looks at every page.
    pub(crate) fn verify(&self) {
        self.with(|pages| {
            for (extent, mark) in pages.values() {
                assert_eq!(self.guest.model.read(extent.first(), MARK), *mark, "{extent:?} was lost");
            }
        });
    }

    /// Gives everything up.
    pub(crate) fn end(&mut self) {
        self.verify();
        self.committed = Frames::ZERO;
        while self.resident() > Frames::ZERO {
            self.give();
        }
        self.guest.frames.drain(CPU);
    }

    /// Another thread of the application, on its own CPU: takes and gives in a hurry, so that several emergencies are
    /// under way together, and leaves nothing behind. Takes between two thirds of `frames` and all of them each time.
    pub(crate) fn storm(&self, cpu: VcpuId, rounds: u64, frames: u64, seed: u64) {
        let mut random = Rng::new(seed);
        for _ in 0..rounds {
            let mut held = Vec::new();
            for _ in 0..frames * 2 / 3 + random.below(frames / 3) {
                let request = Request::new(Use::Paged, cpu);
                let frame = relieved(
                    || self.guest.frames.alloc(request),
                    || self.relieve(Frames::new(1 + random.below(64))),
                );
                let Ok(extent) = frame else { break };
                self.guest.model.write(extent.first(), MARK, extent.first().get());
                held.push(extent);
            }
            for extent in held {
                assert_eq!(
                    self.guest.model.read(extent.first(), MARK),
                    extent.first().get(),
                    "{extent:?} was lost"
                );
                self.guest.frames.free(extent, Contents::Unknown, cpu).expect("the thread's own");
            }
        }
        self.guest.frames.drain(cpu);
    }
}

/// Allocates, and asks for relief as long as that brings anything.
fn relieved(
    mut alloc: impl FnMut() -> Result<Extent, AllocError>,
    mut relieve: impl FnMut() -> Result<Frames, Option<Reason>>,
) -> Result<Extent, Option<Reason>> {
    for _ in 0..TRIES {
        if let Ok(extent) = alloc() {
            return Ok(extent);
        }
        relieve()?;
    }
    Err(Some(Reason::InTransit))
}

/// The application's pages can be moved, as paged memory's can.
impl Evacuate for Application<'_, '_> {
    fn evacuate(&self, block: SparseBlock) -> Frames {
        let range = block.first.get()..block.first.get() + 512;
        let mut aside = Vec::new();
        let mut moved = 0;
        self.with(|pages| {
            let inside: Vec<u64> = pages.range(range.clone()).map(|(first, _)| *first).collect();
            'pages: for first in inside {
                let to = loop {
                    let Ok(to) = self.guest.frames.alloc(Request::new(Use::Paged, CPU)) else { break 'pages };
                    if !range.contains(&to.first().get()) {
                        break to;
                    }
                    aside.push(to);
                };
                let Some((from, mark)) = pages.remove(&first) else { continue };
                self.guest.model.write(to.first(), MARK, self.guest.model.read(from.first(), MARK));
                self.guest.frames.free(from, Contents::Unknown, CPU).expect("the application's own");
                pages.insert(to.first().get(), (to, mark));
                moved += 1;
            }
        });
        for extent in aside {
            self.guest.frames.free(extent, Contents::Unknown, CPU).expect("put aside");
        }
        self.moved.fetch_add(moved, Ordering::Relaxed);
        Frames::new(moved)
    }
}
