//! Statements 53 to 62: what persistent pages cost, and what happens when there is no room.

use super::actor::{Actor, has_defects, key, lab, other, own};
use super::{Fault, Lab};
use crate::conformance::check::{answers, done, holds, same};
use crate::conformance::{Env, Outcome, Stop};
use ebb::port::{MemoryOps, PageKey, PoolId};
use xen_abi::Errno;

const ENOMEM: i64 = Errno::ENOMEM.to_rax();
const ENOSPC: i64 = Errno::ENOSPC.to_rax();

/// The nth page in the four layouts that were measured on Xen 4.12.
type Layout = fn(u32) -> PageKey;
const SEQUENTIAL: Layout = |nth| key(1, nth);
/// As Linux lays a swap device out.
const SWIZZLED: Layout = |nth| key(u64::from(nth % 16), nth / 16);
const NEW_OBJECTS: Layout = |nth| key(u64::from(nth), 0);
const DEEP_OBJECTS: Layout = |nth| key(u64::from(nth), u32::MAX);
const LAYOUTS: [Layout; 4] = [SEQUENTIAL, SWIZZLED, NEW_OBJECTS, DEEP_OBJECTS];

/// How many puts fit, by headroom in pages and layout (§11.2).
const FIGURES: [(u64, [Option<u32>; 4]); 4] = [
    (256, [Some(249), Some(247), Some(241), Some(137)]),
    (239, [Some(232), Some(230), Some(225), Some(128)]),
    (1239, [None, Some(1203), None, None]),
    (4335, [None, Some(4220), None, None]),
];

/// Puts until it is refused; answers how many were accepted.
fn fill<E: Env>(who: &Actor<'_, E>, pool: PoolId, layout: Layout, most: u32) -> Result<u32, Stop> {
    for nth in 0..most {
        match who.put_mark(pool, layout(nth), u64::from(nth)) {
            1 => {}
            refused => {
                answers("the put that does not fit", refused, ENOMEM)?;
                return Ok(nth);
            }
        }
    }
    Ok(most)
}

/// Runs with the guest's limit moved; puts it back.
fn with_limit(lab: &dyn Lab, limit: u64, run: impl FnOnce() -> Outcome, back: u64) -> Outcome {
    lab.set_limit(lab.own(), limit);
    let outcome = run();
    lab.set_limit(lab.own(), back);
    outcome
}

fn limit<E: Env>(env: &E) -> Result<u64, Stop> {
    Ok(done("maximum_reservation", env.xen().maximum_reservation())?.get())
}

/// A full pool of the guest's, sequential, with `headroom` pages before; then `run` with the number of pages.
fn full<E: Env>(env: &E, headroom: u64, run: impl FnOnce(&Actor<'_, E>, PoolId, u32) -> Outcome) -> Outcome {
    let (me, lab, old) = (own(env)?, lab(env)?, limit(env)?);
    let pool = me.persistent()?;
    with_limit(
        lab,
        me.charged()? + headroom,
        || {
            let count = fill(&me, pool, SEQUENTIAL, u32::MAX)?;
            run(&me, pool, count)
        },
        old,
    )
}

pub(crate) fn s053_persistent_pages_survive_ephemeral_pressure<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env)?, lab(env)?);
    let other = other(env, 40)?;
    let (mine, theirs) = (me.persistent()?, other.ephemeral()?);
    for nth in 0..20 {
        answers("put", me.put_mark(mine, key(1, nth), u64::from(nth)), 1)?;
    }
    lab.squeeze(600);
    let pressed =
        (0..1000).try_for_each(|nth| answers("an ephemeral put", other.put_mark(theirs, key(2, nth), 0), 1));
    lab.relax();
    pressed?;
    for nth in 0..20 {
        answers("get", me.get(mine, key(1, nth)), 1)?;
        me.has_mark(1, u64::from(nth))?;
    }
    Ok(())
}

pub(crate) fn s054_without_room_what_is_there_still_works<E: Env>(env: &E) -> Outcome {
    full(env, 100, |me, pool, count| {
        let known = key(1, 7);
        answers("a new put", me.put_mark(pool, key(1, count), 0), ENOMEM)?;
        answers("get", me.get(pool, known), 1)?;
        me.has_mark(1, 7)?;
        answers("put again", me.put_mark(pool, known, 77), 1)?;
        answers("get", me.get(pool, known), 1)?;
        me.has_mark(1, 77)?;
        answers("flush", me.flush(pool, known), 1)
    })
}

pub(crate) fn s055_metadata_costs_what_it_costs<E: Env>(env: &E) -> Outcome {
    let (me, old) = (own(env)?, limit(env)?);
    let run = |headroom: u64, layout: usize, wanted: Option<u32>| {
        let pool = me.persistent()?;
        let before = me.charged()?;
        let count = fill(&me, pool, LAYOUTS[layout], u32::MAX)?;
        holds("fewer puts than pages", u64::from(count) < headroom)?;
        if let Some(wanted) = wanted {
            same("puts that fit", u64::from(count), u64::from(wanted))?;
        }
        holds("at most a page below the limit", headroom + before - me.charged()? <= 1)?;
        answers("destroy", me.destroy(pool), 1)?;
        same("charged", me.charged()?, before)
    };
    let Some(lab) = env.lab() else {
        // The room that the toolstack left.
        let headroom = old - me.charged()?;
        let known = FIGURES.iter().find(|(pages, _)| *pages == headroom).map(|(_, figures)| *figures);
        return (0..4)
            .try_for_each(|layout| run(headroom, layout, known.and_then(|figures| figures[layout])));
    };
    for (headroom, figures) in FIGURES {
        for (layout, wanted) in figures.into_iter().enumerate().filter(|(_, wanted)| wanted.is_some()) {
            with_limit(lab, me.charged()? + headroom, || run(headroom, layout, wanted), old)?;
        }
    }
    Ok(())
}

