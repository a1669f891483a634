//! Programs of others that the tests run.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result};

/// Where `cargo xtask test` has put what this machine lacks: folders, as in PATH.
const TEST_TOOLS: &str = "CARP_TEST_TOOLS";

/// If this is set, a peer that is missing is an error.
const REQUIRE_PEERS: &str = "CARP_REQUIRE_PEERS";

/// Whether a program that the tests meet or look on with is missing, so that the test that asks is to be skipped.
/// Says so; an error if it may not be missing.
pub fn is_missing(peer: &str) -> Result<bool> {
    let Err(error) = tool(peer) else { return Ok(false) };
    if env::var_os(REQUIRE_PEERS).is_some() {
        return Err(error);
    }
    let test = thread::current().name().unwrap_or("a test").to_owned();
    // Unlike `eprintln`, past what keeps the words of a test that passes to itself.
    writeln!(io::stderr(), "{test}: SKIPPED: {error:#}").context("saying that a test is skipped")?;
    Ok(true)
}

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
