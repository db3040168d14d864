//! Tunables: what an operator may set while the guest runs.
//!
//! [`TABLE`] declares them; a [`Tunables`] holds their values, as atomics that any context reads. A value comes from
//! the command line, from dom0 through xenstore ([`Mirror`]) or from the console shell, always as text, and is
//! accepted only if its row says so: a value that would make a mechanism divide by zero, or wedge it, does not exist.
//!
//! A group is offered only once its mechanism [serves](Tunables::serve) it, so that nothing can be set that does
//! nothing. The command line comes before any mechanism and sets values of every group.

mod elastic;
mod mirror;
mod table;

pub use elastic::{SWITCHES, apply_switch};
pub use mirror::{Mirror, ROOT, STATUS};
pub use table::{COUNT, Declaration, Group, Id, Initial, OPTIONS, TABLE};

use crate::cmdline::{Diagnostic, Item, Kind, Value};
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::once::Once;

/// In place of a value that is computed at start and has not been.
const UNSET: u64 = u64::MAX;

/// The longest part of a refused value that is shown.
const SHOWN: usize = 48;

/// The values of all tunables.
///
/// Any context. Each value is changed and read on its own: who needs several reads them one by one, and each is valid.
#[derive(Debug)]
pub struct Tunables {
    values: [AtomicU64; COUNT],
    /// A bit for each [`Group`] that is served.
    served: AtomicU32,
    generation: AtomicU64,
    listener: Once<fn(Id)>,
}

impl Default for Tunables {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a value was not set. Shown, it is a sentence for the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal<'t> {
    /// There is no tunable of this name.
    Unknown(&'t str),
    /// There is, and no mechanism that would obey it.
    NotServed(Id),
    /// The value does not fit. The one in force stays.
    BadValue(Id, &'t str),
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "{:?}: there is no such tunable", Shortened(name)),
            Self::NotServed(id) => write!(f, "{}: nothing obeys it in this guest", id.declaration().path),
            Self::BadValue(id, value) => {
                let Declaration { path, kind, unit, .. } = id.declaration();
                let space = if unit.is_empty() { "" } else { " " };
                write!(f, "{path}: {:?} is not accepted; accepted: {kind}{space}{unit}", Shortened(value))
            }
        }
    }
}

impl core::error::Error for Refusal<'_> {}

/// Text of an operator, who may have sent a book.
struct Shortened<'t>(&'t str);

impl fmt::Debug for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.0[..self.0.floor_char_boundary(SHOWN)];
        write!(f, "{start:?}{}", if start.len() < self.0.len() { "..." } else { "" })
    }
}

/// A value in the form in which it is published and read: a number, or a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Text {
    id: Id,
    value: u64,
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id.declaration().kind {
            Kind::Choice(words) => f.write_str(word(words, self.value)),
            Kind::Switch | Kind::Integer { .. } | Kind::Text => write!(f, "{}", self.value),
        }
    }
}

/// The word of a choice's value.
fn word(words: &'static [&'static str], value: u64) -> &'static str {
    match usize::try_from(value).ok().and_then(|index| words.get(index)) {
        Some(word) => word,
        None => unreachable!("a choice of {} words has value {value}", words.len()),
    }
}

impl Tunables {
    /// All at their values at start, no group served.
    #[must_use]
    pub const fn new() -> Self {
        let mut values = [const { AtomicU64::new(UNSET) }; COUNT];
        let mut index = 0;
        while index < COUNT {
            if let Initial::Value(value) = TABLE[index].initial {
                values[index] = AtomicU64::new(value);
            }
            index += 1;
        }
        Self { values, served: AtomicU32::new(0), generation: AtomicU64::new(0), listener: Once::new() }
    }

    /// Offers a group from now on: its mechanism is there and obeys it.
    pub fn serve(&self, group: Group) {
        self.served.fetch_or(1 << group as u32, Ordering::AcqRel);
    }

    /// Whether a group is offered.
    #[must_use]
    pub fn is_served(&self, group: Group) -> bool {
        self.served.load(Ordering::Acquire) & 1 << group as u32 != 0
    }

    /// The tunables that are offered.
    pub fn offered(&self) -> impl Iterator<Item = Id> {
        Id::all().filter(|id| self.is_served(id.declaration().group))
    }

