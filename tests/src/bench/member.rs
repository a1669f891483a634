//! Who is measured: carpd, ucarp and keepalived, each as a master and as its backup.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};

use super::{
    losses::Adverts,
    settings::{SEAL_KEY, Setting, System, address},
};
use crate::{
    agent::{Agent, Line, carpd_path},
    clock::{BootTime, eventually},
    folder::Folder,
    host::Host,
    netns::output_of,
    node::LONG,
    tools::tool,
};

/// What carpd says if its log is read too slowly.
const LOST_LINES: &str = " log lines were lost";

/// One of the programs at work on a host, which has to outlive it.
///
/// None of them is held up by whoever reads what it says: ucarp and keepalived have no log here, but tell their changes
/// of state by a FIFO, keepalived itself and ucarp's scripts. What is still running when the host is dropped is killed.
pub struct Member {
    setting: Setting,
    /// What was started. A ucarp that has become a daemon has ended, as far as this goes.
    agents: Vec<Agent>,
    /// The FIFO, held open, and who reads it.
    changes: Option<(File, Agent)>,
    /// The number of the host's namespace.
    namespace: u64,
    folder: Folder,
}

impl Member {
    /// Starts one, and waits until it is a backup, as which all of them begin, or master already.
    pub fn start(host: &Host, setting: &Setting, is_preferred: bool) -> Result<Self> {
        let namespace = fs::metadata(host.ns().path()).context("looking at the host's namespace")?.ino();
        let folder = Folder::new(setting.system.program())?;
        let mut member = Self { setting: *setting, agents: vec![], changes: None, namespace, folder };
        member.spawn(host, is_preferred).with_context(|| format!("starting {}", setting.name))?;
        eventually("it has begun", LONG, || Ok(!member.changes().is_empty()))?;
        Ok(member)
    }

    fn spawn(&mut self, host: &Host, is_preferred: bool) -> Result<()> {
        let Self { setting, folder, .. } = self;
        let path = |name: &str| folder.path().join(name);
        if setting.system != System::Carpd {
            mkfifo(&path("fifo"), Mode::S_IRWXU).context("making a FIFO")?;
            let held = File::options().read(true).write(true).open(path("fifo")).context("opening a FIFO")?;
            let mut cat = Command::new("cat");
            cat.arg(path("fifo"));
            self.changes = Some((held, Agent::spawn("cat", cat)?));
        }
        let mut command = host.command(match setting.system {
            System::Carpd => carpd_path()?,
            peer => tool(peer.program())?,
        });
        match setting.system {
            System::Carpd => {
                // The key is for those that seal.
                for (name, text) in [("carpd.toml", setting.carpd(is_preferred)), (SEAL_KEY, SEAL_KEY.to_owned())] {
                    fs::write(path(name), text)?;
                    fs::set_permissions(path(name), Permissions::from_mode(0o600))?;
                }
                command.arg("--config").arg(path("carpd.toml")).arg("--socket").arg(path("socket"));
                command.args(setting.options).env("STATE_DIRECTORY", folder.path());
                let agent = Agent::spawn(host.name(), command)?;
                // Nothing else is measured unknowingly.
                let road = if setting.defaults.contains("datapath") { "eth0" } else { "native XDP" };
                agent.wait_for_line(road, LONG)?;
                self.agents.push(agent);
            }
            System::Keepalived => {
                fs::write(path("conf"), setting.keepalived(is_preferred, folder.path()))?;
                command.args(["--dont-fork", "--no-syslog", "--vrrp"]).arg("--use-file").arg(path("conf"));
                command.arg("--pid").arg(path("pid")).arg("--vrrp_pid").arg(path("vrrp-pid"));
                // There, it writes its statistics.
                command.env("TMPDIR", folder.path());
                self.agents.push(Agent::spawn(host.name(), command)?);
            }
            System::Ucarp => {
                let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
                for vhid in 1..=setting.vhids {
                    let mut command = host.command(tool("ucarp")?);
                    command.args(setting.ucarp(is_preferred));
                    command.args([format!("--srcip={}", host.ip()), format!("--vhid={vhid}")]);
                    command.arg(format!("--addr={}", address(vhid))).arg("--xparam").arg(path("fifo"));
                    command.arg("--upscript").arg(scripts.join("vip-up"));
                    command.arg("--downscript").arg(scripts.join("vip-down"));
                    let mut starter = Agent::spawn(host.name(), command)?;
                    ensure!(starter.wait(LONG)?.success(), "ucarp did not start: {:?}", starter.lines());
                }
            }
        }
        Ok(())
    }

