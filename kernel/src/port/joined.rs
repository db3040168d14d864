//! Two ports for one: a component that signals and waits takes both as one value.

use super::*;

/// Events by `events`, time and waiting by `wait`.
#[derive(Clone, Copy, Debug)]
pub struct Joined<E, W> {
    /// Makes and signals channels.
    pub events: E,
    /// Tells the time and waits for a port.
    pub wait: W,
}

impl<E, W: Clock> Clock for Joined<E, W> {
    fn now_ns(&self) -> u64 {
        self.wait.now_ns()
    }
}

impl<E, W: Wait> Wait for Joined<E, W> {
    fn wait(&self, port: EventPort, deadline_ns: u64) {
        self.wait.wait(port, deadline_ns);
    }
}

impl<E: EventOps, W> EventOps for Joined<E, W> {
    fn alloc_unbound(&self, remote: DomId) -> Result<EventPort, Errno> {
        self.events.alloc_unbound(remote)
    }
    fn bind_interdomain(&self, remote: DomId, port: EventPort) -> Result<EventPort, Errno> {
        self.events.bind_interdomain(remote, port)
    }
    fn bind_virq(&self, virq: u32, vcpu: VcpuId) -> Result<EventPort, Errno> {
        self.events.bind_virq(virq, vcpu)
    }
    fn bind_ipi(&self, vcpu: VcpuId) -> Result<EventPort, Errno> {
        self.events.bind_ipi(vcpu)
    }
    fn close(&self, port: EventPort) -> Result<(), Errno> {
        self.events.close(port)
    }
    fn send(&self, port: EventPort) -> Result<(), Errno> {
        self.events.send(port)
    }
    fn status(&self, port: EventPort) -> Result<ChannelStatus, Errno> {
        self.events.status(port)
    }
    fn unmask(&self, port: EventPort) -> Result<(), Errno> {
        self.events.unmask(port)
    }
}
