//! Builds the XDP program and tells the crate where it is, as `CARP_EBPF_OBJECT`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Error, Result};
use xtask::toolchain::Toolchain;

const NO_TOOLCHAIN: &str = "what compiles the XDP program is not here yet: run `cargo xtask build`, which fetches it";

fn main() -> ExitCode {
    let toolchain = Toolchain::find().and_then(|found| found.context(NO_TOOLCHAIN));
    match toolchain {
        // cargo stops at the error that it is told, and shows nothing else.
        Err(error) => tell(&error, ExitCode::SUCCESS),
        Ok(toolchain) => match build(&toolchain) {
            // cargo also shows what the compiler said.
            Err(error) => tell(&error, ExitCode::FAILURE),
            Ok(object) => {
                println!("cargo::rustc-env=CARP_EBPF_OBJECT={}", object.display());
                ExitCode::SUCCESS
            }
        },
    }
}

fn tell(error: &Error, code: ExitCode) -> ExitCode {
    for line in format!("{error:#}").lines() {
        println!("cargo::error={line}");
    }
    code
}

fn build(toolchain: &Toolchain) -> Result<PathBuf> {
    watch_sources();
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: run this through cargo")?);
    let built = toolchain.build_object(&target_dir(&out))?;
    let object = out.join("carp");
    fs::copy(&built, &object).with_context(|| format!("cannot copy {} to {}", built.display(), object.display()))?;
    Ok(object)
}

/// A target folder for the object alone: that of the cargo around us is locked. It is beside the profiles' folders, so
/// that debug, release and clippy share one object.
fn target_dir(out: &Path) -> PathBuf {
    let build = out.ancestors().find(|folder| folder.ends_with("build"));
    let target = build.and_then(|build| build.parent()?.parent());
    target.unwrap_or(out).join("ebpf")
}

fn watch_sources() {
    let sources = ["carp-ebpf", "carp-common/src", "carp-common/Cargo.toml", "Cargo.toml", "Cargo.lock"];
    for path in sources {
        println!("cargo::rerun-if-changed={}", xtask::workspace().join(path).display());
    }
}
