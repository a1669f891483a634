//! A good citizen among daemons: background, signals, logs, locks.

mod background;
mod disk;
mod log;
mod signals;
mod slow_readers;
mod syslog;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use carp_tests::{Agent, BootTime, ETH0, Host, VIP, Wire, carpd_path};
use std::time::Duration;

/// A virtual host with an advert every 117 ms and a dead time of 351 ms.
const VHOST: [&str; 6] =
    ["--interface=eth0", "--vhid=1", "--pass=secret", "--addr=10.77.0.100", "--advbase=0", "--advskew=30"];

/// Gives what follows the folder `$1` the file system of its own that `setup` makes, and runs it.
fn in_own_mounts(host: &Host, setup: &str, folder: &Path, options: &[&str]) -> Result<Agent> {
    let mut command = host.command("unshare");
    let script = format!("folder=$1; shift; {setup} && exec \"$@\"");
    command.args(["--mount", "sh", "-ec", &script, "sh"]).arg(folder).arg(carpd_path()?).args(VHOST).args(options);
    Agent::spawn("carpd in mounts of its own", command)
}

/// The process that has noted itself in the lock of the host's virtual host.
fn daemon_of(host: &Host) -> Result<u32> {
    let lock = format!("/run/carp/{ETH0}-1-{}.lock", host.ns().number());
    let pid = fs::read_to_string(&lock).with_context(|| format!("reading {lock}"))?;
    // Below it, the addresses that it serves.
    pid.lines().next().unwrap_or_default().parse().with_context(|| format!("no process id: {pid:?}"))
}

/// Whether a process is there, and no zombie.
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}

/// The dead time of a backup that is as fast as the host itself.
const DEAD: Duration = Duration::from_millis(703);

/// Asserts that a host advertised all the time, with no gap that a backup would take for its death.
fn assert_advertises(wire: &Wire, host: &Host, from: BootTime, to: BootTime) {
    let adverts = wire.adverts_of(host.ip()).into_iter().map(|(at, _)| at);
    let times: Vec<_> = [from].into_iter().chain(adverts.filter(|at| (from..=to).contains(at))).chain([to]).collect();
    let longest = times.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default();
    assert!(longest < DEAD, "silent for {longest:?} of {:?}", to.since(from));
}

fn is_clean(host: &Host) -> Result<bool> {
    Ok(!host.has_address(VIP)? && host.xdp_program()?.is_none())
}
