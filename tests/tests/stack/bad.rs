//! One bad input at a time, through the whole stack: what the application sees, and what is left.

use super::application::{fill, holds};
use super::guest::plain;
use super::mangle::{Fate, Mangled};
use super::world::{POOL, SAME, TMEM, World};
use ebb::mm::paged::{Charge, FaultError, Lost, Region};
use ebb::port::PoolKind;
use ebb::swap::pool::Settings;
use ebb::tmem::frontswap::charge;
use ebb::tmem::{Open, PoolError};
use ebb::tunable::Id;
use ebb::units::Frames;
use ebb_tests::model::{Config, Service};
use percpu::host::{Host, OnCpu};
use xen_abi::{Errno, tmem as abi};

/// Pages of the region.
const PAGES: u64 = 40;
/// A value whose page only tmem takes, and one whose page is one word.
const HARD: u64 = 3;
const SAME_WORD: u64 = 5;

/// A guest with a region, whose evicted pages go to tmem if they are not one word: the compressed pool has no room.
struct Rig {
    world: &'static World,
    region: Region,
    open: Option<Open<'static, Host, &'static Mangled>>,
    _cpu: OnCpu,
}

impl Rig {
    fn new() -> Self {
        let config = Config { tmem: Service::Xen412, ..plain(16) };
        let (world, cpu) = World::new(&config, 2, 1);
        let open = world.pool.open(PoolKind::Persistent).expect("an honest hypervisor makes a pool");
        world.compressed.pool().set(&Settings::new(Frames::ZERO));
        world.model.set_limit(world.base + Frames::new(500));
        let region = world.paged.reserve(Frames::new(PAGES), Charge::Whole).expect("there is memory");
        Self { world, region, open: Some(open), _cpu: cpu }
    }

    /// Lets the compressed pool have room.
    fn allow_pool(&self) {
        self.world.compressed.pool().set(&Settings::new(Frames::new(1000)));
    }

    fn write(&self, page: u64, value: u64) {
        let wrote = self.world.access(&self.region, page, |words| fill(words, value));
        assert_eq!(wrote, Ok(()), "page {page}");
    }

    /// Whether the page holds what it should.
    fn reads(&self, page: u64, value: u64) -> Result<bool, FaultError> {
        self.world.access(&self.region, page, |words| holds(words, value))
    }

    /// Evicts what there is, and answers how many pages went.
    fn evict(&self) -> u64 {
        self.world.paged.reclaim(Frames::new(u64::MAX)).freed.get()
    }

    fn in_tmem(&self) -> (u64, u64) {
        (self.world.front.pages_in(TMEM), self.world.model.tmem_persistent_pages())
    }

    /// The region goes, the pool is closed, and nothing is left.
    fn end(mut self) {
        self.world.paged.release(self.region);
        assert_eq!(self.world.front.settle(), 0, "an honest hypervisor settles every doubt");
        if let Some(open) = self.open.take() {
            assert_eq!(open.close(), Ok(()));
        }
        self.world.is_clean();
    }
}

fn lost<R>(result: Result<R, FaultError>) -> Lost {
    match result {
        Err(FaultError::Lost(_, lost)) => lost,
        Err(other) => unreachable!("another error: {other}"),
        Ok(_) => unreachable!("a page that cannot be had is there"),
    }
}

/// Numbers that are no success of a put.
fn garbage() -> impl Iterator<Item = Result<u64, Errno>> {
    let numbers = [0, 2, 17, 4096, u64::from(u32::MAX), u64::MAX >> 1].map(Ok);
    let errors = (1..=40).chain([95, 133, 999, 1000, 1001, 4095]).map(|number| Errno::check(-number));
    numbers.into_iter().chain(errors)
}

#[test]
fn a_put_that_answers_garbage_has_not_stored_and_leaves_nothing() {
    let rig = Rig::new();
    for (round, answer) in garbage().enumerate() {
        let (page, value) = (round as u64 % PAGES, HARD + 5 * round as u64);
        rig.write(page, value);
        for fate in [Fate::DoneAndDenied(answer), Fate::NotDone(answer)] {
            rig.world.port.script(&[fate]);
            let outcome = rig.world.paged.reclaim(Frames::new(1));
            assert_eq!((outcome.freed, rig.in_tmem()), (Frames::ZERO, (0, 0)), "{fate:?}: {outcome:?}");
            assert_eq!(rig.reads(page, value), Ok(true), "it has never left");
        }
        assert_eq!(rig.world.check().doubtful, 0);
        rig.world.paged.discard(&rig.region, page..page + 1).expect("a page of the region");
    }
    rig.end();
}

