//! Who is measured: carpd, ucarp and keepalived, each as a master and as its backup, at the settings that suit it best.

use std::{
    fmt::{self, Write},
    fs::{self, File, Permissions},
    net::Ipv4Addr,
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
use serde::Serialize;

use crate::{
    agent::{Agent, Line, carpd_path},
    clock::{BootTime, eventually},
    folder::Folder,
    host::{ETH0, Host},
    netns::output_of,
    node::{LONG, VHID, VIP},
    tools::{is_missing, tool},
};

/// keepalived takes eight characters.
const PASSWORD: &str = "password";
/// A file with a key, and what is in it.
const SEAL_KEY: &str = "seal-key-of-the-benchmarks";
/// The line of carpd's defaults for those that seal.
pub const SEALED: &str = "seal = \"enforce\"\nseal_keys = [{ id = 1, file = \"seal-key-of-the-benchmarks\" }]\n";
/// The highest priority of a keepalived that is not the address's owner.
const PRIORITY: u8 = 254;
/// What carpd says if its log is read too slowly.
const LOST_LINES: &str = " log lines were lost";
/// For how long it is tried to count adverts more closely.
const TRIED: Duration = Duration::from_secs(3);

/// A program that shares an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum System {
    Carpd,
    Ucarp,
    Keepalived,
}

/// How soon a backup notices its master's death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Pace {
    /// An advert a second, and three of them are missed: what all have in common.
    Second,
    /// The soonest that there is.
    Fastest,
}

/// A program and its settings.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// For tables.
    pub name: &'static str,
    /// Which program.
    pub system: System,
    /// Its timers.
    pub pace: Pace,
    /// How many virtual hosts there are.
    pub vhids: u8,
    /// By how much the backup is less preferred: advskew, or priority.
    pub skew: u8,
    /// Real-time scheduling and locked memory, where a program has that.
    pub realtime: bool,
    /// Further lines of carpd's defaults.
    pub defaults: &'static str,
    /// Further options of carpd or ucarp.
    pub options: &'static [&'static str],
}

/// carpd with one virtual host.
pub const CARPD: Setting = Setting {
    name: "carpd",
    system: System::Carpd,
    pace: Pace::Second,
    vhids: 1,
    skew: 1,
    realtime: false,
    defaults: "",
    options: &[],
};
/// The same of ucarp.
pub const UCARP: Setting = Setting { name: "ucarp", system: System::Ucarp, ..CARPD };
/// The same of keepalived.
pub const KEEPALIVED: Setting = Setting { name: "keepalived", system: System::Keepalived, ..CARPD };

impl Setting {
    /// Those of them whose program is there; says so of the others.
    pub fn present(all: &[Self]) -> Result<Vec<Self>> {
        let mut present = vec![];
        for setting in all {
            if setting.system == System::Carpd || !is_missing(setting.system.program())? {
                present.push(*setting);
            }
        }
        Ok(present)
    }

    /// Between two adverts of the master.
    pub fn interval(&self) -> Duration {
        match (self.pace, self.system) {
            (Pace::Second, _) | (Pace::Fastest, System::Ucarp) => Duration::from_secs(1),
            (Pace::Fastest, System::Carpd) => Duration::from_secs(1) / 256,
            (Pace::Fastest, System::Keepalived) => Duration::from_millis(10),
        }
    }

    /// How long a backup waits after its master's last advert.
    pub fn dead_time(&self) -> Duration {
        let skew = u32::from(self.skew);
        let second = Duration::from_secs(1);
        match (self.system, self.pace) {
            (System::Carpd | System::Ucarp, Pace::Second) => 3 * second + second * skew / 256,
            (System::Carpd, Pace::Fastest) => 3 * second * skew / 256,
            (System::Ucarp, Pace::Fastest) => second + second * skew / 256,
            // The skew time is what is missing to 256.
            (System::Keepalived, _) => 3 * self.interval() + self.interval() * (2 + skew) / 256,
        }
    }

    /// What it is started with, for the one who reads the figures: the configuration, or the options.
    pub fn text(&self, is_preferred: bool) -> String {
        match self.system {
            System::Carpd => format!("{}{}", self.carpd(is_preferred), self.options.join(" ")),
            System::Ucarp => self.ucarp(is_preferred).join(" "),
            System::Keepalived => self.keepalived(is_preferred, Path::new(".")),
        }
    }

