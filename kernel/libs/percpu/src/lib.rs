//! Per-CPU data, RCU, per-CPU reference counts and counters, and the spin lock under them.
//!
//! One source serves a kernel, the host and a model checker: everything that depends on where it runs is behind
//! the traits of [`platform`], and all atomics come through [`primitive`], which loom replaces under `cfg(loom)`.
//! The modules, lowest first:
//!
//! | module | what lives there |
//! |---|---|
//! | [`primitive`] | atomics and cells: `core`'s, or loom's |
//! | [`platform`] | what the crate needs of its surroundings; [`CpuPin`] and [`IrqOff`] |
//! | [`report`], [`misuse`] | trouble as values: noticed, and refused |
//! | [`lock`] | a spin lock that names a deadlock |
//! | [`data`], [`words`] | a value per CPU; which per-CPU words are in use |
//! | [`gs`] | the fast paths as x86-64 instructions |
//! | [`rcu`] | grace periods and callbacks |
//! | [`mod@reference`] | reference counts that are one unlocked add while their object lives |
//! | [`counter`] | counters that are one unlocked add, read approximately |
//! | [`host`] | the platform whose CPUs are threads |
#![no_std]

extern crate alloc;
#[cfg(all(not(target_os = "none"), not(loom)))]
extern crate std;

pub mod counter;
pub mod data;
#[cfg(all(target_arch = "x86_64", not(loom)))]
pub mod gs;
#[cfg(all(not(target_os = "none"), not(loom)))]
pub mod host;
pub mod lock;
pub mod misuse;
#[cfg(not(loom))]
mod mutation;
#[cfg(loom)]
pub mod mutation;
pub mod platform;
pub mod primitive;
pub mod rcu;
pub mod reference;
pub mod report;
pub mod words;

pub use counter::PercpuCounter;
pub use data::{CachePadded, PerCpu};
pub use lock::{SpinGuard, SpinLock};
pub use misuse::Misuse;
pub use platform::{CpuId, CpuPin, Cpus, IrqOff, MAX_CPUS, Pinned, Platform, TAGS, WordIndex, Words};
pub use rcu::Rcu;
pub use reference::{
    Dying, Events, Inspection, Kind, OneShot, Owner, PercpuRef, Ref, Refs, Refused, Reusable, Start,
};
pub use report::Report;
pub use words::WordPool;

/// The examples of the README, as tests.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
