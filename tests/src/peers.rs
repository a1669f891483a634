//! Real programs of others on the lab's hosts: ucarp, which speaks CARP, and keepalived, which does not.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::agent::{Agent, Line};
use crate::folder::Folder;
use crate::host::{ETH0, Host};
use crate::node::{LONG, PASSPHRASE, VHID, VIP};
use crate::tools::tool;

/// ucarp reads what it hears up to a second late, and wakes once in an interval while it is a backup; the rest is
/// for a busy machine.
pub const UCARPS_DELAY: Duration = Duration::from_millis(1000 + 1000 + 1000);

/// A running ucarp for the [`VIP`]. Dropping it kills it.
pub struct Ucarp<'h> {
    host: &'h Host,
    agent: Agent,
}

impl<'h> Ucarp<'h> {
    /// Starts it as the manual says, with scripts that add and remove the address, and waits until it listens.
    /// An option that is given twice counts the second time, so `options` may change everything.
    pub fn start(host: &'h Host, options: &str) -> Result<Self> {
        let agent = Self::spawn(host, options)?;
        let ucarp = Self { host, agent };
        ucarp.wait_for("BACKUP")?;
        Ok(ucarp)
    }

    /// The same, and does not wait for anything.
    pub fn spawn(host: &Host, options: &str) -> Result<Agent> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let mut command = host.command(tool("ucarp")?);
        command.args([&format!("--interface={ETH0}"), &format!("--srcip={}", host.ip())]);
        command.args([&format!("--vhid={VHID}"), &format!("--pass={PASSPHRASE}"), &format!("--addr={VIP}")]);
        command.arg("--upscript").arg(scripts.join("vip-up")).arg("--downscript").arg(scripts.join("vip-down"));
        command.args(["--shutdown", "--advbase=1"]).args(options.split_whitespace());
        Agent::spawn(&format!("ucarp on {}", host.name()), command)
    }

    /// Waits until it changes to this state.
    pub fn wait_for(&self, state: &str) -> Result<Line> {
        self.agent.wait_for_line(&format!("Switching to state: {state}"), LONG)
    }

    /// The states that it has been in, the present one last.
    pub fn states(&self) -> Vec<String> {
        self.changes().into_iter().map(|change| change.text).collect()
    }

    /// The same, and when it said so.
    pub fn changes(&self) -> Vec<Line> {
        let lines = self.agent.lines().into_iter();
        let changes = lines.filter_map(|Line { at, text }| {
            let state = text.split_once("Switching to state: ")?.1.to_owned();
            Some(Line { at, text: state })
        });
        changes.collect()
    }

    /// Its host.
    pub fn host(&self) -> &'h Host {
        self.host
    }

    /// Ends it as its administrator would; it gives the address up.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.agent.stop_and_wait(LONG)?;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    /// Kills it; the address stays.
    pub fn kill(&mut self) -> Result<()> {
        self.agent.kill().map(drop)
    }

    /// Its first line that contains this.
    pub fn wait_for_line(&self, text: &str) -> Result<Line> {
        self.agent.wait_for_line(text, LONG)
    }
}

/// How a keepalived takes part.
#[derive(Clone, Copy, Debug)]
pub struct Vrrp<'a> {
    /// The version of VRRP: 2, with an advert a second, or 3, with five.
    pub version: u8,
    /// The virtual router's number.
    pub id: u8,
    /// The larger, the more preferred.
    pub priority: u8,
    /// What the routers share.
    pub addresses: &'a [Ipv4Addr],
}

/// A running keepalived with one virtual router. Dropping it kills it.
pub struct Keepalived {
    agent: Agent,
    // Goes after the process that has files in it.
    _folder: Folder,
}

impl Keepalived {
    /// Starts it and waits until it is a backup, as which it begins.
    pub fn start(host: &Host, vrrp: Vrrp<'_>) -> Result<Self> {
        let folder = Folder::new("keepalived")?;
        let path = |name: &str| folder.path().join(name);
        fs::write(path("conf"), vrrp.configuration()).context("writing keepalived's configuration")?;
        let mut command = host.command(tool("keepalived")?);
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
        command.arg("--use-file").arg(path("conf"));
        command.arg("--pid").arg(path("pid")).arg("--vrrp_pid").arg(path("vrrp-pid"));
        let agent = Agent::spawn(&format!("keepalived on {}", host.name()), command)?;
        let keepalived = Self { agent, _folder: folder };
        keepalived.wait_for("BACKUP")?;
        Ok(keepalived)
    }

    /// The process that the administrator starts.
    pub fn pid(&self) -> u32 {
        self.agent.pid()
    }

    /// Waits until it changes to this state.
    pub fn wait_for(&self, state: &str) -> Result<Line> {
        self.agent.wait_for_line(&format!("Entering {state} STATE"), LONG)
    }

    /// The states that it has been in, the present one last.
    pub fn states(&self) -> Vec<String> {
        let lines = self.agent.lines();
        let states = lines.iter().filter_map(|line| line.text.split_once("Entering ")?.1.split_once(" STATE"));
        states.map(|(state, _)| state.to_owned()).collect()
    }

    /// Sends a signal to the process that the administrator starts; it has another one do the work.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.agent.signal(signal)
    }

    /// All that it has said, but for what it repeats most.
    pub fn log(&self) -> Vec<String> {
        let lines = self.agent.lines().into_iter().map(|line| line.text);
        lines.filter(|text| !text.contains("gratuitous ARP")).collect()
    }
}

impl Vrrp<'_> {
    fn configuration(self) -> String {
        let Self { version, id, priority, addresses } = self;
        let interval = if version == 2 { "1" } else { "0.2" };
        let mut addresses_text = String::new();
        for address in addresses {
            // Writing to a String cannot fail.
            let _ = write!(addresses_text, " {address}/32\n       ");
        }
        format!(
            "vrrp_instance shared {{\n\
             \x20   version {version}\n\
             \x20   state BACKUP\n\
             \x20   interface {ETH0}\n\
             \x20   virtual_router_id {id}\n\
             \x20   priority {priority}\n\
             \x20   advert_int {interval}\n\
             \x20   virtual_ipaddress {{\n       {addresses_text}\n    }}\n\
             }}\n"
        )
    }
}
