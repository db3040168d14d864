//! The other end of a guest's rings: the store and console daemons of dom0, as models.
//!
//! Each is stepped by whoever plays the hypervisor and answers whether it signals the guest, so that tests decide
//! every interleaving. [`Machine`] does that for one guest without a hypervisor: it runs the daemons whenever the
//! guest waits.

mod connection;
pub mod console;
mod machine;
pub mod store;
mod tree;

pub use connection::Behaviour;
pub use console::Xenconsoled;
pub use machine::{CONSOLE_PORT, GUEST, Machine, STORE_PORT};
pub use store::Xenstored;
