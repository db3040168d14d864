//! Statements 63 to 79: private ephemeral pools, and who is evicted.

use super::Control;
use super::actor::{Actor, has_defects, key, lab, other, own};
use crate::conformance::check::{answers, holds, same};
use crate::conformance::{Env, Outcome, Stop};
use ebb::port::PoolId;
use xen_abi::Errno;
use xen_abi::tmem as abi;

const EEMPTY: i64 = abi::EEMPTY.to_rax();
const EFAULT: i64 = Errno::EFAULT.to_rax();

fn pool<E: Env>(env: &E) -> Result<(Actor<'_, E>, PoolId), Stop> {
    let me = own(env);
    let pool = me.ephemeral()?;
    Ok((me, pool))
}

pub(crate) fn s063_an_empty_pool_says_so<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    answers("get", me.get(pool, key(1, 1)), EEMPTY)?;
    me.has_mark(1, 0xDEAD)
}

pub(crate) fn s064_a_get_takes_the_page<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 64)?;
    me.must_get(pool, key(1, 1), 64)?;
    me.must_miss(pool, key(1, 1))
}

pub(crate) fn s065_the_second_get_says_whether_there_are_others<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 1)?;
    me.must_put(pool, key(1, 2), 2)?;
    me.must_get(pool, key(1, 1), 1)?;
    answers("with another page", me.get(pool, key(1, 1)), 0)?;
    me.must_get(pool, key(1, 2), 2)?;
    answers("with none", me.get(pool, key(1, 1)), EEMPTY)
}

pub(crate) fn s066_the_last_put_counts<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 0xA)?;
    me.must_put(pool, key(1, 1), 0xB)?;
    me.must_get(pool, key(1, 1), 0xB)
}

pub(crate) fn s067_put_and_get_again<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    for value in 0..2 {
        me.must_put(pool, key(1, 1), value)?;
        me.must_get(pool, key(1, 1), value)?;
    }
    Ok(())
}

pub(crate) fn s068_a_get_leaves_others<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 1)?;
    me.must_put(pool, key(1, 2), 2)?;
    me.must_get(pool, key(1, 1), 1)?;
    me.must_get(pool, key(1, 2), 2)
}

pub(crate) fn s069_a_bad_frame_loses_what_was_there<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 69)?;
    answers("put", me.put_frame(pool, key(1, 1), me.bad_frame()), EFAULT)?;
    me.must_miss(pool, key(1, 1))
}

pub(crate) fn s070_a_get_into_a_bad_frame<E: Env>(env: &E) -> Outcome {
    // On real Xen this corrupts the hypervisor: only where there is a lab.
    lab(env)?;
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 70)?;
    answers("get", me.get_frame(pool, key(1, 1), me.bad_frame()), EFAULT)?;
    if has_defects(env) {
        return me.must_miss(pool, key(1, 1));
    }
    me.must_get(pool, key(1, 1), 70)
}

pub(crate) fn s071_the_domains_limit_does_not_count<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let other = other(env, 50)?;
    lab.set_limit(50, other.charged()?);
    let pool = other.ephemeral()?;
    let before = other.charged()?;
    for nth in 0..100 {
        answers("put", other.put_mark(pool, key(1, nth), u64::from(nth)), 1)?;
    }
    same("charged", other.charged()?, before)
}

pub(crate) fn s072_a_miss_lasts_until_a_put<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_miss(pool, key(1, 1))?;
    me.must_put(pool, key(1, 2), 2)?;
    me.must_miss(pool, key(1, 1))?;
    me.must_put(pool, key(1, 1), 1)?;
    me.must_get(pool, key(1, 1), 1)
}

pub(crate) fn s073_the_oldest_goes_first_whose_ever_it_is<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let ((me, mine), other) = (pool(env)?, other(env, 51)?);
    let theirs = other.ephemeral()?;
    me.must_put(mine, key(1, 0), 0)?;
    other.must_put(theirs, key(1, 0), 100)?;
    me.must_put(mine, key(1, 1), 1)?;
    other.must_put(theirs, key(1, 1), 101)?;
    for _ in 0..3 {
        holds("something is evicted", lab.evict())?;
    }
    me.must_miss(mine, key(1, 0))?;
    other.must_miss(theirs, key(1, 0))?;
    me.must_miss(mine, key(1, 1))?;
    other.must_get(theirs, key(1, 1), 101)
}