    /// When it became master, or no longer was; what it was from the beginning on is the first. Of one with a single
    /// virtual host.
    pub fn changes(&self) -> Vec<(BootTime, bool)> {
        let (agent, separator) = match &self.changes {
            Some((_, cat)) => (Some(cat), ""),
            None => (self.agents.first(), " -> "),
        };
        let lines = agent.map(Agent::lines).unwrap_or_default().into_iter();
        let lines = lines.filter(|line| line.text.contains(separator));
        lines.map(|line| (line.at, line.text.contains(&format!("{separator}MASTER")))).collect()
    }

    /// Whether it is master, as far as it has told.
    pub fn is_master(&self) -> bool {
        self.changes().last().is_some_and(|(_, is_master)| *is_master)
    }

    /// Its processes.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let name = format!("{}\n", self.setting.system);
        let mut found = vec![];
        for entry in fs::read_dir("/proc").context("reading /proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
            // A process that has just ended is none.
            let is_here =
                fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|namespace| namespace.ino() == self.namespace);
            if is_here && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == name) {
                found.push(pid);
            }
        }
        ensure!(!found.is_empty(), "there is no {} any more", self.setting.name);
        Ok(found)
    }

    /// Sends a signal to all its processes.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        for process in self.processes()? {
            kill(Pid::from_raw(process.try_into()?), signal).with_context(|| format!("sending {signal}"))?;
        }
        Ok(())
    }

    /// Asks it to end, as its administrator would.
    pub fn stop(&self) -> Result<()> {
        match self.agents.first() {
            Some(agent) => agent.signal(Signal::SIGTERM),
            None => self.signal(Signal::SIGTERM),
        }
    }

    /// Has it give its mastership to the other, in the way that costs its clients least.
    pub fn hand_over(&self) -> Result<()> {
        match self.setting.system {
            System::Carpd => {
                let mut carpctl = Command::new(carpd_path()?.with_file_name("carpctl"));
                output_of(carpctl.arg("--socket").arg(self.socket()).arg("demote")).map(drop)
            }
            System::Ucarp => self.signal(Signal::SIGUSR2),
            System::Keepalived => {
                fs::write(self.folder.path().join("priority"), "-100\n").context("writing a priority")
            }
        }
    }

    /// Where carpctl asks carpd.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Its lines, of carpd: all of them, or an error.
    pub fn lines(&self) -> Result<Vec<Line>> {
        let lines = self.agents.first().map(Agent::lines).unwrap_or_default();
        ensure!(
            !lines.iter().any(|line| line.text.contains(LOST_LINES)),
            "{} lost lines of its log",
            self.setting.name
        );
        Ok(lines)
    }

    /// The adverts that it has counted; ucarp counts none.
    pub fn adverts(&self) -> Result<Option<Adverts>> {
        let Some(agent) = self.agents.first() else { return Ok(None) };
        if self.setting.system == System::Carpd {
            agent.signal(Signal::SIGUSR1)?;
            let Line { at, text } = agent.wait_for_line("; received: ", LONG)?;
            return Adverts::of_carpd(at, &text).with_context(|| format!("a strange line: {text}")).map(Some);
        }
        let path = self.folder.path().join("keepalived.stats");
        // It may be there from the last time.
        fs::remove_file(&path).ok();
        agent.signal(Signal::SIGUSR2)?;
        let mut text = String::new();
        eventually("keepalived's statistics", LONG, || {
            text = fs::read_to_string(&path).unwrap_or_default();
            Ok(text.contains("Priority Zero:"))
        })?;
        let number = |name| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            line.and_then(|number| number.trim().parse().ok()).context("a strange file of statistics")
        };
        // Those of the adverts are the first of these names.
        Ok(Some(Adverts { at: BootTime::now(), sent: number("Sent:")?, heard: number("Received:")? }))
    }

    /// Waits until it is master.
    pub fn wait_until_master(&self, timeout: Duration) -> Result<()> {
        if eventually("it is master", timeout, || Ok(self.is_master())).is_err() {
            bail!("{} is not master in {timeout:?}: {:?}", self.setting.name, self.changes());
        }
        Ok(())
    }
}
