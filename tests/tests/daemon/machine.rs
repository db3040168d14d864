//! A guest with everything that makes it elastic, and a clock that only the test moves.
//!
//! What the image's `elastic` module does with threads, [`Machine`] does in a loop: the daemon steps when it said that it
//! would, or at once when there is a cause.

use super::application::Application;
use super::guest::{Guest, S, booted};
use ebb::balloon::toolstack::TargetRule;
use ebb::balloon::{Budget, Disagreement, Outcome, Reason, Scratch};
use ebb::daemon::{Cause, Daemon, Observed, Progress, Toolstack, Verdict};
use ebb::port::MemoryOps;
use ebb::tunable::{Group, Id, Tunables};
use ebb::units::{Frames, Kib};
use ebb_tests::model::Config;
use policy::Decision;
use std::sync::atomic::Ordering;

/// Steps at one instant that nobody needs: the worker would spin.
const SPIN: u32 = 4096;
/// How often the application does something.
pub(crate) const TICK_NS: u64 = S / 10;
/// What it takes or gives in that time: 40 MiB/s.
pub(crate) const PACE: Frames = Frames::new(1024);

pub(crate) struct Machine<'h, 'g> {
    pub(crate) guest: &'h Guest<'g>,
    pub(crate) tunables: Tunables,
    pub(crate) application: Application<'h, 'g>,
    pub(crate) toolstack: Toolstack,
    verdict: Option<Verdict>,
    daemon: Daemon,
    scratch: Box<Scratch>,
    budget: Budget,
    pub(crate) now_ns: u64,
    next_ns: Option<u64>,
    changed: bool,
    generation: u64,
    /// The last decision, and how many there were.
    pub(crate) decision: Option<Decision>,
    pub(crate) decisions: u64,
    pub(crate) steps: u64,
    /// The last that the balloon had to say.
    pub(crate) outcome: Option<Outcome>,
}

/// A guest as its command line has it, that has just begun.
pub(crate) fn elastic<R>(config: &Config, options: &[(Id, &str)], test: impl FnOnce(&mut Machine<'_, '_>) -> R) -> R {
    booted(config, 4, |guest| {
        let first = Kib::new(config.memory_mib << 10);
        test(&mut Machine::new(guest, Some(Kib::new(config.maximum_mib << 10)), first, options))
    })
}

impl<'h, 'g> Machine<'h, 'g> {
    pub(crate) fn new(
        guest: &'h Guest<'g>,
        static_max: Option<Kib>,
        first: Kib,
        options: &[(Id, &str)],
    ) -> Self {
        let (plan, balloon) = (&guest.plan, &guest.balloon);
        if plan.is_urgent() {
            balloon.set_target(plan.target());
            while guest.step(0).outcome == Outcome::More {}
        }
        let tunables = Tunables::new();
        for (id, value) in options {
            tunables.set(*id, value).expect("a value that it accepts");
        }
        tunables.resolve_for(guest.frames.stats().present());
        tunables.serve(Group::Selfballoon);
        let rule = TargetRule::new(plan, static_max, first, least(guest));
        let ceiling = rule.apply(first).target;
        balloon.set_ceiling(ceiling);
        Self {
            guest,
            generation: tunables.generation(),
            tunables,
            application: Application::new(guest),
            toolstack: Toolstack::new(rule, ceiling),
            verdict: None,
            daemon: Daemon::new(),
            scratch: Box::new(Scratch::new()),
            budget: Budget::DEFAULT,
            now_ns: 0,
            next_ns: Some(0),
            changed: false,
            decision: None,
            decisions: 0,
            steps: 0,
            outcome: None,
        }
    }

    /// The toolstack writes its target: as the consumer of the watch has it.
    pub(crate) fn wish(&mut self, text: &[u8]) -> Verdict {
        let verdict = self.toolstack.wish(text);
        if self.verdict.replace(verdict) != Some(verdict)
            && let Verdict::Followed { ceiling, .. } = verdict
        {
            self.guest.balloon.set_ceiling(ceiling);
            self.guest.balloon.retry();
            self.changed = true;
        }
        verdict
    }

    /// `xl mem-set`: the limit, and then the target.
    pub(crate) fn mem_set(&mut self, mib: u64) -> Verdict {
        self.guest.model.set_target_mib(mib);
        self.wish((mib << 10).to_string().as_bytes())
    }

    /// An operator sets a tunable.
    pub(crate) fn set(&mut self, id: Id, value: &str) {
        self.tunables.set(id, value).expect("a value that it accepts");
    }

    /// Begins the clock anew, with a daemon that has decided nothing.
    pub(crate) fn restart(&mut self) {
        (self.daemon, self.now_ns, self.next_ns) = (Daemon::new(), 0, Some(0));
        self.guest.balloon.retry();
    }

    /// What may be promised to the application.
    pub(crate) fn commit_limit(&self) -> Frames {
        let stats = self.guest.frames.stats();
        let withheld = self.guest.balloon.base().saturating_sub(self.toolstack.ceiling());
        [stats.pinned, stats.watermarks.high, withheld].into_iter().fold(stats.managed, Frames::saturating_sub)
    }

    pub(crate) fn charged(&self) -> Frames {
        self.guest.model.charged()
    }

