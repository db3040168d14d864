//! `summary.json`: what a run found. Figures that could not be taken are null.

use super::args::{Plan, Platform, Workload};
use super::listen::{Done, Listener};
use super::millis;
use crate::qemu;
use crate::view::figures::{self, Figures, Swapped};
use crate::view::timeline::Timeline;
use anyhow::{Context, Result};
use serde::Serialize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The outcome of a guest that ended in peace.
pub(super) const POWEROFF: &str = "poweroff";

/// Memory and work; of one guest, or of all at once.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Measured {
    /// The least memory that Xen said the guest had between its first word and its end; of several guests, the least
    /// that all had together while all of them ran.
    host_min_kib: Option<u64>,
    /// The most, at any time.
    pub(crate) host_max_kib: Option<u64>,
    /// The same, as the guest says.
    guest_min_kib: Option<u64>,
    guest_max_kib: Option<u64>,
    /// The guest's samples that could be compared with the host's.
    compared: Option<u64>,
    /// Those of them that differ by more than one step of the balloon.
    disagreements: Option<u64>,
    /// What the workload has done.
    pub(crate) work_total: Option<u64>,
    /// Values that were wrong when the workload read them back.
    pub(crate) verify_errors: Option<u64>,
    /// What went to swap and came back; null without swap.
    pub(crate) swap: Option<Swapped>,
}

/// One guest.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GuestSummary {
    pub(crate) name: String,
    cmdline: String,
    domid: Option<u32>,
    pub(crate) outcome: String,
    pub(crate) ok: bool,
    /// What went wrong, if the outcome does not say all.
    pub(crate) why: Option<String>,
    /// The workload's own word.
    pub(crate) workload_outcome: Option<String>,
    boot_ms: Option<u64>,
    shutdown_ms: Option<u64>,
    lifetime_ms: Option<u64>,
    #[serde(flatten)]
    pub(crate) measured: Measured,
    records: u64,
    damaged_records: u64,
}

/// The whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    on: Platform,
    pub(crate) accelerator: &'static str,
    /// `poweroff` and so on; `hung` if it did not stop when it should; `not started`; else what went wrong with the
    /// host. Of several guests, if they differ, each with its name.
    pub(crate) outcome: String,
    /// Whether all ended as they should, and no value was wrong.
    pub(crate) ok: bool,
    /// From the order to create it to the guest's first console line; of several, the longest.
    boot_ms: Option<u64>,
    /// From the request to shut down to the end; the longest.
    shutdown_ms: Option<u64>,
    /// From the order to create it to its end; the longest.
    lifetime_ms: Option<u64>,
    /// From power-on until dom0 obeyed.
    pub(super) dom0_ready_ms: Option<u64>,
    /// The whole run, without building the image.
    pub(super) total_ms: u64,
    pub(super) xen_version: Option<String>,
    #[serde(flatten)]
    pub(crate) measured: Measured,
    /// What the host had for guests, by its own books.
    pub(crate) host_for_guests_kib: Option<u64>,
    /// Memory of the whole machine.
    host_memory_mib: Option<u32>,
    memory_mib: u32,
    maxmem_mib: u32,
    vcpus: u32,
    workload: Workload,
    /// Fixed memory, without selfballooning.
    #[serde(rename = "static")]
    fixed: bool,
    sample_ms: u64,
    cmdline: String,
    image_bytes: u64,
    /// How many records the guests wrote.
    records: u64,
    pub(crate) guests: Vec<GuestSummary>,
    /// Why figures are missing, and the like.
    pub(crate) notes: Vec<String>,
    pub(super) logs: Vec<PathBuf>,
}

