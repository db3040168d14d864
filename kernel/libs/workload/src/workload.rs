//! The choice among the applications.

use crate::environment::Environment;
use crate::hog::Hog;
use crate::kv::Kv;
use crate::options::{Kind, Options};
use crate::player::Player;
use crate::progress::Progress;
use crate::run::Outcome;
use crate::trace::{Trace, TraceError};
use allocator_api2::alloc::Allocator;
use core::fmt;

/// An application, ready to run. All its bulk data comes from `A`.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it, and it is a few hundred bytes")]
pub enum Workload<A: Allocator + Clone> {
    /// The key-value store.
    Kv(Kv<A>),
    /// The memory hog.
    Hog(Hog<A>),
    /// The player of a trace.
    Trace(Player<A>),
}

/// An application that cannot be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetupError {
    /// `workload=trace` without a trace.
    NoTrace,
    /// The trace cannot be played.
    Trace(TraceError),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTrace => f.write_str("workload=trace needs a trace, as a boot module"),
            Self::Trace(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SetupError {}

impl<A: Allocator + Clone> Workload<A> {
    /// The application of `options`, none where none is chosen; `trace` is the text of a boot module. Holds no
    /// memory yet, but for the points of a trace.
    ///
    /// # Errors
    ///
    /// [`SetupError`].
    pub fn from_options(
        options: &Options,
        trace: Option<&[u8]>,
        allocator: A,
    ) -> Result<Option<Self>, SetupError> {
        Ok(Some(match options.kind {
            Kind::None => return Ok(None),
            Kind::Kv => Self::Kv(Kv::new(options, allocator)),
            Kind::Hog => Self::Hog(Hog::new(options, allocator)),
            Kind::Trace => {
                let text = trace.ok_or(SetupError::NoTrace)?;
                let trace = Trace::parse(text, allocator.clone()).map_err(SetupError::Trace)?;
                Self::Trace(Player::new(options, trace, allocator))
            }
        }))
    }

    /// Runs to its end on the calling thread. Blocks; `progress` may be read from other threads meanwhile.
    pub fn run<E: Environment>(&mut self, environment: &mut E, progress: &Progress) -> Outcome {
        match self {
            Self::Kv(workload) => workload.run(environment, progress),
            Self::Hog(workload) => workload.run(environment, progress),
            Self::Trace(workload) => workload.run(environment, progress),
        }
    }
}
