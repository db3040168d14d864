//! Several CPUs: what they tell each other, and how one waits for another.
//!
//! Every CPU has a word of [`Messages`] that others post to before they ring its doorbell (an event channel under
//! Xen, an interrupt of the local APIC without), a [`Mailbox`] for functions to run, and a part in the one
//! [`Shootdown`] that withdraws translations everywhere. These are plain values, without a processor under them, so
//! that threads of the host test them; `boot` owns the doorbells.
//!
//! Nothing here waits without a bound: whoever waits brings a function that is called for every round and answers
//! `false` when it has been long enough.

mod mailbox;
mod message;
mod primitive;
mod set;
mod shootdown;

pub use mailbox::{CallError, Job, Mailbox, Posted};
pub use message::{Message, MessageSet, Messages};
pub use percpu::{CpuId, MAX_CPUS};
pub use set::{CpuSet, SharedCpuSet};
pub use shootdown::{Flush, Shootdown, Tlb, Unanswered};