    /// carpd.toml
    fn carpd(&self, is_preferred: bool) -> String {
        let skew = if is_preferred { 0 } else { self.skew };
        let base = if self.pace == Pace::Second { 1 } else { 0 };
        let realtime = if self.realtime { "realtime = true\n" } else { "" };
        let mut text = format!(
            "{realtime}[defaults]\ninterface = {ETH0:?}\npassphrase = {PASSWORD:?}\npreempt = true\nadvbase = {base}\n\
             advskew = {skew}\n{}",
            self.defaults
        );
        for vhid in 1..=self.vhids {
            let address = address(vhid);
            // Writing to a String cannot fail.
            let _ = write!(text, "[[virtual_host]]\nvhid = {vhid}\naddresses = [\"{address}\"]\n");
        }
        text
    }

    /// The options that are the same for all virtual hosts.
    fn ucarp(&self, is_preferred: bool) -> Vec<String> {
        let skew = if is_preferred { 0 } else { self.skew };
        let mut options = vec![format!("--interface={ETH0}"), format!("--pass={PASSWORD}"), "--shutdown".to_owned()];
        options.extend(["--daemonize".to_owned(), "--facility=none".to_owned()]);
        options.extend(["--advbase=1".to_owned(), format!("--advskew={skew}")]);
        // Its --preempt makes it master at once, whoever is.
        options.extend(is_preferred.then(|| "--preempt".to_owned()));
        options.extend((self.pace == Pace::Fastest).then(|| "--deadratio=1".to_owned()));
        options.extend(self.options.iter().map(|&option| option.to_owned()));
        options
    }

    /// keepalived.conf; a number in the file `priority` is added to the priority.
    fn keepalived(&self, is_preferred: bool, folder: &Path) -> String {
        let priority = if is_preferred { PRIORITY } else { PRIORITY - self.skew };
        let folder = folder.display();
        let realtime = if self.realtime { "  vrrp_rt_priority 50\n  vrrp_no_swap\n" } else { "" };
        let timers = match self.pace {
            Pace::Second => {
                format!(
                    "  version 2\n  advert_int 1\n  authentication {{\n    auth_type PASS\n    auth_pass {PASSWORD}\n  }}\n"
                )
            }
            Pace::Fastest => "  version 3\n  advert_int 0.01\n".to_owned(),
        };
        let mut text = format!(
            "global_defs {{\n  vrrp_notify_fifo {folder}/fifo\n{realtime}}}\n\
             track_file priority {{\n  file {folder}/priority\n  weight 1\n  init_file 0\n}}\n"
        );
        for id in 1..=self.vhids {
            let address = address(id);
            let tracks = if id == VHID { "  track_file {\n    priority\n  }\n" } else { "" };
            let _ = write!(
                text,
                "vrrp_instance v{id} {{\n  state BACKUP\n  interface {ETH0}\n  virtual_router_id {id}\n  \
                 priority {priority}\n{timers}  virtual_ipaddress {{\n    {address}/32\n  }}\n{tracks}}}\n"
            );
        }
        text
    }
}

/// What is shared by virtual hosts of this number.
fn address(vhid: u8) -> Ipv4Addr {
    if vhid == VHID { VIP } else { Ipv4Addr::new(10, 77, 1, vhid) }
}

impl System {
    /// Its program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Carpd => "carpd",
            Self::Ucarp => "ucarp",
            Self::Keepalived => "keepalived",
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

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

/// Adverts that a program has counted since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adverts {
    /// When it told.
    pub at: BootTime,
    /// Those that it has sent.
    pub sent: i64,
    /// Genuine ones that it has heard.
    pub heard: i64,
}

impl Adverts {
    /// From carpd's line about its state.
    fn of_carpd(at: BootTime, line: &str) -> Result<Self> {
        let (_, counters) = line.split_once("adverts sent: ").context("without adverts sent")?;
        let (sent, received) = counters.split_once("; received: ").context("without adverts received")?;
        // Only a counter that is 0 is left out.
        let heard = received.split(", ").find_map(|counter| counter.strip_prefix("ipackets "));
        Ok(Self { at, sent: sent.parse()?, heard: heard.map_or(Ok(0), str::parse)? })
    }
}

/// Adverts of a master that its backup has not heard, by their own accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unheard {
    /// How many the master had sent by then, at least.
    sent: i64,
    /// So many of them were not heard: at least and at most, for some may be sent while both are asked.
    least: i64,
    most: i64,
}

/// Adverts that were lost in a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// At most so many; fewer than none, if more were heard than sent.
    pub lost: i64,
    /// Of so many.
    pub of: i64,
}

