//! A day in which everything goes wrong at times: random loads, tunables, wishes, storms, and a fault at every turn. The
//! seed is printed; every thread but those of a storm does the same on every run.

use super::guest::{S, plain};
use super::machine::{Machine, TICK_NS, elastic, mib};
use ebb::balloon::Scratch;
use ebb::mm::frame::Use;
use ebb::tunable::Id;
use ebb::units::{Frames, VcpuId};
use ebb_tests::model::Config;
use workload::random::Rng;
use xen_abi::{Errno, hypercall, memory};

const DAY_S: u64 = 24 * 3600;
/// Every so often everybody's books are compared.
const CHECK_S: u64 = 1800;
const BLOCK: u64 = 512;

/// Something of the host or the hypervisor goes wrong, or right again.
fn fault(machine: &Machine<'_, '_>, random: &mut Rng) {
    let (model, map) = (&machine.guest.model, &machine.guest.map);
    let commands = [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP, memory::CURRENT_RESERVATION];
    let command = commands[random.below(3) as usize];
    let error = [Errno::ENOSYS, Errno::EPERM, Errno::ENOMEM][random.below(3) as usize];
    match random.below(12) {
        0..=3 => model.cut_short(
            commands[random.below(2) as usize],
            random.below(3),
            random.below(8),
            random.below(512),
        ),
        4 | 5 => model.refuse(hypercall::MEMORY_OP, Some(u64::from(command)), error),
        6 => model.refuse(hypercall::HVM_OP, None, error),
        7 => model.host_take_all_but(Frames::new(random.below(8 * BLOCK))),
        8 => model.host_fragment(),
        9 => model.set_limit(machine.guest.plan.base.saturating_sub(Frames::new(random.below(16 * BLOCK)))),
        10 if random.one_in(6) => map.limit_tables(Some(random.below(3))),
        _ => recover(machine),
    }
}

/// All is well again.
fn recover(machine: &Machine<'_, '_>) {
    machine.guest.model.host_give_back();
    machine.guest.model.set_limit(machine.guest.plan.base + Frames::new(244));
    machine.guest.map.limit_tables(None);
}

/// Somebody sets something.
fn tune(machine: &mut Machine<'_, '_>, random: &mut Rng) {
    let numbers = [
        (Id::SelfballoonInterval, 60),
        (Id::SelfballoonDownhysteresis, 20),
        (Id::SelfballoonUphysteresis, 4),
        (Id::SelfballoonMinUsableMb, 24),
        (Id::SelfballoonReservedMb, 8),
        (Id::PressureDecayS, 120),
        (Id::PressureHeadroomMb, 8),
        (Id::PressureHeadroomPercent, 50),
        // Mostly on.
        (Id::Selfballooning, 4),
        (Id::FrontswapSelfshrinking, 4),
        (Id::ScrubPages, 4),
        (Id::SelfballoonReachGoal, 4),
    ];
    let words = [
        (Id::Policy, &["committed", "pressure"][..]),
        (Id::Generation, &["first", "second", "last"]),
        (Id::Arithmetic, &["compatible", "fixed"]),
    ];
    let pick = random.below((numbers.len() + words.len()) as u64) as usize;
    if let Some((id, bound)) = numbers.get(pick) {
        let value = random.below(*bound);
        let switch = matches!(
            id,
            Id::Selfballooning | Id::FrontswapSelfshrinking | Id::ScrubPages | Id::SelfballoonReachGoal
        );
        let value = if switch { value.min(1) } else { value };
        // Zero is refused where it makes no sense, and changes nothing.
        let _ = machine.tunables.set(*id, &value.to_string());
    } else if let Some((id, words)) = words.get(pick - numbers.len()) {
        let word = words[random.below(words.len() as u64) as usize];
        assert!(machine.tunables.set(*id, word).is_ok(), "{id:?} is {word}");
    }
}

/// The toolstack, or somebody who should not, writes a target.
fn wish(machine: &mut Machine<'_, '_>, random: &mut Rng, maximum_mib: u64) {
    let text = match random.below(8) {
        0 => "0".to_string(),
        1 => "much".to_string(),
        2 => u64::MAX.to_string(),
        3 => (maximum_mib << 10).to_string(),
        _ => random.below(maximum_mib << 10).to_string(),
    };
    let _ = machine.wish(text.as_bytes());
}

