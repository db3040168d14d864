//! The table: every tunable's name, values, unit, value at start, and what it does.
//!
//! A row here is all that a tunable needs: the option of the command line, the node in xenstore, the line in
//! `docs/tunables.md` and the shell's answers come from it.

use crate::cmdline::{Kind, Opt};

/// What there is to know about a tunable.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// Which.
    pub id: Id,
    /// The group that it belongs to.
    pub group: Group,
    /// Its name within the group.
    pub name: &'static str,
    /// Group and name, as in xenstore and in the shell: `group/name`.
    pub path: &'static str,
    /// The option of the command line.
    pub option: &'static str,
    /// The values that it takes. Never [`Kind::Text`].
    pub kind: Kind,
    /// The unit of a number; empty for what has none.
    pub unit: &'static str,
    /// Its value until somebody sets it.
    pub initial: Initial,
    /// What it does, in one line.
    pub help: &'static str,
}

/// The value of a tunable that nobody has set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initial {
    /// A switch's 0 or 1, a choice's index, or a number.
    Value(u64),
    /// Computed while the machine comes up, in this way.
    AtStart(&'static str),
}

/// Names options, rows and groups, and counts them.
macro_rules! table {
    ($($(#[doc = $group_help:literal])+ $group:ident $group_name:literal {
        $($(#[doc = $help:literal])+ $id:ident: $name:literal $(as $option:literal)?, $kind:expr, $unit:literal, $initial:expr;)+
    })+) => {
        /// Tunables of one mechanism.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Group {
            $($(#[doc = $group_help])+ $group,)+
        }

        impl Group {
            /// All groups.
            pub const ALL: &'static [Self] = &[$(Self::$group,)+];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$group => $group_name,)+ }
            }

            /// What its tunables are about.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$group => concat!($($group_help,)+).trim_ascii(),)+ }
            }
        }

        /// A tunable.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Id {
            $($($(#[doc = $help])+ $id,)+)+
        }

        /// All tunables, by [`Id`].
        pub static TABLE: [Declaration; COUNT] = [
            $($(Declaration {
                id: Id::$id,
                group: Group::$group,
                name: $name,
                path: concat!($group_name, "/", $name),
                option: table!(@option $group_name $name $($option)?),
                kind: $kind,
                unit: $unit,
                initial: $initial,
                help: concat!($($help,)+).trim_ascii(),
            },)+)+
        ];

        /// How many there are.
        pub const COUNT: usize = [$($(Id::$id,)+)+].len();
    };
    (@option $group:literal $name:literal) => { concat!($group, ".", $name) };
    (@option $group:literal $name:literal $option:literal) => { $option };
}

const MIB: Kind = Kind::Integer { min: 0, max: MAX_MIB };
const DIVISOR: Kind = Kind::Integer { min: 1, max: u32::MAX as u64 };
/// The largest number of MiB that a tunable takes: 16 TiB less one, whose count of frames fits 32 bits.
const MAX_MIB: u64 = (1 << 24) - 1;
const ON: Initial = Initial::Value(1);

table! {
    /// How the guest chooses its own memory target.
    Selfballoon "selfballoon" {
        /// the guest chooses its own target, below the toolstack's; 0: it follows the toolstack's
        Selfballooning: "selfballooning", Kind::Switch, "", ON;
        /// what decides: memory that is promised, or measured use and pressure
        Policy: "policy", Kind::Choice(&["committed", "pressure"]), "", Initial::Value(0);
        /// whose formula policy=committed follows: of Linux 3.1, of 2011 to 2013, or of the last version
        Generation: "generation", Kind::Choice(&["first", "second", "last"]), "", Initial::Value(2);
        /// the original's arithmetic bit for bit, or without its defects
        Arithmetic: "arithmetic", Kind::Choice(&["compatible", "fixed"]), "", Initial::Value(1);
        /// between two runs
        SelfballoonInterval: "selfballoon_interval", Kind::Integer { min: 1, max: 86_400 }, "s", Initial::Value(5);
        /// a run goes down by one part in this many of the way
        SelfballoonDownhysteresis: "selfballoon_downhysteresis", DIVISOR, "", Initial::Value(8);
        /// a run goes up by one part in this many of the way
        SelfballoonUphysteresis: "selfballoon_uphysteresis", DIVISOR, "", Initial::Value(1);
        /// the least memory above the kernel's own reserve; 0: chosen by the size of the guest
        SelfballoonMinUsableMb: "selfballoon_min_usable_mb", MIB, "MiB", Initial::Value(0);
        /// held on top of what is promised
        SelfballoonReservedMb: "selfballoon_reserved_mb", MIB, "MiB", Initial::AtStart("10 % of the memory at start");
        /// a run moves by one frame at least until it is at the goal; 0: it may stop a little short, as the original does
        SelfballoonReachGoal: "selfballoon_reach_goal", Kind::Switch, "", ON;
        /// pages are brought home from frontswap when there is room
        FrontswapSelfshrinking: "frontswap_selfshrinking", Kind::Switch, "", ON;
        /// a shrink brings home one part in this many
        FrontswapHysteresis: "frontswap_hysteresis", DIVISOR, "", Initial::Value(20);
        /// runs without growth of frontswap before a shrink
        FrontswapInertia: "frontswap_inertia", DIVISOR, "runs", Initial::Value(3);
        /// policy=pressure: the time in which an excess shrinks to a third
        PressureDecayS: "pressure_decay_s", Kind::Integer { min: 1, max: 3600 }, "s", Initial::Value(10);
        /// policy=pressure: the least headroom
        PressureHeadroomMb: "pressure_headroom_mb", MIB, "MiB", Initial::Value(4);
        /// policy=pressure: the least headroom, as a part of what is in use
        PressureHeadroomPercent: "pressure_headroom_percent", Kind::Integer { min: 0, max: 100 }, "%", Initial::Value(5);
        /// policy=pressure: squeezes inactive pages out to learn whether anybody needs them
        PressureProbe: "pressure_probe", Kind::Switch, "", ON;
    }
    /// How memory goes to the hypervisor and comes back.
    Balloon "balloon" {
        /// pages that are not known to be zero are overwritten before they leave
        ScrubPages: "xen_scrub_pages" as "xen_scrub_pages", Kind::Switch, "", ON;
    }
    /// Paged memory.
    Vm "vm" {
        /// when a promise of memory is refused: when it is absurd, never, or when it could not be kept
        Overcommit: "overcommit", Kind::Choice(&["heuristic", "always", "strict"]), "", Initial::Value(2);
    }
    /// Where pages go that are not in memory.
    Swap "swap" {
        /// pages leave when memory is short; 0: none leaves any more, and those that are out come back when they are touched
        SwapEvict: "evict", Kind::Switch, "", ON;
        /// the most that the compressed pool may take, as a part of the memory that the guest may have
        SwapPoolMaxPercent: "pool_max_percent", Kind::Integer { min: 0, max: 100 }, "%", Initial::Value(60);
        /// promised beyond memory because swap will take it, as a part of the memory that the guest may have; what is
        /// promised so, and does not compress, cannot be kept
        SwapCommitPercent: "commit_percent", Kind::Integer { min: 0, max: 300 }, "%", Initial::Value(0);
        /// pages may go to the hypervisor's tmem, where it has any and the option `tmem` asks for it; 0: those that are there come back or go to other tiers, and it is left
        SwapTmem: "tmem", Kind::Switch, "", ON;
    }
}

impl Id {
    /// All tunables.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.id)
    }

    /// Its row in the table.
    #[must_use]
    pub fn declaration(self) -> &'static Declaration {
        &TABLE[self as usize]
    }
}

/// The options of the command line.
pub static OPTIONS: &[Opt] = &{
    let mut options = [Opt { name: "", kind: Kind::Switch, help: "" }; COUNT];
    let mut index = 0;
    while index < COUNT {
        options[index] = Opt { name: TABLE[index].option, kind: TABLE[index].kind, help: TABLE[index].help };
        index += 1;
    }
    options
};

/// What the rest relies on.
const _: () = {
    let mut index = 0;
    while index < COUNT {
        assert!(TABLE[index].id as usize == index, "the table is in the order of the ids");
        let least_and_most = match TABLE[index].kind {
            Kind::Switch => (0, 1),
            Kind::Choice(words) => (0, words.len() as u64 - 1),
            Kind::Integer { min, max } => (min, max),
            Kind::Text => panic!("a tunable is a number"),
        };
        assert!(least_and_most.1 < super::UNSET, "the largest number stands for no value");
        if let Initial::Value(value) = TABLE[index].initial {
            assert!(
                value >= least_and_most.0 && value <= least_and_most.1,
                "a value at start that is not accepted"
            );
        }
        index += 1;
    }
};
