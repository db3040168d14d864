//! Event channels: ports, and the bits by which events reach the guest (2-level).
#![expect(unsafe_code, reason = "passes on the caller's promise about the addresses in the registers")]

use super::pages::word_at;
use super::state::State;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;
use xen_abi::event as abi;
use xen_abi::shared_info::{self, vcpu};
use xen_abi::{DOMID_SELF, Errno};

/// Ports come into being in groups of this many.
const GROUP: usize = 64;

/// One port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Channel {
    Free,
    /// Port 0.
    Reserved,
    Unbound {
        remote: u16,
    },
    /// To another domain (`port` means nothing then) or to another port of this one.
    Interdomain {
        remote: u16,
        port: u32,
    },
    Virq(u32),
    Ipi,
}

/// A port and the vCPU that it notifies.
#[derive(Clone, Copy, Debug)]
struct Port {
    channel: Channel,
    vcpu: u32,
}

const FREE: Port = Port { channel: Channel::Free, vcpu: 0 };

/// The domain's ports.
pub(super) struct Events {
    ports: Vec<Port>,
    shared: NonNull<u8>,
    /// Highest port that the toolstack allows.
    highest: u32,
}

// SAFETY: the pointer is to the shared info page of the same model, which only atomics touch.
unsafe impl Send for Events {}

impl Events {
    /// Events of a domain whose shared info page is at `shared`, in which the toolstack has made ports 1 and 2
    /// for dom0's daemons, and those have bound them.
    pub(super) fn new(shared: NonNull<u8>, highest: u32) -> Self {
        let mut ports = std::vec![FREE; GROUP];
        ports[0].channel = Channel::Reserved;
        ports[1].channel = Channel::Interdomain { remote: 0, port: 17 };
        ports[2].channel = Channel::Interdomain { remote: 0, port: 18 };
        Self { ports, shared, highest }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        word_at(self.shared, offset / 8)
    }

    /// Word and bit of a port, and the word's index.
    fn place(&self, array: usize, port: u32) -> (&AtomicU64, u64) {
        (self.word(array + port as usize / 64 * 8), 1 << (port % 64))
    }

    pub(super) fn is_pending(&self, port: u32) -> bool {
        let (word, bit) = self.place(shared_info::PENDING, port);
        word.load(Ordering::SeqCst) & bit != 0
    }

    /// Whether an upcall is due on a vCPU.
    pub(super) fn upcall_pending(&self, vcpu: u32) -> bool {
        self.word(vcpu as usize * vcpu::SIZE).load(Ordering::SeqCst) & 0xFF != 0
    }

