//! The image: everything between the loader and an application's main function.
//!
//! A binary is a main function and a macro:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! ebb_boot::entry!(main);
//!
//! fn main(machine: &'static ebb_boot::Machine) -> ebb_boot::Outcome {
//!     log::info!("hello");
//!     ebb_boot::Outcome::Success
//! }
//! ```
//!
//! and is linked by this package's `link.ld` (its path is the build metadata `script`). `boot/example` is a whole one,
//! and `docs/applications.md` explains it.
#![no_std]

extern crate alloc;

pub mod cases;
pub mod check;
mod clock;
pub mod cpus;
mod direct_map;
pub mod domain;
pub mod elastic;
mod end;
mod entry;
pub mod epitaph;
pub mod fault;
pub mod frames;
pub mod heap;
mod image;
mod machine;
mod memory;
mod options;
pub mod output;
pub mod paged;
pub mod platform;
pub mod reclaim;
mod relief;
pub mod shell;
mod space;
mod stacks;
mod start;
pub mod store_service;
pub mod swap;
pub mod tmem;
pub mod tunables;

pub use cpus::Cpus;
pub use domain::Domain;
pub use ebb::cmdline::Opt;
pub use end::{Outcome, exit};
pub use machine::{Machine, OnXen};
pub use output::report;
pub use platform::{Kernel, rcu, threads};
pub use stacks::{NamedStack, set_other_stacks};
pub use store_service::StoreService;
pub use tunables::tunables;

/// Names the function that runs once the machine is up, `fn(&'static Machine) -> Outcome`, and the options that
/// it understands on the kernel command line, a `&'static [Opt]`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        $crate::entry!($main, &[]);
    };
    ($main:path, $options:expr) => {
        #[expect(unsafe_code, reason = "the one symbol by which the boot crate finds the main function")]
        const _: () = {
            #[unsafe(no_mangle)]
            extern "Rust" fn ebb_main(machine: &'static $crate::Machine) -> $crate::Outcome {
                let main: fn(&'static $crate::Machine) -> $crate::Outcome = $main;
                main(machine)
            }

            #[unsafe(no_mangle)]
            extern "Rust" fn ebb_options() -> &'static [$crate::Opt] {
                $options
            }
        };
    };
}

#[expect(unsafe_code, reason = "the one symbol by which the boot crate finds the main function")]
mod main_function {
    use crate::{Machine, Opt, Outcome};

    unsafe extern "Rust" {
        /// Defined by [`entry!`](macro@crate::entry), whose types make it this function.
        pub(crate) safe fn ebb_main(machine: &'static Machine) -> Outcome;
        /// Defined with it.
        pub(crate) safe fn ebb_options() -> &'static [Opt];
    }
}
use main_function::{ebb_main, ebb_options};
