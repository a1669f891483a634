//! What a flood costs: `cargo xtask bench flood`.
//!
//! Two hosts with carpd, ucarp or keepalived at one advert a second, and a third that sends frames to both, in steps up to as many as
//! its cable carries (against seals, two of them). While it does, measured are, on the backup: genuine adverts lost, where
//! the program counts them (both are asked just after an advert, so that none is under way); changes of state on both hosts,
//! which are false, for nothing has happened; CPU time of the program (of one core) and of the whole machine, sender
//! included; lines of carpd's log; memory at the end. Then, with the flood still going on, the master dies, and measured is
//! from its last advert to the backup's first, beyond the backup's dead time.
//!
//! In the short form carpd sends 256 adverts a second, of which a loss shows for certain.
//!
//! Frames are well-formed: Ethernet and IP are right, to the group that the protocol has. A forged advert of CARP has a digest
//! that is wrong, one of VRRP, for keepalived, a password that is wrong.

use std::{collections::BTreeMap, net::Ipv4Addr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use carp_common::checksum;
use carp_tests::{
    BootTime, Capture, ETH0, Filter, Flood, FloodPlan, Host, Lab, VHID,
    adverts::{self, Election},
    attacks,
    bench::{
        Adverts, CARPD, Goal, KEEPALIVED, Line, Lost, MachineTime, Member, Options, Pace, Panel, SEALED, Scale,
        Setting, Spread, System, Table, UCARP, Unheard, Usage, draw, millis, sort, spread,
    },
};
use clap::Parser;
use serde::Serialize;

const PATIENCE: Duration = Duration::from_secs(15);
/// Frames a second that are tried, besides as many as it takes.
const RATES: [u32; 5] = [1_000, 10_000, 50_000, 100_000, 200_000];
/// What an agent says of each advert that woke it, if it is to say more.
const HEARD: &str = ": heard ";

#[derive(Parser)]
struct Args {
    /// Runs without a flood, and of those at the highest rate [default: 3; 1 in the short form]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: Option<u32>,
    /// Seconds that are measured before the takeover [default: 5; 2 in the short form]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: Option<u64>,
    /// Only floods whose names contain this
    #[arg(long, default_value = "")]
    only: String,
    #[command(flatten)]
    common: Options,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Kind {
    None,
    Forged,
    Garbage,
    Udp,
    /// The one flood of adverts that are valid: of one that the master has sent.
    Repeated,
    /// Forged ones to the backup's own MAC.
    Unicast,
    /// Against adverts that are sealed: forged ones, with a tag that is wrong, by two senders.
    Sealed,
}

/// Those that all are flooded with, in steps.
const KINDS: [Kind; 3] = [Kind::Forged, Kind::Garbage, Kind::Udp];
/// Those that are for carpd alone, at the highest rate.
const OWN: [(Setting, Kind); 4] =
    [(CARPD, Kind::Repeated), (CARPD, Kind::Unicast), (CARPD, Kind::Sealed), (SOCKET, Kind::Forged)];
const SOCKET: Setting = Setting { name: "carpd, packet socket", defaults: "datapath = \"socket\"\n", ..CARPD };
/// carpd in the short form: of hundreds of adverts a second a loss shows; the backup's dead time is more than a second.
const QUICK: Setting = Setting { pace: Pace::Fastest, skew: 100, ..CARPD };
/// Of a hundred of those, so many may be lost before the driver, by a machine that stands still for a moment.
const SPARED: i64 = 1;

fn systems(common: &Options) -> [Setting; 3] {
    [common.or_short(CARPD, QUICK), UCARP, KEEPALIVED]
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Forged => "forged adverts",
            Self::Garbage => "garbage on protocol 112",
            Self::Udp => "UDP",
            Self::Repeated => "a captured advert, repeated",
            Self::Unicast => "forged adverts, unicast",
            Self::Sealed => "forged sealed adverts, two senders",
        }
    }

    fn setting(self, system: Setting) -> Setting {
        match self {
            Self::Repeated => Setting { options: &["--debug"], ..system },
            Self::Sealed => Setting { defaults: SEALED, ..system },
            _ => system,
        }
    }

    /// From attacker, backup and an advert of the master.
    fn frame(self, system: System, attacker: &Host, backup: &Host, advert: &[u8]) -> Result<Vec<u8>> {
        let forged = || match system {
            System::Keepalived => forged_vrrp(attacker.ip()),
            _ => Ok(adverts::forge(attacker.ip(), VHID, Election::new(0, 1), 1)),
        };
        Ok(match self {
            Self::None | Self::Forged => forged()?,
            Self::Garbage => adverts::garbage(attacker.ip()),
            Self::Udp => adverts::with_protocol(&forged()?, 17)?,
            Self::Repeated => advert.to_vec(),
            Self::Unicast => {
                let mut frame = forged()?;
                frame[..6].copy_from_slice(&backup.mac().0);
                frame
            }
            Self::Sealed => {
                // From a source that was never heard, the tag has to be looked at.
                let mut frame = advert.to_vec();
                attacks::set_source(&mut frame, Ipv4Addr::new(10, 77, 0, 250))?;
                frame
            }
        })
    }
}

