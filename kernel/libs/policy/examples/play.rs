//! Plays a trace of demand under both policies and prints the reservation over time, to be plotted or read.
//!
//! ```text
//! cargo run -p ebb-policy --example play -- trace.csv 5
//! ```
//!
//! The file has a line `t_s,used_mib,committed_mib` and then points; between two points demand goes straight. The
//! number is the interval between runs in seconds. Without arguments a small trace of its own is played.

#[path = "../tests/sim/mod.rs"]
#[allow(dead_code, reason = "the comparison looks at more of it")]
mod sim;

use std::error::Error;
use std::io::Write;

use policy::{FRAMES_PER_MIB, Policy, Settings};

const DEFAULT: &str = "t_s,used_mib,committed_mib
    0,60,72
    30,60,72
    32,260,312
    90,260,312
    92,60,72
    180,60,72";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let csv = arguments.next().map_or_else(|| Ok(DEFAULT.into()), std::fs::read_to_string)?;
    let interval = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let trace = sim::parse(&csv)?;
    let [committed, pressure] = [Policy::Committed, Policy::Pressure].map(|policy| {
        let mut settings = Settings { policy, selfballoon_interval: interval, ..Settings::default() };
        settings.resolve_reserve(sim::STATIC_MAX_MIB * FRAMES_PER_MIB);
        sim::play(&settings, &trace, sim::STATIC_MAX_MIB).reservation
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "t_s,committed_policy_mib,pressure_policy_mib")?;
    for (t_s, (committed, pressure)) in committed.iter().zip(&pressure).step_by(10).enumerate() {
        writeln!(out, "{t_s},{},{}", committed / FRAMES_PER_MIB, pressure / FRAMES_PER_MIB)?;
    }
    Ok(())
}
