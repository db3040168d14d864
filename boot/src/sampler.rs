//! A record every so often of what this guest's memory and its application are doing.

use alloc::boxed::Box;
use core::fmt::Display;
use ebb::task::{Next, Worker};
use ebb::units::Frames;
use ebb_boot::{Kernel, Machine, elastic, report, swap};
use workload::Progress;

/// Milliseconds between two samples, unless the command line says otherwise.
pub(crate) const PERIOD_MS: u64 = 500;

/// What the application says of itself. Of no application, nothing.
pub(crate) static PROGRESS: Progress = Progress::new();

/// Begins, and goes on for ever.
pub(crate) fn start(machine: &'static Machine, period_ms: u64) {
    let period_ns = period_ms * 1_000_000;
    let mut due_ns = machine.cpus().now_ns();
    let boot_ns = machine.domain().map_or(0, ebb_boot::Domain::boot_ns);
    let sample = move || {
        tell(machine, boot_ns);
        let now_ns = machine.cpus().now_ns();
        // On the grid of the first: samples that come late do not put off the ones after them.
        due_ns += (now_ns.saturating_sub(due_ns) / period_ns + 1) * period_ns;
        Next::After(due_ns.saturating_sub(now_ns))
    };
    match Worker::spawn(Kernel, "samples", sample) {
        Ok(worker) => {
            worker.run_now();
            // It lives as long as the machine.
            Box::leak(Box::new(worker));
        }
        Err(error) => log::error!("there are no samples: {error}"),
    }
}

/// What every record has, and what comes on top where there is swap.
const FIELDS: usize = 12;
const SWAP_FIELDS: usize = 8;

/// Writes one record.
fn tell(machine: &Machine, boot_ns: u64) {
    let figures = elastic::figures(machine);
    let swap = swap_fields(machine);
    let at_ns = machine.cpus().now_ns().saturating_sub(boot_ns);
    let application = PROGRESS.snapshot();
    let guest: [(&str, &dyn Display); FIELDS] = [
        ("t_ms", &(at_ns / 1_000_000)),
        ("committed_kib", &kib(figures.committed)),
        ("reservation_kib", &kib(figures.reservation)),
        ("target_kib", &kib(figures.target)),
        ("free_kib", &kib(figures.free)),
        ("resident_kib", &kib(figures.resident)),
        ("swapped_kib", &kib(figures.swapped)),
        ("work", &application.work),
        ("errors", &application.errors),
        ("phase", &application.phase.word()),
        ("live_kib", &application.live_kib),
        ("refused", &application.refused),
    ];
    let swap = swap.iter().flatten().flatten().map(|(name, value)| (*name, value as &dyn Display));
    // No memory is taken for this: it is told when there is least of it, too.
    let mut fields: [(&str, &dyn Display); FIELDS + SWAP_FIELDS] = [("", &""); FIELDS + SWAP_FIELDS];
    let mut count = 0;
    for (place, field) in fields.iter_mut().zip(guest.into_iter().chain(swap)) {
        *place = field;
        count += 1;
    }
    report("sample", &fields[..count]);
}

/// What swap holds, and what has come and gone since boot; `None` where there is no swap. Each is read for itself, and
/// pages may move between two readings: their sum is not quite what is out.
fn swap_fields(machine: &Machine) -> Option<[Option<(&'static str, u64)>; SWAP_FIELDS]> {
    let swap = swap::figures()?;
    let paged = machine.paged().stats();
    let pages = |count| kib(Frames::new(count));
    Some([
        Some(("same_kib", pages(swap.same))),
        Some(("pool_kib", pages(swap.pool.stored))),
        Some(("pool_frames_kib", kib(swap.pool.frames()))),
        swap.tmem.map(|count| ("tmem_kib", pages(count))),
        Some(("swap_outs", paged.swap_outs)),
        Some(("swap_ins", paged.swap_ins)),
        Some(("swap_home", swap.home)),
        Some(("stalled", paged.shortages)),
    ])
}

fn kib(frames: Frames) -> u64 {
    frames.to_kib().get()
}
