//! Single frames through the CPU's magazine: the fast path, and how magazines are filled and emptied.

use core::sync::atomic::Ordering;

use crate::units::{Frames, Order, VcpuId};

use super::entry::{Class, Entry, Head};
use super::lock::{Gate, LockKind};
use super::magazine::{Inside, Kind, Magazine};
use super::token::{Contents, Extent};
use super::{FrameAllocator, Request, spare};

impl<'m, L: LockKind> FrameAllocator<'m, L> {
    /// A frame of the wanted contents from the CPU's magazine, if one is there.
    #[inline]
    pub(super) fn alloc_fast(&self, request: &Request) -> Option<Extent> {
        if request.order != Order::FRAME {
            return None;
        }
        let kind = Kind::of(request.usage.class(), request.contents);
        L::pinned(request.cpu.get() as usize, |cpu| {
            let inside = self.magazines.get(cpu)?.try_enter()?;
            let index = inside.pop(kind)?;
            self.entry(index).set(request.head());
            Some(self.table.frame(index, request.contents))
        })
    }

    /// Puts a frame into the CPU's magazine, if all is as it should be and there is room.
    #[inline]
    pub(super) fn free_fast(&self, extent: &Extent, contents: Contents, cpu: VcpuId) -> Option<()> {
        let index = extent.place_in(self.table);
        let entry = self.entries.get(index as usize)?;
        let class = entry.single_in_use()?;
        L::pinned(cpu.get() as usize, |cpu| {
            let inside = self.magazines.get(cpu)?.try_enter()?;
            // Two copies of the same on purpose: a processor guesses the way and goes on, where a stack that is found
            // by the class would have to wait for the entry to be read.
            match class {
                Class::Pinned => Self::keep(&inside, entry, index as u32, Kind::of(Class::Pinned, contents)),
                Class::Movable => {
                    Self::keep(&inside, entry, index as u32, Kind::of(Class::Movable, contents))
                }
            }
        })
    }

    #[inline(always)]
    fn keep(inside: &Inside<'_, L::Gate>, entry: &Entry, index: u32, kind: Kind) -> Option<()> {
        if !inside.push(kind, index) {
            return None;
        }
        entry.set(Head::Cached(kind));
        Some(())
    }

    /// Moves the frames of every magazine that nobody is using back to the buddy system, and says how many.
    /// `cpu` is the caller's.
    ///
    /// Where a magazine admits its own CPU only ([`Gate::SHARED`] is false), the others are asked instead, unless
    /// they are parked: each is emptied when its CPU next frees a frame or needs more, parks, or calls
    /// [`drain_asked`](Self::drain_asked), for which the kernel may interrupt it.
    pub fn drain(&self, cpu: VcpuId) -> Frames {
        L::pinned(cpu.get() as usize, |cpu| {
            let mut moved = Frames::ZERO;
            for (i, magazine) in self.magazines.iter().enumerate() {
                moved += if i == cpu {
                    magazine.try_enter_parked().map_or(Frames::ZERO, |inside| self.empty(&inside))
                } else if let Some(inside) = magazine.try_enter_afar() {
                    self.empty(&inside)
                } else {
                    if !L::Gate::SHARED {
                        magazine.ask();
                    }
                    Frames::ZERO
                };
            }
            moved
        })
    }

    /// Moves the frames of the magazine of `cpu`, which is the caller's, back to the buddy system, unless it is in
    /// use.
    pub fn drain_cpu(&self, cpu: VcpuId) -> Frames {
        self.drain_own(cpu, |_| true)
    }

    /// The same if another CPU has asked for the frames.
    pub fn drain_asked(&self, cpu: VcpuId) -> Frames {
        self.drain_own(cpu, |inside| inside.heed())
    }

