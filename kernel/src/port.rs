//! What the kernel needs from a hypervisor, as small traits: memory, transcendent memory, events, scheduling, vCPUs,
//! parameters, a clock, a way to wait.
//!
//! Mechanisms take exactly the port they use, as a type parameter, and so run unchanged over real hypercalls
//! ([`Xen`](crate::xen::Xen) over the hypercall instruction), over the model hypervisor of the test crate (the
//! same `Xen`, over a model transport), or over a fake written for one test. Nothing above
//! [`xen`](crate::xen) names a concrete hypervisor.
//!
//! Partial completion is in the types: an operation on a list of extents answers how many it did
//! ([`Completed`]), because that is all that Xen says.
#![expect(unsafe_code, reason = "declares the contracts of operations that change what is behind a frame")]

use crate::units::{DomId, EventPort, Frames, Gfn, Order, VcpuId};
use xen_abi::Errno;

mod by_reference;
mod joined;
mod tmem;

pub use joined::Joined;
pub use tmem::{PageKey, PoolId, PoolKind, TmemOps};

/// How many extents of a list were processed, counted from its beginning.
///
/// Fewer than asked is an ordinary answer: the host is short of memory, the limit is reached, or an extent is
/// not what the caller believed. Xen does not say which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "an operation on extents may have done only some of them"]
pub struct Completed(usize);

impl Completed {
    /// The first `count` extents were done.
    pub const fn new(count: usize) -> Self {
        Self(count)
    }

    /// How many were done.
    #[must_use]
    pub const fn count(self) -> usize {
        self.0
    }

    /// Whether all of `asked` were done.
    #[must_use]
    pub const fn is_all_of(self, asked: usize) -> bool {
        self.0 == asked
    }
}

/// Memory reservation: the hypercalls behind the balloon.
///
/// Interrupt-safe, never blocks; long calls are restarted by Xen between extents, so lists must stay mapped and
/// unchanged until the call returns.
///
/// # Why taking memory away is `unsafe`
///
/// A frame that goes back to Xen does not fault when it is touched: it reads as all ones and swallows writes. A
/// Rust object that lives there stops being the value that the compiler knows, which is undefined behaviour
/// without a single pointer having been dereferenced wrongly. Populating over a frame that has memory, or
/// mapping a special page there, replaces the object instead, with the same result. So the four operations that
/// change what is behind a frame number are `unsafe`, like `munmap`, and their callers are the one layer that
/// knows which frames are unused: the frame allocator. It wraps them in safe functions that consume and return
/// *owned* frames (unused memory in, holes out, and back), and what the balloon above handles is those.
///
/// # Safety
///
/// Implementations tell the truth, because the callers' memory safety rests on it: an operation touches no frames
/// but those it is given, and an extent that `populate_physmap` counts as done has memory, all of it, until it is
/// given to another operation.
pub unsafe trait MemoryOps {
    /// Frames charged to this domain now (`tot_pages`): RAM, special and ACPI frames, populate-on-demand cache.
    ///
    /// # Errors
    ///
    /// Only where there is no Xen to ask.
    fn current_reservation(&self) -> Result<Frames, Errno>;

    /// The most that this domain may be charged (`max_pages`). Follows `xl mem-set`; not `memory/static-max`.
    ///
    /// # Errors
    ///
    /// Only where there is no Xen to ask.
    fn maximum_reservation(&self) -> Result<Frames, Errno>;

    /// The highest frame number that was ever mapped.
    ///
    /// # Errors
    ///
    /// Only where there is no Xen to ask.
    fn maximum_gpfn(&self) -> Result<Gfn, Errno>;

    /// Fills `entries` with the domain's E820 map and answers how many were written: at most as many as there is
    /// room for, without a sign that there were more.
    ///
    /// The list may be unsorted and may overlap; ballooning never changes it.
    ///
    /// # Errors
    ///
    /// `ENOSYS` if the toolstack set no map.
    fn memory_map(&self, entries: &mut [MapEntry]) -> Result<usize, Errno>;

    /// Gives the extents of `order` that begin at `extents` back to Xen.
    ///
    /// The frames become holes. An extent of order > 0 that could not be finished is not counted although some
    /// of its first frames may be gone: go on frame by frame.
    ///
    /// # Errors
    ///
    /// Only where there is no Xen to ask; every other failure is a short count.
    ///
    /// # Safety
    ///
    /// No Rust object lives in these frames, done or not, and none is put there before a populate has counted
    /// them. Nobody else uses them: no device, no grant, no page table, no reference of any kind.
    unsafe fn decrease_reservation(&self, order: Order, extents: &[Gfn]) -> Result<Completed, Errno>;

    /// Fills the holes at `extents` with memory of unknown content.
    ///
    /// Only ever name holes, each once: populating a frame that has memory succeeds and leaks the old memory for
    /// good. An extent of order > 0 needs free host memory in one piece, and allowance for all of it, where
    /// single frames may still be had.
    ///
    /// # Errors
    ///
    /// Only where there is no Xen to ask; every other failure is a short count.
    ///
    /// # Safety
    ///
    /// No Rust object lives in these frames, and nobody else uses them.
    unsafe fn populate_physmap(&self, order: Order, extents: &[Gfn]) -> Result<Completed, Errno>;

