//! What faults cost: `cargo xtask faults [--count N] [--seed S]`.
//!
//! First so many faults of a schedule, which the seed decides, on two hosts with carpd, one after the other: for how long two
//! hosts answered for the VIP, and for how long none. Then how long it takes a carpd that is started after a `kill -9` until its
//! first advert. Then four faults at the usual timers, an advert a second, beside ucarp and keepalived.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use carp_tests::{
    Agent, ArpWatch, BootTime, Host, Keepalived, LONG, Lab, Node, PASSPHRASE, Ucarp, VIP, Vrrp, Wire, carpd_path,
    eventually,
    faults::{ELECTION, Fault, Kind, Pair, QUICK, Seen, USUAL, hog},
    is_missing,
    random::SplitMix64,
};
use clap::Parser;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long each of the four lasts, and how long it takes at the most until all is well again.
const LASTS: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(10);
const RESTARTS: usize = 20;
/// How often the client asks.
const PERIOD: Duration = Duration::from_millis(1);

#[derive(Parser)]
struct Args {
    /// Faults of the schedule
    #[arg(long, default_value_t = 50)]
    count: usize,
    /// What decides which
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave out the other programs
    #[arg(long)]
    alone: bool,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let worst = schedule(args.count, args.seed)?;
    restart()?;
    if !args.alone && !is_missing("ucarp")? && !is_missing("keepalived")? {
        compare()?;
    }
    ensure!(worst <= ELECTION, "two hosts answered for {:.1} ms: seed {} replays it", millis(worst), args.seed);
    Ok(())
}

/// For how long two hosts answered at most.
fn schedule(count: usize, seed: u64) -> Result<Duration> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let mut pair = Pair::start([&a, &b], &client, QUICK)?;
    let mut random = SplitMix64::new(seed);
    let mut kinds: BTreeMap<(Kind, bool), Vec<Seen>> = BTreeMap::new();
    let mut worst = Duration::ZERO;
    for number in 1..=count {
        let fault = Fault::draw(&mut random);
        let seen = pair.suffer(fault).with_context(|| format!("fault {number} of seed {seed}"))?;
        worst = worst.max(seen.two);
        let two = if seen.two.is_zero() { "" } else { "  TWO OWNERS" };
        eprintln!("{number}/{count}: {fault:?}: none {:.1} ms, two {:.1} ms{two}", millis(seen.none), millis(seen.two));
        kinds.entry((fault.kind, fault.on_master)).or_default().push(seen);
    }
    println!("seed {seed}, {count} faults, adverts every 234 and 312 ms; milliseconds");
    println!(
        "{:<28} {:>5} {:>10} {:>12} {:>10} {:>10}",
        "fault", "runs", "two, max", "none, median", "none, max", "back, max"
    );
    for ((kind, on_master), seen) in kinds {
        let sorted = |of: fn(&Seen) -> Duration| {
            let mut spans: Vec<f64> = seen.iter().map(|seen| millis(of(seen))).collect();
            spans.sort_by(f64::total_cmp);
            spans
        };
        let (two, none, back) = (sorted(|seen| seen.two), sorted(|seen| seen.none), sorted(|seen| seen.back));
        let last = seen.len() - 1;
        println!(
            "{:<28} {:>5} {:>10.1} {:>12.1} {:>10.1} {:>10.1}",
            format!("{kind:?}, {}", if on_master { "master" } else { "backup" }),
            seen.len(),
            two[last],
            none[last / 2],
            none[last],
            back[last]
        );
    }
    Ok(worst)
}

/// From the `kill -9` of a master to the first advert of the one that is started at once.
fn restart() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let wire = Wire::at(&client)?;
    let mut node = Node::start(&a, USUAL[0])?;
    node.wait_for("BACKUP -> MASTER")?;
    let mut took = vec![];
    for _ in 0..RESTARTS {
        wire.wait_for_adverts(a.ip(), 1)?;
        let killed = BootTime::now();
        node.agent_mut().kill()?;
        node = Node::spawn(&a, USUAL[0])?;
        node.wait_for("INIT -> MASTER")?;
        let first = || wire.adverts_of(a.ip()).into_iter().map(|(at, _)| at).find(|at| *at > killed);
        eventually("its first advert", LONG, || Ok(first().is_some()))?;
        took.push(millis(first().context("it was there")?.since(killed)));
    }
    took.sort_by(f64::total_cmp);
    let [min, median, max] = [0, RESTARTS / 2, RESTARTS - 1].map(|at| took[at]);
    println!(
        "\nkill -9 of a master to its next advert, {RESTARTS} runs (goal: 100 ms): {min:.1} / {median:.1} / {max:.1} ms"
    );
    Ok(())
}

