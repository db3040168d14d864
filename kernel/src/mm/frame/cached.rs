//! Single frames through the CPU's magazine: the fast path, and how magazines are filled and emptied.

use core::sync::atomic::Ordering;

use crate::units::{Frames, Order, VcpuId};

use super::entry::{Class, Entry, Head};
use super::lock::LockKind;
use super::magazine::{Inside, Kind, Magazine, Wanted};
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
        self.inside(request.cpu, Magazine::try_enter, |inside| {
            let index = inside.pop(kind)?;
            self.entry(index).set(request.head());
            Some(self.table.frame(index, request.contents))
        })?
    }

    /// Puts a frame into the CPU's magazine, if all is as it should be and there is room.
    #[inline]
    pub(super) fn free_fast(&self, extent: &Extent, contents: Contents, cpu: VcpuId) -> Option<()> {
        let index = extent.place_in(self.table);
        let entry = self.entries.get(index as usize)?;
        let class = entry.single_in_use()?;
        self.inside(cpu, Magazine::try_enter, |inside| {
            // Two copies of the same on purpose: a processor guesses the way and goes on, where a stack that is found
            // by the class would have to wait for the entry to be read.
            match class {
                Class::Pinned => Self::keep(inside, entry, index as u32, Kind::of(Class::Pinned, contents)),
                Class::Movable => Self::keep(inside, entry, index as u32, Kind::of(Class::Movable, contents)),
            }
        })?
    }

    #[inline(always)]
    fn keep(inside: &Inside<'_, L::Gate>, entry: &Entry, index: u32, kind: Kind) -> Option<()> {
        if !inside.push(kind, index) {
            return None;
        }
        entry.set(Head::Cached(kind));
        Some(())
    }

    /// Runs `work` inside the magazine of the caller's CPU, if `enter` gets in, then does what is asked of it.
    #[inline(always)]
    fn inside<'a, R>(
        &'a self,
        cpu: VcpuId,
        enter: impl FnOnce(&'a Magazine<L::Gate>) -> Option<Inside<'a, L::Gate>>,
        work: impl FnOnce(&Inside<'a, L::Gate>) -> R,
    ) -> Option<R> {
        L::pinned(cpu.get() as usize, |cpu| {
            self.magazines.get(cpu)?.visit(enter, work, |inside| _ = self.empty(inside))
        })
    }

    fn answer_from(&self, magazine: &Magazine<L::Gate>) {
        magazine.answer(|inside| _ = self.empty(inside));
    }

    /// Does what other CPUs ask of the magazine of `cpu`, which is the caller's: empties it, or parks it. For the
    /// interrupt that [`LockKind::ring`] sends.
    pub fn answer(&self, cpu: VcpuId) {
        L::pinned(cpu.get() as usize, |cpu| {
            if let Some(magazine) = self.magazines.get(cpu) {
                self.answer_from(magazine);
            }
        });
    }

    /// Moves the frames of all magazines back to the buddy system, and says how many, or about. `cpu` is the caller's.
    ///
    /// Other CPUs that have not parked theirs are asked, and waited for if the caller may wait ([`LockKind::wait`]).
    /// Who may not goes without these: at most 64 frames of each class and contents for each CPU, and an eighth of
    /// memory in all. They come soon.
    pub fn drain(&self, cpu: VcpuId) -> Frames {
        let (mut held, mut left) = (0, 0);
        for (at, magazine) in self.magazines.iter().enumerate() {
            let count = magazine.count();
            if count > 0 && !self.drain_one(at, magazine, cpu) && magazine.ask() {
                L::ring(at);
            }
            held += count;
        }
        // All have been rung, so that they work at once.
        for (at, magazine) in self.magazines.iter().enumerate() {
            let mut given = || !magazine.is_asked() || self.drain_one(at, magazine, cpu);
            if magazine.is_asked() && !L::wait(&mut given) {
                left += magazine.count();
            }
        }
        Frames::new(held.saturating_sub(left).into())
    }

    /// Moves the frames of the magazine of `cpu`, which is the caller's, back to the buddy system, unless it is in
    /// use.
    pub fn drain_cpu(&self, cpu: VcpuId) -> Frames {
        let magazine =
            L::pinned(cpu.get() as usize, |cpu| self.magazines.get(cpu).map(|magazine| (cpu, magazine)));
        magazine.map_or(Frames::ZERO, |(at, magazine)| {
            let held = magazine.count();
            if self.drain_one(at, magazine, cpu) { Frames::new(held.into()) } else { Frames::ZERO }
        })
    }

    /// Empties a magazine that is the caller's own, or parked, and says whether it did.
    fn drain_one(&self, at: usize, magazine: &Magazine<L::Gate>, cpu: VcpuId) -> bool {
        L::pinned(cpu.get() as usize, |cpu| {
            if cpu == at {
                magazine.ask();
                self.answer_from(magazine);
                if !magazine.is_asked() {
                    return true;
                }
            }
            let Some(inside) = magazine.try_enter_afar() else { return false };
            self.empty(&inside);
            inside.heed();
            true
        })
    }

    /// Leaves the magazine of `cpu`, which is the caller's, to whoever wants its frames, until `cpu` allocates or
    /// frees a frame again: for a CPU that goes to sleep. Does nothing if magazines are anybody's.
    pub fn park(&self, cpu: VcpuId) {
        L::pinned(cpu.get() as usize, |cpu| {
            if let Some(magazine) = self.magazines.get(cpu) {
                self.answer_from(magazine);
                magazine.park();
            }
        });
    }

    /// Enters the magazine of CPU `at`, which `_wanted` keeps parked, as any CPU. Waits for that CPU if the caller
    /// may.
    pub(super) fn enter_wanted<'a>(
        &'a self,
        at: usize,
        magazine: &'a Magazine<L::Gate>,
        _wanted: &Wanted<'a, L::Gate>,
    ) -> Option<Inside<'a, L::Gate, true>> {
        let look = || {
            L::pinned(0, |cpu| {
                if cpu == at {
                    self.answer_from(magazine);
                }
                magazine.try_enter_afar()
            })
        };
        look().or_else(|| {
            L::ring(at);
            let mut inside = None;
            L::wait(&mut || {
                inside = look();
                inside.is_some()
            });
            inside
        })
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
        self.inside(request.cpu, Magazine::try_enter_parked, |inside| {
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
                self.refill(inside, class, want);
            }
            let (index, contents) = match inside.pop(wanted) {
                Some(index) => (index, want),
                None => (inside.pop(others)?, other),
            };
            self.entry(index).set(request.head());
            Some(self.table.frame(index, contents))
        })?
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
        let kept = self.inside(cpu, Magazine::try_enter_parked, |inside| {
            if inside.room(kind) == 0 {
                self.spill(inside, kind, self.batch());
            }
            self.entry(index).set(Head::Cached(kind));
            let kept = inside.push(kind, index);
            assert!(kept, "a magazine that was spilled is full");
        });
        kept.is_some()
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
