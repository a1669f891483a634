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
//! Before a case is measured, what the program counts of its frame must be what its name says, and as many events must
//! have come as were meant to.
//!
//! All of them include what `BPF_PROG_TEST_RUN` takes itself: programs that do nothing tell how much that is.
//!
//! The fence is measured with 64 VIPs held, in both programs. Its goals count from a frame of another EtherType, with which
//! no program has anything to do.

// The tests need more of what they share with this benchmark.
#[path = "../tests/xdp_support/mod.rs"]
mod xdp_support;

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Result, ensure};
use carp_common::{
    abi::{AddressKey, Deadline, Held, SealCheck, address_bytes},
    reason::Reason,
};
use carp_tests::bench::{Options, Table};
use carp_tests::foreign::Empty;
use clap::Parser;
use serde::Serialize;
use serde_json::json;
use xdp_support::{
    Family::{self, V4, V6},
    IFINDEX, TestVhost,
    fence_table::{OWN, VIRTUAL, ip},
    frames::{DIGEST_AT, EthernetFrame, Fields, OUR_VHID, PASSPHRASE, SEAL_ID, SEAL_KEY, source_of, vips},
    program::{Program, XdpAction},
    row_of,
};

/// Runs in each sample of a case.
const REPEAT: u32 = 20_000;
/// Single runs, for what cannot be repeated.
const SINGLE_RUNS: usize = 3_000;
/// The ring holds some 1,000 events.
const EVENTS_AT_ONCE: usize = 500;
const VERIFIED_INSTRUCTIONS_GOAL: u32 = 25_000;
/// A key that seals are not made with.
const OTHER_KEY: &[u8] = b"another key of 24 bytes.";
/// VIPs that are held.
const VIPS: u8 = 64;
/// What a frame may cost more for the fence: one that has nothing to do with a VIP, and one to or from a held VIP.
const UNRELATED_GOAL: u32 = 6;
const HELD_GOAL: u32 = 40;

/// What the kernel spends on a frame.
#[derive(Parser)]
struct Args {
    /// Samples of each case [default: 100; 10 in the short form]
    #[arg(long)]
    samples: Option<usize>,
    #[command(flatten)]
    common: Options,
}

/// Nanoseconds a frame, of one case.
#[derive(Serialize)]
struct Figures {
    case: String,
    /// At most this, if there is a goal.
    goal_ns: Option<u32>,
    min_ns: i64,
    median_ns: i64,
    p99_ns: i64,
}

impl Figures {
    fn new(case: String, goal_ns: Option<u32>, mut samples: Vec<i64>) -> Self {
        samples.sort_unstable();
        let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
        Self { case, goal_ns, min_ns: at(0), median_ns: at(50), p99_ns: at(99) }
    }

    fn row(&self) -> Vec<String> {
        let Self { case, goal_ns, min_ns, median_ns, p99_ns } = self;
        let goal = goal_ns.map_or("-".to_owned(), |goal| {
            format!("{goal}, {}", if *median_ns <= i64::from(goal) { "reached" } else { "missed" })
        });
        let mut row = vec![case.clone()];
        row.extend([min_ns, median_ns, p99_ns].map(i64::to_string));
        row.push(goal);
        row
    }
}

