//! The image: Ebb with its built-in workloads. So far there is one: say what was found, then wait for the
//! toolstack's wish to stop.
#![no_std]
#![no_main]

extern crate alloc;

mod found;

use ebb::port::Clock;
use ebb::xen::shutdown::{Command, Shutdown};
use ebb::xen::store::StoreError;
use ebb_boot::{Domain, Machine, Outcome};

ebb_boot::entry!(main);

/// How long one wait for the store is, at most; the end of a wait means nothing.
const WAIT_NS: u64 = 60_000_000_000;

fn main(machine: &'static Machine) -> Outcome {
    found::tell(machine);
    let Some(domain) = machine.domain() else {
        return Outcome::Success;
    };
    match obey(domain) {
        Ok(Command::Reboot) => Outcome::Reboot,
        Ok(Command::Poweroff | Command::Halt) => Outcome::Success,
        Err(error) => {
            log::error!("xenstore: {error}: nobody can tell this domain to stop, so it does");
            Outcome::Failure
        }
    }
}

/// Waits for the toolstack's command.
fn obey(domain: &Domain) -> Result<Command, StoreError> {
    let mut store = domain.store().ok_or(StoreError::Absent)?.lock();
    let mut shutdown = loop {
        match patiently(Shutdown::start(&mut store))? {
            Some(shutdown) => break shutdown,
            None => continue,
        }
    };
    ebb_boot::report("ready", &[]);
    loop {
        let deadline_ns = domain.clock().now_ns() + WAIT_NS;
        let Some(event) = store.wait_event(deadline_ns)? else { continue };
        if let Some(Some(command)) = patiently(shutdown.on_event(&mut store, &event))? {
            return Ok(command);
        }
    }
}

/// A store that is slow is asked again, for ever: `None`.
fn patiently<R>(result: Result<R, StoreError>) -> Result<Option<R>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Timeout) => {
            log::warn!("xenstore does not answer; asking again");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
