//! A host that runs `carpd`: how it is started, and what its log says.

use std::collections::BTreeMap;
use std::env;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::agent::{Agent, Line, carpd_path};
use crate::clock::BootTime;
use crate::host::{ETH0, Host};
use crate::preload::Preload;

/// The address that the hosts of a lab hand to each other.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The virtual host's number.
pub const VHID: u8 = 1;
/// Its passphrase.
pub const PASSPHRASE: &str = "open sesame";

/// Options of the preferred host of a pair: an advert every 234 ms, dead time 703 ms.
pub const PREFERRED: &str = "--advbase=0 --advskew=60";
/// Options of the other one: an advert every 312 ms, dead time 937 ms.
pub const OTHER: &str = "--advbase=0 --advskew=80";

/// The environment variable with the road that adverts take in the tests: what --datapath accepts. Unless it is
/// set, nothing is asked for, and native XDP is expected.
pub const ROAD: &str = "CARP_TEST_DATAPATH";

/// No expectation: it only ends a test that would hang.
pub const LONG: Duration = Duration::from_secs(30);

/// A running `carpd` and its host. Dropping it kills it, and checks that its log is free of the passphrase.
pub struct Node<'h> {
    host: &'h Host,
    agent: Agent,
}

/// A change of state, as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When the line was read.
    pub at: BootTime,
    /// From where to where: `BACKUP -> MASTER`.
    pub change: String,
    /// Why.
    pub cause: String,
}

/// What SIGUSR1 makes it tell.
#[derive(Clone, Debug)]
pub struct Report {
    /// The whole line.
    pub text: String,
    counters: BTreeMap<String, u64>,
}

impl Report {
    /// A counter of received adverts, 0 if it is not told.
    pub fn count(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// The names of the counters that are not 0.
    pub fn counted(&self) -> Vec<&str> {
        self.counters.keys().map(String::as_str).collect()
    }
}

impl<'h> Node<'h> {
    /// Starts `carpd` for the [`VIP`], and waits until it is BACKUP.
    pub fn start(host: &'h Host, options: &str) -> Result<Self> {
        Self::start_for(&[&VIP.to_string()], host, options)
    }

    /// The same for these VIPs, each with or without its prefix length.
    pub fn start_for(vips: &[&str], host: &'h Host, options: &str) -> Result<Self> {
        let node = Self::spawn_for(vips, host, options, None)?;
        node.wait_until_ready()?;
        Ok(node)
    }

    /// Starts `carpd` and does not wait for anything.
    pub fn spawn(host: &'h Host, options: &str) -> Result<Self> {
        Self::spawn_for(&[&VIP.to_string()], host, options, None)
    }

    /// The same, and it loads this.
    pub fn spawn_with(preload: &Preload, host: &'h Host, options: &str) -> Result<Self> {
        Self::spawn_for(&[&VIP.to_string()], host, options, Some(preload))
    }

    fn spawn_for(vips: &[&str], host: &'h Host, options: &str, preload: Option<&Preload>) -> Result<Self> {
        let mut arguments = vec![format!("--interface={ETH0}"), format!("--vhid={VHID}")];
        arguments.push(format!("--pass={PASSPHRASE}"));
        arguments.extend(vips.iter().map(|vip| format!("--addr={vip}")));
        arguments.extend(env::var(ROAD).ok().map(|road| format!("--datapath={road}")));
        arguments.extend(options.split_whitespace().map(str::to_owned));
        let mut carpd = host.command(carpd_path()?);
        carpd.args(arguments);
        if let Some(preload) = preload {
            preload.add_to(&mut carpd);
        }
        Ok(Self { host, agent: Agent::spawn(host.name(), carpd)? })
    }

    /// A master, and a backup that was started when that was one.
    pub fn start_pair(master: (&'h Host, &str), backup: (&'h Host, &str)) -> Result<[Self; 2]> {
        let a = Self::start(master.0, master.1)?;
        a.wait_for("BACKUP -> MASTER")?;
        let b = Self::start(backup.0, backup.1)?;
        Ok([a, b])
    }

