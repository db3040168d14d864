//! What the toolstack does to a domain, and what dom0's daemons may fail to do, with the image that users run.

use super::xen::{IMAGE, TESTS};
use crate::console::Event;
use crate::xen::{Ending, Guest, GuestConfig, Session};
use anyhow::{Context, Result, bail, ensure};
use ebb::report::Record;
use std::time::{Duration, Instant};

/// A question to the whole system.
pub(super) type Ask = fn(&Session) -> Result<()>;

/// All questions.
pub(super) const CASES: &[(&str, Ask)] = &[
    ("system.the_guest_says_what_xl_says", the_guest_says_what_xl_says),
    ("system.xl_shutdown_is_obeyed_and_acknowledged", xl_shutdown),
    ("system.xl_reboot_is_obeyed_and_acknowledged", xl_reboot),
    ("system.a_suspend_is_refused_and_survived", a_suspend_is_refused),
    ("system.an_unknown_command_is_cleared", an_unknown_command_is_cleared),
    ("system.a_console_that_nobody_reads_stops_nobody", a_console_that_nobody_reads),
    ("system.a_store_that_sleeps_times_out_and_recovers", a_store_that_is_slow),
    ("system.what_is_typed_is_read", what_is_typed_is_read),
    ("system.bad_options_are_named", bad_options_are_named),
    ("system.dom0_sets_tunables_and_is_refused", dom0_sets_tunables),
    ("system.the_shell_obeys_what_is_typed", the_shell_obeys),
];

/// How long a guest may take to come up, to stop, or to do what it is asked; on a machine that is busy with other things.
pub(super) const BOUND: Duration = Duration::from_secs(180);
/// How long a command in dom0 may take.
pub(super) const COMMAND_BOUND: Duration = Duration::from_secs(120);

/// Leaves dom0's daemons running, whatever the last case did.
///
/// # Errors
///
/// If dom0 is gone.
pub(super) fn settle(session: &Session) -> Result<()> {
    let wake = "kill -CONT $(pidof xenstored) $(pidof xenconsoled)";
    session.exec(wake, COMMAND_BOUND)?.success().map(drop)
}

/// A small guest of its own for a case.
pub(super) fn config(name: &str, cmdline: &str) -> GuestConfig {
    GuestConfig {
        name: name.to_owned(),
        kernel: IMAGE.to_owned(),
        ramdisk: None,
        cmdline: cmdline.to_owned(),
        memory_mib: 32,
        maxmem_mib: 32,
        vcpus: 1,
        extra: Vec::new(),
    }
}

/// What a guest said until something happened.
#[derive(Default)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) records: Vec<Record>,
    /// What was wrong with the last record.
    torn: Option<String>,
}

impl Said {
    /// Takes one line. A record may have lost its end if the guest says next that nobody has read its console for long:
    /// dom0 may be starved, or freeing a large guest. Then it is none, as those that were dropped with its end.
    fn hear(&mut self, line: &[u8]) -> Result<()> {
        let text = String::from_utf8_lossy(line);
        let dropped = text.starts_with("[console: ") && text.contains("bytes were dropped");
        if let Some(torn) = self.torn.take().filter(|_| !dropped) {
            bail!("{torn}; it said:\n{}", self.text);
        }
        if !Record::is_record(line) {
            self.text += &format!("{text}\n");
            return Ok(());
        }
        match Record::parse(line) {
            Ok(record) => self.records.push(record),
            Err(error) => self.torn = Some(format!("{error}: {}", text.trim_start_matches('\u{1e}'))),
        }
        Ok(())
    }

    pub(super) fn record(&self, kind: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.kind == kind)
    }
}

/// Listens until `enough`, or until the guest ends, which it answers.
pub(super) fn listen(
    guest: &mut Guest<'_>,
    said: &mut Said,
    mut enough: impl FnMut(&Said) -> bool,
) -> Result<Option<Ending>> {
    let deadline = Instant::now() + BOUND;
    loop {
        if enough(said) {
            return Ok(None);
        }
        match guest.next(deadline)? {
            Event::Line(line) => said.hear(&line.bytes)?,
            Event::Interrupted => {}
            Event::Ended(ending) => return Ok(Some(ending)),
            Event::Deadline => bail!("nothing more within {} s; it said:\n{}", BOUND.as_secs(), said.text),
        }
    }
}