    /// Asks for memory *without* a place to map it. On a translated guest, which Ebb always is, this charges
    /// frames that nobody can ever use or return. It is here to be tested and documented, not to grow.
    ///
    /// # Errors
    ///
    /// Only where there is no Xen to ask; every other failure is a short count.
    fn increase_reservation(&self, order: Order, count: usize) -> Result<Completed, Errno>;

    /// Maps a page that Xen owns at the hole `at`. If it is mapped elsewhere already, it moves.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an index beyond what exists, `EPERM` or `ENXIO` if the frame cannot be replaced.
    ///
    /// # Safety
    ///
    /// No Rust object lives in the frame `at`, and nobody uses it, nor a frame that the page is mapped at now.
    unsafe fn map_special(&self, page: SpecialPage, at: Gfn) -> Result<(), Errno>;

    /// Takes a mapping made by [`map_special`](Self::map_special) away. On RAM this is a leak for good.
    ///
    /// # Errors
    ///
    /// `ENOENT` on a hole.
    ///
    /// # Safety
    ///
    /// Nobody uses the frame any more.
    unsafe fn unmap_special(&self, at: Gfn) -> Result<(), Errno>;
}

/// A page that Xen owns and a guest may map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpecialPage {
    /// The page with event bits, clocks and the wall clock.
    SharedInfo,
    /// Frame `n` of the grant table.
    GrantTable(u32),
}

/// One entry of a memory map, from Xen or from the loader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapEntry {
    /// First byte.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// What is there.
    pub kind: MemoryKind,
}

/// What a range of a memory map holds (E820 types).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// Usable memory.
    Ram,
    /// Not to be touched.
    Reserved,
    /// ACPI tables.
    Acpi,
    /// ACPI non-volatile storage.
    Nvs,
    /// Broken memory.
    Unusable,
    /// A type that this list does not have; treated as reserved.
    Other(u32),
}

/// What another end of an event channel is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelStatus {
    /// Not in use.
    Closed,
    /// Waiting for `remote` to bind.
    Unbound {
        /// Who may bind.
        remote: DomId,
    },
    /// Connected to a port of `remote`.
    Interdomain {
        /// The other domain.
        remote: DomId,
        /// Its port.
        port: EventPort,
    },
    /// A physical interrupt.
    Pirq,
    /// A virtual interrupt.
    Virq(u32),
    /// An interrupt between vCPUs.
    Ipi,
}

/// Event channels.
pub trait EventOps {
    /// A new port that `remote` may bind to.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when no port is free. A `remote` that does not exist is no error.
    fn alloc_unbound(&self, remote: DomId) -> Result<EventPort, Errno>;

    /// Connects a new port to `port` of `remote`. The new port is left pending once.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the remote port does not wait for us, `ESRCH`, `ENOSPC`.
    fn bind_interdomain(&self, remote: DomId, port: EventPort) -> Result<EventPort, Errno>;

    /// A new port on which `vcpu` receives virtual interrupt `virq`.
    ///
    /// # Errors
    ///
    /// `EEXIST` if it is bound already, `ENOENT` for an unknown vCPU, `EINVAL` for an unknown number.
    fn bind_virq(&self, virq: u32, vcpu: VcpuId) -> Result<EventPort, Errno>;

    /// A new port through which other vCPUs interrupt `vcpu`.
    ///
    /// # Errors
    ///
    /// `ENOENT` for an unknown vCPU, `ENOSPC`.
    fn bind_ipi(&self, vcpu: VcpuId) -> Result<EventPort, Errno>;

    /// Closes a port.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is not open.
    fn close(&self, port: EventPort) -> Result<(), Errno>;

    /// Signals the other end. On an unbound port the event is dropped, and that is success.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a port that cannot send.
    fn send(&self, port: EventPort) -> Result<(), Errno>;

    /// What the port is bound to.
    ///
    /// # Errors
    ///
    /// `EINVAL` beyond the port table.
    fn status(&self, port: EventPort) -> Result<ChannelStatus, Errno>;

    /// Clears the port's mask and, if it was pending, raises its upcall.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a port that does not exist.
    fn unmask(&self, port: EventPort) -> Result<(), Errno>;
}

/// Why the domain stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownReason {
    /// Done: `on_poweroff`.
    Poweroff,
    /// `on_reboot`.
    Reboot,
    /// Asleep until resumed.
    Suspend,
    /// A broken invariant: `on_crash`.
    Crash,
    /// The watchdog expired.
    Watchdog,
}

/// Scheduling of the calling vCPU.
pub trait SchedOps {
    /// Lets others run.
    fn yield_now(&self);

