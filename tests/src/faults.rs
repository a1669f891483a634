//! Faults that befall a group of servers, one after the other, and what their client sees of each: for how long two hosts
//! answered for the VIP, and for how long none.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::agent::carpd_path;
use crate::arp_watch::{ArpReport, ArpWatch};
use crate::busy::hog;
use crate::clock::{BootTime, eventually};
use crate::folder::Folder;
use crate::foreign;
use crate::host::Host;
use crate::memory_group::MemoryGroup;
use crate::netns::output_of;
use crate::node::{LONG, Node, VIP};
use crate::preload::Preload;
use crate::random::SplitMix64;
use crate::tools::tool;

/// An advert every 234 and 312 ms; each one's lease is just shorter than the other's dead time, 937 and 703 ms.
pub const QUICK: [&str; 2] =
    ["--advbase=0 --advskew=60 --peer-advskew=80", "--advbase=0 --advskew=80 --peer-advskew=60"];
/// An advert every second, and leases of three, less 1 %.
pub const USUAL: [&str; 2] = ["--advbase=1 --advskew=0", "--advbase=1 --advskew=50"];

/// Whoever takes over from a master that is alive, for it is demoted or less preferred, says so and takes the VIP; the other gives
/// it up when it hears that. On a busy machine a request that comes just then is answered by both.
pub const ELECTION: Duration = Duration::from_millis(10);

/// In seconds.
const HOUR: i64 = 3600;
/// How often the client asks who has the VIP.
const PERIOD: Duration = Duration::from_millis(1);

/// What befalls one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9`, and a start afterwards.
    Kill,
    /// SIGSTOP, SIGCONT.
    Stop,
    /// The same for all.
    StopAll,
    /// Of carpd's threads only the one with the loop stands still.
    Loop,
    /// SIGTERM, and a start afterwards.
    Restart,
    /// SIGUSR2.
    StepDown,
    /// `carpctl upgrade`.
    Upgrade,
    /// The same while it is about to give its mastership to the other.
    UpgradeInElection,
    /// The cable is out.
    Carrier,
    /// Its interface is deleted, and made anew.
    Interface,
    /// Others on its host change so many addresses while it stands still that netlink loses some of the changes.
    Overrun,
    /// `bpftool link detach` of the XDP program.
    Detach,
    /// The same of the egress program.
    DetachEgress,
    /// What is pinned is removed.
    Unpin,
    /// There is no room for what is to be sent: ENOBUFS.
    NoBuffers,
    /// Nothing may be sent: EPERM.
    NotPermitted,
    /// No descriptor is left.
    Descriptors,
    /// No memory is left to its control group, and it is asked for what needs some; a start afterwards if it is killed.
    Memory,
    /// Its wall clock is set an hour forwards, and then two back.
    Clock,
    /// Four programs on each CPU that do nothing but compute.
    Hogs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Kill,
        Self::Stop,
        Self::StopAll,
        Self::Loop,
        Self::Restart,
        Self::StepDown,
        Self::Upgrade,
        Self::UpgradeInElection,
        Self::Carrier,
        Self::Interface,
        Self::Overrun,
        Self::Detach,
        Self::DetachEgress,
        Self::Unpin,
        Self::NoBuffers,
        Self::NotPermitted,
        Self::Descriptors,
        Self::Memory,
        Self::Clock,
        Self::Hogs,
    ];

    /// Whether it may end the process, or put another program into it.
    pub const fn ends_process(self) -> bool {
        matches!(self, Self::Kill | Self::Restart | Self::Memory | Self::Upgrade | Self::UpgradeInElection)
    }
}

/// A fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What it is.
    pub kind: Kind,
    /// Whom it befalls: 0 is the master, 1 the first of its backups, and so on.
    pub rank: usize,
    /// How long it lasts.
    pub lasts: Duration,
}

