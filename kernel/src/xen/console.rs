//! The paravirtual console: two byte rings in a page shared with the console daemon of dom0.
//!
//! Output is 2048 bytes deep and may have no reader at all: the daemon may not have attached yet, or never. So
//! every wait for room is bounded, text that finds none is dropped and counted, and the count is said when there
//! is room again. One event is sent per write, never per byte: the daemon limits how often a domain may wake it.
//!
//! Layout: Xen, `xen/include/public/io/console.h`. Indices run freely modulo 2^32.

use super::SharedPage;
use crate::port::{EventOps, Wait};
use crate::units::EventPort;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering;
use xen_abi::Errno;
use xen_abi::ring::console as abi;

/// A ring in the page: its bytes and its two indices.
struct Ring {
    name: &'static str,
    data: usize,
    size: u32,
    cons: usize,
    prod: usize,
}

const INPUT: Ring =
    Ring { name: "input", data: abi::IN, size: abi::IN_SIZE as u32, cons: abi::IN_CONS, prod: abi::IN_PROD };
const OUTPUT: Ring = Ring {
    name: "output",
    data: abi::OUT,
    size: abi::OUT_SIZE as u32,
    cons: abi::OUT_CONS,
    prod: abi::OUT_PROD,
};

impl Ring {
    /// Where the byte of free-running index `index` is.
    const fn at(&self, index: u32) -> usize {
        self.data + (index % self.size) as usize
    }

    /// Bytes between the indices.
    const fn used(&self, prod: u32, cons: u32) -> Result<u32, ConsoleError> {
        let used = prod.wrapping_sub(cons);
        if used > self.size { Err(ConsoleError::Corrupt { ring: self.name, prod, cons }) } else { Ok(used) }
    }
}

/// Why the console is not used any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConsoleError {
    /// The other side's index makes the ring hold more than it can, or less than nothing.
    Corrupt {
        /// `input` or `output`.
        ring: &'static str,
        /// The producer's index.
        prod: u32,
        /// The consumer's index.
        cons: u32,
    },
    /// The port cannot send.
    Notify(Errno),
}

impl fmt::Display for ConsoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt { ring, prod, cons } => {
                write!(f, "console {ring} ring is corrupt: producer {prod:#x}, consumer {cons:#x}")
            }
            Self::Notify(error) => write!(f, "console port cannot send: {error}"),
        }
    }
}

impl core::error::Error for ConsoleError {}

/// The console of this domain. After its first error every call returns that error and touches nothing.
#[derive(Debug)]
pub struct Console<P> {
    page: SharedPage,
    port: EventPort,
    platform: P,
    /// Our own indices. The copies in the page are written, never believed.
    out_prod: u32,
    in_cons: u32,
    failed: Option<ConsoleError>,
    after_return: bool,
    /// Dropped since it was last said, and in all.
    unsaid: u64,
    dropped: u64,
    /// Nobody made room within the bound: do not wait again until somebody did.
    stalled: bool,
}

impl<P: EventOps> Console<P> {
    /// The console in `page`, from the indices that it has now: the loader may have written to it.
    #[must_use]
    pub fn new(page: SharedPage, port: EventPort, platform: P) -> Self {
        let out_prod = page.u32(OUTPUT.prod).load(Ordering::Acquire);
        let in_cons = page.u32(INPUT.cons).load(Ordering::Acquire);
        Self {
            page,
            port,
            platform,
            out_prod,
            in_cons,
            failed: None,
            after_return: false,
            unsaid: 0,
            dropped: 0,
            stalled: false,
        }
    }

    /// The port on which the daemon tells of room and of input.
    #[must_use]
    pub const fn port(&self) -> EventPort {
        self.port
    }

