//! Builds, runs and tests Ebb.
mod test;
fn main() {}
