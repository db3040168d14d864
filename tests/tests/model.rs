//! What the model does beyond the conformance cases: failures on demand, populate-on-demand, a host without
//! memory, page-table pages, crashes. Each test builds its own machine, and its books must balance afterwards.
#![expect(unsafe_code, reason = "releases and populates the model's frames")]
#![expect(clippy::expect_used, reason = "a test")]

use ebb::port::{
    Armed, ChannelStatus, Completed, EventOps, FrameType, HvmOps, MemoryOps, SchedOps, ShutdownReason,
    VcpuOps,
};
use ebb::units::{BLOCK_FRAMES, DomId, EventPort, Frames, Gfn, Order, VcpuId};
use ebb::xen::{Transport, Xen};
use ebb_tests::model::{ALL_ONES, Config, Crash, Model, Slot};
use std::sync::atomic::Ordering;
use xen_abi::{Errno, hypercall, memory, shared_info};

/// RAM of which the tests release and populate what they like.
const BLOCK: Gfn = Gfn::new(2 * BLOCK_FRAMES);

fn at(index: u64) -> Gfn {
    BLOCK + Frames::new(index)
}

fn release(model: &Model, order: Order, extents: &[Gfn]) -> usize {
    // SAFETY: no object of these tests lives in the model's RAM.
    unsafe { model.xen().decrease_reservation(order, extents) }.expect("a count").count()
}

fn populate(model: &Model, order: Order, extents: &[Gfn]) -> usize {
    // SAFETY: no object of these tests lives in the model's RAM.
    unsafe { model.xen().populate_physmap(order, extents) }.expect("a count").count()
}

fn balanced(model: &Model) {
    model.validate().expect("the model's books balance");
}

/// Less memory than the map shows: half of 32 MiB.
fn in_debt() -> Model {
    Model::new(Config { maximum_mib: 32, memory_mib: 16, ..Config::default() })
}

#[test]
fn a_new_domain_has_what_the_toolstack_gives() {
    let model = Model::default();
    assert_eq!(model.charged(), Frames::new(16 * 256 + 12), "RAM, 8 special pages, 4 with ACPI tables");
    assert_eq!(model.xen().maximum_reservation(), Ok(Frames::new(16 * 256 + 256)));
    assert!(model.is_large(BLOCK));
    balanced(&model);
}

#[test]
fn the_scripted_extent_fails_and_only_once() {
    let model = Model::default();
    model.cut_short(memory::DECREASE_RESERVATION, 1, 2, 0);
    assert_eq!(release(&model, Order::FRAME, &[at(0)]), 1, "the call before");
    let four = [at(1), at(2), at(3), at(4)];
    assert_eq!(release(&model, Order::FRAME, &four), 2);
    assert_eq!((model.slot(at(2)), model.slot(at(3)) == Slot::Hole), (Slot::Hole, false));
    assert_eq!(release(&model, Order::FRAME, &four[2..]), 2);
    model.cut_short(memory::POPULATE_PHYSMAP, 0, 0, 0);
    assert_eq!(populate(&model, Order::FRAME, &four), 0);
    assert_eq!(populate(&model, Order::FRAME, &four), 4);
    balanced(&model);
}

#[test]
fn a_scripted_block_loses_its_beginning() {
    let model = Model::default();
    model.cut_short(memory::DECREASE_RESERVATION, 0, 0, 100);
    let before = model.charged();
    assert_eq!(release(&model, Order::BLOCK, &[BLOCK]), 0);
    assert_eq!(before - model.charged(), Frames::new(100));
    assert_eq!((model.slot(at(99)), model.slot(at(100)) == Slot::Hole), (Slot::Hole, false));
    balanced(&model);
}

#[test]
fn a_refused_hypercall_is_an_error() {
    let model = Model::default();
    model.refuse(hypercall::EVENT_CHANNEL_OP, Some(6), Errno::ENOSPC);
    assert_eq!(model.xen().alloc_unbound(DomId::SELF), Err(Errno::ENOSPC));
    assert!(model.xen().alloc_unbound(DomId::SELF).is_ok(), "once");
}

