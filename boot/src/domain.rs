//! What a domU has beyond a bare machine: events, the clock, the console ring, xenstore.
//!
//! Brought up once, in the order of dependence: the shared-info page, then time, then the upcall, then the
//! console (which polls, so that it works with interrupts off and from a panic), then the store. A service that
//! is absent is a warning and a `None`; only without shared info and upcalls is there no domain to speak of.
//!
//! Upcalls come as an interrupt vector set by the domain's callback parameter. Each vCPU gets its own, the local
//! APIC is not involved, and no end-of-interrupt is due (Xen: `xen/arch/x86/hvm/irq.c`).
#![expect(unsafe_code, reason = "maps pages that Xen owns")]

mod console;

use crate::cpus::{interrupts as carrier, local};
use crate::machine::{Machine, OnXen};
use crate::output;
use crate::platform::{self, Parked};
use crate::store_service::StoreService;
use console::RingConsole;
use core::fmt;
use core::sync::atomic::Ordering;
use ebb::arch::interrupts::{self, HandlerError};
use ebb::arch::paging::window::WindowFull;
use ebb::arch::{cpu, interrupts::FIRST_INTERRUPT, local as gs};
use ebb::cmdline::ConsoleChoice;
use ebb::port::{Clock, EventOps, HvmOps, HvmParam, Joined, MemoryOps, SpecialPage, Wait};
use ebb::smp::{CpuId, MAX_CPUS};
use ebb::units::{EventPort, Gfn, VcpuId};
use ebb::xen::clock::{self, Latest, PvClock, TimeInfo};
use ebb::xen::events::{Channels, PortSet, VcpuInfo};
use ebb::xen::store::Store;
use ebb::xen::transport::Instruction;
use ebb::xen::wait::{Halt, HaltWait, PollWait};
use ebb::xen::{SharedPage, Xen};
use spin::once::Once;
use x86_64::instructions::interrupts::without_interrupts;
use xen_abi::Errno;

/// Where the shared-info page is mapped: a hole on every PVH domU, between the ACPI tables and the local APIC.
pub const SHARED_INFO: Gfn = Gfn::new(0xFE000);
/// The vector of upcalls.
const UPCALL: u8 = FIRST_INTERRUPT;
/// `HVM_PARAM_CALLBACK_IRQ`: the kind of callback in the top byte, here "a vector" (Xen:
/// `xen/include/public/hvm/params.h`).
const CALLBACK_IS_VECTOR: u64 = 2 << 56;
/// The timer's virtual interrupt (Xen: `xen/include/public/xen.h`).
const VIRQ_TIMER: u32 = 0;
/// The processor whose timer and ports the services use.
const BOOT_VCPU: VcpuId = VcpuId::new(0);

/// The clock of this domain: on every vCPU that vCPU's own.
#[derive(Clone, Copy, Debug)]
pub struct DomainClock {
    channels: Channels,
}

