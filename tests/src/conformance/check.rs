//! How a case says what is wrong: values, small enough for a guest without a heap.

use core::fmt;
use xen_abi::Errno;

/// What a case answers.
pub type Outcome = Result<(), Stop>;

/// Why a case ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The hypervisor does something else.
    Fail(Failure),
    /// The case does not apply here.
    Skip(&'static str),
}

/// A statement that did not hold, and the two numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What was compared.
    pub what: &'static str,
    /// What the hypervisor answered; an error is its negative number.
    pub got: i64,
    /// What it should have answered.
    pub wanted: i64,
}

impl Failure {
    /// `what` was `got` and should have been `wanted`.
    #[must_use]
    pub const fn new(what: &'static str, got: u64, wanted: u64) -> Self {
        Self { what, got: got.cast_signed(), wanted: wanted.cast_signed() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, got, wanted } = self;
        write!(f, "{what}: got {got} ({got:#x}), wanted {wanted} ({wanted:#x})")
    }
}

/// The two numbers are the same.
pub(super) fn same(what: &'static str, got: u64, wanted: u64) -> Outcome {
    if got == wanted { Ok(()) } else { Err(Stop::Fail(Failure::new(what, got, wanted))) }
}

/// The raw result is this number.
pub(super) fn answers(what: &'static str, got: i64, wanted: i64) -> Outcome {
    if got == wanted { Ok(()) } else { Err(Stop::Fail(Failure { what, got, wanted })) }
}

/// The condition holds.
pub(super) fn holds(what: &'static str, condition: bool) -> Outcome {
    same(what, u64::from(condition), 1)
}

/// The call succeeded.
pub(super) fn done<T>(what: &'static str, result: Result<T, Errno>) -> Result<T, Stop> {
    result.map_err(|error| Stop::Fail(Failure { what, got: error.to_rax(), wanted: 0 }))
}

/// The call was refused with this error.
pub(super) fn refused<T>(what: &'static str, result: Result<T, Errno>, error: Errno) -> Outcome {
    let got = result.map_or_else(Errno::to_rax, |_| 0);
    answers(what, got, error.to_rax())
}
