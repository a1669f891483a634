//! How long an advert takes from its arrival in the kernel to the state machine: `cargo xtask bench latency`.
//!
//! A master sends 256 adverts a second, in real time; its backup says of each when it got to it (`--debug`), less the time that the
//! XDP program has stamped on it. Its log is written by another thread, after that; adverts that were heard and of which it says
//! nothing are counted. Measured with and without `--realtime`: while
//! nothing else happens, the same with a thread on each core that keeps it from sleeping, while two hosts flood it with forged
//! adverts as fast as they can, while four programs compute on each core, and with both.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use carp_tests::{
    ETH0, Flood, FloodPlan, Lab, VHID,
    adverts::{self, Election},
    bench::{
        CARPD, Line, Lost, Member, Options, Pace, Panel, Scale, Setting, Spread, Table, Unheard, cdf, draw, sort,
        spread,
    },
    busy::{hog, keep_awake},
};
use clap::Parser;
use serde::Serialize;

/// What an agent says of each event.
const EVENT: &str = "an event came ";

const SETTINGS: [Setting; 2] =
    [Setting { name: "carpd", realtime: false, ..REALTIME }, Setting { name: "carpd --realtime", ..REALTIME }];
/// As the master is; the backup has a dead time of more than a second, so it never loses its patience.
const REALTIME: Setting = Setting { pace: Pace::Fastest, skew: 100, realtime: true, options: &["--debug"], ..CARPD };

#[derive(Parser)]
struct Args {
    /// Seconds of each kind [default: 40; 2 in the short form]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=500))]
    seconds: Option<u64>,
    #[command(flatten)]
    common: Options,
}

/// What else the machine does.
#[derive(Clone, Copy, Serialize)]
struct Load {
    name: &'static str,
    flooded: bool,
    cores: Cores,
    /// For the 99th percentile, where there is one.
    goal_us: Option<f64>,
}

/// What else is on the cores.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
enum Cores {
    /// They sleep when there is nothing to do.
    Sleep,
    Awake,
    /// Four programs compute on each.
    Hogged,
}

const LOADS: [Load; 5] = [
    Load { name: "idle", flooded: false, cores: Cores::Sleep, goal_us: Some(100.0) },
    Load { name: "idle, cores kept awake", flooded: false, cores: Cores::Awake, goal_us: Some(100.0) },
    Load { name: "flooded", flooded: true, cores: Cores::Sleep, goal_us: Some(1000.0) },
    Load { name: "four hogs a core", flooded: false, cores: Cores::Hogged, goal_us: None },
    Load { name: "flooded, and hogs", flooded: true, cores: Cores::Hogged, goal_us: None },
];

#[derive(Serialize)]
struct Figures {
    setting: &'static str,
    load: Load,
    frames_per_second: f64,
    /// Adverts that the master has sent, and the backup has not heard.
    lost: Lost,
    /// What its cable had no room for, in percent of all that was sent: of the adverts among them, as many are to be expected.
    lost_on_way_percent: f64,
    /// Adverts that were heard, and are in no figure: give or take those that just waited at the beginning and at the end.
    untold: i64,
    latency_us: Option<Spread>,
    #[serde(skip)]
    sorted: Vec<f64>,
}