    /// The offered tunable of that name: `group/name`, `group.name` or the option of the command line.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`], [`Refusal::NotServed`].
    pub fn named<'t>(&self, name: &'t str) -> Result<Id, Refusal<'t>> {
        let is = |row: &&Declaration| {
            let dotted = name.split_once('.').is_some_and(|parts| parts == (row.group.name(), row.name));
            row.path == name || row.option == name || dotted
        };
        let id = TABLE.iter().find(is).ok_or(Refusal::Unknown(name))?.id;
        if self.is_served(id.declaration().group) { Ok(id) } else { Err(Refusal::NotServed(id)) }
    }

    /// The value: a switch's 0 or 1, a choice's index, a number. `None` if it is computed at start and has not been.
    #[must_use]
    pub fn value(&self, id: Id) -> Option<u64> {
        Some(self.values[id as usize].load(Ordering::Acquire)).filter(|value| *value != UNSET)
    }

    /// The value of a number; 0 as long as it has none.
    #[must_use]
    pub fn number(&self, id: Id) -> u64 {
        self.value(id).unwrap_or(0)
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn is_on(&self, id: Id) -> bool {
        self.number(id) != 0
    }

    /// The value of a choice.
    ///
    /// # Panics
    ///
    /// If `id` is not a choice.
    #[must_use]
    pub fn word(&self, id: Id) -> &'static str {
        let Kind::Choice(words) = id.declaration().kind else {
            unreachable!("{} is not a choice of words", id.declaration().path)
        };
        word(words, self.number(id))
    }

    /// The value as text, which [`set`](Self::set) takes back.
    #[must_use]
    pub fn text(&self, id: Id) -> Option<Text> {
        self.value(id).map(|value| Text { id, value })
    }

    /// Sets a value from text, whoever offers it or not, and answers whether that changed it. Spaces around the value
    /// do not count.
    ///
    /// # Errors
    ///
    /// [`Refusal::BadValue`]; the value in force stays.
    pub fn set<'t>(&self, id: Id, text: &'t str) -> Result<bool, Refusal<'t>> {
        let refused = Refusal::BadValue(id, text);
        let value = id.declaration().kind.read(Some(text.trim_ascii())).ok_or(refused)?;
        Ok(self.store(id, number_of(id, value).ok_or(refused)?))
    }

    /// Sets the value of a tunable that is computed at start, unless somebody has set it already. Answers the value in
    /// force.
    ///
    /// # Panics
    ///
    /// If its row does not accept `value`.
    pub fn resolve(&self, id: Id, value: u64) -> u64 {
        let accepted = match id.declaration().kind {
            Kind::Integer { min, max } => (min..=max).contains(&value),
            Kind::Switch => value <= 1,
            Kind::Choice(words) => value < words.len() as u64,
            Kind::Text => false,
        };
        assert!(accepted, "{} is computed as {value}, which it does not accept", id.declaration().path);
        match self.values[id as usize].compare_exchange(UNSET, value, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                self.changed(id);
                value
            }
            Err(set) => set,
        }
    }

    /// Takes the value of an option of [`OPTIONS`], and answers whether it was one.
    pub fn apply(&self, item: &Item<'_>) -> bool {
        let Item::Option(opt, value) = item else { return false };
        let row = TABLE.iter().find(|row| row.option == opt.name);
        let Some((id, value)) = row.and_then(|row| Some((row.id, number_of(row.id, *value)?))) else {
            return false;
        };
        self.store(id, value);
        true
    }

    /// How often a value has changed. Who remembers it knows whether to look again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Has `listener` called after each change of a value, in the context of whoever changes it, which may be any. Only
    /// the first call counts.
    pub fn on_change(&self, listener: fn(Id)) {
        self.listener.call_once(|| listener);
    }

    fn store(&self, id: Id, value: u64) -> bool {
        let changed = self.values[id as usize].swap(value, Ordering::AcqRel) != value;
        if changed {
            self.changed(id);
        }
        changed
    }

    fn changed(&self, id: Id) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if let Some(listener) = self.listener.get() {
            listener(id);
        }
    }
}

/// What a typed value is stored as.
fn number_of(id: Id, value: Value<'_>) -> Option<u64> {
    match (value, id.declaration().kind) {
        (Value::Switch(on), Kind::Switch) => Some(on.into()),
        (Value::Integer(number), Kind::Integer { .. }) => Some(number),
        (Value::Choice(word), Kind::Choice(words)) => {
            words.iter().position(|one| *one == word).map(|index| index as u64)
        }
        _ => None,
    }
}

/// What is wrong with an option of [`OPTIONS`], with its unit; `None` for another option's diagnosis.
#[must_use]
pub fn explain<'w>(diagnostic: &Diagnostic<'w>) -> Option<Refusal<'w>> {
    let Diagnostic::BadValue { name, value, .. } = diagnostic else { return None };
    let row = TABLE.iter().find(|row| row.option == *name)?;
    Some(Refusal::BadValue(row.id, value.unwrap_or("")))
}

#[cfg(test)]
mod docs;
#[cfg(test)]
mod tests;