#[test]
fn a_host_without_memory_gives_none() {
    let model = Model::default();
    assert_eq!(release(&model, Order::BLOCK, &[BLOCK]), 1);
    model.host_take_all_but(Frames::new(3));
    assert_eq!(populate(&model, Order::BLOCK, &[BLOCK]), 0);
    assert_eq!(populate(&model, Order::FRAME, &[at(0), at(1), at(2), at(3)]), 3);
    balanced(&model);
    model.host_give_back();
    assert_eq!(populate(&model, Order::FRAME, &[at(3)]), 1);
    balanced(&model);
}

#[test]
fn a_fragmented_host_gives_frames_but_no_blocks() {
    let model = Model::default();
    assert_eq!(release(&model, Order::BLOCK, &[BLOCK]), 1);
    model.host_fragment();
    assert_eq!(model.host_free().1, 0);
    assert_eq!(populate(&model, Order::BLOCK, &[BLOCK]), 0);
    let frames: Vec<_> = (0..BLOCK_FRAMES).map(at).collect();
    assert_eq!(populate(&model, Order::FRAME, &frames), 512);
    assert!(!model.is_large(BLOCK), "Xen never merges");
    balanced(&model);
}

#[test]
fn a_block_becomes_large_again_only_as_a_whole() {
    let model = Model::default();
    assert_eq!(release(&model, Order::FRAME, &[at(5)]), 1);
    assert!(!model.is_large(BLOCK));
    assert_eq!(populate(&model, Order::FRAME, &[at(5)]), 1);
    assert!(!model.is_large(BLOCK));
    assert_eq!(release(&model, Order::BLOCK, &[BLOCK]), 1);
    assert_eq!(populate(&model, Order::BLOCK, &[BLOCK]), 1);
    assert!(model.is_large(BLOCK));
}

#[test]
fn the_host_gets_a_whole_chunk_back_frame_by_frame() {
    let model = Model::default();
    let (_, chunks) = model.host_free();
    let frames: Vec<_> = (0..BLOCK_FRAMES).map(at).collect();
    assert_eq!(release(&model, Order::FRAME, &frames[..511]), 511);
    assert_eq!(model.host_free().1, chunks);
    assert_eq!(release(&model, Order::FRAME, &frames[511..]), 1);
    assert_eq!(model.host_free().1, chunks + 1);
}

#[test]
fn duplicates_in_a_populate_leak() {
    let model = Model::default();
    assert_eq!(release(&model, Order::FRAME, &[at(0)]), 1);
    assert_eq!(populate(&model, Order::FRAME, &[at(0), at(0)]), 2);
    assert_eq!(model.leaked(), Frames::new(1));
    balanced(&model);
}

#[test]
fn a_lowered_limit_refuses_even_one_frame() {
    let model = Model::default();
    assert_eq!(release(&model, Order::FRAME, &[at(0)]), 1);
    model.set_target_mib(8);
    assert_eq!(populate(&model, Order::FRAME, &[at(0)]), 0);
    model.set_target_mib(16);
    assert_eq!(populate(&model, Order::FRAME, &[at(0)]), 1);
    model.set_limit(model.charged());
    assert_eq!(release(&model, Order::FRAME, &[at(0)]), 1);
    assert_eq!(populate(&model, Order::FRAME, &[at(0), at(0)]), 1, "to the frame");
}

#[test]
fn what_is_populated_is_neither_zero_nor_ones() {
    let model = Model::default();
    model.write(at(0), 0, 7);
    assert_eq!(release(&model, Order::FRAME, &[at(0)]), 1);
    assert_eq!(model.read(at(0), 0), ALL_ONES);
    // SAFETY: the first word of a frame of the model's RAM, which is as large as the map says.
    let direct =
        unsafe { model.ram().cast::<u64>().as_ptr().wrapping_add(at(0).get() as usize * 512).read() };
    assert_eq!(direct, ALL_ONES, "through a stale pointer, too");
    assert_eq!(populate(&model, Order::FRAME, &[at(0)]), 1);
    let stale = model.read(at(0), 0);
    assert!(stale != 0 && stale != ALL_ONES && stale != 7, "{stale:#x}");
}

