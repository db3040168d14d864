//! The image: Ebb with its built-in workloads. So far there is one: say what was found, then wait for the
//! toolstack's wish to stop.
#![no_std]
#![no_main]

extern crate alloc;

mod found;

use ebb::xen::shutdown::Command;
use ebb_boot::{Domain, Machine, Outcome};

ebb_boot::entry!(main);

fn main(machine: &'static Machine) -> Outcome {
    found::tell(machine);
    let Some(domain) = machine.domain() else {
        return Outcome::Success;
    };
    match obey(domain) {
        Ok(Command::Reboot) => Outcome::Reboot,
        Ok(Command::Poweroff | Command::Halt) => Outcome::Success,
        Err(why) => {
            log::error!("{why}: nobody can tell this domain to stop, so it does");
            Outcome::Failure
        }
    }
}

/// Waits for the toolstack's command. A store that is slow, or goes away, is waited for.
fn obey(domain: &'static Domain) -> Result<Command, &'static str> {
    let service = domain.store_service().ok_or("there is no xenstore")?;
    let requests =
        service.shutdown_requests().map_err(|_| "there is no memory for the thread that serves xenstore")?;
    if requests.wait_until_obeyed(u64::MAX) {
        ebb_boot::report("ready", &[]);
    }
    requests.wait_until(u64::MAX).ok_or("the wait for a command ended without one")
}