#[test]
fn a_put_and_its_flush_that_fail_leave_a_doubt_that_is_settled() {
    let rig = Rig::new();
    rig.write(0, HARD);
    let garbage = Err(Errno::EIO);
    rig.world.port.script(&[Fate::DoneAndDenied(garbage), Fate::NotDone(garbage)]);
    assert_eq!(rig.world.paged.reclaim(Frames::new(1)).freed, Frames::ZERO);
    assert_eq!((rig.in_tmem(), rig.world.check().doubtful), ((0, 1), 1), "it is charged for, and nobody's");
    // The hypervisor insists.
    rig.world.port.script(&[Fate::NotDone(garbage)]);
    assert_eq!((rig.world.front.settle(), rig.in_tmem()), (1, (0, 1)));
    assert_eq!((rig.world.front.settle(), rig.in_tmem()), (0, (0, 0)));
    // The next use of such a slot removes what is there, too: here it is used before anybody has settled it.
    for fates in [&[Fate::DoneAndDenied(garbage), Fate::NotDone(garbage)][..], &[]] {
        rig.world.port.script(fates);
        let _ = rig.evict();
    }
    assert_eq!((rig.in_tmem(), rig.world.check().doubtful), ((1, 1), 0));
    assert_eq!(rig.reads(0, HARD), Ok(true));
    rig.end();
}

#[test]
fn a_get_that_answers_garbage_is_an_error_of_that_page_and_never_zeros() {
    let rig = Rig::new();
    (0..PAGES).for_each(|page| rig.write(page, HARD + 5 * page));
    assert_eq!((rig.evict(), rig.in_tmem()), (PAGES, (PAGES, PAGES)));
    let free = rig.world.frames.stats().available();
    let mut errors = 0;
    for (round, answer) in garbage().enumerate() {
        // One page only: it never comes home, whatever was done.
        for fate in [Fate::DoneAndDenied(answer), Fate::NotDone(answer)] {
            // A frame that it will not write to is tried again.
            let times = if answer == Err(Errno::EFAULT) { 4 } else { 1 };
            rig.world.port.script(&vec![fate; times]);
            let lost = lost(rig.reads(0, HARD));
            assert_eq!(lost.holder, "tmem", "{fate:?}: {lost}");
            errors += 1;
        }
        let other = 1 + round as u64 % (PAGES - 1);
        assert_eq!(rig.reads(other, HARD + 5 * other), Ok(true), "the others are there");
    }
    assert_eq!(rig.world.paged.stats().swap_lost, errors);
    assert_eq!(rig.world.front.counters().lost, errors);
    let census = rig.world.check();
    assert_eq!((census.in_tier[TMEM], census.pages), (1, 1));
    assert!(rig.world.frames.stats().available() + Frames::new(PAGES) >= free, "no frame is left behind");
    // It was a passing trouble: the page is as it was.
    assert_eq!(rig.reads(0, HARD), Ok(true));
    rig.end();
}

#[test]
fn a_page_that_was_said_to_be_stored_and_is_not_is_lost_by_name_until_it_is_given_up() {
    let rig = Rig::new();
    rig.write(7, HARD);
    rig.world.port.script(&[Fate::NotDone(Ok(1))]);
    assert_eq!((rig.evict(), rig.in_tmem()), (1, (1, 0)), "the client cannot know");
    for _ in 0..3 {
        let lost = lost(rig.reads(7, HARD));
        assert_eq!((lost.holder, lost.why), ("tmem", "it has no such page"));
    }
    assert_eq!(rig.reads(8, 0), Ok(true), "a page that was never written is zeros");
    // Whoever gives the page up gives the loss up with it.
    rig.world.paged.discard(&rig.region, 7..8).expect("a page of the region");
    assert_eq!(rig.reads(7, 0), Ok(true));
    rig.write(7, HARD);
    assert_eq!((rig.evict(), rig.reads(7, HARD)), (2, Ok(true)));
    rig.end();
}

