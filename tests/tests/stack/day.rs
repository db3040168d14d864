//! 24 hours in which everything goes wrong at times, and nothing is lost.
//!
//! The application wants more than there is, drifts, and checks what it reads. Meanwhile tmem refuses, freezes, fails in
//! the middle of a put, loses what it may lose, answers nonsense and changes its mind; the domain's limit goes down and
//! up, the host runs out of memory, the hypervisor takes and gives less than it was asked for; the operator turns things
//! off and on, tmem among them. Every so often all is well for a moment, and all books must agree, to the page.

use super::application::{Application, File};
use super::guest::{S, plain};
use super::mangle::Mangled;
use super::world::{POOL, SAME, TMEM, Worker, World, drain_magazines};
use ebb::port::PoolKind;
use ebb::tmem::Open;
use ebb::tunable::Id;
use ebb::units::{Frames, Gfn};
use ebb_tests::conformance::tmem::{Control, Fault};
use ebb_tests::model::{Config, Service};
use percpu::host::Host;
use std::time::Duration;
use workload::random::Rng;
use xen_abi::{Errno, hypercall, memory};

const DAY_S: u64 = 24 * 3600;
/// Everything is well, and everybody's books are compared, every so often.
const TRUCE_S: u64 = 1800;
/// Pages of the application, of which it rarely wants all: twice the memory.
const PAGES: u64 = 7000;
const FILE_PAGES: u64 = 400;
/// Pages that it uses, fills and gives up in one go.
const PACE: u64 = 30;
/// What a processor of the host may need for a day.
const BUDGET: Duration = Duration::from_secs(30);

/// The day, with what goes on in it.
struct Day {
    world: &'static World,
    worker: Worker,
    application: Application,
    file: File,
    random: Rng,
    open: Option<Open<'static, Host, &'static Mangled>>,
    config: Config,
    /// Frames that count as not plain.
    odd: Vec<Gfn>,
    /// What the tiers had at most.
    most: [u64; 3],
    given_up: u64,
    /// How far it has grown.
    grown: u64,
}

impl Day {
    /// Something of the host or the hypervisor goes wrong.
    fn fault(&mut self) {
        let (world, model, own) = (self.world, self.world.model, self.config.domid);
        let random = &mut self.random;
        match random.below(18) {
            0 | 16 | 17 => world.port.mangle_one_in(2 + random.below(30)),
            1 => drop(model.tmem_control(Control::Freeze(Some(own)))),
            2 => drop(model.tmem_control(Control::Thaw(Some(own)))),
            3 => {
                // Below what is used, too.
                let used = model.charged().get();
                model.set_limit(Frames::new((used + random.below(600)).saturating_sub(200)));
            }
            4 => model.host_take_all_but(Frames::new(random.below(1200))),
            5 => while random.below(100) > 0 && model.tmem_evict() {},
            6 | 7 => {
                let faults = [Fault::PreCheck, Fault::Metadata, Fault::Data, Fault::Copy];
                model.tmem_fail(faults[random.below(4) as usize]);
            }
            8 | 9 => {
                // Not a freeze: what answers so to a flush has carried it out.
                let errors = [Errno::ENOMEM, Errno::EFAULT, Errno::EIO, Errno::EPERM, Errno::ENOSPC];
                model.refuse(hypercall::TMEM_OP, None, errors[random.below(5) as usize]);
            }
            10 => drop(model.tmem_control(Control::SetCompress(own, random.below(2) == 0))),
            11 => {
                // Frames into which tmem will not write, as while a domain is migrated live.
                let frame = Gfn::new(random.below(model.ram_frames().get()));
                model.tmem_set_plain(frame, false);
                self.odd.push(frame);
            }
            12 | 13 => {
                let commands = [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP];
                let command = commands[random.below(2) as usize];
                model.cut_short(command, random.below(3), random.below(8), random.below(512));
            }
            14 => {
                let commands = [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP];
                let command = u64::from(commands[random.below(2) as usize]);
                model.refuse(hypercall::MEMORY_OP, Some(command), Errno::ENOMEM);
            }
            _ => self.recover(),
        }
    }

    /// All is well again.
    fn recover(&mut self) {
        let (world, model) = (self.world, self.world.model);
        world.port.mangle_one_in(0);
        let thawed = model.tmem_control(Control::Thaw(Some(self.config.domid)));
        assert_eq!(thawed.code, 0, "the domain is a client");
        model.host_give_back();
        self.roomy();
        for frame in self.odd.drain(..) {
            model.tmem_set_plain(frame, true);
        }
    }

