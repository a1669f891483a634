//! What faults cost: `cargo xtask faults [--count N] [--seed S]`.
//!
//! First so many faults of a schedule, which the seed decides, on two hosts with carpd, one after the other: for how long two
//! hosts answered for the VIP, and for how long none. Then how long it takes a carpd that is started after a `kill -9` until its
//! first advert. Then four faults at the usual timers, an advert a second, beside ucarp and keepalived, three times each.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use carp_tests::{
    ArpWatch, BootTime, LONG, Lab, Node, VIP, Wire,
    bench::{CARPD, KEEPALIVED, Member, Options, Setting, Spread, Table, UCARP, millis, side_by_side, sort, spread},
    busy::hog,
    eventually,
    faults::{ELECTION, Fault, Group, Kind, QUICK, Seen, USUAL},
    random::SplitMix64,
};
use clap::Parser;
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::json;

/// How often the client asks.
const PERIOD: Duration = Duration::from_millis(1);
/// How long a fault lasts that befalls all of them: for longer than a dead time.
const LASTS: Duration = Duration::from_secs(5);
/// In an advert every second, and three missed.
const COMPARED: [Setting; 4] =
    [CARPD, Setting { name: "carpd, no bpffs", options: &["--bpffs=/nowhere"], ..CARPD }, UCARP, KEEPALIVED];

#[derive(Parser)]
struct Args {
    /// Faults of the schedule [default: 50; 4 in the short form]
    #[arg(long)]
    count: Option<usize>,
    /// What decides which
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave out the other programs
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    common: Options,
}

fn main() -> Result<()> {
    let Args { count, seed, alone, common } = Args::parse();
    let report = common.report("faults")?;
    let (worst, scheduled) = schedule(count.unwrap_or(common.or_short(50, 4)), seed)?;
    let restart = restart(common.or_short(20, 3))?;
    let settings = if alone { vec![] } else { Setting::present(&COMPARED)? };
    let compared = compare(&settings, &common)?;
    let shown: BTreeMap<_, _> =
        settings.iter().map(|setting| (setting.name, [true, false].map(|preferred| setting.text(preferred)))).collect();
    report.write(
        json!({ "schedule": { "seed": seed, "carpd": QUICK }, "compared": shown }),
        json!({ "schedule": scheduled, "kill_to_next_advert_ms": restart, "compared": compared }),
    )?;
    // A busy CI shows that it works.
    ensure!(
        common.short || worst <= ELECTION,
        "two hosts answered for {:.1} ms: seed {seed} replays it",
        millis(worst)
    );
    Ok(())
}

/// What one kind of fault has cost, in milliseconds.
#[derive(Serialize)]
struct Figures {
    fault: String,
    two_owners_ms: Option<Spread>,
    no_owner_ms: Option<Spread>,
    back_after_ms: Option<Spread>,
}

/// For how long two hosts answered at most.
fn schedule(count: usize, seed: u64) -> Result<(Duration, Vec<Figures>)> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let mut pair = Group::start(&[&a, &b], &client, &QUICK)?;
    let mut random = SplitMix64::new(seed);
    let mut kinds: BTreeMap<(Kind, usize), Vec<Seen>> = BTreeMap::new();
    let mut worst = Duration::ZERO;
    for number in 1..=count {
        let fault = Fault::draw(&mut random, 2);
        let seen = pair.suffer(fault).with_context(|| format!("fault {number} of seed {seed}"))?;
        worst = worst.max(seen.two);
        let two = if seen.two.is_zero() { "" } else { "  TWO OWNERS" };
        eprintln!("{number}/{count}: {fault:?}: none {:.1} ms, two {:.1} ms{two}", millis(seen.none), millis(seen.two));
        kinds.entry((fault.kind, fault.rank)).or_default().push(seen);
    }
    let mut table = Table::new(&[
        "fault, milliseconds",
        "runs",
        "two owners, max",
        "no owner, median",
        "no owner, max",
        "back after it, max",
    ]);
    let mut all = vec![];
    for ((kind, rank), seen) in kinds {
        let spread = |of: fn(&Seen) -> Duration| spread(&sort(seen.iter().map(|seen| millis(of(seen))).collect()));
        let figures = Figures {
            fault: format!("{kind:?}, {}", if rank == 0 { "master" } else { "backup" }),
            two_owners_ms: spread(|seen| seen.two),
            no_owner_ms: spread(|seen| seen.none),
            back_after_ms: spread(|seen| seen.back),
        };
        let told = |spread: Option<Spread>, figure: fn(Spread) -> f64| {
            spread.map_or("-".to_owned(), |spread| format!("{:.1}", figure(spread)))
        };
        table.row(vec![
            figures.fault.clone(),
            seen.len().to_string(),
            told(figures.two_owners_ms, |spread| spread.max),
            told(figures.no_owner_ms, |spread| spread.median),
            told(figures.no_owner_ms, |spread| spread.max),
            told(figures.back_after_ms, |spread| spread.max),
        ]);
        all.push(figures);
    }
    println!("\nseed {seed}, {count} faults, adverts every 234 and 312 ms\n\n{table}");
    Ok((worst, all))
}