impl Fault {
    /// The next one of a schedule for so many servers. The master is befallen as often as all its backups and one more.
    pub fn draw(random: &mut SplitMix64, servers: usize) -> Self {
        let mut below = |count: usize| (random.next() % count as u64) as usize;
        // Around the leases and dead times of the quick timers.
        let lasts = [0, 50, 300, 650, 720, 900, 960, 2500][below(8)];
        let kind = Kind::ALL[below(Kind::ALL.len())];
        let rank = below(2 * servers - 1) + 1;
        Self { kind, rank: if rank < servers { rank } else { 0 }, lasts: Duration::from_millis(lasts) }
    }
}

/// What a client saw of a fault.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// For how long two hosts answered.
    pub two: Duration,
    /// For how long nobody did, from its beginning until all was well again.
    pub none: Duration,
    /// How long after its end the VIP was answered for good.
    pub back: Duration,
}

impl Seen {
    /// Of a fault that began and ended then; two owners count at any time.
    fn new(report: &ArpReport, begin: BootTime, end: BootTime) -> Self {
        let mut seen = Self { two: Duration::ZERO, none: Duration::ZERO, back: Duration::ZERO };
        for ownership in report.timeline() {
            match ownership.owners.len() {
                0 if ownership.to > begin => {
                    seen.none += ownership.to.since(ownership.from.max(begin));
                    seen.back = ownership.to.since(end.min(ownership.to));
                }
                0 | 1 => {}
                _ => seen.two += ownership.to.since(ownership.from),
            }
        }
        seen
    }
}

/// Servers that are asked by a client.
pub struct Group<'h> {
    servers: Vec<Server<'h>>,
    /// How long after a fault it is watched besides.
    afterwards: Duration,
    client: &'h Host,
    _folder: Folder,
}

struct Server<'h> {
    host: &'h Host,
    options: String,
    socket: PathBuf,
    preload: Preload,
    node: Node<'h>,
    /// What those have said that it had during this fault, before.
    past: Vec<String>,
}

