//! Three servers for an hour: `cargo xtask soak [--minutes N] [--seed S]`.
//!
//! One fault after the other befalls the master or a backup, as the seed decides, while a client asks for the VIP and pings it, and
//! somebody floods them all. After each fault, one is master, the client has its VIP back in time, and while nothing befalls them for
//! a moment, with the flood still going on, nothing changes. The process of the third server is never ended, and uses no more
//! memory, descriptors and threads in the end than in the beginning; nor do more BPF programs stay in the kernel. When all have been
//! stopped, nothing is left.
//!
//! What is not as it should be ends it, with the logs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
    fs,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use carp_tests::{
    BootTime, Capture, ETH0, Filter, Flood, FloodPlan, Host, LONG, Lab, Probe, VHID, VIP,
    adverts::{self, Election},
    bench::{Table, Usage, millis},
    eventually,
    faults::{ELECTION, Fault, Group, Kind, Seen},
    netns::output_of,
    random::SplitMix64,
    tool,
};
use clap::Parser;

/// Adverts every 234, 273 and 312 ms; a lease is just shorter than the shortest of the others' dead times.
const OPTIONS: [&str; 3] = [
    "--advbase=0 --advskew=60 --peer-advskew=70",
    "--advbase=0 --advskew=70 --peer-advskew=60",
    "--advbase=0 --advskew=80 --peer-advskew=60",
];
/// The process of this one stays the same.
const LASTING: usize = 2;
/// The longest of them.
const DEAD_TIME: Duration = Duration::from_millis(938);
/// What it takes at most to be served again after a fault: that, and the start of a process.
const IN_TIME: Duration = Duration::from_millis(938 + 500);
/// Of a flood, frames a second.
const RATE: u32 = 10_000;
/// How long nothing befalls them.
const REST: Duration = Duration::from_secs(1);
/// Of the client.
const PING: Duration = Duration::from_millis(10);
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Args {
    /// How long
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    minutes: u32,
    /// What decides which faults there are
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let Args { minutes, seed, .. } = Args::parse();
    soak(minutes * MINUTE, seed).with_context(|| format!("seed {seed} replays it"))
}

fn soak(lasts: Duration, seed: u64) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, c, client, attacker] = lab.hosts(["a", "b", "c", "client", "attacker"])?;
    let servers = [&a, &b, &c];
    let before = programs()?;
    let mut group = Group::start(&servers, &client, &OPTIONS)?;
    group.watch_for(DEAD_TIME);
    let process = group.process(LASTING);
    let mut random = SplitMix64::new(seed);
    let (mut rounds, mut uses): (Vec<Round>, Vec<Use>) = (vec![], vec![]);
    let (begin, mut told) = (BootTime::now(), 0);
    while BootTime::now().since(begin) < lasts {
        let number = rounds.len() + 1;
        let (mut fault, flood) = (Fault::draw(&mut random, servers.len()), Flooded::draw(&mut random));
        if fault.kind.ends_process() && group.ranks()?[fault.rank] == LASTING {
            fault.rank = (fault.rank + 1) % servers.len();
        }
        let round = Round::new(&mut group, fault, flood, &client, &attacker)
            .with_context(|| format!("fault {number}, {fault:?} and a flood of {flood:?}"))?;
        let at = BootTime::now().since(begin).as_secs();
        println!("{:02}:{:02} {number}: {round}", at / 60, at % 60);
        round.check().with_context(|| format!("fault {number}: {}", group.logs()))?;
        ensure!(!group.logs().contains("panicked"), "fault {number}: {}", group.logs());
        ensure!(group.process(LASTING) == process, "fault {number}: c has another process: {}", group.logs());
        rounds.push(round);
        uses.push(Use::of(process)?);
        if at / 60 > told {
            told = at / 60;
            let two = rounds.iter().map(|round| round.seen.two).max().unwrap_or_default();
            let last = uses[uses.len() - 1];
            println!("minute {told}: {number} faults, two owners for {:.1} ms at most; c has {last}", millis(two));
        }
    }
    group.stop()?;
    servers.iter().try_for_each(|server| nothing_is_left(server))?;
    eventually("no program of theirs is left in the kernel", LONG, || Ok(programs()?.is_subset(&before)))?;
    println!(
        "\nseed {seed}, {} faults in {} minutes\n\n{}\n{}",
        rounds.len(),
        lasts.as_secs() / 60,
        kinds(&rounds),
        growth(&uses)
    );
    is_flat(&uses)
}

