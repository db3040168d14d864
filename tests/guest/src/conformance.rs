//! The conformance suite, over real Xen: the same cases as on the model.
#![expect(unsafe_code, reason = "frames that the cases may take apart")]

use crate::{domain_of, ensure};
use alloc::format;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::arch::layout::direct_map;
use ebb::mm::frame::{Contents, Extent, Request, Use};
use ebb::port::Clock;
use ebb::units::{BLOCK_FRAMES, EventPort, FRAME_SIZE, Frames, Gfn, Order, VcpuId};
use ebb::xen::transport::Instruction;
use ebb::xen::{SharedPage, Xen};
use ebb_boot::cases::Not;
use ebb_boot::domain::SHARED_INFO;
use ebb_boot::{Domain, Machine, elastic};
use ebb_tests::conformance::{Case, Env, Verdict, cases};

/// A case of the suite, in this guest.
pub(crate) type GuestCase = Case<Guest>;

/// Frame numbers outside the memory map of every PVH domU: above the ACPI tables, below the local APIC.
const HOLES: Gfn = Gfn::new(0xFD000);
/// Ports that the cases may open: the domain has few others.
const PORTS: u32 = 4096;

/// The CPU that runs the cases.
const BOOT: VcpuId = VcpuId::new(0);

/// All cases.
pub(crate) fn all() -> Vec<GuestCase> {
    cases::<Guest>().into_iter().collect()
}

/// Runs one, with interrupts off as the suite wants them.
pub(crate) fn run(case: &GuestCase, machine: &'static Machine) -> Result<(), Not> {
    if let Some(why) = case.pointless(&domain_of(machine)?.xen()) {
        return Err(Not::Skipped(why.into()));
    }
    let guest = Guest::new(machine)?;
    let store = domain_of(machine)?.store_service().map(|store| store.port());
    // The upcall collects every port that a case opens, except the store's, whose bits the store wants, and those
    // that other vCPUs collect.
    for number in 1..PORTS {
        let port = EventPort::new(number);
        if store != Some(port) && !guest.domain.is_elsewhere(port) {
            guest.domain.owned().insert(port);
        }
    }
    // Nobody else of the domain may give memory back meanwhile, or get some.
    let held = elastic::hold();
    let verdict = x86_64::instructions::interrupts::without_interrupts(|| {
        let masked = guest.domain.channels().mask(guest.domain.timer_port());
        ensure(masked.is_ok(), "the timer's port cannot be masked")?;
        Ok::<_, Not>(case.run(&guest))
    })?;
    drop(held);
    for number in 1..PORTS {
        guest.domain.fired().take(EventPort::new(number));
    }
    machine.cpus().restore_timer();
    guest.domain.listen(guest.domain.timer_port()).map_err(|error| Not::Failed(format!("{error}")))?;
    let freed = machine.frames().free(guest.extent, Contents::Unknown, BOOT);
    ensure(freed.is_ok(), "the allocator refuses the cases' block")?;
    match verdict {
        Verdict::Pass => Ok(()),
        Verdict::Fail(failure) => Err(Not::Failed(format!("{}: {failure}", case.fact))),
        Verdict::Skip(why) => Err(Not::Skipped(why.into())),
    }
}

/// This guest, as the cases see it.
pub(crate) struct Guest {
    domain: &'static Domain,
    xen: Xen<Instruction>,
    block: Gfn,
    extent: Extent,
    owes_populate_on_demand: bool,
}

impl Guest {
    fn new(machine: &'static Machine) -> Result<Self, Not> {
        let domain = domain_of(machine)?;
        let request = Request::new(Use::Special, BOOT).order(Order::BLOCK);
        let extent = machine
            .frames()
            .alloc(request)
            .map_err(|error| Not::Skipped(format!("there is no whole free block of RAM: {error}")))?;
        let owes_populate_on_demand = match domain.store_service() {
            Some(store) => {
                let number = |path: &str| store.read_text(path).ok()?.parse::<u64>().ok();
                number("memory/static-max") != number("memory/target")
            }
            None => false,
        };
        Ok(Self { domain, xen: domain.xen(), block: extent.first(), extent, owes_populate_on_demand })
    }

    fn word(&self, frame: Gfn, index: usize) -> &AtomicU64 {
        let inside = frame >= self.block && frame < self.block + Frames::new(BLOCK_FRAMES);
        assert!(inside && index < FRAME_SIZE / 8, "{frame} word {index} is not the cases' own");
        let pointer = core::ptr::with_exposed_provenance_mut::<u8>(self.address(frame) as usize);
        let page = NonNull::new(pointer).map(|page| {
            // SAFETY: the direct map covers all RAM for good, and the cases reach the block through this view only.
            unsafe { SharedPage::new(page) }
        });
        let page = page.unwrap_or_else(|| unreachable!("the direct map begins above 0"));
        let word: *const AtomicU64 = page.u64(index * 8);
        // SAFETY: in the direct map, which lives as long as the machine; atomics only. A hole reads as ones.
        unsafe { &*word }
    }
}

// SAFETY: the block is an extent of RAM that is allocated to the cases alone, reached through the direct map by atomics
// only; the holes are in no memory map, and the machine maps its own special page elsewhere.
unsafe impl Env for Guest {
    type Transport = Instruction;

    fn xen(&self) -> &Xen<Instruction> {
        &self.xen
    }
    fn vcpu(&self) -> VcpuId {
        VcpuId::new(0)
    }
    fn block(&self) -> Gfn {
        self.block
    }
    fn holes(&self) -> Gfn {
        HOLES
    }
    fn read(&self, frame: Gfn, index: usize) -> u64 {
        self.word(frame, index).load(Ordering::SeqCst)
    }
    fn write(&self, frame: Gfn, index: usize, value: u64) {
        self.word(frame, index).store(value, Ordering::SeqCst);
    }
    fn address(&self, frame: Gfn) -> u64 {
        direct_map(frame.start()).unwrap_or(self.unmapped_address())
    }
    fn unmapped_address(&self) -> u64 {
        0x1000
    }
    fn shared_info(&self) -> SharedPage {
        self.domain.shared_info()
    }
    fn shared_info_frame(&self) -> Gfn {
        SHARED_INFO
    }
    fn timer_port(&self) -> EventPort {
        self.domain.timer_port()
    }
    fn now_ns(&self) -> u64 {
        self.domain.clock().now_ns()
    }

    /// Spins with interrupts on: the only timer that could bound a sleep is the cases' own. Sleeping is tested
    /// by `domain.*`.
    fn wait_for_upcall(&self, deadline_ns: u64) -> bool {
        let before = self.domain.upcalls();
        x86_64::instructions::interrupts::enable();
        while self.domain.upcalls() == before && self.now_ns() < deadline_ns {
            core::hint::spin_loop();
        }
        x86_64::instructions::interrupts::disable();
        self.domain.upcalls() != before
    }

    fn has_populate_on_demand_debt(&self) -> bool {
        self.owes_populate_on_demand
    }
}
