//! Builds, runs and tests Ebb.
mod build;
mod test;

use clap::Parser;

/// Builds, runs and tests Ebb.
#[derive(Parser)]
enum Command {
    /// Builds an image and prints its sizes.
    Build(build::Args),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Build(args) => args.run(),
    }
}
