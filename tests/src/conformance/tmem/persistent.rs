//! Statements 26 to 48: private persistent pools, apart from room.

use super::actor::{Actor, key, lab, other, own};
use crate::conformance::check::{answers, same};
use crate::conformance::{Env, Outcome, Stop};
use ebb::port::{PageKey, PoolId};
use xen_abi::Errno;
use xen_abi::tmem::{self as abi, PageOp};

const EEMPTY: i64 = abi::EEMPTY.to_rax();
const EFAULT: i64 = Errno::EFAULT.to_rax();
const ENODEV: i64 = Errno::ENODEV.to_rax();

/// The guest with a persistent pool of its own.
fn pool<E: Env>(env: &E) -> Result<(Actor<'_, E>, PoolId), Stop> {
    let me = own(env);
    let pool = me.persistent()?;
    Ok((me, pool))
}

pub(crate) fn s026_an_empty_pool_says_so<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    answers("get", me.get(pool, key(1, 1)), EEMPTY)?;
    me.has_mark(1, 0xDEAD)
}

pub(crate) fn s027_what_was_put_is_got<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 27)?;
    me.must_get(pool, key(1, 1), 27)
}

pub(crate) fn s028_again_and_again<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 28)?;
    (0..5).try_for_each(|_| me.must_get(pool, key(1, 1), 28))
}

pub(crate) fn s029_the_last_put_counts<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 0xA)?;
    me.must_put(pool, key(1, 1), 0xB)?;
    me.must_get(pool, key(1, 1), 0xB)
}

pub(crate) fn s030_other_names_miss<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 30)?;
    answers("another index", me.get(pool, key(1, 2)), 0)?;
    me.has_mark(1, 0xDEAD)?;
    answers("another object", me.get(pool, key(2, 1)), 0)?;
    me.has_mark(1, 0xDEAD)
}

pub(crate) fn s031_the_copy_is_a_copy<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 31)?;
    me.fill(0, 0xFFFF);
    me.must_get(pool, key(1, 1), 31)
}

pub(crate) fn s032_the_source_stays<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 32)?;
    me.has(0, 32)
}

pub(crate) fn s033_a_frame_can_be_put_and_got_back<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 33)?;
    me.fill(0, 0);
    answers("get", me.get_frame(pool, key(1, 1), me.frame(0)), 1)?;
    me.has(0, 33)
}

/// Puts a page under each name, and finds each.
fn distinct<E: Env>(env: &E, names: &[PageKey]) -> Outcome {
    let (me, pool) = pool(env)?;
    for (value, name) in (100..).zip(names) {
        me.must_put(pool, *name, value)?;
    }
    (100..).zip(names).try_for_each(|(value, name)| me.must_get(pool, *name, value))
}

pub(crate) fn s034_all_three_words_of_an_object_count<E: Env>(env: &E) -> Outcome {
    let name = |object| PageKey { object, index: 1 };
    distinct(env, &[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1 << 63, 0, 0]].map(name))
}

pub(crate) fn s035_extreme_names_are_names<E: Env>(env: &E) -> Outcome {
    let ones = [u64::MAX; 3];
    distinct(
        env,
        &[
            key(1, 0),
            key(1, u32::MAX),
            PageKey { object: ones, index: 0 },
            PageKey { object: ones, index: u32::MAX },
        ],
    )
}

pub(crate) fn s036_pools_are_independent<E: Env>(env: &E) -> Outcome {
    let (me, one) = pool(env)?;
    let two = me.persistent()?;
    me.must_put(one, key(1, 1), 1)?;
    me.must_put(two, key(1, 1), 2)?;
    me.must_get(one, key(1, 1), 1)?;
    answers("destroy", me.destroy(one), 1)?;
    me.must_get(two, key(1, 1), 2)
}

pub(crate) fn s037_domains_are_independent<E: Env>(env: &E) -> Outcome {
    let (one, two) = (other(env, 30)?, other(env, 31)?);
    let (first, second) = (one.persistent()?, two.persistent()?);
    same("equal ids", first.get() as u64, second.get() as u64)?;
    one.must_put(first, key(1, 1), 1)?;
    two.must_put(second, key(1, 1), 2)?;
    one.must_get(first, key(1, 1), 1)?;
    two.must_get(second, key(1, 1), 2)
}

pub(crate) fn s038_a_flushed_page_misses<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 1)?;
    me.must_put(pool, key(1, 2), 2)?;
    answers("flush", me.flush(pool, key(1, 1)), 1)?;
    answers("get, with another page", me.get(pool, key(1, 1)), 0)?;
    answers("flush", me.flush(pool, key(1, 2)), 1)?;
    answers("get, without", me.get(pool, key(1, 2)), EEMPTY)
}