/// Starts a guest and waits until it is ready for commands.
pub(super) fn ready<'s>(session: &'s Session, name: &str, cmdline: &str) -> Result<(Guest<'s>, Said)> {
    let mut guest = session.create(&config(name, cmdline))?;
    let mut said = Said::default();
    if let Some(ending) = listen(&mut guest, &mut said, |said| said.record("ready").is_some())? {
        bail!("the guest ended ({ending:?}) before it was ready:\n{}", said.text);
    }
    Ok((guest, said))
}

/// Waits for the guest's end and checks it.
pub(super) fn ends_as(mut guest: Guest<'_>, mut said: Said, wanted: Ending) -> Result<Said> {
    let ending = listen(&mut guest, &mut said, |_| false)?;
    ensure!(ending == Some(wanted), "it ended as {ending:?}, not {wanted:?}:\n{}", said.text);
    guest.destroy()?;
    Ok(said)
}

fn the_guest_says_what_xl_says(session: &Session) -> Result<()> {
    let (guest, said) = ready(session, "figures", "noselfballooning")?;
    let found = said.record("found").context("the guest did not say what it found")?;
    ensure!(found.number("domid") == Some(guest.domid().into()), "domid: {found:?}");
    ensure!(found.number("vcpus") == Some(1), "vcpus: {found:?}");
    ensure!(found.number("ram_kib") == Some(32 * 1024), "RAM: {found:?}");
    let list = session.exec("xl list -l figures", COMMAND_BOUND)?.success()?;
    ensure!(list.contains("figures"), "xl does not know the domain: {list}");
    let version = session.exec("xl info xen_version", COMMAND_BOUND)?.success()?;
    ensure!(found.get("xen") == Some(version.trim()), "{found:?} against xl's {version}");
    // Xen's own count, in frames: "nr_pages=8210" in the answer to debug key q.
    let books =
        session.exec("xl dmesg -c >/dev/null; xl debug-keys q; xl dmesg", COMMAND_BOUND)?.success()?;
    let mine = format!("domain {}:", guest.domid());
    let pages = books
        .split("General information for ")
        .find(|part| part.starts_with(&mine))
        .and_then(|part| part.split("nr_pages=").nth(1)?.split(' ').next()?.parse::<u64>().ok())
        .with_context(|| format!("Xen does not list the domain:\n{books}"))?;
    ensure!(found.number("reservation_kib") == Some(pages * 4), "{found:?} against {pages} pages");
    let deadline = Instant::now() + BOUND;
    loop {
        let sample = session.memory()?;
        let seen = sample.domain(guest.domid()).with_context(|| format!("{sample} lacks the domain"))?;
        ensure!(seen.kib == pages * 4, "our own look at Xen: {seen:?} against {pages} pages");
        let free = session.exec("xl info free_memory", COMMAND_BOUND)?.success()?;
        if free.trim().parse::<u64>()?.abs_diff(sample.free_kib / 1024) <= 1 {
            break;
        }
        // The memory of a guest that is gone may come free between the two looks.
        ensure!(Instant::now() < deadline, "{sample} against xl's {free} MiB");
    }
    guest.ask_to_shut_down()?;
    ends_as(guest, said, Ending::Poweroff).map(drop)
}

/// The toolstack's node is cleared before the guest goes.
fn acknowledged(session: &Session, domid: u32) -> Result<()> {
    let read = format!("xenstore-read /local/domain/{domid}/control/shutdown");
    let value = session.exec(&read, COMMAND_BOUND)?.success()?;
    ensure!(value.trim().is_empty(), "control/shutdown still says {value:?}");
    Ok(())
}

