//! How long the VIP is gone: `cargo xtask bench failover [--runs N] [--json FILE]`.
//!
//! Two hosts with carpd (advbase 1, advskew 0 and 50) and a client that pings the VIP every millisecond.
//! Node death: the master's port goes down in the middle of its advert interval; measured from its last
//! advert, as the client saw it, to the backup's first answer, and compared with the backup's dead time.
//! Graceful stop: SIGTERM; measured is the longest silence at the client.

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use carp_tests::{Agent, BootTime, Capture, ETH0, Filter, Host, Lab, Probe, adverts, carpd_path};
use clap::Parser;
use nix::sys::signal::Signal;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const PATIENCE: Duration = Duration::from_secs(10);
/// advskew of the backup, and its dead time.
const BACKUP_SKEW: u8 = 50;
const DEAD_TIME: Duration = Duration::from_micros(3_195_312);

#[derive(Parser)]
struct Args {
    /// Runs of each kind
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Also write the figures, in milliseconds, to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let death = measure("node death", args.runs, node_death)?;
    let stop = measure("graceful stop", args.runs, graceful_stop)?;

    println!("{:<44} {:>9} {:>9} {:>9} {:>9}", "milliseconds", "min", "median", "p95", "max");
    let beyond: Vec<f64> = death.iter().map(|took| took - millis(DEAD_TIME)).collect();
    row("node death: last advert to first answer", &death);
    row(&format!("  beyond the dead time of {:.1} (goal: 20)", millis(DEAD_TIME)), &beyond);
    row("graceful stop: silence at the client (goal: 5)", &stop);
    if let Some(path) = args.json {
        let json =
            format!("{{\"dead_time\":{},\"node_death\":{death:?},\"graceful_stop\":{stop:?}}}\n", millis(DEAD_TIME));
        fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The figures of so many runs, sorted, in milliseconds.
fn measure(what: &str, runs: u32, run: impl Fn(&Pair) -> Result<Duration>) -> Result<Vec<f64>> {
    let mut figures = Vec::new();
    for number in 1..=runs {
        let took = run(&Pair::new()?).with_context(|| format!("{what}, run {number}"))?;
        eprintln!("{what} {number}/{runs}: {:.2} ms", millis(took));
        figures.push(millis(took));
    }
    figures.sort_by(f64::total_cmp);
    Ok(figures)
}

/// A master and a backup at work, and a client that is answered by the master.
struct Pair {
    master: Host,
    backup: Host,
    master_agent: Agent,
    wire: Capture,
    probe: Probe,
    _backup_agent: Agent,
    _client: Host,
    _lab: Lab,
}

impl Pair {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let [master, backup, client] = lab.hosts(["master", "backup", "client"])?;
        let wire = Capture::start(client.ns(), ETH0, Filter::Carp)?;
        let probe = Probe::start(&client, VIP, Duration::from_millis(1))?;
        let master_agent = start(&master, 0)?;
        let backup_agent = start(&backup, BACKUP_SKEW)?;
        probe.wait_for_answer_from(master.mac(), PATIENCE)?;
        Ok(Self { master, backup, master_agent, wire, probe, _backup_agent: backup_agent, _client: client, _lab: lab })
    }

    /// The arrival of the next advert of the master.
    fn next_advert(&self) -> Result<BootTime> {
        let after = BootTime::now();
        let is_next = |frame: &carp_tests::Frame| {
            frame.at > after && adverts::parse(frame).is_some_and(|advert| advert.source == self.master.ip())
        };
        Ok(self.wire.wait_for("the master's next advert", PATIENCE, is_next)?.at)
    }
}

fn node_death(pair: &Pair) -> Result<Duration> {
    let last_advert = pair.next_advert()?;
    pair.master.kill_host()?;
    let answer = pair.probe.wait_for_answer_from(pair.backup.mac(), PATIENCE)?;
    Ok(answer.at.since(last_advert))
}

fn graceful_stop(pair: &Pair) -> Result<Duration> {
    pair.next_advert()?;
    let begin = BootTime::now();
    pair.master_agent.signal(Signal::SIGTERM)?;
    let answer = pair.probe.wait_for_answer_from(pair.backup.mac(), PATIENCE)?;
    let before = pair.probe.answers().into_iter().rfind(|a| a.mac == pair.master.mac()).context("no answer before")?;
    ensure!(
        before.at > begin || begin.since(before.at) < Duration::from_millis(100),
        "the client was not being answered"
    );
    Ok(answer.at.since(before.at))
}

fn start(host: &Host, skew: u8) -> Result<Agent> {
    let mut command = host.command(carpd_path()?);
    command.args(["--interface=eth0", "--pass=benchmark", "--preempt", "--vhid=1"]);
    command.args([format!("--srcip={}", host.ip()), format!("--addr={VIP}"), format!("--advskew={skew}")]);
    let agent = Agent::spawn(host.name(), command)?;
    agent.wait_for_line("native XDP", PATIENCE)?;
    Ok(agent)
}

fn row(what: &str, sorted: &[f64]) {
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
    println!("{what:<44} {:>9.2} {:>9.2} {:>9.2} {:>9.2}", at(0.0), at(0.5), at(0.95), at(1.0));
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
