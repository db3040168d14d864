//! The host's end of the control port: commands out, framed answers in. `agent.sh` tells the protocol.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// What comes back from a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A line of its output.
    Line(String),
    /// It has ended with this status. Nothing follows.
    Exit(i32),
    /// Dom0 is gone. Nothing follows.
    Lost,
}

/// The status of a command of which the agent does not know how it ended.
const LOST: i32 = -1;
/// How the dynamic loader begins its last words.
const LOADER: &str = "Inconsistency detected by ld.so";

/// Gets a command's replies, on the thread that reads them: it must not block.
type Handler = Box<dyn FnMut(Reply) + Send>;

/// What a command printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Its exit status.
    pub(crate) status: i32,
    /// Its output and error output, as they came.
    pub(crate) text: String,
}

impl Output {
    /// Why the command ended otherwise than any program means to, if so: killed for a fault of its own, or left by a
    /// loader that found the program damaged. The shell says 128 and the signal's number.
    pub(crate) fn died(&self) -> Option<&'static str> {
        match self.status {
            LOST => Some("nobody knows how it ended"),
            132 => Some("illegal instruction"),
            134 => Some("aborted"),
            135 => Some("bus error"),
            136 => Some("arithmetic error"),
            139 => Some("segmentation fault"),
            127 if self.text.contains(LOADER) => Some("the loader found it inconsistent"),
            _ => None,
        }
    }

    /// The text of a command that must not fail.
    ///
    /// # Errors
    ///
    /// If it did.
    pub(crate) fn success(self) -> Result<String> {
        ensure!(self.status == 0, "it ended with status {}:\n{}", self.status, self.text.trim_end());
        Ok(self.text)
    }
}

/// The agent in dom0.
#[derive(Debug)]
pub(super) struct Agent<W> {
    writer: Mutex<W>,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    next: u32,
    handlers: BTreeMap<u32, (Handler, String)>,
    lost: bool,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Table").field("running", &self.handlers.keys()).finish_non_exhaustive()
    }
}

impl<W: Write> Agent<W> {
    /// Takes the control port. `ready` gets the replies of command 0: the agent's own start.
    ///
    /// # Errors
    ///
    /// If the thread that reads the replies cannot be started.
    pub(super) fn new(
        reader: impl Read + Send + 'static,
        writer: W,
        ready: impl FnMut(Reply) + Send + 'static,
    ) -> Result<Self> {
        let mut table = Table { next: 1, ..Table::default() };
        table.handlers.insert(0, (Box::new(ready), String::new()));
        let table = Arc::new(Mutex::new(table));
        let shared = Arc::clone(&table);
        std::thread::Builder::new().name("agent".into()).spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while let Ok(1..) = reader.read_until(b'\n', &mut line) {
                dispatch(&mut lock(&shared), String::from_utf8_lossy(&line).trim_end_matches('\n'));
                line.clear();
            }
            let mut table = lock(&shared);
            table.lost = true;
            for (mut handler, _) in std::mem::take(&mut table.handlers).into_values() {
                handler(Reply::Lost);
            }
        })?;
        Ok(Self { writer: Mutex::new(writer), table })
    }

    /// Starts a shell command in dom0. `handler` gets its replies; it must neither block nor use the agent.
    ///
    /// # Errors
    ///
    /// If the command has more than one line or dom0 is gone.
    pub(super) fn start(&self, command: &str, handler: impl FnMut(Reply) + Send + 'static) -> Result<()> {
        ensure!(!command.contains('\n'), "a command for dom0 is one line: {command:?}");
        let id = {
            let mut table = lock(&self.table);
            ensure!(!table.lost, "dom0 is gone");
            let id = table.next;
            table.next += 1;
            table.handlers.insert(id, (Box::new(handler), String::new()));
            id
        };
        self.send(&format!("run {id} {command}\n"))
    }

    /// Runs a shell command in dom0 and waits for its end.
    ///
    /// # Errors
    ///
    /// If dom0 is gone or the command does not end within the bound. A command that fails is not an error.
    pub(super) fn exec(&self, command: &str, bound: Duration) -> Result<Output> {
        let (sender, replies) = mpsc::channel();
        self.start(command, move |reply| {
            // Nobody listens any more once the bound has passed.
            let _ = sender.send(reply);
        })?;
        let deadline = Instant::now() + bound;
        let mut text = String::new();
        loop {
            match replies.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Reply::Line(line)) => {
                    text.push_str(&line);
                    text.push('\n');
                }
                Ok(Reply::Exit(status)) => return Ok(Output { status, text }),
                Ok(Reply::Lost) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                    bail!("dom0 went away during `{command}`; it had printed:\n{text}")
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!(
                        "`{command}` did not end within {} s in dom0; it had printed:\n{text}",
                        bound.as_secs()
                    )
                }
            }
        }
    }

    /// Asks dom0 to power the machine off.
    ///
    /// # Errors
    ///
    /// If dom0 is gone.
    pub(super) fn power_off(&self) -> Result<()> {
        self.send("off\n")
    }

    fn send(&self, line: &str) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(line.as_bytes()).and_then(|()| writer.flush()).context("cannot reach dom0")
    }
}

