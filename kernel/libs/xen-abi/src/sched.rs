//! `sched_op`: the calling vCPU's time, and the end of the domain.
//!
//! Source: Xen `xen/include/public/sched.h`.

/// Let others run.
pub const YIELD: u32 = xen_sys::SCHEDOP_yield;
/// Wait for an event. Sleeps for ever on PVH with interrupts off; `sti; hlt` is the way to wait.
pub const BLOCK: u32 = xen_sys::SCHEDOP_block;
/// End the domain: [`Shutdown`].
pub const SHUTDOWN: u32 = xen_sys::SCHEDOP_shutdown;
/// Wait for ports: [`Poll`].
pub const POLL: u32 = xen_sys::SCHEDOP_poll;
/// A timer whose expiry ends the domain: [`Watchdog`].
pub const WATCHDOG: u32 = xen_sys::SCHEDOP_watchdog;

/// Reason: done.
pub const SHUTDOWN_POWEROFF: u32 = xen_sys::SHUTDOWN_poweroff;
/// Reason: start again.
pub const SHUTDOWN_REBOOT: u32 = xen_sys::SHUTDOWN_reboot;
/// Reason: asleep until resumed.
pub const SHUTDOWN_SUSPEND: u32 = xen_sys::SHUTDOWN_suspend;
/// Reason: broken.
pub const SHUTDOWN_CRASH: u32 = xen_sys::SHUTDOWN_crash;
/// Reason: the watchdog expired.
pub const SHUTDOWN_WATCHDOG: u32 = xen_sys::SHUTDOWN_watchdog;

/// The most ports that one poll takes.
pub const POLL_MAX_PORTS: u32 = 128;

/// Argument of [`SHUTDOWN`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Shutdown {
    /// One of the `SHUTDOWN_*` reasons.
    pub reason: u32,
}

crate::layout!(Shutdown: 4 { reason @ 0 });
crate::same_layout!(Shutdown, xen_sys::sched_shutdown { reason = reason });

/// Argument of [`POLL`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Poll {
    /// Linear address of an array of `u32` ports.
    pub ports: u64,
    /// Length of the array; at most [`POLL_MAX_PORTS`].
    pub nr_ports: u32,
    /// Zero.
    pub reserved: u32,
    /// When to stop waiting, in nanoseconds of system time; 0 for never.
    pub timeout_ns: u64,
}

crate::layout!(Poll: 24 { ports @ 0, nr_ports @ 8, timeout_ns @ 16 });
crate::same_layout!(Poll, xen_sys::sched_poll { ports = ports, nr_ports = nr_ports, timeout_ns = timeout });

/// Argument of [`WATCHDOG`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Watchdog {
    /// 0 for a new one, else which.
    pub id: u32,
    /// Seconds from now until the domain is shut down; 0 to stop it.
    pub timeout_s: u32,
}

crate::layout!(Watchdog: 8 { id @ 0, timeout_s @ 4 });
crate::same_layout!(Watchdog, xen_sys::sched_watchdog { id = id, timeout_s = timeout });
