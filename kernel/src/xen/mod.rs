//! Xen: typed hypercalls over a raw transport, and the services that a domU builds from them.
//!
//! [`transport`] is the lower seam: registers in, register out. [`Xen`] marshals typed calls onto it and
//! implements the ports of [`crate::port`], which are the upper seam.

mod call;
pub mod clock;
pub mod console;
pub mod cpuid;
pub mod events;
pub mod shared;
pub mod shutdown;
pub mod store;
pub mod transport;
pub mod wait;

pub use shared::SharedPage;
pub use transport::Transport;

/// Typed hypercalls over a transport.
#[derive(Clone, Copy, Debug)]
pub struct Xen<T> {
    transport: T,
}

impl<T: Transport> Xen<T> {
    /// Typed calls over `transport`.
    pub const fn new(transport: T) -> Self {
        Self { transport }
    }

    /// The raw transport, for tests that make calls which no typed call can make.
    pub const fn transport(&self) -> &T {
        &self.transport
    }
}
