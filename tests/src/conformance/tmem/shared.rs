//! Statements 80 to 94: shared ephemeral pools.

use super::actor::{Actor, has_defects, key, lab, other};
use super::{Control, Lab};
use crate::conformance::check::{answers, holds, same};
use crate::conformance::{Env, Outcome, Stop};
use ebb::port::{PoolId, PoolKind};
use xen_abi::Errno;
use xen_abi::tmem as abi;

const EPERM: i64 = Errno::EPERM.to_rax();
const ENODEV: i64 = Errno::ENODEV.to_rax();

/// Two domains. Those of one case are not those of another.
const ANN: u16 = 60;
const BOB: u16 = 61;
const UUID: [u64; 2] = [0x5EA1, 0xED];
const KIND: PoolKind = PoolKind::Shared { uuid: UUID };

fn authorise(lab: &dyn Lab, domid: u16, uuid: [u64; 2]) -> Outcome {
    answers("authorise", lab.control(Control::Authorise(domid, uuid)).code, 1)
}

type Member<'e, E> = (Actor<'e, E>, PoolId);

/// Ann, who owns a shared pool, and Bob, who has joined it.
fn two<E: Env>(env: &E) -> Result<(Member<'_, E>, Member<'_, E>), Stop> {
    let lab = lab(env)?;
    let (ann, bob) = (other(env, ANN)?, other(env, BOB)?);
    for domid in [ANN, BOB] {
        lab.kill(domid);
        authorise(lab, domid, UUID)?;
    }
    let mine = ann.pool(KIND)?;
    let yours = bob.pool(KIND)?;
    Ok(((ann, mine), (bob, yours)))
}

pub(crate) fn s080_who_is_not_authorised_shares_nothing<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let (ann, bob) = (other(env, ANN)?, other(env, BOB)?);
    [ANN, BOB].into_iter().for_each(|domid| lab.kill(domid));
    let (mine, yours) = (ann.try_pool(KIND), bob.try_pool(KIND));
    if !has_defects(env) {
        answers("a service refuses", mine, EPERM)?;
        return answers("a service refuses", yours, EPERM);
    }
    holds("a pool, without a word", mine >= 0 && yours >= 0)?;
    let (mine, yours) = (PoolId::new(mine as i32), PoolId::new(yours as i32));
    ann.must_put(mine, key(1, 1), 80)?;
    bob.must_miss(yours, key(1, 1))?;
    ann.must_get(mine, key(1, 1), 80)?;
    ann.must_miss(mine, key(1, 1))
}

pub(crate) fn s081_all_ones_is_nobodys_name<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let nobody = [u64::MAX; 2];
    let ann = other(env, ANN)?;
    authorise(lab, ANN, nobody)?;
    let id = ann.try_pool(PoolKind::Shared { uuid: nobody });
    if !has_defects(env) {
        return answers("a service refuses", id, EPERM);
    }
    let pool = PoolId::new(id as i32);
    ann.must_put(pool, key(1, 1), 81)?;
    ann.must_get(pool, key(1, 1), 81)?;
    ann.must_miss(pool, key(1, 1))
}

pub(crate) fn s082_members_see_the_same_pages<E: Env>(env: &E) -> Outcome {
    let ((ann, mine), (bob, yours)) = two(env)?;
    ann.must_put(mine, key(1, 1), 82)?;
    bob.must_get(yours, key(1, 1), 82)?;
    bob.must_get(yours, key(1, 1), 82)?;
    ann.must_get(mine, key(1, 1), 82)
}

pub(crate) fn s083_members_replace_each_others_pages<E: Env>(env: &E) -> Outcome {
    let ((ann, mine), (bob, yours)) = two(env)?;
    ann.must_put(mine, key(1, 1), 0xA)?;
    bob.must_put(yours, key(1, 1), 0xB)?;
    ann.must_get(mine, key(1, 1), 0xB)
}

pub(crate) fn s084_members_flush_each_others_pages<E: Env>(env: &E) -> Outcome {
    let ((ann, mine), (bob, yours)) = two(env)?;
    ann.must_put(mine, key(1, 1), 0xA)?;
    answers("flush", bob.flush(yours, key(1, 1)), 1)?;
    ann.must_miss(mine, key(1, 1))
}

pub(crate) fn s085_one_domain_may_join_twice<E: Env>(env: &E) -> Outcome {
    let ((ann, one), _bob) = two(env)?;
    let two = ann.pool(KIND)?;
    holds("two ids", one != two)?;
    ann.must_put(one, key(1, 1), 85)?;
    ann.must_get(two, key(1, 1), 85)
}