#[test]
fn an_empty_paging_pool_cuts_a_release_short_and_leaks_a_populate() {
    let model = Model::new(Config { paging_pool: Some(4), ..Config::default() });
    let split = |model: &Model, block: u64| release(model, Order::FRAME, &[Gfn::new(block * BLOCK_FRAMES)]);
    let splits = (0..8).take_while(|block| split(&model, *block) == 1).count();
    assert_eq!(model.paging_pool(), Some(0));
    assert!(splits < 8);
    assert_eq!(split(&model, splits as u64), 0);
    balanced(&model);
    // A table is needed outside RAM, too: the frame is allocated, cannot be mapped, and stays charged.
    let before = model.charged();
    assert_eq!(populate(&model, Order::FRAME, &[Gfn::new(0x10_0000)]), 0);
    assert_eq!((model.charged() - before, model.leaked()), (Frames::new(1), Frames::new(1)));
    balanced(&model);
}

#[test]
fn frames_beyond_the_address_width_leak() {
    let model = Model::default();
    assert_eq!(populate(&model, Order::FRAME, &[Gfn::new(1 << 36)]), 0);
    assert_eq!(model.leaked(), Frames::new(1));
    assert_eq!(populate(&model, Order::FRAME, &[Gfn::new(u64::MAX)]), 0);
    balanced(&model);
}

#[test]
fn populating_over_another_domains_page_is_the_end() {
    for slot in [Slot::GrantMapping, Slot::ForeignMapping, Slot::Device] {
        let model = Model::default();
        let frame = Gfn::new(0xFD000);
        model.map_foreign(frame, slot);
        assert_eq!(release(&model, Order::FRAME, &[frame]), 0, "and it cannot be released");
        assert_eq!(populate(&model, Order::FRAME, &[frame]), 0);
        assert_eq!(model.crash(), Some(Crash::PopulatedOver(frame)));
        balanced(&model);
    }
}

#[test]
#[should_panic(expected = "runs no more")]
fn a_crashed_domain_makes_no_hypercalls() {
    let model = Model::default();
    populate(&model, Order::FRAME, &[Gfn::new(0xFEE00)]);
    let _ = model.xen().current_reservation();
}

#[test]
fn a_pinned_frame_is_released_but_stays_charged() {
    let model = Model::default();
    model.pin(at(9));
    let before = model.charged();
    assert_eq!(release(&model, Order::FRAME, &[at(9)]), 1);
    assert_eq!((model.charged(), model.slot(at(9))), (before, Slot::Hole));
    balanced(&model);
}

#[test]
fn unmapping_memory_leaks_it() {
    let model = Model::default();
    // SAFETY: no object of these tests lives in the model's RAM.
    assert_eq!(unsafe { model.xen().unmap_special(at(0)) }, Ok(()));
    assert_eq!((model.leaked(), model.slot(at(0))), (Frames::new(1), Slot::Hole));
    balanced(&model);
}

#[test]
fn debt_looks_like_memory_until_it_is_touched() {
    let model = in_debt();
    assert_eq!(model.xen().current_reservation(), Ok(Frames::new(16 * 256 + 12)));
    assert_eq!(model.xen().frame_type(at(0)), Ok(FrameType::ReadWrite));
    assert_eq!(model.slot(at(0)), Slot::PopulateOnDemand, "asking does not populate");
    assert_eq!(model.read(at(0), 0), 0, "the cache is zero");
    assert!(model.is_large(at(0)), "a whole block at a time");
    assert_eq!(model.populate_on_demand(), (Frames::new(4096 - 512), Frames::new(8192 - 512)));
    balanced(&model);
}

#[test]
fn releasing_untouched_debt_costs_nothing_and_frees_nothing() {
    let model = in_debt();
    let before = (model.charged(), model.hypercalls());
    let blocks: Vec<_> = (8..16).map(|block| Gfn::new(block * BLOCK_FRAMES)).collect();
    assert_eq!(release(&model, Order::BLOCK, &blocks), 8);
    assert_eq!((model.charged(), model.hypercalls()), (before.0, before.1 + 1));
    assert_eq!(
        model.populate_on_demand(),
        (Frames::new(4096), Frames::new(4096)),
        "all that is left is backed"
    );
    for frame in 0..4096 {
        model.write(Gfn::new(frame), 0, 1);
    }
    assert_eq!(model.crash(), None);
    balanced(&model);
    assert_eq!(release(&model, Order::BLOCK, &[BLOCK]), 1);
    assert_eq!(before.0 - model.charged(), Frames::new(512), "and from now on a release is one");
    balanced(&model);
}

