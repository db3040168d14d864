//! Failures on demand: which call of which command ends early, or is refused.

use std::collections::HashMap;
use std::vec::Vec;
use xen_abi::Errno;

/// A reservation call that ends at an extent, for a reason that Xen does not tell.
#[derive(Clone, Copy, Debug)]
struct ShortCall {
    command: u32,
    call: u64,
    extent: u64,
    stop: Stop,
}

/// Where in its extent a call stops.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// Frames of the extent that are gone when it fails. Only a release goes frame by frame.
    pub(super) after_frames: u64,
}

/// A call that is refused before it does anything.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    number: u32,
    command: Option<u64>,
    error: Errno,
}

/// A reservation call in progress: its command and how many of that command came before it.
pub(super) type CallId = (u32, u64);

/// The script of failures. Each happens once.
#[derive(Default)]
pub(super) struct Faults {
    shorts: Vec<ShortCall>,
    refusals: Vec<Refusal>,
    calls: HashMap<u32, u64>,
}

impl Faults {
    /// The `nth` reservation call of `command` from now on (0 is the next) ends at `extent`.
    pub(super) fn cut_short(&mut self, command: u32, nth: u64, extent: u64, after_frames: u64) {
        let call = self.calls.get(&command).copied().unwrap_or(0) + nth;
        self.shorts.push(ShortCall { command, call, extent, stop: Stop { after_frames } });
    }

    /// The next call of `number` (with this first argument, if one is given) answers `error`.
    pub(super) fn refuse(&mut self, number: u32, command: Option<u64>, error: Errno) {
        self.refusals.push(Refusal { number, command, error });
    }

    pub(super) fn begin(&mut self, command: u32) -> CallId {
        let calls = self.calls.entry(command).or_insert(0);
        *calls += 1;
        (command, *calls - 1)
    }

    pub(super) fn at(&mut self, (command, call): CallId, extent: u64) -> Option<Stop> {
        let hit = |short: &ShortCall| (short.command, short.call, short.extent) == (command, call, extent);
        let index = self.shorts.iter().position(hit)?;
        Some(self.shorts.remove(index).stop)
    }

    pub(super) fn refusal(&mut self, number: u32, first_argument: u64) -> Option<Errno> {
        let hit = |refusal: &Refusal| {
            refusal.number == number && refusal.command.is_none_or(|command| command == first_argument)
        };
        let index = self.refusals.iter().position(hit)?;
        Some(self.refusals.remove(index).error)
    }
}