/// What befalls a master at the usual timers.
#[derive(Clone, Copy)]
enum Befalls {
    KillAndStart,
    Kill,
    Stop,
    Hogs,
}

/// One of the programs, on the preferred host or on the other.
type Start<'s> = &'s dyn Fn(&Host, bool) -> Result<Running>;

/// Something that runs as long as this lives, and its first process.
struct Running {
    pid: u32,
    _alive: Box<dyn std::any::Any>,
}

fn compare() -> Result<()> {
    let carpd_with = |host: &Host, preferred: bool, option: &str| {
        let mut command = host.command(carpd_path()?);
        command.args([
            "--interface=eth0",
            "--vhid=1",
            &format!("--pass={PASSPHRASE}"),
            &format!("--addr={VIP}"),
            option,
        ]);
        command.args(USUAL[usize::from(!preferred)].split_whitespace());
        let agent = Agent::spawn(host.name(), command)?;
        Ok(Running { pid: agent.pid(), _alive: Box::new(agent) })
    };
    let carpd = |host: &Host, preferred: bool| carpd_with(host, preferred, "--fence=auto");
    let unpinned = |host: &Host, preferred: bool| carpd_with(host, preferred, "--bpffs=/nowhere");
    let ucarp = |host: &Host, preferred: bool| {
        let agent = Ucarp::spawn(host, if preferred { "--advskew=0" } else { "--advskew=50" })?;
        Ok(Running { pid: agent.pid(), _alive: Box::new(agent) })
    };
    let keepalived = |host: &Host, preferred: bool| {
        let priority = if preferred { 200 } else { 100 };
        let keepalived = Keepalived::start(host, Vrrp { version: 2, id: 51, priority, addresses: &[VIP] })?;
        Ok(Running { pid: keepalived.pid(), _alive: Box::new(keepalived) })
    };
    println!("\nadverts every second; the fault lasts {} s; milliseconds with two owners / with none", LASTS.as_secs());
    println!(
        "{:<36} {:>18} {:>18} {:>18} {:>18}",
        "fault of the master", "carpd", "carpd, no bpffs", "ucarp", "keepalived"
    );
    for (name, befalls) in [
        ("kill -9, started again at once", Befalls::KillAndStart),
        ("kill -9, started again 10 s later", Befalls::Kill),
        ("SIGSTOP for 10 s", Befalls::Stop),
        ("four CPU hogs a core", Befalls::Hogs),
    ] {
        let cells = [&carpd as Start<'_>, &unpinned, &ucarp, &keepalived].map(|start| {
            let (two, none) = befall(befalls, start)?;
            anyhow::Ok(format!("{:.0} / {:.0}", millis(two), millis(none)))
        });
        let [carpd, unpinned, ucarp, keepalived] = cells;
        println!("{name:<36} {:>18} {:>18} {:>18} {:>18}", carpd?, unpinned?, ucarp?, keepalived?);
    }
    Ok(())
}

fn befall(befalls: Befalls, start: Start<'_>) -> Result<(Duration, Duration)> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    let mut first = start(&a, true)?;
    watch.wait_for_owner(a.mac(), 2 * LASTS)?;
    let _second = start(&b, false)?;
    thread::sleep(Duration::from_secs(2));
    let begin = BootTime::now();
    match befalls {
        Befalls::KillAndStart | Befalls::Kill => {
            signal(first.pid, Signal::SIGKILL)?;
            if matches!(befalls, Befalls::Kill) {
                thread::sleep(LASTS);
            }
            first = start(&a, true)?;
        }
        Befalls::Stop => {
            signal(first.pid, Signal::SIGSTOP)?;
            thread::sleep(LASTS);
            signal(first.pid, Signal::SIGCONT)?;
        }
        Befalls::Hogs => hog(LASTS),
    }
    thread::sleep(AFTER);
    drop(first);
    let report = watch.stop()?;
    let end = begin + LASTS + AFTER;
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

/// To a process and all that it has started.
fn signal(process: u32, what: Signal) -> Result<()> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    kill(Pid::from_raw(process.try_into()?), what)?;
    children.split_whitespace().try_for_each(|child| signal(child.parse()?, what))
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
