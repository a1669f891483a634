//! The demonstration behind `cargo xtask run`: two hosts, a client and an attacker on a bridge.
//!
//! Both hosts run a real carpd with native XDP. The client pings the VIP every millisecond, the attacker
//! sends forged adverts, the master's host dies, and at the end there is a timeline. Exits 0 only if the VIP
//! moved once, and the forgeries moved nothing.

use std::{net::Ipv4Addr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use carp_tests::{
    Agent, ArpReport, ArpWatch, BootTime, Capture, ETH0, Filter, Flood, FloodPlan, Frame, Host, Lab, MacAddr, Probe,
    ProbeReport,
    adverts::{self, Election},
};
use clap::Parser;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const VHID: u8 = 1;
/// alpha is preferred; beta's dead time is three seconds and 100/256 of one.
const ALPHA_SKEW: u8 = 0;
const BETA_SKEW: u8 = 100;
const DEAD_TIME: Duration = Duration::from_micros(3_390_625);
/// Patience with anything that happens once a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Ethernet source of the forgeries.
const ATTACKER: [u8; 6] = [0x02, 0xba, 0xd0, 0xba, 0xd0, 0x01];
const FORGERIES_A_SECOND: u32 = 20_000;
const FORGERY: Duration = Duration::from_secs(2);

/// Two hosts with a VIP, a client, an attacker: shows a takeover.
#[derive(Parser)]
struct Args {
    /// The agent
    #[arg(long, value_name = "PATH")]
    carpd: PathBuf,
}

fn main() -> ExitCode {
    match demonstrate(&Args::parse()) {
        Ok(()) => {
            println!("\nThe VIP moved once, and the forgeries moved nothing.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\ncarp-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(args: &Args) -> Result<()> {
    let begin = BootTime::now();
    let lab = Lab::new().context("cannot build the lab (are you root?)")?;
    let [alpha, beta, client, attacker] = lab.hosts(["alpha", "beta", "client", "attacker"])?;
    say(begin, &format!("lab: alpha {}, beta {}, client, attacker on a bridge; VIP {VIP}", alpha.ip(), beta.ip()));

    let wire = Capture::start(client.ns(), ETH0, Filter::Carp)?;
    let probe = Probe::start(&client, VIP, Duration::from_millis(1))?;
    let arp = ArpWatch::start(&client, VIP, Duration::from_millis(10))?;
    let agents = [start(args, &alpha, ALPHA_SKEW)?, start(args, &beta, BETA_SKEW)?];
    for agent in &agents {
        agent.wait_for_line("native XDP", PATIENCE)?;
    }
    say(begin, "two agents are up, each with native XDP; waiting for a master");
    probe.wait_for_answer_from(alpha.mac(), PATIENCE)?;
    say(begin, "the client's pings are answered by alpha");

    attack(begin, &lab, &alpha, &beta, &attacker)?;

    wire.wait_for("the next advert of alpha", PATIENCE, |frame| {
        adverts::parse(frame).is_some_and(|advert| advert.source == alpha.ip())
    })?;
    alpha.kill_host()?;
    let death = BootTime::now();
    say(begin, "alpha's host is dead");
    let takeover = probe.wait_for_answer_from(beta.mac(), PATIENCE)?;
    say(begin, &format!("beta answers the client {} after alpha's death", millis(takeover.at.since(death))));
    // Another second, to see that it stays.
    wire.wait_for("beta's next advert", PATIENCE, |frame| frame.at.since(takeover.at) > Duration::from_millis(900))?;

    let report = Report {
        begin,
        death,
        probe: probe.stop()?,
        arp: arp.stop()?,
        wire: wire.stop()?,
        agents,
        alpha: alpha.mac(),
        beta: beta.mac(),
        hosts: [alpha.ip(), beta.ip()],
    };
    report.print();
    report.check()
}

fn start(args: &Args, host: &Host, skew: u8) -> Result<Agent> {
    let mut command = host.command(&args.carpd);
    command.args(["--interface=eth0", "--pass=demonstration", "--preempt"]);
    command.args([format!("--srcip={}", host.ip()), format!("--vhid={VHID}"), format!("--addr={VIP}")]);
    command.arg(format!("--advskew={skew}"));
    Agent::spawn(host.name(), command)
}

/// Forged adverts and bow-outs in the name of both hosts, at the master and the backup; shows where they end.
fn attack(begin: BootTime, lab: &Lab, alpha: &Host, beta: &Host, attacker: &Host) -> Result<()> {
    let from_attacker = |frame: &&Frame| frame.bytes.get(6..12) == Some(&ATTACKER[..]);
    let at_switch = Capture::start(lab.switch(), &beta.port(), Filter::Carp)?;
    let in_beta = Capture::start(beta.ns(), ETH0, Filter::Carp)?;
    let frames: Vec<Vec<u8>> = (0..64u64)
        .map(|n| {
            let election = if n % 2 == 0 { Election::new(1, 0) } else { Election::new(255, 255) };
            let source = if n % 4 < 2 { alpha.ip() } else { beta.ip() };
            let mut frame = adverts::forge(source, VHID, election, n);
            frame[6..12].copy_from_slice(&ATTACKER);
            frame
        })
        .collect();
    let plan = FloodPlan { frames, rate: Some(FORGERIES_A_SECOND), duration: FORGERY };
    let sent = Flood::start(attacker.ns(), ETH0, plan)?.wait()?;
    let arrived = at_switch.stop()?.iter().filter(from_attacker).count();
    let passed = in_beta.stop()?.iter().filter(from_attacker).count();
    say(
        begin,
        &format!(
            "the attacker sent {sent} forged adverts: {arrived} reached beta's wire, {passed} got past its driver"
        ),
    );
    ensure!(arrived > 0 && passed == 0, "forged adverts were not dropped in the driver");
    Ok(())
}

/// What was seen, for the timeline and the verdict.
struct Report {
    begin: BootTime,
    death: BootTime,
    probe: ProbeReport,
    arp: ArpReport,
    wire: Vec<Frame>,
    agents: [Agent; 2],
    alpha: MacAddr,
    beta: MacAddr,
    hosts: [Ipv4Addr; 2],
}

impl Report {
    fn print(&self) {
        println!("\nTimeline (seconds)");
        for (at, what) in self.timeline() {
            println!("{:>8.3}  {what}", seconds(at.since(self.begin)));
        }
        println!("\nWho answered ARP for {VIP}");
        for span in self.arp.timeline() {
            let owners: Vec<&str> = span.owners.iter().map(|mac| self.name_of(*mac)).collect();
            let owners = if owners.is_empty() { "nobody".to_owned() } else { owners.join(" AND ") };
            println!(
                "{:>8.3} to {:.3}  {owners}",
                seconds(span.from.since(self.begin)),
                seconds(span.to.since(self.begin))
            );
        }
        let silence = self.last_advert_of_alpha().map(|last| self.takeover().map(|at| at.since(last)));
        println!("\nOutage");
        println!("  pings sent, answered          {}, {}", self.probe.sent(), self.probe.answered());
        println!("  beta's dead time              {}", millis(DEAD_TIME));
        if let Some(Some(silence)) = silence {
            println!("  last advert to first answer   {}", millis(silence));
        }
        println!("  outage at the client          {}", millis(self.outage()));
    }

    /// Adverts (each change of what is advertised, and how many like it), transitions, the death.
    fn timeline(&self) -> Vec<(BootTime, String)> {
        let mut lines = vec![(self.death, "alpha's host dies".to_owned())];
        let mut last: Option<(usize, adverts::SeenAdvert)> = None;
        for frame in &self.wire {
            let Some(advert) = adverts::parse(frame).filter(|advert| self.is_genuine(advert)) else { continue };
            let same =
                last.as_ref().filter(|(_, last)| last.source == advert.source && last.election == advert.election);
            if let Some((line, _)) = same {
                lines[*line].1.push('.');
                continue;
            }
            let Election { advbase, advskew, .. } = advert.election;
            let what = if advert.is_bow_out() { "bow-out".to_owned() } else { format!("adverts {advbase}/{advskew}") };
            lines.push((frame.at, format!("{what} from {} .", advert.source)));
            last = Some((lines.len() - 1, advert));
        }
        for (agent, name) in self.agents.iter().zip(["alpha", "beta"]) {
            let changes = agent.lines().into_iter().filter(|line| line.text.contains(" -> "));
            lines.extend(changes.map(|line| (line.at, format!("{name}: {}", message(&line.text)))));
        }
        lines.sort_by_key(|(at, _)| *at);
        lines
    }

    fn check(&self) -> Result<()> {
        let owners: Vec<MacAddr> = self.probe.answered_by().iter().map(|span| span.mac).collect();
        ensure!(owners == [self.alpha, self.beta], "the VIP did not move once, from alpha to beta: {owners:?}");
        ensure!(self.arp.overlaps().is_empty(), "two hosts answered ARP at once");
        for agent in &self.agents {
            let became = agent.lines().iter().filter(|line| line.text.contains("-> MASTER")).count();
            ensure!(became == 1, "an agent became MASTER {became} times, not once");
        }
        Ok(())
    }

    fn is_genuine(&self, advert: &adverts::SeenAdvert) -> bool {
        self.hosts.iter().any(|host| advert.source == *host) && advert.mac == MacAddr([0, 0, 0x5e, 0, 1, VHID])
    }

    fn name_of(&self, mac: MacAddr) -> &'static str {
        if mac == self.alpha {
            "alpha"
        } else if mac == self.beta {
            "beta"
        } else {
            "a stranger"
        }
    }

    fn last_advert_of_alpha(&self) -> Option<BootTime> {
        let of_alpha =
            |frame: &&Frame| adverts::parse(frame).is_some_and(|a| a.source == self.hosts[0] && self.is_genuine(&a));
        self.wire.iter().filter(of_alpha).map(|frame| frame.at).next_back()
    }

    fn takeover(&self) -> Option<BootTime> {
        self.probe.answered_by().iter().find(|span| span.mac == self.beta).map(|span| span.from)
    }

    /// The silence around alpha's death. (The pings before the first master were not answered either.)
    fn outage(&self) -> Duration {
        let after_death = self.probe.outages().into_iter().filter(|outage| outage.end > self.death);
        after_death.map(|outage| outage.duration()).max().unwrap_or_default()
    }
}

/// A log line without its time and level.
fn message(line: &str) -> &str {
    line.split_once(" INFO ").map_or(line, |(_, message)| message.trim())
}

fn say(begin: BootTime, what: &str) {
    println!("{:>8.3}  {what}", seconds(BootTime::now().since(begin)));
}

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

fn millis(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1000.0)
}
