//! Transcendent memory on the model hypervisor: the front ends over the real client and the real marshalling, the
//! statements about several vCPUs, figures that were measured on Xen 4.12, and long random runs.
//!
//! The statements that one vCPU can check are in the conformance suite; `service` runs those again on a service without
//! Xen's defects.
#![expect(clippy::expect_used, reason = "a test")]

#[path = "tmem/client.rs"]
mod client;
#[path = "tmem/figures.rs"]
mod figures;
#[path = "tmem/front.rs"]
mod front;
#[path = "tmem/liar.rs"]
mod liar;
#[path = "tmem/random.rs"]
mod random;
#[path = "tmem/rig.rs"]
mod rig;
#[path = "tmem/service.rs"]
mod service;
#[path = "tmem/threads.rs"]
mod threads;
#[path = "tmem/tiers.rs"]
mod tiers;