    /// One step.
    pub(crate) fn step(&mut self) -> Progress {
        let (guest, application) = (self.guest, &self.application);
        let generation = self.tunables.generation();
        let cause = Cause {
            urgent: application.urgent.swap(false, Ordering::AcqRel),
            changed: core::mem::take(&mut self.changed) || generation != self.generation,
        };
        self.generation = generation;
        guest.balloon.set_scrub(self.tunables.is_on(Id::ScrubPages));
        let ceiling = self.toolstack.ceiling();
        let observe = || Observed {
            frames: guest.frames.stats(),
            committed: application.committed,
            resident: application.resident(),
            active: application.resident(),
            inactive: Frames::ZERO,
            swapped: Frames::ZERO,
            swap: false,
            reservation: guest
                .balloon
                .exchange()
                .port()
                .current_reservation()
                .unwrap_or(guest.balloon.reservation()),
            base: guest.balloon.base(),
            ceiling,
            taken: application.taken.load(Ordering::Relaxed),
            refaulted: 0,
            stalls: application.stalls.load(Ordering::Relaxed),
            stall_ns: application.stall_ns(),
        };
        let progress = self.daemon.step(
            self.now_ns,
            cause,
            &self.tunables.settings(),
            observe,
            &guest.balloon,
            &self.budget,
            &mut self.scratch,
            application,
        );
        self.next_ns = progress.next_ns;
        self.outcome = Some(progress.moved.outcome);
        self.steps += 1;
        if let Some(decision) = progress.decision {
            self.decision = Some(decision);
            self.decisions += 1;
            assert!(decision.target_frames <= ceiling.get().min(guest.balloon.base().get()), "{decision:?}");
        }
        progress
    }

    fn has_cause(&self) -> bool {
        self.changed
            || self.application.urgent.load(Ordering::Acquire)
            || self.tunables.generation() != self.generation
    }

    /// Lets the daemon run until `until_ns`.
    pub(crate) fn pass_until(&mut self, until_ns: u64) {
        let mut at_once = 0;
        loop {
            let due_ns = if self.has_cause() { Some(self.now_ns) } else { self.next_ns };
            let Some(due_ns) = due_ns.filter(|due_ns| *due_ns <= until_ns) else { break };
            at_once = if due_ns > self.now_ns { 0 } else { at_once + 1 };
            assert!(at_once < SPIN, "the worker spins at {} ns: {:?}", self.now_ns, self.outcome);
            self.now_ns = self.now_ns.max(due_ns);
            let _ = self.step();
        }
        self.now_ns = until_ns;
    }

    /// Lets the daemon run for a while, the application staying as it is.
    pub(crate) fn pass(&mut self, ns: u64) {
        self.pass_until(self.now_ns + ns);
    }

    /// Lets the application move towards `wish` for one tick, and the daemon run. Answers whether it got there.
    pub(crate) fn tick(&mut self, wish: Frames) -> bool {
        let limit = self.commit_limit();
        let there = self.application.want(wish, limit, PACE);
        self.pass(TICK_NS);
        there
    }

    /// The same until `until_ns`, with a look after each tick.
    pub(crate) fn load_until(&mut self, wish: Frames, until_ns: u64, mut look: impl FnMut(&Self)) {
        while self.now_ns < until_ns {
            let _ = self.tick(wish);
            look(self);
        }
    }

    /// All books agree, and the application has what it wrote.
    pub(crate) fn check(&self) {
        self.guest.check();
        self.application.verify();
    }

    /// The same while calls may be refused and frames be in limbo: then the hypervisor's own number may be unknown, but
    /// what is counted adds up.
    pub(crate) fn check_under_faults(&self) {
        self.application.verify();
        self.guest.model.validate().expect("the model's books balance");
        self.guest.frames.validate().expect("the frame table's books balance");
        match self.guest.balloon.validate() {
            Ok(accounts) => {
                assert_eq!(self.guest.map.hidden(), accounts.ballooned + self.guest.balloon.exchange().limbo());
            }
            // The question itself was refused.
            Err(Disagreement::Unanswered(_)) => {}
            Err(wrong) => unreachable!("the balloon's books do not balance: {wrong}"),
        }
        assert_eq!((self.guest.model.leaked(), self.guest.model.crash()), (Frames::ZERO, None));
    }

    /// The application ends, the host is as it was, selfballooning ends: everything comes back, and nothing was lost.
    pub(crate) fn end(&mut self, maximum_mib: u64) {
        self.application.end();
        self.set(Id::Selfballooning, "0");
        self.guest.model.host_give_back();
        self.guest.map.limit_tables(None);
        let _ = self.wish(b"1");
        let _ = self.mem_set(maximum_mib);
        self.pass(120 * S);
        self.check();
        let status = self.guest.balloon.status();
        assert_eq!((status.ballooned, status.limbo), (Frames::ZERO, Frames::ZERO), "{status:?}");
        assert_eq!(self.guest.balloon.exchange().stranded(), Frames::ZERO);
        assert_eq!(self.charged(), self.guest.balloon.base());
        assert_eq!(self.guest.frames.stats().movable, Frames::ZERO);
        assert_eq!(self.guest.frames.stats().whole_blocks, maximum_mib / 2 - 1, "every block is whole again");
    }

    /// Why the balloon does not move, if it says that it cannot.
    pub(crate) fn held(&self) -> Option<Reason> {
        match self.outcome {
            Some(Outcome::Held(reason, _)) => Some(reason),
            _ => None,
        }
    }
}

/// The least target that is accepted, as the image has it.
fn least(guest: &Guest<'_>) -> Frames {
    const ROOM: Frames = Frames::new(2 * 256);
    let stats = guest.frames.stats();
    guest.balloon.base().saturating_sub(stats.managed) + stats.pinned + stats.watermarks.high + ROOM
}

pub(crate) fn mib(mib: u64) -> Frames {
    Frames::new(mib * 256)
}
