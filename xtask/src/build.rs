//! `cargo xtask build`

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use xtask::process;
use xtask::toolchain::Toolchain;

/// What `cargo xtask build` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Optimize, as for a machine that keeps an address alive
    #[arg(long)]
    release: bool,
}

/// Builds carpd, after fetching what that needs, and says where it is.
pub(crate) fn build(options: &Options) -> Result<()> {
    let carpd = carpd(options.release)?;
    eprintln!("carp: built {}", carpd.display());
    Ok(())
}

/// Builds carpd and returns its path.
pub(crate) fn carpd(release: bool) -> Result<PathBuf> {
    Toolchain::find_or_fetch()?;
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "carp-user"]);
    if release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)?;
    let profile = if release { "release" } else { "debug" };
    let carpd = target_dir()?.join(profile).join("carpd");
    ensure!(carpd.is_file(), "cargo left no {}", carpd.display());
    Ok(carpd)
}

/// Where cargo builds, told by where it built us.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let xtask = env::current_exe().context("cannot find out where xtask is")?;
    let folder = xtask.ancestors().nth(2).with_context(|| format!("{} is in no target folder", xtask.display()))?;
    Ok(folder.to_owned())
}
