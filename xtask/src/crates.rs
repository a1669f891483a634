//! Programs from the crates' registry.

use std::path::Path;

use anyhow::{Context, Result};

use crate::process;

/// Builds the program of a crate and puts it into `folder`, below `bin`.
pub fn install(name: &str, version: &str, folder: &Path) -> Result<()> {
    let scratch =
        tempfile::tempdir_in(folder).with_context(|| format!("cannot create a folder in {}", folder.display()))?;
    let mut cargo = process::cargo_apart();
    cargo.args(["install", name, "--locked", "--version", version, "--root"]).arg(folder);
    process::run_on_stderr(cargo.arg("--target-dir").arg(scratch.path()))
}
