//! Statements 95 to 112, 119 and 120: freezing, saving, the toolstack's controls, a service that starts again.

use super::actor::{Actor, COMPRESSIBLE, has_defects, key, lab, other, own};
use super::{Control, Lab};
use crate::conformance::check::{answers, holds, same};
use crate::conformance::{Env, Outcome};
use ebb::port::{PoolId, PoolKind};
use xen_abi::Errno;
use xen_abi::tmem as abi;

const EPERM: i64 = Errno::EPERM.to_rax();
const EINVAL: i64 = Errno::EINVAL.to_rax();
const ENOENT: i64 = Errno::ENOENT.to_rax();
const EFROZEN: i64 = abi::EFROZEN.to_rax();

/// The guest with a pool, frozen while `run` runs.
fn frozen<E: Env>(
    env: &E,
    kind: PoolKind,
    before: impl FnOnce(&Actor<'_, E>, PoolId) -> Outcome,
    run: impl FnOnce(&Actor<'_, E>, PoolId) -> Outcome,
) -> Outcome {
    let (me, lab) = (own(env), lab(env)?);
    let pool = me.pool(kind)?;
    before(&me, pool)?;
    answers("freeze", lab.control(Control::Freeze(Some(lab.own()))).code, 0)?;
    let outcome = run(&me, pool);
    answers("thaw", lab.control(Control::Thaw(Some(lab.own()))).code, 0)?;
    outcome
}

pub(crate) fn s095_who_is_no_client_cannot_be_frozen<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    answers("freeze", lab.control(Control::Freeze(Some(70))).code, EPERM)?;
    answers("thaw", lab.control(Control::Thaw(Some(70))).code, EPERM)
}

pub(crate) fn s096_frozen_no_new_names<E: Env>(env: &E) -> Outcome {
    for kind in [PoolKind::Persistent, PoolKind::Ephemeral] {
        frozen(
            env,
            kind,
            |me, pool| me.must_put(pool, key(1, 1), 1),
            |me, pool| {
                answers("in an object that is there", me.put(pool, key(1, 2), 2), EFROZEN)?;
                answers("in a new one", me.put(pool, key(2, 1), 2), EFROZEN)?;
                me.must_miss(pool, key(2, 1))
            },
        )?;
    }
    Ok(())
}

pub(crate) fn s097_frozen_old_names_are_replaced<E: Env>(env: &E) -> Outcome {
    for kind in [PoolKind::Persistent, PoolKind::Ephemeral] {
        frozen(
            env,
            kind,
            |me, pool| me.must_put(pool, key(1, 1), 0xA),
            |me, pool| {
                me.must_put(pool, key(1, 1), 0xB)?;
                me.must_get(pool, key(1, 1), 0xB)
            },
        )?;
    }
    Ok(())
}

pub(crate) fn s098_frozen_gets_work<E: Env>(env: &E) -> Outcome {
    frozen(
        env,
        PoolKind::Ephemeral,
        |me, pool| me.must_put(pool, key(1, 1), 98),
        |me, pool| {
            me.must_get(pool, key(1, 1), 98)?;
            me.must_miss(pool, key(1, 1))
        },
    )
}

pub(crate) fn s099_frozen_flushes_work_and_say_no<E: Env>(env: &E) -> Outcome {
    let before = |me: &Actor<'_, E>, pool| {
        me.must_put(pool, key(1, 1), 1)?;
        me.must_put(pool, key(2, 1), 2)
    };
    frozen(env, PoolKind::Persistent, before, |me, pool| {
        answers("flush", me.flush(pool, key(1, 1)), EFROZEN)?;
        answers("flush of nothing", me.flush(pool, key(9, 9)), EFROZEN)?;
        me.must_miss(pool, key(1, 1))?;
        answers("flush object", me.flush_object(pool, 2), EFROZEN)?;
        answers("flush of no object", me.flush_object(pool, 9), EFROZEN)?;
        me.must_miss(pool, key(2, 1))
    })
}

pub(crate) fn s100_frozen_pools_come_and_go<E: Env>(env: &E) -> Outcome {
    frozen(
        env,
        PoolKind::Ephemeral,
        |_, _| Ok(()),
        |me, pool| {
            let another = me.persistent()?;
            answers("destroy", me.destroy(another), 1)?;
            answers("destroy", me.destroy(pool), 1)
        },
    )
}

pub(crate) fn s101_thawed_puts_work<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env), lab(env)?);
    let pool = me.persistent()?;
    lab.control(Control::Freeze(Some(lab.own())));
    answers("frozen", me.put(pool, key(1, 1), 1), EFROZEN)?;
    lab.control(Control::Thaw(Some(lab.own())));
    me.must_put(pool, key(1, 1), 1)
}

pub(crate) fn s102_freezing_all_freezes_those_there_are<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env), lab(env)?);
    let mine = me.ephemeral()?;
    answers("freeze all", lab.control(Control::Freeze(None)).code, 0)?;
    let late = other(env, 71)?;
    let outcome = late.ephemeral().and_then(|pool| late.must_put(pool, key(1, 1), 1));
    let frozen = me.put(mine, key(1, 1), 1);
    answers("thaw all", lab.control(Control::Thaw(None)).code, 0)?;
    outcome?;
    answers("who was there", frozen, EFROZEN)
}