fn main() -> Result<()> {
    let Args { seconds, common } = Args::parse();
    let report = common.report("latency")?;
    let span = Duration::from_secs(seconds.unwrap_or(common.or_short(40, 2)));
    let mut figures = vec![];
    for load in LOADS {
        for setting in SETTINGS {
            eprintln!("{}, {}: {} s", setting.name, load.name, span.as_secs());
            figures.push(measure(setting, load, span)?);
        }
    }
    let mut table = Table::new(&[
        "event latency, us",
        "load",
        "frames a second",
        "lost on the cable, %",
        "adverts lost",
        "heard without a time",
        "events",
        "p50",
        "p99",
        "p99.9",
        "max",
        "goal for p99",
    ]);
    for figures in &figures {
        let Figures { setting, load, frames_per_second, lost, lost_on_way_percent, untold, latency_us, .. } = figures;
        let Some(Spread { count, median, p99, p99_9, max, .. }) = *latency_us else { continue };
        let goal = load
            .goal_us
            .map_or("-".to_owned(), |goal| format!("{goal:.0}, {}", if p99 <= goal { "reached" } else { "missed" }));
        let cells = [count as f64, median, p99, p99_9, max].map(|value| format!("{value:.0}"));
        let mut row = vec![(*setting).to_owned(), load.name.to_owned(), format!("{frames_per_second:.0}")];
        row.extend([format!("{lost_on_way_percent:.2}"), lost.to_string(), untold.to_string()]);
        row.extend(cells);
        row.push(goal);
        table.row(row);
    }
    print!("\n{table}");
    let panel = |setting: &Setting| Panel {
        title: setting.name.to_owned(),
        x: ("microseconds from kernel to state machine", Scale::Log),
        y: ("of the events, %", Scale::Linear),
        lines: figures
            .iter()
            .filter(|figures| figures.setting == setting.name)
            .map(|figures| Line { name: figures.load.name.to_owned(), points: cdf(&figures.sorted), missing: vec![] })
            .collect(),
    };
    draw(
        &report.plot("latency"),
        "Event latency: events that were handled by then",
        2,
        &SETTINGS.each_ref().map(panel),
    )?;
    let settings: BTreeMap<_, _> =
        SETTINGS.map(|setting| (setting.name, [REALTIME.text(true), setting.text(false)])).into();
    report.write(settings, &figures)?;
    // What is asked of carpd for certain; times are none of it, nor what a machine loses before the driver that has no time for it.
    let is_idle = |load: Load| load.cores != Cores::Hogged && !load.flooded;
    ensure!(figures.iter().all(|figures| !is_idle(figures.load) || figures.lost.lost == 0), "adverts were lost");
    Ok(())
}

fn measure(setting: Setting, load: Load, span: Duration) -> Result<Figures> {
    let lab = Lab::new()?;
    let [master, backup] = lab.hosts(["master", "backup"])?;
    let senders = lab.hosts(["one", "other"])?;
    let preferred = Member::start(&master, &REALTIME, true)?;
    preferred.wait_until_master(Duration::from_secs(15))?;
    let member = Member::start(&backup, &setting, false)?;
    let counted = |member: &Member| member.adverts()?.context("carpd counts");
    let unheard = || Unheard::ask(|| Ok(counted(&preferred)?.sent), || Ok(counted(&member)?.heard));
    let before = Unheard::before(unheard)?;
    let plan = |source| FloodPlan {
        frames: vec![adverts::forge(source, VHID, Election::new(0, 1), 1)],
        rate: None,
        duration: 2 * span,
    };
    let lost_before = backup.lost_on_way()?;
    let floods = senders.iter().filter(|_| load.flooded);
    let floods: Vec<_> = floods.map(|host| Flood::start(host.ns(), ETH0, plan(host.ip()))).collect::<Result<_>>()?;
    let flooding = Instant::now();
    let (begin, changes) = (counted(&member)?, member.changes().len());
    match load.cores {
        Cores::Sleep => thread::sleep(span),
        Cores::Awake => keep_awake(span)?,
        Cores::Hogged => hog(span),
    }
    let end = counted(&member)?;
    let lost = before.lost_since(unheard)?;
    let took = flooding.elapsed().as_secs_f64();
    let flooded = floods.into_iter().map(Flood::stop).sum::<Result<u64>>()?;
    let (frames, lost_on_way) = (flooded + lost.of as u64, backup.lost_on_way()? - lost_before);
    ensure!(member.changes().len() == changes, "the backup changed its state: {:?}", member.changes());
    let of_event = |text: &str| text.split_once(EVENT)?.1.split_once(" ns")?.0.parse::<f64>().ok();
    let lines = member.lines()?.into_iter().filter(|line| (begin.at..end.at).contains(&line.at));
    let sorted = sort(lines.filter_map(|line| Some(of_event(&line.text)? / 1000.0)).collect());
    ensure!(!sorted.is_empty(), "no event in {span:?}");
    Ok(Figures {
        setting: setting.name,
        load,
        frames_per_second: flooded as f64 / took,
        lost,
        lost_on_way_percent: lost_on_way as f64 / frames.max(1) as f64 * 100.0,
        untold: end.heard - begin.heard - sorted.len() as i64,
        latency_us: spread(&sorted),
        sorted,
    })
}
