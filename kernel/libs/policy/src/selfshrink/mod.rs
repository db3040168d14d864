//! Frontswap self-shrinking: pages that were swapped out come home when swapping has been quiet.
//!
//! A page in frontswap costs memory somewhere and comes back only when somebody touches it. After a spike that may
//! be never, so every run in which frontswap has not grown counts down an inertia; when it ends, one part in
//! `frontswap_hysteresis` of the pages is brought home. Growth starts the countdown again.
//!
//! ```text
//! last = held; held = pages in frontswap
//! held = 0 or held > last:   countdown = inertia; done
//! countdown > 0:             countdown -= 1; if still > 0: done
//! shrink to                  0 if held <= hysteresis, else held - held / hysteresis
//! last generation:           countdown = inertia
//! ```
//!
//! The generations before the last leave the countdown at 0 after the first shrink, so that every later run
//! shrinks. The fixed arithmetic always reloads; it brings home no more than there is room for; and it notices when
//! shrinks that had room bring nothing home ([`State::is_stalled`]).
//!
//! [`devices`] is the step below: from which swap devices the pages come.

pub mod devices;

use crate::{Arithmetic, Generation, Settings};

/// After how many shrinks that had room and brought nothing home the pages in frontswap are taken for lost to the
/// goal. One may meet a race, two bad luck.
pub const STALLED_AFTER: u8 = 3;

/// What is kept between runs. Starts as its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    held_frames: u64,
    countdown: u32,
    /// The last run ordered a shrink.
    ordered: bool,
    /// Shrinks in a row that brought nothing home.
    fruitless: u8,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Self-shrinking is off.
    Off,
    /// Frontswap is empty or has grown: the countdown starts again.
    Reload,
    /// The countdown has this many runs left.
    Wait {
        /// Runs until a shrink.
        runs: u32,
    },
    /// Bring pages home until frontswap holds this many.
    Shrink {
        /// Pages to leave in frontswap.
        to_frames: u64,
    },
    /// The pressure policy is probing: what it pushed out as unneeded comes home when it is touched, not before.
    Held,
    /// The run came before its time, because an allocation was in need: nothing is counted, nothing comes home.
    Early,
    /// It is time, but there is no room; the next run tries again.
    NoRoom,
    /// A hysteresis of 0: the original would stop the machine here (its arithmetic only).
    DividedByZero,
}

impl State {
    /// Whether shrinks have room and bring nothing home, [`STALLED_AFTER`] in a row. Ends when frontswap gets
    /// smaller or grows.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.fruitless >= STALLED_AFTER
    }

    /// The countdown starts again. The original does this when `frontswap_inertia` is written.
    #[must_use]
    pub fn reload(self, settings: &Settings) -> Self {
        Self { countdown: settings.frontswap_inertia, ..self }
    }

    /// One run: frontswap holds `held_frames`, and `room_frames` can be brought home without taking free memory
    /// below its watermark (only the fixed arithmetic looks at this).
    #[must_use]
    pub fn step(self, settings: &Settings, held_frames: u64, room_frames: u64) -> (Self, Action) {
        if !settings.frontswap_selfshrinking {
            return (self, Action::Off);
        }
        let fixed = settings.arithmetic == Arithmetic::Fixed;
        let mut next = Self { held_frames, ordered: false, ..self };
        if held_frames != self.held_frames {
            next.fruitless = 0;
        } else if self.ordered {
            next.fruitless = self.fruitless.saturating_add(1);
        }
        if held_frames == 0 || held_frames > self.held_frames {
            next.countdown = settings.frontswap_inertia;
            return (next, Action::Reload);
        }
        next.countdown = self.countdown.saturating_sub(1);
        if next.countdown != 0 {
            return (next, Action::Wait { runs: next.countdown });
        }
        let hysteresis = u64::from(settings.frontswap_hysteresis).max(u64::from(fixed));
        let mut to_frames = 0;
        if held_frames > hysteresis {
            let Some(part) = held_frames.checked_div(hysteresis) else {
                return (next, Action::DividedByZero);
            };
            to_frames = held_frames - part;
        }
        if fixed {
            if room_frames == 0 {
                return (next, Action::NoRoom);
            }
            to_frames = to_frames.max(held_frames.saturating_sub(room_frames));
        }
        if fixed || settings.generation == Generation::Last {
            next.countdown = settings.frontswap_inertia;
        }
        next.ordered = true;
        (next, Action::Shrink { to_frames })
    }
}

#[cfg(test)]
mod tests;
