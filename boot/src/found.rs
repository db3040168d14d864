//! What the machine looks like from inside, for a person and, as records, for the harness.

use alloc::string::String;
use ebb::boot_info::MAX_ENTRIES;
use ebb::port::{Clock, MapEntry, MemoryKind, MemoryOps, VcpuOps, VersionOps};
use ebb::units::{FRAME_SIZE, VcpuId};
use ebb::utc::Utc;
use ebb_boot::{Domain, Machine, report};
use xen_abi::Errno;

/// A bound for the search for vCPUs: Xen gives an HVM guest no more.
const MAX_VCPUS: u32 = 512;

/// Tells it.
pub(crate) fn tell(machine: &Machine) {
    let info = machine.boot_info();
    log::info!("command line: {:?}", info.command_line());
    let mut entries = [MapEntry { start: 0, size: 0, kind: MemoryKind::Ram }; MAX_ENTRIES];
    match machine.domain().map(|domain| domain.xen().memory_map(&mut entries)) {
        Some(Ok(count)) => entries[..count].iter().for_each(tell_range),
        // Not on Xen, or Xen has no map: what the loader said, as far as it is RAM.
        Some(Err(_)) | None => {
            for range in info.ram().ranges() {
                let start = range.start().start().get();
                let size = range.count().get() * FRAME_SIZE as u64;
                tell_range(&MapEntry { start, size, kind: MemoryKind::Ram });
            }
        }
    }
    for module in info.modules() {
        log::info!("module {module:?}");
    }
    let Some(domain) = machine.domain() else {
        log::info!("nothing more to see without Xen");
        report("found", &[("xen", &"none"), ("ram_kib", &info.ram().frames().to_kib().get())]);
        return;
    };
    if let Err(error) = tell_domain(machine, domain) {
        log::error!("Xen does not say what it is: {error}");
    }
}

fn tell_range(entry: &MapEntry) {
    let end = entry.start.saturating_add(entry.size);
    log::info!("memory {:#012x}..{end:#012x}: {} KiB, {:?}", entry.start, entry.size / 1024, entry.kind);
}

fn tell_domain(machine: &Machine, domain: &Domain) -> Result<(), Errno> {
    let xen = domain.xen();
    let (major, minor) = xen.version()?;
    let mut buffer = [0; 16];
    let extra = String::from_utf8_lossy(xen.extra_version(&mut buffer)?).into_owned();
    log::info!("Xen version {major}.{minor}{extra}");

    let (vcpus, up) = count_vcpus(domain);
    log::info!("{vcpus} vCPUs, {up} up");
    let current = xen.current_reservation()?;
    let maximum = xen.maximum_reservation()?;
    log::info!("reservation: {current} ({}) now, {maximum} ({}) at most", current.to_kib(), maximum.to_kib());

    let (uptime_ns, now_ns) = (domain.clock().now_ns(), domain.wall_clock_ns());
    let seconds = now_ns / 1_000_000_000;
    log::info!("{} by the host, {uptime_ns} ns since Xen started", Utc::from_unix_s(seconds));

    let domid = match read_store(domain, "domid") {
        Ok(domid) => domid,
        Err(error) => {
            log::warn!("xenstore: {error}");
            String::from("?")
        }
    };
    let name = read_store(domain, "name").unwrap_or_else(|_| String::from("?"));
    log::info!("domain {domid} \"{name}\"");
    report(
        "found",
        &[
            ("xen", &format_args!("{major}.{minor}{extra}")),
            ("domid", &domid),
            ("vcpus", &vcpus),
            ("ram_kib", &machine.boot_info().ram().frames().to_kib().get()),
            ("reservation_kib", &current.to_kib().get()),
            ("maximum_kib", &maximum.to_kib().get()),
            ("unix_s", &seconds),
        ],
    );
    Ok(())
}

fn read_store(domain: &Domain, path: &str) -> Result<String, ebb::xen::store::StoreError> {
    domain.store_service().ok_or(ebb::xen::store::StoreError::Absent)?.read_text(path)
}

/// vCPUs that exist, and those that run.
fn count_vcpus(domain: &Domain) -> (u32, u32) {
    let mut up = 0;
    for number in 0..MAX_VCPUS {
        match domain.xen().is_up(VcpuId::new(number)) {
            Ok(true) => up += 1,
            Ok(false) => {}
            Err(_) => return (number, up),
        }
    }
    (MAX_VCPUS, up)
}