#[test]
fn a_flush_that_is_denied_is_tried_again_and_one_that_lies_hurts_nobody() {
    let rig = Rig::new();
    for answer in garbage() {
        rig.write(0, HARD);
        assert_eq!(rig.evict(), 1);
        // A get, then the flush: the page comes home, and its copy may stay.
        rig.world.port.script(&[Fate::Honest, Fate::NotDone(answer)]);
        assert_eq!(rig.reads(0, HARD), Ok(true), "{answer:?}");
        assert_eq!(rig.in_tmem(), (0, 1), "{answer:?}");
        let gone = [Errno::ENODEV, Errno::ENOSYS, abi::EFROZEN].map(Err).contains(&answer);
        let doubtful = rig.world.front.validate().expect("frontswap's books balance").doubtful;
        assert_eq!(doubtful, u64::from(!gone), "{answer:?}");
        // The place is used again, for other data, and nobody sees the old.
        rig.write(0, HARD + 5);
        assert_eq!((rig.evict(), rig.in_tmem()), (1, (1, 1)), "{answer:?}");
        assert_eq!(rig.reads(0, HARD + 5), Ok(true), "{answer:?}");
        assert_eq!(rig.in_tmem(), (0, 0), "{answer:?}");
    }
    rig.end();
}

#[test]
fn tmem_that_goes_away_loses_its_pages_by_name_and_the_others_serve() {
    let rig = Rig::new();
    (0..10).for_each(|page| rig.write(page, HARD + 5 * page));
    rig.write(10, SAME_WORD);
    assert_eq!((rig.evict(), rig.in_tmem()), (11, (10, 10)));
    rig.allow_pool();
    // As after a migration that nobody was told of.
    rig.world.model.tmem_restart();
    let lost = lost(rig.reads(3, HARD + 15));
    assert_eq!((lost.holder, lost.why), ("tmem", "it is gone"));
    assert_eq!(rig.reads(10, SAME_WORD), Ok(true), "other tiers have theirs");
    // What leaves from now on goes elsewhere. 1 more than 5 times something compresses.
    for page in 20..30 {
        rig.write(page, 1 + 5 * page);
    }
    assert_eq!(rig.evict(), 11);
    let census = rig.world.front.validate().expect("frontswap's books balance");
    assert_eq!((census.in_tier[SAME], census.in_tier[TMEM], census.in_tier[POOL]), (1, 10, 10));
    assert!((20..30).all(|page| rig.reads(page, 1 + 5 * page) == Ok(true)));
    for page in 0..10 {
        assert!(rig.reads(page, HARD + 5 * page).is_err(), "page {page} is not zeros");
    }
    rig.end();
}

#[test]
fn tmem_that_makes_no_pool_after_all_is_done_without() {
    let mut rig = Rig::new();
    rig.open.take().expect("it is open").close().expect("an honest hypervisor destroys a pool");
    for answer in [Errno::EPERM, Errno::ENOSYS, Errno::ENODEV, Errno::ENOMEM, Errno::EIO] {
        rig.world.port.script(&[Fate::NotDone(Err(answer))]);
        let why = rig.world.pool.open(PoolKind::Persistent).map(drop);
        let expected = if answer == Errno::EPERM { PoolError::NoMore } else { PoolError::Refused(answer) };
        assert_eq!(why, Err(expected));
    }
    rig.allow_pool();
    let calls = rig.world.model.hypercalls();
    (0..PAGES).for_each(|page| rig.write(page, 1 + 5 * page));
    assert_eq!((rig.evict(), rig.in_tmem()), (PAGES, (0, 0)));
    assert_eq!(rig.world.model.hypercalls(), calls, "nobody asks a pool that is not there");
    assert!((0..PAGES).all(|page| rig.reads(page, 1 + 5 * page) == Ok(true)));
    rig.open = Some(rig.world.pool.open(PoolKind::Persistent).expect("now there is one"));
    assert!(rig.evict() > 0);
    rig.end();
}