/// Runs while the guest is being migrated.
fn migrating(lab: &dyn Lab, run: impl FnOnce() -> Outcome) -> Outcome {
    answers("save", lab.control(Control::SaveBegin(lab.own(), true)).code, 0)?;
    let outcome = run();
    answers("end", lab.control(Control::SaveEnd(lab.own())).code, 0)?;
    outcome
}

pub(crate) fn s103_migrating_pages_are_not_replaced<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env), lab(env)?);
    let pool = me.persistent()?;
    for index in 0..4 {
        me.must_put(pool, key(1, index), 1)?;
    }
    let next = || lab.control(Control::SaveNextInvalidated(lab.own()));
    migrating(lab, || {
        answers("put again", me.put(pool, key(1, 2), 2), Errno::ENOSPC.to_rax())?;
        me.must_miss(pool, key(1, 2))?;
        answers("flush", me.flush(pool, key(1, 0)), EFROZEN)?;
        for index in [2, 0] {
            let reported = next();
            answers("a page that went", reported.code, 1)?;
            holds("which one", reported.key == Some(key(1, index)))?;
        }
        answers("and no more", next().code, 0)
    })
}

pub(crate) fn s104_destroying_while_migrating<E: Env>(env: &E) -> Outcome {
    let (lab, victim) = (lab(env)?, other(env, 72)?);
    let pool = victim.persistent()?;
    let before = victim.charged()?;
    for nth in 0..4 {
        victim.must_put(pool, key(1, nth), 1)?;
    }
    answers("save", lab.control(Control::SaveBegin(72, true)).code, 0)?;
    answers("destroy", victim.destroy(pool), 1)?;
    answers("end", lab.control(Control::SaveEnd(72)).code, 0)?;
    let leaked = victim.charged()? - before;
    same("pages leaked, four and metadata", leaked, if has_defects(env) { 5 } else { 0 })?;
    lab.kill(72);
    same("until the domain is gone", victim.charged()?, before)
}

pub(crate) fn s105_enumeration_omits_the_oldest<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env), lab(env)?);
    let pool = me.persistent()?;
    for index in 0..5 {
        me.must_put(pool, key(1, index), 1)?;
    }
    answers("save", lab.control(Control::SaveBegin(lab.own(), false)).code, 0)?;
    let first = u32::from(has_defects(env));
    let outcome = (first..5).try_for_each(|index| {
        let page = lab.control(Control::SaveNextPage(lab.own(), pool.get() as usize));
        holds("the next page", page.key == Some(key(1, index)))?;
        // Nothing has copied pages that are not compressed since Xen 4.4.
        answers("what was copied", page.code, if has_defects(env) { EINVAL } else { 4096 })
    });
    let end = lab.control(Control::SaveNextPage(lab.own(), pool.get() as usize)).code;
    answers("end", lab.control(Control::SaveEnd(lab.own())).code, 0)?;
    outcome?;
    answers("after the last", end, EPERM)
}

pub(crate) fn s106_restoring_pages<E: Env>(env: &E) -> Outcome {
    let (lab, guest) = (lab(env)?, other(env, 73)?);
    let pool = guest.persistent()?;
    let id = pool.get() as usize;
    let restore = |id, bytes| lab.control(Control::RestorePage(73, id, key(1, 1), bytes, 0x106)).code;
    answers("another length", restore(id, 4095), EINVAL)?;
    answers("no such pool", restore(9, 4096), EPERM)?;
    answers("a whole page", restore(id, 4096), if has_defects(env) { EINVAL } else { 1 })?;
    lab.control(Control::SetCompress(73, true));
    answers("a compressed page", restore(id, 4096), 1)?;
    answers("get", guest.get(pool, key(1, 1)), 1)?;
    answers("that it went", lab.control(Control::RestoreFlush(73, id, key(1, 1))).code, 1)?;
    guest.must_miss(pool, key(1, 1))?;
    answers("in no pool", lab.control(Control::RestoreFlush(73, 9, key(1, 1))).code, EPERM)
}

pub(crate) fn s107_restoring_needs_a_new_client<E: Env>(env: &E) -> Outcome {
    let (lab, guest) = (lab(env)?, other(env, 74)?);
    guest.ephemeral()?;
    answers("a client", lab.control(Control::RestoreBegin(74)).code, Errno::EEXIST.to_rax())?;
    answers("no domain", lab.control(Control::RestoreBegin(999)).code, Errno::ENOMEM.to_rax())
}

pub(crate) fn s108_a_slot_is_restored_once<E: Env>(env: &E) -> Outcome {
    let (lab, guest) = (lab(env)?, other(env, 75)?);
    guest.ephemeral()?;
    let set = |id| lab.control(Control::SetPool(75, id, 0x0100_0001)).code;
    answers("occupied", set(0), EPERM)?;
    answers("free", set(3), 3)?;
    answers("occupied now", set(3), EPERM)?;
    guest.must_put(PoolId::new(3), key(1, 1), 108)?;
    answers("destroy", guest.destroy(PoolId::new(3)), 1)
}

