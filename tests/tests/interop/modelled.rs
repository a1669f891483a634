//! The model of ucarp beside ucarp: both hear the same at the same moments, and do the same.
//!
//! When libpcap hands over what a ucarp has captured, only ucarp knows, so the model is played with every phase of that;
//! with one of them all that it does must fit.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use carp_tests::adverts::Election;
use carp_tests::models::frame::{self, Packet};
use carp_tests::models::{Config, Output, Peer, State, Ucarp as Model, wire};
use carp_tests::packet::{Arp, MacAddr};
use carp_tests::{
    BootTime, ETH0, Flood, FloodPlan, Host, Lab, PASSPHRASE, Ucarp, VHID, VIP, Wire, is_missing, send_frame,
};

use crate::at_once;

/// ucarp's own advskew, 375 ms. With one that is no whole number of milliseconds, which poll(2) counts in, a dead ratio
/// of 1 is over after one interval or after two, as fast as the machine is.
const SKEW: u8 = 96;
/// Less preferred than ucarp's 10.77.0.2, byte by byte; but its last byte is higher.
const LOWER: Ipv4Addr = Ipv4Addr::new(10, 76, 0, 3);
/// The reverse.
const HIGHER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// What the others count from, each stimulus further; far from what ucarp draws at random.
const COUNTERS: u64 = 1 << 40;
/// How much sooner than the model a ucarp may be: its log is read late, and the phases are tried in steps.
const EARLY: Duration = Duration::from_millis(250);
/// How much later: its scripts take time, and this machine is busy.
const LATE: Duration = Duration::from_millis(500);
/// How many cases are tried at once: a machine that is too busy would be late.
const AT_ONCE: usize = 8;

/// What happens on the wire, and when the next thing does.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// ucarp sends so many adverts.
    Adverts(usize),
    /// Someone sends one.
    Once(Stimulus),
    /// Someone sends one each second, so many.
    Beat(Stimulus, u32),
}

use Step::{Adverts, Beat, Once};

#[derive(Clone, Copy, Debug)]
struct Stimulus {
    source: Ipv4Addr,
    election: Election,
    ttl: u8,
    vhid: u8,
    passphrase: &'static str,
}

/// One that is valid, of a host that does not tie.
fn advert(advbase: u8, advskew: u8) -> Stimulus {
    let election = Election::new(advbase, advskew);
    Stimulus { source: HIGHER, election, ttl: 255, vhid: VHID, passphrase: PASSPHRASE }
}

#[derive(Debug)]
struct Case {
    name: &'static str,
    advskew: u8,
    preempt: bool,
    dead_ratio: u32,
    steps: Vec<Step>,
}

fn case(name: &'static str, steps: &[Step]) -> Case {
    Case { name, advskew: SKEW, preempt: false, dead_ratio: 3, steps: steps.to_vec() }
}

fn cases() -> Vec<Case> {
    let masters = |dead_ratio| move |name, steps: &[Step]| Case { dead_ratio, ..case(name, steps) };
    let master = masters(1);
    let other_host = |source| Stimulus { source, ..advert(1, SKEW) };
    let refused = [
        Stimulus { ttl: 254, ..advert(1, 0) },
        Stimulus { passphrase: "close sesame", ..advert(1, 0) },
        Stimulus { vhid: VHID + 1, ..advert(1, 0) },
        Stimulus { source: Ipv4Addr::new(10, 77, 0, 2), ..advert(1, 0) },
    ]
    .map(Once);
    vec![
        case("silence", &[Adverts(4)]),
        Case { advskew: 0, ..case("silence without a skew", &[Adverts(4)]) },
        Case { dead_ratio: 1, ..case("silence with a dead ratio of 1", &[Adverts(3)]) },
        case("a better master that dies", &[Beat(advert(1, 50), 5), Adverts(3)]),
        case("a worse master that dies", &[Beat(advert(1, 200), 3), Adverts(2)]),
        Case { preempt: true, ..case("a worse master, preempted", &[Once(advert(1, SKEW + 1)), Adverts(3)]) },
        Case { preempt: true, ..case("an equal master, not preempted", &[Beat(advert(1, SKEW), 3), Adverts(2)]) },
        case("a master that says it leaves", &[Beat(advert(1, 50), 2), Once(advert(255, 255)), Adverts(3)]),
        case("a master that is just too slow", &[Once(advert(3, SKEW + 1)), Adverts(2)]),
        case("a master that is just not too slow", &[Once(advert(3, SKEW)), Adverts(2)]),
        master("a better master is heard", &[Adverts(2), Once(advert(1, SKEW - 1)), Adverts(4)]),
        master("a worse master is heard", &[Adverts(4), Once(advert(1, SKEW + 1)), Adverts(5)]),
        master("a tie that the other wins", &[Adverts(4), Once(other_host(HIGHER)), Adverts(4)]),
        master("a tie that the other loses", &[Adverts(4), Once(other_host(LOWER)), Adverts(5)]),
        master("what is refused", &[&[Adverts(4)], &refused[..], &[Adverts(4)]].concat()),
    ]
}

