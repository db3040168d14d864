//! The shell on the Xen console: a thread that waits for what somebody types.
//!
//! It shows nothing until the first byte comes, so the log of a guest that nobody talks to is not littered.

use crate::domain::Domain;
use crate::output;
use crate::platform::threads;
use crate::tunables::{publish, tunables};
use core::fmt::{self, Write};
use ebb::shell::{Shell, Stats};
use ebb::task::SpawnError;

/// What is read at once.
const PIECE: usize = 64;
/// The longest part of a line that is printed at once.
const LINE: usize = 256;

/// Begins the thread, if this domain has a console. `stats` answers the command of that name.
///
/// # Errors
///
/// If the thread cannot begin.
pub fn start(domain: &'static Domain, stats: impl Stats + Send + 'static) -> Result<(), SpawnError> {
    if !domain.listen_to_console() {
        log::info!("shell: there is no console to listen to");
        return Ok(());
    }
    threads().spawn("shell", move || talk(domain, &stats))?.detach();
    Ok(())
}

fn talk(domain: &Domain, stats: &dyn Stats) {
    let mut shell = Shell::new();
    loop {
        let mut typed = [0; PIECE];
        let count = domain.read_console(&mut typed);
        if count == 0 {
            domain.wait_for_console();
            continue;
        }
        let mut out = Lines { text: [0; LINE], length: 0 };
        let outcome = shell.feed(&typed[..count], tunables(), stats, &mut out);
        out.flush();
        if outcome.set {
            publish();
        }
    }
}

/// Prints line by line, and holds the console for no longer: the log goes between two lines.
struct Lines {
    text: [u8; LINE],
    length: usize,
}

impl Lines {
    fn flush(&mut self) {
        let text = &self.text[..core::mem::take(&mut self.length)];
        if let Ok(text) = core::str::from_utf8(text)
            && !text.is_empty()
        {
            // A sink never fails.
            let _ = output::with_console(|out| out.write_str(text));
        }
    }
}

impl Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut bytes = [0; 4];
            let bytes = character.encode_utf8(&mut bytes).as_bytes();
            if self.length + bytes.len() > LINE {
                self.flush();
            }
            self.text[self.length..][..bytes.len()].copy_from_slice(bytes);
            self.length += bytes.len();
            if character == '\n' {
                self.flush();
            }
        }
        Ok(())
    }
}
