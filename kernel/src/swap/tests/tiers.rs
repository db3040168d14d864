//! Each tier by itself: what it keeps, what it refuses, and what it says of names that are not its.

use super::*;
use crate::swap::pool::tests::damage::{Kind, flip};
use crate::swap::tiers::SameTier;
use crate::tmem::tier::{Load, Loss, Refusal, Store, Tier};

fn store(tier: &impl Tier, offset: u64, contents: &Contents) -> Store {
    tier.store(slot(offset), &Page::with(contents))
}

fn load(tier: &impl Tier, offset: u64) -> Result<Contents, Loss> {
    // Something that nobody stored.
    let mut page = filled(0xBAD);
    match tier.load(slot(offset), &mut page) {
        Load::Loaded => Ok(page.to_bytes()),
        Load::Failed(why) => Err(why),
    }
}

/// What every tier does with names that are not its own, or that nobody has stored.
fn misused(tier: &impl Tier, slots: u64, page: &Page<'_>) {
    let other = SwapType::new(4).unwrap();
    let names = [slot(slots), slot(u64::MAX), slot(1 << 32), Slot { swap: other, offset: 0 }];
    for name in names {
        assert_eq!(tier.store(name, page), Store::Refused(Refusal::NoName), "{name}");
        assert_eq!(tier.load(name, &mut filled(0)), Load::Failed(Loss::Missing), "{name}");
        assert_eq!(tier.invalidate(name), Ok(()), "{name}");
    }
    assert_eq!(tier.init(swap(), slots), Ok(()));
    assert_eq!(tier.init(swap(), slots + 1), Err(Refusal::NoName));
    assert_eq!(tier.init(other, 1), Err(Refusal::NoName));
    assert_eq!(tier.load(slot(7), &mut filled(0)), Load::Failed(Loss::Missing));
    assert_eq!(tier.invalidate(slot(7)), Ok(()), "what is not there is gone");
}

#[test]
fn a_page_of_one_word_is_kept_in_it() {
    let tier = SameTier::new(swap(), 100).unwrap();
    misused(&tier, 100, &filled(1));
    for (offset, word) in [(0, 0), (63, u64::MAX), (64, 7), (99, 0x0102_0304_0506_0708)] {
        assert_eq!(tier.store(slot(offset), &filled(word)), Store::Stored);
        assert_eq!(load(&tier, offset), Ok(filled(word).to_bytes()));
    }
    assert_eq!(tier.pages(), 4);
    assert_eq!(tier.store(slot(63), &filled(8)), Store::Stored);
    assert_eq!((tier.pages(), load(&tier, 63)), (4, Ok(filled(8).to_bytes())), "in place of the old one");
    // What it refuses takes the old page with it.
    assert_eq!(store(&tier, 64, &contents(1)), Store::Refused(Refusal::Unsuitable));
    assert_eq!((tier.pages(), load(&tier, 64)), (3, Err(Loss::Missing)));
    for _ in 0..2 {
        assert_eq!(tier.invalidate(slot(0)), Ok(()));
        assert_eq!((tier.pages(), load(&tier, 0)), (2, Err(Loss::Missing)), "twice is once");
    }
    assert_eq!(load(&tier, 99), Ok(filled(0x0102_0304_0506_0708).to_bytes()), "neighbours stay");
    assert_eq!((tier.invalidate_area(swap()), tier.pages()), (Ok(()), 0));
    assert!(!tier.is_crowded() && tier.coldest().is_none());
}

#[test]
fn the_pool_keeps_pages_by_slot() {
    let (tier, frames, _, _cpu) = pool_tier(256);
    misused(tier, SLOTS, &Page::with(&contents(1)));
    (0..64).for_each(|offset| assert_eq!(store(tier, offset, &contents(offset)), Store::Stored));
    assert!((0..64).all(|offset| load(tier, offset) == Ok(contents(offset))));
    assert_eq!(store(tier, 9, &contents(900)), Store::Stored);
    assert_eq!(
        (load(tier, 9), tier.pool().stats().stored),
        (Ok(contents(900)), 64),
        "in place of the old one"
    );
    for _ in 0..2 {
        assert_eq!((tier.invalidate(slot(9)), load(tier, 9)), (Ok(()), Err(Loss::Missing)));
        assert_eq!(tier.pool().stats().stored, 63);
    }
    assert_eq!((tier.invalidate_area(swap()), frames.held()), (Ok(()), 0));
    tier.pool().validate().unwrap();
}

