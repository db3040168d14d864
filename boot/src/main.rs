//! The image: Ebb with its built-in workloads. It says what was found, runs the application that the command line
//! names, tells samples of memory and work, and stops when the application has ended or the toolstack wishes.
#![no_std]
#![no_main]

extern crate alloc;

mod application;
mod figures;
mod found;
mod sampler;

use alloc::sync::Arc;
use application::{Application, Wish};
use core::sync::atomic::{AtomicBool, Ordering};
use ebb::xen::shutdown::Command;
use ebb_boot::platform::WaitQueue;
use ebb_boot::store_service::ShutdownRequests;
use ebb_boot::{Domain, Kernel, Machine, Outcome};

ebb_boot::entry!(main, application::OPTIONS);

fn main(machine: &'static Machine) -> Outcome {
    found::tell(machine);
    let wish = Wish::read(machine.boot_info().command_line());
    let toolstack = match machine.domain().map(|domain| listen(machine, domain)).transpose() {
        Ok(toolstack) => toolstack,
        Err(why) => {
            log::error!("{why}: nobody can tell this domain to stop, so it does");
            return Outcome::Failure;
        }
    };
    sampler::start(machine, wish.sample_ms);
    let end = Arc::new(End { ended: AtomicBool::new(false), waiters: WaitQueue::new(Kernel) });
    let tell = Arc::clone(&end);
    let application = match Application::start(machine, &wish, move || tell.tell()) {
        Ok(application) => application,
        Err(why) => {
            log::error!("there is no application: {why}");
            return Outcome::Failure;
        }
    };
    if application.is_some() {
        // Whatever the toolstack wishes ends the wait for the application, too.
        end.wait(machine, toolstack.as_ref());
    }
    let well = application.is_none_or(Application::finish);
    let command = match toolstack {
        _ if end.has_come() => None,
        // Without an application the guest is there until somebody has it stop.
        Some(requests) => requests.wait_until(u64::MAX),
        None => None,
    };
    match command {
        Some(Command::Reboot) => Outcome::Reboot,
        Some(Command::Poweroff | Command::Halt) | None if well => Outcome::Success,
        Some(Command::Poweroff | Command::Halt) | None => Outcome::Failure,
    }
}

/// The end of the application.
struct End {
    ended: AtomicBool,
    waiters: WaitQueue,
}

impl End {
    fn tell(&self) {
        self.ended.store(true, Ordering::Release);
        self.waiters.wake_all();
    }

    fn has_come(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until the application has ended, or the toolstack wishes something.
    fn wait(&self, machine: &Machine, toolstack: Option<&ShutdownRequests>) {
        const LOOK_NS: u64 = 200_000_000;
        loop {
            let wished = toolstack.is_some_and(|requests| requests.command().is_some());
            if wished || self.has_come() {
                return;
            }
            let deadline_ns = machine.cpus().now_ns().saturating_add(LOOK_NS);
            // Whether it has ended or the time is over, the next round finds out.
            let _ = self.waiters.wait_until_deadline(deadline_ns, || self.has_come());
        }
    }
}

/// Has the toolstack obeyed from now on, and the operator heard. A store that is slow, or goes away, is waited for.
fn listen(machine: &'static Machine, domain: &'static Domain) -> Result<ShutdownRequests, &'static str> {
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
    Ok(requests)
}