/// What became of a guest.
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) name: String,
    pub(super) cmdline: String,
    pub(super) domid: Option<u32>,
    pub(super) outcome: String,
    pub(super) why: Option<String>,
    pub(super) boot: Option<Duration>,
    pub(super) shutdown: Option<Duration>,
    pub(super) lifetime: Option<Duration>,
    /// From its first word to its end, in milliseconds of the timeline.
    pub(super) window: Option<RangeInclusive<u64>>,
    pub(super) done: Option<Done>,
    pub(super) records: u64,
    pub(super) damaged: u64,
    pub(super) logs: Vec<PathBuf>,
}

impl End {
    /// Takes what a listener noted.
    pub(super) fn heard(&mut self, listener: &Listener) {
        self.boot = listener.first;
        self.done.clone_from(&listener.done);
        self.records = listener.count;
        self.damaged = listener.damaged;
        self.logs.push(listener.path().to_path_buf());
    }
}

impl Summary {
    /// Before anything is known.
    ///
    /// # Errors
    ///
    /// If there is no image.
    pub(super) fn new(plan: &Plan, image: &Path) -> Result<Self> {
        let data = std::fs::metadata(image).with_context(|| format!("no image {}", image.display()))?;
        Ok(Self {
            on: plan.on,
            accelerator: qemu::Accelerator::detect_for_hypervisor().name(),
            outcome: String::new(),
            ok: false,
            boot_ms: None,
            shutdown_ms: None,
            lifetime_ms: None,
            dom0_ready_ms: None,
            total_ms: 0,
            xen_version: None,
            measured: Measured::default(),
            host_for_guests_kib: None,
            host_memory_mib: (plan.on == Platform::Xen).then_some(plan.host_memory_mib),
            memory_mib: plan.memory_mib,
            maxmem_mib: plan.maxmem_mib,
            vcpus: plan.vcpus,
            workload: plan.workload,
            fixed: plan.fixed,
            sample_ms: plan.sample_ms,
            cmdline: plan.guests.first().map(|guest| guest.cmdline(Duration::ZERO)).unwrap_or_default(),
            image_bytes: data.len(),
            records: 0,
            guests: Vec::new(),
            notes: Vec::new(),
            logs: Vec::new(),
        })
    }

    /// Adds what became of the guests.
    pub(super) fn add(&mut self, timeline: &Timeline, ends: &[End]) {
        for end in ends {
            let track = timeline.guests.iter().find(|track| track.name == end.name);
            let last = |value: fn(&crate::view::timeline::GuestSample) -> Option<u64>| {
                track.and_then(|track| track.samples.iter().rev().find_map(value))
            };
            let done = end.done.as_ref();
            let work = done.and_then(|done| done.work).or_else(|| last(|sample| sample.work));
            let errors = done.and_then(|done| done.errors).or_else(|| last(|sample| sample.errors));
            let figures = match (track, &end.window) {
                (Some(track), Some(window)) => figures::of(track, window),
                _ => Figures::default(),
            };
            self.guests.push(GuestSummary {
                name: end.name.clone(),
                cmdline: end.cmdline.clone(),
                domid: end.domid,
                outcome: end.outcome.clone(),
                ok: end.outcome == POWEROFF && errors.unwrap_or_default() == 0,
                why: end.why.clone(),
                workload_outcome: done.and_then(|done| done.outcome.clone()),
                boot_ms: end.boot.map(millis),
                shutdown_ms: end.shutdown.map(millis),
                lifetime_ms: end.lifetime.map(millis),
                measured: Measured::new(figures, work, errors),
                records: end.records,
                damaged_records: end.damaged,
            });
            self.logs.extend(end.logs.iter().cloned());
        }
        let windows: Vec<RangeInclusive<u64>> = ends.iter().filter_map(|end| end.window.clone()).collect();
        let figures = match (self.guests.as_slice(), timeline.guests.as_slice(), windows.as_slice()) {
            ([_], [track], [window]) => figures::of(track, window),
            _ => figures::of_all(timeline, &windows),
        };
        let sum = |value: fn(&Measured) -> Option<u64>| {
            self.guests.iter().filter_map(|guest| value(&guest.measured)).reduce(|sum, one| sum + one)
        };
        let most = |value: fn(&GuestSummary) -> Option<u64>| self.guests.iter().filter_map(value).max();
        self.measured = Measured::new(figures, sum(|m| m.work_total), sum(|m| m.verify_errors));
        self.host_for_guests_kib = timeline.capacity_kib();
        self.boot_ms = most(|guest| guest.boot_ms);
        self.shutdown_ms = most(|guest| guest.shutdown_ms);
        self.lifetime_ms = most(|guest| guest.lifetime_ms);
        self.records = self.guests.iter().map(|guest| guest.records).sum();
        self.ok = !self.guests.is_empty() && self.guests.iter().all(|guest| guest.ok);
        self.outcome = outcome(&self.guests);
    }