impl DomainClock {
    /// Uses the clock of the vCPU that runs this. It stays there meanwhile, because interrupts are off.
    fn with<R>(&self, read: impl FnOnce(PvClock<'static, fn() -> u64>) -> R) -> R {
        without_interrupts(|| {
            let Some(vcpu) = this_vcpu(&self.channels) else {
                unreachable!("there are no more CPUs than records of vCPUs in the shared-info page")
            };
            read(PvClock::new(&vcpu, cpu::time_stamp_after_loads as fn() -> u64, &LATEST))
        })
    }

    /// Xen's record of this vCPU's time as it is now.
    #[must_use]
    pub fn time_info(&self) -> TimeInfo {
        self.with(|clock| clock.time_info())
    }
}

impl Clock for DomainClock {
    fn now_ns(&self) -> u64 {
        self.with(|clock| clock.now_ns())
    }
}

/// The part of the shared-info page that is the vCPU's that runs this.
fn this_vcpu(channels: &Channels) -> Option<VcpuInfo> {
    channels.vcpu(VcpuId::new(gs::cpu().get() as u32))
}

/// The clock, if there is a domain.
pub(crate) fn clock() -> Option<DomainClock> {
    CHANNELS.get().map(|channels| DomainClock { channels: *channels })
}

/// Events, and waiting while other threads run.
pub type Sleeping = Joined<Xen<Instruction>, Parked>;
/// Events, and waiting in the hypervisor, for contexts with interrupts off.
pub(crate) type Polling = Joined<Xen<Instruction>, PollWait<DomainClock, Xen<Instruction>>>;

/// Ports that fired. Static because the upcall's handler is a plain function.
static FIRED: PortSet = PortSet::new();
static LATEST: Latest = Latest::new();
/// What the upcall's handler needs.
static CHANNELS: Once<Channels> = Once::new();

/// The processor, as one who sleeps sees it.
#[derive(Clone, Copy, Debug)]
pub struct Processor;

impl Halt for Processor {
    /// `sti; hlt` as one step ([`cpu::enable_and_halt`]), and Xen
    /// turns a `hlt` with interrupts on into `SCHEDOP_block` after looking for events itself. The hypercall, made
    /// directly, would sleep through an event in that same window: it counts the shadow of `sti` as interrupts
    /// off (Xen: `xen/arch/x86/hvm/hvm.c`, `hvm_hlt` and `hvm_local_events_need_delivery`).
    fn halt_unless(&self, ready: impl FnOnce() -> bool) {
        x86_64::instructions::interrupts::disable();
        if ready() {
            x86_64::instructions::interrupts::enable();
        } else {
            cpu::enable_and_halt();
        }
    }
}

/// The services of this domU.
#[derive(Debug)]
pub struct Domain {
    xen: Xen<Instruction>,
    shared_info: SharedPage,
    channels: Channels,
    clock: DomainClock,
    boot_ns: u64,
    timer: EventPort,
    console: Option<&'static RingConsole>,
    store: Option<StoreService>,
}

/// Why there are no services.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DomainError {
    /// The frame for the shared-info page is RAM.
    NoHole,
    /// Xen refused a step.
    Refused(&'static str, Errno),
    /// There is no room to map a page.
    Window(WindowFull),
    /// The upcall's vector is in use.
    Vector(HandlerError),
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHole => write!(f, "{SHARED_INFO}, meant for the shared-info page, is RAM"),
            Self::Refused(step, error) => write!(f, "{step}: {error}"),
            Self::Window(error) => write!(f, "mapping a page: {error:?}"),
            Self::Vector(error) => write!(f, "the upcall's vector: {error:?}"),
        }
    }
}

/// Names the step that Xen refused.
fn step<R>(name: &'static str, result: Result<R, Errno>) -> Result<R, DomainError> {
    result.map_err(|error| DomainError::Refused(name, error))
}

impl Domain {
    /// Brings the services up, and what `cpus` vCPUs need to be interrupted.
    pub(crate) fn start(
        machine: &Machine,
        on_xen: &OnXen,
        console: ConsoleChoice,
        cpus: usize,
    ) -> Result<Self, DomainError> {
        let xen = on_xen.xen;
        let shared_info = map_shared_info(machine, xen)?;
        let channels = Channels::new(shared_info);
        channels.mask_all();
        let clock = DomainClock { channels };
        CHANNELS.call_once(|| channels);
        let boot_ns = clock.now_ns();

        interrupts::set_interrupt_handler(UPCALL, upcall).map_err(DomainError::Vector)?;
        let callback = CALLBACK_IS_VECTOR | u64::from(UPCALL);
        step("callback vector", xen.set_param(HvmParam::CallbackIrq, callback))?;
        let mut timer = None;
        for cpu in CpuId::first(cpus) {
            let own = bind_ports(xen, channels, cpu)?;
            timer = timer.or(own);
        }
        let timer = step("timer interrupt", timer.ok_or(Errno::ENOENT))?;
        carrier::use_xen(xen);

        let mut domain =
            Self { xen, shared_info, channels, clock, boot_ns, timer, console: None, store: None };
        if matches!(console, ConsoleChoice::Auto | ConsoleChoice::Xen) {
            domain.console = domain.start_console(machine);
        }
        x86_64::instructions::interrupts::enable();
        domain.store = domain.start_store(machine);
        Ok(domain)
    }

