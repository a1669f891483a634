//! What is to happen: hosts, a network, and faults one after the other, as a seed decides.

use core::fmt;
use std::vec::Vec;

use proptest::{prelude::*, sample::select};

use crate::engine::tests::*;

/// By how much a clock may be wrong: two of them differ by 1 % at most.
const DRIFT: i32 = 4_900;

/// A host as it is planned.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) config: Config,
    /// In millionths.
    pub(super) drift: i32,
    pub(super) is_fenced: bool,
    /// After so long it starts.
    pub(super) start: Duration,
}

/// What the network does to adverts while it is not whole.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    /// Of 256 adverts, so many are lost, and so many come twice.
    pub(super) lost: u8,
    pub(super) doubled: u8,
    /// How much longer than usual an advert may take.
    pub(super) jitter: Duration,
    /// What decides which.
    pub(super) seed: u64,
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The hosts whose bits are set, and the others, no longer hear each other.
    Split(u8),
    /// One host is no longer heard by another.
    Deafen(usize, usize),
    /// All hear each other again.
    Heal,
    /// An agent hangs.
    Hang(usize, Duration),
    /// An agent is killed, and another one started later.
    Kill(usize, Duration),
    /// A host dies, and boots later.
    PowerOff(usize, Duration),
    /// An agent is asked to stop, and started again later.
    Stop(usize, Duration),
    /// A cable is pulled.
    Unplug(usize, Duration),
    /// Adverts cannot be sent.
    Mute(usize, Duration),
    /// `carpctl demote`, and back.
    Demote(usize, u8),
    /// Its maintenance begins or ends.
    Maintenance(usize, bool),
    /// SIGUSR2
    StepDown(usize),
    /// What is tracked demotes it, and its group.
    Track(usize, u8, u8),
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) hosts: Vec<Host>,
    pub(super) weather: Weather,
    /// How long an advert takes at most when the network is whole, and how long the VIPs take.
    pub(super) delay: Duration,
    pub(super) vip_span: Duration,
    /// Each after so long.
    pub(super) faults: Vec<(Duration, Fault)>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Host { config, drift, is_fenced, start }) in self.hosts.iter().enumerate() {
            let Config { advbase, advskew, preempt, preempt_delay, families, profile, .. } = config;
            write!(f, "host {at}: advbase {}, advskew {}, {profile:?}, {families:?}", advbase.get(), advskew.get())?;
            write!(f, ", preempt {preempt} after {preempt_delay:?}, fenced {is_fenced}, clock {drift} ppm")?;
            writeln!(f, ", starts after {start:?}")?;
        }
        writeln!(f, "{:?}, delay {:?}, VIPs take {:?}", self.weather, self.delay, self.vip_span)?;
        self.faults.iter().try_for_each(|(after, fault)| writeln!(f, "after {after:?}: {fault:?}"))
    }
}

/// How the settings of a group go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// The same advbase.
    Alike,
    /// advbase 1 and 2: everybody is patient enough for everybody.
    Mixed,
    /// advbase 0, and none more than twice as slow as another.
    Fast,
    /// Any advbase. Only while nobody is demoted: a demoted host that is less patient than a master is slow becomes MASTER again
    /// and again, on the BSDs as here.
    Wide,
}

/// A plan with up to so many faults.
pub(super) fn plans(most_faults: usize) -> impl Strategy<Value = Plan> {
    let group = select(std::vec![Group::Alike, Group::Alike, Group::Mixed, Group::Fast, Group::Wide]);
    let group = (group, 2..=8usize, any::<bool>(), any::<bool>(), 1..=3u8, 8..=60u8, 0..3u8);
    group.prop_flat_map(move |(group, hosts, is_freebsd, has_both, advbase, advskew, doubles)| {
        let settings = Settings { group, is_freebsd, has_both, advbase, advskew, doubles };
        let host = host(settings);
        let scale =
            if group == Group::Fast { span(0, 3 * u64::from(advskew)) } else { span(u64::from(advbase) * 3, 0) };
        let delay = if group == Group::Fast { 50..=200u64 } else { 0..=3_000 };
        (
            prop::collection::vec(host, hosts),
            weather(scale),
            delay.prop_map(Duration::from_micros),
            (0..=2_000u64).prop_map(Duration::from_micros),
            prop::collection::vec((spans(scale), fault(group, hosts, scale)), 0..=most_faults),
        )
            .prop_map(|(mut hosts, weather, delay, vip_span, faults)| {
                for (number, host) in hosts.iter_mut().enumerate() {
                    host.config.source = IpAddr::from([10, 77, 0, 1 + number as u8]);
                }
                Plan { hosts, weather, delay, vip_span, faults }
            })
    })
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    group: Group,
    is_freebsd: bool,
    has_both: bool,
    advbase: u8,
    advskew: u8,
    /// Whether many have the same advskew.
    doubles: u8,
}

