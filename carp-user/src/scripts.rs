//! The administrator's scripts: `SCRIPT INTERFACE VIP [XPARAM]`, without a shell, within a time limit.

use std::{io, path::Path, process::Stdio};

use log::{info, warn};
use nix::{
    sys::signal::{SigHandler, Signal, killpg, signal},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    config::{Scripts, Vip},
    vips::Owner,
};

/// A script to run for each VIP in turn.
pub(crate) struct Run<'a> {
    /// The script.
    pub(crate) script: &'a Path,
    /// Its settings.
    pub(crate) scripts: &'a Scripts,
    /// Whose it is.
    pub(crate) owner: &'a Owner,
    /// The VIPs.
    pub(crate) vips: &'a [Vip],
    /// Whether it goes on at a SIGTERM: a service manager that stops the agent sends it to every process of the service,
    /// to one that the agent has just started, too, and a down script must not end half done.
    pub(crate) goes_on: bool,
}

impl Run<'_> {
    /// Runs the script for each VIP in turn, each within the time limit: one that hangs must not cost the
    /// others theirs. Logs how each ended. Dropping the future kills a script that runs, with what it started.
    pub(crate) async fn run(&self) {
        for vip in self.vips {
            self.run_for(*vip).await;
        }
    }

    async fn run_for(&self, vip: Vip) {
        let Owner { name, interface, script_failures, .. } = self.owner;
        let (address, script) = (vip.address, self.script.display());
        let mut command = Command::new(self.script);
        command.arg(interface).arg(address.to_string()).args(&self.scripts.xparam);
        command.stdin(Stdio::null()).process_group(0);
        if self.goes_on {
            // SAFETY: `signal` is safe to call after a fork, and what it ignores is not handled by this program.
            let ignore = || Ok(unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.map(drop)?);
            // SAFETY: between fork and exec the closure makes one system call, and neither allocates nor takes a lock.
            unsafe { command.pre_exec(ignore) };
        }
        // Elsewhere, for it waits for the file system; with its group, so that one that starts too late is killed.
        let start = spawn_blocking(move || command.spawn().map(Group));
        let ended = timeout(self.scripts.time_limit, async {
            let mut group = start.await.map_err(io::Error::other).flatten().map_err(Failure::Start)?;
            group.0.wait().await.map_err(Failure::Wait)
        });
        let ended = ended.await;
        if !matches!(&ended, Ok(Ok(status)) if status.success()) {
            script_failures.inc();
        }
        match ended {
            Ok(Ok(status)) if status.success() => info!("{name}: {script} {interface} {address}: {status}"),
            Ok(Ok(status)) => warn!("{name}: {script} {interface} {address} failed: {status}"),
            Ok(Err(Failure::Start(error))) => warn!("{name}: cannot run {script}: {error}"),
            Ok(Err(Failure::Wait(error))) => warn!("{name}: cannot wait for {script}: {error}"),
            Err(_) => warn!(
                "{name}: {script} {interface} {address} was killed: it ran longer than {} s (--script-timeout)",
                self.scripts.time_limit.as_secs()
            ),
        }
    }
}

enum Failure {
    Start(io::Error),
    Wait(io::Error),
}

/// A script with everything that it started: killed together when this is dropped before the script has ended.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Only as long as the leader has not been waited for: until then its number is its own.
        if let Some(pid) = self.0.id() {
            killpg(Pid::from_raw(pid as i32), Signal::SIGKILL).ok();
        }
    }
}
