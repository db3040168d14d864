//! Marshalling and decoding, against a transport that checks the registers and answers from a script. What the
//! calls *mean* is tested by the conformance suite, on the model hypervisor and on Xen.

use super::*;
use crate::port::*;
use crate::units::*;
use core::cell::{Cell, RefCell};
use core::ptr::with_exposed_provenance;
use std::vec::Vec;
use xen_abi::{hvm, hypercall, memory};

/// A transport with one answer, that remembers what it was asked.
struct Script {
    answer: i64,
    call: Cell<Option<(u32, Arguments)>>,
    list: RefCell<Vec<u64>>,
}

impl Script {
    fn answering(answer: i64) -> Self {
        Self { answer, call: Cell::new(None), list: RefCell::new(Vec::new()) }
    }

    fn asked(&self) -> (u32, Arguments) {
        self.call.get().expect("a call was made")
    }
}

// SAFETY: reads the structures and lists of the reservation calls, and nothing of any other call.
unsafe impl Transport for Script {
    unsafe fn call(&self, number: u32, arguments: Arguments) -> i64 {
        self.call.set(Some((number, arguments)));
        if number == hypercall::MEMORY_OP
            && [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP].contains(&(arguments[0] as u32))
        {
            let pointer = with_exposed_provenance::<memory::Reservation>(arguments[1] as usize);
            // SAFETY: the caller passes this structure for these commands.
            let reservation = unsafe { pointer.read() };
            assert_eq!((reservation.mem_flags, reservation.domid), (0, 0x7FF0));
            let list = with_exposed_provenance::<u64>(reservation.extent_start as usize);
            for index in 0..reservation.nr_extents as usize {
                // SAFETY: the caller's list has this many entries.
                self.list.borrow_mut().push(unsafe { list.wrapping_add(index).read() });
            }
        }
        self.answer
    }
}

#[test]
fn a_reservation_call_passes_its_list_and_decodes_a_short_count() {
    let script = Script::answering(2);
    let extents = [Gfn::new(512), Gfn::new(1024), Gfn::new(4096)];
    // SAFETY: nothing is behind these numbers.
    let done = unsafe { Xen::new(&script).decrease_reservation(Order::BLOCK, &extents) };
    assert_eq!(done, Ok(Completed::new(2)));
    assert_eq!(*script.list.borrow(), [512, 1024, 4096]);
    let (number, arguments) = script.asked();
    assert_eq!((number, arguments[0]), (12, 1), "nothing above the six bits of the command");
    assert_eq!(arguments[2..], [0, 0, 0]);
}

#[test]
fn an_answer_beyond_the_list_is_refused() {
    let script = Script::answering(2);
    // SAFETY: nothing is behind this number.
    let done = unsafe { Xen::new(&script).populate_physmap(Order::FRAME, &[Gfn::new(7)]) };
    assert_eq!(done, Err(Errno::EIO));
}

#[test]
fn no_xen_is_an_error_and_not_a_count() {
    let script = Script::answering(-38);
    assert_eq!(Xen::new(&script).increase_reservation(Order::FRAME, 1), Err(Errno::ENOSYS));
    assert_eq!(Xen::new(&script).current_reservation(), Err(Errno::ENOSYS));
}

#[test]
fn a_timer_that_xen_calls_expired_is_not_an_error() {
    let timer = |answer| Xen::new(Script::answering(answer)).set_timer(VcpuId::new(0), 5);
    assert_eq!(timer(0), Ok(Armed::Pending));
    assert_eq!(timer(-62), Ok(Armed::Expired));
    assert_eq!(timer(-22), Err(Errno::EINVAL));
}

#[test]
fn tmem_is_there_if_only_its_old_command_is_refused() {
    let probe = |answer| Xen::new(Script::answering(answer)).probe_tmem();
    assert_eq!(probe(-95), Ok(()));
    assert_eq!(probe(-38), Err(Errno::ENOSYS));
    assert_eq!(probe(-19), Err(Errno::ENODEV));
}

#[test]
fn a_version_has_two_halves() {
    let version = |answer| Xen::new(Script::answering(answer)).version();
    assert_eq!(version(0x0004_0011), Ok((4, 17)));
    assert_eq!(version(i64::MAX), Err(Errno::ERANGE));
}

#[test]
fn numbers_are_those_of_the_headers() {
    // (hypercall, command) of one call per family, spelled out once more, against a slip in a constant.
    let number_of = |call: fn(&Xen<&Script>) -> bool| {
        let script = Script::answering(0);
        assert!(call(&Xen::new(&script)));
        let (number, arguments) = script.asked();
        (number, arguments[0])
    };
    assert_eq!(number_of(|xen| xen.send(EventPort::new(3)).is_ok()), (32, 4));
    assert_eq!(number_of(|xen| xen.close(EventPort::new(3)).is_ok()), (32, 3));
    assert_eq!(number_of(|xen| xen.unmask(EventPort::new(3)).is_ok()), (32, 9));
    assert_eq!(number_of(|xen| xen.poll(&[], Some(0)).is_ok()), (29, 3));
    assert_eq!(number_of(|xen| xen.is_up(VcpuId::new(1)).is_ok()), (24, 3));
    assert_eq!(number_of(|xen| xen.stop_timer(VcpuId::new(1)).is_ok()), (24, 9));
    assert_eq!(number_of(|xen| xen.features(0).is_ok()), (17, 6));
    assert_eq!(number_of(|xen| xen.get_param(HvmParam::StoreGfn).is_ok()), (34, 1));
    assert_eq!(number_of(|xen| xen.frame_type(Gfn::new(0)).is_ok()), (34, 15));
    assert_eq!(number_of(|xen| xen.set_upcall_vector(VcpuId::new(0), 0x40).is_ok()), (34, 23));
    assert_eq!(hvm::callback_vector(0xF3), 0x0200_0000_0000_00F3);
}
