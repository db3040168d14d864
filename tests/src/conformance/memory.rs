//! Releasing and populating. Source: Xen `xen/common/memory.c`, `xen/arch/x86/mm/p2m.c`.

use super::check::{done, holds, refused, same};
use super::own::{self, frame, hole, list, populate, populate_frame, release, release_frame};
use super::{Env, Outcome, Stop};
use ebb::port::{FrameType, HvmOps, MapEntry, MemoryKind, MemoryOps, SpecialPage};
use ebb::units::{BLOCK_FRAMES, Gfn, Order};
use xen_abi::Errno;

const ALL_ONES: u64 = u64::MAX;
const LAST_WORD: usize = 511;

fn order(order: u8) -> Result<Order, Stop> {
    Order::new(order).ok_or(Stop::Skip("no such order"))
}

fn charged<E: Env>(env: &E) -> Result<u64, Stop> {
    done("current_reservation", env.xen().current_reservation()).map(|frames| frames.get())
}

fn is_hole<E: Env>(env: &E, what: &'static str, frame: Gfn) -> Outcome {
    holds(what, env.xen().frame_type(frame) == Ok(FrameType::HoleOrDevice))
}

fn is_ram<E: Env>(env: &E, what: &'static str, frame: Gfn) -> Outcome {
    holds(what, env.xen().frame_type(frame) == Ok(FrameType::ReadWrite))
}

pub(super) fn release_then_populate_order_0<E: Env>(env: &E) -> Outcome {
    let (before, at) = (charged(env)?, frame(env, 7));
    same("released", release_frame(env, at)?, 1)?;
    same("tot_pages, released", charged(env)?, before - 1)?;
    is_hole(env, "a released frame is a hole", at)?;
    is_ram(env, "its neighbour is not", frame(env, 8))?;
    same("populated", populate_frame(env, at)?, 1)?;
    same("tot_pages, populated", charged(env)?, before)?;
    is_ram(env, "a populated frame is RAM", at)
}

pub(super) fn release_then_populate_order_9<E: Env>(env: &E) -> Outcome {
    let before = charged(env)?;
    same("released", release(env, Order::BLOCK, &[env.block()])?, 1)?;
    same("tot_pages, released", charged(env)?, before - BLOCK_FRAMES)?;
    for at in own::block(env) {
        is_hole(env, "every frame of the block is a hole", at)?;
    }
    same("populated", populate(env, Order::BLOCK, &[env.block()])?, 1)?;
    same("tot_pages, populated", charged(env)?, before)
}

pub(super) fn release_then_populate_list<E: Env>(env: &E) -> Outcome {
    let (before, frames) = (charged(env)?, list(env.block()));
    for _ in 0..4 {
        same("released", release(env, Order::FRAME, &frames)?, BLOCK_FRAMES)?;
        same("tot_pages, released", charged(env)?, before - BLOCK_FRAMES)?;
        same("populated", populate(env, Order::FRAME, &frames)?, BLOCK_FRAMES)?;
        same("tot_pages, populated", charged(env)?, before)?;
    }
    Ok(())
}

pub(super) fn orders_between_work<E: Env>(env: &E) -> Outcome {
    for exponent in 1..9 {
        let extents = [env.block(), env.block() + order(exponent)?.frames()];
        same("released", release(env, order(exponent)?, &extents)?, 2)?;
        same("populated", populate(env, order(exponent)?, &extents)?, 2)?;
    }
    Ok(())
}

pub(super) fn released_as_frames_populates_as_block<E: Env>(env: &E) -> Outcome {
    same("released", release(env, Order::FRAME, &list(env.block()))?, BLOCK_FRAMES)?;
    same("populated", populate(env, Order::BLOCK, &[env.block()])?, 1)
}

pub(super) fn released_as_block_populates_as_frames<E: Env>(env: &E) -> Outcome {
    same("released", release(env, Order::BLOCK, &[env.block()])?, 1)?;
    same("populated", populate(env, Order::FRAME, &list(env.block()))?, BLOCK_FRAMES)
}