impl<'h> Group<'h> {
    /// Starts carpd on each, with its options.
    pub fn start(hosts: &[&'h Host], client: &'h Host, options: &[&str]) -> Result<Self> {
        let folder = Folder::new("faults")?;
        let server = |(&host, options): (&&'h Host, &&str)| {
            let socket = folder.path().join(format!("socket-{}", host.name()));
            let options = format!("{options} --socket={}", socket.display());
            let preload = Preload::new()?;
            let node = Node::spawn_with(&preload, host, &options)?;
            node.wait_until_ready()?;
            Ok(Server { host, options, socket, preload, node, past: vec![] })
        };
        let servers = hosts.iter().zip(options).map(server).collect::<Result<_>>()?;
        Ok(Self { servers, afterwards: Duration::ZERO, client, _folder: folder })
    }

    /// From now on, faults are watched for so long after all is well again: they may have an effect that comes later.
    pub fn watch_for(&mut self, afterwards: Duration) {
        self.afterwards = afterwards;
    }

    /// The servers as [`Fault::rank`] counts them, when all is well.
    pub fn ranks(&self) -> Result<Vec<usize>> {
        self.settle(&ArpWatch::start(self.client, VIP, PERIOD)?)
    }

    /// Has a fault befall it, and waits until all is well again.
    pub fn suffer(&mut self, fault: Fault) -> Result<Seen> {
        let watch = ArpWatch::start(self.client, VIP, PERIOD)?;
        let ranks = self.settle(&watch)?;
        let begin = BootTime::now();
        self.servers.iter_mut().for_each(|server| server.past.clear());
        self.inflict(fault, *ranks.get(fault.rank).context("there are not so many servers")?)?;
        let end = BootTime::now();
        let settle = || self.settle(&watch).with_context(|| format!("after {fault:?}: {}", self.logs()));
        settle()?;
        thread::sleep(self.afterwards);
        settle()?;
        Ok(Seen::new(&watch.stop()?, begin, end))
    }

    /// What is seen for so long while nothing befalls it. An error if anybody's state changes.
    pub fn rest(&self, lasts: Duration) -> Result<Seen> {
        let watch = ArpWatch::start(self.client, VIP, PERIOD)?;
        self.settle(&watch)?;
        let (before, begin) = (self.changes(), BootTime::now());
        thread::sleep(lasts);
        let end = BootTime::now();
        ensure!(self.changes() == before, "a state changed, and nothing had happened");
        Ok(Seen::new(&watch.stop()?, begin, end))
    }

    /// Has each carpd stop.
    pub fn stop(mut self) -> Result<()> {
        for Server { host, node, .. } in &mut self.servers {
            let status = node.agent_mut().stop_and_wait(LONG)?;
            ensure!(status.success(), "carpd on {} ended with {status}", host.name());
        }
        Ok(())
    }

    fn inflict(&mut self, Fault { kind, lasts, .. }: Fault, which: usize) -> Result<()> {
        let last = || thread::sleep(lasts);
        let server = &mut self.servers[which];
        let Server { host, socket, preload, node, .. } = server;
        let signal = |signal| node.agent().signal(signal);
        let carpctl = |order: &str| -> Result<Command> {
            let mut carpctl = Command::new(carpd_path()?.with_file_name("carpctl"));
            carpctl.arg("--socket").arg(&*socket).arg(order);
            Ok(carpctl)
        };
        match kind {
            Kind::Kill => {
                node.agent_mut().kill()?;
                last();
                server.start()?;
            }
            Kind::Stop => {
                signal(Signal::SIGSTOP)?;
                last();
                signal(Signal::SIGCONT)?;
            }
            Kind::StopAll => {
                let all = |signal| self.servers.iter().try_for_each(|server| server.node.agent().signal(signal));
                all(Signal::SIGSTOP)?;
                last();
                all(Signal::SIGCONT)?;
            }
            Kind::Loop => stop_thread(node.agent().pid(), lasts)?,
            Kind::Restart => {
                node.agent_mut().stop_and_wait(LONG)?;
                last();
                server.start()?;
            }
            Kind::StepDown => signal(Signal::SIGUSR2)?,
            Kind::Upgrade => {
                output_of(&mut carpctl("upgrade")?)?;
            }
            Kind::UpgradeInElection => {
                signal(Signal::SIGUSR2)?;
                output_of(&mut carpctl("upgrade")?)?;
            }
            Kind::Carrier => {
                host.set_carrier(false)?;
                last();
                host.set_carrier(true)?;
            }
            Kind::Interface => {
                host.delete_interface()?;
                last();
                host.create_interface()?;
            }
            Kind::Overrun => {
                host.add_others()?;
                signal(Signal::SIGSTOP)?;
                host.add_others_addresses()?;
                last();
                signal(Signal::SIGCONT)?;
                host.ns().ip("link del others")?;
            }
            Kind::Detach => {
                foreign::detach(host)?;
                last();
            }
            Kind::DetachEgress => {
                let pins = pins(host)?;
                let links = fs::read_dir(pins)?.collect::<std::io::Result<Vec<_>>>()?;
                let link = links.iter().find(|entry| entry.file_name().to_string_lossy().starts_with("tc-"));
                let link = link.context("no egress program is pinned")?.path();
                output_of(Command::new(tool("bpftool")?).args(["link", "detach", "pinned"]).arg(link))?;
                last();
            }
            Kind::Unpin => {
                fs::remove_dir_all(pins(host)?)?;
                last();
            }
            Kind::NoBuffers | Kind::NotPermitted => {
                preload.refuse_frames(Some(if kind == Kind::NoBuffers { Errno::ENOBUFS } else { Errno::EPERM }))?;
                last();
                preload.refuse_frames(None)?;
            }
            Kind::Descriptors => {
                let limit = |limit: &str| {
                    let process = node.agent().pid().to_string();
                    output_of(Command::new("prlimit").args(["--pid", &process, &format!("--nofile={limit}:")]))
                };
                limit("3")?;
                last();
                limit("8192")?;
            }
            Kind::Memory => {
                let group = MemoryGroup::new(host.name())?;
                group.take_in(node.agent().pid())?;
                let end = BootTime::now() + lasts;
                loop {
                    // Whether there is an answer is its affair.
                    carpctl("status")?.output()?;
                    if BootTime::now() >= end {
                        break;
                    }
                }
                drop(group);
                // One that is being killed does not answer any more, and has not ended yet.
                let mut has_ended = false;
                eventually("it answers, or has ended", LONG, || {
                    has_ended = node.agent_mut().wait(Duration::ZERO).is_ok();
                    Ok(has_ended || carpctl("status")?.output()?.status.success())
                })?;
                if has_ended {
                    server.start()?;
                }
            }
            Kind::Clock => {
                for ahead in [HOUR, -HOUR, 0] {
                    preload.set_clock(ahead)?;
                    last();
                }
            }
            Kind::Hogs => hog(lasts),
        }
        Ok(())
    }

    /// Waits until one is master, and answers, and the others are its backups: it, and then they in their order.
    fn settle(&self, watch: &ArpWatch) -> Result<Vec<usize>> {
        let (mut master, begin) = (0, BootTime::now());
        eventually("one is master, and answers, the others are its backups", LONG, || {
            if let Some(server) = self.servers.iter().find(|server| !server.node.agent().is_running()) {
                bail!("carpd on {} has ended", server.host.name());
            }
            let states: Vec<_> = self.servers.iter().map(Server::state).collect();
            let count = |state| states.iter().filter(|known| known.as_deref() == Some(state)).count();
            master = states.iter().position(|state| state.as_deref() == Some("MASTER")).unwrap_or(0);
            let answers = watch.last_answer().filter(|answer| answer.asked > begin).map(|answer| answer.owner);
            Ok(count("MASTER") == 1
                && count("BACKUP") == states.len() - 1
                && answers == Some(self.servers[master].host.mac()))
        })?;
        let mut ranks: Vec<_> = (0..self.servers.len()).collect();
        ranks.sort_by_key(|which| *which != master);
        Ok(ranks)
    }

    /// All changes of state of each carpd since it was started last.
    pub fn changes(&self) -> Vec<Vec<String>> {
        self.servers.iter().map(|server| server.node.changes()).collect()
    }

    /// The process of a carpd.
    pub fn process(&self, which: usize) -> u32 {
        self.servers[which].node.agent().pid()
    }

    /// All that each carpd has said since it was started last, and what the one before it has if that was the last fault.
    pub fn logs(&self) -> String {
        let log = |server: &Server<'_>| {
            let lines = [&server.past[..], &server.lines()].concat();
            format!("{}:\n{}\n", server.host.name(), lines.join("\n"))
        };
        self.servers.iter().map(log).collect()
    }
}

impl Server<'_> {
    /// Starts carpd again, which has ended.
    fn start(&mut self) -> Result<()> {
        self.past.extend(self.lines());
        self.node = Node::spawn_with(&self.preload, self.host, &self.options)?;
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        self.node.agent().lines().into_iter().map(|line| line.text).collect()
    }

    /// The last that it has said of its state.
    fn state(&self) -> Option<String> {
        let last = self.node.changes().pop()?;
        Some(last.rsplit_once("-> ")?.1.to_owned())
    }
}

/// Where a host's programs are pinned, which may have been removed just now.
fn pins(host: &Host) -> Result<PathBuf> {
    let has_link = |folder: &PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("tc-"))
    };
    eventually("they are pinned", LONG, || Ok(host.ns().pins().as_ref().is_some_and(has_link)))?;
    host.ns().pins().context("nothing is pinned")
}

/// Lets a process's first thread do nothing for so long.
fn stop_thread(process: u32, lasts: Duration) -> Result<()> {
    let thread = Pid::from_raw(process.try_into()?);
    ptrace::seize(thread, ptrace::Options::empty()).context("cannot trace it")?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL))?;
    thread::sleep(lasts);
    ptrace::detach(thread, None).context("cannot let it go")
}
