//! The command line of the real program: what it refuses, what it fills in, and what it keeps to itself.

mod defaults;
mod from_ucarp;
mod privileges;
mod refusals;
mod rivals;

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use carp_tests::{Agent, Host, LONG, VIP};

/// A command line that works on any host of the lab.
const GOOD: [&str; 4] = ["--interface=eth0", "--vhid=1", "--pass=secret", "--addr=10.77.0.100"];

/// Asserts that a program has ended with an error, and returns the one line that it wrote.
fn refusal(mut agent: Agent) -> Result<String> {
    let status = agent.wait(LONG)?;
    let lines: Vec<_> = agent.lines().into_iter().map(|line| line.text).collect();
    ensure!(status.code().is_some_and(|code| code != 0), "{status}: {lines:?}");
    let [line] = &lines[..] else { anyhow::bail!("not one line but {}:\n{}", lines.len(), lines.join("\n")) };
    Ok(line.clone())
}

fn assert_says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

/// Asserts that a start that failed has left no address, program or lock.
fn assert_untouched(host: &Host) -> Result<()> {
    assert!(!host.has_address(VIP)?);
    assert_eq!(host.xdp_program()?, None);
    assert!(!is_locked(host)?);
    Ok(())
}

/// Whether some process has locked a virtual host of this one.
fn is_locked(host: &Host) -> Result<bool> {
    let Ok(folder) = std::fs::read_dir("/run/carp") else { return Ok(false) };
    let locks = std::fs::read_to_string("/proc/locks").context("reading /proc/locks")?;
    for entry in folder {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(&format!("-{}.lock", host.ns().number())) {
            let inode = format!(":{} ", entry.metadata()?.ino());
            return Ok(locks.lines().any(|lock| lock.contains(&inode)));
        }
    }
    Ok(false)
}
