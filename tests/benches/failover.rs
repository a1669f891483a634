//! How long the VIP is gone: `cargo xtask bench failover`.
//!
//! Two hosts with carpd, ucarp or keepalived, and a client that pings the VIP every millisecond. Measured is the longest silence at
//! the client when, at a random moment between two adverts,
//!
//! * the master's node dies: the switch forwards nothing of it any more. Beyond the dead time is what passes from its last advert
//!   to the backup's first answer, less the backup's dead time: also where the client sees a longer silence afterwards, as on a
//!   machine that stands still;
//! * its carrier is lost;
//! * it is asked to end, with SIGTERM;
//! * it is asked to hand over: `carpctl demote`, SIGUSR2 for ucarp, and for keepalived a tracked file that lowers its priority.
//!
//! Those with an advert a second are measured side by side where they wait for the dead time; all others one after the other.
//!
//! Steady: at the fastest intervals, so many seconds in which nothing happens: every takeover then is a false one, unless
//! the machine itself stood still for more than 0.6 of the dead time before it, and went on before the backup's first advert
//! was on the wire: on each CPU a thread, before all others, does nothing but look at the clock.

use std::{cmp::Reverse, collections::BTreeMap, net::Ipv4Addr, thread, time::Duration};

use anyhow::{Context, Result};
use carp_tests::{
    BootTime, Capture, ETH0, Filter, Frame, Host, Lab, Probe, VIP,
    bench::{
        CARPD, KEEPALIVED, Line, Member, Options, Pace, Panel, Scale, Setting, Spread, Table, UCARP, cdf, draw, millis,
        side_by_side, sort, spread,
    },
    busy::run_on,
    random::SplitMix64,
};
use clap::Parser;
use nix::libc;
use serde::Serialize;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(15);
/// After a takeover, for how long what follows of it is watched.
const AFTER: Duration = Duration::from_millis(300);
/// Stalls from this length on are kept.
const NOTABLE: Duration = Duration::from_millis(1);
/// For how long a CPU is not looked at.
const LOOK_AGAIN: Duration = Duration::from_micros(500);

/// An advert a second, or as slow; the first three have the colours that they have in the other plots.
const SLOW: [Setting; 5] = [
    Setting { realtime: true, ..CARPD },
    UCARP,
    Setting { realtime: true, ..KEEPALIVED },
    Setting { name: "carpd, virtual MAC", realtime: true, defaults: "mac = \"virtual\"\n", ..CARPD },
    Setting { name: "ucarp, deadratio 1", pace: Pace::Fastest, ..UCARP },
];
const FAST: [Setting; 2] = [
    Setting { name: "carpd, fastest", pace: Pace::Fastest, realtime: true, ..CARPD },
    Setting { name: "keepalived, fastest", pace: Pace::Fastest, realtime: true, ..KEEPALIVED },
];

#[derive(Parser)]
struct Args {
    /// Runs of each kind [default: 12; 1 in the short form]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// Seconds at the fastest interval [default: 60; 1 in the short form]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    steady: Option<u64>,
    #[command(flatten)]
    common: Options,
}

/// What befalls the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Way {
    NodeDeath,
    CarrierLoss,
    GracefulStop,
    PlannedSwitch,
}

impl Way {
    /// Whether the backup has to wait for its dead time.
    fn is_noticed_late(self) -> bool {
        matches!(self, Self::NodeDeath | Self::CarrierLoss)
    }
}

const WAYS: [(Way, &str); 4] = [
    (Way::NodeDeath, "node death"),
    (Way::CarrierLoss, "carrier loss"),
    (Way::GracefulStop, "graceful stop"),
    (Way::PlannedSwitch, "planned switch"),
];

/// What one run has shown, in milliseconds.
#[derive(Clone, Copy)]
struct Run {
    silence: f64,
    /// From the master's last advert to the first answer after the takeover's silence.
    since_last_advert: f64,
    /// From what befell it to the backup's first advert.
    took: f64,
}

/// What all runs of a way have shown, in milliseconds.
#[derive(Serialize)]
struct Figures {
    system: &'static str,
    way: Way,
    dead_time_ms: f64,
    outage_ms: Option<Spread>,
    beyond_dead_time_ms: Option<Spread>,
    until_takeover_ms: Option<Spread>,
    outages: Vec<f64>,
}

