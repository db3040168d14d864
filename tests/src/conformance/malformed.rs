//! Reservation calls that no typed call makes, and the other memory commands. What is wrong with a reservation
//! call never shows as an error: nothing is done. Source: Xen `xen/common/memory.c`.
#![expect(unsafe_code, reason = "makes calls with structures of its own")]

use super::check::{answers, done, holds, same};
use super::own::{self, RawReservation, frame, hole, populate_frame, release, release_frame};
use super::{Env, Outcome, Stop};
use ebb::port::{FrameType, HvmOps, MemoryOps};
use ebb::units::{Frames, Gfn, Order};
use xen_abi::{DOMID_SELF, Errno, hypercall, memory as abi};

/// No domain has this number.
const NOBODY: u16 = 0x7FE0;

fn is_ram<E: Env>(env: &E, what: &'static str, frame: Gfn) -> Outcome {
    holds(what, env.xen().frame_type(frame) == Ok(FrameType::ReadWrite))
}

/// A release that should do nothing: whatever it did is undone, then judged.
fn releases_nothing<E: Env>(env: &E, what: &'static str, call: RawReservation<'_>) -> Outcome {
    let answer = call.call(env);
    for at in call.list {
        if env.xen().frame_type(*at) == Ok(FrameType::HoleOrDevice) {
            same("mended", populate_frame(env, *at)?, 1)?;
            answers("a frame was released although the call answered", answer, -1)?;
        }
    }
    answers(what, answer, 0)
}

/// A populate that should do nothing: a hole stays one.
fn populates_nothing<E: Env>(env: &E, what: &'static str, change: fn(&mut RawReservation<'_>)) -> Outcome {
    let at = frame(env, 30);
    same("released", release_frame(env, at)?, 1)?;
    let list = [at];
    let mut call = RawReservation::new(abi::POPULATE_PHYSMAP, &list);
    change(&mut call);
    let answer = call.call(env);
    let filled = env.xen().frame_type(at) == Ok(FrameType::ReadWrite);
    if !filled {
        same("populated", populate_frame(env, at)?, 1)?;
    }
    answers(what, answer, 0)?;
    holds("the hole stayed a hole", !filled)
}

pub(super) fn an_empty_list_is_done<E: Env>(env: &E) -> Outcome {
    same("released", release(env, Order::FRAME, &[])?, 0)?;
    same("populated", own::populate(env, Order::BLOCK, &[])?, 0)
}

pub(super) fn the_largest_order_is_nine<E: Env>(env: &E) -> Outcome {
    // An exchange of nothing tells: it checks the order before anything else, and does nothing.
    let exchange = |order| {
        let side = abi::Reservation { extent_order: order, domid: DOMID_SELF, ..Default::default() };
        let mut exchange = abi::Exchange { input: side, output: side, nr_exchanged: 0 };
        // SAFETY: the structure of this command, about two lists of no extents.
        unsafe { own::command(env, hypercall::MEMORY_OP, u64::from(abi::EXCHANGE), &mut exchange) }
    };
    answers("order 10", exchange(10), Errno::EPERM.to_rax())?;
    holds("order 9 is not refused for its order", exchange(9) != Errno::EPERM.to_rax())
}

pub(super) fn an_order_above_nine_does_nothing<E: Env>(env: &E) -> Outcome {
    // The first frame is a hole, so that even a Xen with a higher limit would stop there.
    let at = env.block();
    same("released", release_frame(env, at)?, 1)?;
    let list = [at];
    let release =
        |order| RawReservation { order, ..RawReservation::new(abi::DECREASE_RESERVATION, &list) }.call(env);
    let given = (release(10), release(18), release(31), release(255));
    same("populated", populate_frame(env, at)?, 1)?;
    answers("order 10", given.0, 0)?;
    answers("order 18", given.1, 0)?;
    answers("order 31", given.2, 0)?;
    answers("order 255", given.3, 0)
}

