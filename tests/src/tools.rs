//! Programs of others that the tests run.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Where `cargo xtask test` has put what this machine lacks: folders, as in PATH.
const TEST_TOOLS: &str = "CARP_TEST_TOOLS";

/// Finds a program, in the folders that `cargo xtask test` provides or in PATH, root's included.
pub fn tool(name: &str) -> Result<PathBuf> {
    let folders = [env::var_os(TEST_TOOLS), env::var_os("PATH"), Some(OsString::from("/usr/sbin:/sbin"))];
    folders
        .iter()
        .flatten()
        .flat_map(env::split_paths)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name}: run this through `cargo xtask test`, which brings it, or install it"))
}
