//! Builds, runs and tests Ebb.

mod bare;
mod bench;
mod build;
mod console;
mod cpio;
#[cfg(test)]
mod docs;
mod image;
mod interrupt;
mod linux;
mod paths;
mod plot;
mod qemu;
mod run;
mod setup;
mod test;
mod view;
mod xen;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Builds, runs and tests Ebb.
///
/// Nothing needs to be prepared: what a command needs and this machine lacks is named, or fetched as packages of
/// the distribution; see `setup`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get what running needs: the compiler's target, QEMU, and Xen with a dom0 to boot in it.
    ///
    /// QEMU is installed, as root or through sudo. Xen, its toolstack and a Linux for dom0 are downloaded as packages
    /// and unpacked under the target directory; they are not installed and change nothing on this machine. The other
    /// commands do all this by themselves when it is needed.
    Setup(setup::Args),
    /// Build an image, with the names of its functions for backtraces, and print its size by section.
    Build(build::Args),
    /// Run the image as a guest of real Xen, or on bare QEMU, and show its console.
    ///
    /// By default QEMU boots Xen with a small dom0, which creates the guest; its console comes live, with the seconds
    /// since its creation. The command ends when the guest does, and fails unless the guest ended well. Ctrl-C shuts
    /// the guest and the machine down.
    Run(run::Args),
    /// Run the tests: on the host, on the model hypervisor, in the model checker, in guests on bare QEMU and on
    /// real Xen.
    ///
    /// Each case has its own bound, and its own process or its own record from a guest; none is judged by its text.
    /// Ends with the counts, and with an error if a case failed.
    Test(test::Args),
    /// Measure, beside what others offer for the same.
    ///
    /// Prints a table; `--json` has the same for programs. Figures from a machine that does other things, or that is
    /// emulated, are comparisons.
    Bench(bench::Args),
    /// Draw the chart of a run again, from its table of samples.
    Plot(plot::Args),
    /// Write the image and a configuration for `xl`, for a Xen host of your own.
    Image(image::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => args.run(),
        Command::Run(args) => run::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::Image(args) => image::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