    /// The limit is what `xl` sets for a domain of this size: there is room for tmem as the balloon makes some.
    fn roomy(&self) {
        self.world.model.set_limit(self.world.base + Frames::new(244));
    }

    /// The operator sets something.
    fn tune(&mut self) {
        let settings = [
            (Id::Selfballooning, 0, 4),
            (Id::FrontswapSelfshrinking, 0, 4),
            (Id::SwapEvict, 0, 6),
            (Id::SelfballoonInterval, 1, 30),
            (Id::SelfballoonDownhysteresis, 1, 12),
            (Id::SelfballoonUphysteresis, 1, 4),
            (Id::FrontswapHysteresis, 1, 24),
            (Id::FrontswapInertia, 1, 6),
            (Id::SwapPoolMaxPercent, 0, 80),
            (Id::SwapTmem, 0, 3),
        ];
        let (id, least, range) = settings[self.random.below(settings.len() as u64) as usize];
        let mut value = least + self.random.below(range);
        if matches!(id, Id::Selfballooning | Id::FrontswapSelfshrinking | Id::SwapEvict | Id::SwapTmem) {
            // Mostly on.
            value = value.min(1);
        }
        self.world.tunables.set(id, &value.to_string()).expect("a value that it accepts");
        let managed = self.world.frames.stats().managed;
        let percent = self.world.tunables.number(Id::SwapPoolMaxPercent);
        self.world.compressed.pool().set(&ebb::swap::pool::Settings::percent_of(managed, percent));
    }

    /// What `swap.tmem` says is done, as far as the hypervisor goes along.
    fn obey(&mut self) {
        match (self.world.tunables.is_on(Id::SwapTmem), self.open.take()) {
            (true, None) => self.open = self.world.pool.open(PoolKind::Persistent).ok(),
            (false, Some(open)) => match self.world.give_up(open) {
                Ok(()) => self.given_up += 1,
                Err(open) => self.open = Some(open),
            },
            (_, unchanged) => self.open = unchanged,
        }
    }

    /// The application does something around `focus`, within `wish` pages.
    fn work(&mut self, focus: u64, wish: u64) {
        let size = self.application.size();
        // Mostly what is near its beginning, and at times all of it.
        for _ in 0..PACE {
            let range = if self.random.below(4) == 0 { wish } else { wish / 3 };
            let page = (focus + self.random.below(range)) % size;
            match self.random.below(8) {
                0 | 1 => self.application.write(page),
                _ => self.application.read(page),
            }
        }
        // It grows to what it wishes.
        for _ in 0..PACE {
            self.grown = (self.grown + 1) % wish;
            let page = (focus + self.grown) % size;
            if !self.application.has(page) {
                self.application.write(page);
            }
        }
        // What lies far from the focus is given up, a little at a time.
        for _ in 0..PACE {
            let page = self.random.below(size);
            if (page + size - focus) % size >= wish {
                let look = self.random.one_in(16);
                self.application.discard(page, look);
            }
        }
        for _ in 0..4 {
            let index = self.random.below(FILE_PAGES);
            self.file.act(index, &mut self.random);
        }
    }

    /// All is well for a moment, and everything is compared.
    fn truce(&mut self) {
        self.recover();
        // What is left of the script of refusals is used up.
        for _ in 0..64 {
            let _ = self.world.model.xen().probe_tmem();
        }
        for _ in 0..4 {
            if self.world.front.settle() == 0 {
                break;
            }
        }
        let census = self.world.check();
        assert_eq!(census.doubtful, 0, "an honest hypervisor settles every doubt");
        self.world.check_charge();
    }

    fn look(&mut self) {
        for (tier, most) in self.most.iter_mut().enumerate() {
            *most = (*most).max(self.world.front.pages_in(tier));
        }
    }
}