#[test]
fn what_does_not_get_small_is_refused_and_the_old_page_is_gone() {
    let (tier, frames, _, _cpu) = pool_tier(256);
    assert_eq!(store(tier, 1, &contents(1)), Store::Stored);
    assert_eq!(store(tier, 1, &noise()), Store::Refused(Refusal::Unsuitable));
    assert_eq!((load(tier, 1), frames.held()), (Err(Loss::Missing), 0));
    let stats = tier.pool().stats();
    assert_eq!((stats.refused_incompressible, tier.is_crowded()), (1, false));
}

#[test]
fn without_frames_a_store_is_refused_and_the_rest_stays() {
    let (tier, frames, _, _cpu) = pool_tier(256);
    (0..8).for_each(|offset| assert_eq!(store(tier, offset, &contents(offset)), Store::Stored));
    frames.limit(Some(0));
    let refused = (8..64).find(|offset| store(tier, *offset, &contents(*offset)) != Store::Stored);
    let refused = refused.expect("there is no frame for so many");
    assert_eq!(store(tier, refused, &contents(0)), Store::Refused(Refusal::Full));
    assert!(tier.is_crowded() && !tier.is_full(), "pages that leave would help");
    assert!((0..refused).all(|offset| load(tier, offset) == Ok(contents(offset))));
    assert_eq!(load(tier, refused), Err(Loss::Missing));
    // Another page leaves, and there is room again.
    (0..refused).for_each(|offset| assert_eq!(tier.invalidate(slot(offset)), Ok(())));
    frames.limit(None);
    assert_eq!(store(tier, refused, &contents(refused)), Store::Stored);
    assert!(!tier.is_crowded());
    tier.pool().validate().unwrap();
}

#[test]
fn the_limit_from_nothing_to_all() {
    let (tier, frames, _, _cpu) = pool_tier(256);
    let set = |percent| tier.pool().set(&Settings::percent_of(Frames::new(100), percent));
    set(0);
    assert_eq!(store(tier, 0, &contents(0)), Store::Refused(Refusal::Full));
    assert!(tier.is_full() && tier.is_crowded() && tier.coldest().is_none() && frames.held() == 0);
    set(100);
    assert!(!tier.is_full() && !tier.is_crowded());
    (0..40).for_each(|offset| assert_eq!(store(tier, offset, &contents(offset)), Store::Stored));
    // A limit that is lowered takes nothing away, and says that pages should leave.
    set(0);
    assert!(tier.is_full() && tier.is_crowded());
    let held = frames.held();
    let last = (41..64).find(|offset| store(tier, *offset, &contents(*offset)) != Store::Stored).unwrap();
    assert_eq!((frames.held(), store(tier, last, &contents(0))), (held, Store::Refused(Refusal::Full)));
    (41..last).for_each(|offset| assert_eq!(tier.invalidate(slot(offset)), Ok(())));
    for offset in 0..40 {
        assert_eq!(tier.coldest(), Some(slot(offset)));
        assert_eq!(load(tier, offset), Ok(contents(offset)));
        assert_eq!(tier.invalidate(slot(offset)), Ok(()));
    }
    assert_eq!((frames.held(), tier.coldest()), (0, None));
    set(u64::MAX);
    assert_eq!(tier.pool().frames().1, Frames::new(100), "more than all is all");
    // The smallest and the largest of everything else.
    for (most_bytes, overhead_percent, slides) in [(0, 0, 0), (usize::MAX, u64::MAX, u64::MAX)] {
        let limit = Frames::new(100);
        tier.pool().set(&Settings { limit, most_bytes, overhead_percent, slides });
        let stored = store(tier, 1, &contents(1));
        let expected = if most_bytes == 0 { Store::Refused(Refusal::Unsuitable) } else { Store::Stored };
        assert_eq!(stored, expected);
        assert_eq!(
            store(tier, 2, &noise()),
            Store::Refused(Refusal::Unsuitable),
            "it has no room in a frame"
        );
        assert_eq!(tier.invalidate_area(swap()), Ok(()));
    }
}

#[test]
fn the_high_mark_is_a_sixteenth_below_the_limit() {
    let (tier, frames, _, _cpu) = pool_tier(32);
    let mut offset = 0;
    while !tier.is_crowded() {
        assert_eq!(store(tier, offset % 64, &page(3000, offset)), Store::Stored);
        offset += 1;
    }
    assert_eq!((frames.held(), tier.is_full()), (30, false));
}

