//! The order in which the machine comes up.

use crate::{Machine, Outcome, end, output};

/// The first Rust code, on the boot stack and the bootstrap page tables.
pub(crate) extern "C" fn start(_start_info: u64) -> ! {
    end::set_platform(end::Platform::Bare);
    static SERIAL: spin::once::Once<output::Serial> = spin::once::Once::new();
    if let Some(serial) = output::Serial::probe() {
        output::attach(SERIAL.call_once(|| serial));
    }
    output::start_log(log::LevelFilter::Info);
    log::info!("ebb {}", env!("CARGO_PKG_VERSION"));
    static MACHINE: Machine = Machine {};
    let outcome: Outcome = crate::ebb_main(&MACHINE);
    end::exit(outcome)
}
