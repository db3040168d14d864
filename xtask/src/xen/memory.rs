//! The memory of all domains as Xen accounts it, now or again and again.
//!
//! A program of ours in dom0 asks Xen (package `ebb-dom0`). Its samples come through a port of their own, past the
//! agent and the toolstack, which are slow under emulation; the agent only starts it.

use super::agent::{Agent, Output, Reply};
use anyhow::{Context, Result, anyhow};
use ebb_dom0::Sample;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The program's path in dom0.
pub(super) const PROGRAM: &str = "/bin/ebb-host-memory";
/// How long one look may take.
const LOOK_BOUND: Duration = Duration::from_secs(60);
/// A longer line is none of the program's.
const LONGEST: u64 = 64 * 1024;

/// What a watcher is told.
#[derive(Debug)]
pub(crate) enum Look {
    /// A sample, and when it arrived here.
    Sample(Instant, Sample),
    /// The program in dom0 has ended, or said something that makes no sense. Nothing follows.
    Failed(anyhow::Error),
}

/// Looks once, through what runs a command in dom0.
///
/// # Errors
///
/// If dom0 is gone or the program fails.
pub(super) fn once(exec: impl FnOnce(&str, Duration) -> Result<Output>) -> Result<Sample> {
    let text = exec(&format!("{PROGRAM} once"), LOOK_BOUND)?.success()?;
    text.trim_end().parse().with_context(|| format!("{PROGRAM} says {text:?}"))
}

/// Starts the program and a thread that reads its samples from the port with this number.
///
/// # Errors
///
/// If dom0 is gone, or no thread can be had.
pub(super) fn watch<W: Write>(
    agent: &Agent<W>,
    number: usize,
    port: impl Read + Send + 'static,
    period: Duration,
    mut watcher: impl FnMut(Look) + Send + 'static,
) -> Result<()> {
    let (sender, said) = mpsc::channel();
    let millis = period.as_millis().max(1);
    // The port's other end closes only with the machine, so the program's end has to close the stream: a last line
    // that is no sample. What it had to say comes through the agent before that.
    let command = format!("{PROGRAM} every {millis} >/dev/vport0p{number}; echo ended >/dev/vport0p{number}");
    agent.start(&command, move |reply| {
        if let Reply::Line(line) = reply {
            // Nobody listens after the end.
            let _ = sender.send(line);
        }
    })?;
    std::thread::Builder::new().name("memory".into()).spawn(move || {
        let error = read(port, &mut watcher);
        let mut words = error.to_string();
        for line in said.try_iter() {
            words = format!("{words}; {line}");
        }
        watcher(Look::Failed(anyhow!(words)));
    })?;
    Ok(())
}

/// Reads samples until the stream ends or makes no sense; answers why.
fn read(port: impl Read, watcher: &mut impl FnMut(Look)) -> anyhow::Error {
    let mut port = BufReader::new(port);
    let mut next = 0;
    let mut line = String::new();
    loop {
        line.clear();
        match (&mut port).take(LONGEST).read_line(&mut line) {
            Ok(1..) => {}
            Ok(0) => return anyhow!("dom0 is gone"),
            Err(error) => return error.into(),
        }
        let at = Instant::now();
        match line.trim_end_matches('\n').parse::<Sample>() {
            Ok(sample) if sample.seq == next => {
                next += 1;
                watcher(Look::Sample(at, sample));
            }
            Ok(sample) => {
                return anyhow!("a sample of the host's memory was lost: {next} before {}", sample.seq);
            }
            Err(_) => return anyhow!("no samples of the host's memory any more: {:?}", line.trim_end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn looks(stream: &str) -> (Vec<u64>, String) {
        let mut seen = Vec::new();
        let error = read(stream.as_bytes(), &mut |look| match look {
            Look::Sample(_, sample) => seen.push(sample.seq),
            Look::Failed(error) => panic!("{error}"),
        });
        (seen, error.to_string())
    }

    fn line(seq: u64) -> String {
        format!("{}\n", Sample { seq, ..Sample::default() })
    }

    #[test]
    fn samples_come_until_the_stream_ends() {
        let (seen, why) = looks(&(line(0) + &line(1)));
        assert_eq!((seen, why.as_str()), (vec![0, 1], "dom0 is gone"));
        assert_eq!(looks("").0, [0; 0]);
    }

    #[test]
    fn what_is_lost_cut_or_foreign_ends_them() {
        let (seen, why) = looks(&(line(0) + &line(2)));
        assert_eq!(seen, [0]);
        assert!(why.contains("lost: 1 before 2"), "{why}");
        let whole = line(0);
        let (seen, why) = looks(&whole[..whole.len() - 5]);
        assert!(seen.is_empty() && why.contains("no samples"), "{why}");
        assert!(looks("noise\n").1.contains("noise"));
        assert!(looks(&"x".repeat(100_000)).1.contains("no samples"), "an endless line");
    }

    #[test]
    fn the_end_of_the_program_is_told_with_its_words() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let agent = Agent::new(ours.try_clone().unwrap(), ours, |_| {}).unwrap();
        let (port, mut dom0) = UnixStream::pair().unwrap();
        let (sender, told) = mpsc::channel();
        watch(&agent, 3, port, Duration::from_millis(250), move |look| sender.send(look).unwrap()).unwrap();
        let mut command = String::new();
        BufReader::new(theirs.try_clone().unwrap()).read_line(&mut command).unwrap();
        assert!(command.starts_with("run 1 /bin/ebb-host-memory every 250 >/dev/vport0p3;"), "{command}");
        dom0.write_all(line(0).as_bytes()).unwrap();
        let bound = Duration::from_secs(10);
        assert!(matches!(told.recv_timeout(bound), Ok(Look::Sample(_, sample)) if sample.seq == 0));
        theirs.write_all(b"o 1 no privilege\n").unwrap();
        // The agent's thread has handed the line on when it answers the next command.
        let agent_alive = std::thread::spawn(move || agent.exec("true", bound).map(|output| output.status));
        let mut next = String::new();
        BufReader::new(theirs.try_clone().unwrap()).read_line(&mut next).unwrap();
        theirs.write_all(b"exit 2 0\n").unwrap();
        assert_eq!(agent_alive.join().unwrap().unwrap(), 0);
        dom0.write_all(b"ended\n").unwrap();
        match told.recv_timeout(bound).unwrap() {
            Look::Failed(error) => assert!(error.to_string().contains("no privilege"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}
