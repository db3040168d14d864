//! Per-CPU magazines: a few free frames for each CPU, taken and put back without the allocator's lock.
//!
//! A magazine is entered through its [`Gate`], by trying, never by waiting. Who finds it closed goes to the buddy
//! system instead: an interrupt handler that broke into its own CPU's magazine, and with a shared gate also a thread
//! that was moved to another CPU half-way, or another CPU that drains.
//!
//! Behind a gate that admits one CPU only, others *call* it. Either they ask for the frames: the CPU gives them to the
//! buddy system and goes on. Or they want the magazine itself: the CPU parks it, and does without until nobody wants it
//! any more. A CPU looks for calls whenever it leaves its magazine, and whenever it is rung; so a ring that comes
//! while it is inside is not lost.
//!
//! Everything is atomics without a cell, and all of them come from `primitive.rs`, so that a model checker can run
//! this file: `tests/loom` does.

use core::ops::Range;

use super::entry::Class;
use super::lock::{Gate, SharedGate};
use super::primitive::{AtomicU16, AtomicU32, Ordering};
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
    /// What other CPUs ask of this one: [`ASKED`], and the number of those who want the magazine itself.
    calls: AtomicU16,
    /// Most frames in one stack.
    limit: u32,
    /// Where each stack ends in the slots, counted from the first stack's first slot.
    tops: [AtomicU32; KINDS],
    /// Stack after stack.
    slots: [AtomicU32; SLOTS],
}

