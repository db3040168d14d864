//! Checks of what boot has built, run in the guest by the test image.
#![expect(unsafe_code, reason = "memory and instructions that nothing else uses")]

use crate::platform::threads;
use crate::{Machine, cpus, elastic, heap, image, space, stacks};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::arch::interrupts::{self, HandlerError, PageFault, Resolution};
use ebb::arch::layout::{DIRECT_MAP, KERNEL_BASE, WINDOW, direct_map};
use ebb::arch::paging::Access;
use ebb::arch::trap::PageFaultCode;
use ebb::boot_info::{MAX_ENTRIES, RamMap};
use ebb::mm::frame::{Contents, Extent, FrameState, Inconsistency, Request, Use};
use ebb::port::{MapEntry, MemoryKind, MemoryOps};
use ebb::units::{FRAME_SHIFT, FRAME_SIZE, FrameRange, Frames, Gfn, Order, VcpuId};
use spin::once::Once;
use x86_64::instructions::interrupts::without_interrupts;

/// A check: its name, and what answers the first thing that is wrong.
pub type Check = (&'static str, fn(&'static Machine) -> Result<(), &'static str>);

/// The CPU through whose magazine checks go.
const BOOT: VcpuId = VcpuId::new(0);

/// All checks. Each may run once, in any order. That of page faults leaves a handler behind, which resolves no more.
pub const CHECKS: [Check; 8] = [
    ("boot.interrupts", interrupts_arrive_and_return),
    ("boot.page_faults", page_faults_are_resolved),
    ("boot.spurious_faults", a_fault_on_what_is_there_is_tried_again),
    ("boot.address_space", the_address_space_keeps_its_promises),
    ("boot.heap", the_heap_gives_and_takes),
    ("boot.frames", frames_are_ram_and_given_once),
    ("boot.memory_map", xen_and_the_loader_agree),
    ("smp.an_unmapped_page_is_forgotten_everywhere", cpus::check::an_unmapped_page_is_forgotten_everywhere),
];

/// What is checked anew now and then because others go on meanwhile, is checked for so long at most.
const PATIENCE_NS: u64 = 10_000_000_000;

/// Asks `found` again as long as it answers an error, for a while: what another thread has begun, it ends meanwhile, also
/// on a CPU that the host has put aside. For threads.
fn eventually<E>(mut found: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    let end_ns = cpus::now_ns() + PATIENCE_NS;
    loop {
        let answer = found();
        if answer.is_ok() || cpus::now_ns() >= end_ns {
            return answer;
        }
        // Not only a turn of the others: a CPU without work tidies up.
        threads().sleep_for(100_000);
    }
}

/// Says that the books on frames agree, as [`validate`](ebb::mm::frame::FrameAllocator::validate) does, and asks again
/// where that could say nothing, because another CPU was at work in a magazine. For threads.
///
/// # Errors
///
/// What is wrong; also that a magazine was in use whenever it was asked.
pub fn validate_frames(machine: &Machine) -> Result<(), Inconsistency> {
    let mut wrong = None;
    let told = eventually(|| match machine.frames().validate() {
        Err(Inconsistency::Busy) => Err(Inconsistency::Busy),
        answer => {
            wrong = answer.err();
            Ok(())
        }
    });
    told.and(wrong.map_or(Ok(()), Err))
}

fn ensure(condition: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(otherwise) }
}