fn main() -> Result<()> {
    let Args { runs, steady: span, common } = Args::parse();
    let report = common.report("failover")?;
    let runs = runs.unwrap_or(common.or_short(12, 1));
    let span = Duration::from_secs(span.unwrap_or(common.or_short(60, 1)));
    let (slow, fast) = (Setting::present(&SLOW)?, Setting::present(&FAST)?);

    let mut measured: BTreeMap<(Way, &'static str), Vec<Run>> = BTreeMap::new();
    // Those of one run together.
    let jobs = |settings: &[Setting]| -> Vec<(Setting, Way, u32)> {
        let of_run =
            |number| WAYS.map(|(way, _)| settings.iter().map(move |setting| (*setting, way, number))).into_iter();
        (1..=runs).flat_map(of_run).flatten().collect()
    };
    // Those that wait for a dead time leave the machine idle, and do not disturb one another. The short form shows that it works.
    let (waiting, at_once): (Vec<_>, Vec<_>) = jobs(&slow).into_iter().partition(|(_, way, _)| way.is_noticed_late());
    let waiting = (waiting, common.or_short(slow.len(), WAYS.len() * slow.len()));
    let at_once = (at_once, common.or_short(1, WAYS.len() * slow.len()));
    for (jobs, width) in [waiting, at_once, (jobs(&fast), 1)] {
        let run = |(setting, way, number): &(Setting, Way, u32)| {
            let run =
                measure(setting, *way, *number).with_context(|| format!("{}: {way:?}, run {number}", setting.name))?;
            eprintln!("{}: {way:?} {number}/{runs}: {:.2} ms", setting.name, run.silence);
            Ok(run)
        };
        for ((setting, way, _), run) in jobs.iter().zip(side_by_side(&jobs, width, run)?) {
            measured.entry((*way, setting.name)).or_default().push(run);
        }
    }

    let settings: Vec<_> = slow.iter().chain(&fast).collect();
    let mut figures = vec![];
    for (way, what) in WAYS {
        let of_way: Vec<_> =
            settings.iter().map(|setting| Figures::new(setting, way, &measured[&(way, setting.name)])).collect();
        print!("\n{}", table(what, &of_way));
        figures.extend(of_way);
    }
    draw(&report.plot("outage"), "Outage at the client: runs that were over by then", 2, &panels(&figures))?;

    let mut steady = vec![];
    for setting in fast.iter().chain(slow.iter().filter(|setting| setting.pace == Pace::Fastest)) {
        steady.push(Steady::watch(setting, span)?);
    }
    print!("\n{}", Steady::table(&steady));
    let shown: BTreeMap<_, _> =
        settings.iter().map(|setting| (setting.name, [true, false].map(|preferred| setting.text(preferred)))).collect();
    report.write(shown, json!({ "outages": figures, "steady": steady }))
}

impl Figures {
    fn new(setting: &Setting, way: Way, runs: &[Run]) -> Self {
        let sorted = |figure: fn(&Run) -> f64| sort(runs.iter().map(figure).collect());
        let dead_time_ms = millis(setting.dead_time());
        let beyond =
            sorted(|run| run.since_last_advert).into_iter().map(|since| since - dead_time_ms).collect::<Vec<_>>();
        let outages = sorted(|run| run.silence);
        Self {
            system: setting.name,
            way,
            dead_time_ms,
            outage_ms: spread(&outages),
            beyond_dead_time_ms: spread(&beyond).filter(|_| way.is_noticed_late()),
            until_takeover_ms: spread(&sorted(|run| run.took)),
            outages,
        }
    }
}

fn told(spread: Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |Spread { min, median, max, .. }| format!("{min:.1} / {median:.1} / {max:.1}"))
}

fn table(what: &str, figures: &[Figures]) -> Table {
    let mut table = Table::new(&[
        what,
        "runs",
        "dead time, ms",
        "outage at the client, ms: min / median / max",
        "beyond the dead time",
        "until the takeover",
    ]);
    for Figures { system, dead_time_ms, outage_ms, beyond_dead_time_ms, until_takeover_ms, outages, .. } in figures {
        table.row(vec![
            (*system).to_owned(),
            outages.len().to_string(),
            format!("{dead_time_ms:.1}"),
            told(*outage_ms),
            told(*beyond_dead_time_ms),
            told(*until_takeover_ms),
        ]);
    }
    table
}