/// Somebody would like the frames in the buddy system.
const ASKED: u16 = 1 << 15;

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
        Self {
            gate: G::NEW,
            calls: AtomicU16::new(0),
            limit,
            tops: [
                AtomicU32::new(pinned.bottom()),
                AtomicU32::new(pinned_zero.bottom()),
                AtomicU32::new(movable.bottom()),
                AtomicU32::new(movable_zero.bottom()),
            ],
            slots: [const { AtomicU32::new(0) }; SLOTS],
        }
    }

    /// The magazine to oneself, or `None` if somebody is inside, or it is parked. Never waits. For its own CPU, which
    /// looks for [calls](Self::is_called) when it has left.
    #[inline]
    pub(super) fn try_enter(&self) -> Option<Inside<'_, G>> {
        if self.gate.try_enter() { Some(Inside { magazine: self }) } else { None }
    }

    /// The same, and ends the parking, unless somebody wants the magazine.
    pub(super) fn try_enter_parked(&self) -> Option<Inside<'_, G>> {
        let entered = if self.is_wanted() { self.gate.try_enter() } else { self.gate.try_enter_parked() };
        if entered { Some(Inside { magazine: self }) } else { None }
    }

    /// The magazine to oneself, as any CPU, if its own has parked it.
    pub(super) fn try_enter_afar(&self) -> Option<Inside<'_, G, true>> {
        if self.gate.try_enter_afar() { Some(Inside { magazine: self }) } else { None }
    }

    /// Leaves the magazine to whoever comes first, as its own CPU. An interrupt handler that breaks into somebody
    /// inside changes nothing.
    pub(super) fn park(&self) {
        if let Some(inside) = self.try_enter() {
            inside.park();
        }
    }

    /// Asks the magazine's CPU for its frames. Whether nobody else has: then somebody should ring.
    pub(super) fn ask(&self) -> bool {
        // Release, as below: the ring comes after it.
        self.calls.fetch_or(ASKED, Ordering::Release) & ASKED == 0
    }

    /// Has the magazine stay parked, once its CPU has parked it, for as long as the answer lives.
    pub(super) fn want(&self) -> Wanted<'_, G> {
        self.calls.fetch_add(1, Ordering::Release);
        Wanted { magazine: self }
    }

    /// Whether anything is asked of the magazine's CPU.
    #[inline]
    pub(super) fn is_called(&self) -> bool {
        self.calls.load(Ordering::Relaxed) != 0
    }

    /// Whether the frames are asked for, and have not been given.
    pub(super) fn is_asked(&self) -> bool {
        // Acquire: who finds that they were given finds them in the buddy system.
        self.calls.load(Ordering::Acquire) & ASKED != 0
    }

    /// Whether somebody wants the magazine itself.
    fn is_wanted(&self) -> bool {
        self.calls.load(Ordering::Relaxed) & !ASKED != 0
    }

    /// Runs `work` inside if `enter` gets in, as the magazine's own CPU, then [does](Self::answer) what is asked of it.
    #[inline(always)]
    pub(super) fn visit<'a, R>(
        &'a self,
        enter: impl FnOnce(&'a Self) -> Option<Inside<'a, G>>,
        work: impl FnOnce(&Inside<'a, G>) -> R,
        empty: impl FnMut(&Inside<'_, G>),
    ) -> Option<R> {
        let result = work(&enter(self)?);
        if self.is_called() {
            self.answer(empty);
        }
        Some(result)
    }

    /// Does what is asked, as its own CPU: `empty` gives the frames to the buddy system. After leaving, and when rung;
    /// does nothing in a handler that breaks into somebody inside, who will come here himself.
    #[cold]
    pub(super) fn answer(&self, mut empty: impl FnMut(&Inside<'_, G>)) {
        // Again, because a ring may have come while this was inside. What is asked of a parked magazine, those do who
        // ask.
        while self.is_called()
            && let Some(inside) = self.try_enter()
        {
            if inside.is_asked() {
                empty(&inside);
                inside.heed();
            }
            if self.is_wanted() {
                return inside.park();
            }
        }
    }

    /// Frames held of one class. Exact only while nobody is inside.
    pub(super) fn held(&self, class: Class) -> u32 {
        Kind::ALL.iter().filter(|kind| kind.class() == class).map(|&kind| self.known(kind)).sum()
    }

    /// Frames held. Exact only while nobody is inside.
    pub(super) fn count(&self) -> u32 {
        Class::ALL.iter().map(|&class| self.held(class)).sum()
    }

    /// Frames held of one kind. Exact only while nobody is inside.
    #[inline]
    pub(super) fn known(&self, kind: Kind) -> u32 {
        self.top(kind).load(Ordering::Relaxed).wrapping_sub(kind.bottom())
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
    fn top(&self, kind: Kind) -> &AtomicU32 {
        &self.tops[kind as usize]
    }

    /// A slot. The mask changes nothing, and spares a test: a stack's ends are inside the slots.
    #[inline]
    fn slot(&self, at: u32) -> &AtomicU32 {
        &self.slots[at as usize % SLOTS]
    }
}

/// Somebody wants a magazine; until this is dropped.
pub(super) struct Wanted<'a, G: Gate> {
    magazine: &'a Magazine<G>,
}

impl<G: Gate> Drop for Wanted<'_, G> {
    fn drop(&mut self) {
        self.magazine.calls.fetch_sub(1, Ordering::Release);
    }
}

/// Exclusive use of a magazine; ends when dropped. `FAR`: as any CPU.
pub(super) struct Inside<'a, G: Gate, const FAR: bool = false> {
    magazine: &'a Magazine<G>,
}

impl<G: Gate> Inside<'_, G> {
    /// Leaves the magazine to whoever comes first.
    fn park(self) {
        self.magazine.gate.leave_parked();
        core::mem::forget(self);
    }
}

