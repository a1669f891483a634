//! How long the VIP is gone: `cargo xtask bench failover [--runs N] [--steady SECONDS] [--json FILE]`.
//!
//! Two hosts with carpd, at one advert a second, and at the shortest intervals that CARP has, in real time; and a client
//! that pings the VIP every millisecond.
//! Node death: the master's port goes down in the middle of its advert interval; measured from its last
//! advert, as the client saw it, to the backup's first answer, and compared with the backup's dead time.
//! Graceful stop: SIGTERM, and demotion: `carpctl demote`; measured is the longest silence at the client.
//! Steady: at the shortest interval, so many seconds in which nothing happens: every takeover then is a false one, unless
//! the machine itself stood still for longer than the backup can wait beyond two adverts, which a thread that does
//! nothing but look at the clock would notice, too.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use carp_tests::{Agent, BootTime, Capture, ETH0, Filter, Folder, Host, Lab, Probe, adverts, carpd_path};
use clap::Parser;
use nix::sys::signal::Signal;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const PATIENCE: Duration = Duration::from_secs(10);
/// What the stall of a machine has to exceed to explain a takeover at the shortest interval.
const STALL: Duration = Duration::from_millis(7);

/// How often two hosts advertise.
struct Case {
    advbase: u8,
    /// The master's advskew and the backup's.
    advskews: [u8; 2],
    /// The backup's.
    dead_time: Duration,
    /// How much longer the death of the master may be felt, in milliseconds.
    goal: u8,
}

const CASES: [Case; 3] = [
    Case { advbase: 1, advskews: [0, 50], dead_time: Duration::from_micros(3_195_312), goal: 20 },
    Case { advbase: 0, advskews: [5, 10], dead_time: Duration::from_micros(117_186), goal: 5 },
    Case { advbase: 0, advskews: [0, 1], dead_time: Duration::from_micros(11_718), goal: 5 },
];

#[derive(Parser)]
struct Args {
    /// Runs of each kind
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Seconds at the shortest interval
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    steady: u64,
    /// Also write the figures, in milliseconds, to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was measured of a case, sorted, in milliseconds.
struct Figures {
    case: &'static Case,
    death: Vec<f64>,
    stop: Vec<f64>,
    demotion: Vec<f64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let figures = |case| {
        Ok(Figures {
            case,
            death: measure("node death", case, args.runs, node_death)?,
            stop: measure("graceful stop", case, args.runs, graceful_stop)?,
            demotion: measure("demotion", case, args.runs, demotion)?,
        })
    };
    let all: Vec<Figures> = CASES.iter().map(figures).collect::<Result<_>>()?;
    let steady = steady(Duration::from_secs(args.steady))?;

