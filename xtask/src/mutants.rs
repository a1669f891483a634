//! `cargo xtask mutants`

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use xtask::cache::Cache;
use xtask::{crates, process, workspace};

const CARGO_MUTANTS: &str = "27.1.0";
/// Its folder in the cache.
const FOLDER: &str = "cargo-mutants-27.1.0";
/// What is broken, one thing after the other: the rules of CARP.
const FILES: [&str; 4] = ["engine/*.rs", "verdict.rs", "digest.rs", "seal.rs"];
/// A test that takes longer has met an endless loop.
const LONGEST: &str = "40";
/// What cargo-mutants ends with if the tests do not notice something that is broken.
const MISSED: i32 = 2;
/// The same if one of them did not end, whether or not another missed something.
const ENDLESS: i32 = 3;
/// Where it says what was missed, in the workspace.
const LIST: &str = "target/mutants.out/missed.txt";

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
    cargo.args(&options.args).args(["--", "--", "--skip", "exhaustive"]);
    let status = cargo.status().with_context(|| format!("cannot run {}", cargo.get_program().display()))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(MISSED | ENDLESS) => {
            let missed = fs::read_to_string(workspace().join(LIST)).with_context(|| format!("cannot read {LIST}"))?;
            let count = missed.lines().count();
            ensure!(count == 0, "the tests have not noticed {count} of them: those in {LIST}");
            Ok(())
        }
        _ => bail!("cargo-mutants failed ({status})"),
    }
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
