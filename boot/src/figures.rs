//! What the shell's `stats` shows.

use core::fmt::{self, Write};
use ebb::port::{Clock, MemoryOps};
use ebb::shell::Stats;
use ebb::units::Frames;
use ebb_boot::{Domain, Machine};

/// The figures of a domU: a name and a number a line, with the unit in the name.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) machine: &'static Machine,
    pub(crate) domain: &'static Domain,
}

impl Stats for Figures {
    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        let uptime_ns = self.domain.clock().now_ns().saturating_sub(self.domain.boot_ns());
        writeln!(out, "uptime_ms {}", uptime_ns / 1_000_000)?;
        let xen = self.domain.xen();
        for (name, frames) in
            [("reservation_kib", xen.current_reservation()), ("maximum_kib", xen.maximum_reservation())]
        {
            match frames {
                Ok(frames) => writeln!(out, "{name} {}", frames.to_kib().get())?,
                Err(error) => writeln!(out, "{name} ? {error}")?,
            }
        }
        let stats = self.machine.frames().stats();
        for (name, frames) in [
            ("managed_kib", stats.managed),
            ("free_kib", stats.available()),
            ("known_zero_kib", stats.known_zero),
            ("pinned_kib", stats.pinned),
            ("movable_kib", stats.movable),
            ("ballooned_kib", stats.ballooned),
        ] {
            writeln!(out, "{name} {}", frames.to_kib().get())?;
        }
        // A guest that has no swap shows none.
        if let Some(swap) = ebb_boot::swap::figures() {
            let paged = self.machine.paged().stats();
            let pages = |count| Frames::new(count).to_kib().get();
            writeln!(out, "swapped_kib {}", paged.swapped.to_kib().get())?;
            writeln!(out, "same_kib {}\npool_kib {}", pages(swap.same), pages(swap.pool.stored))?;
            writeln!(out, "pool_frames_kib {}", swap.pool.frames().to_kib().get())?;
            if let Some(tmem) = swap.tmem {
                writeln!(out, "tmem_kib {}", pages(tmem))?;
            }
            writeln!(out, "swap_outs {}\nswap_ins {}", paged.swap_outs, paged.swap_ins)?;
            writeln!(out, "swap_home {}\nstalled {}", swap.home, paged.shortages)?;
        }
        let (used, backed) = ebb_boot::heap::usage();
        writeln!(out, "heap_used_bytes {used}\nheap_backed_bytes {backed}")?;
        writeln!(out, "cpus {}", self.machine.cpus().count())
    }
}
