//! The guest test image: many cases, one boot.
#![no_std]
#![no_main]

use ebb_boot::{Machine, Outcome, check, fault};

ebb_boot::entry!(main);

/// The faults on purpose, as the command line names them.
const FAULTS: [(&str, fn()); 8] = [
    ("null_read", fault::null_read),
    ("overflow_stack", fault::overflow_stack),
    ("panic", fault::panic),
    ("panic_in_epitaph", fault::panic_in_epitaph),
    ("invalid_opcode", fault::invalid_opcode),
    ("write_text", fault::write_text),
    ("write_text_alias", fault::write_text_alias),
    ("execute_data", fault::execute_data),
];

fn main(machine: &'static Machine) -> Outcome {
    let wanted = machine.boot_info().command_line().split(' ').find_map(|word| word.strip_prefix("fault="));
    if let Some(wanted) = wanted {
        match FAULTS.iter().find(|(name, _)| *name == wanted) {
            Some((_, fault)) => fault(),
            None => log::error!("no fault is called {wanted:?}"),
        }
        return Outcome::Failure;
    }
    let mut outcome = Outcome::Success;
    for (name, check) in check::CHECKS {
        match check(machine) {
            Ok(()) => log::info!("{name}: passed"),
            Err(why) => {
                log::error!("{name}: {why}");
                outcome = Outcome::Failure;
            }
        }
    }
    outcome
}
