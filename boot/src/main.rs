//! The image: Ebb with its built-in workloads.
#![no_std]
#![no_main]

use ebb_boot::{Machine, Outcome};

ebb_boot::entry!(main);

fn main(machine: &'static Machine) -> Outcome {
    log::info!("command line: {:?}", machine.boot_info().command_line());
    Outcome::Success
}
