//! An application: it takes memory, checks what it stored there, and lets go of it, a few times over. The guest's memory
//! follows without a word about balloons here.
#![no_std]
#![no_main]

use allocator_api2::collections::TryReserveError;
use allocator_api2::vec::Vec;
use ebb::cmdline::{self, BASE, Item, Kind, Opt, Value};
use ebb::xen::shutdown::Command;
use ebb_boot::paged::AppAlloc;
use ebb_boot::store_service::ShutdownRequests;
use ebb_boot::{Domain, Machine, Outcome, elastic, report, threads, tunables};

ebb_boot::entry!(main, OPTIONS);

/// What the command line may say to this application.
static OPTIONS: &[Opt] = &[
    Opt { name: "app.mib", kind: Kind::Integer { min: 1, max: 1 << 20 }, help: "how much it takes, MiB" },
    Opt { name: "app.rounds", kind: Kind::Integer { min: 1, max: 1 << 20 }, help: "how often" },
    Opt { name: "app.pause_s", kind: Kind::Integer { min: 0, max: 3600 }, help: "seconds before each step" },
];

/// Words in one MiB.
const WORDS: usize = (1 << 20) / size_of::<u64>();
const SECOND_NS: u64 = 1_000_000_000;

/// A vector in paged memory, which the balloon can follow. `alloc::vec::Vec` is in the kernel's heap.
type Paged<T> = Vec<T, AppAlloc>;

fn main(machine: &'static Machine) -> Outcome {
    let (mut mib, mut rounds, mut pause_s) = (128, 2, 10);
    cmdline::parse(machine.boot_info().command_line(), &[BASE, OPTIONS], |item| match item {
        Item::Option(Opt { name: "app.mib", .. }, Value::Integer(number)) => mib = number,
        Item::Option(Opt { name: "app.rounds", .. }, Value::Integer(number)) => rounds = number,
        Item::Option(Opt { name: "app.pause_s", .. }, Value::Integer(number)) => pause_s = number,
        _ => {}
    });
    // Without Xen there is no toolstack, and no domain.
    let toolstack = machine.domain().and_then(obey);
    for round in 1..=rounds {
        if let Some(command) = pause(machine, toolstack.as_ref(), pause_s) {
            return ended_by(command);
        }
        let data = match take(machine, mib) {
            Ok(data) => data,
            Err(refused) => {
                log::error!("round {round}: no {mib} MiB: {refused}");
                return Outcome::Failure;
            }
        };
        log::info!("round {round}: {mib} MiB taken");
        let command = pause(machine, toolstack.as_ref(), pause_s);
        if !is_whole(&data) {
            log::error!("round {round}: a word is not what was stored");
            return Outcome::Failure;
        }
        drop(data);
        log::info!("round {round}: checked, and given back");
        if let Some(command) = command {
            return ended_by(command);
        }
    }
    Outcome::Success
}

/// Takes `mib` MiB, a vector for each. Memory that this guest cannot have is refused by `try_reserve`, as a value; no
/// touch finds that out later.
fn take(machine: &Machine, mib: u64) -> Result<Paged<Paged<u64>>, TryReserveError> {
    let mut data = Vec::new_in(machine.paged_alloc());
    for number in 0..mib {
        let mut words = Vec::new_in(machine.paged_alloc());
        words.try_reserve_exact(WORDS)?;
        words.extend((0..WORDS as u64).map(|word| stored(number, word)));
        data.try_reserve(1)?;
        data.push(words);
    }
    Ok(data)
}

/// The word that is stored as number `word` of vector `number`.
fn stored(number: u64, word: u64) -> u64 {
    (number << 32 | word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn is_whole(data: &[Paged<u64>]) -> bool {
    (0..)
        .zip(data)
        .all(|(number, words)| (0..).zip(words).all(|(word, found)| *found == stored(number, word)))
}

/// Has the toolstack's wishes come in: `xl shutdown` and `xl reboot`, and tunables that dom0 writes.
fn obey(domain: &'static Domain) -> Option<ShutdownRequests> {
    let service = domain.store_service()?;
    if let Err(error) = tunables::mirror_in(service) {
        log::error!("tunables are not in xenstore: {error}");
    }
    match service.shutdown_requests() {
        Ok(requests) => {
            if requests.wait_until_obeyed(u64::MAX) {
                report("ready", &[]); // for `cargo xtask run`, which counts from here
            }
            Some(requests)
        }
        Err(error) => {
            log::error!("nobody can tell this domain to stop: {error}");
            None
        }
    }
}

/// Waits, and says each second how memory is. Ends early with what the toolstack wishes.
fn pause(machine: &Machine, toolstack: Option<&ShutdownRequests>, seconds: u64) -> Option<Command> {
    for _ in 0..seconds {
        tell(machine);
        let next_ns = machine.cpus().now_ns() + SECOND_NS;
        match toolstack {
            Some(requests) => {
                if let Some(command) = requests.wait_until(next_ns) {
                    return Some(command);
                }
            }
            None => threads().sleep_until(next_ns),
        }
    }
    None
}

/// A record for the chart of `cargo xtask run`.
fn tell(machine: &Machine) {
    let figures = elastic::figures(machine);
    let since_boot_ns = machine.cpus().now_ns() - machine.domain().map_or(0, Domain::boot_ns);
    report(
        "sample",
        &[
            ("t_ms", &(since_boot_ns / 1_000_000)),
            ("reservation_kib", &figures.reservation.to_kib().get()),
            ("target_kib", &figures.target.to_kib().get()),
            ("committed_kib", &figures.committed.to_kib().get()),
        ],
    );
}

fn ended_by(command: Command) -> Outcome {
    match command {
        Command::Reboot => Outcome::Reboot,
        Command::Poweroff | Command::Halt => Outcome::Success,
    }
}
