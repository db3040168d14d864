//! What is typed on the console, line by line, for cases that do as they are told.

use crate::{ensure, failed};
use alloc::string::String;
use alloc::vec::Vec;
use ebb_boot::Domain;
use ebb_boot::cases::Not;

/// Longer lines make no sense.
const LONGEST: usize = 256;

/// The console's input.
pub(crate) struct Keyboard {
    domain: &'static Domain,
    partial: Vec<u8>,
}

impl Keyboard {
    /// Listens from now on.
    pub(crate) fn new(domain: &'static Domain) -> Result<Self, Not> {
        ensure(domain.listen_to_console(), "there is no console to listen to")?;
        Ok(Self { domain, partial: Vec::new() })
    }

    /// The next line. Sleeps until it comes: whoever types destroys a guest that waits for nothing.
    pub(crate) fn line(&mut self) -> Result<String, Not> {
        loop {
            if let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                let rest = self.partial.split_off(end + 1);
                let line = core::mem::replace(&mut self.partial, rest);
                return String::from_utf8(line).map_err(|error| failed("what was typed")(&error));
            }
            ensure(self.partial.len() < LONGEST, "a line without an end")?;
            let mut buffer = [0; LONGEST];
            let count = self.domain.read_console(&mut buffer);
            if count == 0 {
                self.domain.wait_for_console();
            }
            self.partial.extend_from_slice(&buffer[..count]);
        }
    }
}
