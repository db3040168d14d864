//! `event_channel_op`: event channels.
//!
//! Source: Xen `xen/include/public/event_channel.h` and, for virtual interrupts, `xen/include/public/xen.h`.

/// Connect a new port to a port of another domain.
pub const BIND_INTERDOMAIN: u32 = xen_sys::EVTCHNOP_bind_interdomain;
/// Connect a new port to a virtual interrupt.
pub const BIND_VIRQ: u32 = xen_sys::EVTCHNOP_bind_virq;
/// Close a port.
pub const CLOSE: u32 = xen_sys::EVTCHNOP_close;
/// Signal the other end.
pub const SEND: u32 = xen_sys::EVTCHNOP_send;
/// What a port is bound to.
pub const STATUS: u32 = xen_sys::EVTCHNOP_status;
/// A new port that another domain may connect to.
pub const ALLOC_UNBOUND: u32 = xen_sys::EVTCHNOP_alloc_unbound;
/// A new port between vCPUs.
pub const BIND_IPI: u32 = xen_sys::EVTCHNOP_bind_ipi;
/// Choose the vCPU that a port notifies.
pub const BIND_VCPU: u32 = xen_sys::EVTCHNOP_bind_vcpu;
/// Clear a port's mask and raise what was pending.
pub const UNMASK: u32 = xen_sys::EVTCHNOP_unmask;
/// Close everything, the toolstack's ports too.
pub const RESET: u32 = xen_sys::EVTCHNOP_reset;

/// Status: not in use.
pub const STATUS_CLOSED: u32 = xen_sys::EVTCHNSTAT_closed;
/// Status: waiting for the remote domain.
pub const STATUS_UNBOUND: u32 = xen_sys::EVTCHNSTAT_unbound;
/// Status: connected.
pub const STATUS_INTERDOMAIN: u32 = xen_sys::EVTCHNSTAT_interdomain;
/// Status: a physical interrupt.
pub const STATUS_PIRQ: u32 = xen_sys::EVTCHNSTAT_pirq;
/// Status: a virtual interrupt.
pub const STATUS_VIRQ: u32 = xen_sys::EVTCHNSTAT_virq;
/// Status: between vCPUs.
pub const STATUS_IPI: u32 = xen_sys::EVTCHNSTAT_ipi;

/// Virtual interrupt of a vCPU's one-shot and periodic timers.
pub const VIRQ_TIMER: u32 = xen_sys::VIRQ_TIMER;
/// Virtual interrupt of Xen's debug key `q`.
pub const VIRQ_DEBUG: u32 = xen_sys::VIRQ_DEBUG;
/// How many virtual interrupts there are.
pub const NR_VIRQS: u32 = xen_sys::NR_VIRQS;

/// Ports of the 2-level ABI.
pub const PORTS_2L: u32 = 4096;

/// Argument of [`BIND_INTERDOMAIN`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct BindInterdomain {
    /// The other domain.
    pub remote_dom: u16,
    /// Zero.
    pub reserved: u16,
    /// Its port.
    pub remote_port: u32,
    /// Out: the new port.
    pub local_port: u32,
}

crate::layout!(BindInterdomain: 12 { remote_dom @ 0, remote_port @ 4, local_port @ 8 });
crate::same_layout!(BindInterdomain, xen_sys::evtchn_bind_interdomain {
    remote_dom = remote_dom, remote_port = remote_port, local_port = local_port,
});

/// Argument of [`BIND_VIRQ`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct BindVirq {
    /// The virtual interrupt.
    pub virq: u32,
    /// The vCPU that receives it.
    pub vcpu: u32,
    /// Out: the new port.
    pub port: u32,
}

crate::layout!(BindVirq: 12 { virq @ 0, vcpu @ 4, port @ 8 });
crate::same_layout!(BindVirq, xen_sys::evtchn_bind_virq { virq = virq, vcpu = vcpu, port = port });

/// Argument of [`CLOSE`], [`SEND`] and [`UNMASK`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Port {
    /// The port.
    pub port: u32,
}

crate::layout!(Port: 4 { port @ 0 });
crate::same_layout!(Port, xen_sys::evtchn_close { port = port });
crate::same_layout!(Port, xen_sys::evtchn_send { port = port });
crate::same_layout!(Port, xen_sys::evtchn_unmask { port = port });

/// Argument of [`STATUS`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Status {
    /// Whose port: `DOMID_SELF`.
    pub dom: u16,
    /// Zero.
    pub reserved: u16,
    /// The port.
    pub port: u32,
    /// Out: one of the `STATUS_*` codes.
    pub status: u32,
    /// Out: the vCPU that the port notifies.
    pub vcpu: u32,
    /// Out: the remote domain in the low 16 bits (unbound, interdomain), or the interrupt (PIRQ, VIRQ).
    pub peer: u32,
    /// Out: the remote port (interdomain).
    pub peer_port: u32,
}

crate::layout!(Status: 24 { dom @ 0, port @ 4, status @ 8, vcpu @ 12, peer @ 16, peer_port @ 20 });
crate::same_layout!(Status, xen_sys::evtchn_status { dom = dom, port = port, status = status, vcpu = vcpu, peer = u });

/// Argument of [`ALLOC_UNBOUND`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct AllocUnbound {
    /// Whose port: `DOMID_SELF`.
    pub dom: u16,
    /// Who may connect.
    pub remote_dom: u16,
    /// Out: the new port.
    pub port: u32,
}

crate::layout!(AllocUnbound: 8 { dom @ 0, remote_dom @ 2, port @ 4 });
crate::same_layout!(AllocUnbound, xen_sys::evtchn_alloc_unbound { dom = dom, remote_dom = remote_dom, port = port });

/// Argument of [`BIND_IPI`]. `port` is the result.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct BindIpi {
    /// The vCPU that is interrupted.
    pub vcpu: u32,
    /// Out: the new port.
    pub port: u32,
}

crate::layout!(BindIpi: 8 { vcpu @ 0, port @ 4 });
crate::same_layout!(BindIpi, xen_sys::evtchn_bind_ipi { vcpu = vcpu, port = port });

/// Argument of [`BIND_VCPU`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct BindVcpu {
    /// The port.
    pub port: u32,
    /// The vCPU that it shall notify.
    pub vcpu: u32,
}

crate::layout!(BindVcpu: 8 { port @ 0, vcpu @ 4 });
crate::same_layout!(BindVcpu, xen_sys::evtchn_bind_vcpu { port = port, vcpu = vcpu });