    /// Bytes of text that found no room in time.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn fail<R>(&mut self, error: ConsoleError) -> Result<R, ConsoleError> {
        self.failed = Some(error);
        Err(error)
    }

    fn notify(&mut self) -> Result<(), ConsoleError> {
        match self.platform.send(self.port) {
            Ok(()) => Ok(()),
            Err(error) => self.fail(ConsoleError::Notify(error)),
        }
    }

    /// Output that the daemon has not consumed.
    fn unread(&mut self) -> Result<u32, ConsoleError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let cons = self.page.u32(OUTPUT.cons).load(Ordering::Acquire);
        OUTPUT.used(self.out_prod, cons).or_else(|error| self.fail(error))
    }

    /// Writes as much of `text` as there is room for and answers how many of its bytes that was. Never waits;
    /// interrupt-safe.
    ///
    /// A line feed goes out as carriage return and line feed, as terminals want it; this is the only place that
    /// does so. If text was dropped before, a line that says how much goes first.
    ///
    /// # Errors
    ///
    /// The error that ended the use of the console, now or earlier.
    pub fn write(&mut self, text: &[u8]) -> Result<usize, ConsoleError> {
        let room = OUTPUT.size - self.unread()?;
        let start = self.out_prod;
        let mut staged = Staged { page: self.page, start, length: 0, room, after_return: self.after_return };
        if self.unsaid > 0 && !text.is_empty() {
            let mut notice = Staged { ..staged };
            if writeln!(notice, "\n[console: {} bytes were dropped, nobody read them]", self.unsaid).is_err()
            {
                return Ok(0);
            }
            staged = notice;
            self.unsaid = 0;
        }
        let count = text.iter().take_while(|byte| staged.push(**byte)).count();
        self.after_return = staged.after_return;
        if staged.length > 0 {
            self.stalled = false;
            self.out_prod = start.wrapping_add(staged.length);
            self.page.u32(OUTPUT.prod).store(self.out_prod, Ordering::Release);
            self.notify()?;
        }
        Ok(count)
    }

    /// Reads input that is there, up to the length of `into`, and answers how many bytes. Never waits.
    ///
    /// # Errors
    ///
    /// The error that ended the use of the console, now or earlier.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, ConsoleError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let prod = self.page.u32(INPUT.prod).load(Ordering::Acquire);
        let there = INPUT.used(prod, self.in_cons).or_else(|error| self.fail(error))?;
        let count = into.len().min(there as usize);
        for byte in &mut into[..count] {
            *byte = self.page.u8(INPUT.at(self.in_cons)).load(Ordering::Relaxed);
            self.in_cons = self.in_cons.wrapping_add(1);
        }
        if count > 0 {
            self.page.u32(INPUT.cons).store(self.in_cons, Ordering::Release);
            self.notify()?;
        }
        Ok(count)
    }
}

impl<P: EventOps + Wait> Console<P> {
    /// Writes all of `text`, waiting for room until `deadline_ns`. What finds none is dropped and counted.
    ///
    /// Once text was dropped, later calls do not wait until the daemon has read something: a console that
    /// nobody reads costs one wait, not one per line.
    ///
    /// # Errors
    ///
    /// The error that ended the use of the console, now or earlier.
    pub fn write_all(&mut self, text: &[u8], deadline_ns: u64) -> Result<(), ConsoleError> {
        let mut rest = text;
        loop {
            let count = self.write(rest)?;
            rest = &rest[count..];
            if rest.is_empty() {
                return Ok(());
            }
            if self.stalled || self.platform.now_ns() >= deadline_ns {
                self.stalled = true;
                self.unsaid += rest.len() as u64;
                self.dropped += rest.len() as u64;
                return Ok(());
            }
            self.platform.wait(self.port, deadline_ns);
        }
    }

    /// Waits until the daemon has consumed all output, or until `deadline_ns`, and answers whether it has: for
    /// the moment before power-off, which ends the daemon's interest in the ring.
    ///
    /// # Errors
    ///
    /// The error that ended the use of the console, now or earlier.
    pub fn drain(&mut self, deadline_ns: u64) -> Result<bool, ConsoleError> {
        loop {
            if self.unread()? == 0 {
                return Ok(true);
            }
            if self.platform.now_ns() >= deadline_ns {
                return Ok(false);
            }
            self.platform.wait(self.port, deadline_ns);
        }
    }
}

/// Bytes put into free room behind the producer index, not published yet.
struct Staged {
    page: SharedPage,
    start: u32,
    length: u32,
    room: u32,
    after_return: bool,
}

impl Staged {
    /// Puts one byte, or a line feed's two, if there is room.
    fn push(&mut self, byte: u8) -> bool {
        let expand = byte == b'\n' && !self.after_return;
        if self.length + 1 + u32::from(expand) > self.room {
            return false;
        }
        if expand {
            self.store(b'\r');
        }
        self.store(byte);
        self.after_return = byte == b'\r';
        true
    }

    fn store(&mut self, byte: u8) {
        let at = OUTPUT.at(self.start.wrapping_add(self.length));
        self.page.u8(at).store(byte, Ordering::Relaxed);
        self.length += 1;
    }
}

impl Write for Staged {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(|byte| self.push(byte)) { Ok(()) } else { Err(fmt::Error) }
    }
}