fn xl_shutdown(session: &Session) -> Result<()> {
    let (mut guest, mut said) = ready(session, "shutdown", "")?;
    let features = format!("xenstore-read /local/domain/{}/control/feature-poweroff", guest.domid());
    ensure!(session.exec(&features, COMMAND_BOUND)?.success()?.trim() == "1", "feature-poweroff is not 1");
    session.exec("xl shutdown shutdown", COMMAND_BOUND)?.success()?;
    let ending = listen(&mut guest, &mut said, |_| false)?;
    ensure!(ending == Some(Ending::Poweroff), "it ended as {ending:?}");
    acknowledged(session, guest.domid())?;
    guest.destroy()
}

fn xl_reboot(session: &Session) -> Result<()> {
    let (mut guest, mut said) = ready(session, "reboot", "")?;
    session.exec("xl reboot reboot", COMMAND_BOUND)?.success()?;
    let ending = listen(&mut guest, &mut said, |_| false)?;
    ensure!(ending == Some(Ending::Reboot), "it ended as {ending:?}");
    acknowledged(session, guest.domid())?;
    guest.destroy()
}

/// Writes a command as the toolstack would.
fn command(session: &Session, guest: &Guest<'_>, word: &str) -> Result<()> {
    let write = format!("xenstore-write /local/domain/{}/control/shutdown {word}", guest.domid());
    session.exec(&write, COMMAND_BOUND)?.success().map(drop)
}

fn a_suspend_is_refused(session: &Session) -> Result<()> {
    let (mut guest, mut said) = ready(session, "suspend", "")?;
    command(session, &guest, "suspend")?;
    if let Some(ending) = listen(&mut guest, &mut said, |said| said.text.contains("not supported"))? {
        bail!("it ended as {ending:?}");
    }
    let read = format!("xenstore-read /local/domain/{}/control/shutdown", guest.domid());
    let value = session.exec(&read, COMMAND_BOUND)?.success()?;
    ensure!(value.trim() == "suspend", "the request was acknowledged: {value:?}");
    // The toolstack gives up and withdraws it; after that, the guest obeys as before.
    session.exec("xl shutdown suspend", COMMAND_BOUND)?.success()?;
    ends_as(guest, said, Ending::Poweroff).map(drop)
}

fn an_unknown_command_is_cleared(session: &Session) -> Result<()> {
    let (mut guest, mut said) = ready(session, "unknown", "")?;
    command(session, &guest, "hibernate")?;
    if let Some(ending) = listen(&mut guest, &mut said, |said| said.text.contains("\"hibernate\""))? {
        bail!("it ended as {ending:?}");
    }
    acknowledged(session, guest.domid())?;
    guest.ask_to_shut_down()?;
    ends_as(guest, said, Ending::Poweroff).map(drop)
}

/// With the console daemon stopped, the guest fills the ring, drops text, and goes on: the store shows it.
fn a_console_that_nobody_reads(session: &Session) -> Result<()> {
    let guest = session.create(&config("unread", "loglevel=trace"))?;
    let feature = format!("/local/domain/{}/control/feature-reboot", guest.domid());
    let stop = "kill -STOP $(pidof xenconsoled)";
    session.exec(stop, COMMAND_BOUND)?.success()?;
    // The guest writes its features once it is up; the watch fires at each change, and at once.
    let wait = format!(
        "mkfifo /run/unread; xenstore-watch {feature} >/run/unread & watcher=$!; \
         while read -r _; do [ \"$(xenstore-read {feature} 2>/dev/null)\" = 1 ] && break; done </run/unread; \
         kill $watcher; rm /run/unread; xenstore-read {feature}"
    );
    let alive = session.exec(&wait, BOUND);
    let woken = session.exec("kill -CONT $(pidof xenconsoled)", COMMAND_BOUND);
    alive?.success().context("the guest did not come up with an unread console")?;
    woken?.success()?;
    guest.ask_to_shut_down()?;
    ends_as(guest, Said::default(), Ending::Poweroff).map(drop)
}

