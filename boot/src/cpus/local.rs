//! What the image keeps for each CPU, and where.
#![expect(unsafe_code, reason = "the areas that GS points at")]

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use ebb::arch::descriptors::{EmergencyStack, Segments, TaskState};
use ebb::arch::interrupts;
use ebb::arch::local::{self, Area};
use ebb::arch::slot::AREA_BYTES;
use ebb::smp::{CpuId, MAX_CPUS, Mailbox, Messages};
use ebb::units::EventPort;
use ebb::xen::events::PortSet;
use spin::once::Once;

/// How far a CPU has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum State {
    /// Not started.
    Down = 0,
    /// Told to start.
    Starting = 1,
    /// Up.
    Online = 2,
    /// It did not come in time. Should it still come, it halts.
    GivenUp = 3,
}

/// One CPU's own. Others read the statistics and post messages.
#[derive(Debug)]
pub(crate) struct Local {
    state: AtomicU8,
    task_state: Once<TaskState>,
    segments: Once<Segments>,
    /// The number of its local APIC, where that is in use.
    pub(super) apic: AtomicU32,
    pub(super) messages: Messages,
    /// Functions to run in an interrupt.
    pub(super) calls: Mailbox,
    /// Functions to run outside of interrupts.
    pub(super) work: Mailbox,
    /// Ports bound to it: 0 is none.
    doorbell: AtomicU32,
    timer: AtomicU32,
    /// Ports that its upcall collects.
    pub(crate) owned: PortSet,
    pub(crate) upcalls: AtomicU64,
    /// For when its timer is set; `u64::MAX` is not.
    pub(super) deadline_ns: AtomicU64,
    /// The same, for the threads of this CPU.
    pub(super) threads_ns: AtomicU64,
    /// For when the timer itself is set: the earlier of the two.
    pub(super) armed_ns: AtomicU64,
    /// Rounds that it has waited for other CPUs.
    pub(super) waited: AtomicU32,
    /// How often the timer fired at its deadline, and when it did last.
    pub(super) timer_count: AtomicU64,
    pub(super) timer_last_ns: AtomicU64,
    pub(super) doorbell_count: AtomicU64,
}

impl Local {
    const fn new() -> Self {
        Self {
            state: AtomicU8::new(State::Down as u8),
            task_state: Once::new(),
            segments: Once::new(),
            apic: AtomicU32::new(0),
            messages: Messages::new(),
            calls: Mailbox::new(),
            work: Mailbox::new(),
            doorbell: AtomicU32::new(0),
            timer: AtomicU32::new(0),
            owned: PortSet::new(),
            upcalls: AtomicU64::new(0),
            deadline_ns: AtomicU64::new(u64::MAX),
            threads_ns: AtomicU64::new(u64::MAX),
            armed_ns: AtomicU64::new(u64::MAX),
            waited: AtomicU32::new(0),
            timer_count: AtomicU64::new(0),
            timer_last_ns: AtomicU64::new(0),
            doorbell_count: AtomicU64::new(0),
        }
    }

    /// Goes from one state to another, if it is in the one.
    pub(super) fn change(&self, from: State, to: State) -> bool {
        self.state.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn is(&self, state: State) -> bool {
        self.state.load(Ordering::Acquire) == state as u8
    }

    /// The port by which others ring, if there is one.
    pub(crate) fn doorbell(&self) -> Option<EventPort> {
        port(&self.doorbell)
    }

    /// The port of its timer, if there is one.
    pub(crate) fn timer(&self) -> Option<EventPort> {
        port(&self.timer)
    }

    pub(crate) fn set_ports(&self, doorbell: EventPort, timer: EventPort) {
        self.doorbell.store(doorbell.get(), Ordering::Release);
        self.timer.store(timer.get(), Ordering::Release);
        for port in [doorbell, timer] {
            self.owned.insert(port);
        }
    }

    /// Loads the descriptor tables. For the CPU itself, once, first of all.
    ///
    /// # Safety
    ///
    /// The emergency stacks that end at `tops` are mapped, and this CPU's.
    pub(super) unsafe fn load_tables(&'static self, tops: [u64; EmergencyStack::COUNT]) {
        let state = self.task_state.call_once(|| TaskState::new(tops));
        let segments = self.segments.call_once(|| Segments::new(state));
        // SAFETY: the task state is in this CPU's own area, and the stacks are our caller's promise.
        unsafe { segments.load() };
        interrupts::load();
    }
}

/// 0 is no port.
fn port(at: &AtomicU32) -> Option<EventPort> {
    let number = at.load(Ordering::Acquire);
    (number != 0).then(|| EventPort::new(number))
}

/// The type of all areas.
pub(super) type CpuArea = Area<Local>;

const _: () = assert!(size_of::<CpuArea>() <= AREA_BYTES, "an area fits its part of a slot");

static BOOT_AREA: CpuArea = Area::new(Local::new());
/// The areas of the other CPUs.
static AREAS: [Once<&'static CpuArea>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// The area of a CPU that has one.
fn area_of(cpu: CpuId) -> Option<&'static CpuArea> {
    if cpu == CpuId::BOOT { Some(&BOOT_AREA) } else { AREAS[cpu.get()].get().copied() }
}

/// What `cpu` has as its own; `None` for a CPU that there is not.
pub(crate) fn of(cpu: CpuId) -> Option<&'static Local> {
    area_of(cpu).map(Area::local)
}

/// The per-CPU words of `cpu`; `None` for a CPU that there is not.
pub(crate) fn words_of(cpu: CpuId) -> Option<&'static [AtomicU64; local::WORDS]> {
    area_of(cpu).map(Area::words)
}

/// This CPU's own. Where the code may be moved to another CPU, that of a CPU it was on.
pub(crate) fn mine() -> &'static Local {
    // SAFETY: areas are installed in this module only, all of this type.
    unsafe { local::area::<Local>() }.local()
}

/// Gives the boot CPU its area: the first thing of all.
///
/// # Safety
///
/// For the boot CPU, once.
pub(crate) unsafe fn install_boot() {
    // SAFETY: its area, and this type.
    unsafe { BOOT_AREA.install(CpuId::BOOT) };
    BOOT_AREA.local().change(State::Down, State::Online);
}

/// Gives another CPU its area, which [`create`] has made. `None` if it has not.
///
/// # Safety
///
/// For the CPU itself, once.
pub(super) unsafe fn install(cpu: CpuId) -> Option<&'static Local> {
    let area = AREAS[cpu.get()].get()?;
    // SAFETY: made for this CPU, of this type.
    unsafe { area.install(cpu) };
    Some(area.local())
}

/// Makes the area of `cpu` at `at`.
///
/// # Safety
///
/// [`AREA_BYTES`] bytes there are mapped for good, writable, and nobody else's.
pub(super) unsafe fn create(cpu: CpuId, at: u64) {
    AREAS[cpu.get()].call_once(|| {
        let place = core::ptr::with_exposed_provenance_mut::<CpuArea>(at as usize);
        // SAFETY: as our caller promised, and a page is aligned enough.
        unsafe { place.write(Area::new(Local::new())) };
        // SAFETY: written just now, and never moved or written as a whole again.
        unsafe { &*place }
    });
}

/// The CPU that runs this, also where its GS base may be broken; `None` if it is.
pub(crate) fn who() -> Option<CpuId> {
    let base = local::gs_base();
    CpuId::first(MAX_CPUS).find(|cpu| area_of(*cpu).is_some_and(|area| area.base() == base))
}
