//! Single frames through the CPU's magazine: the fast path, and how magazines are filled and emptied.

use core::sync::atomic::Ordering;

use crate::units::{Frames, Order, VcpuId};

use super::entry::{Class, Head};
use super::lock::{Gate, LockKind};
use super::magazine::{Inside, Magazine};
use super::token::{Contents, Extent};
use super::{FrameAllocator, Request, spare};

impl<'m, L: LockKind> FrameAllocator<'m, L> {
    /// A frame of the wanted contents from the CPU's magazine, if one is there.
    #[inline]
    pub(super) fn alloc_fast(&self, request: &Request) -> Option<Extent> {
        if request.order != Order::FRAME {
            return None;
        }
        let inside = self.magazines.get(request.cpu.get() as usize)?.try_enter()?;
        let index = inside.pop(request.usage.class(), request.contents)?;
        self.entry(index).set(request.head());
        Some(Extent::new(self.gfn(index), Order::FRAME, request.contents, self.id))
    }

    /// Puts a frame into the CPU's magazine, if all is as it should be and there is room.
    #[inline]
    pub(super) fn free_fast(&self, extent: &Extent, contents: Contents, cpu: VcpuId) -> Option<()> {
        if !extent.is_frame_of(self.id) {
            return None;
        }
        let index = extent.first().get().wrapping_sub(self.base.get());
        let entry = self.entries.get(index as usize)?;
        let class = entry.single_in_use()?;
        let inside = self.magazines.get(cpu.get() as usize)?.try_enter()?;
        if inside.is_asked() || !inside.push(class, contents, index as u32, self.limit) {
            return None;
        }
        entry.set(Head::Cached { class, contents });
        Some(())
    }

    /// Moves the frames of every magazine that nobody is using back to the buddy system, and says how many.
    /// `cpu` is the caller's.
    ///
    /// Where a magazine admits its own CPU only ([`Gate::SHARED`] is false), the others are asked instead: each is
    /// emptied when its CPU next allocates or frees a frame, or calls [`drain_cpu`](Self::drain_cpu), for which the
    /// kernel may interrupt it.
    pub fn drain(&self, cpu: VcpuId) -> Frames {
        let mut moved = Frames::ZERO;
        for (i, magazine) in self.magazines.iter().enumerate() {
            if L::Gate::SHARED || i == cpu.get() as usize {
                moved += self.drain_one(magazine);
            } else {
                magazine.ask();
            }
        }
        moved
    }

    /// Moves the frames of the magazine of `cpu`, which is the caller's, back to the buddy system, unless it is in
    /// use.
    pub fn drain_cpu(&self, cpu: VcpuId) -> Frames {
        self.magazines.get(cpu.get() as usize).map_or(Frames::ZERO, |magazine| self.drain_one(magazine))
    }

    fn drain_one(&self, magazine: &Magazine<L::Gate>) -> Frames {
        magazine.try_enter().map_or(Frames::ZERO, |inside| self.empty(&inside))
    }

    #[cold]
    fn empty(&self, inside: &Inside<'_, L::Gate>) -> Frames {
        let mut moved = Frames::ZERO;
        for class in Class::ALL {
            for contents in [Contents::Unknown, Contents::Zero] {
                moved += self.spill(inside, class, contents, usize::MAX);
            }
        }
        moved
    }

    /// Takes a frame from the CPU's magazine, filling it from the buddy system if need be.
    pub(super) fn alloc_filling(&self, request: &Request) -> Option<Extent> {
        let inside = self.magazines.get(request.cpu.get() as usize)?.try_enter()?;
        if inside.heed() {
            self.empty(&inside);
        }
        let class = request.usage.class();
        let want = request.contents;
        let other = match want {
            Contents::Unknown => Contents::Zero,
            Contents::Zero => Contents::Unknown,
        };
        // Zero frames serve other requests too, once there are enough of them here; others serve a request for zero
        // where no zero frame is left.
        let enough = match want {
            Contents::Unknown => self.batch(),
            Contents::Zero if self.zero_hint.load(Ordering::Relaxed) == 0 => 1,
            Contents::Zero => usize::MAX,
        };
        if inside.len(class, want) == 0 && inside.len(class, other) < enough {
            self.refill(&inside, class, want);
        }
        let (index, contents) = match inside.pop(class, want) {
            Some(index) => (index, want),
            None => (inside.pop(class, other)?, other),
        };
        self.entry(index).set(request.head());
        Some(Extent::new(self.gfn(index), Order::FRAME, contents, self.id))
    }

    fn refill(&self, inside: &Inside<'_, L::Gate>, class: Class, want: Contents) {
        self.locked(|buddy| {
            // Either stack may get all of them. Never from the reserve, not even in an emergency: what is left here
            // would serve whoever comes next.
            let room = |kind| self.limit.saturating_sub(inside.len(class, kind));
            let batch = self.batch().min(room(Contents::Unknown)).min(room(Contents::Zero)) as u64;
            let batch = batch.min(spare(buddy, false)) as usize;
            buddy.take_frames(batch, class, want == Contents::Zero, |index, zero| {
                let contents = if zero { Contents::Zero } else { Contents::Unknown };
                self.entry(index).set(Head::Cached { class, contents });
                let kept = inside.push(class, contents, index, self.limit);
                assert!(kept, "a magazine that had room is full");
            });
        });
    }

    /// Puts a frame into the CPU's magazine, making room if need be; `false` if it has none, or is in use.
    pub(super) fn free_spilling(&self, index: u32, class: Class, contents: Contents, cpu: VcpuId) -> bool {
        let inside = self.magazines.get(cpu.get() as usize).and_then(Magazine::try_enter);
        let Some(inside) = inside else { return false };
        if inside.heed() {
            self.empty(&inside);
        }
        if inside.len(class, contents) >= self.limit {
            self.spill(&inside, class, contents, self.batch());
        }
        self.entry(index).set(Head::Cached { class, contents });
        let kept = inside.push(class, contents, index, self.limit);
        assert!(kept, "a magazine that was spilled is full");
        true
    }

    fn spill(&self, inside: &Inside<'_, L::Gate>, class: Class, contents: Contents, most: usize) -> Frames {
        let count = inside.len(class, contents).min(most);
        if count > 0 {
            let frames = (0..count).map_while(|_| inside.pop(class, contents)).inspect(|&index| {
                self.entry(index).set(Head::Nothing);
            });
            self.locked(|buddy| buddy.put_frames(frames, class, contents == Contents::Zero));
        }
        Frames::new(count as u64)
    }

    fn batch(&self) -> usize {
        self.limit / 2
    }
}