/// An advert of VRRP 2 with another password.
fn forged_vrrp(source: Ipv4Addr) -> Result<Vec<u8>> {
    // Version 2 and an advert, id, priority, one address, a password, seconds, and the checksum's place.
    let mut message = [&[0x21, VHID, 254, 1, 1, 1, 0, 0], &carp_tests::VIP.octets()[..], b"mistaken"].concat();
    let sum = checksum::internet::<20>(message[..].try_into().expect("it is that long"));
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut frame = adverts::forge(source, VHID, Election::new(0, 1), 1);
    frame.truncate(34);
    frame[..6].copy_from_slice(&[0x01, 0x00, 0x5e, 0, 0, 18]);
    frame[16..18].copy_from_slice(&(20 + message.len() as u16).to_be_bytes());
    // The checksum, for the length is another one.
    frame = adverts::with_protocol(&frame, 112)?;
    frame.extend(message);
    Ok(frame)
}

/// What one run has shown.
#[derive(Clone, Serialize)]
struct Run {
    system: &'static str,
    kind: Kind,
    /// Frames a second that were to be sent; as many as go, if there is none.
    offered: Option<u32>,
    /// And were.
    frames_per_second: f64,
    /// None if the program does not count them.
    lost: Option<Lost>,
    false_transitions: usize,
    daemon_cpu_percent: f64,
    machine_cpu_percent: f64,
    log_lines_per_second: f64,
    resident_mb: f64,
    /// None if there was none in time, if the master had fallen silent before, or if the state had changed.
    takeover_beyond_ms: Option<f64>,
}

/// The runs of one kind.
#[derive(Serialize)]
struct Step {
    #[serde(flatten)]
    worst: Run,
    runs: usize,
    /// Runs without a takeover, as [`Run`] says it; the spread is of the others.
    without_takeover: usize,
    takeover_beyond_ms_spread: Option<Spread>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let report = args.common.report("flood")?;
    let steps = steps(&args)?;
    print!("\n{}\n{}", table(&steps), Goal::table(&goals(&steps, args.common.short)));
    for kind in KINDS {
        let of_kind: Vec<_> = steps.iter().filter(|step| step.worst.kind == kind).collect();
        let name = format!("flood-{}", format!("{kind:?}").to_lowercase());
        draw(&report.plot(&name), &format!("Flooded with {}", kind.name()), 2, &panels(&of_kind))?;
    }
    let settings: BTreeMap<_, _> = systems(&args.common)
        .map(|setting| (setting.name, [true, false].map(|preferred| setting.text(preferred))))
        .into();
    report.write(settings, &steps)?;
    // What is asked of carpd for certain; figures are none of it.
    let spared = args.common.or_short(0, SPARED);
    let is_heard = |lost: Lost| lost.of > 0 && lost.lost >= 0 && 100 * lost.lost <= spared * lost.of;
    let is_wrong =
        |run: &Run| run.system == CARPD.name && (!run.lost.is_some_and(is_heard) || run.false_transitions > 0);
    let wrong = steps.iter().filter(|step| is_wrong(&step.worst));
    let wrong: Vec<_> = wrong.map(|step| step.worst.kind.name()).collect();
    ensure!(wrong.is_empty(), "carpd lost adverts, or changed its state: {}", wrong.join(", "));
    Ok(())
}

