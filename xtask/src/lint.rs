//! `cargo xtask lint`

use anyhow::Result;
use xtask::process::{self, cargo};
use xtask::toolchain::Toolchain;

use crate::build::target_dir;
use crate::steps::step;

/// Everything but the program for the kernel.
const HOST: [&str; 3] = ["--workspace", "--exclude", "carp-ebpf"];

/// Runs clippy, on the host's code and on the kernel's, and cargo doc, with warnings denied.
pub(crate) fn lint() -> Result<()> {
    let toolchain = Toolchain::find_or_fetch()?;
    step("clippy, host", || {
        process::run(cargo().arg("clippy").args(HOST).args(["--all-targets", "--", "-Dwarnings"]))
    })?;
    step("clippy, BPF", || toolchain.lint(&target_dir()?.join("ebpf")))?;
    step("documentation", || {
        let options = ["--no-deps", "--document-private-items"];
        process::run(cargo().arg("doc").args(HOST).args(options).env("RUSTDOCFLAGS", "-Dwarnings"))
    })
}
