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

use super::entry::Class;
use super::lock::{Gate, SharedGate};
use super::primitive::{AtomicBool, AtomicU32, Ordering};
use super::token::Contents;

/// Most frames in one stack of a magazine.
pub(super) const CAPACITY: usize = 64;

/// One CPU's free frames: a stack for each class, known-zero frames apart from the others.
///
/// Aligned to two cache lines, because processors fetch them in pairs.
#[repr(align(128))]
pub struct Magazine<G = SharedGate> {
    gate: G,
    /// Another CPU would like the frames back.
    asked: AtomicBool,
    stacks: [Stack; 4],
}

struct Stack {
    len: AtomicU32,
    frames: [AtomicU32; CAPACITY],
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
        Self { gate: G::OPEN, asked: AtomicBool::new(false), stacks: [const { Stack::new() }; 4] }
    }

    /// The magazine to oneself, or `None` if somebody is inside. Never waits.
    #[inline]
    pub(super) fn try_enter(&self) -> Option<Inside<'_, G>> {
        if self.gate.try_enter() { Some(Inside { magazine: self }) } else { None }
    }

    /// Asks the magazine's CPU to empty it.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Frames held. Exact only while nobody is inside.
    pub(super) fn held(&self, class: Class) -> u32 {
        [Contents::Unknown, Contents::Zero].iter().map(|&contents| self.known(class, contents)).sum()
    }

    /// Frames held of one kind. Exact only while nobody is inside.
    #[inline]
    pub(super) fn known(&self, class: Class, contents: Contents) -> u32 {
        self.stack(class, contents).len.load(Ordering::Relaxed)
    }

    /// Calls `visit` for every frame held. Exact only while nobody else is inside.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Class, Contents, u32)) {
        for class in Class::ALL {
            for contents in [Contents::Unknown, Contents::Zero] {
                let held = (self.known(class, contents) as usize).min(CAPACITY);
                for frame in &self.stack(class, contents).frames[..held] {
                    visit(class, contents, frame.load(Ordering::Relaxed));
                }
            }
        }
    }

    #[inline]
    fn stack(&self, class: Class, contents: Contents) -> &Stack {
        let zero = usize::from(matches!(contents, Contents::Zero));
        &self.stacks[class as usize * 2 + zero]
    }
}

impl Stack {
    const fn new() -> Self {
        Self { len: AtomicU32::new(0), frames: [const { AtomicU32::new(0) }; CAPACITY] }
    }
}

/// Exclusive use of a magazine; ends when dropped.
pub(super) struct Inside<'a, G: Gate> {
    magazine: &'a Magazine<G>,
}

impl<G: Gate> Inside<'_, G> {
    /// Whether another CPU has asked for the frames.
    #[inline]
    pub(super) fn is_asked(&self) -> bool {
        self.magazine.asked.load(Ordering::Relaxed)
    }

    /// Takes note of having been asked.
    pub(super) fn heed(&self) -> bool {
        self.is_asked() && self.magazine.asked.swap(false, Ordering::Relaxed)
    }

    /// Frames in one stack.
    #[inline]
    pub(super) fn len(&self, class: Class, contents: Contents) -> usize {
        self.magazine.known(class, contents) as usize
    }

    /// Puts a frame on a stack; `false` if it already holds `limit`.
    #[inline]
    pub(super) fn push(&self, class: Class, contents: Contents, frame: u32, limit: usize) -> bool {
        let stack = self.magazine.stack(class, contents);
        let len = stack.len.load(Ordering::Relaxed);
        let at = len as usize;
        if at >= limit {
            return false;
        }
        let Some(slot) = stack.frames.get(at) else { return false };
        slot.store(frame, Ordering::Relaxed);
        stack.len.store(len + 1, Ordering::Relaxed);
        true
    }

    /// Takes the frame that was put there last: the one most likely to be in the cache.
    #[inline]
    pub(super) fn pop(&self, class: Class, contents: Contents) -> Option<u32> {
        let stack = self.magazine.stack(class, contents);
        let len = stack.len.load(Ordering::Relaxed).checked_sub(1)?;
        let frame = stack.frames.get(len as usize)?.load(Ordering::Relaxed);
        stack.len.store(len, Ordering::Relaxed);
        Some(frame)
    }
}

impl<G: Gate> Drop for Inside<'_, G> {
    #[inline]
    fn drop(&mut self) {
        self.magazine.gate.leave();
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
        magazine.ask();
        assert!(inside.is_asked() && inside.heed() && !inside.heed());
        drop(inside);
        assert!(magazine.try_enter().is_some());
    }

    #[test]
    fn stacks_are_bounded_separate_and_last_in_first_out() {
        let magazine: Magazine = Magazine::new();
        let inside = magazine.try_enter().unwrap();
        for frame in 0..3 {
            assert!(inside.push(Class::Pinned, Contents::Zero, frame, 3));
        }
        assert!(!inside.push(Class::Pinned, Contents::Zero, 9, 3), "over the limit");
        assert!(inside.push(Class::Movable, Contents::Unknown, 7, 3));
        assert_eq!(inside.pop(Class::Pinned, Contents::Unknown), None);
        assert_eq!(inside.pop(Class::Pinned, Contents::Zero), Some(2));
        assert_eq!(magazine.held(Class::Pinned), 2);
        let mut seen = std::vec::Vec::new();
        magazine.for_each(|class, contents, frame| seen.push((class, contents, frame)));
        assert_eq!(
            seen,
            [
                (Class::Pinned, Contents::Zero, 0),
                (Class::Pinned, Contents::Zero, 1),
                (Class::Movable, Contents::Unknown, 7)
            ]
        );
    }

    #[test]
    fn capacity_bounds_a_larger_limit() {
        let magazine: Magazine = Magazine::new();
        let inside = magazine.try_enter().unwrap();
        let pushed = (0..1000).filter(|&f| inside.push(Class::Movable, Contents::Unknown, f, 1000)).count();
        assert_eq!(pushed, CAPACITY);
    }
}
