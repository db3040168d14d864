//! One guest on bare QEMU: no hypervisor, and nobody who knows its memory but itself.

use super::args::Plan;
use super::listen::{Heard, Listener};
use super::summary::{End, POWEROFF, Summary};
use super::{Found, READY_BOUND, millis};
use crate::bare::{BareConfig, BareEnding, BareGuest};
use crate::console::Event;
use crate::view::live::View;
use crate::view::record::Recorder;
use crate::{interrupt, setup};
use anyhow::{Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs the guest to its end.
///
/// # Errors
///
/// If QEMU fails. A guest that fails is no error; it has an end.
pub(super) fn run(
    plan: &Plan,
    image: &Path,
    out: &Path,
    view: &mut View,
    summary: &mut Summary,
) -> Result<Found> {
    ensure!(plan.module.is_none(), "a boot module needs Xen");
    setup::ensure_qemu()?;
    let mut end = End::default();
    let mut patience = Duration::ZERO;
    for guest in &plan.guests {
        patience = guest.patience;
        end.name.clone_from(&guest.name);
        end.cmdline = guest.cmdline(Duration::ZERO);
    }
    let epoch = Instant::now();
    let mut guest = BareGuest::start(&BareConfig {
        out: out.to_path_buf(),
        name: end.name.clone(),
        kernel: image.to_path_buf(),
        cmdline: end.cmdline.clone(),
        memory_mib: plan.maxmem_mib,
        vcpus: plan.vcpus,
    })?;
    let _registration = interrupt::on(guest.interrupter());
    end.logs.push(guest.log().to_path_buf());
    let mut recorder = Recorder::new(epoch, [end.name.clone()]);
    let mut listener = Listener::new(out, "records.log", Duration::ZERO)?;
    let deadline = Instant::now() + READY_BOUND + patience;
    let ending = loop {
        match guest.next(deadline.min(Instant::now() + view.patience()))? {
            Event::Line(line) => match listener.hear(&line)? {
                Heard::Text(text) => view.text(text),
                Heard::Record(record) => recorder.guest(0, epoch + line.at, &record),
                Heard::Damaged(why) => view.note(&why),
            },
            Event::Ended(ending) => break Some(ending),
            Event::Interrupted => break None,
            Event::Deadline if Instant::now() >= deadline => break None,
            Event::Deadline => {}
        }
        view.update(&recorder);
    };
    end.lifetime = guest.ended_at();
    end.heard(&listener);
    let ended = guest.ended_at().unwrap_or_else(|| epoch.elapsed());
    end.window = listener.first.map(|first| millis(first)..=millis(ended));
    end.outcome = match ending {
        Some(BareEnding::Success) => POWEROFF.into(),
        Some(BareEnding::Failure(code)) => format!("failure {code:#x}"),
        Some(BareEnding::Silent(what)) => what,
        None => "hung".into(),
    };
    summary.notes.push("on bare QEMU nobody but the guest knows its memory".to_owned());
    Ok(Found { recorder, ends: vec![end] })
}
