//! Misuse and trouble, as values that a platform prints, counts or compares in a test.

use crate::platform::CpuId;
use core::fmt;

/// Something that should not have happened, was noticed, and was contained.
///
/// `name` is the name the object was made with. What is done about it stands with each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// A reference count was put below zero. The count is poisoned: the object is never released.
    Underflow {
        /// The object.
        name: &'static str,
    },
    /// At the end of a switch to atomic mode the true count was not positive: there was a put too many while the
    /// counts were per CPU. The count is poisoned: the object is never released.
    FoldUnderflow {
        /// The object.
        name: &'static str,
        /// The true count, of which the switch itself holds one: 0 means one put too many.
        count: i64,
    },
    /// A reference count went beyond its limit of 2^62. It is poisoned: the object is never released.
    Overflow {
        /// The object.
        name: &'static str,
    },
    /// A reference was taken from a count that had reached zero. The count is poisoned.
    GetAfterZero {
        /// The object.
        name: &'static str,
    },
    /// A count reached zero a second time in one life. The second release does not happen.
    SecondZero {
        /// The object.
        name: &'static str,
    },
    /// A reference was taken from or given to a count after its exit. Nothing happened.
    UseAfterExit,
    /// A count was dropped although references were outstanding (leaked guards, or raw ones).
    DroppedWithReferences {
        /// The object.
        name: &'static str,
    },
    /// Code that may block was called where it must not.
    BlockingForbidden {
        /// The operation.
        what: &'static str,
    },
    /// A quiescent state was announced inside a read section, or from an interrupt handler. It was not recorded.
    QuiescentInReadSection,
    /// A callback head was queued a second time before it ran. The second call was dropped.
    DoubleCall,
    /// A CPU tried to take a lock that it holds. A panic follows.
    SelfDeadlock {
        /// The lock.
        lock: &'static str,
        /// The CPU.
        cpu: CpuId,
    },
    /// A CPU has waited very long for a lock; said once, the wait goes on.
    LockStuck {
        /// The lock.
        lock: &'static str,
        /// The CPU that waits.
        waiter: CpuId,
        /// The CPU that holds it, as far as known.
        holder: Option<CpuId>,
    },
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Underflow { name } => {
                write!(f, "{name}: put below zero; the object will never be released")
            }
            Self::FoldUnderflow { name, count } => {
                write!(f, "{name}: count {count} at the end of a switch: too many puts; never released")
            }
            Self::Overflow { name } => write!(f, "{name}: more than 2^62 references; never released"),
            Self::GetAfterZero { name } => write!(f, "{name}: get after the count reached zero"),
            Self::SecondZero { name } => write!(f, "{name}: zero a second time in one life"),
            Self::UseAfterExit => f.write_str("a reference count was used after its exit"),
            Self::DroppedWithReferences { name } => write!(f, "{name}: dropped with references outstanding"),
            Self::BlockingForbidden { what } => {
                write!(f, "{what} may block, and is called where it must not")
            }
            Self::QuiescentInReadSection => f.write_str("quiescent state announced inside a read section"),
            Self::DoubleCall => f.write_str("an RCU callback was queued twice"),
            Self::SelfDeadlock { lock, cpu } => write!(f, "lock {lock}: {cpu} holds it and takes it again"),
            Self::LockStuck { lock, waiter, holder: Some(holder) } => {
                write!(f, "lock {lock}: {waiter} has waited very long for {holder}")
            }
            Self::LockStuck { lock, waiter, holder: None } => {
                write!(f, "lock {lock}: {waiter} has waited very long")
            }
        }
    }
}