fn main() -> Result<()> {
    let Args { samples, common } = Args::parse();
    let report = common.report("xdp")?;
    let samples = samples.unwrap_or(common.or_short(100, 10));
    let mut figures = empty(samples)?;
    for (set, vips, has_goals) in [("2 VIPs", vips().to_vec(), true), ("12 VIPs", twelve_vips(), false)] {
        let mut bench = Bench::new(&vips, samples);
        let families: &[Family] = if has_goals { &[V4, V6] } else { &[V4] };
        for family in families {
            let label = |what: &str| format!("{family:?}, {set}: {what}");
            for (what, goal, reasons, frame) in bench.cases(*family, has_goals) {
                ensure_counted(&bench.program, what, &frame.bytes, &reasons)?;
                let goal = goal.filter(|_| has_goals);
                figures.push(Figures::new(label(what), goal, bench.warm(&frame.bytes)));
            }
            let repeat = figures.last().expect("the repeat is the last case").median_ns;
            let goal = has_goals.then_some(350);
            let event = bench.events(*family, repeat, EVENTS_AT_ONCE)?;
            figures.push(Figures::new(label("valid, event"), goal, event));
            let wake = bench.events(*family, repeat, 1)?;
            figures.push(Figures::new(label("valid, event, agent woken"), None, wake));
        }
    }
    for family in [V4, V6] {
        figures.extend(seals(family, samples)?);
        figures.extend(fence(family, samples)?);
    }
    let program = Program::load();
    let verified = program.info().verified_instruction_count();
    let verified_egress = program.egress_info().verified_instruction_count();

    let mut table = Table::new(&["nanoseconds a frame", "min", "median", "p99", "goal for the median"]);
    figures.iter().for_each(|figure| table.row(figure.row()));
    print!("\n{table}");
    let [count, egress] = [verified, verified_egress]
        .map(|count| count.map_or("unknown: the kernel does not say".to_owned(), |count| count.to_string()));
    println!("verified instructions: {count} (goal: {VERIFIED_INSTRUCTIONS_GOAL}); of the egress program: {egress}");
    println!(
        "\nEach sample is the mean of {REPEAT} runs over one frame in one BPF_PROG_TEST_RUN, {samples} samples.\n\
         Events: the median of a repeat, plus single runs with an event less the median of single runs with a repeat, \
         {SINGLE_RUNS} of each."
    );
    let settings = json!({ "runs_a_sample": REPEAT, "samples": samples, "single_runs": SINGLE_RUNS });
    let verified = json!({
        "ingress": verified, "egress": verified_egress, "goal": VERIFIED_INSTRUCTIONS_GOAL,
    });
    report.write(settings, json!({ "cases": figures, "verified_instructions": verified }))
}

/// What measuring takes.
fn empty(samples: usize) -> Result<Vec<Figures>> {
    let frame = ip(V4, OWN, [2; 6], address(V4, 9), source_of(V4));
    let figures = ["XDP", "egress"].into_iter().zip(Empty::load_both()?).map(|(name, program)| {
        let samples = warm(samples, |repeat| program.run(&frame, repeat).expect("BPF_PROG_TEST_RUN"));
        Figures::new(format!("{name}: a program that does nothing"), None, samples)
    });
    Ok(figures.collect())
}