pub(crate) fn s056_a_flush_makes_room_for_one<E: Env>(env: &E) -> Outcome {
    full(env, 200, |me, pool, count| {
        answers("flush", me.flush(pool, key(1, 3)), 1)?;
        answers("one more", me.put_mark(pool, key(1, count), 0), 1)?;
        answers("and no second", me.put_mark(pool, key(1, count + 1), 0), ENOMEM)
    })
}

pub(crate) fn s057_a_lowered_limit<E: Env>(env: &E) -> Outcome {
    let (lab, defects) = (lab(env)?, has_defects(env));
    full(env, 200, |me, pool, count| {
        lab.set_limit(lab.own(), me.charged()? - 100);
        answers("get", me.get(pool, key(1, 5)), 1)?;
        me.has_mark(1, 5)?;
        answers("a new put", me.put_mark(pool, key(1, count), 0), ENOMEM)?;
        let again = me.put_mark(pool, key(1, 5), 55);
        if defects || again != 1 {
            answers("put again", again, ENOSPC)?;
            return me.must_miss(pool, key(1, 5));
        }
        answers("get", me.get(pool, key(1, 5)), 1)?;
        me.has_mark(1, 55)
    })
}

pub(crate) fn s058_after_enospc_the_page_is_gone<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env)?, lab(env)?);
    let pool = me.persistent()?;
    me.must_put(pool, key(1, 1), 58)?;
    me.must_put(pool, key(1, 2), 59)?;
    lab.control(super::Control::SetCompress(lab.own(), false));
    if has_defects(env) {
        lab.fail(Fault::Data);
        answers("put again", me.put(pool, key(1, 1), 0xB), ENOSPC)?;
    } else {
        lab.control(super::Control::SaveBegin(lab.own(), true));
        let again = me.put(pool, key(1, 1), 0xB);
        lab.control(super::Control::SaveEnd(lab.own()));
        answers("put again", again, ENOSPC)?;
    }
    me.must_miss(pool, key(1, 1))?;
    me.must_get(pool, key(1, 2), 59)
}

pub(crate) fn s059_a_pre_check_that_fails_touches_nothing<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env)?, lab(env)?);
    let pool = me.persistent()?;
    me.must_put(pool, key(1, 1), 0xA)?;
    lab.fail(Fault::PreCheck);
    answers("put again", me.put(pool, key(1, 1), 0xB), ENOMEM)?;
    if has_defects(env) {
        return me.must_get(pool, key(1, 1), 0xA);
    }
    me.must_miss(pool, key(1, 1))
}

pub(crate) fn s060_a_new_page_that_failed_is_not_there<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env)?, lab(env)?);
    let pool = me.persistent()?;
    let before = me.charged()?;
    for (fault, error) in [
        (Fault::PreCheck, Errno::ENOMEM),
        (Fault::Metadata, Errno::ENOMEM),
        (Fault::Data, Errno::ENOMEM),
        (Fault::Copy, Errno::EFAULT),
    ] {
        for index in [0, 64, u32::MAX] {
            lab.fail(fault);
            answers("put", me.put(pool, key(1, index), 60), error.to_rax())?;
            me.must_miss(pool, key(1, index))?;
            same("charged", me.charged()?, before)?;
        }
    }
    Ok(())
}

pub(crate) fn s061_a_flush_after_a_failure_settles_it<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env)?, lab(env)?);
    let pool = me.persistent()?;
    // A service that replaces in place needs no page for the data.
    let faults = [Fault::PreCheck, Fault::Copy, Fault::Data];
    for fault in faults.into_iter().filter(|fault| *fault != Fault::Data || has_defects(env)) {
        me.must_put(pool, key(1, 1), 0xA)?;
        lab.fail(fault);
        holds("the put fails", me.put(pool, key(1, 1), 0xB) != 1)?;
        answers("flush", me.flush(pool, key(1, 1)), 1)?;
        me.must_miss(pool, key(1, 1))?;
    }
    Ok(())
}

pub(crate) fn s062_a_dead_domains_pages_are_given_back<E: Env>(env: &E) -> Outcome {
    let (lab, victim) = (lab(env)?, other(env, 41)?);
    let (charged, free) = (victim.charged()?, lab.host_free());
    let pool = victim.persistent()?;
    for nth in 0..100 {
        answers("put", victim.put_mark(pool, key(1, nth), 0), 1)?;
    }
    holds("they were charged", victim.charged()? > charged + 100)?;
    lab.kill(41);
    same("charged", victim.charged()?, charged)?;
    same("free frames of the host", lab.host_free(), free)
}