fn panels(figures: &[Figures]) -> Vec<Panel> {
    let panel = |(way, what): (Way, &str)| Panel {
        title: what.to_owned(),
        x: ("milliseconds without an answer", Scale::Log),
        y: ("of the runs, %", Scale::Linear),
        lines: figures
            .iter()
            .filter(|figures| figures.way == way)
            .map(|figures| Line { name: figures.system.to_owned(), points: cdf(&figures.outages), missing: vec![] })
            .collect(),
    };
    WAYS.into_iter().map(panel).collect()
}

fn measure(setting: &Setting, way: Way, number: u32) -> Result<Run> {
    let pair = Pair::new(setting)?;
    // The same moments for all.
    let random = SplitMix64::new(u64::from(number)).next() % 1000;
    pair.next_advert()?;
    thread::sleep(setting.interval() * random as u32 / 1000);
    let begin = BootTime::now();
    match way {
        Way::NodeDeath => pair.master.unplug()?,
        Way::CarrierLoss => pair.master.set_carrier(false)?,
        Way::GracefulStop => pair.master_member.stop()?,
        Way::PlannedSwitch => pair.master_member.hand_over()?,
    }
    let is_takeover = |frame: &Frame| frame.at > begin && source(frame) == Some(pair.backup.ip());
    let takeover = pair.wire.wait_for("the backup's first advert", PATIENCE, is_takeover)?.at;
    // What comes after it belongs to it, such as a late word of the other.
    thread::sleep(AFTER);
    let last = pair.probe.wait_for_answer("after the takeover", PATIENCE, |answer| answer.at > takeover + AFTER)?.at;
    let answers: Vec<_> = pair.probe.answers().iter().map(|answer| answer.at).filter(|at| *at <= last).collect();
    let gaps = || answers.windows(2).filter(|gap| gap[1] > begin);
    let silence = gaps().max_by_key(|gap| gap[1].since(gap[0])).context("no answer before")?;
    let is_of_takeover = |gap: &&[BootTime]| (gap[0]..gap[1]).contains(&takeover);
    let of_takeover = gaps().find(is_of_takeover).context("no answer before the takeover")?;
    let frames = pair.wire.frames();
    // At the fastest intervals more adverts leave before the switch forwards nothing.
    let masters = frames.iter().rfind(|frame| source(frame) == Some(pair.master.ip()) && frame.at < of_takeover[1]);
    Ok(Run {
        silence: millis(silence[1].since(silence[0])),
        since_last_advert: millis(of_takeover[1].since(masters.context("no advert of the master")?.at)),
        took: millis(takeover.since(begin)),
    })
}

/// Whose frame of protocol 112 it is: of either protocol.
fn source(frame: &Frame) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*frame.bytes.get(26..)?.first_chunk::<4>()?))
}

/// A span in which a CPU did not even run what comes before all else.
struct Stall {
    begin: BootTime,
    end: BootTime,
}

impl Stall {
    /// For how much of the last `span` before this moment one CPU or another stood still; the last stall comes first.
    fn together<'a>(stalls: impl IntoIterator<Item = &'a Self>, moment: BootTime, span: Duration) -> Duration {
        let (mut sum, mut counted_from) = (Duration::ZERO, moment);
        for Stall { begin, end } in stalls {
            // Both before what has been counted already, and within the span.
            let end = (*end).min(counted_from);
            let length = end.since(*begin).min(span.saturating_sub(moment.since(end)));
            sum += length;
            counted_from = counted_from.min(*begin);
        }
        sum
    }
}

/// What became of a pair in a span in which nothing happened.
#[derive(Serialize)]
struct Steady {
    system: &'static str,
    seconds: u64,
    dead_time_ms: f64,
    /// Takeovers, and how many of them came just after a stall of the machine, which was over by then.
    takeovers: usize,
    after_stalls: usize,
    longest_stall_ms: f64,
}

