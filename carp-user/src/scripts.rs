//! The administrator's scripts: `SCRIPT INTERFACE VIP [XPARAM]`, without a shell, within a time limit.

use std::{path::Path, process::Stdio, time::Duration};

use log::{info, warn};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, timeout, timeout_at},
};

use crate::config::{Scripts, Vip};

/// How long a script that is told to end (SIGTERM) has until it is killed (SIGKILL).
const GRACE: Duration = Duration::from_secs(1);

/// A script to run for each VIP in turn.
pub(crate) struct Run<'a> {
    /// The script.
    pub(crate) script: &'a Path,
    /// Its settings.
    pub(crate) scripts: &'a Scripts,
    /// Name of the interface.
    pub(crate) interface: &'a str,
    /// The VIPs.
    pub(crate) vips: &'a [Vip],
}

impl Run<'_> {
    /// Runs the script for each VIP, all within one time limit, and logs how each ended. Dropping the
    /// future kills a script that runs, with what it started.
    pub(crate) async fn run(&self) {
        let deadline = Instant::now() + self.scripts.time_limit;
        for vip in self.vips {
            self.run_for(*vip, deadline).await;
        }
    }

    async fn run_for(&self, vip: Vip, deadline: Instant) {
        let (interface, address, script) = (self.interface, vip.address, self.script.display());
        let child = Command::new(self.script)
            .arg(interface)
            .arg(address.to_string())
            .args(&self.scripts.xparam)
            .stdin(Stdio::null())
            .process_group(0)
            .spawn();
        let mut child = match child {
            Ok(child) => Group(child),
            Err(error) => return warn!("{interface}: cannot run {script}: {error}"),
        };
        match timeout_at(deadline, child.0.wait()).await {
            Ok(Ok(status)) if status.success() => info!("{interface}: {script} {interface} {address}: {status}"),
            Ok(Ok(status)) => warn!("{interface}: {script} {interface} {address} failed: {status}"),
            Ok(Err(error)) => warn!("{interface}: cannot wait for {script}: {error}"),
            Err(_) => {
                child.end().await;
                let limit = self.scripts.time_limit.as_secs();
                warn!(
                    "{interface}: {script} {interface} {address} was killed: it ran longer than {limit} s (--script-timeout)"
                );
            }
        }
    }
}

/// A script with everything that it started: killed together, at the latest when this is dropped.
struct Group(Child);

impl Group {
    /// Asks the group to end, then makes it.
    async fn end(&mut self) {
        self.signal(Signal::SIGTERM);
        if timeout(GRACE, self.0.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            self.0.wait().await.ok();
        }
    }

    /// Signals the group, as long as its leader has not been waited for: until then its number is its own.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0.id() {
            killpg(Pid::from_raw(pid as i32), signal).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}