/// From the `kill -9` of a master to the first advert of the one that is started at once.
fn restart(runs: usize) -> Result<Option<Spread>> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let wire = Wire::at(&client)?;
    let mut node = Node::start(&a, USUAL[0])?;
    node.wait_for("BACKUP -> MASTER")?;
    let mut took = vec![];
    for _ in 0..runs {
        wire.wait_for_adverts(a.ip(), 1)?;
        let killed = BootTime::now();
        node.agent_mut().kill()?;
        node = Node::spawn(&a, USUAL[0])?;
        node.wait_for("INIT -> MASTER")?;
        let first = || wire.adverts_of(a.ip()).into_iter().map(|(at, _)| at).find(|at| *at > killed);
        eventually("its first advert", LONG, || Ok(first().is_some()))?;
        took.push(millis(first().context("it was there")?.since(killed)));
    }
    let spread = spread(&sort(took));
    if let Some(Spread { count, min, median, max, .. }) = spread {
        println!(
            "kill -9 of a master to its next advert, {count} runs (goal: 100 ms): {min:.1} / {median:.1} / {max:.1} ms"
        );
    }
    Ok(spread)
}

/// What befalls a master at the usual timers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Befalls {
    KillAndStart,
    Kill,
    Stop,
    Hogs,
}

/// What it cost.
#[derive(Serialize)]
struct Compared {
    fault: &'static str,
    system: &'static str,
    two_owners_ms: Option<Spread>,
    no_owner_ms: Option<Spread>,
}

/// The same faults, which befall all of them, each on hosts of its own.
fn compare(settings: &[Setting], common: &Options) -> Result<Vec<Compared>> {
    let runs = common.or_short(3, 1);
    let faults = [
        ("kill -9, started again at once", Befalls::KillAndStart),
        ("kill -9, started again later", Befalls::Kill),
        ("SIGSTOP, SIGCONT later", Befalls::Stop),
        ("four CPU hogs a core", Befalls::Hogs),
    ];
    // The short form shows that it works.
    let faults = if common.short { &faults[2..3] } else { &faults[..] };
    let names: Vec<_> = settings.iter().map(|setting| setting.name).collect();
    let mut table = Table::new(&[&["two owners; no owner, ms"][..], &names].concat());
    let mut compared = vec![];
    for &(fault, befalls) in faults {
        eprintln!("{fault}: {names:?}, {runs} times");
        // Hogs befall the whole machine.
        let width = if befalls == Befalls::Hogs { 1 } else { settings.len().max(1) };
        // Those of one run together.
        let jobs = settings.repeat(runs);
        let seen = side_by_side(&jobs, width, |setting| {
            befall(befalls, setting).with_context(|| format!("{}: {fault}", setting.name))
        })?;
        let mut cells = vec![fault.to_owned()];
        for (number, &system) in names.iter().enumerate() {
            let of_system = || seen.iter().skip(number).step_by(names.len());
            let two_owners_ms = spread(&sort(of_system().map(|(two, _)| millis(*two)).collect()));
            let no_owner_ms = spread(&sort(of_system().map(|(_, none)| millis(*none)).collect()));
            cells.push(format!("{}; {}", told(two_owners_ms), told(no_owner_ms)));
            compared.push(Compared { fault, system, two_owners_ms, no_owner_ms });
        }
        table.row(cells);
    }
    let lasts = LASTS.as_secs();
    println!("\nadverts every second; a fault lasts {lasts} s; {runs} runs: min / median / max\n\n{table}");
    Ok(compared)
}

/// What several runs have shown, or one.
fn told(spread: Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |Spread { count, min, median, max, .. }| {
        if count == 1 { format!("{max:.0}") } else { format!("{min:.0} / {median:.0} / {max:.0}") }
    })
}

fn befall(befalls: Befalls, setting: &Setting) -> Result<(Duration, Duration)> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    let mut first = Member::start(&a, setting, true)?;
    watch.wait_for_owner(a.mac(), LONG)?;
    let _second = Member::start(&b, setting, false)?;
    thread::sleep(Duration::from_secs(2));
    let begin = BootTime::now();
    match befalls {
        Befalls::KillAndStart | Befalls::Kill => {
            first.signal(Signal::SIGKILL)?;
            if befalls == Befalls::Kill {
                thread::sleep(LASTS);
            }
            first = Member::start(&a, setting, true)?;
        }
        Befalls::Stop => {
            first.signal(Signal::SIGSTOP)?;
            thread::sleep(LASTS);
            first.signal(Signal::SIGCONT)?;
        }
        Befalls::Hogs => hog(LASTS),
    }
    // Until all is well again.
    thread::sleep(LASTS);
    drop(first);
    let report = watch.stop()?;
    let end = begin + 2 * LASTS;
    let (mut two, mut none) = (Duration::ZERO, Duration::ZERO);
    for ownership in report.timeline().into_iter().filter(|ownership| ownership.to > begin && ownership.from < end) {
        let lasted = ownership.to.min(end).since(ownership.from.max(begin));
        match ownership.owners.len() {
            0 => none += lasted,
            1 => {}
            _ => two += lasted,
        }
    }
    Ok((two, none))
}
