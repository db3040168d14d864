//! Statements 1 to 25: what is there, the order of checks, and pools.

use super::Control;
use super::actor::{has_defects, key, lab, other, own};
use crate::conformance::check::{answers, holds, same};
use crate::conformance::{Env, Outcome, Stop};
use ebb::port::{PoolId, PoolKind};
use xen_abi::tmem::{self as abi, PageOp};
use xen_abi::{Errno, hypercall};

const EPERM: i64 = Errno::EPERM.to_rax();
const ENODEV: i64 = Errno::ENODEV.to_rax();
const ENOSYS: i64 = Errno::ENOSYS.to_rax();
const EFAULT: i64 = Errno::EFAULT.to_rax();
const EOPNOTSUPP: i64 = Errno::EOPNOTSUPP.to_rax();

/// Canonical flags.
const EPHEMERAL: u32 = 0x0100_0000;
const PERSISTENT: u32 = 0x0100_0001;

/// One command of each sort.
const COMMANDS: [u32; 6] =
    [abi::CONTROL, abi::DESTROY_POOL, abi::GET_PAGE, abi::FLUSH_PAGE, abi::FLUSH_OBJECT, 77];

/// What a hypervisor answers to everything, where it serves no tmem.
#[expect(unsafe_code, reason = "commands that name no frame, and a structure that is nowhere")]
fn refuses_everything<E: Env>(env: &E, answer: i64, otherwise: &'static str) -> Outcome {
    use ebb::xen::Transport;
    let call = |argument: u64| {
        // SAFETY: the structure is ours, or nowhere; none of the commands copies a page.
        unsafe { env.xen().transport().call(hypercall::TMEM_OP, [argument, 0, 0, 0, 0]) }
    };
    let command = |cmd: u32| {
        let mut op = PageOp { cmd, pool_id: -1, ..PageOp::default() };
        call(core::ptr::from_mut(&mut op).expose_provenance() as u64)
    };
    if command(abi::CONTROL) != answer {
        return Err(Stop::Skip(otherwise));
    }
    for cmd in COMMANDS {
        answers("a command", command(cmd), answer)?;
    }
    answers("a structure nowhere", call(env.unmapped_address()), answer)
}

pub(crate) fn s001_absent_is_enosys<E: Env>(env: &E) -> Outcome {
    refuses_everything(env, ENOSYS, "this hypervisor has tmem")
}

pub(crate) fn s002_switched_off_is_enodev<E: Env>(env: &E) -> Outcome {
    refuses_everything(env, ENODEV, "tmem is not switched off")
}

pub(crate) fn s003_an_unreadable_argument_is_efault<E: Env>(env: &E) -> Outcome {
    answers("the structure is nowhere", own(env).unreadable(), EFAULT)?;
    let Some(lab) = env.lab() else { return Ok(()) };
    let fresh = other(env, 30)?;
    answers("another domain's", fresh.unreadable(), EFAULT)?;
    answers("no client has appeared", lab.control(Control::List(30)).code, EPERM)
}

pub(crate) fn s004_moved_commands_are_eopnotsupp<E: Env>(env: &E) -> Outcome {
    let moved = [abi::CONTROL, abi::AUTH, abi::RESTORE_NEW];
    if let Some(lab) = env.lab() {
        let fresh = other(env, 31)?;
        for cmd in moved {
            answers("without a client", fresh.command(cmd, 0), EOPNOTSUPP)?;
        }
        answers("no client has appeared", lab.control(Control::List(31)).code, EPERM)?;
    }
    let me = own(env);
    me.ephemeral()?;
    for cmd in moved {
        answers("with a client", me.command(cmd, 0), EOPNOTSUPP)?;
    }
    Ok(())
}

pub(crate) fn s005_a_pool_never_made_is_enodev<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    let pool = PoolId::new(15);
    answers("put", me.put(pool, key(1, 1), 1), ENODEV)?;
    answers("get", me.get(pool, key(1, 1)), ENODEV)?;
    answers("flush", me.flush(pool, key(1, 1)), ENODEV)?;
    answers("flush object", me.flush_object(pool, 1), ENODEV)
}

pub(crate) fn s006_ids_beyond_the_table_are_enodev<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    for id in [16, -1, i32::MIN, i32::MAX] {
        answers("put", me.put(PoolId::new(id), key(1, 1), 1), ENODEV)?;
        answers("get", me.get(PoolId::new(id), key(1, 1)), ENODEV)?;
        answers("flush", me.flush(PoolId::new(id), key(1, 1)), ENODEV)?;
    }
    Ok(())
}

pub(crate) fn s007_destroying_nothing_is_0<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    for id in [15, 16, -1] {
        answers("destroy", me.destroy(PoolId::new(id)), 0)?;
    }
    Ok(())
}

pub(crate) fn s008_unknown_commands_depend_on_the_pool<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    let pool = me.ephemeral()?;
    for cmd in [11, 77, u32::MAX] {
        answers("a pool that is there", me.command(cmd, pool.get()), ENOSYS)?;
        answers("a pool that is not", me.command(cmd, 15), ENODEV)?;
    }
    Ok(())
}

pub(crate) fn s009_old_commands_do_nothing<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    let pool = me.persistent()?;
    me.must_put(pool, key(0, 0), 9)?;
    let charged = me.charged()?;
    for cmd in [3, 8, 9, 10] {
        answers("an old command", me.command(cmd, pool.get()), ENOSYS)?;
    }
    same("charged", me.charged()?, charged)?;
    me.must_get(pool, key(0, 0), 9)
}

