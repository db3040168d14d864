//! Per-CPU magazines: a few free frames for each CPU, taken and put back without the allocator's lock.
//!
//! A magazine is entered through its [`Gate`], by trying, never by waiting. Who finds it closed goes to the buddy
//! system instead: an interrupt handler that broke into its own CPU's magazine, a validator, and with a shared gate
//! also a thread that was moved to another CPU half-way, or another CPU that drains.
//!
//! Behind a gate that admits one CPU only, others cannot drain. They *ask*, and the magazine's CPU empties it when it
//! comes by next.
//!
//! Everything is atomics without a cell, and all of them come from `primitive.rs`, so that a model checker can run
//! this file: `tests/loom` does.

use core::ops::Range;

use super::entry::Class;
use super::lock::{Gate, SharedGate};
use super::primitive::{AtomicBool, AtomicU32, Ordering};
use super::token::Contents;

/// Most frames in one stack of a magazine.
pub(super) const CAPACITY: usize = 64;

const KINDS: usize = 4;
const SLOTS: usize = KINDS * CAPACITY;
const _: () = assert!(SLOTS.is_power_of_two());

/// What the frames of one stack have in common: whom they serve, and whether they are known to be zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Pinned = 0,
    PinnedZero = 1,
    Movable = 2,
    MovableZero = 3,
}

impl Kind {
    pub(super) const ALL: [Self; KINDS] = [Self::Pinned, Self::PinnedZero, Self::Movable, Self::MovableZero];

    #[inline]
    pub(super) const fn of(class: Class, contents: Contents) -> Self {
        match (class, contents) {
            (Class::Pinned, Contents::Unknown) => Self::Pinned,
            (Class::Pinned, Contents::Zero) => Self::PinnedZero,
            (Class::Movable, Contents::Unknown) => Self::Movable,
            (Class::Movable, Contents::Zero) => Self::MovableZero,
        }
    }

    #[inline]
    pub(super) const fn class(self) -> Class {
        match self {
            Self::Pinned | Self::PinnedZero => Class::Pinned,
            Self::Movable | Self::MovableZero => Class::Movable,
        }
    }

    #[inline]
    pub(super) const fn contents(self) -> Contents {
        match self {
            Self::Pinned | Self::Movable => Contents::Unknown,
            Self::PinnedZero | Self::MovableZero => Contents::Zero,
        }
    }

    /// The first slot of the stack.
    #[inline]
    const fn bottom(self) -> u32 {
        self as u32 * CAPACITY as u32
    }
}

/// One CPU's free frames: a stack for each class and contents.
///
/// Aligned to two cache lines, because processors fetch them in pairs.
#[repr(align(128))]
pub struct Magazine<G = SharedGate> {
    gate: G,
    /// Another CPU would like the frames back.
    asked: AtomicBool,
    /// Most frames in one stack.
    limit: u32,
    stacks: [Stack; KINDS],
    /// Stack after stack.
    slots: [AtomicU32; SLOTS],
}

/// Where a stack ends in the slots now, and where it may not go on. Both count from the first stack's first slot, so
/// that a push is one comparison and one store.
struct Stack {
    top: AtomicU32,
    /// The first slot beyond the limit; none is left while the CPU is asked for its frames, which sends it the slow way.
    end: AtomicU32,
}

impl<G: Gate> Default for Magazine<G> {
    fn default() -> Self {
        Self::new()
    }
}

impl<G: Gate> Magazine<G> {
    /// An empty magazine.
    #[must_use]
    pub const fn new() -> Self {
        Self::limited(CAPACITY)
    }

    /// An empty magazine whose stacks hold `limit` frames each, or [`CAPACITY`].
    pub(super) const fn limited(limit: usize) -> Self {
        let limit = if limit < CAPACITY { limit } else { CAPACITY } as u32;
        let [pinned, pinned_zero, movable, movable_zero] = Kind::ALL;
        let stacks = [
            Stack::empty(pinned, limit),
            Stack::empty(pinned_zero, limit),
            Stack::empty(movable, limit),
            Stack::empty(movable_zero, limit),
        ];
        Self {
            gate: G::OPEN,
            asked: AtomicBool::new(false),
            limit,
            stacks,
            slots: [const { AtomicU32::new(0) }; SLOTS],
        }
    }

