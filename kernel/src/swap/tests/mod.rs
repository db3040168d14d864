//! The tiers and swap space over the real pool, with frames that can run out.

mod space;
mod tiers;

use percpu::host::{Host, OnCpu};
use workload::random::Rng;

use super::Page as Contents;
use super::pool::tests::{HostFrames, config, machine, page};
use super::pool::{Config, Pool, Settings};
use super::tiers::PoolTier;
use crate::mm::page::Page;
use crate::tmem::tier::{Slot, SwapType};
use crate::units::{FRAME_SIZE, Frames};

/// Slots of the tests: as few as there can be.
const SLOTS: u64 = 512;

type TestTier = PoolTier<&'static HostFrames, Host>;

fn swap() -> SwapType {
    SwapType::new(3).unwrap()
}

fn slot(offset: u64) -> Slot {
    Slot { swap: swap(), offset }
}

/// A tier over a pool that may have so many frames, and a CPU to run on.
fn pool_tier(limit: u64) -> (&'static TestTier, &'static HostFrames, Host, OnCpu) {
    let (host, cpu) = machine(1);
    let frames: &HostFrames = std::boxed::Box::leak(std::boxed::Box::new(HostFrames::new()));
    let config = Config { settings: Settings::new(Frames::new(limit)), ..config(256) };
    let pool = Pool::new(frames, host, config).unwrap();
    let tier = std::boxed::Box::leak(std::boxed::Box::new(PoolTier::new(pool, swap(), SLOTS).unwrap()));
    (tier, frames, host, cpu)
}

/// The page of a slot: it becomes some 500 bytes.
fn contents(offset: u64) -> Contents {
    page(480, offset + 1)
}

/// A page that does not get smaller.
fn noise() -> Contents {
    let (mut rng, mut page) = (Rng::new(5), [0; FRAME_SIZE]);
    page.chunks_mut(8).for_each(|part| part.copy_from_slice(&rng.draw().to_le_bytes()));
    page
}

/// A page whose words are all the same.
fn filled(word: u64) -> Page<'static> {
    let mut page = Page::leaked();
    page.fill(word);
    page
}