/// A handler that panicked has left the table as it was.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands one line of the port to whom it belongs. A line that makes no sense is dropped: it can only come from a
/// process in dom0 that wrote to the port by itself.
fn dispatch(table: &mut Table, line: &str) {
    let mut words = line.splitn(3, ' ');
    let (Some(verb), Some(id)) = (words.next(), words.next().and_then(|id| id.parse::<u32>().ok())) else {
        return;
    };
    let rest = words.next().unwrap_or_default();
    match verb {
        "p" => {
            if let Some((_, partial)) = table.handlers.get_mut(&id) {
                partial.push_str(rest);
            }
        }
        "o" => {
            if let Some((handler, partial)) = table.handlers.get_mut(&id) {
                let mut whole = std::mem::take(partial);
                whole.push_str(rest);
                handler(Reply::Line(whole));
            }
        }
        "exit" => {
            if let Some((mut handler, _)) = table.handlers.remove(&id) {
                handler(Reply::Exit(rest.trim().parse().unwrap_or(LOST)));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const BOUND: Duration = Duration::from_secs(10);

    /// An agent and the other end of its port.
    fn pair() -> (Agent<UnixStream>, BufReader<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = Agent::new(ours.try_clone().unwrap(), ours, |_| {}).unwrap();
        (agent, BufReader::new(theirs.try_clone().unwrap()), theirs)
    }

    fn line(reader: &mut impl BufRead) -> String {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn answers_find_their_commands() {
        let (agent, mut commands, mut answers) = pair();
        let (sender, slow) = mpsc::channel();
        agent.start("slow", move |reply| sender.send(reply).unwrap()).unwrap();
        assert_eq!(line(&mut commands), "run 1 slow\n");
        let quick = std::thread::spawn(move || {
            assert_eq!(line(&mut commands), "run 2 quick  one\n");
            answers
                .write_all(b"o 1 a\no 2 first\np 2 sec\nnoise\no 7 lost\no 2 ond\nexit 2 3\nexit 1 0\n")
                .unwrap();
        });
        let output = agent.exec("quick  one", BOUND).unwrap();
        assert_eq!(output, Output { status: 3, text: "first\nsecond\n".into() });
        assert!(output.success().is_err());
        quick.join().unwrap();
        let replies: Vec<Reply> = (0..2).map(|_| slow.recv_timeout(BOUND).unwrap()).collect();
        assert_eq!(replies, [Reply::Line("a".into()), Reply::Exit(0)]);
    }

    #[test]
    fn a_lost_dom0_is_told_to_all() {
        let (agent, commands, answers) = pair();
        let (sender, replies) = mpsc::channel();
        agent.start("waits", move |reply| sender.send(reply).unwrap()).unwrap();
        drop((commands, answers));
        assert_eq!(replies.recv_timeout(BOUND), Ok(Reply::Lost));
        assert!(agent.exec("late", BOUND).is_err());
    }

    #[test]
    fn a_death_is_no_failure() {
        let output = |status, text: &str| Output { status, text: text.to_owned() };
        assert_eq!(output(139, "").died(), Some("segmentation fault"));
        assert!(output(LOST, "").died().is_some());
        assert!(output(127, "Inconsistency detected by ld.so: dl-version.c: 204").died().is_some());
        for alive in [output(0, LOADER), output(1, LOADER), output(127, "sh: xl: not found"), output(137, "")]
        {
            assert_eq!(alive.died(), None, "{alive:?}");
        }
    }

    #[test]
    fn misuse_and_silence_are_errors() {
        let (agent, _commands, _answers) = pair();
        assert!(agent.exec("two\nlines", BOUND).is_err());
        let error = agent.exec("silent", Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("`silent` did not end"), "{error}");
    }
}