    /// The page and the port of a ring that the toolstack made, if it made one.
    fn ring(
        &self,
        machine: &Machine,
        name: &str,
        frame: HvmParam,
        port: HvmParam,
    ) -> Option<(SharedPage, EventPort)> {
        let read = |param| {
            // 0 and all ones mean that there is none.
            self.xen.get_param(param).ok().filter(|value| *value != 0 && *value != u64::MAX)
        };
        let (Some(frame), Some(port)) = (read(frame), read(port).and_then(|port| u32::try_from(port).ok()))
        else {
            log::warn!("{name}: the toolstack made none");
            return None;
        };
        match machine.map_special(Gfn::new(frame)) {
            // SAFETY: the toolstack's page for this ring, mapped for good and used by this one driver.
            Ok(page) => Some((unsafe { SharedPage::new(page) }, EventPort::new(port))),
            Err(error) => {
                log::warn!("{name}: its page cannot be mapped: {error:?}");
                None
            }
        }
    }

    fn start_console(&self, machine: &Machine) -> Option<&'static RingConsole> {
        static CONSOLE: Once<RingConsole> = Once::new();
        let (page, port) = self.ring(machine, "console", HvmParam::ConsoleGfn, HvmParam::ConsolePort)?;
        let console = CONSOLE.call_once(|| RingConsole::new(page, port, self.polling(), self.channels));
        output::attach(console);
        Some(console)
    }

    fn start_store(&self, machine: &Machine) -> Option<StoreService> {
        let (page, port) = self.ring(machine, "xenstore", HvmParam::StoreGfn, HvmParam::StorePort)?;
        if let Err(error) = self.listen(port) {
            log::warn!("xenstore: its port cannot be unmasked: {error}");
            return None;
        }
        Some(StoreService::new(Store::new(page, port, self.sleeping()), self.sleeping()))
    }

    /// Hypercalls.
    #[must_use]
    pub fn xen(&self) -> Xen<Instruction> {
        self.xen
    }

    /// The shared-info page.
    #[must_use]
    pub fn shared_info(&self) -> SharedPage {
        self.shared_info
    }

    /// The event bits.
    #[must_use]
    pub fn channels(&self) -> Channels {
        self.channels
    }

    /// System time.
    #[must_use]
    pub fn clock(&self) -> DomainClock {
        self.clock
    }

    /// System time when the clock came up.
    #[must_use]
    pub fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    /// Nanoseconds since 1970, by the host.
    #[must_use]
    pub fn wall_clock_ns(&self) -> u64 {
        clock::wall_clock_ns(self.shared_info, &self.clock)
    }

    /// The store, if the toolstack gave us one.
    #[must_use]
    pub fn store_service(&self) -> Option<&StoreService> {
        self.store.as_ref()
    }

    /// Has the upcall of the boot vCPU collect `port`, which must be bound to it, and unmasks it.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a port that does not exist.
    pub fn listen(&self, port: EventPort) -> Result<(), Errno> {
        self.owned().insert(port);
        self.channels.unmask(&self.xen, port)
    }

    /// Has the upcall no longer collect `port`, and masks it.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a port that does not exist.
    pub fn ignore(&self, port: EventPort) -> Result<(), Errno> {
        self.channels.mask(port)?;
        self.owned().take(port);
        Ok(())
    }

    /// Whether `port` is one by which another vCPU than the first is interrupted: not for others to collect.
    #[must_use]
    pub fn is_elsewhere(&self, port: EventPort) -> bool {
        CpuId::first(MAX_CPUS)
            .skip(1)
            .filter_map(local::of)
            .any(|local| [local.doorbell(), local.timer()].contains(&Some(port)))
    }

    /// How many upcalls there were on this vCPU.
    #[must_use]
    pub fn upcalls(&self) -> u64 {
        local::mine().upcalls.load(Ordering::Relaxed)
    }

    /// Ports that the upcall collects on the boot vCPU.
    ///
    /// # Panics
    ///
    /// If the boot CPU has no area, which it has from the first instruction on.
    #[must_use]
    pub fn owned(&self) -> &'static PortSet {
        let Some(local) = local::of(CpuId::BOOT) else { unreachable!("the boot CPU has its area") };
        &local.owned
    }

    /// Ports that fired and were not taken yet.
    #[must_use]
    pub fn fired(&self) -> &'static PortSet {
        &FIRED
    }

    /// The port of the one-shot timer, for those who set it themselves.
    #[must_use]
    pub fn timer_port(&self) -> EventPort {
        self.timer
    }

    /// Events, and waiting asleep: not with interrupts off.
    #[must_use]
    pub fn sleeping(&self) -> Sleeping {
        Joined {
            events: self.xen,
            wait: Parked {
                fired: &FIRED,
                early: HaltWait {
                    clock: self.clock,
                    timers: self.xen,
                    halt: Processor,
                    vcpu: BOOT_VCPU,
                    timer_port: self.timer,
                    fired: &FIRED,
                },
            },
        }
    }

    /// Events, and waiting in the hypervisor.
    fn polling(&self) -> Polling {
        Joined {
            events: self.xen,
            wait: PollWait { clock: self.clock, scheduling: self.xen, channels: self.channels },
        }
    }

    /// Waits, within a bound, until the console daemon has read everything. For the moment before the end.
    pub(crate) fn drain_console(&self) {
        if let Some(console) = self.console {
            console.drain();
        }
    }

    /// Has what is typed on the console wake who [waits](Self::wait_for_console) for it. Answers whether there is a
    /// console.
    pub fn listen_to_console(&self) -> bool {
        self.console.is_some_and(|console| {
            console.set_listened();
            match self.listen(console.port()) {
                Ok(()) => true,
                Err(error) => {
                    log::warn!("console: its port cannot be unmasked: {error}");
                    false
                }
            }
        })
    }

    /// Waits until something may have been typed on the console; see [`listen_to_console`](Self::listen_to_console).
    /// For threads.
    pub fn wait_for_console(&self) {
        if let Some(console) = self.console {
            self.sleeping().wait(console.port(), u64::MAX);
        }
    }

    /// Reads what was typed on the console, as much as there is now.
    pub fn read_console(&self, into: &mut [u8]) -> usize {
        self.console.map_or(0, |console| console.read(into))
    }
}