pub(super) fn a_hole_reads_all_ones<E: Env>(env: &E) -> Outcome {
    let at = frame(env, 100);
    env.write(at, 0, 0x1234);
    same("released", release_frame(env, at)?, 1)?;
    let (first, last) = (env.read(at, 0), env.read(at, LAST_WORD));
    same("populated", populate_frame(env, at)?, 1)?;
    same("first word of a hole", first, ALL_ONES)?;
    same("last word of a hole", last, ALL_ONES)
}

pub(super) fn a_hole_swallows_writes<E: Env>(env: &E) -> Outcome {
    let at = frame(env, 101);
    same("released", release_frame(env, at)?, 1)?;
    env.write(at, 3, 42);
    let read = env.read(at, 3);
    same("populated", populate_frame(env, at)?, 1)?;
    same("a word written to a hole", read, ALL_ONES)
}

pub(super) fn populated_memory_keeps_what_is_written<E: Env>(env: &E) -> Outcome {
    let at = frame(env, 511);
    same("released", release_frame(env, at)?, 1)?;
    same("populated", populate_frame(env, at)?, 1)?;
    for index in 0..=LAST_WORD {
        env.write(at, index, 0xA5A5_0000 + index as u64);
    }
    for index in 0..=LAST_WORD {
        same("a word read back", env.read(at, index), 0xA5A5_0000 + index as u64)?;
    }
    Ok(())
}

pub(super) fn frames_of_a_block_are_distinct<E: Env>(env: &E) -> Outcome {
    same("released", release(env, Order::BLOCK, &[env.block()])?, 1)?;
    same("populated", populate(env, Order::BLOCK, &[env.block()])?, 1)?;
    for at in own::block(env) {
        env.write(at, 9, at.get());
    }
    for at in own::block(env) {
        same("a frame's own number", env.read(at, 9), at.get())?;
    }
    Ok(())
}

pub(super) fn neighbours_keep_their_content<E: Env>(env: &E) -> Outcome {
    for at in own::block(env) {
        env.write(at, 0, !at.get());
    }
    let odd = [frame(env, 1), frame(env, 3), frame(env, 255), frame(env, 511)];
    same("released", release(env, Order::FRAME, &odd)?, 4)?;
    let mut kept = Ok(());
    for at in own::block(env).filter(|at| !odd.contains(at)) {
        kept = kept.and(same("a neighbour's word", env.read(at, 0), !at.get()));
    }
    same("populated", populate(env, Order::FRAME, &odd)?, 4)?;
    kept
}

pub(super) fn releasing_twice_does_nothing<E: Env>(env: &E) -> Outcome {
    let at = frame(env, 20);
    same("released", release_frame(env, at)?, 1)?;
    let before = charged(env)?;
    same("released again", release_frame(env, at)?, 0)?;
    same("tot_pages", charged(env)?, before)?;
    same("populated", populate_frame(env, at)?, 1)
}

pub(super) fn a_duplicate_ends_a_release<E: Env>(env: &E) -> Outcome {
    let (twice, after) = (frame(env, 21), frame(env, 22));
    same("released", release(env, Order::FRAME, &[twice, twice, after])?, 1)?;
    is_ram(env, "what follows the duplicate", after)?;
    same("populated", populate_frame(env, twice)?, 1)
}

pub(super) fn a_release_ends_at_a_hole<E: Env>(env: &E) -> Outcome {
    let at = |index: u64| frame(env, 40 + index);
    same("released", release_frame(env, at(3))?, 1)?;
    let before = charged(env)?;
    let six = [at(0), at(1), at(2), at(3), at(4), at(5)];
    same("released up to the hole", release(env, Order::FRAME, &six)?, 3)?;
    is_hole(env, "before the hole", at(2))?;
    is_ram(env, "after the hole", at(4))?;
    is_ram(env, "at the end", at(5))?;
    same("tot_pages", charged(env)?, before - 3)?;
    same("populated", populate(env, Order::FRAME, &six[..4])?, 4)
}

