//! Where pages go that are not in memory: the tiers behind frontswap that need nothing but the guest itself.
//!
//! [`same`] keeps a page that is one word over and over in that word. [`pool`] keeps pages compressed, in frames of the
//! guest. Each is a value with the same three verbs: store a page and get a handle, load it back, free it. A page that
//! a tier does not want is refused, by name, and goes to the next.
//!
//! [`tiers`] makes tiers of frontswap of them, [`slots`] says which slots are free, and [`space`] is all of it as paged
//! memory sees it. [`mod@drain`] empties what would not survive a suspend, and [`cold`] what is too full.

pub mod cold;
pub mod drain;
pub mod pool;
pub mod same;
pub mod slots;
pub mod space;
pub mod tiers;

#[cfg(test)]
mod tests;

use crate::units::FRAME_SIZE;

/// The contents of a page.
pub type Page = [u8; FRAME_SIZE];