pub(crate) fn s039_flushing_nothing_changes_nothing<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 39)?;
    answers("no such index", me.flush(pool, key(1, 2)), 1)?;
    answers("no such object", me.flush(pool, key(2, 1)), 1)?;
    me.must_get(pool, key(1, 1), 39)
}

pub(crate) fn s040_an_object_is_flushed_whole<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    for index in 0..5 {
        me.must_put(pool, key(3, index * 100), 40)?;
    }
    answers("flush object", me.flush_object(pool, 3), 1)?;
    (0..5).try_for_each(|index| me.must_miss(pool, key(3, index * 100)))
}

pub(crate) fn s041_flushing_no_object_is_1<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    answers("flush object", me.flush_object(pool, 9), 1)
}

pub(crate) fn s042_other_objects_stay<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 1)?;
    me.must_put(pool, key(2, 1), 2)?;
    answers("flush object", me.flush_object(pool, 1), 1)?;
    me.must_get(pool, key(2, 1), 2)
}

pub(crate) fn s043_flushing_twice_is_1_twice<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 1)?;
    for _ in 0..2 {
        answers("flush", me.flush(pool, key(1, 1)), 1)?;
    }
    for _ in 0..2 {
        answers("flush object", me.flush_object(pool, 1), 1)?;
    }
    Ok(())
}

pub(crate) fn s044_a_pool_is_destroyed_once<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 1)?;
    answers("destroy", me.destroy(pool), 1)?;
    answers("again", me.destroy(pool), 0)?;
    answers("get", me.get(pool, key(1, 1)), ENODEV)
}

pub(crate) fn s045_a_new_pool_is_empty<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    let before = me.charged()?;
    me.must_put(pool, key(1, 1), 1)?;
    answers("destroy", me.destroy(pool), 1)?;
    same("charged", me.charged()?, before)?;
    let again = me.persistent()?;
    same("the same id", again.get() as u64, pool.get() as u64)?;
    answers("get", me.get(again, key(1, 1)), EEMPTY)
}

pub(crate) fn s046_a_bad_frame_stores_nothing<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    let before = me.charged()?;
    answers("put", me.put_frame(pool, key(1, 1), me.bad_frame()), EFAULT)?;
    same("charged", me.charged()?, before)?;
    me.must_miss(pool, key(1, 1))
}

pub(crate) fn s047_a_bad_frame_loses_what_was_there<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 47)?;
    answers("put", me.put_frame(pool, key(1, 1), me.bad_frame()), EFAULT)?;
    me.must_miss(pool, key(1, 1))
}

pub(crate) fn s048_a_get_into_a_bad_frame_leaves_the_page<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 48)?;
    answers("get", me.get_frame(pool, key(1, 1), me.bad_frame()), EFAULT)?;
    me.must_get(pool, key(1, 1), 48)
}

pub(crate) fn s049_anothers_frame_is_efault<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let (me, pool) = pool(env)?;
    let hole = crate::conformance::own::hole(env, 900);
    lab.map_grant(hole);
    answers("a grant mapping", me.put_frame(pool, key(1, 1), hole), EFAULT)?;
    let beyond = ebb::units::Gfn::new(1 << 30);
    answers("beyond the map", me.put_frame(pool, key(1, 1), beyond), EFAULT)
}

pub(crate) fn s050_what_is_not_ram_is_efault<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    answers("a hole", me.put_frame(pool, key(1, 1), me.bad_frame()), EFAULT)?;
    let apic = ebb::units::Gfn::new(0xFEE00);
    answers("a device", me.put_frame(pool, key(1, 1), apic), EFAULT)?;
    let shared = env.shared_info_frame();
    answers("the shared info page is RAM, too", me.put_frame(pool, key(1, 1), shared), 1)
}

pub(crate) fn s051_a_read_only_frame_is_efault<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let (me, pool) = pool(env)?;
    me.must_put(pool, key(1, 1), 51)?;
    lab.set_plain(me.frame(3), false);
    let put = me.put_frame(pool, key(2, 1), me.frame(3));
    let got = me.get_frame(pool, key(1, 1), me.frame(3));
    lab.set_plain(me.frame(3), true);
    // A PV guest's put would succeed; this is what a translated one sees.
    answers("put", put, EFAULT)?;
    answers("get", got, EFAULT)?;
    me.must_get(pool, key(1, 1), 51)
}

pub(crate) fn s052_offsets_and_length_are_not_looked_at<E: Env>(env: &E) -> Outcome {
    let (me, pool) = pool(env)?;
    me.fill(0, 52);
    let mut op = PageOp {
        cmd: abi::PUT_PAGE,
        pool_id: pool.get(),
        oid: [1, 0, 0],
        index: 1,
        tmem_offset: 5000,
        pfn_offset: 9999,
        len: 3,
        cmfn: me.frame(0).get(),
    };
    answers("put", me.raw(&mut op), 1)?;
    me.must_get(pool, key(1, 1), 52)
}
