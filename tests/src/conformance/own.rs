//! The cases' own frames, and the calls that change what is behind them.
#![expect(unsafe_code, reason = "the environment promises that nothing lives in these frames")]

use super::Env;
use super::check::{Stop, done};
use ebb::port::{MemoryOps, SpecialPage};
use ebb::units::{BLOCK_FRAMES, Frames, Gfn, Order};
use ebb::xen::Transport;
use xen_abi::{DOMID_SELF, Errno, hvm, hypercall, memory};

/// Frames in a list.
pub(super) const LIST: usize = 512;

/// `count` consecutive frames.
pub(super) fn run(first: Gfn, count: u64) -> impl Iterator<Item = Gfn> {
    (0..count).map(move |index| first + Frames::new(index))
}

/// The frames of the block.
pub(super) fn block<E: Env>(env: &E) -> impl Iterator<Item = Gfn> {
    run(env.block(), BLOCK_FRAMES)
}

/// Frame `index` of the block.
pub(super) fn frame<E: Env>(env: &E, index: u64) -> Gfn {
    env.block() + Frames::new(index)
}

/// Unused frame number `index`.
pub(super) fn hole<E: Env>(env: &E, index: u64) -> Gfn {
    env.holes() + Frames::new(index)
}

/// 512 consecutive frames, as a list.
pub(super) fn list(first: Gfn) -> [Gfn; LIST] {
    core::array::from_fn(|index| first + Frames::new(index as u64))
}

/// Asks Xen itself for a vector below the lowest that it delivers, which the typed call does not.
pub(super) fn set_upcall_vector<E: Env>(env: &E, vector: u8) -> i64 {
    assert!(vector < hvm::LOWEST_UPCALL_VECTOR, "vector {vector} is one that Xen would use");
    let argument = hvm::UpcallVector { vcpu: env.vcpu().get(), vector, reserved: [0; 3] };
    let pointer = core::ptr::from_ref(&argument).expose_provenance() as u64;
    let arguments = [u64::from(hvm::SET_EVTCHN_UPCALL_VECTOR), pointer, 0, 0, 0];
    // SAFETY: the structure of this command, which is only read; a vector that Xen refuses changes nothing.
    unsafe { env.xen().transport().call(hypercall::HVM_OP, arguments) }
}

/// Panics unless the extents are the cases' own.
fn check<E: Env>(env: &E, order: Order, extents: &[Gfn]) {
    let within = |first: Gfn, from: Gfn, count: u64| {
        from <= first && first + order.frames() <= from + Frames::new(count)
    };
    for first in extents {
        assert!(
            within(*first, env.block(), BLOCK_FRAMES) || within(*first, env.holes(), 2 * BLOCK_FRAMES),
            "a case names {first}, which is not its own"
        );
    }
}

/// Gives extents back; answers how many were done.
pub(super) fn release<E: Env>(env: &E, order: Order, extents: &[Gfn]) -> Result<u64, Stop> {
    check(env, order, extents);
    // SAFETY: the frames are the cases' own, just checked; the environment promises that nothing lives there.
    let completed = unsafe { env.xen().decrease_reservation(order, extents) };
    done("decrease_reservation", completed).map(|completed| completed.count() as u64)
}

/// Fills extents; answers how many were done.
pub(super) fn populate<E: Env>(env: &E, order: Order, extents: &[Gfn]) -> Result<u64, Stop> {
    check(env, order, extents);
    // SAFETY: the frames are the cases' own, just checked; the environment promises that nothing lives there.
    let completed = unsafe { env.xen().populate_physmap(order, extents) };
    done("populate_physmap", completed).map(|completed| completed.count() as u64)
}

/// Gives one frame back.
pub(super) fn release_frame<E: Env>(env: &E, frame: Gfn) -> Result<u64, Stop> {
    release(env, Order::FRAME, &[frame])
}

/// Fills one hole.
pub(super) fn populate_frame<E: Env>(env: &E, frame: Gfn) -> Result<u64, Stop> {
    populate(env, Order::FRAME, &[frame])
}