fn steps(args: &Args) -> Result<Vec<Step>> {
    let Args { common, .. } = args;
    let runs = args.runs.unwrap_or(common.or_short(3, 1));
    let span = Duration::from_secs(args.seconds.unwrap_or(common.or_short(5, 2)));
    let mut wanted = vec![];
    for setting in Setting::present(&systems(common))? {
        wanted.extend((!common.short).then_some((setting, Kind::None, None, runs)));
        let is_carpd = setting.system == System::Carpd;
        for kind in KINDS.iter().filter(|kind| !common.short || is_carpd || **kind == Kind::Forged) {
            let rates = RATES.iter().filter(|_| !common.short);
            wanted.extend(rates.map(|rate| (setting, *kind, Some(*rate), 1)));
            wanted.push((setting, *kind, None, runs));
        }
    }
    wanted.extend(OWN.iter().filter(|_| !common.short).map(|(setting, kind)| (*setting, *kind, None, runs)));
    let mut steps = vec![];
    for (setting, kind, rate, runs) in wanted.into_iter().filter(|(_, kind, ..)| kind.name().contains(&args.only)) {
        let mut all = vec![];
        for number in 1..=runs {
            let run = run(setting, kind, rate, span)
                .with_context(|| format!("{}, {}, run {number}", setting.name, kind.name()))?;
            eprintln!(
                "{}: {}, {:.0} frames a second: lost {}, {} false transitions, {:.1} % of a core, {:?} ms beyond",
                run.system,
                kind.name(),
                run.frames_per_second,
                lost(run.lost),
                run.false_transitions,
                run.daemon_cpu_percent,
                run.takeover_beyond_ms
            );
            all.push(run);
        }
        steps.push(Step::new(&all).context("at least one run")?);
    }
    Ok(steps)
}

fn lost(lost: Option<Lost>) -> String {
    lost.map_or("not counted".to_owned(), |lost| lost.to_string())
}

impl Step {
    /// The worst of each, and the least rate.
    fn new(runs: &[Run]) -> Option<Self> {
        let most = |figure: fn(&Run) -> f64| runs.iter().map(figure).fold(0.0, f64::max);
        let delays: Vec<f64> = runs.iter().filter_map(|run| run.takeover_beyond_ms).collect();
        let without_takeover = runs.len() - delays.len();
        let takeovers = spread(&sort(delays));
        let worst = Run {
            frames_per_second: runs.iter().map(|run| run.frames_per_second).fold(f64::MAX, f64::min),
            lost: runs.iter().filter_map(|run| run.lost).max_by_key(|lost| lost.lost.abs()),
            false_transitions: runs.iter().map(|run| run.false_transitions).max()?,
            daemon_cpu_percent: most(|run| run.daemon_cpu_percent),
            machine_cpu_percent: most(|run| run.machine_cpu_percent),
            log_lines_per_second: most(|run| run.log_lines_per_second),
            resident_mb: most(|run| run.resident_mb),
            takeover_beyond_ms: takeovers.map(|spread| spread.max),
            ..runs.first()?.clone()
        };
        Some(Self { worst, runs: runs.len(), without_takeover, takeover_beyond_ms_spread: takeovers })
    }

    /// For the table: a dash where there was no takeover at all.
    fn takeover(&self) -> String {
        let Some(Spread { count, min, median, max, .. }) = self.takeover_beyond_ms_spread else {
            return "-".to_owned();
        };
        let told = if count == 1 { format!("{max:.1}") } else { format!("{min:.1} / {median:.1} / {max:.1}") };
        if self.without_takeover == 0 { told } else { format!("{told}; none in {}", self.without_takeover) }
    }
}