pub(crate) fn s109_only_ephemeral_pages_are_freeable<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env), lab(env)?);
    let freeable = || lab.control(Control::FreeableMib).code;
    let before = freeable();
    let (kept, cached) = (me.persistent()?, me.ephemeral()?);
    let room = 200;
    for nth in 0..room {
        answers("put", me.put_mark(kept, key(1, nth), 0), 1)?;
    }
    answers("persistent pages", freeable(), before)?;
    for nth in 0..1024 {
        answers("put", me.put_mark(cached, key(1, nth), 0), 1)?;
    }
    let with = freeable();
    holds("ephemeral pages are", with >= before + 3 && with <= before + 5)
}

pub(crate) fn s110_the_free_list_goes_to_the_host<E: Env>(env: &E) -> Outcome {
    let (me, lab) = (own(env), lab(env)?);
    let pool = me.ephemeral()?;
    answers("one client's", lab.control(Control::Flush(Some(lab.own()), 400)).code, EPERM)?;
    lab.control(Control::Flush(None, 0));
    for nth in 0..300 {
        answers("put", me.put_mark(pool, key(1, nth), 0), 1)?;
    }
    let free = lab.host_free();
    let kib = lab.control(Control::Flush(None, 401)).code;
    holds("at least that, in whole pages", kib >= 404 && kib % 4 == 0)?;
    same("free frames of the host", lab.host_free(), free + kib as u64 / 4)?;
    answers("nothing is left of the list", lab.control(Control::Flush(None, 0)).code, 0)
}

pub(crate) fn s111_controls_that_are_none<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    answers("a pad", lab.control(Control::Padded).code, EINVAL)?;
    answers("no operation", lab.control(Control::Unknown).code, EPERM)?;
    answers("the list of nobody", lab.control(Control::List(998)).code, EPERM)?;
    answers("the weight of nobody", lab.control(Control::SetWeight(998, 1)).code, ENOENT)
}

pub(crate) fn s112_compression_does_not_show<E: Env>(env: &E) -> Outcome {
    let (me, compressible, random) = (own(env), 3, COMPRESSIBLE + 3);
    let pool = me.persistent()?;
    let check = || {
        for (index, first, second) in
            [(0, compressible, random), (1, random, compressible), (2, random, random), (3, 1, compressible)]
        {
            me.must_put(pool, key(1, index), first)?;
            me.must_get(pool, key(1, index), first)?;
            me.must_put(pool, key(1, index), second)?;
            me.must_get(pool, key(1, index), second)?;
        }
        answers("flush", me.flush_object(pool, 1), 1)
    };
    check()?;
    let Some(lab) = env.lab() else { return Ok(()) };
    answers("compress", lab.control(Control::SetCompress(lab.own(), true)).code, 0)?;
    let outcome = check().and_then(|()| dearer_at_the_limit(env, &me, lab, pool));
    answers("do not", lab.control(Control::SetCompress(lab.own(), false)).code, 0)?;
    outcome
}

/// Many compressed pages fit where few would, and one that cannot be replaced is lost (§11.1, 54).
fn dearer_at_the_limit<E: Env>(env: &E, me: &Actor<'_, E>, lab: &dyn Lab, pool: PoolId) -> Outcome {
    let old = crate::conformance::check::done(
        "maximum_reservation",
        ebb::port::MemoryOps::maximum_reservation(env.xen()),
    )?;
    me.fill(2, 5);
    lab.set_limit(lab.own(), me.charged()? + 64);
    let mut count = 0;
    while count < 4096 && me.put_frame(pool, key(2, count), me.frame(2)) == 1 {
        count += 1;
    }
    let again = me.put(pool, key(2, 1), COMPRESSIBLE + 7);
    lab.set_limit(lab.own(), old.get());
    holds("more pages than room", count > 200)?;
    answers("put again, whole", again, Errno::ENOSPC.to_rax())?;
    me.must_miss(pool, key(2, 1))
}

pub(crate) fn s119_a_repeated_request_does_no_harm<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    let (kept, cached) = (me.persistent()?, me.ephemeral()?);
    for _ in 0..2 {
        me.must_put(kept, key(1, 1), 119)?;
    }
    me.must_get(kept, key(1, 1), 119)?;
    for _ in 0..2 {
        answers("flush", me.flush(kept, key(1, 1)), 1)?;
    }
    me.must_put(cached, key(1, 1), 119)?;
    me.must_get(cached, key(1, 1), 119)?;
    me.must_miss(cached, key(1, 1))?;
    answers("destroy", me.destroy(kept), 1)?;
    answers("destroy again", me.destroy(kept), 0)
}

pub(crate) fn s120_after_a_restart_pages_are_lost_not_missed<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let me = own(env);
    let pool = me.persistent()?;
    me.must_put(pool, key(1, 1), 120)?;
    lab.restart();
    // Not a miss, which a client could take for "never stored".
    answers("get", me.get(pool, key(1, 1)), Errno::ENODEV.to_rax())
}