/// All CPUs are in need at once, while the worker steps.
fn storm(machine: &mut Machine<'_, '_>, random: &mut Rng) {
    let seed = random.below(u64::MAX >> 16);
    std::thread::scope(|scope| {
        let application = &machine.application;
        let threads: Vec<_> = (1..4)
            .map(|cpu| {
                scope.spawn(move || application.storm(VcpuId::new(cpu), 2, 1500, seed + u64::from(cpu)))
            })
            .collect();
        let mut scratch = Scratch::new();
        let (mut now_ns, budget) = (machine.now_ns, ebb::balloon::Budget::DEFAULT);
        while threads.iter().any(|thread| !thread.is_finished()) {
            now_ns += S;
            let _ = machine.guest.balloon.step(now_ns, &budget, &mut scratch, application);
            std::thread::yield_now();
        }
        for thread in threads {
            thread.join().expect("no thread saw a lost frame");
        }
    });
}

fn day(config: &Config, seed: u64, seconds: u64) {
    println!("seed {seed:#x}, {seconds} s");
    elastic(config, &[], |machine| {
        let mut random = Rng::new(seed);
        let maximum_mib = config.maximum_mib;
        let (mut load, mut checked_s, mut storms) = (mib(4), 0, 0);
        let mut kernel = Vec::new();
        while machine.now_ns < seconds * S {
            // What happens, happens every half minute or so.
            match random.below(64) {
                0..=19 => load = mib(random.below(maximum_mib * 3 / 4)),
                20..=37 => fault(machine, &mut random),
                38..=42 => recover(machine),
                43..=49 => tune(machine, &mut random),
                50..=54 => wish(machine, &mut random, maximum_mib),
                // The toolstack comes to its senses.
                55 => {
                    let _ = machine.mem_set(maximum_mib);
                }
                // The kernel's own memory grows, where it cannot be moved, and shrinks.
                56..=58 => kernel.extend(machine.guest.use_frames(random.below(40), Use::Kernel)),
                59 | 60 => machine.guest.give_up(std::mem::take(&mut kernel)),
                61 => drop(machine.guest.balloon.deflate_now(Frames::new(random.below(2000)))),
                62 if random.one_in(4) => {
                    storm(machine, &mut random);
                    storms += 1;
                }
                _ => {}
            }
            for _ in 0..1 + random.below(4) {
                let limit = machine.commit_limit();
                let _ = machine.application.want(load, limit, Frames::new(1 + random.below(4 * BLOCK)));
                machine.pass(random.below(20 * S));
                assert!(machine.charged() <= machine.guest.balloon.base());
            }
            if machine.now_ns / S / CHECK_S > checked_s {
                checked_s = machine.now_ns / S / CHECK_S;
                machine.check_under_faults();
            }
        }
        let status = machine.guest.balloon.status();
        let exchange = &status.exchange;
        println!(
            "{} steps, {} decisions, {storms} storms, {} emergencies, {} frames refused, {exchange:?}",
            machine.steps, machine.decisions, status.emergencies, machine.application.failures
        );
        assert!(exchange.release_refusals > 0 && exchange.populate_refusals > 0, "{exchange:?}");
        machine.guest.give_up(kernel);
        recover(machine);
        // What is left of the script of faults is used up by trying: memory goes to and fro.
        machine.set(Id::Selfballooning, "0");
        for round in 0..60 {
            let _ = machine.mem_set(if round % 2 == 0 { maximum_mib - 4 } else { maximum_mib });
            machine.pass(64 * S);
        }
        machine.pass(TICK_NS);
        machine.end(maximum_mib);
    });
}

#[test]
fn a_day_with_faults_at_every_turn() {
    day(&plain(16), 0xDA7, DAY_S);
}

#[test]
fn an_hour_with_other_seeds_and_memory_on_demand() {
    for seed in 1..3 {
        day(&plain(24), seed, DAY_S / 24);
        day(&Config { memory_mib: 20, ..plain(32) }, seed, DAY_S / 24);
    }
}
