//! The magazines of the frame allocator: a frame is in one place, and whoever takes it sees what was written to it.

use crate::interrupt;
use crate::model::{Model, tests};
use lock::{Gate, LocalGate, SharedGate};
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::thread;
use magazine::{Inside, Magazine};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

#[allow(dead_code, unreachable_pub, reason = "the kernel's source; the models do not need all of it")]
#[path = "../../src/mm/frame/lock.rs"]
mod lock;
#[allow(dead_code, unreachable_pub, reason = "the kernel's source; the models do not need all of it")]
#[path = "../../src/mm/frame/magazine.rs"]
mod magazine;

/// In the place of the kernel's `primitive.rs`.
mod primitive {
    pub(super) use crate::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32};
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
        drop(memory.magazine.try_enter_parked());
        assert!(memory.give(0) && memory.give(1));
        Arc::new(memory)
    }

    /// Takes a frame, if the gate is open and there is one.
    fn take(&self) -> Option<u32> {
        self.magazine.visit(Magazine::try_enter, |inside| inside.pop(KIND), |_| {})?
    }

    /// Gives one back, if the gate is open.
    fn give(&self, frame: u32) -> bool {
        self.magazine.visit(Magazine::try_enter, |inside| inside.push(KIND, frame), |_| {}) == Some(true)
    }

    /// Writes to a frame that was taken.
    fn write(&self, frame: u32) {
        // SAFETY: taken.
        self.frames[frame as usize].with_mut(|memory| unsafe { *memory += 1 });
    }

    /// Takes a frame, writes to it and gives it back, twice; answers the frames that it could not give back.
    fn work(&self) -> Vec<u32> {
        let mut kept = Vec::new();
        for _ in 0..2 {
            let Some(frame) = self.take() else { continue };
            self.write(frame);
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
            taken.iter().for_each(|&frame| memory.write(frame));
            taken
        })
    };
    let mut all = Vec::new();
    for _ in 0..2 {
        // As the kernel does it: the fast way, or else the way that ends the parking.
        let magazine = &memory.magazine;
        let inside = magazine.try_enter().or_else(|| magazine.try_enter_parked());
        if let Some(frame) = inside.and_then(|inside| inside.pop(KIND)) {
            memory.write(frame);
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

/// What the buddy system was given.
struct Given {
    /// Which frames. Not of the model: it is looked at when all is over.
    frames: Mutex<Vec<u32>>,
    /// How many, without any order of its own.
    count: AtomicU32,
}

/// A CPU works, while another asks for its frames, wants its magazine, and rings it each time. The interrupt may come
/// at any time.
fn called() {
    let memory = Memory::<LocalGate>::new();
    let given = Arc::new(Given { frames: Mutex::new(Vec::new()), count: AtomicU32::new(0) });
    let empty = {
        let given = Arc::clone(&given);
        move |inside: &Inside<'_, LocalGate>| {
            let taken: Vec<_> = inside.pop_many(KIND, 2).collect();
            given.count.fetch_add(taken.len() as u32, Relaxed);
            given.frames.lock().unwrap().extend(taken);
        }
    };
    let bell = {
        let (memory, empty) = (Arc::clone(&memory), empty.clone());
        interrupt::take(move || memory.magazine.answer(&empty))
    };
    let other = {
        let (memory, given) = (Arc::clone(&memory), Arc::clone(&given));
        thread::spawn(move || {
            let magazine = &memory.magazine;
            assert!(magazine.ask());
            bell.ring();
            // For ever.
            core::mem::forget(magazine.want());
            bell.ring();
            if !magazine.is_asked() {
                // The CPU may hold one itself.
                assert!(given.count.load(Relaxed) > 0, "it says that it has given its frames");
            }
            let inside = magazine.try_enter_afar()?;
            inside.pop(KIND).inspect(|&frame| memory.write(frame))
        })
    };
    let mut all = Vec::new();
    let frame = memory.magazine.visit(Magazine::try_enter, |inside| inside.pop(KIND), &empty);
    if let Some(frame) = frame.flatten() {
        memory.write(frame);
        let put = memory.magazine.visit(Magazine::try_enter, |inside| inside.push(KIND, frame), &empty);
        if put != Some(true) {
            all.push(frame);
        }
    }
    all.extend(other.join().unwrap());
    interrupt::end();
    // Whatever the CPU was doing when it was rung: it does not have to come by again.
    assert!(memory.magazine.try_enter().is_none(), "wanted");
    let afar = memory.magazine.try_enter_afar();
    assert!(afar.is_some(), "parked");
    all.extend(given.frames.lock().unwrap().iter());
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

const CALLED: Model =
    Model { name: "magazine: a CPU that others call, with interrupts", preemptions: Some(3), run: called };

tests! {
    a_called_cpu_answers_and_its_frames_are_in_one_place: CALLED;
    mutant_one_look: CALLED catches OneLook;
    mutant_deaf_leave: CALLED catches DeafLeave;
    mutant_relaxed_heed: CALLED catches RelaxedHeed;
    mutant_split_heed: CALLED catches SplitHeed;
    mutant_relaxed_park_when_called: CALLED catches RelaxedPark;
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
