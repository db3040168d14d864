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
    tmem: Cell<[u8; 56]>,
    call: Cell<Option<(u32, Arguments)>>,
    list: RefCell<Vec<u64>>,
}

impl Script {
    fn answering(answer: i64) -> Self {
        Self { answer, tmem: Cell::new([0; 56]), call: Cell::new(None), list: RefCell::new(Vec::new()) }
    }

    fn asked(&self) -> (u32, Arguments) {
        self.call.get().expect("a call was made")
    }
}

// SAFETY: reads the structures and lists of the reservation and tmem calls, and nothing of any other call.
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
        if number == hypercall::TMEM_OP {
            let pointer = with_exposed_provenance::<[u8; 56]>(arguments[0] as usize);
            // SAFETY: the caller passes this structure.
            self.tmem.set(unsafe { pointer.read() });
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

/// The bytes of a tmem structure from words: offsets by the fact that all fields but four are 8 bytes.
fn tmem_bytes(words: [u64; 7]) -> [u8; 56] {
    let mut bytes = [0; 56];
    for (eight, word) in bytes.chunks_exact_mut(8).zip(words) {
        eight.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[test]
fn tmem_structures_are_byte_for_byte_those_of_the_header() {
    let script = Script::answering(1);
    let xen = Xen::new(&script);
    let key = PageKey { object: [0x11, 0x22, u64::MAX], index: u32::MAX };
    let (pool, frame) = (PoolId::new(3), Gfn::new(0x1234));
    // SAFETY: the transport copies nothing.
    assert_eq!(unsafe { xen.put(pool, key, frame) }, Ok(1));
    let named = |cmd: u64| [3 << 32 | cmd, 0x11, 0x22, u64::MAX, 0xFFFF_FFFF, 0, 0];
    let with_frame = |cmd: u64| [3 << 32 | cmd, 0x11, 0x22, u64::MAX, 0xFFFF_FFFF, 0, 0x1234];
    assert_eq!(script.tmem.get(), tmem_bytes(with_frame(4)));
    assert_eq!(script.asked().0, 38);
    assert_eq!(script.asked().1[1..], [0; 4], "one argument");
    // SAFETY: as above.
    assert_eq!(unsafe { xen.get(pool, key, frame) }, Ok(1));
    assert_eq!(script.tmem.get(), tmem_bytes(with_frame(5)));
    assert_eq!(xen.flush_page(pool, key), Ok(1));
    assert_eq!(script.tmem.get(), tmem_bytes(named(6)));
    assert_eq!(xen.flush_object(pool, key.object), Ok(1));
    assert_eq!(script.tmem.get(), tmem_bytes([3 << 32 | 7, 0x11, 0x22, u64::MAX, 0, 0, 0]));
    assert_eq!(xen.destroy_pool(pool), Ok(1));
    assert_eq!(script.tmem.get(), tmem_bytes([3 << 32 | 2, 0, 0, 0, 0, 0, 0]));
    let kinds = [
        (PoolKind::Persistent, [1, 0, 0, 0x0100_0001, 0, 0, 0]),
        (PoolKind::Ephemeral, [1, 0, 0, 0x0100_0000, 0, 0, 0]),
        (PoolKind::Shared { uuid: [5, 6] }, [1, 5, 6, 0x0100_0002, 0, 0, 0]),
    ];
    for (kind, words) in kinds {
        assert_eq!(xen.new_pool(kind), Ok(PoolId::new(1)));
        assert_eq!(script.tmem.get(), tmem_bytes(words));
    }
}

#[test]
fn tmem_answers_beyond_the_general_errors_survive() {
    let key = PageKey { object: [0; 3], index: 0 };
    let frozen = Script::answering(-1000);
    assert_eq!(Xen::new(&frozen).flush_page(PoolId::new(0), key), Err(xen_abi::tmem::EFROZEN));
    let empty = Script::answering(-1001);
    // SAFETY: the transport copies nothing.
    assert_eq!(unsafe { Xen::new(&empty).get(PoolId::new(0), key, Gfn::new(1)) }, Err(xen_abi::tmem::EEMPTY));
    assert_eq!(Xen::new(&Script::answering(0)).new_pool(PoolKind::Ephemeral), Ok(PoolId::new(0)));
    let absurd = Script::answering(1 << 40);
    assert_eq!(Xen::new(&absurd).new_pool(PoolKind::Ephemeral), Err(Errno::EIO));
    for (answer, probe) in [(-95, Ok(())), (-38, Err(Errno::ENOSYS)), (-19, Err(Errno::ENODEV))] {
        assert_eq!(Xen::new(&Script::answering(answer)).probe_tmem(), probe);
    }
}

/// An interrupt pushes no error code, and an entry that expects one would go on at an address that is none.
#[test]
fn no_interrupt_comes_in_at_an_exceptions_entry() {
    for vector in 0..32 {
        let script = Script::answering(0);
        let xen = Xen::new(&script);
        assert_eq!(xen.set_upcall_vector(VcpuId::new(0), vector), Err(Errno::EINVAL), "{vector}");
        let callback = hvm::callback_vector(vector);
        for param in [HvmParam::CallbackIrq, HvmParam::Other(hvm::PARAM_CALLBACK_IRQ)] {
            assert_eq!(xen.set_param(param, callback), Err(Errno::EINVAL), "{vector}");
        }
        assert_eq!(script.call.get(), None, "Xen is not asked");
    }
    let script = Script::answering(0);
    assert_eq!(Xen::new(&script).set_upcall_vector(VcpuId::new(0), 32), Ok(()));
    assert_eq!(Xen::new(&script).set_param(HvmParam::CallbackIrq, hvm::callback_vector(32)), Ok(()));
    assert_eq!(Xen::new(&script).set_param(HvmParam::CallbackIrq, 0), Ok(()), "none");
}

#[test]
fn no_parameter_gives_memory_away() {
    for index in [hvm::PARAM_VM86_TSS, hvm::PARAM_VM86_TSS_SIZED, hvm::PARAM_VM_GENERATION_ID_ADDR] {
        let script = Script::answering(0);
        assert_eq!(Xen::new(&script).set_param(HvmParam::Other(index), 0x1000), Err(Errno::EPERM));
        assert_eq!(script.call.get(), None, "Xen is not asked");
    }
}
