//! The calling vCPU's time and the end of the domain: [`SchedOps`].

use super::address_of;
use crate::port::{SchedOps, ShutdownReason};
use crate::units::EventPort;
use crate::xen::{Transport, Xen};
use xen_abi::{Errno, hypercall, sched};

impl<T: Transport> SchedOps for Xen<T> {
    fn yield_now(&self) {
        // SAFETY: the command reads no argument and touches no memory. Nothing can go wrong that a caller could
        // act upon: without a Xen nobody else is there to run.
        let _ = unsafe { self.raw(hypercall::SCHED_OP, [u64::from(sched::YIELD), 0, 0, 0, 0]) };
    }

    fn poll(&self, ports: &[EventPort], deadline_ns: Option<u64>) -> Result<(), Errno> {
        let mut poll = sched::Poll {
            ports: address_of(ports),
            nr_ports: u32::try_from(ports.len()).map_err(|_| Errno::EINVAL)?,
            reserved: 0,
            // 0 means no deadline, so the one nanosecond that cannot be said becomes the next.
            timeout_ns: deadline_ns.map_or(0, |deadline| deadline.max(1)),
        };
        // SAFETY: the structure of this command; an `EventPort` is a `u32` (transparent), so the list is what
        // the command reads, and it is borrowed until the call returns.
        unsafe { self.command(hypercall::SCHED_OP, sched::POLL, &mut poll) }.map(drop)
    }

    fn shutdown(&self, reason: ShutdownReason) -> Result<(), Errno> {
        let mut shutdown = sched::Shutdown {
            reason: match reason {
                ShutdownReason::Poweroff => sched::SHUTDOWN_POWEROFF,
                ShutdownReason::Reboot => sched::SHUTDOWN_REBOOT,
                ShutdownReason::Suspend => sched::SHUTDOWN_SUSPEND,
                ShutdownReason::Crash => sched::SHUTDOWN_CRASH,
                ShutdownReason::Watchdog => sched::SHUTDOWN_WATCHDOG,
            },
        };
        // SAFETY: the structure of this command, which touches no memory of ours.
        unsafe { self.command(hypercall::SCHED_OP, sched::SHUTDOWN, &mut shutdown) }.map(drop)
    }
}