pub(super) fn too_long_a_list_does_nothing<E: Env>(env: &E) -> Outcome {
    // The second entry is a hole, so that a Xen without the check would stop there.
    let list = [frame(env, 31), hole(env, 31)];
    let call = RawReservation {
        count: abi::MAX_EXTENTS + 1,
        ..RawReservation::new(abi::DECREASE_RESERVATION, &list)
    };
    releases_nothing(
        env,
        "a list of 2^26 extents",
        RawReservation { list: &list[..1], ..at_list(call, &list) },
    )
}

/// The same call, told where a longer list is.
fn at_list<'l>(call: RawReservation<'l>, list: &'l [Gfn]) -> RawReservation<'l> {
    RawReservation { list_address: Some(list.as_ptr().expose_provenance() as u64), ..call }
}

pub(super) fn another_domain_is_out_of_reach<E: Env>(env: &E) -> Outcome {
    let list = [frame(env, 32)];
    for domid in [0, NOBODY, xen_abi::DOMID_IO, xen_abi::DOMID_XEN, xen_abi::DOMID_INVALID] {
        let call = RawReservation { domid, ..RawReservation::new(abi::DECREASE_RESERVATION, &list) };
        releases_nothing(env, "another domain's number", call)?;
    }
    Ok(())
}

pub(super) fn a_structure_nowhere_does_nothing<E: Env>(env: &E) -> Outcome {
    for command in [abi::INCREASE_RESERVATION, abi::DECREASE_RESERVATION, abi::POPULATE_PHYSMAP] {
        answers("a structure at no address", own::nowhere(env, hypercall::MEMORY_OP, command), 0)?;
    }
    Ok(())
}

pub(super) fn other_commands_fault_on_a_structure_nowhere<E: Env>(env: &E) -> Outcome {
    for command in [
        abi::CURRENT_RESERVATION,
        abi::MAXIMUM_RESERVATION,
        abi::MAXIMUM_GPFN,
        abi::ADD_TO_PHYSMAP,
        abi::REMOVE_FROM_PHYSMAP,
        abi::MEMORY_MAP,
    ] {
        let answer = own::nowhere(env, hypercall::MEMORY_OP, command);
        answers("a structure at no address", answer, Errno::EFAULT.to_rax())?;
    }
    Ok(())
}

pub(super) fn a_list_nowhere_does_nothing<E: Env>(env: &E) -> Outcome {
    let list = [frame(env, 33)];
    for command in [abi::DECREASE_RESERVATION, abi::POPULATE_PHYSMAP] {
        let call = RawReservation {
            list_address: Some(env.unmapped_address()),
            ..RawReservation::new(command, &list)
        };
        answers("a list at no address", call.call(env), 0)?;
    }
    is_ram(env, "the frame", list[0])
}

pub(super) fn a_list_in_a_hole_does_nothing<E: Env>(env: &E) -> Outcome {
    let (page, list) = (frame(env, 34), [frame(env, 35)]);
    env.write(page, 0, list[0].get());
    same("released", release_frame(env, page)?, 1)?;
    let call = RawReservation {
        list_address: Some(env.address(page)),
        ..RawReservation::new(abi::DECREASE_RESERVATION, &list)
    };
    let answer = call.call(env);
    same("populated", populate_frame(env, page)?, 1)?;
    answers("a list in a hole", answer, 0)?;
    is_ram(env, "the frame", list[0])
}

pub(super) fn a_list_is_read_entry_by_entry<E: Env>(env: &E) -> Outcome {
    // Two entries at the end of a frame, and then the list runs into a hole.
    let (page, next, list) = (frame(env, 36), frame(env, 37), [frame(env, 38), frame(env, 39)]);
    env.write(page, 510, list[0].get());
    env.write(page, 511, list[1].get());
    same("released", release_frame(env, next)?, 1)?;
    let call = RawReservation {
        list_address: Some(env.address(page) + 510 * 8),
        count: 4,
        ..RawReservation::new(abi::DECREASE_RESERVATION, &list)
    };
    let answer = call.call(env);
    same("populated", populate_frame(env, next)?, 1)?;
    for at in list {
        if env.xen().frame_type(at) == Ok(FrameType::HoleOrDevice) {
            same("populated", populate_frame(env, at)?, 1)?;
        }
    }
    answers("extents before the list ends in a hole", answer, 2)
}