fn interrupts_arrive_and_return(_: &'static Machine) -> Result<(), &'static str> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    fn handler() {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    const VECTOR: u8 = 0x2F;
    interrupts::set_interrupt_handler(VECTOR, handler).map_err(|_| "the vector is taken")?;
    let again = interrupts::set_interrupt_handler(VECTOR, || {});
    ensure(again == Err(HandlerError::Taken(VECTOR)), "a handler was replaced")?;
    let beyond = interrupts::set_interrupt_handler(0x30, handler);
    ensure(beyond == Err(HandlerError::BadVector(0x30)), "a vector without an entry was accepted")?;
    let exception = interrupts::set_interrupt_handler(14, handler);
    ensure(exception == Err(HandlerError::BadVector(14)), "an exception was taken for an interrupt")?;

    let (a, b): (u64, u64) = (0x1111_2222_3333_4444, 0x5555_6666_7777_8888);
    let (mut a_after, mut b_after) = (a, b);
    // SAFETY: the handler touches a counter, and the entry saves every register.
    unsafe {
        asm!("int 0x2F", inout("rax") a_after, inout("r11") b_after);
    }
    ensure(COUNT.load(Ordering::Relaxed) == 1, "the handler was not called once")?;
    // One that comes although interrupts are off must not get to any handler.
    let forced = interrupts::forced();
    // SAFETY: as above; nothing is done about it.
    without_interrupts(|| unsafe { asm!("int 0x2F") });
    ensure(COUNT.load(Ordering::Relaxed) == 1, "a handler was called with interrupts off")?;
    ensure(interrupts::forced() > forced, "an interrupt with interrupts off was not counted")?;
    ensure((a_after, b_after) == (a, b), "the interrupt changed registers")?;
    // SAFETY: nobody handles this vector, so nothing happens.
    unsafe { asm!("int 0x2E") }
    ensure(COUNT.load(Ordering::Relaxed) == 1, "a spurious interrupt called a handler")
}

fn page_faults_are_resolved(machine: &'static Machine) -> Result<(), &'static str> {
    static PAGE: AtomicU64 = AtomicU64::new(0);
    static MAPPED: Once<(&'static Machine, Gfn)> = Once::new();
    fn resolve(fault: &PageFault) -> Resolution {
        let Some((machine, frame)) = MAPPED.get() else { return Resolution::Fatal };
        let wanted = fault.address == PAGE.load(Ordering::Relaxed) + 8 && !fault.code.is_write();
        if wanted && machine.map_special(*frame).is_ok() { Resolution::Resolved } else { Resolution::Fatal }
    }
    // A frame of RAM will do: the window does not care. The handler stays, and so the frame.
    let extent = extent(machine, Order::FRAME)?;
    let frame = machine.frames().detach(extent).map_err(|_| "the allocator refuses its own extent")?;
    let direct = pointer(direct_map(frame.start()).ok_or("RAM beyond the direct map")?);
    // SAFETY: a free frame, in the direct map.
    unsafe { direct.wrapping_add(1).write_volatile(0x600D) };
    // The window gives its first room: the place that was just given back.
    let page = machine.map_special(frame).map_err(|_| "the window is full")?;
    // SAFETY: this function alone has ever seen the mapping.
    let was = unsafe { machine.unmap_special(page) };
    ensure(was == Some(frame), "the window forgot the frame")?;
    // SAFETY: there is no mapping now, which is what is checked.
    let twice = unsafe { machine.unmap_special(page) };
    ensure(twice.is_none(), "a mapping was taken away twice")?;
    PAGE.store(page.addr().get() as u64, Ordering::Relaxed);
    MAPPED.call_once(|| (machine, frame));
    interrupts::add_page_fault_handler(resolve).map_err(|_| "too many resolve page faults")?;
    // SAFETY: faults, and the handler maps a frame that holds what was written above.
    let found = unsafe { page.cast::<u64>().as_ptr().wrapping_add(1).read_volatile() };
    PAGE.store(u64::MAX - 8, Ordering::Relaxed);
    ensure(found == 0x600D, "the page holds something else")?;
    // SAFETY: the last use is over.
    ensure(unsafe { machine.unmap_special(page) } == Some(frame), "the handler mapped elsewhere")
}

/// An emulator has no such faults. They are told of, and what is said of a page that is there, and of one that is not,
/// is what the processor would be told.
fn a_fault_on_what_is_there_is_tried_again(machine: &'static Machine) -> Result<(), &'static str> {
    let extent = extent(machine, Order::FRAME)?;
    let address = direct_map(extent.first().start()).ok_or("RAM beyond the direct map")?;
    let fault = |address, code| {
        let code = PageFaultCode::new(code);
        space::try_again(&PageFault { address, code, instruction: 0, interrupts_were_on: true })
    };
    const WRITE: u64 = 2;
    const PROTECTION: u64 = 1;
    const RESERVED: u64 = 8;
    ensure(fault(address, WRITE) == Resolution::Resolved, "a page that is there is not tried again")?;
    ensure(fault(address, WRITE | PROTECTION) == Resolution::Fatal, "what is forbidden is tried again")?;
    ensure(fault(address, RESERVED | PROTECTION) == Resolution::Fatal, "a corrupt entry is tried again")?;
    ensure(fault(KERNEL_BASE + (1 << 20), 0) == Resolution::Fatal, "the image is not the direct map")?;
    space::hide(extent.first(), Order::FRAME).map_err(|_| "no frame for a page table")?;
    space::settle();
    let hidden = fault(address, WRITE);
    space::show(extent.first(), Order::FRAME).map_err(|_| "what was hidden cannot be shown")?;
    ensure(hidden == Resolution::Fatal, "a page that is not there is tried for ever")?;
    ensure(fault(address, WRITE) == Resolution::Resolved, "a page that is there again is not tried again")?;
    give_back(machine, extent)
}

fn the_address_space_keeps_its_promises(machine: &'static Machine) -> Result<(), &'static str> {
    for low in [0, 8, 0x10_0000, 0x7FFF_FFFF_F000] {
        ensure(machine.look_up(low).is_none(), "something is mapped in the lower half")?;
    }
    for guard in stacks::guards() {
        ensure(machine.look_up(guard).is_none(), "a guard page is mapped")?;
        let above = machine.look_up(guard + FRAME_SIZE as u64).map(|mapping| mapping.access);
        ensure(above == Some(Access::Write), "a stack is not writable")?;
    }
    ensure(machine.look_up(WINDOW).is_none(), "the window's first page is mapped")?;
    for segment in image::segments() {
        for frame in segment.frames.start().get()..segment.frames.end().get() {
            let linked = KERNEL_BASE + (frame << FRAME_SHIFT);
            let is_guard = stacks::guards().contains(&linked);
            let found = machine.look_up(linked).map(|mapping| (mapping.frame, mapping.access));
            let wanted = (!is_guard).then_some((Gfn::new(frame), segment.access));
            ensure(found == wanted, "a page of the image has another access than its segment")?;
            let alias = machine.look_up(DIRECT_MAP + (frame << FRAME_SHIFT)).map(|mapping| mapping.access);
            let writable = segment.access == Access::Write;
            let wanted = if writable { Access::Write } else { Access::Read };
            ensure(alias == Some(wanted), "the direct map gives a page of the image another access")?;
        }
    }
    // Nothing is on its way into the balloon or out of it, except for an allocation that finds no memory.
    let _held = elastic::hold();
    for range in machine.boot_info().ram().ranges() {
        let mut frame = range.start();
        while frame < range.end() {
            frame = frame + shown_or_ballooned(machine, frame)?;
        }
        let beyond = machine.look_up(DIRECT_MAP + range.end().start().get());
        ensure(beyond.is_none(), "the direct map shows what is not RAM")?;
    }
    Ok(())
}

/// Checks the direct map at a frame of RAM, and answers how many frames were seen: just what is in the balloon is not
/// there.
fn shown_or_ballooned(machine: &'static Machine, frame: Gfn) -> Result<Frames, &'static str> {
    let ballooned = |frame: Gfn| machine.frames().state(frame) == FrameState::Ballooned;
    // The balloon changes the table and the books one after the other. While nobody moves memory, the first look will
    // do; a frame that is on its way is there, or in the balloon, soon after.
    let mut seen = Frames::new(1);
    eventually(|| {
        let was_ballooned = ballooned(frame);
        match machine.look_up(DIRECT_MAP + frame.start().get()) {
            None => ensure(was_ballooned, "RAM that is not in the balloon is not mapped"),
            Some(_) if was_ballooned => Err("memory in the balloon is mapped"),
            Some(mapping) => {
                ensure(mapping.frame == frame, "the direct map is crooked")?;
                ensure(mapping.access != Access::Execute, "the direct map is executable")?;
                seen = mapping.size.frames();
                let any = FrameRange::new(frame, frame + seen).iter().any(ballooned);
                ensure(!any, "memory in the balloon is mapped, in a large page")
            }
        }
    })?;
    Ok(seen)
}

fn the_heap_gives_and_takes(machine: &'static Machine) -> Result<(), &'static str> {
    let backed = heap::usage().1;
    ensure(backed >= 32 << 10, "the heap is tiny")?;
    // Others use the heap meanwhile, so that a count differs now and then. What is wrong with it shows every time.
    let (mut uncounted, mut kept) = (true, true);
    for _ in 0..5 {
        let used = heap::usage().0;
        let mut numbers = Vec::new();
        for number in 0..1000_u64 {
            numbers.push(Box::new(number));
        }
        ensure(numbers.iter().zip(0..).all(|(found, number)| **found == number), "the heap mixes things up")?;
        uncounted &= heap::usage().0 < used + 8000;
        drop(numbers);
        kept &= heap::usage().0 != used;
    }
    ensure(!uncounted, "the heap does not count")?;
    ensure(!kept, "the heap does not take back")?;
    let ram = machine.boot_info().ram().frames().get() as usize * FRAME_SIZE;
    let mut too_much: Vec<u8> = Vec::new();
    ensure(too_much.try_reserve(ram).is_err(), "the heap gives what it does not have")?;
    // More than the first stage ever had: the heap grows, and its memory is memory.
    let mut grown: Vec<u64> = Vec::new();
    grown.try_reserve_exact((192 << 10) / 8).map_err(|_| "the heap does not grow")?;
    grown.extend(0..(192 << 10) / 8);
    ensure(grown.iter().zip(0..).all(|(found, number)| *found == number), "what the heap grew by forgets")?;
    ensure(heap::usage().1 > backed || backed > 192 << 10, "the heap did not grow")
}

/// A frame that nobody else has, for a check that touches one. Freed by who asked.
pub(crate) fn extent(machine: &'static Machine, order: Order) -> Result<Extent, &'static str> {
    machine.frames().alloc(Request::new(Use::Special, BOOT).order(order)).map_err(|_| "no free frame")
}

/// Gives back what [`extent`] gave.
pub(crate) fn give_back(machine: &'static Machine, extent: Extent) -> Result<(), &'static str> {
    machine.frames().free(extent, Contents::Unknown, BOOT).map_err(|_| "the allocator refuses its own extent")
}

/// Takes extents of every order, and touches the first and the last frame of each only: with little memory behind a
/// large map, more would be the end of the domain.
fn frames_are_ram_and_given_once(machine: &'static Machine) -> Result<(), &'static str> {
    let frames = machine.frames();
    for taken in [machine.page_table_root(), Gfn::new(0), image::frames().start()] {
        let state = frames.state(taken);
        ensure(matches!(state, FrameState::Reserved | FrameState::Absent), "a frame of boot's is free")?;
    }
    // Others may allocate meanwhile, so that a count differs now and then. A leak of ours shows every time.
    let _held = elastic::hold();
    let mut lost = true;
    for _ in 0..5 {
        let before = frames.stats().available();
        take_and_give_back(machine)?;
        validate_frames(machine).map_err(|_| "the books on frames do not add up")?;
        lost &= frames.stats().available() < before;
    }
    ensure(!lost, "frames were lost")
}

/// One round of [`frames_are_ram_and_given_once`].
fn take_and_give_back(machine: &'static Machine) -> Result<(), &'static str> {
    let mut held = Vec::with_capacity(usize::from(Order::BLOCK.get()) + 1);
    for order in (0..=Order::BLOCK.get()).filter_map(Order::new) {
        // A tiny guest may have no whole block.
        let Ok(extent) = extent(machine, order) else { break };
        held.push(extent);
    }
    ensure(!held.is_empty(), "no frame at all")?;
    let ends = |extent: &Extent| {
        let first = extent.first().get();
        [first, first + extent.frames().get() - 1]
    };
    for frame in held.iter().flat_map(ends) {
        let word = pointer(direct_map(Gfn::new(frame).start()).ok_or("RAM beyond the direct map")?);
        // SAFETY: an allocated frame of our own, in the direct map.
        unsafe { word.write_volatile(frame ^ 0xA5A5_A5A5_A5A5_A5A5) };
    }
    for frame in held.iter().flat_map(ends) {
        let word = pointer(direct_map(Gfn::new(frame).start()).ok_or("RAM beyond the direct map")?);
        // SAFETY: as above.
        let found = unsafe { word.read_volatile() };
        ensure(found == frame ^ 0xA5A5_A5A5_A5A5_A5A5, "a frame was given twice, or does not remember")?;
    }
    for extent in held {
        give_back(machine, extent)?;
    }
    Ok(())
}

/// The map that is asked for where the loader gives none is the same as the loader's. Nothing to compare without
/// Xen.
fn xen_and_the_loader_agree(machine: &'static Machine) -> Result<(), &'static str> {
    let Some(hypervisor) = machine.hypervisor() else { return Ok(()) };
    let mut entries = [MapEntry { start: 0, size: 0, kind: MemoryKind::Reserved }; MAX_ENTRIES];
    let count = hypervisor.xen.memory_map(&mut entries).map_err(|_| "Xen has no memory map")?;
    let entries = entries.get(..count).ok_or("Xen counts more entries than there are")?;
    let (ram, _) = RamMap::from_entries(entries);
    ensure(ram.ranges() == machine.boot_info().ram().ranges(), "Xen's memory map differs from the loader's")
}

fn pointer(address: u64) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut(address as usize)
}
