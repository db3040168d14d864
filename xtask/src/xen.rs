//! Real Xen inside QEMU: a host that boots from files, runs guests and tells what became of them.
//!
//! [`Session`] is the machine: QEMU, Xen and a dom0 that lives in an initramfs. An agent in dom0, a shell
//! script, takes commands over a virtio-serial port ([`agent`]); each guest's console has another port, which
//! carries its bytes unchanged ([`guest`]); and a program there tells over one more how much memory each domain has
//! ([`memory`]).

mod agent;
pub(crate) mod fate;
mod guest;
pub(crate) mod initramfs;
mod memory;
mod nested;
mod ports;
mod session;
pub(crate) mod xl;

pub(crate) use guest::Guest;
pub(crate) use memory::Look;
pub(crate) use session::{DOM0_MIB, HostConfig, Session, XEN_LOG, XEN_MIB};
pub(crate) use xl::{Ending, GuestConfig};
