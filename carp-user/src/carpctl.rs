//! carpctl: what an administrator asks.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use nix::net::if_::if_nametoindex;

use crate::config::file;

/// Looks after carpd.
#[derive(Parser)]
#[command(name = "carpctl", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what is wrong with a configuration file, all of it at once; touches nothing
    Check {
        /// The file
        #[arg(default_value = file::DEFAULT)]
        file: PathBuf,
    },
}

/// Runs carpctl with the arguments of this process. Exit codes: 0 as it should be, 1 not so, 2 not understood.
#[must_use]
pub fn carpctl() -> ExitCode {
    let Command::Check { file } = Args::parse().command;
    match check(&file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> Result<()> {
    let hosts = file::read(file)?;
    let interfaces: BTreeSet<&str> = hosts.iter().filter_map(|settings| settings.interface.as_deref()).collect();
    for interface in &interfaces {
        if if_nametoindex(*interface).is_err() {
            eprintln!("{}: warning: there is no interface {interface} here; carpd would wait for it", file.display());
        }
    }
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    println!("{}: {} on {}", file.display(), count(hosts.len(), "virtual host"), count(interfaces.len(), "interface"));
    Ok(())
}