    /// The magazine to oneself, or `None` if somebody is inside, or it is parked. Never waits.
    #[inline]
    pub(super) fn try_enter(&self) -> Option<Inside<'_, G>> {
        if self.gate.try_enter() { Some(Inside { magazine: self }) } else { None }
    }

    /// The same, and ends the parking.
    pub(super) fn try_enter_parked(&self) -> Option<Inside<'_, G>> {
        if self.gate.try_enter_parked() { Some(Inside { magazine: self }) } else { None }
    }

    /// The same as another CPU than the magazine's.
    pub(super) fn try_enter_afar(&self) -> Option<Inside<'_, G, true>> {
        if self.gate.try_enter_afar() { Some(Inside { magazine: self }) } else { None }
    }

    /// Leaves the magazine to whoever comes first, as its own CPU.
    pub(super) fn park(&self) {
        self.gate.park();
    }

    /// Asks the magazine's CPU to empty it.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
        for stack in &self.stacks {
            // Release: who comes here the slow way because of this also sees that it is asked.
            stack.end.store(0, Ordering::Release);
        }
    }

    /// Frames held. Exact only while nobody is inside.
    pub(super) fn held(&self, class: Class) -> u32 {
        Kind::ALL.iter().filter(|kind| kind.class() == class).map(|&kind| self.known(kind)).sum()
    }

    /// Frames held of one kind. Exact only while nobody is inside.
    #[inline]
    pub(super) fn known(&self, kind: Kind) -> u32 {
        self.stack(kind).top.load(Ordering::Relaxed).wrapping_sub(kind.bottom())
    }

    /// Calls `visit` for every frame held. Exact only while nobody else is inside.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Kind, u32)) {
        for kind in Kind::ALL {
            let held = (self.known(kind) as usize).min(CAPACITY);
            for frame in &self.slots[kind.bottom() as usize..][..held] {
                visit(kind, frame.load(Ordering::Relaxed));
            }
        }
    }

    #[inline]
    fn stack(&self, kind: Kind) -> &Stack {
        &self.stacks[kind as usize]
    }

    /// A slot. The mask changes nothing, and spares a test: a stack's ends are inside the slots.
    #[inline]
    fn slot(&self, at: u32) -> &AtomicU32 {
        &self.slots[at as usize % SLOTS]
    }
}

impl Stack {
    const fn empty(kind: Kind, limit: u32) -> Self {
        let bottom = kind.bottom();
        Self { top: AtomicU32::new(bottom), end: AtomicU32::new(bottom + limit) }
    }
}

/// Exclusive use of a magazine; ends when dropped. `FAR`: as another CPU than its own.
pub(super) struct Inside<'a, G: Gate, const FAR: bool = false> {
    magazine: &'a Magazine<G>,
}

impl<G: Gate, const FAR: bool> Inside<'_, G, FAR> {
    /// Whether another CPU has asked for the frames. From then on, there is room for them again.
    pub(super) fn heed(&self) -> bool {
        for kind in Kind::ALL {
            let (end, full) = (&self.magazine.stack(kind).end, self.full(kind));
            if end.load(Ordering::Acquire) != full {
                end.store(full, Ordering::Relaxed);
            }
        }
        self.magazine.asked.load(Ordering::Relaxed) && self.magazine.asked.swap(false, Ordering::Relaxed)
    }

    /// Frames in one stack.
    #[inline]
    pub(super) fn len(&self, kind: Kind) -> usize {
        self.magazine.known(kind) as usize
    }

    /// How many more fit on a stack, asked for or not.
    pub(super) fn room(&self, kind: Kind) -> usize {
        (self.magazine.limit - self.magazine.known(kind)) as usize
    }

    /// Puts a frame on a stack; `false` if there is no room, or the frames are asked for.
    #[inline]
    pub(super) fn push(&self, kind: Kind, frame: u32) -> bool {
        let end = self.magazine.stack(kind).end.load(Ordering::Relaxed);
        self.push_below(end, kind, frame)
    }

    /// Puts a frame on a stack; `false` if there is no room.
    pub(super) fn push_unasked(&self, kind: Kind, frame: u32) -> bool {
        self.push_below(self.full(kind), kind, frame)
    }

    /// Puts a run of frames on a stack, asked for or not; `false`, and none, if there is no room for all.
    pub(super) fn push_run(&self, kind: Kind, frames: Range<u32>) -> bool {
        if frames.len() > self.room(kind) {
            return false;
        }
        let top = &self.magazine.stack(kind).top;
        let mut at = top.load(Ordering::Relaxed);
        for frame in frames {
            self.magazine.slot(at).store(frame, Ordering::Relaxed);
            at += 1;
        }
        top.store(at, Ordering::Relaxed);
        true
    }

    #[inline]
    fn push_below(&self, end: u32, kind: Kind, frame: u32) -> bool {
        let stack = self.magazine.stack(kind);
        let top = stack.top.load(Ordering::Relaxed);
        if top >= end {
            return false;
        }
        self.magazine.slot(top).store(frame, Ordering::Relaxed);
        stack.top.store(top + 1, Ordering::Relaxed);
        true
    }

    /// The slot behind the last that a stack may fill.
    fn full(&self, kind: Kind) -> u32 {
        kind.bottom() + self.magazine.limit
    }

    /// Takes the frame that was put there last: the one most likely to be in the cache.
    #[inline]
    pub(super) fn pop(&self, kind: Kind) -> Option<u32> {
        let stack = self.magazine.stack(kind);
        let top = stack.top.load(Ordering::Relaxed);
        if top == kind.bottom() {
            return None;
        }
        stack.top.store(top - 1, Ordering::Relaxed);
        Some(self.magazine.slot(top - 1).load(Ordering::Relaxed))
    }
}