/// What it is, its goal, what it is counted as, and the frame.
type Case = (&'static str, Option<u32>, Vec<Reason>, EthernetFrame);

/// The program, configured for a virtual host.
struct Bench {
    program: Program,
    vhost: TestVhost,
    /// No two adverts have the same.
    counter: u64,
    samples: usize,
}

impl Bench {
    fn new(vips: &[IpAddr], samples: usize) -> Self {
        let vhost = TestVhost::new(OUR_VHID, PASSPHRASE, vips);
        let mut program = Program::load();
        program.serve(&vhost);
        Self { program, vhost, counter: 1, samples }
    }

    /// What is measured warm, with its goal, and what it is counted as; last the valid advert, which repeats itself.
    fn cases(&self, family: Family, all: bool) -> Vec<Case> {
        let good = self.advert(family, self.counter);
        let repeat = vec![Reason::received(family), Reason::Repeat];
        let cases = [
            ("unrelated TCP", Some(10), vec![], good.clone().with_protocol(6)),
            ("unknown vhid", Some(25), vec![Reason::Other], good.clone().in_payload(1, OUR_VHID + 1)),
            ("bad TTL", Some(35), vec![Reason::BadTtl], good.clone().with_ttl(254)),
            ("bad checksum", Some(35), vec![Reason::BadSum], good.clone().spoilt(6)),
            ("bad digest", Some(300), vec![Reason::BadAuth], good.clone().spoilt(DIGEST_AT + 19).with_checksum()),
            ("valid, a repeat", None, repeat, good),
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
        warm(self.samples, |repeat| self.program.run_repeatedly(frame, repeat).1)
    }

    /// Nanoseconds of valid adverts with an event: `repeat`, plus what single runs say. The ring is emptied
    /// before every `batch` events.
    fn events(&mut self, family: Family, repeat: i64, batch: usize) -> Result<Vec<i64>> {
        let [mut with_event, mut with_repeat] = [vec![], vec![]];
        // Of what was measured before.
        self.program.events();
        let mut came = 0;
        for _ in 0..SINGLE_RUNS / EVENTS_AT_ONCE {
            // Beforehand, so that nothing lies between an event and a repeat that does not lie between a
            // repeat and the next event.
            let frames: Vec<_> = (0..EVENTS_AT_ONCE).map(|_| self.next_advert(family).bytes).collect();
            for (run, frame) in frames.iter().enumerate() {
                if run % batch == 0 {
                    came += self.program.events().len();
                }
                with_event.push(nanos(&self.program, frame, 1));
                with_repeat.push(nanos(&self.program, frame, 1));
            }
        }
        came += self.program.events().len();
        ensure!(came == with_event.len(), "{came} events of {} valid adverts", with_event.len());
        with_repeat.sort_unstable();
        let single_repeat = with_repeat[with_repeat.len() / 2];
        Ok(with_event.into_iter().map(|single| single - single_repeat + repeat).collect())
    }
}

/// What seals cost where every advert must have one: those that are refused, and good ones, each with its event.
fn seals(family: Family, samples: usize) -> Result<Vec<Figures>> {
    let mut program = Program::load();
    let vhost = TestVhost { seal: (SealCheck::Enforce, 0), ..TestVhost::ours() };
    program.serve(&vhost);
    let fields = |counter| Fields { advbase: 255, counter, ..Fields::default() };
    let advert = |counter| EthernetFrame::signed(family, fields(counter), &vhost.digest(counter));
    let good = |sequence| advert(sequence).sealed(SEAL_ID, SEAL_KEY, sequence);
    let [forged, unknown] = [(SEAL_ID, OTHER_KEY), (SEAL_ID + 1, SEAL_KEY)].map(|(id, key)| {
        // A sequence that is always new.
        advert(1).sealed(id, key, u64::MAX)
    });
    let mut figures = vec![];
    let mut refused = |program: &Program, what: &str, goal: u32, reason: Reason, frame: &EthernetFrame| {
        ensure_counted(program, what, &frame.bytes, &[reason])?;
        let samples = warm(samples, |repeat| program.run_repeatedly(&frame.bytes, repeat).1);
        figures.push(Figures::new(format!("{family:?}, sealed: {what}"), Some(goal), samples));
        Ok::<_, anyhow::Error>(figures.last().expect("it was pushed").median_ns)
    };
    let no_digest = EthernetFrame::signed(family, fields(1), &[0x5a; 20]).sealed(SEAL_ID, OTHER_KEY, u64::MAX);
    refused(&program, "not sealed", 50, Reason::Unsealed, &advert(1))?;
    refused(&program, "unknown key", 60, Reason::UnknownKey, &unknown)?;
    refused(&program, "wrong digest", 450, Reason::BadAuth, &no_digest)?;
    refused(&program, "right digest, bad seal", 1_300, Reason::BadSeal, &forged)?;
    program.run(&good(1).bytes);
    let replayed = refused(&program, "replayed", 80, Reason::Replayed, &good(1))?;
    let elsewhere = if family == V4 { "10.77.0.9" } else { "fe80::9" }.parse().expect("an address");
    let made_of_heard = advert(1).with_source(elsewhere).sealed(SEAL_ID, OTHER_KEY, u64::MAX);
    refused(&program, "made of one that was heard, flood", 200, Reason::Flood, &made_of_heard)?;
    program.events();
    let mut came = 0;
    let [mut singles, mut replays] = [vec![], vec![]];
    for sequence in 2..2 + SINGLE_RUNS as u64 {
        if sequence % EVENTS_AT_ONCE as u64 == 0 {
            came += program.events().len();
        }
        let frame = good(sequence).bytes;
        singles.push(nanos(&program, &frame, 1));
        replays.push(nanos(&program, &frame, 1));
    }
    came += program.events().len();
    ensure!(came == singles.len(), "{came} events of {} sealed adverts", singles.len());
    replays.sort_unstable();
    let single = replays[replays.len() / 2];
    let valid = singles.into_iter().map(|with_event| with_event - single + replayed).collect();
    figures.push(Figures::new(format!("{family:?}, sealed: valid, event"), Some(1_700), valid));
    Ok(figures)
}

/// What the fence costs in both programs.
fn fence(family: Family, samples: usize) -> Result<Vec<Figures>> {
    let mut program = Program::load();
    program.serve(&TestVhost::ours());
    let held: Vec<IpAddr> = (100..100 + VIPS).map(|last| address(family, last)).collect();
    for vip in &held {
        program.hold(AddressKey::new(IFINDEX, address_bytes(*vip)), Held::new(row_of(family), [OWN, VIRTUAL]));
    }
    let (vip, own, client) = (held[7], source_of(family), address(family, 9));
    let arriving = |to| ip(family, OWN, [2; 6], client, to);
    let leaving = |from| ip(family, [2; 6], OWN, from, client);
    let other = {
        let mut frame = arriving(own);
        frame[12..14].copy_from_slice(&[0x88, 0xcc]);
        frame
    };
    // When a lease is over, frames to and from the VIP are dropped, and no others.
    let row = row_of(family);
    program.set_lease(row, Deadline::CUT);
    let passes = (XdpAction::Pass, vec![]);
    for frame in [&other, &arriving(own)] {
        ensure!(program.judge(frame) == passes, "{family:?}: the fence looks at what has nothing to do with a VIP");
    }
    let is_fenced = program.judge(&arriving(vip)) == (XdpAction::Drop, vec![(row, Reason::FencedIn)]);
    ensure!(is_fenced, "{family:?}: the fence does not look at what is for the VIP");
    let may_leave = [&other, &leaving(own), &leaving(vip)].map(|frame| program.may_leave(frame));
    ensure!(may_leave == [true, true, false], "{family:?}: the egress program lets leave: {may_leave:?}");
    program.set_lease(row, Deadline::serving(u64::MAX));
    ensure!(program.judge(&arriving(vip)) == passes, "{family:?}: a frame for a VIP that is served is dropped");
    ensure!(program.may_leave(&leaving(vip)), "{family:?}: a frame from a VIP that is served is dropped");
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
            let figure = Figures::new(case, goal, warm(samples, |repeat| run(&program, frame, repeat).1));
            if more.is_none() {
                floor = u32::try_from(figure.median_ns).expect("a short time");
            }
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// Runs the program over a frame many times, as for a sample: it must count all of them for these reasons, and none for
/// others; of a flood of seals, some in a millisecond are looked at all the same.
fn ensure_counted(program: &Program, what: &str, frame: &[u8], reasons: &[Reason]) -> Result<()> {
    // For the first time, it is no repeat.
    program.run(frame);
    let before = program.counts();
    program.run_repeatedly(frame, REPEAT);
    let more = |(counter, count)| (counter, count - before.get(&counter).copied().unwrap_or(0));
    let counted: Vec<_> = program.counts().into_iter().map(more).filter(|(_, count)| *count > 0).collect();
    let few = if reasons == [Reason::Flood] { u64::from(REPEAT / 4) } else { 0 };
    let many = counted.iter().filter(|(_, count)| *count > few).map(|((_, reason), count)| (*reason, *count));
    let are_meant = many.clone().map(|(reason, _)| reason).eq(reasons.iter().copied());
    let are_all = many.map(|(_, count)| count).all(|count| count + few >= u64::from(REPEAT));
    ensure!(are_meant && are_all, "{what}: of {REPEAT} frames, {counted:?} are counted, and not {reasons:?}");
    Ok(())
}

/// An address in the network of the VIPs.
fn address(family: Family, last: u8) -> IpAddr {
    match family {
        V4 => [10, 77, 0, last].into(),
        V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, last.into()).into(),
    }
}

/// Mean nanoseconds of many runs, many times.
fn warm(samples: usize, run: impl Fn(u32) -> Duration) -> Vec<i64> {
    run(REPEAT);
    (0..samples).map(|_| run(REPEAT).as_nanos() as i64).collect()
}

fn nanos(program: &Program, frame: &[u8], repeat: u32) -> i64 {
    program.run_repeatedly(frame, repeat).1.as_nanos() as i64
}

/// From 12 IPv4 VIPs on, the inner hash has two blocks left.
fn twelve_vips() -> Vec<IpAddr> {
    (100..112).map(|last| IpAddr::from([10, 77, 0, last])).collect()
}
