//! Sealed adverts, as servers with a key and an attacker without see them.

mod attacks;
mod clocks;
mod keys;
mod policy;
mod rollout;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carp_tests::configured::{carpctl, changes, folder, start_with, virtual_host, wait_for_change, write};
use carp_tests::{Agent, Folder, Host, LONG, Preload, VIP, eventually};
use serde_json::Value;

/// How log lines begin.
const NAME: &str = "eth0 vhid 1";
/// advskew of the master: an advert every 234 ms.
const MASTERS: u8 = 60;
/// That of the backup, and its dead time.
const BACKUPS: u8 = 80;
const DEAD: Duration = Duration::from_millis(938);
/// `freshness_window`, in seconds.
const WINDOW: u64 = 2;
/// One key, and what it takes to enforce seals with it.
const KEY_1: &str = "{ id = 1, file = \"key-1\" }";
const ENFORCE: &str = "seal = \"enforce\"\nseal_keys = [{ id = 1, file = \"key-1\" }]\nfreshness_window = 2\n";

/// A server with its configuration.
struct Server<'h> {
    host: &'h Host,
    folder: Folder,
    agent: Agent,
    advskew: u8,
}

impl<'h> Server<'h> {
    /// Starts one with this in its virtual host's table.
    fn start(host: &'h Host, advskew: u8, more: &str, preload: Option<&Preload>) -> Result<Self> {
        let folder = keys_folder()?;
        configure(&folder, advskew, more)?;
        let agent = start_with(preload, host, &folder)?;
        Ok(Self { host, folder, agent, advskew })
    }

    /// A master, and then a backup.
    fn pair(hosts: [&'h Host; 2], more: &str) -> Result<[Self; 2]> {
        let [a, b] = hosts;
        let master = Self::start(a, MASTERS, more, None)?;
        wait_for_change(&master.agent, NAME, "BACKUP -> MASTER")?;
        let backup = Self::start(b, BACKUPS, more, None)?;
        wait_for_change(&backup.agent, NAME, "INIT -> BACKUP")?;
        Ok([master, backup])
    }

    /// Starts again, after its end.
    fn start_again(&mut self, preload: Option<&Preload>) -> Result<()> {
        self.agent = start_with(preload, self.host, &self.folder)?;
        Ok(())
    }

    /// Has other settings from now on.
    fn reload(&self, more: &str) -> Result<()> {
        configure(&self.folder, self.advskew, more)?;
        self.carpctl(&["reload"]).map(drop)
    }

    fn carpctl(&self, words: &[&str]) -> Result<String> {
        let done = carpctl(&self.folder, words)?;
        ensure!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?)
    }

    fn status(&self) -> Result<Value> {
        // A trouble is told by the exit code, too.
        let told = carpctl(&self.folder, &["status", "--json"])?;
        let status: Value = serde_json::from_slice(&told.stdout).context("status")?;
        Ok(status["virtual_hosts"][0].clone())
    }

    /// A counter of its.
    fn count(&self, reason: &str) -> Result<u64> {
        Ok(self.status()?["received"][reason].as_u64().unwrap_or(0))
    }

    /// Waits until its status says this of something.
    fn wait_for_status(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        eventually(what, LONG, || Ok(is_so(&self.status()?))).with_context(|| format!("{:#?}", self.status()))
    }

    fn changes(&self) -> Vec<String> {
        changes(&self.agent, NAME)
    }

    /// Whether it has become one, and nothing since.
    fn is_master(&self) -> bool {
        self.changes().last().is_some_and(|change| change == "BACKUP -> MASTER")
    }
}

/// A folder with a passphrase and three keys.
fn keys_folder() -> Result<Folder> {
    let folder = folder()?;
    for id in 1..=3 {
        let file = folder.path().join(format!("key-{id}"));
        fs::write(&file, format!("{id} is a key that both servers have\n"))?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    }
    Ok(folder)
}

fn configure(folder: &Folder, advskew: u8, more: &str) -> Result<()> {
    write(folder, &[virtual_host(1, VIP, &format!("advskew = {advskew}\n{more}"))])
}

/// Asserts that a pair is as it was when both had started.
fn assert_unmoved(master: &Server<'_>, backup: &Server<'_>, what: &str) {
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"], "{what}: {:#?}", master.agent.lines());
    assert_eq!(backup.changes(), ["INIT -> BACKUP"], "{what}: {:#?}", backup.agent.lines());
}