/// Over all floods of carpd with native XDP.
fn goals(steps: &[Step], is_short: bool) -> Vec<Goal> {
    let own = || steps.iter().filter(|step| step.worst.system == CARPD.name);
    let is_flood = |step: &&Step| step.worst.kind != Kind::None;
    let most = |figure: fn(&Step) -> f64| own().filter(is_flood).map(figure).fold(0.0, f64::max);
    let lost = |step: &Step| step.worst.lost.map_or(f64::INFINITY, |lost| lost.lost.abs() as f64);
    let mut goals = vec![
        Goal::at_most("genuine adverts lost", most(lost), 0.0),
        Goal::at_most("false transitions", most(|step| step.worst.false_transitions as f64), 0.0),
    ];
    // At an advert a second.
    goals.extend(
        (!is_short).then(|| Goal::at_most("CPU of the daemon, %", most(|step| step.worst.daemon_cpu_percent), 1.0)),
    );
    let usual = own().find(|step| !is_flood(step)).and_then(|step| step.takeover_beyond_ms_spread);
    if let Some(Spread { median, .. }) = usual {
        let worst = most(|step| match step.takeover_beyond_ms_spread {
            Some(Spread { max, .. }) if step.without_takeover == 0 => max,
            _ => f64::INFINITY,
        });
        goals.push(Goal::at_most("a takeover's delay by a flood, ms", worst - median, 10.0));
    }
    goals
}

fn table(steps: &[Step]) -> Table {
    let mut table = Table::new(&[
        "flood",
        "of",
        "runs",
        "frames a second",
        "genuine adverts lost",
        "false transitions",
        "CPU of the daemon, %",
        "of the machine, %",
        "log lines a second",
        "resident MB",
        "takeover beyond the dead time, ms",
    ]);
    for step in steps {
        let Step { worst: run, runs, .. } = step;
        table.row(vec![
            run.kind.name().to_owned(),
            run.system.to_owned(),
            runs.to_string(),
            format!("{:.0}", run.frames_per_second),
            lost(run.lost),
            run.false_transitions.to_string(),
            format!("{:.1}", run.daemon_cpu_percent),
            format!("{:.0}", run.machine_cpu_percent),
            if run.system.starts_with(CARPD.name) {
                format!("{:.1}", run.log_lines_per_second)
            } else {
                "-".to_owned()
            },
            format!("{:.1}", run.resident_mb),
            step.takeover(),
        ]);
    }
    table
}

fn panels(steps: &[&Step]) -> Vec<Panel> {
    let panel = |title: &str, y, figure: fn(&Run) -> Option<f64>, is_missing: fn(&Step) -> bool| Panel {
        title: title.to_owned(),
        x: ("frames a second", Scale::Log),
        y: (y, Scale::Linear),
        lines: [CARPD, UCARP, KEEPALIVED]
            .iter()
            .map(|setting| {
                let of_system = || steps.iter().filter(|step| step.worst.system == setting.name);
                let points = of_system().filter_map(|step| Some((step.worst.frames_per_second, figure(&step.worst)?)));
                let missing = of_system().filter(|step| is_missing(step)).map(|step| step.worst.frames_per_second);
                Line { name: setting.name.to_owned(), points: points.collect(), missing: missing.collect() }
            })
            .collect(),
    };
    let never = |_: &Step| false;
    vec![
        panel("CPU of the daemon", "% of a core", |run| Some(run.daemon_cpu_percent), never),
        panel("CPU of the machine, sender included", "%", |run| Some(run.machine_cpu_percent), never),
        panel(
            "Takeover beyond the dead time (cross: a run without)",
            "ms",
            |run| run.takeover_beyond_ms,
            |step| step.without_takeover > 0,
        ),
        panel("Memory", "resident MB", |run| Some(run.resident_mb), never),
    ]
}