    /// Notes that the host failed.
    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        self.ok = false;
        self.outcome = format!("{error:#}");
    }

    /// The run in a few lines, for people.
    pub(super) fn told(&self, out: &Path) -> String {
        let mut lines = Vec::new();
        for guest in self.guests.iter().filter(|guest| !guest.ok) {
            let why = guest.why.as_deref().map(|why| format!(": {}", why.trim_end())).unwrap_or_default();
            lines.push(format!("{} did not end well ({}){why}", guest.name, guest.outcome));
        }
        let m = &self.measured;
        let all = if self.guests.len() > 1 { "the guests together" } else { "the guest" };
        match (m.host_min_kib, m.host_max_kib) {
            (Some(least), Some(most)) => {
                lines.push(format!("by the host's books {all} had {least} to {most} KiB"));
            }
            (None, Some(most)) => lines.push(format!("by the host's books {all} had at most {most} KiB")),
            (_, None) => {}
        }
        if let (Some(compared), Some(disagreements)) = (m.compared, m.disagreements) {
            lines.push(format!("guest and host disagree in {disagreements} of {compared} samples"));
        }
        if let (Some(work), Some(errors)) = (m.work_total, m.verify_errors) {
            lines.push(format!("work done: {work}, wrong values: {errors}"));
        }
        if let Some(swap) = m.swap.filter(|swap| swap.most_kib > 0) {
            let Swapped { most_kib, last_kib, .. } = swap;
            let taken = swap.frames_most_kib.map(|kib| format!(", in {kib} KiB of the pool's"));
            let taken = taken.unwrap_or_default();
            lines.push(format!("swapped at the most: {most_kib} KiB{taken}; at the end: {last_kib} KiB"));
        }
        lines.extend(self.notes.iter().cloned());
        let emulated = if self.accelerator.starts_with("tcg") {
            "; times are QEMU's emulation's, good to compare only"
        } else {
            ""
        };
        lines.push(format!("{}; everything is in {}{emulated}", self.outcome, out.display()));
        lines.iter().map(|line| format!("run: {line}")).collect::<Vec<_>>().join("\n")
    }
}

impl Measured {
    fn new(figures: Figures, work_total: Option<u64>, verify_errors: Option<u64>) -> Self {
        let Figures {
            host_min_kib,
            host_max_kib,
            guest_min_kib,
            guest_max_kib,
            compared,
            disagreements,
            swap,
        } = figures;
        Self {
            host_min_kib,
            host_max_kib,
            guest_min_kib,
            guest_max_kib,
            compared,
            disagreements,
            work_total,
            verify_errors,
            swap,
        }
    }
}

/// The outcome of all: one word if they agree.
fn outcome(guests: &[GuestSummary]) -> String {
    match guests {
        [] => "nothing ran".to_owned(),
        [first, rest @ ..] if rest.iter().all(|guest| guest.outcome == first.outcome) => {
            first.outcome.clone()
        }
        all => {
            let each: Vec<String> =
                all.iter().map(|guest| format!("{}: {}", guest.name, guest.outcome)).collect();
            each.join(", ")
        }
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
