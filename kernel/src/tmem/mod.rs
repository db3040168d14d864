//! Transcendent memory and the front ends that were made for it.
//!
//! | file | what lives there |
//! |---|---|
//! | `client.rs` | is there tmem? The one place that asks |
//! | `answer.rs` | what the hypervisor's numbers mean for the data |
//! | `pool.rs` | a pool that can be torn down under load |
//! | [`tier`] | a place for evicted pages, as a trait |
//! | [`frontswap`] | the front end for swap: which slot is in which tier |
//! | [`cleancache`] | the front end for clean pages of files |
//!
//! Xen served tmem from 4.0 to 4.12. On every later one the probe says so, nothing here fails, and the other tiers do
//! the work.

mod answer;
pub mod cleancache;
mod client;
pub mod frontswap;
mod pool;
mod primitive;
pub mod tier;

pub use answer::{Flush, Get, Put, Refused};
pub use client::{Absent, Tmem};
pub use pool::{Open, Pool, PoolError, Quiet};