/// What the attacker sends to all meanwhile.
#[derive(Clone, Copy, Debug)]
enum Flooded {
    Nothing,
    Forged,
    Garbage,
    Udp,
    /// An advert of the one who was master before the fault.
    Repeated,
}

impl Flooded {
    const ALL: [Self; 5] = [Self::Nothing, Self::Forged, Self::Garbage, Self::Udp, Self::Repeated];

    fn draw(random: &mut SplitMix64) -> Self {
        Self::ALL[(random.next() % Self::ALL.len() as u64) as usize]
    }

    fn start(self, attacker: &Host) -> Result<Option<Flood>> {
        let forged = || adverts::forge(attacker.ip(), VHID, Election::new(0, 1), 1);
        let frame = match self {
            Self::Nothing => return Ok(None),
            Self::Forged => forged(),
            Self::Garbage => adverts::garbage(attacker.ip()),
            Self::Udp => adverts::with_protocol(&forged(), 17)?,
            Self::Repeated => {
                let wire = Capture::start(attacker.ns(), ETH0, Filter::Carp)?;
                let is_advert =
                    |frame: &carp_tests::Frame| adverts::parse(frame).is_some_and(|advert| !advert.is_bow_out());
                wire.wait_for("an advert", LONG, is_advert)?.bytes
            }
        };
        let plan = FloodPlan { frames: vec![frame], rate: Some(RATE), duration: 2 * MINUTE };
        Flood::start(attacker.ns(), ETH0, plan).map(Some)
    }
}

/// A fault, and what was seen.
struct Round {
    fault: Fault,
    flood: Flooded,
    seen: Seen,
    /// While nothing befell them.
    rest: Seen,
    /// Pings that were not answered, in all.
    pings_lost: usize,
    /// Of them, those of the rest.
    lost_in_rest: usize,
}

impl Round {
    fn new(group: &mut Group<'_>, fault: Fault, flood: Flooded, client: &Host, attacker: &Host) -> Result<Self> {
        let flooding = flood.start(attacker)?;
        let probe = Probe::start(client, VIP, PING)?;
        let seen = group.suffer(fault)?;
        let rested = BootTime::now();
        let rest = group.rest(REST).with_context(|| group.logs())?;
        let pings = probe.stop()?;
        flooding.map(Flood::stop).transpose()?;
        let (pings_lost, lost_in_rest) = (pings.sent() - pings.answered(), pings.lost_since(rested));
        Ok(Self { fault, flood, seen, rest, pings_lost, lost_in_rest })
    }

    fn check(&self) -> Result<()> {
        let Self { seen, rest, .. } = self;
        ensure!(seen.two <= ELECTION, "two hosts answered for {:.1} ms", millis(seen.two));
        ensure!(seen.back <= IN_TIME, "the VIP was back after {:.1} ms", millis(seen.back));
        ensure!(rest.two.is_zero(), "two hosts answered for {:.1} ms, and nothing had happened", millis(rest.two));
        ensure!(rest.none <= ELECTION, "nobody answered for {:.1} ms, and nothing had happened", millis(rest.none));
        let lost = self.lost_in_rest;
        ensure!(lost == 0, "{lost} pings were not answered, and nothing had happened");
        Ok(())
    }
}

impl Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault: Fault { kind, rank, lasts }, flood, seen: Seen { two, none, back }, .. } = self;
        let whom = if *rank == 0 { "the master".to_owned() } else { format!("backup {rank}") };
        write!(
            f,
            "{kind:?} of {whom} for {lasts:?}, flood: {flood:?}; none {:.1} ms, two {:.1} ms",
            millis(*none),
            millis(*two)
        )?;
        write!(f, ", back after {:.1} ms, {} pings lost, ", millis(*back), self.pings_lost)?;
        write!(f, "{} in the rest", self.lost_in_rest)
    }
}

/// What the lasting process, and the kernel, have.
#[derive(Clone, Copy)]
struct Use {
    resident_kb: u64,
    descriptors: u64,
    threads: u64,
    programs: u64,
}

impl Use {
    /// In a row of a table.
    const NAMES: [&str; 4] = ["resident, kB", "descriptors", "threads", "XDP and tc programs of the machine"];
    /// What each may be more in the end: memory that is used for the first time late, as for the thousands of addresses of an
    /// overrun, and nothing of what is counted.
    const SLACK: [u64; 4] = [4000, 0, 0, 0];

