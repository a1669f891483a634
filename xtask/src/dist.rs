//! `cargo xtask dist`

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use xtask::cache::Cache;
use xtask::{crates, process, workspace};

use crate::build;

const CARGO_DEB: &str = "3.8.0";
/// Its folder in the cache.
const FOLDER: &str = "cargo-deb-3.8.0";

/// Makes a Debian package and says where it is.
pub(crate) fn dist() -> Result<()> {
    let package = package()?;
    // What a script may want to read goes to stdout.
    println!("{}", package.display());
    Ok(())
}

/// Makes a Debian package of the release build and returns its path.
pub(crate) fn package() -> Result<PathBuf> {
    let cargo_deb = find_or_fetch()?;
    build::carpd(true)?;
    // Where the package's list of files expects them, wherever cargo builds.
    let manuals = workspace().join("target/manuals");
    // A page of a command that there is no more must not stay.
    match fs::remove_dir_all(&manuals) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", manuals.display()));
        }
        _ => {}
    }
    let mut cargo = process::cargo();
    cargo.args(["run", "--release", "--package", "carp-user", "--example", "manuals", "--"]).arg(&manuals);
    process::run_on_stderr(&mut cargo)?;
    let folder = workspace().join("target/dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut deb = Command::new(cargo_deb);
    deb.current_dir(workspace()).args(["--package", "carp-user", "--no-build", "--strip", "--output"]).arg(&folder);
    // What it warns of is to be seen: without dpkg-dev, the package does not name the libraries that it needs.
    let made = process::read(deb.stderr(Stdio::inherit()))?;
    Ok(made.trim_end().into())
}

fn find_or_fetch() -> Result<PathBuf> {
    let folder = Cache::of_user()?.find_or_make(FOLDER, |folder| {
        eprintln!("carp: installing cargo-deb {CARGO_DEB} into the cache, in two or three minutes");
        crates::install("cargo-deb", CARGO_DEB, folder)
    });
    let folder = folder.with_context(|| {
        format!("the package is made by cargo-deb; `cargo install cargo-deb --locked --version {CARGO_DEB}` must be possible")
    })?;
    Ok(folder.join("bin/cargo-deb"))
}