/// With the store stopped, requests time out as values, and late answers confuse nobody. The case in the guest says
/// when it wants the daemon to sleep and to wake.
fn a_store_that_is_slow(session: &Session) -> Result<()> {
    let cmdline = "test.solo=store.a_store_that_sleeps_times_out_and_recovers";
    let mut guest = session.create(&GuestConfig { kernel: TESTS.to_owned(), ..config("slow", cmdline) })?;
    let mut said = Said::default();
    for (help, signal) in [("stop-xenstored", "STOP"), ("wake-xenstored", "CONT")] {
        let asked = |said: &Said| {
            said.records.iter().any(|record| record.kind == "help" && record.get("with") == Some(help))
        };
        if let Some(ending) = listen(&mut guest, &mut said, asked)? {
            bail!("it ended as {ending:?} before it asked for {help}:\n{}", said.text);
        }
        session.exec(&format!("kill -{signal} $(pidof xenstored)"), COMMAND_BOUND)?.success()?;
    }
    let said = ends_as(guest, said, Ending::Poweroff)?;
    let end = said.record("end").context("the case did not end")?;
    ensure!(end.get("outcome") == Some("pass"), "{end:?}");
    Ok(())
}

/// Text typed into the terminal that the console daemon holds for the guest reaches it.
fn what_is_typed_is_read(session: &Session) -> Result<()> {
    let cmdline = "test.solo=console.what_is_typed_is_read";
    let mut guest = session.create(&GuestConfig { kernel: TESTS.to_owned(), ..config("typed", cmdline) })?;
    let mut said = Said::default();
    if let Some(ending) = listen(&mut guest, &mut said, |said| said.record("help").is_some())? {
        bail!("it ended as {ending:?} before it listened:\n{}", said.text);
    }
    let tty = format!("$(xenstore-read /local/domain/{}/console/tty)", guest.domid());
    session.exec(&format!("printf 'hello, domU\\n' >{tty}"), COMMAND_BOUND)?.success()?;
    let said = ends_as(guest, said, Ending::Poweroff)?;
    let end = said.record("end").context("the case did not end")?;
    ensure!(end.get("outcome") == Some("pass"), "{end:?}");
    Ok(())
}

fn bad_options_are_named(session: &Session) -> Result<()> {
    let (guest, said) = ready(session, "options", "loglevel=loud what=ever")?;
    for wanted in ["loglevel=\"loud\" is not accepted", "unknown option \"what=ever\" is ignored"] {
        ensure!(said.text.contains(wanted), "it does not say {wanted:?}:\n{}", said.text);
    }
    guest.ask_to_shut_down()?;
    ends_as(guest, said, Ending::Poweroff).map(drop)
}

/// Writes a tunable of a guest as an operator would.
pub(super) fn set_tunable(session: &Session, guest: &Guest<'_>, name: &str, value: &str) -> Result<()> {
    let node = format!("/local/domain/{}/data/ebb/tunables/{name}", guest.domid());
    session.exec(&format!("xenstore-write {node} '{value}'"), COMMAND_BOUND)?.success().map(drop)
}

/// A node below the directory of a guest.
pub(super) fn read_node(session: &Session, guest: &Guest<'_>, name: &str) -> Result<String> {
    let read = format!("xenstore-read /local/domain/{}/{name}", guest.domid());
    Ok(session.exec(&read, COMMAND_BOUND)?.success()?.trim().to_owned())
}

