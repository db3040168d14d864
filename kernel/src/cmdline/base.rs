//! The options that every image has: logging, the console, processors.

use super::{Item, Kind, Opt, Value};
use log::LevelFilter;

/// Names of log levels, and numbers as Linux has them.
const LEVELS: [(&str, LevelFilter); 15] = [
    ("off", LevelFilter::Off),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
    ("0", LevelFilter::Off),
    ("1", LevelFilter::Off),
    ("2", LevelFilter::Off),
    ("3", LevelFilter::Off),
    ("4", LevelFilter::Error),
    ("5", LevelFilter::Warn),
    ("6", LevelFilter::Warn),
    ("7", LevelFilter::Info),
    ("8", LevelFilter::Debug),
];

const LEVEL_WORDS: [&str; LEVELS.len()] = {
    let mut words = [""; LEVELS.len()];
    let mut index = 0;
    while index < words.len() {
        words[index] = LEVELS[index].0;
        index += 1;
    }
    words
};

/// Where text for people goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConsoleChoice {
    /// The Xen console where there is one, else the serial port.
    #[default]
    Auto,
    /// The Xen console ring.
    Xen,
    /// The 16550 serial port.
    Uart,
    /// The debug port 0xE9.
    PortE9,
}

/// The options that every image has.
pub static BASE: &[Opt] = &[
    Opt {
        name: "loglevel",
        kind: Kind::Choice(&LEVEL_WORDS),
        help: "what is logged: a name, or a number n as on Linux, where messages of a severity below n are shown \
               (error is 3, warn 4, info 6, debug 7)",
    },
    Opt {
        name: "console",
        kind: Kind::Choice(&["auto", "xen", "hvc0", "uart", "ttyS0", "e9"]),
        help: "where the log goes; hvc0 is xen and ttyS0 is uart",
    },
    Opt {
        name: "maxcpus",
        kind: Kind::Integer { min: 0, max: u32::MAX as u64 },
        help: "how many processors are started at most; 0 is the same as 1",
    },
    Opt { name: "nosmp", kind: Kind::Switch, help: "only the first processor is used" },
];

/// The values of [`BASE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What is logged.
    pub log: LevelFilter,
    /// Where it goes.
    pub console: ConsoleChoice,
    /// How many processors `maxcpus` allows.
    pub max_cpus: u32,
    /// Whether several processors may be used at all.
    pub smp: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { log: LevelFilter::Info, console: ConsoleChoice::Auto, max_cpus: u32::MAX, smp: true }
    }
}

impl Settings {
    /// Processors that may be used: at least the one that boots.
    #[must_use]
    pub const fn cpu_limit(&self) -> u32 {
        if self.smp && self.max_cpus > 1 { self.max_cpus } else { 1 }
    }

    /// Takes the value of an option of [`BASE`], and answers whether it was one.
    pub fn apply(&mut self, item: &Item<'_>) -> bool {
        let Item::Option(opt, value) = item else {
            return false;
        };
        let word = match (opt.name, value) {
            (_, Value::Choice(word)) => word,
            ("maxcpus", Value::Integer(count)) => {
                self.max_cpus = u32::try_from(*count).unwrap_or(u32::MAX);
                return true;
            }
            ("nosmp", Value::Switch(alone)) => {
                self.smp = !alone;
                return true;
            }
            _ => return false,
        };
        match opt.name {
            "loglevel" => match LEVELS.iter().find(|(name, _)| name == word) {
                Some((_, level)) => self.log = *level,
                None => return false,
            },
            "console" => {
                self.console = match *word {
                    "auto" => ConsoleChoice::Auto,
                    "xen" | "hvc0" => ConsoleChoice::Xen,
                    "uart" | "ttyS0" => ConsoleChoice::Uart,
                    "e9" => ConsoleChoice::PortE9,
                    _ => return false,
                };
            }
            _ => return false,
        }
        true
    }
}
