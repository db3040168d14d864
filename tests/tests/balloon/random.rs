//! A hundred thousand steps under random faults, the same on every run.

use super::guest::{BLOCK, CPU, Guest, S, booted, plain};
use ebb::balloon::{Budget, NoEvacuation, Outcome, Scratch};
use ebb::mm::frame::{Contents, Extent, Request, Use};
use ebb::units::{Frames, Order};
use ebb_tests::model::Config;
use std::collections::VecDeque;
use workload::random::Rng;
use xen_abi::{Errno, hypercall, memory};

const STEPS: u64 = 100_000;

/// Something of the host or the hypervisor goes wrong, or right again.
fn fault(guest: &Guest<'_>, random: &mut Rng) {
    let commands = [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP];
    let command = commands[random.below(2) as usize];
    match random.below(12) {
        0..=3 => guest.model.cut_short(command, random.below(3), random.below(8), random.below(512)),
        4 => guest.model.refuse(hypercall::MEMORY_OP, Some(u64::from(command)), Errno::ENOSYS),
        5 => guest.model.refuse(hypercall::HVM_OP, None, Errno::ENOSYS),
        6 => guest.model.host_take_all_but(Frames::new(random.below(2 * BLOCK))),
        7 => guest.model.host_fragment(),
        8 => guest.model.set_limit(guest.plan.base.saturating_sub(Frames::new(random.below(4 * BLOCK)))),
        9 => guest.map.limit_tables(Some(random.below(3))),
        10 => guest.map.limit_tables(None),
        _ => {
            guest.model.host_give_back();
            guest.model.set_limit(guest.plan.base + Frames::new(244));
        }
    }
}

/// The guest's own memory, with something written into it.
struct Held<'g, 'h> {
    guest: &'h Guest<'g>,
    extents: VecDeque<Extent>,
}

impl Held<'_, '_> {
    fn tag(extent: &Extent) -> u64 {
        0xCAFE_0000_0000 + extent.first().get()
    }

    fn take(&mut self, order: Order) {
        let request = Request::new(Use::Paged, CPU).order(order);
        let extent = self.guest.frames.alloc(request).or_else(|_| {
            let _ = self.guest.balloon.deflate_now(order.frames());
            self.guest.frames.alloc(request)
        });
        if let Ok(extent) = extent {
            self.guest.model.write(extent.first(), 5, Self::tag(&extent));
            self.extents.push_back(extent);
        }
    }

    fn give(&mut self) {
        if let Some(extent) = self.extents.pop_front() {
            assert_eq!(self.guest.model.read(extent.first(), 5), Self::tag(&extent), "{extent:?} was lost");
            self.guest.frames.free(extent, Contents::Unknown, CPU).expect("our own");
        }
    }
}

fn run(config: &Config, seed: u64, steps: u64) {
    booted(config, 1, |guest| {
        // A debt is paid before anything else.
        while guest.step(0).outcome == Outcome::More {}
        guest.balloon.set_ceiling(guest.plan.base);
        let mut random = Rng::new(seed);
        let mut scratch = Scratch::new();
        let mut held = Held { guest, extents: VecDeque::new() };
        let (mut now, mut out) = (S, guest.plan.give_back.get());
        for step in 0..steps {
            now += random.below(S / 2);
            match random.below(16) {
                0..=5 => out = (out + random.below(24)).saturating_sub(12),
                6 if random.one_in(24) => out = random.below(6 * BLOCK),
                7 if random.one_in(4) => fault(guest, &mut random),
                8..=10 => held.take(Order::FRAME),
                11..=12 => held.give(),
                13 if random.one_in(40) => held.take(Order::BLOCK),
                14 if random.one_in(100) => drop(guest.balloon.deflate_now(Frames::new(random.below(100)))),
                _ => {
                    guest.balloon.set_target(guest.plan.base.saturating_sub(Frames::new(out)));
                    let budget = Budget {
                        frames: Frames::new(random.below(BLOCK) + 1),
                        list: random.below(3) as usize,
                        ..Budget::DEFAULT
                    };
                    let _ = guest.balloon.step(now, &budget, &mut scratch, &NoEvacuation);
                }
            }
            if step.is_multiple_of(steps / 20) {
                let accounts = guest.balloon.validate();
                assert!(accounts.is_ok(), "step {step}: {accounts:?}");
                guest.model.validate().expect("the model's books balance");
            }
        }
        let status = guest.balloon.status();
        assert!(status.exchange.release_refusals > 0 && status.exchange.populate_refusals > 0, "{status:?}");
        // All is well again: everything comes back.
        while !held.extents.is_empty() {
            held.give();
        }
        guest.frames.drain(CPU);
        guest.model.host_give_back();
        guest.model.set_limit(guest.plan.base + Frames::new(244));
        guest.map.limit_tables(None);
        // What is left of the script of faults is used up by trying.
        for _ in 0..200 {
            now += 60 * S;
            let _ = guest.hold_out_at(0, now);
        }
        assert_eq!(guest.balloon.exchange().stranded(), Frames::ZERO);
        assert_eq!((guest.ballooned(), guest.balloon.exchange().limbo()), (0, Frames::ZERO));
        guest.check();
        assert_eq!(guest.frames.stats().whole_blocks, config.maximum_mib / 2 - 1);
    });
}

#[test]
fn a_hundred_thousand_steps_under_random_faults() {
    run(&plain(16), 0xBA11_0077, STEPS);
}

#[test]
fn other_seeds_and_memory_on_demand() {
    for seed in 1..4 {
        run(&plain(16), seed, STEPS / 50);
        let config = Config { maximum_mib: 24, memory_mib: 16, ..plain(24) };
        run(&config, seed, STEPS / 50);
    }
}