    /// Makes a port pending, and tells its vCPU if the port is not masked and the vCPU does not know yet.
    pub(super) fn set_pending(&self, port: u32) {
        let (word, bit) = self.place(shared_info::PENDING, port);
        if word.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
            return;
        }
        let (mask, bit) = self.place(shared_info::MASK, port);
        if mask.load(Ordering::SeqCst) & bit == 0 {
            self.select(port);
        }
    }

    fn select(&self, port: u32) {
        let part = self.ports[port as usize].vcpu as usize * vcpu::SIZE;
        let bit = 1 << (port / 64);
        if self.word(part + vcpu::PENDING_SELECTOR).fetch_or(bit, Ordering::SeqCst) & bit == 0 {
            const { assert!(vcpu::UPCALL_PENDING == 0, "the low byte of the first word") };
            self.word(part).fetch_or(1, Ordering::SeqCst);
        }
    }

    fn unmask(&self, port: u32) {
        let (mask, bit) = self.place(shared_info::MASK, port);
        if mask.fetch_and(!bit, Ordering::SeqCst) & bit != 0 && self.is_pending(port) {
            self.select(port);
        }
    }

    fn get(&self, port: u32) -> Result<Port, Errno> {
        self.ports.get(port as usize).copied().ok_or(Errno::EINVAL)
    }

    /// Whether Xen has a port of this number, open or not.
    pub(super) fn is_valid(&self, port: u32) -> bool {
        self.get(port).is_ok()
    }

    /// The lowest free port.
    fn open(&mut self, channel: Channel, vcpu: u32) -> Result<u32, Errno> {
        let free =
            self.ports.iter().position(|port| port.channel == Channel::Free).unwrap_or(self.ports.len());
        if free as u64 > u64::from(self.highest) {
            return Err(Errno::ENOSPC);
        }
        if free == self.ports.len() {
            self.ports.resize(free + GROUP, FREE);
        }
        self.ports[free] = Port { channel, vcpu };
        Ok(free as u32)
    }

    fn close(&mut self, port: u32, own: u16) -> Result<(), Errno> {
        match self.get(port)?.channel {
            Channel::Free | Channel::Reserved => return Err(Errno::EINVAL),
            Channel::Interdomain { remote, port: other } if remote == own => {
                self.ports[other as usize].channel = Channel::Unbound { remote: own };
            }
            _ => {}
        }
        self.ports[port as usize] = FREE;
        let (word, bit) = self.place(shared_info::PENDING, port);
        word.fetch_and(!bit, Ordering::SeqCst);
        Ok(())
    }

    fn send(&self, port: u32, own: u16) -> Result<(), Errno> {
        match self.get(port)?.channel {
            Channel::Interdomain { remote, port: other } if remote == own => self.set_pending(other),
            // The other domain is not part of the model, and an event for nobody is dropped.
            Channel::Interdomain { .. } | Channel::Unbound { .. } => {}
            Channel::Ipi => self.set_pending(port),
            Channel::Free | Channel::Reserved | Channel::Virq(_) => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// Raises a virtual interrupt, if somebody has bound it.
    pub(super) fn raise_virq(&self, virq: u32, vcpu: u32) {
        let bound = |port: &Port| port.channel == Channel::Virq(virq) && port.vcpu == vcpu;
        if let Some(port) = self.ports.iter().position(bound) {
            self.set_pending(port as u32);
        }
    }

    /// What dom0 does to its own end of a port: binds it, if it waits, and signals it.
    pub(super) fn signal_from_outside(&mut self, port: u32) -> Result<(), Errno> {
        let index = port as usize;
        match self.get(port)?.channel {
            Channel::Unbound { remote: remote @ 0 } => {
                self.ports[index].channel = Channel::Interdomain { remote, port: 100 + port };
            }
            Channel::Interdomain { remote: 0, .. } => {}
            _ => return Err(Errno::EINVAL),
        }
        self.set_pending(port);
        Ok(())
    }

    /// Ports that are open.
    pub(super) fn open_ports(&self) -> usize {
        let closed = |port: &&Port| matches!(port.channel, Channel::Free | Channel::Reserved);
        self.ports.len() - self.ports.iter().filter(closed).count()
    }

    /// What must hold of the ports at any time.
    pub(super) fn validate(&self, own: u16) -> Result<(), &'static str> {
        for (index, port) in self.ports.iter().enumerate() {
            match port.channel {
                Channel::Interdomain { remote, port: other } if remote == own => {
                    let back = self.ports.get(other as usize).map(|port| port.channel);
                    if back != Some(Channel::Interdomain { remote: own, port: index as u32 }) {
                        return Err("a loopback port whose other end does not point back");
                    }
                }
                Channel::Virq(virq) => {
                    let same =
                        |other: &&Port| other.channel == Channel::Virq(virq) && other.vcpu == port.vcpu;
                    if self.ports.iter().filter(same).count() != 1 {
                        return Err("a virtual interrupt bound twice");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl State {
    /// # Safety
    ///
    /// As `Transport::call`: the argument is valid for the command.
    pub(super) unsafe fn event_op(&mut self, command: u32, argument: u64) -> Result<i64, Errno> {
        let own = self.config.domid;
        let resolve = |domid| if domid == DOMID_SELF { own } else { domid };
        match command {
            abi::ALLOC_UNBOUND => {
                // SAFETY: the caller's promise.
                let mut alloc: abi::AllocUnbound = unsafe { self.copy_in(argument) }?;
                self.check_domain(alloc.dom)?;
                alloc.port = self.events.open(Channel::Unbound { remote: resolve(alloc.remote_dom) }, 0)?;
                // SAFETY: the caller's promise.
                unsafe { self.copy_out(argument, alloc) }?;
            }
            abi::BIND_INTERDOMAIN => {
                // SAFETY: the caller's promise.
                let mut bind: abi::BindInterdomain = unsafe { self.copy_in(argument) }?;
                let remote = resolve(bind.remote_dom);
                if remote != own && remote != 0 {
                    return Err(Errno::ESRCH);
                }
                // dom0 offers this domain no port.
                let waits = self.events.get(bind.remote_port)?.channel == Channel::Unbound { remote: own };
                if remote != own || !waits {
                    return Err(Errno::EINVAL);
                }
                let port = self.events.open(Channel::Interdomain { remote, port: bind.remote_port }, 0)?;
                self.events.ports[bind.remote_port as usize].channel = Channel::Interdomain { remote, port };
                self.events.set_pending(port);
                bind.local_port = port;
                // SAFETY: the caller's promise.
                unsafe { self.copy_out(argument, bind) }?;
            }
            abi::BIND_VIRQ => {
                // SAFETY: the caller's promise.
                let mut bind: abi::BindVirq = unsafe { self.copy_in(argument) }?;
                let channel = Channel::Virq(bind.virq);
                let per_vcpu = matches!(bind.virq, abi::VIRQ_TIMER | abi::VIRQ_DEBUG | 7 | 13);
                if bind.virq >= abi::NR_VIRQS || (!per_vcpu && bind.vcpu != 0) {
                    return Err(Errno::EINVAL);
                }
                self.check_vcpu(bind.vcpu)?;
                let bound = |port: &Port| port.channel == channel && port.vcpu == bind.vcpu;
                if self.events.ports.iter().any(bound) {
                    return Err(Errno::EEXIST);
                }
                bind.port = self.events.open(channel, bind.vcpu)?;
                // SAFETY: the caller's promise.
                unsafe { self.copy_out(argument, bind) }?;
            }
            abi::BIND_IPI => {
                // SAFETY: the caller's promise.
                let mut bind: abi::BindIpi = unsafe { self.copy_in(argument) }?;
                self.check_vcpu(bind.vcpu)?;
                bind.port = self.events.open(Channel::Ipi, bind.vcpu)?;
                // SAFETY: the caller's promise.
                unsafe { self.copy_out(argument, bind) }?;
            }
            abi::BIND_VCPU => {
                // SAFETY: the caller's promise.
                let bind: abi::BindVcpu = unsafe { self.copy_in(argument) }?;
                self.check_vcpu(bind.vcpu)?;
                match self.events.get(bind.port)?.channel {
                    Channel::Unbound { .. } | Channel::Interdomain { .. } => {}
                    _ => return Err(Errno::EINVAL),
                }
                self.events.ports[bind.port as usize].vcpu = bind.vcpu;
            }
            abi::STATUS => {
                // SAFETY: the caller's promise.
                let mut status: abi::Status = unsafe { self.copy_in(argument) }?;
                self.check_domain(status.dom)?;
                let port = self.events.get(status.port)?;
                status.vcpu = port.vcpu;
                (status.status, status.peer, status.peer_port) = match port.channel {
                    Channel::Free | Channel::Reserved => (abi::STATUS_CLOSED, 0, 0),
                    Channel::Unbound { remote } => (abi::STATUS_UNBOUND, u32::from(remote), 0),
                    Channel::Interdomain { remote, port } => {
                        (abi::STATUS_INTERDOMAIN, u32::from(remote), port)
                    }
                    Channel::Virq(virq) => (abi::STATUS_VIRQ, virq, 0),
                    Channel::Ipi => (abi::STATUS_IPI, 0, 0),
                };
                // SAFETY: the caller's promise.
                unsafe { self.copy_out(argument, status) }?;
            }
            abi::CLOSE | abi::SEND | abi::UNMASK => {
                // SAFETY: the caller's promise.
                let abi::Port { port } = unsafe { self.copy_in(argument) }?;
                match command {
                    abi::CLOSE => self.events.close(port, own)?,
                    abi::SEND => self.events.send(port, own)?,
                    _ if self.events.get(port)?.channel != Channel::Free => self.events.unmask(port),
                    _ => {}
                }
            }
            _ => return Err(Errno::ENOSYS),
        }
        Ok(0)
    }
}
