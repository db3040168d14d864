//! Builds, runs and tests Ebb.
fn main() {}