    println!("{:<48} {:>9} {:>9} {:>9} {:>9}", "milliseconds", "min", "median", "p95", "max");
    for Figures { case, death, stop, demotion } in &all {
        println!("{}, dead time {:.1}", case.name(), millis(case.dead_time));
        let beyond: Vec<f64> = death.iter().map(|took| took - millis(case.dead_time)).collect();
        row("  node death: last advert to first answer", death);
        row(&format!("    beyond the dead time (goal: {})", case.goal), &beyond);
        row("  graceful stop: silence at the client (goal: 5)", stop);
        row("  demotion: the same (goal: 5)", demotion);
    }
    println!("{steady}");
    if let Some(path) = args.json {
        let json = all.iter().map(|Figures { case, death, stop, demotion }| {
            format!(
                "{{\"case\":{:?},\"dead_time\":{},\"node_death\":{death:?},\"graceful_stop\":{stop:?},\
                 \"demotion\":{demotion:?}}}",
                case.name(),
                millis(case.dead_time)
            )
        });
        let json: Vec<_> = json.collect();
        fs::write(&path, format!("[{}]\n", json.join(",\n")))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl Case {
    fn name(&self) -> String {
        let [master, backup] = self.advskews;
        format!("advbase/advskew {}/{master} and {}/{backup}", self.advbase, self.advbase)
    }
}

/// The figures of so many runs, sorted, in milliseconds.
fn measure(what: &str, case: &'static Case, runs: u32, run: impl Fn(&Pair) -> Result<Duration>) -> Result<Vec<f64>> {
    let mut figures = Vec::new();
    for number in 1..=runs {
        let took = run(&Pair::new(case)?).with_context(|| format!("{what}, run {number}"))?;
        eprintln!("{}: {what} {number}/{runs}: {:.2} ms", case.name(), millis(took));
        figures.push(millis(took));
    }
    figures.sort_by(f64::total_cmp);
    Ok(figures)
}

/// Leaves a pair alone at the shortest interval.
fn steady(span: Duration) -> Result<String> {
    let [.., case] = &CASES;
    let pair = Pair::new(case)?;
    let changes = || pair.backup_agent.lines().iter().filter(|line| line.text.contains("-> MASTER")).count();
    let before = changes();
    eprintln!("{}: {} s in which nothing is to happen", case.name(), span.as_secs());
    let (begin, mut stalls, mut last) = (Instant::now(), 0, Instant::now());
    while begin.elapsed() < span {
        sleep(Duration::from_millis(1));
        stalls += usize::from(last.elapsed() > STALL);
        last = Instant::now();
    }
    let (false_ones, adverts) = (changes() - before, span.as_micros() / 3906);
    Ok(format!(
        "{}: {false_ones} takeovers in {} s, some {adverts} adverts, in which nothing happened; stalls over {} ms of a thread beside: {stalls}",
        case.name(),
        span.as_secs(),
        STALL.as_millis()
    ))
}

/// A master and a backup at work, and a client that is answered by the master.
struct Pair {
    master: Host,
    backup: Host,
    master_agent: Agent,
    backup_agent: Agent,
    wire: Capture,
    probe: Probe,
    /// With the master's socket.
    folder: Folder,
    _client: Host,
    _lab: Lab,
}

impl Pair {
    fn new(case: &Case) -> Result<Self> {
        let lab = Lab::new()?;
        let folder = Folder::new("failover")?;
        let [master, backup, client] = lab.hosts(["master", "backup", "client"])?;
        let wire = Capture::start(client.ns(), ETH0, Filter::Carp)?;
        let probe = Probe::start(&client, VIP, Duration::from_millis(1))?;
        let start = |host: &Host, skew, more: &[String]| {
            let agent = start(host, case.advbase, skew, more)?;
            agent.wait_for_line("native XDP", PATIENCE)?;
            Ok::<_, anyhow::Error>(agent)
        };
        let [preferred, other] = case.advskews;
        let master_agent =
            start(&master, preferred, &[format!("--socket={}", folder.path().join("socket").display())])?;
        probe.wait_for_answer_from(master.mac(), PATIENCE)?;
        let backup_agent = start(&backup, other, &[])?;
        backup_agent.wait_for_line("INIT -> BACKUP", PATIENCE)?;
        Ok(Self { master, backup, master_agent, backup_agent, wire, probe, folder, _client: client, _lab: lab })
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
    silence(pair, || pair.master_agent.signal(Signal::SIGTERM))
}

fn demotion(pair: &Pair) -> Result<Duration> {
    silence(pair, || {
        let mut carpctl = Command::new(carpd_path()?.with_file_name("carpctl"));
        let done = carpctl.arg("--socket").arg(pair.folder.path().join("socket")).arg("demote").output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    })
}

/// How long the client hears nothing when the master hands over.
fn silence(pair: &Pair, hand_over: impl FnOnce() -> Result<()>) -> Result<Duration> {
    pair.next_advert()?;
    let begin = BootTime::now();
    hand_over()?;
    pair.probe.wait_for_answer_from(pair.backup.mac(), PATIENCE)?;
    let answers = pair.probe.answers();
    // It may have answered before that wait began.
    let first = answers.iter().find(|answer| answer.mac == pair.backup.mac() && answer.at > begin);
    let first = first.context("no answer of the backup")?;
    let before = answers.iter().rfind(|answer| answer.mac == pair.master.mac() && answer.at < first.at);
    let before = before.context("no answer before")?;
    ensure!(
        before.at > begin || begin.since(before.at) < Duration::from_millis(100),
        "the client was not being answered"
    );
    Ok(first.at.since(before.at))
}

fn start(host: &Host, advbase: u8, skew: u8, more: &[String]) -> Result<Agent> {
    let mut command = host.command(carpd_path()?);
    command.args(["--interface=eth0", "--pass=benchmark", "--preempt", "--vhid=1", "--realtime"]);
    command.args([format!("--srcip={}", host.ip()), format!("--addr={VIP}")]);
    command.args([format!("--advbase={advbase}"), format!("--advskew={skew}")]).args(more);
    Agent::spawn(host.name(), command)
}

fn row(what: &str, sorted: &[f64]) {
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
    println!("{what:<48} {:>9.2} {:>9.2} {:>9.2} {:>9.2}", at(0.0), at(0.5), at(0.95), at(1.0));
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
