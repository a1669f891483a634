//! What the kernel spends on a frame: `cargo xtask bench xdp`. Needs root.
//!
//! Measured with `BPF_PROG_TEST_RUN`: each sample is one system call that runs the program many times over
//! the same frame, and the kernel divides. That is the program alone, warm, without a driver.
//!
//! A valid advert makes an event only if it is not a repeat, so many runs over one frame make one event.
//! Its cost is therefore put together: what a repeat costs (warm, as above), plus by how much a *single* run
//! with an event takes longer than a single run with a repeat. The two single runs pay alike for the clock,
//! the system call and cold caches, so that falls out of the difference. Every event has a counter of its
//! own. Two figures: the agent is behind, so the event is only put into the ring; and the agent has emptied
//! the ring, so that it must be woken too, which takes an interrupt of this CPU to itself (several
//! microseconds in a virtual machine).
//!
//! The fence is measured with 64 VIPs held, in both programs. Its goals count from a frame of another EtherType, with which
//! no program has anything to do.

// The tests need more of what they share with this benchmark.
#[path = "../tests/xdp_support/mod.rs"]
mod xdp_support;

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use carp_common::abi::{AddressKey, Deadline, Held, address_bytes};
use clap::Parser;
use xdp_support::{
    Family::{self, V4, V6},
    IFINDEX, TestVhost,
    fence_table::{OWN, VIRTUAL, ip},
    frames::{DIGEST_AT, EthernetFrame, Fields, OUR_VHID, PASSPHRASE, source_of, vips},
    program::Program,
    row_of,
};

/// Samples of each case, and runs in each.
const SAMPLES: usize = 100;
const REPEAT: u32 = 20_000;
/// Single runs, for what cannot be repeated.
const SINGLE_RUNS: usize = 3_000;
/// The ring holds some 1,000 events.
const EVENTS_AT_ONCE: usize = 500;
const VERIFIED_INSTRUCTIONS_GOAL: u32 = 25_000;
/// VIPs that are held.
const VIPS: u8 = 64;
/// What a frame may cost more for the fence: one that has nothing to do with a VIP, and one to or from a held VIP.
const UNRELATED_GOAL: u32 = 6;
const HELD_GOAL: u32 = 40;

/// What the kernel spends on a frame.
#[derive(Parser)]
struct Options {
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Nanoseconds a frame, of one case.
struct Figures {
    case: String,
    /// At most this, if there is a goal.
    goal: Option<u32>,
    min: i64,
    median: i64,
    p99: i64,
}

impl Figures {
    fn new(case: String, goal: Option<u32>, mut samples: Vec<i64>) -> Self {
        samples.sort_unstable();
        let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
        Self { case, goal, min: at(0), median: at(50), p99: at(99) }
    }

    fn row(&self) -> String {
        let Self { case, goal, min, median, p99 } = self;
        let goal = match goal {
            Some(goal) if *median <= i64::from(*goal) => format!("{goal:>6}  met"),
            Some(goal) => format!("{goal:>6}  MISSED"),
            None => "     -".to_owned(),
        };
        format!("{case:<40}{min:>6}{median:>8}{p99:>7}{goal}")
    }