impl Steady {
    fn watch(setting: &Setting, span: Duration) -> Result<Self> {
        let pair = Pair::new(setting)?;
        let dead_time = setting.dead_time();
        let begin = BootTime::now();
        eprintln!("{}: {} s in which nothing is to happen", setting.name, span.as_secs());
        let cpus = thread::available_parallelism()?.get();
        let watchers: Vec<_> = (0..cpus).map(|cpu| thread::spawn(move || stalls(cpu, begin + span))).collect();
        let mut stalls = Vec::new();
        for watcher in watchers {
            stalls.extend(watcher.join().expect("a watcher panics never")?);
        }
        // The last first.
        stalls.sort_unstable_by_key(|stall| Reverse(stall.end));
        let takeovers = pair.takeovers_since(begin);
        // They kept the last adverts of the master from being sent, or heard.
        let is_explained = |takeover: BootTime| {
            let over = stalls.iter().filter(|stall| stall.end <= takeover);
            Stall::together(over, takeover, dead_time) > dead_time * 6 / 10
        };
        Ok(Self {
            system: setting.name,
            seconds: span.as_secs(),
            dead_time_ms: millis(dead_time),
            takeovers: takeovers.len(),
            after_stalls: takeovers.iter().filter(|at| is_explained(**at)).count(),
            longest_stall_ms: stalls.iter().map(|stall| millis(stall.end.since(stall.begin))).fold(0.0, f64::max),
        })
    }

    fn table(all: &[Self]) -> Table {
        let mut table = Table::new(&[
            "nothing happens",
            "dead time, ms",
            "seconds",
            "takeovers",
            "of them just after stalls of CPUs",
            "longest stall, ms",
        ]);
        for Self { system, seconds, dead_time_ms, takeovers, after_stalls, longest_stall_ms } in all {
            table.row(vec![
                (*system).to_owned(),
                format!("{dead_time_ms:.1}"),
                seconds.to_string(),
                takeovers.to_string(),
                after_stalls.to_string(),
                format!("{longest_stall_ms:.1}"),
            ]);
        }
        table
    }
}

/// Looks at the clock on one CPU, again and again.
fn stalls(cpu: usize, until: BootTime) -> Result<Vec<Stall>> {
    run_on(cpu, libc::SCHED_FIFO, 60)?;
    let mut stalls = Vec::new();
    let mut now = BootTime::now();
    while now < until {
        let begin = now + LOOK_AGAIN;
        thread::sleep(LOOK_AGAIN);
        now = BootTime::now();
        if now.since(begin) > NOTABLE {
            stalls.push(Stall { begin, end: now });
        }
    }
    Ok(stalls)
}

/// A master and a backup at work, and a client that is answered by the master.
struct Pair {
    master: Host,
    backup: Host,
    master_member: Member,
    backup_member: Member,
    wire: Capture,
    probe: Probe,
    _client: Host,
    _lab: Lab,
}

impl Pair {
    fn new(setting: &Setting) -> Result<Self> {
        let lab = Lab::new()?;
        let [master, backup, client] = lab.hosts(["master", "backup", "client"])?;
        let wire = Capture::start(client.ns(), ETH0, Filter::Carp)?;
        let probe = Probe::start(&client, VIP, Duration::from_millis(1))?;
        let master_member = Member::start(&master, setting, true)?;
        probe.wait_for_answer("of the master", PATIENCE, |_| true)?;
        let backup_member = Member::start(&backup, setting, false)?;
        let pair = Self { master, backup, master_member, backup_member, wire, probe, _client: client, _lab: lab };
        // It has heard one when the next one comes.
        pair.next_advert()?;
        pair.next_advert()?;
        Ok(pair)
    }

    /// When the backup became master since then: at its first advert on the wire after it was none, or, if there is
    /// none, when it told.
    fn takeovers_since(&self, begin: BootTime) -> Vec<BootTime> {
        let frames = self.wire.frames();
        let adverts = || frames.iter().filter(|frame| source(frame) == Some(self.backup.ip())).map(|frame| frame.at);
        let (mut takeovers, mut none_since) = (vec![], begin);
        for (at, is_master) in self.backup_member.changes().into_iter().filter(|(at, _)| *at > begin) {
            if is_master {
                takeovers.push(adverts().find(|advert| *advert > none_since).map_or(at, |advert| advert.min(at)));
            }
            none_since = at;
        }
        takeovers
    }

    /// The arrival of the next advert of the master.
    fn next_advert(&self) -> Result<BootTime> {
        let after = BootTime::now();
        let is_next = |frame: &Frame| frame.at > after && source(frame) == Some(self.master.ip());
        Ok(self.wire.wait_for("the master's next advert", PATIENCE, is_next)?.at)
    }
}