#[test]
fn full_tiers_are_a_value_and_pages_stay() {
    let rig = Rig::new();
    let world = rig.world;
    world.model.set_limit(world.model.charged() + Frames::new(12));
    (0..PAGES).for_each(|page| rig.write(page, HARD + 5 * page));
    let went = rig.evict();
    let (counted, there) = rig.in_tmem();
    assert!(
        (1..12).contains(&went) && (went, went) == (counted, there),
        "{went} of 12 frames, less metadata"
    );
    let outcome = world.paged.reclaim(Frames::new(PAGES));
    assert!(outcome.freed == Frames::ZERO && (outcome.refused > 0 || outcome.full), "{outcome:?}");
    world.check();
    world.check_charge();
    assert!((0..PAGES).all(|page| rig.reads(page, HARD + 5 * page) == Ok(true)));
    // More than there is: an access that fails, and nothing else that does.
    let stats = world.frames.stats();
    let pages = stats.managed.get() + 100;
    let large = world.paged.reserve(Frames::new(pages), Charge::Whole).expect("promised without a limit");
    let failed = (0..pages).find_map(|page| {
        world.access(&large, page, |words| fill(words, HARD + 5 * page)).err().map(|error| (page, error))
    });
    let Some((failed, FaultError::NoFrame(_))) = failed else { unreachable!("there is no end: {failed:?}") };
    let mut there = 0;
    for page in 0..failed {
        match world.access(&large, page, |words| holds(words, HARD + 5 * page)) {
            Ok(right) => {
                assert!(right, "page {page}");
                there += 1;
            }
            // Those that are in tmem have no frame to come home to.
            Err(error) => assert!(matches!(error, FaultError::NoFrame(_)), "page {page}: {error}"),
        }
    }
    assert!(there + 12 >= failed, "{there} of {failed} pages");
    world.check();
    world.paged.release(large);
    assert!((0..PAGES).all(|page| rig.reads(page, HARD + 5 * page) == Ok(true)));
    rig.end();
}

#[test]
fn given_up_its_pages_go_on_and_come_home_or_it_stays() {
    let mut rig = Rig::new();
    let world = rig.world;
    // Half compress, and all are in tmem.
    (0..PAGES).for_each(|page| rig.write(page, if page % 2 == 0 { HARD } else { 1 } + 5 * page));
    assert_eq!((rig.evict(), rig.in_tmem()), (PAGES, (PAGES, PAGES)));
    rig.allow_pool();
    // A hypervisor that gives nothing back: the pool stays open, and nothing is lost.
    world.port.mangle_one_in(1);
    let open = rig.open.take().expect("it is open");
    let Err(open) = world.give_up(open) else { unreachable!("nothing could leave, and it was closed") };
    world.port.mangle_one_in(0);
    assert!(world.pool.is_open());
    assert!(world.give_up(open).is_ok());
    assert_eq!(
        (rig.in_tmem(), world.pool.is_open(), world.model.tmem_charged()),
        ((0, 0), false, Frames::ZERO)
    );
    let census = world.check();
    assert_eq!(census.in_tier[POOL], PAGES / 2, "what compresses went on");
    assert_eq!(world.paged.stats().resident, Frames::new(PAGES / 2), "and the others came home");
    // Given up, it gets nothing; taken up again, it begins empty.
    let _ = rig.evict();
    assert_eq!(rig.in_tmem(), (0, 0));
    rig.open = Some(world.pool.open(PoolKind::Persistent).expect("an honest hypervisor makes a pool"));
    assert_eq!((rig.evict(), rig.in_tmem()), (PAGES / 2, (PAGES / 2, PAGES / 2)));
    for page in 0..PAGES {
        assert_eq!(rig.reads(page, if page % 2 == 0 { HARD } else { 1 } + 5 * page), Ok(true), "page {page}");
    }
    assert!(world.tunables.is_on(Id::SwapTmem));
    rig.end();
}

#[test]
fn what_tmem_is_charged_is_accounted_for_and_is_not_the_balloons() {
    let rig = Rig::new();
    let world = rig.world;
    (0..PAGES).for_each(|page| rig.write(page, HARD + 5 * page));
    world.balloon.validate().expect("nothing is there yet");
    assert_eq!((rig.evict(), rig.in_tmem()), (PAGES, (PAGES, PAGES)));
    let slots = world.space.slots().count();
    let told = || charge(world.front.pages_in(TMEM), slots);
    world.balloon.validate_beside(told).expect("the books balance");
    assert!(world.balloon.validate().is_err(), "tmem's frames are no frames of the balloon's");
    assert!(world.balloon.validate_beside(|| 1000..=2000).is_err(), "so much is not charged");
    assert!(world.balloon.validate_beside(|| 0..=PAGES - 1).is_err(), "and no less than the pages");
    assert!((0..PAGES).all(|page| rig.reads(page, HARD + 5 * page) == Ok(true)));
    world.balloon.validate_beside(told).expect("the books balance");
    world.balloon.validate().expect("nothing is there any more");
    rig.end();
}