impl<'a, G: Gate, const FAR: bool> Inside<'a, G, FAR> {
    /// Takes the `count` frames that were put there last. They are gone as soon as this returns.
    pub(super) fn pop_many(&self, kind: Kind, count: usize) -> impl Iterator<Item = u32> + use<'a, G, FAR> {
        let end = self.magazine.stack(kind).top.load(Ordering::Relaxed);
        let start = end - (count.min(self.len(kind)) as u32);
        self.magazine.stack(kind).top.store(start, Ordering::Relaxed);
        self.magazine.slots[start as usize..end as usize].iter().map(|slot| slot.load(Ordering::Relaxed))
    }
}

impl<G: Gate, const FAR: bool> Drop for Inside<'_, G, FAR> {
    #[inline]
    fn drop(&mut self) {
        if FAR {
            self.magazine.gate.leave_afar();
        } else {
            self.magazine.gate.leave();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::lock::LocalGate;
    use super::*;

    #[test]
    fn a_magazine_admits_one_at_a_time() {
        let magazine: Magazine = Magazine::new();
        let inside = magazine.try_enter();
        assert!(inside.is_some());
        assert!(magazine.try_enter().is_none());
        drop(inside);
        assert!(magazine.try_enter().is_some());
    }

    #[test]
    fn a_local_gate_keeps_its_own_cpu_out_too() {
        let magazine = Magazine::<LocalGate>::new();
        let inside = magazine.try_enter().unwrap();
        assert!(magazine.try_enter().is_none(), "as an interrupt handler would find it");
        drop(inside);
        assert!(magazine.try_enter().is_some());
    }

    #[test]
    fn who_is_asked_for_frames_keeps_no_more_until_that_is_heeded() {
        let magazine = Magazine::<LocalGate>::new();
        let inside = magazine.try_enter().unwrap();
        assert!(inside.push(Kind::Movable, 1));
        magazine.ask();
        for kind in Kind::ALL {
            assert!(!inside.push(kind, 2), "{kind:?}");
        }
        assert!(inside.push_unasked(Kind::Movable, 2), "who has looked already is not disturbed");
        assert_eq!(inside.pop(Kind::Movable), Some(2), "taking is no matter");
        assert!(inside.heed() && !inside.heed());
        for kind in Kind::ALL {
            assert!(inside.push(kind, 3), "{kind:?}");
        }
        assert_eq!(inside.room(Kind::Movable), CAPACITY - 2);
    }

    #[test]
    fn stacks_are_bounded_separate_and_last_in_first_out() {
        let magazine: Magazine = Magazine::limited(3);
        let inside = magazine.try_enter().unwrap();
        for kind in Kind::ALL {
            assert_eq!(inside.pop(kind), None);
            for frame in 0..3 {
                assert_eq!(inside.room(kind), 3 - frame);
                assert!(inside.push(kind, kind as u32 * 10 + frame as u32));
            }
            assert!(!inside.push(kind, 9) && !inside.push_unasked(kind, 9), "over the limit");
            assert_eq!((inside.len(kind), inside.room(kind)), (3, 0));
        }
        assert_eq!(inside.pop(Kind::PinnedZero), Some(12));
        assert_eq!((magazine.held(Class::Pinned), magazine.held(Class::Movable)), (5, 6));
        let mut seen = std::vec::Vec::new();
        magazine.for_each(|kind, frame| seen.push((kind, frame)));
        assert_eq!(seen[3..5], [(Kind::PinnedZero, 10), (Kind::PinnedZero, 11)]);
        assert_eq!(seen.len(), 11);
    }

    #[test]
    fn capacity_bounds_a_larger_limit() {
        let magazine: Magazine = Magazine::limited(1000);
        let inside = magazine.try_enter().unwrap();
        assert!(inside.push_run(Kind::Movable, 5..9) && !inside.push_run(Kind::Movable, 0..61));
        assert!(inside.push_run(Kind::Movable, 0..60) && inside.room(Kind::Movable) == 0);
        assert_eq!([inside.pop(Kind::Movable), inside.pop(Kind::Movable)], [Some(59), Some(58)]);
        assert!(inside.pop_many(Kind::Movable, 3).eq([55, 56, 57]) && inside.len(Kind::Movable) == 59);
        assert_eq!(inside.pop_many(Kind::Movable, 99).count(), 59);
        assert_eq!(inside.pop_many(Kind::Movable, 1).count(), 0);
        assert_eq!((0..1000).filter(|&frame| inside.push(Kind::MovableZero, frame)).count(), CAPACITY);
    }

    #[test]
    fn a_kind_is_a_class_and_contents() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.class(), kind.contents()), kind);
        }
    }
}