    fn drain_own(&self, cpu: VcpuId, wanted: impl FnOnce(&Inside<'_, L::Gate>) -> bool) -> Frames {
        L::pinned(cpu.get() as usize, |cpu| {
            let inside = self.magazines.get(cpu).and_then(Magazine::try_enter_parked);
            inside.filter(wanted).map_or(Frames::ZERO, |inside| self.empty(&inside))
        })
    }

    /// Leaves the magazine of `cpu`, which is the caller's, to whoever wants its frames, until `cpu` allocates or
    /// frees a frame again: for a CPU that goes to sleep. Does nothing if magazines are anybody's.
    pub fn park(&self, cpu: VcpuId) {
        self.drain_asked(cpu);
        L::pinned(cpu.get() as usize, |cpu| {
            if let Some(magazine) = self.magazines.get(cpu) {
                magazine.park();
            }
        });
    }

    #[cold]
    fn empty<const FAR: bool>(&self, inside: &Inside<'_, L::Gate, FAR>) -> Frames {
        Kind::ALL
            .iter()
            .map(|&kind| self.spill(inside, kind, usize::MAX))
            .fold(Frames::ZERO, |sum, n| sum + n)
    }

    /// Takes a frame from the CPU's magazine, filling it from the buddy system if need be.
    pub(super) fn alloc_filling(&self, request: &Request) -> Option<Extent> {
        L::pinned(request.cpu.get() as usize, |cpu| {
            let inside = self.magazines.get(cpu)?.try_enter_parked()?;
            if inside.heed() {
                self.empty(&inside);
            }
            let class = request.usage.class();
            let want = request.contents;
            let other = match want {
                Contents::Unknown => Contents::Zero,
                Contents::Zero => Contents::Unknown,
            };
            // Zero frames serve other requests too, once there are enough of them here; others serve a request for
            // zero where no zero frame is left.
            let enough = match want {
                Contents::Unknown => self.batch(),
                Contents::Zero if self.zero_hint.load(Ordering::Relaxed) == 0 => 1,
                Contents::Zero => usize::MAX,
            };
            let (wanted, others) = (Kind::of(class, want), Kind::of(class, other));
            if inside.len(wanted) == 0 && inside.len(others) < enough {
                self.refill(&inside, class, want);
            }
            let (index, contents) = match inside.pop(wanted) {
                Some(index) => (index, want),
                None => (inside.pop(others)?, other),
            };
            self.entry(index).set(request.head());
            Some(self.table.frame(index, contents))
        })
    }

    fn refill(&self, inside: &Inside<'_, L::Gate>, class: Class, want: Contents) {
        self.locked(|buddy| {
            // Either stack may get all of them. Never from the reserve, not even in an emergency: what is left here
            // would serve whoever comes next.
            let room = |contents| inside.room(Kind::of(class, contents));
            let batch = self.batch().min(room(Contents::Unknown)).min(room(Contents::Zero)) as u64;
            let batch = batch.min(spare(buddy, false)) as usize;
            buddy.take_frames(batch, class, want == Contents::Zero, |run, zero| {
                let kind = Kind::of(class, if zero { Contents::Zero } else { Contents::Unknown });
                for entry in &self.entries[run.start as usize..run.end as usize] {
                    entry.set(Head::Cached(kind));
                }
                let kept = inside.push_run(kind, run);
                assert!(kept, "a magazine that had room is full");
            });
        });
    }

    /// Puts a frame into the CPU's magazine, making room if need be; `false` if it has none, or is in use.
    pub(super) fn free_spilling(&self, index: u32, kind: Kind, cpu: VcpuId) -> bool {
        L::pinned(cpu.get() as usize, |cpu| {
            let inside = self.magazines.get(cpu).and_then(Magazine::try_enter_parked);
            let Some(inside) = inside else { return false };
            if inside.heed() {
                self.empty(&inside);
            }
            if inside.room(kind) == 0 {
                self.spill(&inside, kind, self.batch());
            }
            self.entry(index).set(Head::Cached(kind));
            let kept = inside.push_unasked(kind, index);
            assert!(kept, "a magazine that was spilled is full");
            true
        })
    }

    fn spill<const FAR: bool>(&self, inside: &Inside<'_, L::Gate, FAR>, kind: Kind, most: usize) -> Frames {
        let count = inside.len(kind).min(most);
        if count > 0 {
            let frames = inside.pop_many(kind, count).inspect(|&index| self.entry(index).set(Head::Nothing));
            let zero = kind.contents() == Contents::Zero;
            self.locked(|buddy| buddy.put_frames(frames, kind.class(), zero));
        }
        Frames::new(count as u64)
    }

    fn batch(&self) -> usize {
        self.limit / 2
    }
}
