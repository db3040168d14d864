//! Ebb, the memory-elastic library kernel.
//!
//! A guest built on this crate boots as a Xen PVH domU and holds only the RAM that its application uses. The
//! modules, lowest first; an arrow may only point up the list:
//!
//! | module | what lives there |
//! |---|---|
//! | [`units`] | frames, addresses, sizes and identifiers as types |
//! | [`utc`] | moments as people write them |
//! | [`port`] | what the kernel needs from a hypervisor, as small traits |
//! | [`report`] | machine-readable records on the console |
//! | [`cmdline`] | the kernel command line: options with types, bad ones reported |
//! | [`boot_info`] | what the loader says, checked and copied out |
//! | [`symbols`] | function names by address, for the epitaph |
//! | [`smp`] | several CPUs: messages, calls, TLB shootdown |
//! | [`arch`] | x86-64: page tables, traps, address layout |
//! | [`mm`] | page frames, the kernel heap, and paged memory for the application |
//! | [`balloon`] | memory that the guest does not need goes back to the hypervisor, and returns |
//! | [`daemon`] | the worker: observe, decide, move |
//! | [`swap`] | where pages go that are not in memory: slots, and the guest's own tiers |
//! | [`task`] | threads: scheduling, sleep, and what they wait for one another with |
//! | [`shell`] | the shell on the console |
//! | [`tmem`] | transcendent memory: the client, frontswap, cleancache |
//! | [`tunable`] | what an operator may set: one table, values, xenstore |
//! | [`xen`] | those traits over real hypercalls; events, clock, console, xenstore |
//!
//! Everything but `arch` and the hypercall instruction builds and is tested on the host.
#![no_std]

extern crate alloc;
#[cfg(any(test, not(target_os = "none")))]
extern crate std;

pub mod arch;
pub mod balloon;
pub mod boot_info;
pub mod cmdline;
pub mod daemon;
pub mod mm;
pub mod port;
pub mod report;
pub mod shell;
pub mod smp;
pub mod swap;
pub mod symbols;
pub mod task;
pub mod tmem;
pub mod tunable;
pub mod units;
pub mod utc;
pub mod xen;
