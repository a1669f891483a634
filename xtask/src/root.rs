//! Root, for the steps that need it and for no others.

use std::process::Command;

use anyhow::{Context, Result};
use xtask::process;

/// Lets `cargo` start what it builds as root: `cargo run`, `cargo test` or `cargo bench` itself stays the user's.
pub(crate) fn run_as_root(cargo: &mut Command) -> Result<()> {
    if process::is_root()? {
        return Ok(());
    }
    process::read(Command::new("sudo").arg("--version"))
        .context("this needs root, and there is no sudo here: run it as root")?;
    eprintln!("carp: this needs root: going through sudo");
    cargo.env(runner_variable(&process::read(Command::new("rustc").arg("-vV"))?)?, "sudo --preserve-env");
    Ok(())
}

/// The variable that tells cargo what to start the host's programs through.
fn runner_variable(rustc: &str) -> Result<String> {
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` does not say what host it is for")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace(['-', '.'], "_")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_is_set_for_the_host() {
        let rustc = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n";
        assert_eq!(runner_variable(rustc).unwrap(), "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER");
    }
}
