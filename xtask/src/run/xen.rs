//! Guests on real Xen. Each has a thread that attends to it; one starts them, one after the other; and one, the
//! command's own, shows what they and the host's memory do.

use super::args::Plan;
use super::listen::{Heard, Listener};
use super::summary::{End, Summary};
use super::{Found, READY_BOUND, millis};
use crate::console::Event;
use crate::view::live::View;
use crate::view::record::Recorder;
use crate::xen::{Ending, Guest, GuestConfig, HostConfig, Look, Session};
use crate::{interrupt, setup};
use anyhow::{Context, Result};
use ebb::report::Record;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// How long a guest may take to stop when asked.
const STOP_BOUND: Duration = Duration::from_secs(60);
/// How long a look at a guest that failed may take.
const LOOK_BOUND: Duration = Duration::from_secs(60);
/// The image's path in dom0.
const KERNEL: &str = "/guests/ebb";
/// The boot module's path in dom0.
const MODULE: &str = "/guests/module";

/// What the threads tell.
enum Message {
    /// The host's memory.
    Look(Look),
    /// A guest runs, as this domain.
    Started(usize, u32),
    /// A guest's text.
    Text(usize, String),
    /// A guest's record, and when it came.
    Record(usize, Instant, Record),
    /// Something about the run.
    Note(String),
    /// What became of a guest. Nothing follows of it.
    Ended(usize, Box<End>),
}

/// What the threads share.
#[derive(Clone, Copy)]
struct Stage<'r> {
    plan: &'r Plan,
    out: &'r Path,
    session: &'r Session,
    /// When the timeline begins.
    epoch: Instant,
}

/// Runs the guests to their ends.
///
/// # Errors
///
/// If the host fails. A guest that fails is no error; it has an end.
pub(super) fn run(
    plan: &Plan,
    image: &Path,
    out: &Path,
    view: &mut View,
    summary: &mut Summary,
) -> Result<Found> {
    let kit = setup::ensure()?;
    let mut host = HostConfig::for_guests(out, plan.maxmem_mib, plan.guests.len());
    host.memory_mib = plan.host_memory_mib;
    host.files.push((KERNEL.into(), image.to_path_buf()));
    host.files.extend(plan.module.iter().map(|module| (MODULE.to_owned(), module.clone())));
    let session = Session::boot(&kit, &host)?;
    let ready = session.ready_after();
    view.note(&format!("Xen {} and dom0 are up after {:.1} s", kit.xen_version, ready.as_secs_f64()));
    summary.xen_version = Some(kit.xen_version);
    summary.accelerator = session.accelerator().name();
    summary.dom0_ready_ms = Some(millis(ready));
    summary.logs.push(session.xen_log());

    let (sender, messages) = mpsc::channel();
    let looks = sender.clone();
    session.watch_memory(plan.host_period(), move |look| {
        // Nobody listens after the end.
        let _ = looks.send(Message::Look(look));
    })?;
    let stage = Stage { plan, out, session: &session, epoch: Instant::now() };
    let names = plan.guests.iter().map(|guest| guest.name.clone());
    let mut recorder = Recorder::new(stage.epoch, names);
    let ends = thread::scope(|scope| {
        scope.spawn(move || start_all(scope, stage, &sender));
        show(plan, &messages, view, &mut recorder, &mut summary.notes)
    });
    summary.notes.extend(session.notes());
    let ends = ends?;
    session.power_off()?;
    Ok(Found { recorder, ends })
}

/// Shows what happens until the last guest has ended.
fn show(
    plan: &Plan,
    messages: &Receiver<Message>,
    view: &mut View,
    recorder: &mut Recorder,
    notes: &mut Vec<String>,
) -> Result<Vec<End>> {
    let mut ends: Vec<Option<End>> = plan.guests.iter().map(|_| None).collect();
    let mut watched = true;
    while ends.iter().any(Option::is_none) {
        match messages.recv_timeout(view.patience()) {
            Ok(Message::Look(Look::Sample(at, sample))) => recorder.host(at, sample),
            Ok(Message::Look(Look::Failed(error))) if watched => {
                watched = false;
                let note = format!("the host's memory is not seen any more: {error:#}");
                view.note(&note);
                notes.push(note);
            }
            Ok(Message::Look(Look::Failed(_))) => {}
            Ok(Message::Started(guest, domid)) => recorder.started(guest, domid),
            Ok(Message::Record(guest, at, record)) => recorder.guest(guest, at, &record),
            Ok(Message::Text(guest, text)) => match plan.guests.get(guest).filter(|_| ends.len() > 1) {
                Some(guest) => view.text(format!("{} {text}", guest.name)),
                None => view.text(text),
            },
            Ok(Message::Note(note)) => view.note(&note),
            Ok(Message::Ended(guest, end)) => {
                if let Some(window) = &end.window {
                    recorder.ended(guest, *window.end());
                }
                if let Some(slot) = ends.get_mut(guest) {
                    *slot = Some(*end);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(anyhow::anyhow!("a guest's thread ended without a word"));
            }
        }
        view.update(recorder);
    }
    Ok(ends.into_iter().flatten().collect())
}

/// Starts all guests, one after the other, each with a thread that attends to it.
fn start_all<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    stage: Stage<'env>,
    sender: &Sender<Message>,
) {
    let begun = Instant::now();
    for (number, planned) in stage.plan.guests.iter().enumerate() {
        let cmdline = planned.cmdline(begun.elapsed());
        let config = GuestConfig {
            name: planned.name.clone(),
            kernel: KERNEL.into(),
            ramdisk: stage.plan.module.as_ref().map(|_| MODULE.to_owned()),
            cmdline: cmdline.clone(),
            memory_mib: stage.plan.memory_mib,
            maxmem_mib: stage.plan.maxmem_mib,
            vcpus: stage.plan.vcpus,
            extra: Vec::new(),
        };
        let mut end = End { name: planned.name.clone(), cmdline, ..End::default() };
        // Messages are sent for as long as somebody is there to read them; after that nobody needs them.
        match stage.session.create(&config) {
            Ok(guest) => {
                let _ = sender.send(Message::Started(number, guest.domid()));
                let (sender, patience) = (sender.clone(), planned.patience);
                scope.spawn(move || {
                    let mut guest = Attended { stage, number, guest, patience, sender };
                    if let Err(error) = guest.attend(&mut end) {
                        end.outcome = "lost".to_owned();
                        end.why = Some(format!("{error:#}"));
                    }
                    guest.end(end);
                });
            }
            Err(error) => {
                end.outcome = "not started".to_owned();
                end.why = Some(format!("{error:#}"));
                let _ = sender.send(Message::Note(format!("{} did not start", end.name)));
                let _ = sender.send(Message::Ended(number, Box::new(end)));
            }
        }
    }
}

