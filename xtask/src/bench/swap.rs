//! Memory that does not suffice: the tiers behind frontswap by themselves, on the host, and what an application gets of
//! them in a guest, beside Linux with compressed swap on the same Xen.

mod figures;
mod guests;
mod host;

use super::parse;
use anyhow::Result;
use serde_json::Value;
use std::path::Path;

/// How often guests are measured where nobody says.
pub(super) const ROUNDS: u32 = 2;

/// Measures; in guests, so often.
///
/// # Errors
///
/// If what measures does not build, or fails, or Xen does not come up.
pub(super) fn run(rounds: u32, out: &Path) -> Result<Vec<Value>> {
    let mut records = host::run()?;
    records.extend(guests::run(rounds, out)?);
    Ok(records)
}