pub(super) fn a_half_failed_block_loses_its_beginning<E: Env>(env: &E) -> Outcome {
    same("released", release_frame(env, frame(env, 5))?, 1)?;
    let before = charged(env)?;
    same("a block with a hole", release(env, Order::BLOCK, &[env.block()])?, 0)?;
    same("tot_pages", charged(env)?, before - 5)?;
    for index in 0..5 {
        is_hole(env, "frames before the hole are gone", frame(env, index))?;
    }
    is_ram(env, "frames after it are not", frame(env, 6))?;
    same("again", release(env, Order::BLOCK, &[env.block()])?, 0)?;
    same("tot_pages, again", charged(env)?, before - 5)?;
    let rest = list(env.block());
    same("frame by frame", release(env, Order::FRAME, &rest[6..])?, BLOCK_FRAMES - 6)?;
    same("populated", populate(env, Order::BLOCK, &[env.block()])?, 1)
}

pub(super) fn memory_can_be_anywhere<E: Env>(env: &E) -> Outcome {
    let (inside, outside) = (frame(env, 0), hole(env, 3));
    is_hole(env, "an unused frame number", outside)?;
    same("released", release_frame(env, inside)?, 1)?;
    same("populated elsewhere", populate_frame(env, outside)?, 1)?;
    is_ram(env, "memory outside the map", outside)?;
    same("released there", release_frame(env, outside)?, 1)?;
    same("populated", populate_frame(env, inside)?, 1)
}

pub(super) fn alignment_is_not_checked<E: Env>(env: &E) -> Outcome {
    let odd = hole(env, 1);
    same("released", release(env, Order::BLOCK, &[env.block()])?, 1)?;
    let done = populate(env, Order::BLOCK, &[odd])?;
    let ends = (env.xen().frame_type(odd), env.xen().frame_type(hole(env, 512)));
    let back = release(env, Order::BLOCK, &[odd])?;
    same("populated", populate(env, Order::BLOCK, &[env.block()])?, 1)?;
    same("populated at an odd frame", done, 1)?;
    holds("from its first to its last frame", ends == (Ok(FrameType::ReadWrite), Ok(FrameType::ReadWrite)))?;
    same("released from there", back, 1)
}

pub(super) fn over_allocation_is_refused_to_the_frame<E: Env>(env: &E) -> Outcome {
    let limit = done("maximum_reservation", env.xen().maximum_reservation())?.get();
    let before = charged(env)?;
    let allowance = limit.saturating_sub(before);
    if allowance >= BLOCK_FRAMES {
        return Err(Stop::Skip("the domain may have another block"));
    }
    same("a block beyond the limit", populate(env, Order::BLOCK, &[env.holes()])?, 0)?;
    same("tot_pages after it", charged(env)?, before)?;
    is_hole(env, "its first frame", env.holes())?;
    let frames = list(env.holes());
    let granted = populate(env, Order::FRAME, &frames)?;
    let full = charged(env)?;
    let one_more = populate_frame(env, hole(env, 600))?;
    #[expect(clippy::cast_possible_truncation, reason = "no more than the list")]
    let back = release(env, Order::FRAME, &frames[..granted as usize])?;
    same("frames up to the limit", granted, allowance)?;
    same("tot_pages at the limit", full, limit)?;
    same("one frame more", one_more, 0)?;
    same("released", back, granted)
}

pub(super) fn a_released_block_makes_room<E: Env>(env: &E) -> Outcome {
    same("released", release(env, Order::BLOCK, &[env.block()])?, 1)?;
    let elsewhere = populate(env, Order::BLOCK, &[env.holes()])?;
    let back = release(env, Order::BLOCK, &[env.holes()])?;
    same("populated", populate(env, Order::BLOCK, &[env.block()])?, 1)?;
    same("populated elsewhere", elsewhere, 1)?;
    same("released from there", back, 1)
}