/// A guest and who attends to it.
struct Attended<'r> {
    stage: Stage<'r>,
    number: usize,
    guest: Guest<'r>,
    patience: Duration,
    sender: Sender<Message>,
}

impl Attended<'_> {
    /// Listens to the guest until it ends, and asks it to when it is time.
    fn attend(&mut self, end: &mut End) -> Result<()> {
        let _registration = interrupt::on(self.guest.interrupter());
        end.domid = Some(self.guest.domid());
        end.logs.push(self.guest.log().to_path_buf());
        let only = self.stage.plan.guests.len() == 1;
        let file = |what: &str| if only { what.to_owned() } else { format!("{}-{what}", end.name) };
        let (records, state) = (file("records.log"), file("state.log"));
        let mut listener = Listener::new(
            self.stage.out,
            &records,
            self.guest.begun().saturating_duration_since(self.stage.epoch),
        )?;
        let mut asked = None;
        let mut deadline = Instant::now() + READY_BOUND;
        let mut ready = false;
        let ending = loop {
            match self.guest.next(deadline)? {
                Event::Line(line) => {
                    let at = self.guest.begun() + line.at;
                    match listener.hear(&line)? {
                        Heard::Text(text) => self.tell(Message::Text(self.number, text)),
                        Heard::Record(record) => self.tell(Message::Record(self.number, at, record)),
                        Heard::Damaged(why) => self.tell(Message::Note(format!("{}: {why}", end.name))),
                    }
                    if listener.ready && !ready {
                        ready = true;
                        self.raise_ceiling()?;
                        deadline = Instant::now() + self.patience;
                    }
                }
                Event::Ended(ending) => break Some(ending),
                Event::Interrupted | Event::Deadline if asked.is_none() => {
                    self.tell(Message::Note(format!("asking {} to shut down", end.name)));
                    asked = Some(Instant::now());
                    deadline = Instant::now() + STOP_BOUND;
                    self.guest.ask_to_shut_down()?;
                }
                Event::Interrupted => {}
                Event::Deadline => break None,
            }
        };
        end.shutdown = asked.filter(|_| ending.is_some()).map(|asked| asked.elapsed());
        end.lifetime = self.guest.ended_at();
        end.heard(&listener);
        let since = |at: Instant| millis(at.saturating_duration_since(self.stage.epoch));
        let ended = self.guest.ended_at().map_or_else(Instant::now, |at| self.guest.begun() + at);
        end.window = listener.first.map(|first| since(self.guest.begun() + first)..=since(ended));
        end.outcome = match ending {
            Some(ending) => serde_json::to_value(ending)?.as_str().unwrap_or_default().to_owned(),
            None => "hung".to_owned(),
        };
        if ending != Some(Ending::Poweroff) {
            let path = self.stage.out.join(state);
            std::fs::write(&path, self.state()?)
                .with_context(|| format!("cannot write {}", path.display()))?;
            end.logs.push(path);
        }
        Ok(())
    }

    /// Lets the guest grow to all that it may have. The toolstack's target begins at the memory of the start, and a guest
    /// keeps below it; raised, it costs the host nothing until the guest asks.
    fn raise_ceiling(&self) -> Result<()> {
        let plan = self.stage.plan;
        if plan.fixed || plan.memory_mib >= plan.maxmem_mib {
            return Ok(());
        }
        let raise = format!("xl mem-set {} {}m", self.guest.domid(), plan.maxmem_mib);
        self.stage.session.exec(&raise, LOOK_BOUND)?.success().context("the guest may not grow").map(drop)
    }

    /// What Xen knows of it.
    fn state(&self) -> Result<String> {
        let look = format!(
            "xl list -v; for vcpu in $(seq 0 {}); do xenctx {} $vcpu; done; xl dmesg",
            self.stage.plan.vcpus - 1,
            self.guest.domid()
        );
        let text = self.stage.session.exec(&look, LOOK_BOUND)?.text;
        Ok(format!("{}\n{text}", self.guest.xl_words()))
    }

    /// Takes the guest apart and tells what became of it.
    fn end(self, mut end: End) {
        if let Err(error) = self.guest.destroy() {
            end.why.get_or_insert_with(|| format!("{error:#}"));
        }
        let _ = self.sender.send(Message::Ended(self.number, Box::new(end)));
    }

    fn tell(&self, message: Message) {
        let _ = self.sender.send(message);
    }
}
