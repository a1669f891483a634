//! `cargo xtask`: builds, runs, tests and benchmarks carpd, on a machine that has no more than cargo, gcc and apt.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod dist;
mod fuzz;
mod lint;
mod mutants;
mod root;
mod run;
mod steps;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Builds, runs, tests and benchmarks carpd. What this needs and the machine lacks is fetched into ~/.cache/carp.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Build carpd
    Build(build::Options),
    /// Run the demo, or carpd itself with the OPTIONS given
    Run(run::Options),
    /// Run all the tests; those that need a kernel run as root
    Test(test::Options),
    /// Run the benchmarks as root, beside ucarp and keepalived; tables, JSON and plots
    Bench(bench::Options),
    /// Have faults befall two servers, as a seed decides, and some beside ucarp and keepalived: who answers meanwhile
    Faults(bench::Faults),
    /// Have faults and floods befall three servers for long, as a seed decides: what changes, what grows, what is left
    Soak(bench::Soak),
    /// Fuzz what reads what others write
    Fuzz(fuzz::Options),
    /// Break carp-common's rules in every small way, one after the other, and see whether its tests notice
    Mutants(mutants::Options),
    /// Make a Debian package, with unit, manual pages and completions, in target/dist
    Dist,
    /// Run clippy, on the host's code and on the kernel's, and cargo doc, with warnings denied
    Lint,
}

fn main() -> ExitCode {
    let Err(error) = run(Command::parse()) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    ExitCode::FAILURE
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Build(options) => build::build(&options),
        Command::Run(options) => run::run(&options),
        Command::Test(options) => test::test(&options),
        Command::Bench(options) => bench::bench(&options),
        Command::Faults(options) => bench::faults(&options),
        Command::Soak(options) => bench::soak(&options),
        Command::Fuzz(options) => fuzz::fuzz(&options),
        Command::Mutants(options) => mutants::mutants(&options),
        Command::Dist => dist::dist(),
        Command::Lint => lint::lint(),
    }
}
