//! How long the VIP is gone: `cargo xtask bench failover [--runs N] [--steady SECONDS] [--json FILE]`.
//!
//! Two hosts with carpd, at one advert a second, and at the shortest intervals that CARP has, in real time; and a client
//! that pings the VIP every millisecond.
//! Node death: the switch forwards nothing of the master any more; measured from its last advert, as the client saw it, to the backup's first
//! answer, and compared with the backup's dead time.
//! Graceful stop: SIGTERM, and demotion: `carpctl demote`; measured is the longest silence at the client.
//! Steady: at the shortest interval, so many seconds in which nothing happens: every takeover then is a false one, unless
//! the machine itself stood still just before, for longer than two adverts take: on each CPU a thread, before all others,
//! does nothing but look at the clock.

use std::{fs, net::Ipv4Addr, path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use carp_tests::{Agent, BootTime, Capture, ETH0, Filter, Folder, Frame, Host, Lab, Probe, adverts, carpd_path};
use clap::Parser;
use nix::{
    errno::Errno,
    libc,
    sched::{CpuSet, sched_setaffinity},
    sys::signal::Signal,
    unistd::Pid,
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const PATIENCE: Duration = Duration::from_secs(10);
/// What the stall of a machine has to exceed to explain a takeover at the shortest interval.
const STALL: Duration = Duration::from_millis(7);
/// Stalls from this length on are kept.
const NOTABLE: Duration = Duration::from_millis(1);

/// How often two hosts advertise.
struct Case {
    advbase: u8,
    /// The master's advskew and the backup's.
    advskews: [u8; 2],
    /// `--mac`
    mac: &'static str,
    /// The backup's.
    dead_time: Duration,
    /// How much longer the death of the master may be felt, in milliseconds.
    goal: u8,
}

const CASES: [Case; 4] = [
    Case { advbase: 1, advskews: [0, 50], mac: "virtual", dead_time: Duration::from_micros(3_195_312), goal: 20 },
    Case { advbase: 1, advskews: [0, 50], mac: "interface", dead_time: Duration::from_micros(3_195_312), goal: 20 },
    Case { advbase: 0, advskews: [5, 10], mac: "interface", dead_time: Duration::from_micros(117_186), goal: 5 },
    Case { advbase: 0, advskews: [0, 1], mac: "interface", dead_time: Duration::from_micros(11_718), goal: 5 },
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
        let base = self.advbase;
        format!("advbase/advskew {base}/{master} and {base}/{backup}, {} MAC", self.mac)
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
    let end = BootTime::now() + span;
    eprintln!("{}: {} s in which nothing is to happen", case.name(), span.as_secs());
    let cpus = thread::available_parallelism()?.get();
    let watchers: Vec<_> = (0..cpus).map(|cpu| thread::spawn(move || stalls(cpu, end))).collect();
    let mut stalls = Vec::new();
    for watcher in watchers {
        stalls.extend(watcher.join().expect("a watcher panics never")?);
    }
    let takeovers = pair.takeovers();
    // What kept the last three adverts of the master from being sent, or heard.
    let before = |takeover: BootTime| {
        let decisive =
            move |stall: &&Stall| stall.end <= takeover + STALL && takeover.since(stall.end) < case.dead_time;
        stalls.iter().filter(decisive).collect::<Vec<_>>()
    };
    let (explained, unexplained): (Vec<_>, Vec<_>) =
        takeovers.into_iter().partition(|takeover| before(*takeover).iter().any(|stall| stall.length > STALL));
    let mut line = format!(
        "{}, {} s in which nothing happened: {} takeovers, {} of them just after one of {} stalls over {} ms (the longest: {:.1} ms)",
        case.name(),
        span.as_secs(),
        explained.len() + unexplained.len(),
        explained.len(),
        stalls.iter().filter(|stall| stall.length > STALL).count(),
        STALL.as_millis(),
        stalls.iter().map(|stall| millis(stall.length)).fold(0.0, f64::max),
    );
    for takeover in unexplained {
        let ago = |at: BootTime| format!("{:.1}", millis(takeover.since(at)));
        let stalls = before(takeover);
        let stalls = stalls
            .iter()
            .map(|stall| format!("{:.1} on CPU {} until {} before", millis(stall.length), stall.cpu, ago(stall.end)));
        let stalls: Vec<_> = stalls.collect();
        let adverts: Vec<_> = pair.adverts_before(takeover, 5).into_iter().map(ago).collect();
        line += &format!(
            "\n  another: the master's adverts came {} ms before it; stalls in ms: {}",
            adverts.join(", "),
            if stalls.is_empty() { "none over 1".to_owned() } else { stalls.join(", ") }
        );
    }
    Ok(line)
}

/// A span in which a CPU did not even run what comes before all else.
struct Stall {
    cpu: usize,
    end: BootTime,
    length: Duration,
}

/// Looks at the clock on one CPU, every half millisecond.
fn stalls(cpu: usize, until: BootTime) -> Result<Vec<Stall>> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only)?;
    // SAFETY: for this struct of integers all bytes zero is valid.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = 50;
    // SAFETY: 0 is this thread, and the parameters live until the call returns.
    Errno::result(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) })?;
    let mut stalls = Vec::new();
    let mut last = BootTime::now();
    while last < until {
        thread::sleep(Duration::from_micros(500));
        let now = BootTime::now();
        let length = now.since(last);
        if length > NOTABLE {
            stalls.push(Stall { cpu, end: now, length });
        }
        last = now;
    }
    Ok(stalls)
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
            let agent = start(host, case, skew, more)?;
            agent.wait_for_line("native XDP", PATIENCE)?;
            Ok::<_, anyhow::Error>(agent)
        };
        let [preferred, other] = case.advskews;
        let master_agent =
            start(&master, preferred, &[format!("--socket={}", folder.path().join("socket").display())])?;
        probe.wait_for_answer("of the master", PATIENCE, |_| true)?;
        let backup_agent = start(&backup, other, &[])?;
        backup_agent.wait_for_line("INIT -> BACKUP", PATIENCE)?;
        Ok(Self { master, backup, master_agent, backup_agent, wire, probe, folder, _client: client, _lab: lab })
    }

    /// The arrival of the next advert of the master.
    fn next_advert(&self) -> Result<BootTime> {
        let after = BootTime::now();
        let is_next = |frame: &Frame| frame.at > after && self.is_masters(frame);
        Ok(self.wire.wait_for("the master's next advert", PATIENCE, is_next)?.at)
    }

    /// The longest time without an answer at the client while the VIP moves, just after an advert: its last answer before, and
    /// the first after.
    fn silence(&self, hand_over: impl FnOnce() -> Result<()>) -> Result<(BootTime, BootTime)> {
        self.next_advert()?;
        let begin = BootTime::now();
        hand_over()?;
        let takeover = self.backup_agent.wait_for_line("-> MASTER", PATIENCE)?.at;
        let last = self.probe.wait_for_answer("of the backup", PATIENCE, |answer| answer.at > takeover)?;
        let answers: Vec<_> = self.probe.answers().iter().map(|answer| answer.at).filter(|at| *at <= last.at).collect();
        let gaps = answers.windows(2).filter(|gap| gap[1] > begin);
        let longest = gaps.max_by_key(|gap| gap[1].since(gap[0])).context("no answer before")?;
        Ok((longest[0], longest[1]))
    }

    /// When the backup has begun to advertise.
    fn takeovers(&self) -> Vec<BootTime> {
        let frames = self.wire.frames();
        let masters =
            frames.iter().filter_map(|frame| Some((frame.at, adverts::parse(frame)?.source == self.backup.ip())));
        let masters: Vec<_> = masters.collect();
        let begins = masters.windows(2).filter(|pair| !pair[0].1 && pair[1].1);
        begins.map(|pair| pair[1].0).collect()
    }

    /// When the last adverts of the master came before this time, the last one first.
    fn adverts_before(&self, time: BootTime, count: usize) -> Vec<BootTime> {
        let frames = self.wire.frames();
        let before = frames.iter().rev().filter(|frame| frame.at < time && self.is_masters(frame));
        before.take(count).map(|frame| frame.at).collect()
    }

    fn is_masters(&self, frame: &Frame) -> bool {
        adverts::parse(frame).is_some_and(|advert| advert.source == self.master.ip())
    }
}