pub(crate) fn s010_a_policy_that_refuses_is_eperm<E: Env>(env: &E) -> Outcome {
    refuses_everything(env, EPERM, "no policy refuses tmem here")
}

pub(crate) fn s011_a_dying_client_is_enodev<E: Env>(env: &E) -> Outcome {
    let lab = lab(env)?;
    let doomed = other(env, 32)?;
    let pool = doomed.ephemeral()?;
    lab.doom(32);
    answers("put", doomed.put(pool, key(1, 1), 1), ENODEV)?;
    answers("a new pool", doomed.create(EPHEMERAL), ENODEV)?;
    answers("even a structure nowhere", doomed.unreadable(), ENODEV)
}

pub(crate) fn s012_ids_begin_at_0<E: Env>(env: &E) -> Outcome {
    let fresh = other(env, 33)?;
    answers("an ephemeral pool", fresh.create(EPHEMERAL), 0)?;
    answers("a persistent pool", fresh.create(PERSISTENT), 1)
}

pub(crate) fn s013_other_versions_are_refused<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    answers("version 0", me.create(0), EPERM)?;
    answers("version 2", me.create(0x0200_0000), EPERM)
}

pub(crate) fn s014_persistent_and_shared_is_refused<E: Env>(env: &E) -> Outcome {
    answers("both", own(env).create(PERSISTENT | abi::POOL_SHARED), EPERM)
}

pub(crate) fn s015_other_page_sizes_are_refused<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    for size in 1..16 {
        answers("a page size", me.create(EPHEMERAL | size << abi::POOL_PAGE_SIZE_SHIFT), EPERM)?;
    }
    Ok(())
}

pub(crate) fn s016_precompressed_is_refused<E: Env>(env: &E) -> Outcome {
    answers("precompressed", own(env).create(EPHEMERAL | abi::POOL_PRECOMPRESSED), EPERM)
}

pub(crate) fn s017_reserved_flags_are_refused<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    for bit in 8..24 {
        answers("a reserved bit", me.create(EPHEMERAL | 1 << bit), EPERM)?;
    }
    Ok(())
}

pub(crate) fn s018_bit_3_is_not_looked_at<E: Env>(env: &E) -> Outcome {
    let id = own(env).create(EPHEMERAL | 1 << 3);
    holds("a pool, or a refusal by a service", id >= 0 || (!has_defects(env) && id == EPERM))
}

pub(crate) fn s019_arg1_and_pool_id_are_not_looked_at<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    let id = me.create_odd(EPHEMERAL, [0; 2], 0x7777_7777, 0xFFFF_FFFF);
    holds("a pool", (0..16).contains(&id))
}

pub(crate) fn s020_there_are_sixteen_pools<E: Env>(env: &E) -> Outcome {
    let fresh = other(env, 34)?;
    for id in 0..16 {
        answers("a pool", fresh.create(EPHEMERAL), id)?;
    }
    answers("the 17th", fresh.create(EPHEMERAL), EPERM)?;
    answers("the last", fresh.destroy(PoolId::new(15)), 1)?;
    answers("its id again", fresh.create(EPHEMERAL), 15)
}

pub(crate) fn s021_the_lowest_free_id_is_next<E: Env>(env: &E) -> Outcome {
    let fresh = other(env, 35)?;
    for id in 0..16 {
        answers("a pool", fresh.create(EPHEMERAL), id)?;
    }
    answers("number 7", fresh.destroy(PoolId::new(7)), 1)?;
    answers("its id again", fresh.create(PERSISTENT), 7)
}

pub(crate) fn s022_freed_ids_come_before_new_ones<E: Env>(env: &E) -> Outcome {
    let fresh = other(env, 36)?;
    for id in 0..3 {
        answers("a pool", fresh.create(EPHEMERAL), id)?;
    }
    for id in [0, 1] {
        answers("destroyed", fresh.destroy(PoolId::new(id)), 1)?;
    }
    for id in [0, 1, 3] {
        answers("a pool", fresh.create(EPHEMERAL), id)?;
    }
    Ok(())
}

pub(crate) fn s023_ids_are_each_domains_own<E: Env>(env: &E) -> Outcome {
    let (one, two) = (other(env, 37)?, other(env, 38)?);
    answers("one's first", one.create(EPHEMERAL), 0)?;
    answers("two's first", two.create(EPHEMERAL), 0)?;
    answers("one's second", one.create(EPHEMERAL), 1)
}

pub(crate) fn s024_a_private_pools_uuid_means_nothing<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    let id = me.create_odd(PERSISTENT, [5, 6], 0, 0);
    holds("a pool", (0..16).contains(&id))?;
    let pool = PoolId::new(id as i32);
    me.must_put(pool, key(1, 1), 24)?;
    me.must_get(pool, key(1, 1), 24)?;
    me.must_get(pool, key(1, 1), 24)
}

pub(crate) fn s025_a_refused_pool_changes_nothing<E: Env>(env: &E) -> Outcome {
    let me = own(env);
    let pool = me.persistent()?;
    me.must_put(pool, key(1, 1), 25)?;
    for flags in [0, PERSISTENT | abi::POOL_SHARED, EPHEMERAL | abi::POOL_PRECOMPRESSED] {
        answers("refused", me.create(flags), EPERM)?;
    }
    me.must_get(pool, key(1, 1), 25)?;
    let next = me.pool(PoolKind::Ephemeral)?;
    same("the next id", next.get() as u64, pool.get() as u64 + 1)
}