    fn of(process: u32) -> Result<Self> {
        let count = |what: &str| anyhow::Ok(fs::read_dir(format!("/proc/{process}/{what}"))?.count() as u64);
        Ok(Self {
            resident_kb: (Usage::of(&[process])?.resident_mb * 1000.0) as u64,
            descriptors: count("fd")?,
            threads: count("task")?,
            programs: programs()?.len() as u64,
        })
    }

    fn all(&self) -> [u64; 4] {
        [self.resident_kb, self.descriptors, self.threads, self.programs]
    }
}

impl Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resident_kb, descriptors, threads, programs } = self;
        write!(f, "{resident_kb} kB, {descriptors} descriptors, {threads} threads; {programs} XDP and tc programs")
    }
}

/// The programs of XDP and tc in the kernel, by their numbers.
fn programs() -> Result<BTreeSet<u64>> {
    let all = output_of(Command::new(tool("bpftool")?).args(["--json", "prog", "show"]))?;
    let all: Vec<serde_json::Value> = serde_json::from_str(&all).context("not JSON")?;
    let of_kind = all.iter().filter(|program| program["type"] == "xdp" || program["type"] == "sched_cls");
    of_kind.map(|program| program["id"].as_u64().context("a program without a number")).collect()
}

/// The least and the most of each, in a quarter of the time.
fn quarters(uses: &[Use]) -> Vec<[(u64, u64); 4]> {
    let quarter = uses.chunks(uses.len().div_ceil(4).max(1));
    let range = |uses: &[Use], which: usize| {
        let values = || uses.iter().map(|one| one.all()[which]);
        (values().min().unwrap_or(0), values().max().unwrap_or(0))
    };
    quarter.map(|uses| [0, 1, 2, 3].map(|which| range(uses, which))).collect()
}

fn growth(uses: &[Use]) -> Table {
    let mut table = Table::new(&[&["quarter"][..], &Use::NAMES].concat());
    for (number, ranges) in (1..).zip(quarters(uses)) {
        let cells = ranges
            .iter()
            .map(|(least, most)| if least == most { least.to_string() } else { format!("{least} to {most}") });
        table.row([number.to_string()].into_iter().chain(cells).collect());
    }
    table
}

/// Whether the least of the last quarter is no more than the most of the first.
fn is_flat(uses: &[Use]) -> Result<()> {
    let quarters = quarters(uses);
    let (Some(first), Some(last)) = (quarters.first(), quarters.last()) else { return Ok(()) };
    for (which, name) in Use::NAMES.iter().enumerate() {
        let (begun, ended) = (first[which].1, last[which].0);
        ensure!(
            ended <= begun + Use::SLACK[which],
            "{name}: {begun} at most in the first quarter, {ended} at least in the last"
        );
    }
    Ok(())
}

/// What each kind of fault has cost.
fn kinds(rounds: &[Round]) -> Table {
    let mut kinds: BTreeMap<(Kind, bool), Vec<&Round>> = BTreeMap::new();
    for round in rounds {
        kinds.entry((round.fault.kind, round.fault.rank > 0)).or_default().push(round);
    }
    let mut table = Table::new(&[
        "fault, milliseconds",
        "times",
        "two owners, max",
        "no owner, max",
        "back after it, max",
        "pings lost, max",
    ]);
    for ((kind, is_backup), rounds) in kinds {
        let most = |of: fn(&Seen) -> Duration| {
            let most = rounds.iter().map(|round| of(&round.seen)).max().unwrap_or_default();
            format!("{:.1}", millis(most))
        };
        table.row(vec![
            format!("{kind:?}, {}", if is_backup { "backup" } else { "master" }),
            rounds.len().to_string(),
            most(|seen| seen.two),
            most(|seen| seen.none),
            most(|seen| seen.back),
            rounds.iter().map(|round| round.pings_lost).max().unwrap_or(0).to_string(),
        ]);
    }
    table
}

/// After a stop: no address, no program and nothing pinned.
fn nothing_is_left(server: &Host) -> Result<()> {
    let name = server.name();
    let addresses = server.ns().ip("-brief address show")?;
    ensure!(!addresses.contains(&VIP.to_string()), "{name} still has the VIP: {addresses}");
    let link = server.ns().ip(&format!("link show dev {ETH0}"))?;
    ensure!(!link.contains("xdp"), "{name} still has an XDP program: {link}");
    ensure!(server.ns().pins().is_none(), "there still are pins of {name}");
    Ok(())
}
