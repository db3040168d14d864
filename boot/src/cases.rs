//! Test cases of an image, registered where they are written.
//!
//! A case is a static in a link section of its own; the linker puts them side by side and marks the ends. An
//! image without cases has an empty list, and no cost.
#![expect(unsafe_code, reason = "the section between the linker's two marks")]

use crate::Machine;
use alloc::string::String;

/// How a case ended that did not pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Not {
    /// Something is wrong.
    Failed(String),
    /// It cannot be asked here.
    Skipped(String),
}

impl From<&str> for Not {
    fn from(why: &str) -> Self {
        Self::Failed(why.into())
    }
}

impl From<String> for Not {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// How a case is meant to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// It returns.
    Returns,
    /// It returns, but needs somebody outside who acts on its records, so it runs only when named.
    WithHelp,
    /// It ends the machine, with an epitaph.
    Epitaph {
        /// What the epitaph says happened: `panic`, or the exception's name.
        what: &'static str,
        /// Part of a function's name that its backtrace must have.
        through: &'static str,
    },
    /// The same, and the epitaph names another CPU than the one that boots.
    EpitaphElsewhere {
        /// As in [`Epitaph`](Self::Epitaph).
        what: &'static str,
        /// As in [`Epitaph`](Self::Epitaph).
        through: &'static str,
    },
}

/// What a case needs to be asked at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// A machine.
    Nothing,
    /// The services of a domU.
    Xen,
    /// More than one CPU.
    Cpus,
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// `area.name`, unique in the image.
    pub id: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// How it is meant to end.
    pub ends: Ends,
    /// What it does.
    pub run: fn(&'static Machine) -> Result<(), Not>,
}

/// Registers a [`Case`].
#[macro_export]
macro_rules! case {
    ($id:literal, $run:expr) => {
        $crate::case!($id, $crate::cases::Needs::Nothing, $run, $crate::cases::Ends::Returns);
    };
    (on Xen, with help: $id:literal, $run:expr) => {
        $crate::case!($id, $crate::cases::Needs::Xen, $run, $crate::cases::Ends::WithHelp);
    };
    (on several CPUs: $id:literal, $run:expr) => {
        $crate::case!($id, $crate::cases::Needs::Cpus, $run, $crate::cases::Ends::Returns);
    };
    (on several CPUs: $id:literal, $run:expr, $ends:expr) => {
        $crate::case!($id, $crate::cases::Needs::Cpus, $run, $ends);
    };
    (on Xen: $id:literal, $run:expr) => {
        $crate::case!($id, $crate::cases::Needs::Xen, $run, $crate::cases::Ends::Returns);
    };
    ($id:literal, $run:expr, $ends:expr) => {
        $crate::case!($id, $crate::cases::Needs::Nothing, $run, $ends);
    };
    ($id:literal, $needs:expr, $run:expr, $ends:expr) => {
        #[expect(unsafe_code, reason = "a static in the section of cases")]
        const _: () = {
            #[used]
            #[unsafe(link_section = "ebb_cases")]
            static CASE: $crate::cases::Case =
                $crate::cases::Case { id: $id, needs: $needs, ends: $ends, run: $run };
        };
    };
}

unsafe extern "C" {
    /// Where the section begins, by `link.ld`.
    static image_cases_start: u8;
    /// Where it ends.
    static image_cases_end: u8;
}

/// All registered cases.
#[must_use]
pub fn registered() -> &'static [Case] {
    let start = (&raw const image_cases_start).cast::<Case>();
    let bytes = (&raw const image_cases_end).addr() - start.addr();
    // SAFETY: between the marks lie the statics of `case!` and nothing else, all of one type, which leaves no
    // gaps: the section is aligned like the type. They are constants of the image.
    unsafe { core::slice::from_raw_parts(start, bytes / size_of::<Case>()) }
}