    fn json(&self) -> String {
        let Self { case, goal, min, median, p99 } = self;
        let goal = goal.map_or("null".to_owned(), |goal| goal.to_string());
        format!(r#"{{"case":"{case}","min_ns":{min},"median_ns":{median},"p99_ns":{p99},"goal_ns":{goal}}}"#)
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut figures = vec![];
    for (set, vips, has_goals) in [("2 VIPs", vips().to_vec(), true), ("12 VIPs", twelve_vips(), false)] {
        let mut bench = Bench::new(&vips);
        let families: &[Family] = if has_goals { &[V4, V6] } else { &[V4] };
        for family in families {
            let label = |what: &str| format!("{family:?}, {set}: {what}");
            for (what, goal, frame) in bench.cases(*family, has_goals) {
                let goal = goal.filter(|_| has_goals);
                figures.push(Figures::new(label(what), goal, bench.warm(&frame.bytes)));
            }
            let repeat = figures.last().expect("the repeat is the last case").median;
            let goal = has_goals.then_some(350);
            let event = bench.events(*family, repeat, EVENTS_AT_ONCE);
            figures.push(Figures::new(label("valid, event"), goal, event));
            let wake = bench.events(*family, repeat, 1);
            figures.push(Figures::new(label("valid, event, agent woken"), None, wake));
        }
    }
    for family in [V4, V6] {
        figures.extend(fence(family));
    }
    let program = Program::load();
    let verified = program.info().verified_instruction_count();
    let verified_egress = program.egress_info().verified_instruction_count();

    println!("\nnanoseconds a frame{:>27}{:>8}{:>7}{:>6}", "min", "median", "p99", "goal");
    for figure in &figures {
        println!("{}", figure.row());
    }
    let [count, egress] = [verified, verified_egress]
        .map(|count| count.map_or("unknown: the kernel does not say".to_owned(), |count| count.to_string()));
    println!("\nverified instructions: {count} (goal: {VERIFIED_INSTRUCTIONS_GOAL}); of the egress program: {egress}");
    println!(
        "\nEach sample is the mean of {REPEAT} runs over one frame in one BPF_PROG_TEST_RUN, {SAMPLES} samples; the goal is for \
         the median.\nEvents: the median of a repeat, plus single runs with an event less the median of single runs with \
         a repeat, {SINGLE_RUNS} of each."
    );
    if let Some(path) = options.json {
        std::fs::write(&path, json(&figures, verified)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The program, configured for a virtual host.
struct Bench {
    program: Program,
    vhost: TestVhost,
    /// No two adverts have the same.
    counter: u64,
}

impl Bench {
    fn new(vips: &[IpAddr]) -> Self {
        let vhost = TestVhost::new(OUR_VHID, PASSPHRASE, vips);
        let mut program = Program::load();
        program.serve(&vhost);
        Self { program, vhost, counter: 1 }
    }

    /// What is measured warm, with its goal; last the valid advert, which repeats itself.
    fn cases(&self, family: Family, all: bool) -> Vec<(&'static str, Option<u32>, EthernetFrame)> {
        let good = self.advert(family, self.counter);
        let cases = [
            ("unrelated TCP", Some(10), good.clone().with_protocol(6)),
            ("unknown vhid", Some(25), good.clone().in_payload(1, OUR_VHID + 1)),
            ("bad TTL", Some(35), good.clone().with_ttl(254)),
            ("bad checksum", Some(35), good.clone().spoilt(6)),
            ("bad digest", Some(300), good.clone().spoilt(DIGEST_AT + 19).with_checksum()),
            ("valid, a repeat", None, good),
        ];
        cases.into_iter().skip(if all { 0 } else { 4 }).collect()
    }

    fn advert(&self, family: Family, counter: u64) -> EthernetFrame {
        // An interval long enough to make every repeat one.
        let fields = Fields { advbase: 255, counter, ..Fields::default() };
        EthernetFrame::signed(family, fields, &self.vhost.digest(counter))
    }

    fn next_advert(&mut self, family: Family) -> EthernetFrame {
        self.counter += 1;
        self.advert(family, self.counter)
    }

    /// Mean nanoseconds of many runs, many times.
    fn warm(&self, frame: &[u8]) -> Vec<i64> {
        warm(|repeat| self.program.run_repeatedly(frame, repeat).1)
    }

    /// Nanoseconds of valid adverts with an event: `repeat`, plus what single runs say. The ring is emptied
    /// before every `batch` events.
    fn events(&mut self, family: Family, repeat: i64, batch: usize) -> Vec<i64> {
        let [mut with_event, mut with_repeat] = [vec![], vec![]];
        for _ in 0..SINGLE_RUNS / EVENTS_AT_ONCE {
            // Beforehand, so that nothing lies between an event and a repeat that does not lie between a
            // repeat and the next event.
            let frames: Vec<_> = (0..EVENTS_AT_ONCE).map(|_| self.next_advert(family).bytes).collect();
            for (run, frame) in frames.iter().enumerate() {
                if run % batch == 0 {
                    self.program.events();
                }
                with_event.push(nanos(&self.program, frame, 1));
                with_repeat.push(nanos(&self.program, frame, 1));
            }
        }
        with_repeat.sort_unstable();
        let single_repeat = with_repeat[with_repeat.len() / 2];
        with_event.into_iter().map(|single| single - single_repeat + repeat).collect()
    }
}

/// What the fence costs in both programs.
fn fence(family: Family) -> Vec<Figures> {
    let mut program = Program::load();
    program.serve(&TestVhost::ours());
    let held: Vec<IpAddr> = (100..100 + VIPS).map(|last| address(family, last)).collect();
    for vip in &held {
        program.hold(AddressKey::new(IFINDEX, address_bytes(*vip)), Held::new(row_of(family), [OWN, VIRTUAL]));
    }
    program.set_lease(row_of(family), Deadline::serving(u64::MAX));
    let (vip, own, client) = (held[7], source_of(family), address(family, 9));
    let arriving = |to| ip(family, OWN, [2; 6], client, to);
    let leaving = |from| ip(family, [2; 6], OWN, from, client);
    let other = {
        let mut frame = arriving(own);
        frame[12..14].copy_from_slice(&[0x88, 0xcc]);
        frame
    };
    let mut figures = vec![];
    for (name, frames, run) in [
        ("XDP", [&other, &arriving(own), &arriving(vip)], Program::run_repeatedly as fn(&Program, &[u8], u32) -> _),
        ("egress", [&other, &leaving(own), &leaving(vip)], Program::leave_repeatedly),
    ] {
        let mut floor = 0;
        let whats =
            [("another EtherType", None), ("unrelated TCP", Some(UNRELATED_GOAL)), ("held VIP", Some(HELD_GOAL))];
        for ((what, more), frame) in whats.into_iter().zip(frames) {
            let goal = more.map(|more| floor + more);
            let case = format!("{family:?}, {VIPS} held, {name}: {what}");
            let figure = Figures::new(case, goal, warm(|repeat| run(&program, frame, repeat).1));
            if more.is_none() {
                floor = u32::try_from(figure.median).expect("a short time");
            }
            figures.push(figure);
        }
    }
    figures
}

/// An address in the network of the VIPs.
fn address(family: Family, last: u8) -> IpAddr {
    match family {
        V4 => [10, 77, 0, last].into(),
        V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, last.into()).into(),
    }
}

/// Mean nanoseconds of many runs, many times.
fn warm(run: impl Fn(u32) -> Duration) -> Vec<i64> {
    run(REPEAT);
    (0..SAMPLES).map(|_| run(REPEAT).as_nanos() as i64).collect()
}

fn nanos(program: &Program, frame: &[u8], repeat: u32) -> i64 {
    program.run_repeatedly(frame, repeat).1.as_nanos() as i64
}

/// From 12 IPv4 VIPs on, the inner hash has two blocks left.
fn twelve_vips() -> Vec<IpAddr> {
    (100..112).map(|last| IpAddr::from([10, 77, 0, last])).collect()
}

fn json(figures: &[Figures], verified: Option<u32>) -> String {
    let mut text = String::from("{\"figures\":[\n");
    for (at, figure) in figures.iter().enumerate() {
        let comma = if at + 1 < figures.len() { "," } else { "" };
        writeln!(text, "  {}{comma}", figure.json()).expect("a String takes everything");
    }
    let verified = verified.map_or("null".to_owned(), |count| count.to_string());
    writeln!(
        text,
        "],\"verified_instructions\":{verified},\"verified_instructions_goal\":{VERIFIED_INSTRUCTIONS_GOAL}}}"
    )
    .expect("a String takes everything");
    text
}