fn run(system: Setting, kind: Kind, rate: Option<u32>, span: Duration) -> Result<Run> {
    let setting = kind.setting(system);
    let lab = Lab::new()?;
    let [master, backup, attacker, second] = lab.hosts(["master", "backup", "attacker", "second"])?;
    // The attacker does not see its own flood, which may look as if it came from the master.
    let [of_master, of_backup] =
        [&master, &backup].map(|host| Capture::start(attacker.ns(), ETH0, Filter::CarpFrom(host.ip())));
    let (of_master, of_backup) = (of_master?, of_backup?);
    let preferred = Member::start(&master, &setting, true)?;
    preferred.wait_until_master(PATIENCE)?;
    let other = Member::start(&backup, &setting, false)?;
    let advert = of_master.wait_for("the master's second advert", PATIENCE, |_| true)?;
    let frame = kind.frame(setting.system, &attacker, &backup, &advert.bytes)?;
    let senders: &[_] = match kind {
        Kind::None => &[],
        Kind::Sealed => &[&attacker, &second],
        _ => &[&attacker],
    };
    let plan = FloodPlan { frames: vec![frame], rate, duration: span + 2 * PATIENCE };
    let next_advert = |timeout| {
        let now = BootTime::now();
        of_master.wait_for("the master's next advert", timeout, |frame| frame.at > now)
    };
    let unheard = |flooding| {
        // Just after an advert the next one is far, and this one has arrived. If there is none, none is under way.
        if next_advert(2 * setting.interval()).is_ok() {
            thread::sleep(setting.interval() / 10);
        }
        Unheard::ask(|| Ok(counted(&preferred)?.sent), || heard(&other, kind, flooding, setting.interval()))
    };
    let changes = || [&preferred, &other].map(|member| member.changes().len()).iter().sum::<usize>();
    let processes = other.processes()?;
    // ucarp counts none.
    let before = preferred.adverts()?.map(|_| Unheard::before(|| unheard(None))).transpose()?;
    let (changes_before, lines_before, flooding) = (changes(), lines(&other)?, BootTime::now());
    let floods: Vec<_> =
        senders.iter().map(|sender| Flood::start(sender.ns(), ETH0, plan.clone())).collect::<Result<_>>()?;
    let (machine_before, usage_before, begin) = (MachineTime::now()?, Usage::of(&processes)?, BootTime::now());
    // The span that is measured, not a wait for something.
    thread::sleep(span);
    let took = BootTime::now().since(begin).as_secs_f64();
    let (usage, machine) = (Usage::of(&processes)?, MachineTime::now()?);
    let told = lines(&other)? - lines_before;
    let lost = before.map(|before| before.lost_since(|| unheard(Some(flooding)))).transpose()?;
    let is_alive = next_advert(PATIENCE).is_ok();
    let false_transitions = changes() - changes_before;
    let is_as_before = is_alive && false_transitions == 0;
    let takeover = if is_as_before { takeover(&master, &of_master, &of_backup)? } else { None };
    let flooded = BootTime::now().since(flooding).as_secs_f64();
    let frames = floods.into_iter().map(Flood::stop).sum::<Result<u64>>()? as f64;
    Ok(Run {
        system: system.name,
        kind,
        offered: rate,
        frames_per_second: frames / flooded,
        lost,
        false_transitions,
        daemon_cpu_percent: (usage.cpu - usage_before.cpu).as_secs_f64() / took * 100.0,
        machine_cpu_percent: machine.busy_since(machine_before),
        log_lines_per_second: told as f64 / took,
        resident_mb: usage.resident_mb,
        takeover_beyond_ms: takeover.map(|took| millis(took) - millis(setting.dead_time())),
    })
}

/// Ends the master; how long after its last advert the backup's first follows, if one does.
fn takeover(master: &Host, of_master: &Capture, of_backup: &Capture) -> Result<Option<Duration>> {
    master.kill_host()?;
    let last = of_master.frames().into_iter().next_back().context("no advert of the master")?;
    let first = of_backup.wait_for("the backup's first advert", PATIENCE, |frame| frame.at > last.at);
    Ok(first.ok().map(|first| first.at.since(last.at)))
}

fn counted(member: &Member) -> Result<Adverts> {
    member.adverts()?.context("it counts no adverts")
}

/// Genuine adverts that the backup has heard. A report is not of one moment, so among valid adverts that are repeated
/// those are counted that woke it: each genuine one, and after it at once the repeated one, which is new then. The
/// repeated one alone wakes it, too, once in an interval.
fn heard(member: &Member, kind: Kind, flooding: Option<BootTime>, interval: Duration) -> Result<i64> {
    if kind != Kind::Repeated {
        return Ok(counted(member)?.heard);
    }
    let Some(flooding) = flooding else { return Ok(0) };
    let mut lines = member.lines()?;
    lines.retain(|line| line.at > flooding && line.text.contains(HEARD));
    let together = lines.chunk_by(|one, next| next.at.since(one.at) < interval / 2);
    Ok(together.filter(|together| together.len() > 1).count() as i64)
}

/// What a flood is told of by.
fn lines(member: &Member) -> Result<usize> {
    let is_debug = |text: &str| text.contains(HEARD) || text.contains("an event came ");
    Ok(member.lines()?.iter().filter(|line| !is_debug(&line.text)).count())
}
