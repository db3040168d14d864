//! Event channels: [`EventOps`].

use crate::port::{ChannelStatus, EventOps};
use crate::units::{DomId, EventPort, VcpuId};
use crate::xen::{Transport, Xen};
use xen_abi::{DOMID_SELF, Errno, event, hypercall};

impl<T: Transport> Xen<T> {
    /// An event-channel command.
    ///
    /// # Safety
    ///
    /// `A` is the structure of this command.
    unsafe fn event<A>(&self, command: u32, argument: &mut A) -> Result<(), Errno> {
        // SAFETY: no event-channel structure holds an address, and none of the commands touches memory other
        // than its structure and the shared info page, where only atomics live; the rest our caller promised.
        unsafe { self.command(hypercall::EVENT_CHANNEL_OP, command, argument) }.map(drop)
    }

    /// The commands whose argument is one port.
    fn on_port(&self, command: u32, port: EventPort) -> Result<(), Errno> {
        // SAFETY: CLOSE, SEND and UNMASK read a structure of one port; only they come here.
        unsafe { self.event(command, &mut event::Port { port: port.get() }) }
    }
}

impl<T: Transport> EventOps for Xen<T> {
    fn alloc_unbound(&self, remote: DomId) -> Result<EventPort, Errno> {
        let mut alloc = event::AllocUnbound { dom: DOMID_SELF, remote_dom: remote.get(), port: 0 };
        // SAFETY: the structure of this command.
        unsafe { self.event(event::ALLOC_UNBOUND, &mut alloc) }?;
        Ok(EventPort::new(alloc.port))
    }

    fn bind_interdomain(&self, remote: DomId, port: EventPort) -> Result<EventPort, Errno> {
        let mut bind = event::BindInterdomain {
            remote_dom: remote.get(),
            reserved: 0,
            remote_port: port.get(),
            local_port: 0,
        };
        // SAFETY: the structure of this command.
        unsafe { self.event(event::BIND_INTERDOMAIN, &mut bind) }?;
        Ok(EventPort::new(bind.local_port))
    }

    fn bind_virq(&self, virq: u32, vcpu: VcpuId) -> Result<EventPort, Errno> {
        let mut bind = event::BindVirq { virq, vcpu: vcpu.get(), port: 0 };
        // SAFETY: the structure of this command.
        unsafe { self.event(event::BIND_VIRQ, &mut bind) }?;
        Ok(EventPort::new(bind.port))
    }

    fn bind_ipi(&self, vcpu: VcpuId) -> Result<EventPort, Errno> {
        let mut bind = event::BindIpi { vcpu: vcpu.get(), port: 0 };
        // SAFETY: the structure of this command.
        unsafe { self.event(event::BIND_IPI, &mut bind) }?;
        Ok(EventPort::new(bind.port))
    }

    fn close(&self, port: EventPort) -> Result<(), Errno> {
        self.on_port(event::CLOSE, port)
    }

    fn send(&self, port: EventPort) -> Result<(), Errno> {
        self.on_port(event::SEND, port)
    }

    fn status(&self, port: EventPort) -> Result<ChannelStatus, Errno> {
        let mut status = event::Status { dom: DOMID_SELF, port: port.get(), ..Default::default() };
        // SAFETY: the structure of this command.
        unsafe { self.event(event::STATUS, &mut status) }?;
        #[expect(clippy::cast_possible_truncation, reason = "a domain number is the low half of the union")]
        let remote = DomId::new(status.peer as u16);
        Ok(match status.status {
            event::STATUS_UNBOUND => ChannelStatus::Unbound { remote },
            event::STATUS_INTERDOMAIN => {
                ChannelStatus::Interdomain { remote, port: EventPort::new(status.peer_port) }
            }
            event::STATUS_PIRQ => ChannelStatus::Pirq,
            event::STATUS_VIRQ => ChannelStatus::Virq(status.peer),
            event::STATUS_IPI => ChannelStatus::Ipi,
            _ => ChannelStatus::Closed,
        })
    }

    fn unmask(&self, port: EventPort) -> Result<(), Errno> {
        self.on_port(event::UNMASK, port)
    }
}
