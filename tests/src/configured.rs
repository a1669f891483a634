//! Agents with a configuration file, and carpctl, which asks them.

use std::env;
use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result};

use crate::agent::{Agent, carpd_path};
use crate::clock::eventually;
use crate::folder::Folder;
use crate::host::Host;
use crate::node::{LONG, ROAD};
use crate::preload::Preload;

/// An advert every 234 ms, unless a virtual host says otherwise; and the road of the other scenarios.
pub const DEFAULTS: &str =
    "[defaults]\ninterface = \"eth0\"\npassphrase_file = \"secret\"\nadvbase = 0\nadvskew = 60\n";

/// A folder with a passphrase that only root can read.
pub fn folder() -> Result<Folder> {
    let folder = Folder::new("configuration")?;
    fs::write(folder.path().join("secret"), "open sesame\n")?;
    fs::set_permissions(folder.path().join("secret"), Permissions::from_mode(0o600))?;
    Ok(folder)
}

/// Writes a configuration: the defaults, and these virtual hosts.
pub fn write(folder: &Folder, hosts: &[String]) -> Result<()> {
    let road = env::var(ROAD).map(|road| format!("datapath = {road:?}\n")).unwrap_or_default();
    fs::write(folder.path().join("carpd.toml"), format!("{DEFAULTS}{road}{}", hosts.concat())).context("writing")
}

/// A virtual host's table.
pub fn virtual_host(vhid: u8, address: Ipv4Addr, more: &str) -> String {
    format!("[[virtual_host]]\nvhid = {vhid}\naddresses = [\"{address}\"]\n{more}\n")
}

/// Starts an agent with the folder's configuration; its socket and its state are there, too.
pub fn start(host: &Host, folder: &Folder) -> Result<Agent> {
    start_with(None, host, folder)
}

/// The same, and it loads this.
pub fn start_with(preload: Option<&Preload>, host: &Host, folder: &Folder) -> Result<Agent> {
    let mut carpd = host.command(carpd_path()?);
    if let Some(preload) = preload {
        preload.add_to(&mut carpd);
    }
    add_options(&mut carpd, folder, &folder.path().join("socket")).env("STATE_DIRECTORY", folder.path());
    Agent::spawn(host.name(), carpd)
}

/// Adds the options for the folder's configuration, and for this socket.
pub fn add_options<'c>(carpd: &'c mut Command, folder: &Folder, socket: &Path) -> &'c mut Command {
    carpd.arg("--config").arg(folder.path().join("carpd.toml")).arg("--socket").arg(socket)
}

/// Runs carpctl in the folder, for the agent that has its socket there.
pub fn carpctl(folder: &Folder, arguments: &[&str]) -> Result<Output> {
    let mut carpctl = Command::new(carpd_path()?.with_file_name("carpctl"));
    // As if systemd had put its credentials there.
    carpctl.env("CREDENTIALS_DIRECTORY", folder.path());
    carpctl.args(["--socket", "socket"]).args(arguments).current_dir(folder.path());
    carpctl.output().context("running carpctl")
}

/// The changes of state of a virtual host, by the beginning of its lines.
pub fn changes(agent: &Agent, name: &str) -> Vec<String> {
    let of_name = |line: &str| Some(line.split_once(&format!("{name}: "))?.1.split_once(", ")?.0.to_owned());
    agent.lines().iter().filter_map(|line| of_name(&line.text)).filter(|change| change.contains(" -> ")).collect()
}

/// Waits for a change of state: `BACKUP -> MASTER`.
pub fn wait_for_change(agent: &Agent, name: &str, change: &str) -> Result<()> {
    eventually(&format!("{name}: {change}"), LONG, || Ok(changes(agent, name).iter().any(|seen| seen == change)))
        .with_context(|| format!("{:#?}", agent.lines()))
}