/// Has whoever waits for `port` look again, as if it had fired.
pub(crate) fn announce(port: EventPort) {
    FIRED.insert(port);
    platform::port_fired();
}

/// The upcall of every vCPU: collects what fired there, and tells who waits. Runs with interrupts off.
fn upcall() {
    let local = local::mine();
    local.upcalls.fetch_add(1, Ordering::Relaxed);
    let Some(channels) = CHANNELS.get() else { return };
    let Some(vcpu) = this_vcpu(channels) else { return };
    channels.scan(&vcpu, &local.owned, |port| {
        if local.doorbell() == Some(port) {
            carrier::doorbell();
            return;
        }
        // The timer's too: before there are threads, who sleeps on the boot vCPU looks for it here.
        FIRED.insert(port);
        if local.timer() == Some(port) {
            carrier::timer();
        } else {
            platform::port_fired();
        }
    });
}

/// Gives `cpu` a doorbell and a timer, and answers the timer's port.
fn bind_ports(
    xen: Xen<Instruction>,
    channels: Channels,
    cpu: CpuId,
) -> Result<Option<EventPort>, DomainError> {
    let Some(local) = local::of(cpu) else { return Ok(None) };
    let vcpu = VcpuId::new(cpu.get() as u32);
    let timer = step("timer interrupt", xen.bind_virq(VIRQ_TIMER, vcpu))?;
    let doorbell = step("doorbell", xen.bind_ipi(vcpu))?;
    local.set_ports(doorbell, timer);
    step("timer port", channels.unmask(&xen, timer))?;
    step("doorbell port", channels.unmask(&xen, doorbell))?;
    Ok(Some(timer))
}

fn map_shared_info(machine: &Machine, xen: Xen<Instruction>) -> Result<SharedPage, DomainError> {
    if machine.boot_info().ram().contains(SHARED_INFO) {
        return Err(DomainError::NoHole);
    }
    // SAFETY: the frame is not RAM, so nothing lives there, and this is the first mapping of the page.
    step("shared info", unsafe { xen.map_special(SpecialPage::SharedInfo, SHARED_INFO) })?;
    let page = machine.map_special(SHARED_INFO).map_err(DomainError::Window)?;
    // SAFETY: mapped just above, for good, and used through this view only.
    Ok(unsafe { SharedPage::new(page) })
}