fn day(seed: u64, seconds: u64) {
    let began = cpu_time();
    println!("seed {seed:#x}, {seconds} s");
    let config = Config { tmem: Service::Xen412, seed, ..plain(16) };
    let (world, _cpu) = World::new(&config, 2, seed);
    let mut day = Day {
        world,
        worker: Worker::new(world),
        application: Application::new(world, PAGES),
        file: File::new(world),
        random: Rng::new(seed),
        open: Some(world.pool.open(PoolKind::Persistent).expect("an honest hypervisor makes a pool")),
        config,
        odd: Vec::new(),
        most: [0; 3],
        given_up: 0,
        grown: 0,
    };
    day.roomy();
    let (mut focus, mut wish, mut truces) = (0, 5000, 0);
    // It begins large.
    (0..wish).for_each(|page| day.application.write(page));
    while day.worker.now_ns < seconds * S {
        match day.random.below(32) {
            0..=5 => day.fault(),
            6..=8 => day.recover(),
            9 | 10 => day.tune(),
            11 => {
                wish = 300 + day.random.below(PAGES - 1000);
                focus = day.random.below(PAGES);
            }
            12 => focus = (focus + day.random.below(200)) % PAGES,
            _ => {}
        }
        day.obey();
        day.work(focus, wish);
        day.look();
        let pause_ns = day.random.below(70 * S);
        day.world.model.pass_ns(pause_ns);
        day.worker.pass(pause_ns);
        world.host.rcu().quiesce();
        if day.worker.now_ns / S / TRUCE_S > truces {
            truces = day.worker.now_ns / S / TRUCE_S;
            day.truce();
        }
    }
    let Day { application, worker, file, most, given_up, .. } = &day;
    let (stats, counters) = (world.paged.stats(), world.front.counters());
    println!(
        "{:.1} s: {} pages verified, {} refused, {} asked again; {} out, {} in, {} lost at a time; most in tiers \
         {most:?}; {} calls mangled, {} doubtful puts, given up {given_up} times; {} decisions, {} pages shrunk; {} \
         clean pages found; {counters:?}",
        (cpu_time() - began).as_secs_f64(),
        application.verified,
        application.refused,
        application.retried,
        stats.swap_outs,
        stats.swap_ins,
        stats.swap_lost,
        world.port.mangled(),
        world.pool.doubtful(),
        worker.decisions,
        worker.shrunk,
        file.hits,
    );
    let clean = file.counters();
    assert_eq!(file.hits, clean.succ_gets, "{clean:?}");
    assert!(application.verified > 0 && most[SAME] > 50 && most[TMEM] > 100 && most[POOL] > 100, "{most:?}");
    if seconds >= DAY_S {
        // The day was one: all of it was used, and went wrong.
        assert!(
            application.verified > 10_000 && worker.decisions > 1000 && stats.swap_ins > 5000,
            "{stats:?}"
        );
        assert!(counters.failed_stores > 1000 && counters.lost > 20, "it was an honest one: {counters:?}");
        assert!(world.pool.doubtful() > 50 && *given_up > 0 && worker.shrunk > 100, "it was an easy one");
        assert!(clean.succ_gets > 100 && clean.failed_gets > 100, "{clean:?}");
    }
    end(day);
    let took = cpu_time() - began;
    assert!(seconds < DAY_S || took < BUDGET, "{took:?} is too long for {seconds} s");
}

/// What this thread has had of a processor so far: others may want the host, too.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "the host's clock of this thread")]
    // SAFETY: the structure is ours, and of the type that the call fills.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the host has such a clock");
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// The day is over: everything comes home, and nothing was lost.
fn end(mut day: Day) {
    day.truce();
    for (id, value) in [
        (Id::Selfballooning, "0"),
        (Id::FrontswapSelfshrinking, "1"),
        (Id::SwapEvict, "1"),
        (Id::SwapTmem, "1"),
    ] {
        day.world.tunables.set(id, value).expect("a value that it accepts");
    }
    let world = day.world;
    day.application.verify();
    day.truce();
    day.application.end();
    assert_eq!((world.front.curr_pages(), world.paged.stats().resident), (0, Frames::ZERO));
    day.file.end();
    drop(day.open.take());
    // Whether it was open, or half closed while the hypervisor would not have it: it goes now.
    world.pool.tear_down().expect("an honest hypervisor destroys a pool");
    // The balloon is empty in the end; what is left of the script of refusals is used up by trying.
    for round in 0..60 {
        let ceiling = world.base.saturating_sub(Frames::new(if round % 2 == 0 { 1024 } else { 0 }));
        day.worker.ceiling = world.balloon.set_ceiling(ceiling);
        world.balloon.set_target(ceiling);
        world.balloon.retry();
        day.worker.pass(64 * S);
    }
    assert_eq!(world.balloon.ballooned(), Frames::ZERO, "{:?}", world.balloon.status());
    drain_magazines(world);
    world.check_charge();
    world.is_clean();
}

#[test]
fn a_day_of_the_whole_stack_with_tmem_that_fails_in_every_way() {
    day(0xDA1_57AC, DAY_S);
}

#[test]
fn hours_with_other_seeds() {
    for seed in 1..4 {
        day(seed, 2 * 3600);
    }
}
