//! `cargo xtask mutants`

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use xtask::cache::Cache;
use xtask::{crates, process, workspace};

const CARGO_MUTANTS: &str = "27.1.0";
/// Its folder in the cache.
const FOLDER: &str = "cargo-mutants-27.1.0";
/// What is broken, one thing after the other: the rules of CARP.
const FILES: [&str; 4] = ["engine/*.rs", "verdict.rs", "digest.rs", "seal.rs"];
/// A test that takes longer has met an endless loop.
const LONGEST: &str = "40";

/// What `cargo xtask mutants` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Arguments for cargo-mutants: --list, --shard 0/8, --re PATTERN
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Breaks carp-common's rules in every small way, and sees whether its tests notice.
pub(crate) fn mutants(options: &Options) -> Result<()> {
    let mut cargo = process::apart(Command::new(find_or_fetch()?));
    cargo.current_dir(workspace()).args(["mutants", "--package", "carp-common", "--features", "engine"]);
    cargo.args(["--profile", "mutants", "--timeout", LONGEST, "--output", "target", "--colors", "never"]);
    cargo.args(FILES.iter().flat_map(|file| ["--file".to_owned(), format!("carp-common/src/{file}")]));
    // Simulations that are long enough for what breaks often.
    cargo.env("CARP_PLANS", "1000").env("PROPTEST_CASES", "64");
    process::run(cargo.args(&options.args).args(["--", "--", "--skip", "exhaustive"]))
}

fn find_or_fetch() -> Result<PathBuf> {
    let folder = Cache::of_user()?.find_or_make(FOLDER, |folder| {
        eprintln!("carp: installing cargo-mutants {CARGO_MUTANTS} into the cache, in a few minutes");
        crates::install("cargo-mutants", CARGO_MUTANTS, folder)
    });
    let folder = folder.with_context(|| {
        format!("cargo-mutants breaks the code; `cargo install cargo-mutants --locked --version {CARGO_MUTANTS}` must be possible")
    })?;
    Ok(folder.join("bin/cargo-mutants"))
}
