//! `cargo xtask test`

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;
use xtask::{process, tools};

use crate::steps::step;
use crate::{build, dist, root};

/// Where the tests find the programs that this machine lacks: folders, as in PATH.
pub(crate) const TEST_TOOLS: &str = "CARP_TEST_TOOLS";

/// Which road adverts take in the tests, if not the best one: native XDP.
const TEST_DATAPATH: &str = "CARP_TEST_DATAPATH";
/// What has to hold on every road.
const SCENARIOS: [&str; 6] = ["failover", "hostile", "links", "many", "split", "vips"];
/// What has to hold without XDP, too, whose verdict is the same in the driver and in the stack.
const WITHOUT_XDP: [&str; 3] = ["ipv6", "rollout", "unicast"];

/// What `cargo xtask test` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which tests, and other arguments for them, as for `cargo test`
    #[arg(last = true)]
    tests: Vec<OsString>,
}

impl Options {
    fn cargo_test(&self, what: &[&str]) -> Command {
        let mut cargo = process::cargo();
        cargo.arg("test").args(what).arg("--").args(&self.tests);
        cargo
    }
}

/// Runs all the tests: first those that need neither root nor the tools for eBPF.
pub(crate) fn test(options: &Options) -> Result<()> {
    step("carp-common builds without its engine", || {
        process::run(process::cargo().args(["build", "--package", "carp-common", "--no-default-features"]))
    })?;
    step("tests of carp-common", || {
        process::run(&mut options.cargo_test(&["--package", "carp-common", "--features", "engine"]))
    })?;
    step("carpd builds", || build::carpd(false))?;
    step("tests of carp-user and xtask", || {
        process::run(&mut options.cargo_test(&["--package", "carp-user", "--package", "xtask"]))
    })?;
    step("the package that the tests install", dist::package)?;
    let tools = step("what the tests run is there", tools::find_or_fetch)?;
    step("tests on hosts and in the kernel, as root", || {
        let mut cargo = options.cargo_test(&["--package", "carp-tests"]);
        root::run_as_root(&mut cargo)?;
        process::run(cargo.env(TEST_TOOLS, &tools))
    })?;
    for (road, more) in [("generic", &[][..]), ("socket", &WITHOUT_XDP)] {
        step(&format!("the same scenarios, adverts by --datapath {road}"), || {
            let scenarios: Vec<&str> = SCENARIOS.iter().chain(more).flat_map(|scenario| ["--test", scenario]).collect();
            let mut cargo = options.cargo_test(&[&["--package", "carp-tests"], &scenarios[..]].concat());
            root::run_as_root(&mut cargo)?;
            process::run(cargo.env(TEST_TOOLS, &tools).env(TEST_DATAPATH, road))
        })?;
    }
    Ok(())
}