    /// Waits until it has found its interface, and asserts that adverts take the road that they should.
    pub fn wait_until_ready(&self) -> Result<()> {
        self.agent.wait_for_line(&Self::attached()?, LONG)?;
        self.wait_for("INIT -> BACKUP")?;
        Ok(())
    }

    /// The end of the line that says which road adverts take.
    pub fn attached() -> Result<String> {
        let road = match env::var(ROAD).as_deref() {
            Err(_) | Ok("native") => "native XDP",
            Ok("generic") => "generic XDP",
            Ok("socket") => "a packet socket",
            Ok(road) => bail!("{ROAD}={road}: it is native, generic or socket"),
        };
        Ok(format!("{road} on {ETH0}"))
    }

    /// Waits for the next change of state like this one: `BACKUP -> MASTER`.
    pub fn wait_for(&self, change: &str) -> Result<Transition> {
        let line = self.wait_for_line(&format!(": {change}, "))?;
        Transition::read(&line).with_context(|| format!("not a change of state: {}", line.text))
    }

    /// Waits for the next line that contains this.
    pub fn wait_for_line(&self, text: &str) -> Result<Line> {
        self.agent.wait_for_line(text, LONG)
    }

    /// All changes of state so far.
    pub fn transitions(&self) -> Vec<Transition> {
        self.agent.lines().iter().filter_map(Transition::read).collect()
    }

    /// From where to where they went.
    pub fn changes(&self) -> Vec<String> {
        self.transitions().into_iter().map(|transition| transition.change).collect()
    }

    /// All lines so far that contain this.
    pub fn lines_with(&self, text: &str) -> Vec<Line> {
        self.agent.lines().into_iter().filter(|line| line.text.contains(text)).collect()
    }

    /// Asks for its state and counters.
    pub fn report(&self) -> Result<Report> {
        self.agent.signal(Signal::SIGUSR1)?;
        let Line { text, .. } = self.wait_for_line("; received: ")?;
        let (_, received) = text.split_once("; received: ").context("the wait was for this")?;
        // Told just before, if there is any.
        let for_none = self.lines_with("received for none of the virtual hosts here: ").pop();
        let for_none = for_none.as_ref().and_then(|line| line.text.rsplit_once(": ")).map_or("", |(_, told)| told);
        let mut counters = BTreeMap::new();
        for counter in for_none.split(", ").chain(received.split(", ")) {
            if let Some((name, Ok(count))) = counter.split_once(' ').map(|(name, count)| (name, count.parse::<u64>())) {
                // In both, if it is "other".
                *counters.entry(name.to_owned()).or_default() += count;
            }
        }
        Ok(Report { counters, text })
    }

    /// Its host.
    pub fn host(&self) -> &'h Host {
        self.host
    }

    /// The process.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The process, to end it.
    pub fn agent_mut(&mut self) -> &mut Agent {
        &mut self.agent
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let leaked = self.lines_with(PASSPHRASE);
        assert!(leaked.is_empty() || thread::panicking(), "the passphrase is in the log: {leaked:?}");
    }
}

impl Transition {
    /// Reads `... eth0 vhid 1: BACKUP -> MASTER, no advert for 3.00 s`.
    fn read(line: &Line) -> Option<Self> {
        let (_, told) = line.text.split_once(&format!("{ETH0} vhid {VHID}: "))?;
        let (change, cause) = told.split_once(", ")?;
        let is_state = |word| ["INIT", "BACKUP", "MASTER"].contains(&word);
        let (from, to) = change.split_once(" -> ")?;
        (is_state(from) && is_state(to)).then(|| Self {
            at: line.at,
            change: change.to_owned(),
            cause: cause.to_owned(),
        })
    }
}