#[test]
fn touching_more_than_there_is_crashes() {
    let model = in_debt();
    for frame in 0..8192 {
        model.write(Gfn::new(frame), 0, 1);
        if model.crash().is_some() {
            break;
        }
    }
    assert_eq!(model.crash(), Some(Crash::OutOfPodMemory(Gfn::new(4096))));
    balanced(&model);
}

#[test]
fn zeros_are_taken_back_before_that() {
    let model = in_debt();
    for frame in 0..4096 {
        model.write(Gfn::new(frame), 0, u64::from(frame != 1000));
    }
    model.write(Gfn::new(5000), 0, 1);
    assert_eq!(model.crash(), None);
    assert_eq!(model.slot(Gfn::new(1000)), Slot::PopulateOnDemand);
    balanced(&model);
}

#[test]
fn released_memory_pays_the_debt_first() {
    let model = in_debt();
    for frame in 0..512 {
        model.write(Gfn::new(frame), 0, 1);
    }
    let before = model.charged();
    let (cache, entries) = model.populate_on_demand();
    assert_eq!(release(&model, Order::FRAME, &[Gfn::new(3)]), 1);
    assert_eq!(model.charged(), before);
    assert_eq!(model.populate_on_demand(), (cache + Frames::new(1), entries));
    assert_eq!(model.slot(Gfn::new(3)), Slot::Hole);
    balanced(&model);
}

#[test]
fn a_mixed_extent_is_released_and_one_with_a_hole_is_not() {
    let model = in_debt();
    // One frame out of an untouched block splits it; the next touch populates a single frame.
    assert_eq!(release(&model, Order::FRAME, &[at(0)]), 1);
    model.write(at(1), 0, 1);
    assert_eq!(model.slot(at(2)), Slot::PopulateOnDemand);
    let order = Order::new(3).expect("an order");
    assert_eq!(release(&model, order, &[at(0)]), 0, "it begins with a hole");
    assert_eq!(release(&model, order, &[at(8)]), 1);
    model.write(at(17), 0, 1);
    assert_eq!(release(&model, order, &[at(16)]), 1, "touched and untouched");
    balanced(&model);
}

#[test]
fn populating_over_an_untouched_entry_replaces_it() {
    let model = in_debt();
    let (_, entries) = model.populate_on_demand();
    assert_eq!(populate(&model, Order::FRAME, &[at(0)]), 1);
    assert_eq!(model.populate_on_demand().1, entries - Frames::new(1));
    assert_eq!(model.leaked(), Frames::ZERO);
    balanced(&model);
}

#[test]
fn dom0_binds_and_signals_its_ports() {
    let model = Model::default();
    let xen = model.xen();
    let port = xen.alloc_unbound(DomId::new(0)).expect("a port");
    model.signal(port).expect("dom0 binds it");
    assert!(matches!(xen.status(port), Ok(ChannelStatus::Interdomain { remote, .. }) if remote.get() == 0));
    assert_eq!(xen.poll(&[port], None), Ok(()), "pending, so it does not sleep");
    let own = xen.alloc_unbound(DomId::SELF).expect("a port");
    assert_eq!(model.signal(own), Err(Errno::EINVAL));
    balanced(&model);
}

#[test]
#[should_panic(expected = "nothing will ever wake it")]
fn a_sleep_without_end_is_noticed() {
    let model = Model::default();
    let port = model.xen().alloc_unbound(DomId::SELF).expect("a port");
    let _ = model.xen().poll(&[port], None);
}

#[test]
fn each_vcpu_has_its_timer_and_its_selector() {
    let model = Model::new(Config { vcpus: 2, ..Config::default() });
    let (boot, other) = (VcpuId::new(0), VcpuId::new(1));
    let second = Xen::new(model.vcpu(other));
    let port = second.bind_virq(0, other).expect("the second timer");
    assert_eq!(model.xen().set_timer(other, 0), Err(Errno::EINVAL));
    assert_eq!(second.set_timer(other, 0), Ok(Armed::Pending));
    let page = model.shared_info();
    let selector = |vcpu: usize| {
        page.u64(vcpu * shared_info::vcpu::SIZE + shared_info::vcpu::PENDING_SELECTOR).load(Ordering::SeqCst)
    };
    assert_eq!((selector(0), selector(1)), (0, 1));
    assert!(!model.halt(boot, 0) && model.halt(other, 0));
    assert_eq!(second.poll(&[port], Some(1)), Ok(()));
}

