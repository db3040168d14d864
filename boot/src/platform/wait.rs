//! Waiting for event ports, by threads.

use super::{Kernel, SCHEDULER, WaitQueue};
use crate::domain::{DomainClock, Processor};
use ebb::port::{Clock, Wait};
use ebb::units::EventPort;
use ebb::xen::Xen;
use ebb::xen::events::PortSet;
use ebb::xen::transport::Instruction;
use ebb::xen::wait::HaltWait;
use percpu::Cpus;

/// Threads that wait for a port, whichever.
static WAITING: WaitQueue = WaitQueue::new(Kernel);

/// An event has come for a port that is waited for, perhaps. In the upcall.
pub(crate) fn port_fired() {
    if SCHEDULER.is_completed() {
        WAITING.wake_all();
    }
}

/// Waits for a port as a thread, while others run; before there are threads, asleep with the whole vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Parked {
    /// Ports that fired since they were taken.
    pub(crate) fired: &'static PortSet,
    /// The way of the time before threads.
    pub(crate) early: HaltWait<'static, DomainClock, Xen<Instruction>, Processor>,
}

impl Clock for Parked {
    fn now_ns(&self) -> u64 {
        self.early.clock.now_ns()
    }
}

impl Wait for Parked {
    fn wait(&self, port: EventPort, deadline_ns: u64) {
        if !Kernel.may_block() {
            self.early.wait(port, deadline_ns);
            return;
        }
        // Whether it fired or the time is over, the caller finds out: it looks again.
        let _ = WAITING.wait_until_deadline(deadline_ns, || self.fired.take(port));
    }
}