pub(super) fn progress_bits_skip_extents<E: Env>(env: &E) -> Outcome {
    let list = [frame(env, 41), frame(env, 42)];
    let register = u64::from(abi::DECREASE_RESERVATION) | 1 << abi::COMMAND_BITS;
    let answer =
        RawReservation { register, ..RawReservation::new(abi::DECREASE_RESERVATION, &list) }.call(env);
    let types = list.map(|at| env.xen().frame_type(at));
    for at in list {
        if env.xen().frame_type(at) == Ok(FrameType::HoleOrDevice) {
            same("populated", populate_frame(env, at)?, 1)?;
        }
    }
    answers("extents, the skipped one included", answer, 2)?;
    holds("the first was skipped", types[0] == Ok(FrameType::ReadWrite))?;
    holds("the second was released", types[1] == Ok(FrameType::HoleOrDevice))
}

pub(super) fn progress_bits_beyond_the_list_are_the_answer<E: Env>(env: &E) -> Outcome {
    let list = [frame(env, 43)];
    let register = u64::from(abi::DECREASE_RESERVATION) | 5 << abi::COMMAND_BITS;
    let answer =
        RawReservation { register, ..RawReservation::new(abi::DECREASE_RESERVATION, &list) }.call(env);
    is_ram(env, "the frame", list[0])?;
    answers("five done of one", answer, 5)
}

pub(super) fn progress_bits_on_a_query_are_einval<E: Env>(env: &E) -> Outcome {
    for command in [abi::CURRENT_RESERVATION, abi::MAXIMUM_RESERVATION, abi::MAXIMUM_GPFN] {
        let register = u64::from(command) | 1 << abi::COMMAND_BITS;
        let mut domid = DOMID_SELF;
        // SAFETY: these commands read a domain number and change nothing.
        let answer = unsafe { own::command(env, hypercall::MEMORY_OP, register, &mut domid) };
        answers("a query with progress", answer, Errno::EINVAL.to_rax())?;
    }
    Ok(())
}

pub(super) fn populate_on_demand_is_not_for_oneself<E: Env>(env: &E) -> Outcome {
    populates_nothing(env, "the populate-on-demand flag", |call| call.flags = abi::MEMF_POPULATE_ON_DEMAND)
}

pub(super) fn an_exact_node_does_nothing<E: Env>(env: &E) -> Outcome {
    // Node 0, which is said as 1. The flag without a node is ignored: Xen 4.17 populates.
    populates_nothing(env, "a node, exactly", |call| call.flags = abi::MEMF_EXACT_NODE_REQUEST | 1 << 8)
}

pub(super) fn a_narrow_address_does_nothing<E: Env>(env: &E) -> Outcome {
    populates_nothing(env, "an address width of 12 bits", |call| call.flags = 12)
}

fn of_domain<E: Env>(env: &E, command: u32, domid: u16) -> i64 {
    let mut domid = domid;
    // SAFETY: the queries read a domain number and change nothing; only they come here.
    unsafe { own::command(env, hypercall::MEMORY_OP, u64::from(command), &mut domid) }
}

pub(super) fn queries_are_about_oneself<E: Env>(env: &E) -> Outcome {
    for command in [abi::CURRENT_RESERVATION, abi::MAXIMUM_RESERVATION, abi::MAXIMUM_GPFN] {
        answers("dom0", of_domain(env, command, 0), Errno::EPERM.to_rax())?;
        answers("no domain", of_domain(env, command, NOBODY), Errno::ESRCH.to_rax())?;
    }
    Ok(())
}

/// Maps something at an unused frame number of the cases; answers what Xen does.
fn add<E: Env>(env: &E, space: u32, index: u64) -> i64 {
    let gpfn = hole(env, 50).get();
    let mut add = abi::AddToPhysmap { domid: DOMID_SELF, size: 0, space, index, gpfn };
    // SAFETY: the structure of this command, about a frame number of the cases; the spaces and indices that they
    // pass name nothing of the domain's.
    unsafe { own::command(env, hypercall::MEMORY_OP, u64::from(abi::ADD_TO_PHYSMAP), &mut add) }
}

