//! The scheduler on the simulated machine. A failing run prints its seed; `run(Config::new(cpus, seed), …)` repeats it.

mod deadlocks;
mod parallel;
mod programs;
mod scheduling;
mod threads;
mod waiting;
mod workers;

use super::sim::{Config, Sim, run};
use super::*;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::vec::Vec;

/// Runs `main` on machines with 1 to 4 CPUs, each with `seeds` seeds.
fn everywhere(seeds: u64, main: impl Fn(Sim) + Copy + Send + 'static) {
    for cpus in 1..=4 {
        for seed in 0..seeds {
            run(Config::new(cpus, seed), main);
        }
    }
}

/// Spins for `steps` instructions.
fn compute(sim: Sim, steps: u64) {
    for _ in 0..steps {
        sim.step();
    }
}