impl<G: Gate, const FAR: bool> Inside<'_, G, FAR> {
    /// Whether the frames are asked for.
    pub(super) fn is_asked(&self) -> bool {
        self.magazine.is_asked()
    }

    /// Says that they are given.
    pub(super) fn heed(&self) {
        self.magazine.calls.fetch_and(!ASKED, Ordering::Release);
    }

    /// Frames in one stack.
    #[inline]
    pub(super) fn len(&self, kind: Kind) -> usize {
        self.magazine.known(kind) as usize
    }

    /// How many more fit on a stack.
    pub(super) fn room(&self, kind: Kind) -> usize {
        (self.magazine.limit - self.magazine.known(kind)) as usize
    }

    /// Puts a frame on a stack; `false` if there is no room.
    #[inline]
    pub(super) fn push(&self, kind: Kind, frame: u32) -> bool {
        let top = self.magazine.top(kind);
        let at = top.load(Ordering::Relaxed);
        if at >= kind.bottom() + self.magazine.limit {
            return false;
        }
        self.magazine.slot(at).store(frame, Ordering::Relaxed);
        top.store(at + 1, Ordering::Relaxed);
        true
    }

    /// Puts a run of frames on a stack; `false`, and none, if there is no room for all.
    pub(super) fn push_run(&self, kind: Kind, frames: Range<u32>) -> bool {
        if frames.len() > self.room(kind) {
            return false;
        }
        let top = self.magazine.top(kind);
        let mut at = top.load(Ordering::Relaxed);
        for frame in frames {
            self.magazine.slot(at).store(frame, Ordering::Relaxed);
            at += 1;
        }
        top.store(at, Ordering::Relaxed);
        true
    }

    /// Takes the frame that was put there last: the one most likely to be in the cache.
    #[inline]
    pub(super) fn pop(&self, kind: Kind) -> Option<u32> {
        let top = self.magazine.top(kind);
        let at = top.load(Ordering::Relaxed);
        if at == kind.bottom() {
            return None;
        }
        top.store(at - 1, Ordering::Relaxed);
        Some(self.magazine.slot(at - 1).load(Ordering::Relaxed))
    }
}

impl<'a, G: Gate, const FAR: bool> Inside<'a, G, FAR> {
    /// Takes the `count` frames that were put there last. They are gone as soon as this returns.
    pub(super) fn pop_many(&self, kind: Kind, count: usize) -> impl Iterator<Item = u32> + use<'a, G, FAR> {
        let top = self.magazine.top(kind);
        let end = top.load(Ordering::Relaxed);
        let start = end - (count.min(self.len(kind)) as u32);
        top.store(start, Ordering::Relaxed);
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
        assert!(magazine.try_enter().is_none(), "parked until its CPU needs it");
        let inside = magazine.try_enter_parked().unwrap();
        assert!(magazine.try_enter().is_none(), "as an interrupt handler would find it");
        assert!(magazine.try_enter_parked().is_none() && magazine.try_enter_afar().is_none());
        magazine.park();
        assert!(magazine.try_enter_afar().is_none(), "a handler parks nothing that is in use");
        drop(inside);
        assert!(magazine.try_enter_afar().is_none(), "its own CPU has it");
        assert!(magazine.try_enter().is_some());
    }

    #[test]
    fn who_is_asked_for_frames_gives_them_when_it_has_left() {
        let magazine = Magazine::<LocalGate>::new();
        let inside = magazine.try_enter_parked().unwrap();
        assert!(inside.push(Kind::Movable, 1));
        assert!(magazine.ask() && !magazine.ask(), "one ring is enough");
        magazine.answer(|_| panic!("as a handler, while somebody is inside"));
        assert!(inside.push(Kind::Movable, 2));
        drop(inside);
        let mut given = std::vec::Vec::new();
        assert!(magazine.is_called());
        magazine.answer(|inside| given.extend(inside.pop_many(Kind::Movable, 9)));
        assert_eq!(given, [1, 2]);
        assert!(!magazine.is_called() && magazine.try_enter().is_some());
    }

    #[test]
    fn a_magazine_that_is_wanted_stays_parked() {
        let magazine = Magazine::<LocalGate>::new();
        drop(magazine.try_enter_parked().unwrap());
        let (one, other) = (magazine.want(), magazine.want());
        assert!(magazine.try_enter_afar().is_none(), "not yet");
        assert!(magazine.try_enter().is_some(), "until it is told");
        magazine.answer(|_| panic!("nobody has asked for frames"));
        for wanted in [one, other] {
            assert!(magazine.try_enter_parked().is_none(), "its CPU does without");
            let afar = magazine.try_enter_afar().unwrap();
            assert!(magazine.try_enter_afar().is_none(), "one at a time");
            drop(afar);
            drop(wanted);
        }
        assert!(magazine.try_enter_parked().is_some() && magazine.try_enter().is_some());
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
            assert!(!inside.push(kind, 9), "over the limit");
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
