//! Real Xen inside QEMU: a host that boots from files, runs guests and tells what became of them.
//!
//! [`Session`] is the machine: QEMU, Xen and a dom0 that lives in an initramfs. An agent in dom0, a shell
//! script, takes commands over a virtio-serial port ([`agent`]); each guest's console has another port, which
//! carries its bytes unchanged ([`guest`]).

mod agent;
pub(crate) mod fate;
pub(crate) mod guest;
pub(crate) mod initramfs;
mod ports;
mod session;

pub(crate) use guest::{Ending, Guest, GuestConfig};
pub(crate) use session::{HostConfig, Session};