pub(super) fn populating_memory_leaks_it<E: Env>(env: &E) -> Outcome {
    let (before, at) = (charged(env)?, frame(env, 77));
    env.write(at, 0, 0xDEAD_0077);
    same("populated over memory", populate_frame(env, at)?, 1)?;
    same("tot_pages", charged(env)?, before + 1)?;
    is_ram(env, "still RAM", at)?;
    same("released", release_frame(env, at)?, 1)?;
    same("tot_pages, released", charged(env)?, before)?;
    is_hole(env, "one release is enough for a hole", at)?;
    same("populated", populate_frame(env, at)?, 1)
}

pub(super) fn increase_reservation_charges_for_nothing<E: Env>(env: &E) -> Outcome {
    let before = charged(env)?;
    let highest = done("maximum_gpfn", env.xen().maximum_gpfn())?;
    let completed = done("increase_reservation", env.xen().increase_reservation(Order::FRAME, 1))?;
    same("increased", completed.count() as u64, 1)?;
    same("tot_pages", charged(env)?, before + 1)?;
    same("nothing was mapped", done("maximum_gpfn", env.xen().maximum_gpfn())?.get(), highest.get())
}

pub(super) fn reservations_are_plausible<E: Env>(env: &E) -> Outcome {
    let limit = done("maximum_reservation", env.xen().maximum_reservation())?.get();
    holds("tot_pages covers the block", charged(env)? >= BLOCK_FRAMES)?;
    holds("max_pages is not zero", limit > 0)
}

pub(super) fn maximum_gpfn_covers_the_special_pages<E: Env>(env: &E) -> Outcome {
    let highest = done("maximum_gpfn", env.xen().maximum_gpfn())?;
    holds("maximum_gpfn", highest.get() >= 0xF_EFFF)
}

pub(super) fn the_memory_map_has_ram<E: Env>(env: &E) -> Outcome {
    let mut entries = [MapEntry { start: 0, size: 0, kind: MemoryKind::Unusable }; 32];
    let count = done("memory_map", env.xen().memory_map(&mut entries))?;
    let at = env.block().start().get();
    let covers = |entry: &MapEntry| {
        entry.kind == MemoryKind::Ram && entry.start <= at && at < entry.start.saturating_add(entry.size)
    };
    holds("the block is in it", entries[..count].iter().any(covers))?;
    let short = done("memory_map, short", env.xen().memory_map(&mut entries[..1]))?;
    same("entries in a short buffer", short as u64, 1)
}

pub(super) fn ballooning_leaves_the_memory_map<E: Env>(env: &E) -> Outcome {
    let mut before = [MapEntry { start: 0, size: 0, kind: MemoryKind::Unusable }; 32];
    let mut after = before;
    let count = done("memory_map", env.xen().memory_map(&mut before))?;
    same("released", release(env, Order::BLOCK, &[env.block()])?, 1)?;
    let then = env.xen().memory_map(&mut after);
    same("populated", populate(env, Order::BLOCK, &[env.block()])?, 1)?;
    same("entries", done("memory_map", then)? as u64, count as u64)?;
    holds("the same entries", before == after)
}

pub(super) fn the_shared_info_page_moves<E: Env>(env: &E) -> Outcome {
    let at = hole(env, 9);
    done("mapped elsewhere", own::map_special(env, SpecialPage::SharedInfo, at))?;
    let types = (env.xen().frame_type(env.shared_info_frame()), env.xen().frame_type(at));
    done("mapped back", own::restore_shared_info(env))?;
    holds("its old place is a hole", types.0 == Ok(FrameType::HoleOrDevice))?;
    holds("its new place is not", types.1 == Ok(FrameType::ReadWrite))?;
    is_hole(env, "moved back", at)
}

pub(super) fn unmapping_a_hole_is_enoent<E: Env>(env: &E) -> Outcome {
    refused("remove_from_physmap", own::unmap_special(env, hole(env, 10)), Errno::ENOENT)
}

pub(super) fn a_grant_frame_beyond_the_table_is_einval<E: Env>(env: &E) -> Outcome {
    let page = SpecialPage::GrantTable(0x10_0000);
    refused("add_to_physmap", own::map_special(env, page, hole(env, 11)), Errno::EINVAL)
}
