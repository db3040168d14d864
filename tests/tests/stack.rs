//! The whole stack behind paged memory, on the model hypervisor: faults, reclaim, swap slots, frontswap over same-filled
//! pages, the hypervisor's tmem and the compressed pool, the balloon and the daemon that decides, with an application
//! that checks every page it reads. Hours of a guest's life in seconds; one seed, one run.
//!
//! | file | what lives there |
//! |---|---|
//! | `soft.rs` | a processor: page tables in the model's RAM, and translations that are forgotten only when told |
//! | `mangle.rs` | tmem between the guest and Xen that answers what it likes |
//! | `world.rs` | the guest, put together as the image does |
//! | `application.rs` | pages with contents that can be told, and a file behind cleancache |
//! | `day.rs` | 24 hours with everything that goes wrong |
//! | `bad.rs` | one bad input at a time |
//! | `load.rs` | the tier given up and taken up again while others use it |
#![expect(clippy::expect_used, reason = "a test")]

#[path = "stack/application.rs"]
mod application;
#[path = "stack/bad.rs"]
mod bad;
#[path = "stack/day.rs"]
mod day;
#[path = "balloon/guest.rs"]
#[expect(dead_code, reason = "the tests of the balloon use more of it")]
mod guest;
#[path = "stack/load.rs"]
mod load;
#[path = "stack/mangle.rs"]
mod mangle;
#[path = "stack/soft.rs"]
mod soft;
#[path = "stack/world.rs"]
mod world;