pub(super) fn there_is_one_shared_info_page<E: Env>(env: &E) -> Outcome {
    answers("index 1", add(env, abi::SPACE_SHARED_INFO, 1), Errno::EINVAL.to_rax())
}

pub(super) fn device_memory_is_not_ours<E: Env>(env: &E) -> Outcome {
    answers("device memory", add(env, abi::SPACE_DEV_MMIO, 0), Errno::EACCES.to_rax())
}

pub(super) fn a_foreign_frame_needs_the_batch_form<E: Env>(env: &E) -> Outcome {
    answers("a foreign frame", add(env, abi::SPACE_GMFN_FOREIGN, 0), Errno::ENOSYS.to_rax())
}

pub(super) fn the_toolstacks_commands_are_refused<E: Env>(env: &E) -> Outcome {
    let command = |command: u32| {
        let mut zeros = [0_u64; 8];
        // The domain is the last field of get_pod_target's structure.
        zeros[4] = u64::from(DOMID_SELF);
        // SAFETY: longer than either structure, and a domU is refused both.
        unsafe { own::command(env, hypercall::MEMORY_OP, u64::from(command), &mut zeros) }
    };
    answers("get_pod_target", command(abi::GET_POD_TARGET), Errno::EPERM.to_rax())?;
    answers("machine_memory_map", command(abi::MACHINE_MEMORY_MAP), Errno::ENOSYS.to_rax())
}

pub(super) fn moving_a_frame_leaves_a_hole<E: Env>(env: &E) -> Outcome {
    let (from, to) = (frame(env, 60), hole(env, 60));
    env.write(from, 0, 0x60_60);
    let before = done("current_reservation", env.xen().current_reservation())?;
    let mut add = abi::AddToPhysmap {
        domid: DOMID_SELF,
        size: 0,
        space: abi::SPACE_GMFN,
        index: from.get(),
        gpfn: to.get(),
    };
    // SAFETY: the structure of this command; both frames are the cases' own.
    let answer = unsafe { own::command(env, hypercall::MEMORY_OP, u64::from(abi::ADD_TO_PHYSMAP), &mut add) };
    answers("moved", answer, 0)?;
    let types = (env.xen().frame_type(from), env.xen().frame_type(to));
    let between = done("current_reservation", env.xen().current_reservation())?;
    (add.index, add.gpfn) = (to.get(), from.get());
    // SAFETY: as above.
    let answer = unsafe { own::command(env, hypercall::MEMORY_OP, u64::from(abi::ADD_TO_PHYSMAP), &mut add) };
    answers("moved back", answer, 0)?;
    holds("a hole where it was", types.0 == Ok(FrameType::HoleOrDevice))?;
    holds("memory where it is", types.1 == Ok(FrameType::ReadWrite))?;
    same("tot_pages", between.get(), before.get())?;
    same("its content", env.read(from, 0), 0x60_60)
}

pub(super) fn a_long_list_is_restarted_unseen<E: Env>(env: &E) -> Outcome {
    // 512 extents are more than a time slice on a slow machine; the count is the whole call's.
    let frames = own::list(env.block());
    let release = RawReservation::new(abi::DECREASE_RESERVATION, &frames);
    let populate = RawReservation::new(abi::POPULATE_PHYSMAP, &frames);
    for _ in 0..8 {
        answers("released", release.call(env), 512)?;
        answers("populated", populate.call(env), 512)?;
    }
    Ok(())
}

pub(super) fn a_count_beyond_the_map_stops_at_its_end<E: Env>(env: &E) -> Outcome {
    // Unused frame numbers are holes: a list that runs out of memory ends there.
    let last = frame(env, 511);
    let list = [last, hole(env, 0), hole(env, 1)];
    let answer = RawReservation::new(abi::DECREASE_RESERVATION, &list).call(env);
    if answer != 1 {
        return Err(Stop::Fail(super::Failure { what: "released", got: answer, wanted: 1 }));
    }
    same("populated", populate_frame(env, last)?, 1)?;
    same("the block is 512 frames", (last - env.block() + Frames::new(1)).get(), 512)
}