fn host(settings: Settings) -> impl Strategy<Value = Host> {
    let Settings { group, is_freebsd, has_both, advbase, advskew, doubles } = settings;
    let advbase = match group {
        Group::Alike => Just(advbase).boxed(),
        Group::Mixed => (1..=2u8).boxed(),
        Group::Fast => Just(0).boxed(),
        Group::Wide => select(std::vec![0u8, 1, 3, 10]).boxed(),
    };
    let range = match group {
        Group::Alike => 0..=254u8,
        Group::Mixed => 0..=200,
        Group::Fast => advskew..=2 * advskew,
        Group::Wide => 8..=254,
    };
    let (low, high) = (*range.start(), *range.end());
    let advskew = match doubles {
        0 => range.boxed(),
        1 => select(std::vec![low, high]).boxed(),
        _ => Just(low).boxed(),
    };
    let least = low;
    let delay = prop_oneof![3 => Just(0u64), 1 => 0..5_000u64].prop_map(Duration::from_millis);
    let start = prop_oneof![Just(0u64), 0..4_000u64, 0..8_000_000u64].prop_map(Duration::from_micros);
    (advbase, advskew, any::<bool>(), delay, -DRIFT..=DRIFT, prop::bool::weighted(0.8), start).prop_map(
        move |(advbase, advskew, preempt, preempt_delay, drift, is_fenced, start)| {
            let config = Config {
                preempt,
                preempt_delay,
                families: if has_both { BOTH } else { &BOTH[..1] },
                profile: if is_freebsd { Profile::FreeBsd } else { Profile::OpenBsd },
                peer_advskew: (group == Group::Fast).then(|| Advskew::new(least).unwrap()),
                ..config(advbase, advskew)
            };
            Host { config, drift, is_fenced, start }
        },
    )
}

fn weather(scale: Duration) -> impl Strategy<Value = Weather> {
    let scale = scale.as_micros() as u64;
    let rare = || prop_oneof![2 => Just(0u8), 1 => any::<u8>()];
    let jitter = prop_oneof![2 => Just(0u64), 1 => 0..=scale];
    (rare(), rare(), jitter, any::<u64>()).prop_map(|(lost, doubled, jitter, seed)| Weather {
        lost,
        doubled,
        jitter: Duration::from_micros(jitter),
        seed,
    })
}

/// Up to some dead times, but often less.
fn spans(scale: Duration) -> impl Strategy<Value = Duration> {
    let scale = scale.as_micros() as u64;
    prop_oneof![0..scale / 100, 0..scale, 0..3 * scale].prop_map(Duration::from_micros)
}

fn fault(group: Group, hosts: usize, scale: Duration) -> impl Strategy<Value = Fault> {
    let lasting = move || (0..hosts, spans(scale));
    let network = prop_oneof![
        2 => any::<u8>().prop_map(Fault::Split),
        1 => (0..hosts, 0..hosts).prop_map(|(from, to)| Fault::Deafen(from, to)),
        2 => Just(Fault::Heal),
    ];
    let host = prop_oneof![
        3 => lasting().prop_map(|(at, span)| Fault::Hang(at, span)),
        2 => lasting().prop_map(|(at, span)| Fault::Kill(at, span)),
        2 => lasting().prop_map(|(at, span)| Fault::PowerOff(at, span)),
        1 => lasting().prop_map(|(at, span)| Fault::Stop(at, span)),
        2 => lasting().prop_map(|(at, span)| Fault::Unplug(at, span)),
        1 => (0..hosts).prop_map(Fault::StepDown),
    ];
    let demotions = || prop_oneof![2 => Just(0u8), 2 => Just(1), 1 => any::<u8>()];
    let demotion = prop_oneof![
        1 => lasting().prop_map(|(at, span)| Fault::Mute(at, span)),
        1 => (0..hosts, demotions()).prop_map(|(at, by)| Fault::Demote(at, by)),
        1 => (0..hosts, any::<bool>()).prop_map(|(at, on)| Fault::Maintenance(at, on)),
        2 => (0..hosts, demotions(), demotions()).prop_map(|(at, own, group)| Fault::Track(at, own, group)),
    ];
    let demotes = if group == Group::Wide { 0 } else { 4 };
    proptest::strategy::Union::new_weighted(std::vec![
        (3, network.boxed()),
        (6, host.boxed()),
        (demotes.max(1), if demotes > 0 { demotion.boxed() } else { Just(Fault::Heal).boxed() }),
    ])
}
