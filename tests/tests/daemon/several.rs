//! Several guests on one host whose memory is smaller than the sum of their peaks.
//!
//! Each guest has a model of its own; what the others hold, its model's host has not. The pool is settled before each
//! tick of each guest, and nothing else runs in between: what one sees free is free.

use super::guest::{S, plain};
use super::machine::{Machine, TICK_NS, elastic, mib};
use ebb::tunable::Id;
use ebb::units::Frames;

const GUESTS: usize = 3;
/// What a guest may have at most, what it wants at its peak and otherwise, MiB.
const MAXIMUM: u64 = 64;
const PEAK: u64 = 44;
const TROUGH: u64 = 4;
/// What the host has for all of them together: less than two thirds of their peaks and their kernels' needs.
const POOL: u64 = 108;
/// The length of a peak: one guest after the other.
const PHASE_S: u64 = 120;
const CYCLES: u64 = 2;

/// A phase begins when the one before ends: so long it may take until the new one has what the old one gives up.
const GRACE_S: u64 = 10;

/// What a guest wants at a time.
fn wish(guest: usize, now_ns: u64) -> Frames {
    let phase = now_ns / S / PHASE_S % GUESTS as u64;
    mib(if phase == guest as u64 { PEAK } else { TROUGH })
}

/// What became of the guests.
#[derive(Debug, Default)]
struct Served {
    /// Ticks in which a guest had less than it wanted, longer than [`GRACE_S`] into the phase.
    late: u64,
    /// The most that all of them held together.
    most: Frames,
}

/// What is asked of a machine, however long its parts live.
trait Tenant {
    fn begin(&mut self, mem_mib: Option<u64>);
    fn charged(&self) -> Frames;
    /// Lets it run for a tick on a host that has `free`; answers whether it has what it wants.
    fn tick(&mut self, free: Frames, wish: Frames) -> bool;
    fn check(&self);
}

impl Tenant for Machine<'_, '_> {
    fn begin(&mut self, mem_mib: Option<u64>) {
        if let Some(mib) = mem_mib {
            let _ = self.mem_set(mib);
        }
        self.load_until(mib(TROUGH), 60 * S, |_| {});
        self.restart();
    }

    fn charged(&self) -> Frames {
        Machine::charged(self)
    }

    fn tick(&mut self, free: Frames, wish: Frames) -> bool {
        self.guest.model.host_leave(free);
        let _ = Machine::tick(self, wish);
        self.application.resident() >= wish
    }

    fn check(&self) {
        Machine::check(self);
    }
}

fn run(tenants: &mut [&mut dyn Tenant], mem_mib: Option<u64>) -> Served {
    // One is started after the other, and makes room for the next.
    tenants.iter_mut().for_each(|tenant| tenant.begin(mem_mib));
    let mut served = Served::default();
    let mut now_ns = 0;
    while now_ns < CYCLES * GUESTS as u64 * PHASE_S * S {
        for index in 0..tenants.len() {
            let used: u64 = tenants.iter().map(|tenant| tenant.charged().get()).sum();
            served.most = served.most.max(Frames::new(used));
            let has_all = tenants[index].tick(mib(POOL).saturating_sub(Frames::new(used)), wish(index, now_ns));
            served.late += u64::from(!has_all && now_ns / S % PHASE_S > GRACE_S);
        }
        now_ns += TICK_NS;
    }
    tenants.iter().for_each(|tenant| tenant.check());
    served
}

fn together(options: &[(Id, &str)], mem_mib: Option<u64>) -> Served {
    let config = plain(MAXIMUM);
    elastic(&config, options, |one| {
        elastic(&config, options, |two| elastic(&config, options, |three| run(&mut [one, two, three], mem_mib)))
    })
}

#[test]
fn phase_shifted_guests_share_a_host_that_is_too_small_for_their_peaks() {
    let quick = [
        (Id::SelfballoonMinUsableMb, "4"),
        (Id::SelfballoonInterval, "1"),
        (Id::SelfballoonDownhysteresis, "1"),
    ];
    assert!(GUESTS as u64 * PEAK > POOL, "the host is too small for all peaks at once");
    let pressure = [(Id::Policy, "pressure"), (Id::SelfballoonInterval, "1"), (Id::PressureDecayS, "3")];
    for options in [quick, pressure] {
        let served = together(&options, None);
        assert!(served.most <= mib(POOL), "{options:?}: {served:?}");
        assert_eq!(served.late, 0, "{options:?}: everybody has what it wants soon: {served:?}");
    }
}

#[test]
fn the_same_guests_with_an_equal_share_each_are_not_served() {
    let served = together(&[(Id::Selfballooning, "0")], Some(POOL / GUESTS as u64));
    assert!(served.most <= mib(POOL) + mib(1), "{served:?}");
    // Each peak, for all of its time.
    let peak_ticks = (PHASE_S - GRACE_S - 1) * S / TICK_NS;
    assert!(served.late >= CYCLES * GUESTS as u64 * peak_ticks, "{served:?}");
}
