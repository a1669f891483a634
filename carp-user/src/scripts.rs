//! The administrator's scripts: `SCRIPT INTERFACE VIP [XPARAM]`.

use std::path::Path;

use log::{info, warn};
use tokio::process::Command;

use crate::{
    config::{Scripts, Vip},
    process,
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
    /// Whether it goes on at a SIGTERM, as a down script must.
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
        let address = vip.address;
        let mut command = Command::new(self.script);
        command.arg(interface).arg(address.to_string()).args(&self.scripts.xparam);
        if self.goes_on {
            process::ignore_term(&mut command);
        }
        let what = format!("{} {interface} {address}", self.script.display());
        match process::run(command, &what, self.scripts.time_limit, "--script-timeout").await {
            Ok(status) => info!("{name}: {what}: {status}"),
            Err(error) => {
                script_failures.inc();
                warn!("{name}: {error:#}");
            }
        }
    }
}
