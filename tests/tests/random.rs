//! Random reservation calls against the smallest possible idea of a domain: a set of frames that are there.
#![expect(unsafe_code, reason = "releases and populates the model's frames")]

use ebb::port::MemoryOps;
use ebb::units::{Frames, Gfn, Order};
use ebb_tests::model::{Config, Model, Slot};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The second and third block of RAM.
const FIRST: u64 = 512;
const LAST: u64 = 1536;

#[derive(Clone, Debug)]
enum Step {
    Release(u8, Vec<u64>),
    Populate(u8, Vec<u64>),
    Limit(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let extents = || {
        (prop_oneof![Just(0), Just(0), 0..=10_u8, Just(9)], prop::collection::vec(FIRST..LAST - 512, 0..6))
    };
    prop_oneof![
        4 => extents().prop_map(|(order, list)| Step::Release(order, list)),
        4 => extents().prop_map(|(order, list)| Step::Populate(order, list)),
        1 => (0..600_u64).prop_map(Step::Limit),
    ]
}

/// What is mapped, and what was mapped over.
struct Reference {
    there: BTreeSet<u64>,
    lost: u64,
    limit: u64,
    elsewhere: u64,
}

impl Reference {
    fn charged(&self) -> u64 {
        self.there.len() as u64 + self.lost + self.elsewhere
    }

    fn release(&mut self, order: u8, list: &[u64]) -> usize {
        let frames = if order > 9 { return 0 } else { 1_u64 << order };
        list.iter()
            .take_while(|first| (**first..**first + frames).all(|frame| self.there.remove(&frame)))
            .count()
    }

    fn populate(&mut self, order: u8, list: &[u64]) -> usize {
        let frames = if order > 9 { return 0 } else { 1_u64 << order };
        let mut one = |first: u64| {
            if self.charged() + frames > self.limit {
                return false;
            }
            for frame in first..first + frames {
                self.lost += u64::from(!self.there.insert(frame));
            }
            true
        };
        list.iter().take_while(|first| one(**first)).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_model_is_a_set_of_frames(steps in prop::collection::vec(step(), 1..24), seed: u64) {
        let model = Model::new(Config { maximum_mib: 8, memory_mib: 8, host_mib: 64, seed, ..Config::default() });
        let mut reference = Reference {
            there: (FIRST..LAST).collect(),
            lost: 0,
            limit: 2048 + 256,
            elsewhere: model.charged().get() - (LAST - FIRST),
        };
        for step in steps {
            let gfns = |list: &[u64]| list.iter().copied().map(Gfn::new).collect::<Vec<_>>();
            let order = |order| Order::new(order).unwrap_or(Order::MAX);
            match step {
                Step::Release(exponent, list) => {
                    // SAFETY: no object of this test lives in the model's RAM.
                    let done = unsafe { model.xen().decrease_reservation(order(exponent), &gfns(&list)) };
                    prop_assert_eq!(done.map(|done| done.count()), Ok(reference.release(exponent, &list)));
                }
                Step::Populate(exponent, list) => {
                    // SAFETY: no object of this test lives in the model's RAM.
                    let done = unsafe { model.xen().populate_physmap(order(exponent), &gfns(&list)) };
                    prop_assert_eq!(done.map(|done| done.count()), Ok(reference.populate(exponent, &list)));
                }
                Step::Limit(room) => {
                    reference.limit = 1800 + room;
                    model.set_limit(Frames::new(reference.limit));
                }
            }
            prop_assert_eq!(model.charged().get(), reference.charged());
            prop_assert_eq!(model.leaked().get(), reference.lost);
            for frame in FIRST..LAST {
                let there = model.slot(Gfn::new(frame)) != Slot::Hole;
                prop_assert_eq!(there, reference.there.contains(&frame), "frame {}", frame);
            }
            prop_assert_eq!(model.validate(), Ok(()));
        }
    }
}
