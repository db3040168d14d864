//! The magazines of the frame allocator: a frame is in one place, and whoever takes it sees what was written to it.

use crate::model::{Model, tests};
use lock::{Gate, LocalGate, SharedGate};
use loom::cell::UnsafeCell;
use loom::thread;
use magazine::Magazine;
use std::sync::Arc;

#[allow(dead_code, unreachable_pub, reason = "the kernel's source; the models do not need all of it")]
#[path = "../../src/mm/frame/lock.rs"]
mod lock;
#[allow(dead_code, unreachable_pub, reason = "the kernel's source; the models do not need all of it")]
#[path = "../../src/mm/frame/magazine.rs"]
mod magazine;

/// In the place of the kernel's `primitive.rs`.
mod primitive {
    pub(super) use crate::atomic::{AtomicBool, AtomicU8, AtomicU32};
    pub(super) use core::sync::atomic::{Ordering, compiler_fence};
}

mod entry {
    pub(super) use ebb::mm::frame::Class;
}

mod token {
    pub(super) use ebb::mm::frame::Contents;
}

const KIND: magazine::Kind = magazine::Kind::Pinned;

/// A magazine, and the memory of two frames.
struct Memory<G> {
    magazine: Magazine<G>,
    frames: [UnsafeCell<u32>; 2],
}

// SAFETY: a frame's memory belongs to whoever has taken the frame; loom reports it if two have.
unsafe impl<G: Gate> Sync for Memory<G> {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl<G: Gate> Send for Memory<G> {}

impl<G: Gate> Memory<G> {
    /// Both frames are in the magazine.
    fn new() -> Arc<Self> {
        let frames = [UnsafeCell::new(0), UnsafeCell::new(0)];
        let memory = Self { magazine: Magazine::new(), frames };
        assert!(memory.give(0) && memory.give(1));
        Arc::new(memory)
    }

    /// Takes a frame, if the gate is open and there is one.
    fn take(&self) -> Option<u32> {
        self.magazine.try_enter()?.pop(KIND)
    }

    /// Gives one back, if the gate is open.
    fn give(&self, frame: u32) -> bool {
        self.magazine.try_enter().is_some_and(|inside| inside.push(KIND, frame))
    }

    /// Takes a frame, writes to it and gives it back, twice; answers the frames that it could not give back.
    fn work(&self) -> Vec<u32> {
        let mut kept = Vec::new();
        for _ in 0..2 {
            let Some(frame) = self.take() else { continue };
            // SAFETY: taken.
            self.frames[frame as usize].with_mut(|memory| unsafe { *memory += 1 });
            if !self.give(frame) {
                kept.push(frame);
            }
        }
        kept
    }
}

fn two_cpus<G: Gate + 'static>() {
    let memory = Memory::<G>::new();
    let other = {
        let memory = Arc::clone(&memory);
        thread::spawn(move || memory.work())
    };
    let mut all = memory.work();
    all.extend(other.join().unwrap());
    memory.magazine.for_each(|_, frame| all.push(frame));
    all.sort_unstable();
    assert_eq!(all, [0, 1], "each frame is in one place");
}

/// A CPU works, sleeps, is woken and works again, while another empties what it finds parked.
fn sleeper() {
    let memory = Memory::<LocalGate>::new();
    let other = {
        let memory = Arc::clone(&memory);
        thread::spawn(move || {
            let Some(inside) = memory.magazine.try_enter_afar() else { return Vec::new() };
            let taken: Vec<_> = inside.pop_many(KIND, 2).collect();
            for &frame in &taken {
                // SAFETY: taken.
                memory.frames[frame as usize].with_mut(|memory| unsafe { *memory += 1 });
            }
            taken
        })
    };
    let mut all = Vec::new();
    for _ in 0..2 {
        // As the kernel does it: the fast way, or else the way that ends the parking.
        let magazine = &memory.magazine;
        let inside = magazine.try_enter().or_else(|| magazine.try_enter_parked());
        if let Some(frame) = inside.and_then(|inside| inside.pop(KIND)) {
            // SAFETY: taken.
            memory.frames[frame as usize].with_mut(|memory| unsafe { *memory += 1 });
            if !memory.give(frame) {
                all.push(frame);
            }
        }
        magazine.park();
    }
    all.extend(other.join().unwrap());
    memory.magazine.for_each(|_, frame| all.push(frame));
    all.sort_unstable();
    assert_eq!(all, [0, 1], "each frame is in one place");
}

const SHARED: Model =
    Model { name: "magazine: two CPUs, a gate for anybody", preemptions: None, run: two_cpus::<SharedGate> };
/// What the rule of that gate forbids.
const LOCAL: Model =
    Model { name: "magazine: two CPUs, a gate for one", preemptions: None, run: two_cpus::<LocalGate> };

const SLEEPER: Model =
    Model { name: "magazine: a CPU that sleeps, and one that drains", preemptions: None, run: sleeper };

tests! {
    a_sleeping_cpus_frame_is_in_one_place: SLEEPER;
    mutant_relaxed_park: SLEEPER catches RelaxedPark;
    mutant_relaxed_wake: SLEEPER catches RelaxedWake;
    mutant_drained_while_awake: SLEEPER catches DrainedAwake;
    a_frame_is_in_one_place: SHARED;
    mutant_relaxed_leave: SHARED catches RelaxedLeave;
    mutant_relaxed_enter: SHARED catches RelaxedEnter;
    mutant_split_enter: SHARED catches SplitEnter;
    mutant_a_gate_for_one_cpu: LOCAL catches OneCpuGate;
}
