//! Transcendent memory: the 130 statements about it, by number, as far as one vCPU can check them.
//!
//! Statements 113 to 118 are about several vCPUs and 121 to 130 about front ends; they are tests on the host. The
//! others are cases for the model and for a guest on whatever Xen is underneath. Where tmem is absent, all but the first
//! are skipped; where there is no [`Lab`], those that need other domains or the toolstack. What only Xen 4.12 does, and
//! a service in its place must do otherwise, is decided by [`Lab::has_defects`].
//!
//! Source of the statements: Xen 4.12 `xen/common/tmem.c`, `tmem_control.c`, `xen/include/public/tmem.h`, and runs on
//! that hypervisor.

mod actor;
mod control;
mod dispatch;
mod ephemeral;
mod lab;
mod persistent;
mod room;
mod shared;

pub use lab::{Answer, Control, Fault, Lab};

pub(super) use control::*;
pub(super) use dispatch::*;
pub(super) use ephemeral::*;
pub(super) use persistent::*;
pub(super) use room::*;
pub(super) use shared::*;
