//! `cargo xtask bench`

use std::ffi::OsString;

use anyhow::Result;
use xtask::{process, tools};

use crate::{build, root, test::TEST_TOOLS};

/// What `cargo xtask bench` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to measure
    bench: Bench,
    /// Arguments for the benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Bench {
    /// What many virtual hosts cost, beside keepalived and ucarp
    Agent,
    /// What the kernel spends on a frame
    Xdp,
    /// How long the address is gone
    Failover,
    /// What a flood costs
    Flood,
}

/// What `cargo xtask faults` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Faults {
    /// Arguments for it: --count, --seed, --alone
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs a schedule of faults, and some beside other programs.
pub(crate) fn faults(options: &Faults) -> Result<()> {
    run("faults", &options.args, true)
}

/// Builds the benchmark and runs it as root.
pub(crate) fn bench(options: &Options) -> Result<()> {
    let name = match options.bench {
        Bench::Agent => "agent",
        Bench::Xdp => "xdp",
        Bench::Failover => "failover",
        Bench::Flood => "flood",
    };
    run(name, &options.args, matches!(options.bench, Bench::Agent))
}

fn run(name: &str, args: &[OsString], has_peers: bool) -> Result<()> {
    // The benchmarks run the carpd that lies beside it.
    build::carpd(true)?;
    let mut cargo = process::cargo();
    cargo.args(["bench", "--package", "carp-tests", "--bench", name, "--"]).args(args);
    root::run_as_root(&mut cargo)?;
    if has_peers {
        cargo.env(TEST_TOOLS, tools::find_or_fetch()?);
    }
    process::run(&mut cargo)
}