#[test]
fn further_vcpus_start_once_they_are_initialised() {
    let model = Model::new(Config { vcpus: 2, ..Config::default() });
    let (xen, other) = (model.xen(), VcpuId::new(1));
    assert_eq!(xen.start_vcpu(other), Err(Errno::EINVAL));
    assert_eq!(xen.is_up(other), Ok(false));
    let context = xen_abi::vcpu::HvmContext { mode: xen_abi::vcpu::CONTEXT_64, ..Default::default() };
    // SAFETY: the model runs no code.
    assert_eq!(unsafe { xen.initialise_vcpu(other, &context) }, Ok(()));
    assert_eq!(xen.start_vcpu(other), Ok(()));
    assert_eq!(xen.is_up(other), Ok(true));
}

#[test]
fn a_shutdown_is_recorded() {
    let model = Model::default();
    assert_eq!(model.shutdown_reason(), None);
    assert_eq!(model.xen().shutdown(ShutdownReason::Crash), Ok(()));
    assert_eq!(model.xen().shutdown(ShutdownReason::Poweroff), Ok(()));
    assert_eq!(model.shutdown_reason(), Some(3), "the first counts");
}

#[test]
fn ports_of_the_daemons_can_be_lost() {
    let model = Model::default();
    let store = EventPort::new(1);
    assert_eq!(model.xen().close(store), Ok(()));
    assert_eq!(model.signal(store), Err(Errno::EINVAL));
}

#[test]
fn preemption_does_not_show() {
    for seed in 1..20 {
        let model = Model::new(Config { seed, ..Config::default() });
        let frames: Vec<_> = (0..BLOCK_FRAMES).map(at).collect();
        assert_eq!(release(&model, Order::FRAME, &frames), 512);
        assert_eq!(populate(&model, Order::FRAME, &frames), 512);
        assert_eq!(release(&model, Order::FRAME, &[at(3)]), 1);
        assert_eq!(release(&model, Order::FRAME, &frames), 3, "whatever the seed");
        balanced(&model);
    }
}

#[test]
fn models_do_not_know_each_other() {
    let (one, two) = (Model::default(), Model::default());
    assert_eq!(release(&one, Order::BLOCK, &[BLOCK]), 1);
    assert_eq!((one.slot(BLOCK), two.slot(BLOCK) == Slot::Hole), (Slot::Hole, false));
    assert_eq!(two.hypercalls(), 0);
}

#[test]
fn an_address_with_nothing_behind_it_is_efault() {
    let model = Model::default();
    let call = |pointer: u64| {
        // SAFETY: a query, whose structure is a domain number: the model faults on these addresses.
        unsafe {
            model.call(hypercall::MEMORY_OP, [u64::from(memory::CURRENT_RESERVATION), pointer, 0, 0, 0])
        }
    };
    assert_eq!(call(0), Errno::EFAULT.to_rax());
    assert_eq!(call(0xFFFF), Errno::EFAULT.to_rax());
    assert_eq!(call(u64::MAX), Errno::EFAULT.to_rax());
    let page = model.ram().as_ptr().addr() as u64 + at(0).get() * 4096;
    model.write(at(0), 0, 0x7FF0);
    assert!(call(page) > 0, "an argument may be in guest RAM");
    assert_eq!(release(&model, Order::FRAME, &[at(0)]), 1);
    assert_eq!(call(page), Errno::EFAULT.to_rax(), "but not in a hole");
}

#[test]
fn an_increase_takes_what_nobody_gives_back() {
    let model = Model::default();
    assert_eq!(model.xen().increase_reservation(Order::FRAME, 3), Ok(Completed::new(3)));
    assert_eq!(model.leaked(), Frames::new(3));
    let left = model.xen().maximum_reservation().expect("the limit") - model.charged();
    assert_eq!(model.xen().increase_reservation(Order::FRAME, 1000), Ok(Completed::new(left.get() as usize)));
    assert_eq!(model.xen().increase_reservation(Order::BLOCK, 1), Ok(Completed::new(0)));
    balanced(&model);
}