/// Maps a special page at an unused frame number of the cases.
pub(super) fn map_special<E: Env>(env: &E, page: SpecialPage, at: Gfn) -> Result<(), Errno> {
    check(env, Order::FRAME, &[at]);
    // SAFETY: the frame is the cases' own, just checked, and the caller puts a page that moved back.
    unsafe { env.xen().map_special(page, at) }
}

/// Puts the shared info page where the environment had it.
pub(super) fn restore_shared_info<E: Env>(env: &E) -> Result<(), Errno> {
    // SAFETY: this is where it was, and nothing else has come to be there: the case moved it away.
    unsafe { env.xen().map_special(SpecialPage::SharedInfo, env.shared_info_frame()) }
}

/// Takes a frame's mapping away.
pub(super) fn unmap_special<E: Env>(env: &E, at: Gfn) -> Result<(), Errno> {
    check(env, Order::FRAME, &[at]);
    // SAFETY: the frame is the cases' own, just checked.
    unsafe { env.xen().unmap_special(at) }
}

/// A reservation call with everything to choose.
#[derive(Clone, Copy)]
pub(super) struct RawReservation<'l> {
    /// The whole first register.
    pub(super) register: u64,
    /// The list, of which every frame is the cases' own.
    pub(super) list: &'l [Gfn],
    /// Where the call shall believe the list to be.
    pub(super) list_address: Option<u64>,
    /// Its length, as the call is told.
    pub(super) count: u64,
    /// The order.
    pub(super) order: u32,
    /// The flags.
    pub(super) flags: u32,
    /// The domain.
    pub(super) domid: u16,
}

impl<'l> RawReservation<'l> {
    /// A proper call of order 0.
    pub(super) fn new(command: u32, list: &'l [Gfn]) -> Self {
        Self {
            register: u64::from(command),
            list,
            list_address: None,
            count: list.len() as u64,
            order: 0,
            flags: 0,
            domid: DOMID_SELF,
        }
    }

    /// Makes the call.
    ///
    /// A count beyond the list, a list at another address and an order above 0 are safe for what the cases do
    /// with them: the call stops, at the latest, at a hole in the cases' own frames before it reaches anything
    /// else. Each such case says why.
    pub(super) fn call<E: Env>(self, env: &E) -> i64 {
        check(env, Order::FRAME, self.list);
        let mut reservation = memory::Reservation {
            extent_start: self.list_address.unwrap_or(self.list.as_ptr().expose_provenance() as u64),
            nr_extents: self.count,
            extent_order: self.order,
            mem_flags: self.flags,
            domid: self.domid,
            reserved: [0; 3],
        };
        let pointer = core::ptr::from_mut(&mut reservation).expose_provenance() as u64;
        // SAFETY: the structure of these commands; the frames are the cases' own, and nothing lives there.
        unsafe { env.xen().transport().call(hypercall::MEMORY_OP, [self.register, pointer, 0, 0, 0]) }
    }
}

/// A call `number(command, &mut argument)` that no typed call makes.
///
/// # Safety
///
/// As [`Transport::call`], for this command and this structure.
pub(super) unsafe fn command<E: Env, A>(env: &E, number: u32, command: u64, argument: &mut A) -> i64 {
    let pointer = core::ptr::from_mut(argument).expose_provenance() as u64;
    // SAFETY: the structure is borrowed mutably until the call returns; the rest is the caller's promise.
    unsafe { env.xen().transport().call(number, [command, pointer, 0, 0, 0]) }
}

/// A call whose structure is at an address that nothing is mapped at.
pub(super) fn nowhere<E: Env>(env: &E, number: u32, command: u32) -> i64 {
    let arguments = [u64::from(command), env.unmapped_address(), 0, 0, 0];
    // SAFETY: no command that is given to this function acts without its structure, and there is none.
    unsafe { env.xen().transport().call(number, arguments) }
}