fn node_death(pair: &Pair) -> Result<Duration> {
    let (_, answer) = pair.silence(|| pair.master.unplug())?;
    // At the shortest intervals more adverts leave before the switch forwards nothing.
    let last_advert = pair.wire.frames().into_iter().rfind(|frame| pair.is_masters(frame)).context("no advert")?;
    Ok(answer.since(last_advert.at))
}

fn graceful_stop(pair: &Pair) -> Result<Duration> {
    let (begin, end) = pair.silence(|| pair.master_agent.signal(Signal::SIGTERM))?;
    Ok(end.since(begin))
}

fn demotion(pair: &Pair) -> Result<Duration> {
    let (begin, end) = pair.silence(|| {
        let mut carpctl = Command::new(carpd_path()?.with_file_name("carpctl"));
        let done = carpctl.arg("--socket").arg(pair.folder.path().join("socket")).arg("demote").output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    })?;
    Ok(end.since(begin))
}

fn start(host: &Host, case: &Case, skew: u8, more: &[String]) -> Result<Agent> {
    let mut command = host.command(carpd_path()?);
    command.args(["--interface=eth0", "--pass=benchmark", "--preempt", "--vhid=1", "--realtime"]);
    command.args([format!("--srcip={}", host.ip()), format!("--addr={VIP}")]);
    command.args([format!("--advbase={}", case.advbase), format!("--advskew={skew}"), format!("--mac={}", case.mac)]);
    command.args(more);
    Agent::spawn(host.name(), command)
}

fn row(what: &str, sorted: &[f64]) {
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
    println!("{what:<48} {:>9.2} {:>9.2} {:>9.2} {:>9.2}", at(0.0), at(0.5), at(0.95), at(1.0));
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