/// dom0 sets a tunable through the store, and a value that is refused is answered and replaced. The case in the guest
/// says when it wants what.
fn dom0_sets_tunables(session: &Session) -> Result<()> {
    const INTERVAL: &str = "selfballoon/selfballoon_interval";
    let cmdline = "test.solo=tunables.dom0_sets_them_and_is_refused";
    let mut guest =
        session.create(&GuestConfig { kernel: TESTS.to_owned(), ..config("tunables", cmdline) })?;
    let mut said = Said::default();
    for (help, value) in [("set-interval-3", "3"), ("set-interval-0", "0"), ("look", "")] {
        let asked = |said: &Said| {
            said.records.iter().any(|record| record.kind == "help" && record.get("with") == Some(help))
        };
        if let Some(ending) = listen(&mut guest, &mut said, asked)? {
            bail!("it ended as {ending:?} before it asked for {help}:\n{}", said.text);
        }
        if help != "look" {
            set_tunable(session, &guest, INTERVAL, value)?;
        }
    }
    let status = read_node(session, &guest, "data/ebb/tunables-status")?;
    ensure!(
        status == format!("{INTERVAL}: \"0\" is not accepted; accepted: 1 to 86400 s"),
        "the refusal is {status:?}"
    );
    let value = read_node(session, &guest, &format!("data/ebb/tunables/{INTERVAL}"))?;
    ensure!(value == "3", "the node shows {value:?} and not the value in force");
    let policy = read_node(session, &guest, "data/ebb/tunables/selfballoon/policy")?;
    ensure!(policy == "committed", "the policy is shown as {policy:?}");
    // It ends when it has seen the answer.
    set_tunable(session, &guest, INTERVAL, "4")?;
    let said = ends_as(guest, said, Ending::Poweroff)?;
    let end = said.record("end").context("the case did not end")?;
    ensure!(end.get("outcome") == Some("pass"), "{end:?}");
    Ok(())
}

/// Lines typed into the terminal of the guest's console are obeyed, after noise and an endless line too.
fn the_shell_obeys(session: &Session) -> Result<()> {
    let (mut guest, mut said) = ready(session, "shell", "")?;
    let tty = format!("$(xenstore-read /local/domain/{}/console/tty)", guest.domid());
    let type_in = |text: &str| session.exec(&format!("{text} >{tty}"), COMMAND_BOUND)?.success().map(drop);
    let dialogue = [
        ("printf 'stats\\n'", "reservation_kib "),
        ("printf 'set no/such 1\\r'", "there is no such tunable"),
        ("printf '\\377\\000\\033[A\\036record x=1\\003dance\\n'", "\"dance\" is not a command"),
        ("head -c 20000 /dev/zero | tr '\\0' x; printf '\\n'", "this one was not obeyed"),
        ("printf 'help\\n'", "set NAME VALUE"),
        ("printf 'set selfballoon.selfballoon_interval 7\\n'", "selfballoon_interval = 7 s"),
    ];
    for (typed, answer) in dialogue {
        said.text.clear();
        let typed = if typed.contains('|') { format!("{{ {typed}; }}") } else { typed.to_owned() };
        type_in(&typed)?;
        if let Some(ending) = listen(&mut guest, &mut said, |said| said.text.contains(answer))? {
            bail!("it ended as {ending:?} when {typed:?} was typed:\n{}", said.text);
        }
    }
    // dom0 sees what was set here; the watch fires at each change, and at once.
    let node = format!("/local/domain/{}/data/ebb/tunables/selfballoon/selfballoon_interval", guest.domid());
    let wait = format!(
        "mkfifo /run/shell; xenstore-watch {node} >/run/shell & watcher=$!; \
         while read -r _; do [ \"$(xenstore-read {node} 2>/dev/null)\" = 7 ] && break; done </run/shell; \
         kill $watcher; rm /run/shell; xenstore-read {node}"
    );
    let shown = session.exec(&wait, BOUND)?.success()?;
    ensure!(shown.trim() == "7", "xenstore shows {shown:?}");
    guest.ask_to_shut_down()?;
    ends_as(guest, said, Ending::Poweroff).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str) -> Vec<u8> {
        let mut text = String::new();
        ebb::report::write(&mut text, kind, &[("t_ms", &7)]).unwrap();
        text.trim_end().as_bytes().to_vec()
    }

    #[test]
    fn a_record_is_torn_only_where_the_guest_says_that_text_was_dropped() {
        let (whole, torn) = (record("sample"), &record("sample")[..9]);
        let notice = b"[console: 2711 bytes were dropped, nobody read them]";
        let mut said = Said::default();
        for line in [&whole[..], b"text", torn, notice, &whole] {
            said.hear(line).unwrap();
        }
        assert_eq!((said.records.len(), said.text.lines().count()), (2, 2));
        for next in [&whole[..], b"text", torn] {
            let mut said = Said::default();
            said.hear(torn).unwrap();
            assert!(said.hear(next).is_err(), "{}", String::from_utf8_lossy(next));
        }
    }
}
