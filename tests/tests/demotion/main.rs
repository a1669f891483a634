//! What demotes a virtual host beside its own adverts, what it fails over with, and what holds it back.

mod gates;
mod groups;
mod interfaces;
mod profiles;
mod scripts;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use carp_tests::configured::{carpctl, changes, folder, start, virtual_host, write};
use carp_tests::{Agent, Folder, Host, LONG, VIP, eventually};
use serde_json::Value;

/// The virtual host of most tests, as log lines begin.
const FIRST: &str = "eth0 vhid 1";
const SLOWER: &str = "advskew = 80";
const TO_BACKUP: &str = "INIT -> BACKUP";
const TO_MASTER: &str = "BACKUP -> MASTER";
const YIELDS: &str = "MASTER -> BACKUP";

/// A carpd at work with its folder.
struct Server {
    folder: Folder,
    agent: Agent,
}

impl Server {
    fn start(host: &Host, tables: &[String]) -> Result<Self> {
        Self::start_in(folder()?, host, tables)
    }

    /// In a folder that has its scripts already.
    fn start_in(folder: Folder, host: &Host, tables: &[String]) -> Result<Self> {
        write(&folder, tables)?;
        let agent = start(host, &folder)?;
        // Its log begins before it answers.
        eventually("carpctl is answered", LONG, || Ok(carpctl(&folder, &["status"])?.status.code() != Some(3)))?;
        Ok(Self { folder, agent })
    }

    /// Waits until these are all changes of state of a virtual host since the start.
    fn wait_for_changes(&self, name: &str, wanted: &[&str]) -> Result<()> {
        eventually(&format!("{name}: {wanted:?}"), LONG, || Ok(changes(&self.agent, name) == wanted))
            .with_context(|| format!("{:#?}", self.agent.lines()))
    }

    /// Why the last change to this state was made.
    fn cause(&self, change: &str) -> Result<String> {
        let lines = self.agent.lines();
        let cause = lines.iter().rev().find_map(|line| line.text.split_once(&format!("{change}, ")));
        Ok(cause.with_context(|| format!("no {change}"))?.1.to_owned())
    }

    /// A field of its first virtual host.
    fn field(&self, pointer: &str) -> Result<Value> {
        let output = carpctl(&self.folder, &["status", "--json"])?;
        let status: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        status.pointer(&format!("/virtual_hosts/0{pointer}")).cloned().with_context(|| format!("{pointer}: {status}"))
    }

    /// Everything that demotes the first virtual host now: `SOURCE BY: WHY`.
    fn demoting(&self) -> Result<Vec<String>> {
        let sources = self.field("/demotion/sources")?;
        let sources = sources.as_array().context("a list")?.iter().filter(|source| source["by"] != 0);
        let text = |source: &Value| {
            Some(format!("{} {}: {}", source["source"].as_str()?, source["by"], source["why"].as_str()?))
        };
        sources.map(|source| text(source).with_context(|| source.to_string())).collect()
    }

    fn wait_until_demoted_by(&self, wanted: &[&str]) -> Result<()> {
        eventually(&format!("demoted by {wanted:?}"), LONG, || Ok(self.demoting()? == wanted))
            .with_context(|| format!("{:?} {:#?}", self.demoting(), self.agent.lines()))
    }

    /// `carpctl status`: its exit code, and what it says.
    fn table(&self) -> Result<(Option<i32>, String)> {
        let Output { status, stdout, .. } = carpctl(&self.folder, &["status"])?;
        Ok((status.code(), String::from_utf8_lossy(&stdout).into_owned()))
    }

    /// Has the server go by another file.
    fn reload(&self, tables: &[String]) -> Result<()> {
        write(&self.folder, tables)?;
        let output = carpctl(&self.folder, &["reload"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn first(lines: &str) -> String {
    virtual_host(1, VIP, lines)
}

/// Two servers of [`FIRST`]: `a`, which preempts, is master with these tables, and `b` comes second with these lines.
fn pair(a: &Host, b: &Host, of_a: (Folder, &[String]), of_b: &str) -> Result<[Server; 2]> {
    let on_a = Server::start_in(of_a.0, a, of_a.1)?;
    on_a.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    let on_b = Server::start(b, &[first(&format!("{SLOWER}\n{of_b}"))])?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP])?;
    eventually("b hears a", LONG, || Ok(on_b.field("/heard")?.is_object()))?;
    Ok([on_a, on_b])
}

/// Gives a host an interface t0, up and with carrier, which [`set_uplink`] takes away.
fn add_uplink(host: &Host) -> Result<()> {
    host.ns().ip("link add t0 type veth peer name t1")?;
    host.ns().ip("addr add 10.78.0.1/24 dev t0")?;
    host.ns().ip("link set t0 up")?;
    set_uplink(host, "up")?;
    eventually("t0 has a carrier", LONG, || Ok(host.ns().ip("-brief link show dev t0")?.contains("LOWER_UP")))
}

/// Takes t0's carrier away, or gives it back.
fn set_uplink(host: &Host, state: &str) -> Result<()> {
    host.ns().ip(&format!("link set t1 {state}")).map(drop)
}

/// Writes a script that notes its runs, `ok` or `no` by whether there is a file `ok` beside it; begins with `body`.
fn write_script(folder: &Folder, body: &str) -> Result<()> {
    let path = folder.path().join("check");
    let text = format!(
        "#!/bin/sh\ncd {:?}\n{body}\nif [ -e ok ]; then echo ok >> runs; else echo no >> runs; exit 7; fi\n",
        folder.path()
    );
    fs::write(&path, text).context("writing a script")?;
    fs::set_permissions(&path, Permissions::from_mode(0o755)).context("making a script executable")
}

/// What a script has noted.
fn runs(folder: &Folder) -> Vec<String> {
    let text = fs::read_to_string(folder.path().join("runs")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn set_ok(folder: &Folder, is_ok: bool) -> Result<()> {
    let path = folder.path().join("ok");
    if is_ok { fs::write(path, "") } else { fs::remove_file(path) }.context("telling the script")
}

fn script(lines: &str) -> String {
    format!("[script.check]\ncommand = [\"check\", \"an argument\"]\n{lines}\n")
}
