//! Random operations beside a map, checked from the ground up again and again.

use std::collections::HashMap;

use super::*;
use crate::swap::pool::Refused;

struct Model<'p, 'f> {
    pool: &'p TestPool<'f>,
    held: HashMap<Handle, (usize, u64)>,
    order: Vec<Handle>,
    rng: Rng,
}

impl Model<'_, '_> {
    fn any(&mut self) -> Option<Handle> {
        let count = self.order.len() as u64;
        (count > 0).then(|| self.order[self.rng.below(count) as usize])
    }

    fn forget(&mut self, handle: Handle) {
        assert!(self.held.remove(&handle).is_some());
        self.order.retain(|other| *other != handle);
    }

    fn check(&self, handle: Handle, page: &Page) {
        let (bytes, seed) = self.held[&handle];
        assert!(*page == super::page(bytes, seed), "{handle:?} has {bytes} bytes of seed {seed}");
    }

    fn step(&mut self) {
        let mut buffer = [0; FRAME_SIZE];
        match self.rng.below(100) {
            0..45 => {
                // Sizes of all magnitudes, with some that do not fit.
                let most = 16 << self.rng.below(9);
                let (bytes, seed) = (1 + self.rng.below(most) as usize, self.rng.draw());
                let bytes = bytes.min(3300);
                match self.pool.store(&page(bytes, seed)) {
                    Ok(handle) => {
                        assert!(self.held.insert(handle, (bytes, seed)).is_none(), "{handle:?} twice");
                        self.order.push(handle);
                    }
                    Err(Refused::Incompressible { bytes: packed }) => assert!(packed > 3072 && bytes > 2900),
                    Err(Refused::Limit | Refused::NoFrame) => {}
                }
            }
            45..70 => {
                if let Some(handle) = self.any() {
                    self.pool.load(handle, &mut buffer).unwrap();
                    self.check(handle, &buffer);
                }
            }
            70..92 => {
                if let Some(handle) = self.any() {
                    self.pool.free(handle).unwrap();
                    assert_eq!(self.pool.load(handle, &mut buffer), Err(Fault::NotStored));
                    self.forget(handle);
                }
            }
            92..97 => {
                let verdict = if self.rng.below(3) == 0 { Verdict::Keep } else { Verdict::Taken };
                let evicted = evict(self.pool, &mut buffer, |handle, page| {
                    self.check(handle, page);
                    verdict
                });
                match (evicted, verdict) {
                    (Evicted::Taken(handle), Verdict::Taken) => self.forget(handle),
                    (Evicted::Kept(handle), Verdict::Keep) => assert!(self.held.contains_key(&handle)),
                    (Evicted::Nothing, _) => assert!(self.held.is_empty()),
                    other => unreachable!("{other:?}"),
                }
            }
            _ => {
                self.pool.compact();
            }
        }
        assert_eq!(self.pool.stats().stored, self.held.len() as u64);
    }
}

fn run(seed: u64, shards: usize, capacity: u64, settings: Settings, frames_left: Option<u32>, steps: usize) {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    frames.limit(frames_left);
    let config = Config { shards, settings, ..config(capacity) };
    let pool = TestPool::new(&frames, host, config).unwrap();
    let mut model = Model { pool: &pool, held: HashMap::new(), order: Vec::new(), rng: Rng::new(seed) };
    for at in 0..steps {
        model.step();
        if at % 8 == 0
            && let Err(wrong) = pool.validate()
        {
            unreachable!("seed {seed} step {at}: {wrong}");
        }
        assert_eq!(pool.stats().frames().get(), frames.held());
        assert!(frames.held() <= settings.limit.get());
    }
    let mut buffer = [0; FRAME_SIZE];
    for handle in model.order.clone() {
        pool.load(handle, &mut buffer).unwrap();
        model.check(handle, &buffer);
        pool.free(handle).unwrap();
    }
    assert_eq!(frames.held(), 0);
    pool.validate().unwrap();
}

#[test]
fn with_plenty_of_room() {
    for seed in 0..8 {
        run(seed, 1, 1024, Settings::new(Frames::new(1024)), None, 1500);
    }
}

#[test]
fn in_several_shards() {
    for seed in 10..14 {
        run(seed, 3, 1024, Settings::new(Frames::new(1024)), None, 1500);
    }
}

#[test]
fn at_the_limit() {
    for seed in 20..26 {
        run(seed, 1, 1024, Settings::new(Frames::new(12)), None, 1500);
        run(seed, 2, 10, Settings::new(Frames::new(1024)), None, 1500);
    }
}

#[test]
fn with_few_frames() {
    for seed in 30..36 {
        run(seed, 1, 1024, Settings::new(Frames::new(1024)), Some(9), 1500);
    }
}

#[test]
fn without_and_with_eager_sliding() {
    for seed in 40..44 {
        let limit = Frames::new(1024);
        run(seed, 1, 1024, Settings { overhead_percent: 1000, ..Settings::new(limit) }, None, 1500);
        run(
            seed,
            1,
            1024,
            Settings { overhead_percent: 0, slides: u64::MAX, ..Settings::new(limit) },
            None,
            1500,
        );
    }
}
