//! What a flood costs: `cargo xtask bench flood [--runs N] [--datapath ROAD] [--json FILE]`.
//!
//! Two hosts with carpd (advbase 1, advskew 0 and 50), and a third that sends as many frames as its cable carries,
//! for five seconds and until the takeover that follows. Measured are, on the backup: genuine adverts lost, the
//! agent's CPU time (of one core) and lines of log; then the master's port goes down, and measured is from its last
//! advert to the backup's first, beyond the backup's dead time.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use carp_tests::adverts::{self, Election};
use carp_tests::{Agent, Capture, ETH0, Filter, Flood, FloodPlan, Host, Lab, VHID, VIP, carpd_path};
use clap::Parser;
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(15);
/// For how long CPU time and losses are measured.
const MEASURED: Duration = Duration::from_secs(5);
/// advskew of the backup, and its dead time.
const BACKUP_SKEW: u8 = 50;
const DEAD_TIME: Duration = Duration::from_micros(3_195_312);

#[derive(Parser)]
struct Args {
    /// Runs of each kind
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// The road that adverts take
    #[arg(long, default_value = "native")]
    datapath: String,
    /// Also write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// Makes the frames of a flood, from attacker, backup and an advert of the master.
type Frames = fn(&Host, &Host, &[u8]) -> Vec<Vec<u8>>;

/// The one flood of adverts that are valid.
const REPLAY: &str = "a captured advert, repeated";
/// What an agent says of each advert that woke it, if it is to say more.
const HEARD: &str = ": heard ";

const FLOODS: [(&str, Frames); 6] = [
    ("none", |_, _, _| vec![]),
    ("forged adverts", |attacker, _, _| vec![forged(attacker)]),
    (REPLAY, |_, _, advert| vec![advert.to_vec()]),
    ("forged adverts, unicast", |attacker, backup, _| {
        let mut frame = forged(attacker);
        frame[..6].copy_from_slice(&backup.mac().0);
        vec![frame]
    }),
    ("garbage on protocol 112", |attacker, _, _| {
        let mut frame = forged(attacker);
        frame[34..].iter_mut().zip(0u8..).for_each(|(byte, number)| *byte = number.wrapping_mul(151));
        vec![frame]
    }),
    ("UDP", |attacker, _, _| {
        let mut frame = forged(attacker);
        frame[14 + 9] = 17;
        vec![frame]
    }),
];

fn forged(attacker: &Host) -> Vec<u8> {
    adverts::forge(attacker.ip(), VHID, Election::new(0, 1), 1)
}

/// What one run has shown.
struct Run {
    /// Frames a second.
    rate: f64,
    lost: i64,
    cpu_percent: f64,
    lines: usize,
    /// Milliseconds beyond the dead time.
    beyond: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut rows = vec![];
    println!(
        "{:<28} {:>10} {:>6} {:>14} {:>12} {:>24}",
        "flood", "frames/s", "lost", "agent CPU, %", "log lines/s", "takeover beyond, ms"
    );
    for (what, frames) in FLOODS {
        let mut runs = (1..=args.runs)
            .map(|number| run(what, frames, &args.datapath).with_context(|| format!("{what}, run {number}")))
            .collect::<Result<Vec<_>>>()?;
        runs.sort_by(|a, b| a.beyond.total_cmp(&b.beyond));
        let most = |figure: fn(&Run) -> f64| runs.iter().map(figure).fold(0.0, f64::max);
        let least_rate = runs.iter().map(|run| run.rate).fold(f64::MAX, f64::min);
        let (lost, cpu) = (runs.iter().map(|run| run.lost).max().unwrap_or(0), most(|run| run.cpu_percent));
        let lines = most(|run| run.lines as f64) / MEASURED.as_secs_f64();
        let beyond = [0, runs.len() / 2, runs.len() - 1].map(|at| runs[at].beyond);
        let told = beyond.map(|beyond| format!("{beyond:.1}")).join(" / ");
        println!("{what:<28} {least_rate:>10.0} {lost:>6} {cpu:>14.1} {lines:>12.1} {told:>24}");
        rows.push(format!(
            r#"{{"flood":"{what}","frames_per_second":{least_rate:.0},"lost":{lost},"cpu_percent":{cpu:.1},"lines_per_second":{lines:.1},"beyond_ms":{beyond:?}}}"#
        ));
    }
    println!(
        "\n{} runs each, adverts by {}; the lowest rate, the most lost, the most CPU and log, and min / median / max of the \
         takeover.",
        args.runs, args.datapath
    );
    if let Some(path) = args.json {
        fs::write(&path, format!("[{}]\n", rows.join(",")))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn run(what: &str, frames: Frames, datapath: &str) -> Result<Run> {
    let lab = Lab::new()?;
    let [master, backup, attacker] = lab.hosts(["master", "backup", "attacker"])?;
    // The attacker does not see its own flood, which may look as if it came from the master.
    let [of_master, of_backup] =
        [&master, &backup].map(|host| Capture::start(attacker.ns(), ETH0, Filter::CarpFrom(host.ip())));
    let (of_master, of_backup) = (of_master?, of_backup?);
    let master_agent = start(&master, 0, datapath, false)?;
    master_agent.wait_for_line("BACKUP -> MASTER", PATIENCE)?;
    let backup_agent = start(&backup, BACKUP_SKEW, datapath, what == REPLAY)?;
    let advert = of_master.wait_for("the master's second advert", PATIENCE, |_| true)?;
    let frames = frames(&attacker, &backup, &advert.bytes);
    let flood = (!frames.is_empty())
        .then(|| Flood::start(attacker.ns(), ETH0, FloodPlan { frames, rate: None, duration: 2 * PATIENCE }))
        .transpose()?;
    let heard = || heard(&backup_agent, what);
    let before = (heard()?, sent(&master_agent)?, cpu_time(&backup_agent)?, lines(&backup_agent));
    // The span that is measured, not a wait for something.
    thread::sleep(MEASURED);
    let told = lines(&backup_agent) - before.3;
    let cpu = cpu_time(&backup_agent)? - before.2;
    let lost = (sent(&master_agent)? - before.1) - (heard()? - before.0);
    let took = takeover(&master, &of_master, &of_backup)?;
    let sent = flood.map(Flood::stop).transpose()?.unwrap_or(0) as f64;
    // Its advert leaves before it tells.
    backup_agent.wait_for_line("BACKUP -> MASTER", PATIENCE)?;
    let transitions: Vec<_> =
        backup_agent.lines().into_iter().map(|line| line.text).filter(|line| line.contains(" -> ")).collect();
    ensure!(transitions.len() == 2, "the backup did not wait for its master's death: {transitions:#?}");
    Ok(Run {
        rate: sent / (MEASURED + took).as_secs_f64(),
        lost: lost.max(0),
        cpu_percent: cpu.as_secs_f64() / MEASURED.as_secs_f64() * 100.0,
        lines: told,
        beyond: (took.as_secs_f64() - DEAD_TIME.as_secs_f64()) * 1000.0,
    })
}

/// Ends the master after its next advert; how long after that one the backup's first follows.
fn takeover(master: &Host, of_master: &Capture, of_backup: &Capture) -> Result<Duration> {
    of_master.wait_for("the master's next advert", PATIENCE, |_| true)?;
    master.kill_host()?;
    let first = of_backup.wait_for("the backup's first advert", PATIENCE, |frame| adverts::parse(frame).is_some())?;
    let last = of_master.frames().into_iter().next_back().context("no advert of the master")?;
    Ok(first.at.since(last.at))
}

fn start(host: &Host, skew: u8, datapath: &str, says_more: bool) -> Result<Agent> {
    let mut command = host.command(carpd_path()?);
    command.args(["--interface=eth0", "--pass=benchmark", &format!("--vhid={VHID}"), &format!("--addr={VIP}")]);
    command.args([format!("--advskew={skew}"), format!("--datapath={datapath}")]);
    if says_more {
        command.arg("--debug");
    }
    let agent = Agent::spawn(host.name(), command)?;
    agent.wait_for_line("INIT -> BACKUP", PATIENCE)?;
    Ok(agent)
}

/// What the agent says after this word when it is asked for its state.
fn told(agent: &Agent, word: &str) -> Result<i64> {
    agent.signal(Signal::SIGUSR1)?;
    let line = agent.wait_for_line("; received: ", PATIENCE)?.text;
    let number = line.split_once(word).and_then(|(_, rest)| rest.split([',', ';']).next());
    Ok(number.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
}

/// Genuine adverts that the backup has heard. A report is not of one moment, so among valid adverts that are
/// replayed those are counted that woke it: each genuine one, and after it the replayed one, which is new once.
fn heard(agent: &Agent, flood: &str) -> Result<i64> {
    if flood != REPLAY {
        return told(agent, "ipackets ");
    }
    Ok(agent.lines().iter().filter(|line| line.text.contains(HEARD)).count() as i64 / 2)
}

/// What a flood is told of by.
fn lines(agent: &Agent) -> usize {
    agent.lines().iter().filter(|line| !line.text.contains(HEARD)).count()
}

fn sent(agent: &Agent) -> Result<i64> {
    told(agent, "adverts sent: ")
}

/// CPU time that a process has used, all its threads.
fn cpu_time(agent: &Agent) -> Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", agent.pid())).context("listing threads")? {
        let told = fs::read_to_string(thread?.path().join("schedstat")).context("reading a thread's time")?;
        nanos += told.split(' ').next().unwrap_or_default().parse::<u64>().context("no time of a thread")?;
    }
    Ok(Duration::from_nanos(nanos))
}
