//! The image: Ebb with its built-in workloads. So far there is one: say what was found, then wait for the
//! toolstack's wish to stop.
#![no_std]
#![no_main]

extern crate alloc;

mod figures;
mod found;

use ebb::xen::shutdown::Command;
use ebb_boot::{Domain, Machine, Outcome};

ebb_boot::entry!(main);

fn main(machine: &'static Machine) -> Outcome {
    found::tell(machine);
    let Some(domain) = machine.domain() else {
        return Outcome::Success;
    };
    match obey(machine, domain) {
        Ok(Command::Reboot) => Outcome::Reboot,
        Ok(Command::Poweroff | Command::Halt) => Outcome::Success,
        Err(why) => {
            log::error!("{why}: nobody can tell this domain to stop, so it does");
            Outcome::Failure
        }
    }
}

/// Waits for the toolstack's command. A store that is slow, or goes away, is waited for.
fn obey(machine: &'static Machine, domain: &'static Domain) -> Result<Command, &'static str> {
    let service = domain.store_service().ok_or("there is no xenstore")?;
    let requests =
        service.shutdown_requests().map_err(|_| "there is no memory for the thread that serves xenstore")?;
    // Neither is worth stopping for.
    if let Err(error) = ebb_boot::tunables::mirror_in(service) {
        log::error!("tunables are not in xenstore: {error}");
    }
    if let Err(error) = ebb_boot::shell::start(domain, figures::Figures { machine, domain }) {
        log::error!("there is no shell: {error}");
    }
    if requests.wait_until_obeyed(u64::MAX) {
        ebb_boot::report("ready", &[]);
    }
    requests.wait_until(u64::MAX).ok_or("the wait for a command ended without one")
}