#[test]
fn the_model_of_ucarp_does_what_ucarp_does() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    cases().chunks(AT_ONCE).try_for_each(|some| at_once(some, compare))
}

fn compare(case: &Case) -> Result<()> {
    let (real, heard) = observe(case)?;
    let phases = (0..1_000_000).step_by(50_000);
    let played: Vec<_> = phases.map(|phase| play(case, phase, &heard, real.end)).collect();
    let fits = played.iter().any(|model| real.fits(model));
    let name = case.name;
    ensure!(fits, "{name}: ucarp {real:#?}\n and the model in none of its phases, as in this one: {:#?}", played[0]);
    Ok(())
}

/// What someone did, since it became a backup.
#[derive(Debug, Default)]
struct Timeline {
    changes: Vec<(Duration, State)>,
    adverts: Vec<(Duration, Sent)>,
    announcements: Vec<(Duration, ())>,
    end: Duration,
}

/// An advert: its fields, and what its counter is above the stimulus before it, unless it is at random.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    election: Election,
    above: Option<u64>,
}

/// A stimulus as it was on the wire.
struct Heard {
    at: Duration,
    source: IpAddr,
    ttl: u8,
    payload: Vec<u8>,
}

/// Lets a ucarp meet the case. What it heard is read from the wire, as is what it sent.
fn observe(case: &Case) -> Result<(Timeline, Vec<Heard>)> {
    let lab = Lab::new()?;
    let [stranger, host, bystander] = lab.hosts(["stranger", "ucarp", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let Case { advskew, dead_ratio, .. } = case;
    let preempt = if case.preempt { "--preempt" } else { "" };
    let ucarp = Ucarp::start(&host, &format!("--advskew={advskew} --deadratio={dead_ratio} {preempt}"))?;
    let mut counter = COUNTERS;
    for step in &case.steps {
        match *step {
            Adverts(count) => drop(wire.wait_for_adverts(host.ip(), count)?),
            Once(stimulus) => {
                counter += 1000;
                send_frame(stranger.ns(), ETH0, &frame_of(stimulus, counter))?;
            }
            Beat(stimulus, seconds) => {
                let counters = (0..u64::from(seconds)).map(|nth| counter + 1000 * (nth + 1));
                let frames = counters.map(|counter| frame_of(stimulus, counter)).collect();
                let duration = Duration::from_secs(seconds.into()) - Duration::from_millis(500);
                Flood::start(stranger.ns(), ETH0, FloodPlan { frames, rate: Some(1), duration })?.wait()?;
                counter += 1000 * u64::from(seconds);
            }
        }
    }
    read(&ucarp, &host, &wire, BootTime::now())
}

fn read(ucarp: &Ucarp<'_>, host: &Host, wire: &Wire, end: BootTime) -> Result<(Timeline, Vec<Heard>)> {
    let changes = ucarp.changes();
    let begin = changes[0].at;
    let mut timeline = Timeline { end: end.since(begin), ..Timeline::default() };
    for change in changes {
        let state = if change.text == "MASTER" { State::Master } else { State::Backup };
        timeline.changes.push((change.at.since(begin), state));
    }
    let mut heard: Vec<Heard> = vec![];
    for frame in wire.frames().iter().filter(|frame| frame.at <= end) {
        let (at, bytes) = (frame.at.since(begin), &frame.bytes);
        if let Some(Packet { source, ttl, payload }) = frame::read(bytes) {
            let payload = payload.to_vec();
            // One of the strangers has ucarp's address too.
            if bytes[6..12] == STRANGER.0 {
                heard.push(Heard { at, source, ttl, payload });
            } else {
                timeline.adverts.push((at, Sent::read(&payload, heard.last())?));
            }
        } else if Arp::from_frame(bytes).is_some_and(|arp| is_announcement(arp, host)) {
            timeline.announcements.push((at, ()));
        }
    }
    Ok((timeline, heard))
}

/// Unlike carpd's, ucarp's has the target's MAC address filled in.
fn is_announcement(arp: Arp, host: &Host) -> bool {
    let own = Arp { target_mac: host.mac(), ..Arp::gratuitous(host.mac(), VIP) };
    arp == own
}

/// Lets the model hear the same. `phase` is in microseconds.
fn play(case: &Case, phase: u64, heard: &[Heard], end: Duration) -> Timeline {
    let Case { advskew, preempt, dead_ratio, .. } = *case;
    let config = Config { preempt, dead_ratio, seed: phase, ..Config::host(2, advskew) };
    let mut model = Model::new(config, Duration::ZERO);
    let mut timeline = Timeline { end, ..Timeline::default() };
    let mut left = heard.iter().peekable();
    let mut before = None;
    timeline.note(Duration::ZERO, &mut model, before);
    loop {
        let arrival = left.peek().map(|heard| heard.at);
        let Some(now) = arrival.into_iter().chain(model.next_deadline()).min().filter(|now| *now <= end) else {
            return timeline;
        };
        if let Some(heard) = left.next_if(|heard| heard.at <= now) {
            model.receive(now, heard.source, heard.ttl, &heard.payload);
            before = Some(heard);
        } else {
            model.expire(now);
        }
        timeline.note(now, &mut model, before);
    }
}

impl Timeline {
    fn note(&mut self, now: Duration, model: &mut Model, before: Option<&Heard>) {
        for output in model.take_outputs() {
            match output {
                Output::Advert { payload, .. } => {
                    let sent = Sent::read(&payload, before).expect("a model's advert is valid");
                    self.adverts.push((now, sent));
                }
                Output::Announcement(_) => self.announcements.push((now, ())),
                Output::Change { to, .. } => self.changes.push((now, to)),
                Output::Refusal(_) => {}
            }
        }
    }

    /// Whether a ucarp did all of this, as far as there was time.
    fn fits(&self, model: &Self) -> bool {
        fits(&self.changes, &model.changes, self.end)
            && fits(&self.adverts, &model.adverts, self.end)
            && fits(&self.announcements, &model.announcements, self.end)
    }
}

/// One for one; what the model does at the very end, or ucarp alone, may be missing there from the other.
fn fits<T: PartialEq>(real: &[(Duration, T)], model: &[(Duration, T)], end: Duration) -> bool {
    let alike = real.iter().zip(model).all(|((at, did), (should, does))| {
        let in_time = *at + EARLY >= *should && *at <= *should + LATE;
        in_time && did == does
    });
    let common = real.len().min(model.len());
    let only_real = real[common..].iter().all(|(at, _)| *at + EARLY >= end);
    let only_model = model[common..].iter().all(|(should, _)| *should + LATE >= end);
    alike && only_real && only_model
}

impl Sent {
    /// Verifies it, too.
    fn read(payload: &[u8], before: Option<&Heard>) -> Result<Self> {
        let header = wire::Header::read(payload).filter(|_| wire::adds_up(payload));
        let Some(wire::Header { vhid, advbase, advskew, demote, counter, digest, .. }) = header else {
            anyhow::bail!("not an advert: {payload:?}");
        };
        let expected = wire::digest(PASSPHRASE, VHID, &[VIP.into()], counter);
        ensure!(vhid == VHID && digest == expected, "not a valid advert: {header:?}");
        let above = before.and_then(|heard| counter.checked_sub(wire::Header::read(&heard.payload)?.counter));
        Ok(Self { election: Election { advbase, advskew, demote }, above: above.filter(|above| *above < 1000) })
    }
}

/// Where all stimuli come from.
const STRANGER: MacAddr = MacAddr([0x02, 0, 0, 0x77, 9, 9]);

fn frame_of(stimulus: Stimulus, counter: u64) -> Vec<u8> {
    let Stimulus { source, election, ttl, vhid, passphrase } = stimulus;
    let advert = wire::signed(passphrase, vhid, &[VIP.into()], election, counter);
    frame::write(STRANGER, Packet { source: source.into(), ttl, payload: &advert })
}