pub(crate) fn s086_a_get_makes_younger<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let ((ann, mine), _bob) = two(env)?;
    for index in 0..3 {
        ann.must_put(mine, key(1, index), u64::from(index))?;
    }
    ann.must_get(mine, key(1, 0), 0)?;
    holds("something is evicted", lab.evict())?;
    ann.must_miss(mine, key(1, 1))?;
    ann.must_get(mine, key(1, 0), 0)
}

pub(crate) fn s087_there_are_sixteen_shared_pools<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let (rich, late) = (other(env, 62)?, other(env, 63)?);
    let name = |nth: u64| [0x87, nth];
    for nth in 0..16 {
        authorise(lab, 62, name(nth))?;
        rich.pool(PoolKind::Shared { uuid: name(nth) })?;
    }
    authorise(lab, 63, name(16))?;
    answers("the 17th", late.try_pool(PoolKind::Shared { uuid: name(16) }), EPERM)?;
    answers("the id that it would have had", late.get(PoolId::new(0), key(1, 1)), ENODEV)
}

pub(crate) fn s088_a_guest_that_leaves<E: Env>(env: &E) -> Outcome {
    let ((ann, mine), (bob, yours)) = two(env)?;
    for object in 1..4 {
        ann.must_put(mine, key(object, 0), object)?;
    }
    bob.must_get(yours, key(2, 0), 2)?;
    answers("destroy", bob.destroy(yours), 1)?;
    ann.must_get(mine, key(1, 0), 1)?;
    ann.must_get(mine, key(3, 0), 3)?;
    if has_defects(env) {
        return ann.must_miss(mine, key(2, 0));
    }
    ann.must_get(mine, key(2, 0), 2)
}

pub(crate) fn s089_the_owner_that_leaves<E: Env>(env: &E) -> Outcome {
    let ((ann, mine), (bob, yours)) = two(env)?;
    bob.must_put(yours, key(1, 0), 1)?;
    bob.must_put(yours, key(2, 0), 2)?;
    bob.must_get(yours, key(2, 0), 2)?;
    answers("destroy", ann.destroy(mine), 1)?;
    bob.must_get(yours, key(2, 0), 2)?;
    if has_defects(env) {
        return bob.must_miss(yours, key(1, 0));
    }
    bob.must_get(yours, key(1, 0), 1)
}

pub(crate) fn s090_after_a_leave_nothing_is_evicted<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let ((ann, mine), (bob, yours)) = two(env)?;
    answers("destroy", bob.destroy(yours), 1)?;
    ann.must_put(mine, key(1, 0), 90)?;
    same("something is evicted", u64::from(lab.evict()), u64::from(!has_defects(env)))
}

pub(crate) fn s091_the_last_to_leave_takes_all<E: Env>(env: &E) -> Outcome {
    let ((ann, mine), (bob, yours)) = two(env)?;
    ann.must_put(mine, key(1, 0), 91)?;
    bob.must_get(yours, key(1, 0), 91)?;
    answers("destroy", ann.destroy(mine), 1)?;
    answers("destroy", bob.destroy(yours), 1)?;
    let again = ann.pool(KIND)?;
    answers("get", ann.get(again, key(1, 0)), abi::EEMPTY.to_rax())
}

pub(crate) fn s092_deauthorising_does_not_expel<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let ((ann, mine), (bob, yours)) = two(env)?;
    answers("deauthorise", lab.control(Control::Deauthorise(BOB, UUID)).code, 1)?;
    ann.must_put(mine, key(1, 0), 92)?;
    bob.must_get(yours, key(1, 0), 92)?;
    let again = bob.try_pool(KIND);
    if !has_defects(env) {
        return answers("a service refuses to join again", again, EPERM);
    }
    bob.must_miss(PoolId::new(again as i32), key(1, 0))
}

pub(crate) fn s093_the_owners_freeze_counts<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let ((ann, mine), (bob, yours)) = two(env)?;
    answers("freeze the guest", lab.control(Control::Freeze(Some(BOB))).code, 0)?;
    ann.must_put(mine, key(1, 0), 1)?;
    bob.must_put(yours, key(1, 1), 2)?;
    answers("thaw it", lab.control(Control::Thaw(Some(BOB))).code, 0)?;
    answers("freeze the owner", lab.control(Control::Freeze(Some(ANN))).code, 0)?;
    let (one, two) = (ann.put(mine, key(1, 2), 3), bob.put(yours, key(1, 3), 4));
    answers("thaw it", lab.control(Control::Thaw(Some(ANN))).code, 0)?;
    answers("the owner's put", one, abi::EFROZEN.to_rax())?;
    answers("the guest's put", two, abi::EFROZEN.to_rax())
}

pub(crate) fn s094_sixteen_names_can_be_authorised<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    other(env, 64)?;
    for nth in 0..16 {
        authorise(lab, 64, [94, nth])?;
    }
    let code = lab.control(Control::Authorise(64, [94, 16])).code;
    answers("the 17th", code, Errno::ENOMEM.to_rax())
}