#[test]
fn pages_are_named_from_the_coldest_on_and_once() {
    let (tier, _, _, _cpu) = pool_tier(256);
    (0..6).for_each(|offset| assert_eq!(store(tier, offset * 10, &contents(offset)), Store::Stored));
    assert_eq!(load(tier, 0), Ok(contents(0)));
    assert_eq!([tier.coldest(), tier.coldest()], [Some(slot(10)), Some(slot(20))], "0 was asked for");
    tier.stays(slot(10));
    // What is stored again is another page, and hot.
    assert_eq!(store(tier, 20, &contents(7)), Store::Stored);
    let rest: std::vec::Vec<u64> = core::iter::from_fn(|| tier.coldest()).map(|slot| slot.offset).collect();
    assert_eq!(rest[..2], [30, 40]);
    let mut all = rest.clone();
    all.sort_unstable();
    assert_eq!(all, [0, 10, 20, 30, 40, 50], "each once more");
    tier.stays(slot(63));
    tier.stays(Slot { swap: SwapType::new(4).unwrap(), offset: 0 });
    assert_eq!(tier.coldest(), None);
}

/// Flips each bit of a stored page, wherever it is: in its header, its tag, its body, its padding, and its entry in the
/// books. It comes back as it was, or is called corrupt, or missing; the others come back.
#[test]
fn a_flipped_bit_costs_its_own_page_at_most() {
    let (tier, _, _, _cpu) = pool_tier(256);
    (0..3).for_each(|offset| assert_eq!(store(tier, offset, &contents(offset)), Store::Stored));
    let all = tier.pool().stats().live_bytes as usize;
    let each = all / 3;
    let body = each - 8..each - 8 + tier.pool().stats().compressed_bytes as usize / 3;
    let check = |kind, at: usize, victim: u64| {
        let mut found = std::vec::Vec::new();
        for bit in 0..8 {
            flip(tier.pool(), kind, 0, at, 1 << bit);
            for offset in 0..3 {
                match load(tier, offset) {
                    Ok(back) => assert!(back == contents(offset), "{at}.{bit}: wrong data in {offset}"),
                    Err(why) => {
                        assert_eq!(offset, victim, "{at}.{bit}: {why}");
                        found.push(why);
                    }
                }
            }
            flip(tier.pool(), kind, 0, at, 1 << bit);
        }
        found
    };
    for at in 0..each {
        let found = check(Kind::Log, each + at, 1);
        // Header and checksum, tag, and compressed bytes; what comes after them is padding.
        let matters = at < 8 + 4 + body.len();
        assert_eq!(found, std::vec![Loss::Corrupt; if matters { 8 } else { 0 }], "byte {at} of {each}");
    }
    let mut missed = 0;
    for at in 0..8 {
        // An entry's own check has eight bits, but what it points to must agree with it.
        let found = check(Kind::Entries, 8 + at, 1);
        assert!(found.iter().all(|why| matches!(why, Loss::Corrupt | Loss::Missing)), "{found:?}");
        missed += 8 - found.len();
    }
    assert!(missed <= 2, "{missed} flips were harmless: the marks of age may be");
    // A corrupt page can be freed, and its slot used again.
    flip(tier.pool(), Kind::Log, 0, each + 40, 1);
    assert_eq!(load(tier, 1), Err(Loss::Corrupt));
    assert_eq!((tier.invalidate(slot(1)), load(tier, 1)), (Ok(()), Err(Loss::Missing)));
    assert_eq!(store(tier, 1, &contents(5)), Store::Stored);
    assert_eq!(load(tier, 1), Ok(contents(5)));
    tier.pool().validate().unwrap();
}

#[test]
fn a_tag_that_is_corrupt_names_nobody_else() {
    let (tier, _, _, _cpu) = pool_tier(256);
    (0..3).for_each(|offset| assert_eq!(store(tier, offset, &contents(offset)), Store::Stored));
    // The oldest says that it is 2, which is somebody else, and the next that it is 1 << 24.
    let each = tier.pool().stats().live_bytes as usize / 3;
    flip(tier.pool(), Kind::Log, 0, 8, 2);
    flip(tier.pool(), Kind::Log, 0, each + 11, 1);
    assert_eq!(tier.coldest(), Some(slot(2)), "by its own tag");
    assert_eq!(tier.coldest(), None, "and it does not look for ever");
    assert_eq!([load(tier, 0), load(tier, 1)], [Err(Loss::Corrupt), Err(Loss::Corrupt)]);
    assert_eq!(load(tier, 2), Ok(contents(2)));
}