pub(crate) fn s074_putting_again_makes_no_younger<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let (me, pool) = pool(env)?;
    for index in 0..3 {
        me.must_put(pool, key(1, index), u64::from(index))?;
    }
    me.must_put(pool, key(1, 0), 10)?;
    holds("something is evicted", lab.evict())?;
    me.must_miss(pool, key(1, 0))?;
    me.must_get(pool, key(1, 1), 1)
}

pub(crate) fn s075_what_was_evicted_never_comes_back<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 0), 0)?;
    me.must_put(pool, key(1, 1), 1)?;
    holds("something is evicted", lab.evict())?;
    for _ in 0..3 {
        me.must_miss(pool, key(1, 0))?;
    }
    me.must_get(pool, key(1, 1), 1)?;
    me.must_miss(pool, key(1, 0))
}

pub(crate) fn s076_puts_go_on_while_there_is_something_to_evict<E: Env>(env: &E) -> Outcome {
    const PUTS: u32 = 1500;
    let lab = lab(env)?;
    let (me, pool) = pool(env)?;
    lab.squeeze(700);
    let outcome =
        (0..PUTS).try_for_each(|nth| answers("put", me.put_mark(pool, key(1, nth), u64::from(nth)), 1));
    let mut first = None;
    for nth in 0..PUTS {
        let hit = me.get(pool, key(1, nth)) == 1;
        if hit {
            me.has_mark(1, u64::from(nth))?;
            first.get_or_insert(nth);
        }
        // The survivors are the newest, without a gap.
        holds("a younger page outlives an older one", hit == first.is_some())?;
    }
    lab.relax();
    outcome?;
    holds("there are survivors, and not all", first.is_some_and(|first| (500..PUTS).contains(&first)))
}

pub(crate) fn s077_weights_are_the_wrong_way_round<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let ((me, mine), other) = (pool(env)?, other(env, 52)?);
    let theirs = other.ephemeral()?;
    for domid in [lab.own(), 52] {
        answers("set the weight", lab.control(Control::SetWeight(domid, 1)).code, 0)?;
    }
    for nth in 0..90 {
        answers("put", other.put_mark(theirs, key(1, nth), 0), 1)?;
    }
    for nth in 0..10 {
        answers("put", me.put_mark(mine, key(1, nth), 0), 1)?;
    }
    // The guest asks, with 10 of 100 pages.
    holds("something is evicted", lab.evict())?;
    for domid in [lab.own(), 52] {
        answers("set the weight", lab.control(Control::SetWeight(domid, 0)).code, 0)?;
    }
    let (mine, theirs) = (me.get(mine, key(1, 0)), other.get(theirs, key(1, 0)));
    let (evicted, kept) = if has_defects(env) { (mine, theirs) } else { (theirs, mine) };
    answers("the oldest of who pays", evicted, 0)?;
    answers("the oldest of who does not", kept, 1)
}

pub(crate) fn s078_without_weights_the_heavy_evict_the_light<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let ((light, few), heavy) = (pool(env)?, other(env, 53)?);
    let many = heavy.ephemeral()?;
    for nth in 0..50 {
        answers("put", light.put_mark(few, key(1, nth), 0), 1)?;
    }
    lab.squeeze(700);
    let outcome = (0..1200).try_for_each(|nth| answers("put", heavy.put_mark(many, key(1, nth), 0), 1));
    lab.relax();
    outcome?;
    answers("nothing of the light is left", light.get(few, key(1, 49)), EEMPTY)
}

pub(crate) fn s079_persistent_puts_evict_everything_ephemeral<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let ((me, mine), other) = (pool(env)?, other(env, 54)?);
    for nth in 0..100 {
        answers("put", me.put_mark(mine, key(1, nth), 0), 1)?;
    }
    lab.set_limit(54, u64::MAX);
    let pages = other.persistent()?;
    lab.squeeze(900);
    let mut refused = 1;
    for nth in 0..2000 {
        refused = other.put_mark(pages, key(1, nth), 0);
        if refused != 1 {
            break;
        }
    }
    lab.relax();
    answers("in the end there is no memory", refused, Errno::ENOMEM.to_rax())?;
    answers("and nothing ephemeral", me.get(mine, key(1, 99)), EEMPTY)
}