impl Unheard {
    /// Asks the master, the backup, and the master again.
    pub fn ask(sent: impl Fn() -> Result<i64>, heard: impl FnOnce() -> Result<i64>) -> Result<Self> {
        let (before, heard, after) = (sent()?, heard()?, sent()?);
        Ok(Self { sent: before, least: before - heard, most: after - heard })
    }

    /// Before a span, when nothing is under way: asks until nothing is sent meanwhile, or for some seconds.
    pub fn before(mut ask: impl FnMut() -> Result<Self>) -> Result<Self> {
        let (begin, mut closest) = (BootTime::now(), ask()?);
        while closest.least < closest.most && BootTime::now().since(begin) < TRIED {
            let next = ask()?;
            if next.most - next.least < closest.most - closest.least {
                closest = next;
            }
        }
        Ok(closest)
    }

    /// What was lost since then. What is under way looks as if it was lost, and what is lost is never heard: so it asks
    /// until nothing is missing, or for some seconds, and the fewest that were missing are the most that can be lost.
    pub fn lost_since(self, ask: impl FnMut() -> Result<Self>) -> Result<Lost> {
        self.lost(TRIED, ask)
    }

    fn lost(self, tried: Duration, mut ask: impl FnMut() -> Result<Self>) -> Result<Lost> {
        let begin = BootTime::now();
        let lost = |now: Self| Lost { lost: now.most - self.least, of: now.sent - self.sent };
        let mut fewest = lost(ask()?);
        while fewest.lost > 0 && BootTime::now().since(begin) < tried {
            let next = lost(ask()?);
            if next.lost < fewest.lost {
                fewest = next;
            }
        }
        Ok(fewest)
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.lost, self.of)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn adverts_that_were_sent_are_told_always_and_those_that_were_heard_unless_there_are_none() {
        let at = BootTime::now();
        let told = |rest: &str| Adverts::of_carpd(at, &format!("eth0 vhid 1: BACKUP for 3 s, demotion 0, {rest}"));
        let heard = told("last advert heard 0.1 s ago; adverts sent: 7; received: ipackets6 9, ipackets 12, badauth 3");
        assert_eq!(heard.unwrap(), Adverts { at, sent: 7, heard: 12 });
        assert_eq!(
            told("no advert heard; adverts sent: 0; received: none").unwrap(),
            Adverts { at, sent: 0, heard: 0 }
        );
        told("no advert heard; sent: 0; received: none").unwrap_err();
        told("no advert heard; adverts sent: 0").unwrap_err();
        told("no advert heard; adverts sent: 0; received: ipackets many").unwrap_err();
    }

    #[test]
    fn an_advert_that_is_sent_while_they_are_asked_hides_no_loss() {
        let (sent, heard) = (Cell::new(100), Cell::new(40));
        let ask = || Unheard::ask(|| Ok(sent.get()), || Ok(heard.get()));
        let before = Unheard::before(ask).unwrap();
        assert_eq!(before, Unheard { sent: 100, least: 60, most: 60 });
        // One is lost, and one is heard between the questions, and the next time it is quiet.
        sent.set(110);
        heard.set(49);
        let asked = Cell::new(0);
        let busy_once = || {
            asked.set(asked.get() + 1);
            let heard_then = || {
                if asked.get() == 1 {
                    sent.set(111);
                    heard.set(50);
                }
                Ok(heard.get())
            };
            Unheard::ask(|| Ok(sent.get()), heard_then)
        };
        assert_eq!(busy_once().unwrap(), Unheard { sent: 110, least: 60, most: 61 });
        assert_eq!(before.lost(Duration::ZERO, busy_once).unwrap(), Lost { lost: 1, of: 11 });
        heard.set(52);
        assert_eq!(before.lost(Duration::ZERO, ask).unwrap().to_string(), "-1 of 11");
    }

    #[test]
    fn dead_times_are_those_of_the_protocols() {
        let micros = |setting: Setting| setting.dead_time().as_micros();
        let fastest = |setting: Setting| Setting { pace: Pace::Fastest, ..setting };
        assert_eq!([CARPD, UCARP, KEEPALIVED].map(micros), [3_003_906, 3_003_906, 3_011_718]);
        assert_eq!([CARPD, UCARP, KEEPALIVED].map(fastest).map(micros), [11_718, 1_003_906, 30_117]);
        assert_eq!(micros(Setting { skew: 50, ..CARPD }), 3_195_312);
    }
}
