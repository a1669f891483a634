//! The administrator's scripts: how they are run, what they own, and that none of them holds up the adverts.

mod arguments;
mod cloud;
mod failures;
mod limits;
mod notify;
mod ownership;
mod stops;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use carp_tests::{Agent, Folder, Host, LONG, VIP, eventually};

/// Begins every script: notes its name and arguments in the file `events` beside it, and tells its own folder as `$here`.
const PREAMBLE: &str = "#!/bin/sh\nhere=$(dirname \"$0\")\necho \"$(basename \"$0\") $*\" >> \"$here/events\"\n";

/// Scripts of a test, and what they have noted. Gone after the test.
struct Scripts(Folder);

impl Scripts {
    fn new() -> Result<Self> {
        Self::in_folder("scripts with blanks")
    }

    /// In a folder whose name has this in it.
    fn in_folder(name: &str) -> Result<Self> {
        Folder::new(name).map(Self)
    }

    /// Writes a script, and returns the option that names it.
    fn write(&self, name: &str, body: &str) -> Result<String> {
        let path = self.path(name);
        fs::write(&path, format!("{PREAMBLE}{body}\n")).with_context(|| format!("writing {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755)).context("making a script executable")?;
        Ok(format!("--{name}script={}", path.display()))
    }

    /// Both scripts.
    fn write_both(&self, up: &str, down: &str) -> Result<[String; 2]> {
        Ok([self.write("up", up)?, self.write("down", down)?])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What was noted so far, a line each.
    fn events(&self) -> Result<Vec<String>> {
        let path = self.path("events");
        if !path.exists() {
            return Ok(Vec::new());
        }
        let events = fs::read_to_string(&path).context("reading what the scripts have noted")?;
        Ok(events.lines().map(str::to_owned).collect())
    }

    fn wait_for_events(&self, wanted: &[&str]) -> Result<()> {
        eventually(&format!("{wanted:?}"), LONG, || Ok(self.events()? == wanted))
            .with_context(|| format!("there were {:?}", self.events()))
    }

    /// The number that a script has written into a file.
    fn number_in(&self, name: &str) -> Result<u32> {
        let mut number = None;
        eventually(&format!("a number in {name}"), LONG, || {
            number = fs::read_to_string(self.path(name)).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
            Ok(number.is_some())
        })?;
        number.context("the wait was for this")
    }
}

/// Starts carpd for the VIP with an advert every 117 ms and a dead time of 351 ms.
fn carpd(host: &Host, options: &[impl AsRef<str>]) -> Result<Agent> {
    let vip = format!("--addr={VIP}");
    let mut words = vec!["--interface=eth0", "--vhid=1", "--pass=secret", "--advbase=0", "--advskew=30", &vip];
    words.extend(options.iter().map(AsRef::as_ref));
    host.carpd(&words)
}

/// Whether a process is there, and no zombie.
fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    status.is_ok_and(|status| !status.contains("State:\tZ") && !status.contains("State:\tX"))
}
