//! The image: Ebb with its built-in workloads.
#![no_std]
#![no_main]

use ebb_boot::{Machine, Outcome};

ebb_boot::entry!(main);

fn main(_machine: &'static Machine) -> Outcome {
    Outcome::Success
}
