//! `cargo xtask run`

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::{Error, Result};
use xtask::process;

use crate::{build, root};

/// What `cargo xtask run` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// carpd's options, to run it on a real interface; without any, the demo runs: two agents, a client and an
    /// attacker on a bridge between network namespaces
    #[arg(last = true)]
    options: Vec<OsString>,
}

/// Runs the demo or carpd in place of this process, which so passes on signals and the exit code.
pub(crate) fn run(options: &Options) -> Result<()> {
    let carpd = build::carpd(true)?;
    let mut cargo = process::cargo();
    cargo.args(["run", "--release"]);
    if options.options.is_empty() {
        cargo.args(["--package", "carp-tests", "--bin", "carp-demo", "--", "--carpd"]).arg(carpd);
    } else {
        cargo.args(["--package", "carp-user", "--bin", "carpd", "--"]).args(&options.options);
    }
    root::run_as_root(&mut cargo)?;
    Err(Error::new(cargo.exec()).context("cannot run cargo"))
}