    /// Waits until a port of `ports` is pending, masked or not, or until `deadline_ns` of system time. No
    /// deadline if `None`. Does not clear the pending bits, and answers the same on a timeout: look at them.
    ///
    /// # Errors
    ///
    /// `EINVAL` for more than 128 ports or a port that does not exist.
    fn poll(&self, ports: &[EventPort], deadline_ns: Option<u64>) -> Result<(), Errno>;

    /// Ends the domain; returns only if Xen refuses, or after a suspend.
    ///
    /// # Errors
    ///
    /// Whatever Xen says.
    fn shutdown(&self, reason: ShutdownReason) -> Result<(), Errno>;
}

/// The vCPUs of this domain and their timers.
pub trait VcpuOps {
    /// Whether a vCPU runs.
    ///
    /// # Errors
    ///
    /// `ENOENT` for a vCPU that this domain does not have.
    fn is_up(&self, vcpu: VcpuId) -> Result<bool, Errno>;

    /// Arms the one-shot timer of `vcpu`, which must be the caller, for `deadline_ns` of system time. A time in
    /// the past fires at once (some hypervisors say `ETIME` instead, which this turns into success with
    /// [`Armed::Expired`]).
    ///
    /// # Errors
    ///
    /// `EINVAL` for another vCPU.
    fn set_timer(&self, vcpu: VcpuId, deadline_ns: u64) -> Result<Armed, Errno>;

    /// Stops the one-shot timer of the calling vCPU.
    ///
    /// # Errors
    ///
    /// `EINVAL` for another vCPU.
    fn stop_timer(&self, vcpu: VcpuId) -> Result<(), Errno>;
}

/// What became of a timer that was set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Armed {
    /// An event will come, or has come.
    Pending,
    /// The deadline had passed and no event will come: act as if it had fired.
    Expired,
}

/// What the hypervisor says of itself.
pub trait VersionOps {
    /// Major and minor version.
    ///
    /// # Errors
    ///
    /// `ENOSYS` where there is no Xen.
    fn version(&self) -> Result<(u16, u16), Errno>;

    /// The vendor's addition to the version, such as `.7`, without its NULs, in `buffer`.
    ///
    /// # Errors
    ///
    /// `ENOSYS` where there is no Xen.
    fn extra_version<'b>(&self, buffer: &'b mut [u8; 16]) -> Result<&'b [u8], Errno>;

    /// The feature bits of submap `index`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a submap that does not exist.
    fn features(&self, index: u32) -> Result<u32, Errno>;
}

/// A parameter that the toolstack leaves for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HvmParam {
    /// How upcalls are delivered.
    CallbackIrq,
    /// Frame of the xenstore ring.
    StoreGfn,
    /// Port of the xenstore ring.
    StorePort,
    /// Frame of the console ring.
    ConsoleGfn,
    /// Port of the console ring.
    ConsolePort,
    /// Any other number.
    Other(u32),
}

/// What Xen knows a frame to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameType {
    /// Memory (also memory not populated yet).
    ReadWrite,
    /// Read-only memory.
    ReadOnly,
    /// A hole, or a device.
    HoleOrDevice,
}

/// Parameters and services for HVM guests, PVH included.
pub trait HvmOps {
    /// Reads a parameter. 0 and `u64::MAX` mean "not available".
    ///
    /// # Errors
    ///
    /// `EPERM` for one that is not ours to read, `EINVAL` for one that does not exist.
    fn get_param(&self, param: HvmParam) -> Result<u64, Errno>;

    /// Writes a parameter.
    ///
    /// # Errors
    ///
    /// As [`get_param`](Self::get_param). Without asking: `EINVAL` for a callback at the vector of an exception, `EPERM`
    /// for a parameter that names memory for others to write.
    fn set_param(&self, param: HvmParam, value: u64) -> Result<(), Errno>;

    /// Has events for `vcpu` delivered as interrupt `vector`, through its local APIC.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a vector below 32, `ENOENT` for an unknown vCPU. Xen itself would take those from 16 on, too, which
    /// are exceptions', and some of their entries expect an error code that an interrupt does not bring.
    fn set_upcall_vector(&self, vcpu: VcpuId, vector: u8) -> Result<(), Errno>;

    /// What Xen has at a frame. Does not populate it.
    ///
    /// # Errors
    ///
    /// `ERANGE` for a type that this list does not have; otherwise only where there is no Xen to ask.
    fn frame_type(&self, frame: Gfn) -> Result<FrameType, Errno>;
}

/// Time since the hypervisor started, never going backwards.
pub trait Clock {
    /// Nanoseconds of system time.
    fn now_ns(&self) -> u64;
}

/// Waiting for an event from outside.
pub trait Wait: Clock {
    /// Waits until `port` has fired since it was last waited for, or until `deadline_ns`.
    ///
    /// An event that came before the call, but after the last one returned, ends the wait at once: the pattern
    /// *look at the ring, then wait* loses no wake-up. Spurious returns are allowed, so look again.
    /// Must not be called with interrupts off.
    fn wait(&self, port: EventPort, deadline_ns: u64);
}
