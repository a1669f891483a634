//! `cargo xtask bench`

use std::ffi::OsString;
use std::path::{self, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use xtask::{process, tools, workspace};

use crate::steps::step;
use crate::{build, root, test::TEST_TOOLS};

/// What `cargo xtask bench` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The short form for CI: in a few minutes, everything with few repetitions
    #[arg(long)]
    short: bool,
    /// Where bench.json and the plots go, instead of target/bench
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What to measure [default: all, one after the other]
    bench: Option<Bench>,
    /// Arguments for the benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// In this order, all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// What the kernel spends on a frame
    Xdp,
    /// How long an advert takes from the kernel to the state machine
    Latency,
    /// How long the address is gone, beside ucarp and keepalived
    Failover,
    /// What a flood costs, beside ucarp and keepalived
    Flood,
    /// What many virtual hosts cost, beside ucarp and keepalived
    Agent,
    /// For how long two servers answer, beside ucarp and keepalived
    Faults,
    /// Who falls to what, beside ucarp
    Attacks,
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
    build::carpd(true)?;
    run(Bench::Faults.name(), &options.args, tools::find_or_fetch()?)
}

/// What `cargo xtask soak` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Soak {
    /// How long
    #[arg(long, default_value_t = 60)]
    minutes: u32,
    /// What decides which faults there are
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Has faults befall three servers for long.
pub(crate) fn soak(options: &Soak) -> Result<()> {
    build::carpd(true)?;
    let args = [format!("--minutes={}", options.minutes), format!("--seed={}", options.seed)];
    run("soak", &args.map(OsString::from), tools::find_or_fetch()?)
}

/// Builds the benchmarks and runs one or all of them as root.
pub(crate) fn bench(options: &Options) -> Result<()> {
    // The benchmarks run the carpd that lies beside them.
    build::carpd(true)?;
    let tools = tools::find_or_fetch()?;
    let out = options.out.as_ref().map(path::absolute).transpose().context("no such folder")?;
    let mut args: Vec<OsString> = options.short.then(|| "--short".into()).into_iter().collect();
    if let Some(out) = &out {
        args.extend(["--out".into(), out.into()]);
    }
    if let Some(bench) = options.bench {
        return run(bench.name(), &[args, options.args.clone()].concat(), tools);
    }
    let out = out.unwrap_or_else(|| workspace().join("target/bench"));
    // The attacks are told by words, which the short form has no time for: tests assert them.
    let all = Bench::value_variants().iter().filter(|bench| !options.short || **bench != Bench::Attacks);
    step("the benchmarks are built", || {
        let benches = all.clone().flat_map(|bench| ["--bench", bench.name()]);
        process::run(process::cargo().args(["bench", "--package", "carp-tests", "--no-run"]).args(benches))
    })?;
    // What was measured another time is no part of it: the first one begins bench.json anew, which may be root's.
    let is_first = |bench: Bench| Bench::value_variants().first() == Some(&bench);
    let fresh = |bench: Bench| is_first(bench).then(|| "--fresh".into());
    let args_of = |bench: Bench| args.iter().cloned().chain(fresh(bench)).collect::<Vec<_>>();
    // One that fails keeps none of the others from being measured.
    let run = |bench: Bench| step(bench.name(), || run(bench.name(), &args_of(bench), tools.clone()));
    let fails = |bench: &Bench| run(*bench).inspect_err(|error| eprintln!("carp: {error:#}")).is_err();
    let failed: Vec<_> = all.copied().filter(fails).map(Bench::name).collect();
    eprintln!("carp: figures and plots are in {}", out.display());
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn run(bench: &str, args: &[OsString], tools: OsString) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["bench", "--package", "carp-tests", "--bench", bench, "--"]).args(args);
    root::run_as_root(&mut cargo)?;
    process::run(cargo.env(TEST_TOOLS, tools))
}

impl Bench {
    fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Latency => "latency",
            Self::Failover => "failover",
            Self::Flood => "flood",
            Self::Agent => "agent",
            Self::Faults => "faults",
            Self::Attacks => "attacks",
        }
    }
}
