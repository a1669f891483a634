//! carpd's own part in CARP as one of the [`models`](crate::models)' peers: engine, verdict and what the XDP program
//! remembers, with everything around them that is carpd's left out.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use carp_common::abi::{Family, LastHeard, Policy, Sent, SourceKey, Vhost, VhostKey};
use carp_common::checksum;
use carp_common::digest::{DigestKey, Passphrase, Scratch};
use carp_common::engine::{
    self, Action, Advbase, AdvertFields, Advskew, Announcements, DeadRatio, Engine, HeardAdvert, Input, LinkFault,
    Profile,
};
use carp_common::seal::SealMemory;
use carp_common::time::Time;
use carp_common::verdict::{Tables, Verdict, judge};
use carp_common::wire::{ADVERT_LEN, AdvertFrame, Destination, ETHERNET_LEN, GROUP_V4, Header, IPV4_LEN, virtual_mac};

use crate::models::{Config, Output, Peer, Reason, State};

const IFINDEX: u32 = 1;
const ROW: u32 = 1;
/// By how much carpd's counter rises with each advert, at least.
const COUNTER_STEP: u64 = 1 << 16;

/// carpd with one virtual host, in IPv4.
pub struct Ours {
    config: Config,
    digest: DigestKey,
    engine: Engine,
    tables: OneHost,
    heard: HashMap<SourceKey, LastHeard>,
    counter: u64,
    demotion: i32,
    /// Whether something that is tracked demotes it, and not its administrator.
    tracks: bool,
    outputs: VecDeque<Output>,
}

/// What the verdict looks up.
struct OneHost {
    key: VhostKey,
    vhost: Vhost,
    sent: Sent,
}

impl Tables for OneHost {
    fn vhost(&self, key: &VhostKey) -> Option<&Vhost> {
        (*key == self.key).then_some(&self.vhost)
    }

    fn peer(&self, _source: &SourceKey) -> Option<&Policy> {
        None
    }

    fn sent(&self, key: &VhostKey) -> Option<&Sent> {
        (*key == self.key).then_some(&self.sent)
    }
}

impl Ours {
    /// carpd as it starts, on an interface that is ready.
    pub fn new(config: Config, now: Duration) -> Self {
        Self::with(config, Profile::OpenBsd, false, now)
    }

    /// With this profile, and demoted by what is tracked.
    pub fn tracking(config: Config, profile: Profile, now: Duration) -> Self {
        Self::with(config, profile, true, now)
    }

    fn with(config: Config, profile: Profile, tracks: bool, now: Duration) -> Self {
        let source = IpAddr::V4(config.source);
        let valid = "a model's configuration is a valid one";
        let engine = engine::Config {
            advbase: Advbase::new(config.advbase).expect(valid),
            advskew: Advskew::new(config.advskew).expect(valid),
            dead_ratio: DeadRatio::new(config.dead_ratio as u8).expect(valid),
            peer_dead_ratio: DeadRatio::new(config.dead_ratio as u8).expect(valid),
            peer_advskew: None,
            preempt: config.preempt,
            families: &[Family::V4],
            any_family: false,
            source,
            announcements: Announcements::default(),
            bow_out_last: false,
            profile,
            preempt_delay: Duration::ZERO,
            doubt: Duration::ZERO,
        };
        let passphrase = Passphrase::new(config.passphrase.as_bytes()).expect(valid);
        let digest = DigestKey::new(&passphrase, config.vhid, &config.vips);
        // As the wall clock is: nobody else's counter.
        let counter = (u64::from(config.source.octets()[3]) << 48) + now.as_nanos() as u64;
        let tables = OneHost {
            key: VhostKey::new(IFINDEX, config.vhid, Family::V4),
            vhost: Vhost::new(digest, ROW),
            sent: Sent::new(source, counter),
        };
        let mut ours = Self {
            engine: Engine::new(engine, time(now)),
            config,
            digest,
            tables,
            heard: HashMap::new(),
            counter,
            demotion: 0,
            tracks,
            outputs: VecDeque::new(),
        };
        ours.link_up(now);
        ours
    }

    fn handle(&mut self, input: Input, now: Duration) {
        self.engine.handle(input, time(now));
        self.act(now);
    }

    /// What carpd's loop does, and its helpers, at once.
    fn act(&mut self, now: Duration) {
        while let Some(action) = self.engine.poll_action() {
            let done = match action {
                Action::SendAdvert(fields) => {
                    self.send(fields);
                    Input::AdvertSent(time(now))
                }
                Action::TakeVips => Input::VipsTaken,
                Action::ReleaseVips => Input::VipsReleased,
                Action::Announce => {
                    self.outputs.extend(self.config.vips.iter().map(|vip| Output::Announcement(*vip)));
                    continue;
                }
                Action::Transition(transition) => {
                    let reason = reason(&transition.cause);
                    let (from, to) = (state(transition.from), state(transition.to));
                    self.outputs.push_back(Output::Change { from, to, reason });
                    continue;
                }
                Action::Rival(_) | Action::Demoted(_) | Action::SetLease(_) => continue,
            };
            self.engine.handle(done, time(now));
        }
    }

    fn send(&mut self, AdvertFields { advbase, advskew, demote }: AdvertFields) {
        self.counter += COUNTER_STEP;
        self.tables.sent = Sent::new(self.config.source.into(), self.counter);
        let mut digest = [0; 20];
        let words = self.digest.digest(self.counter, &mut Scratch::default());
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
        let header = Header { vhid: self.config.vhid, advskew, demote, advbase, counter: self.counter, digest };
        self.outputs.push_back(Output::Advert {
            source: self.config.source.into(),
            destination: GROUP_V4.into(),
            ttl: 255,
            payload: header.encode().to_vec(),
        });
    }

    fn hear(&mut self, source: SourceKey, last: &LastHeard, now: Duration) {
        let advert = HeardAdvert::new(source, last.heard());
        self.handle(Input::Advert(advert), now);
    }
}

impl Peer for Ours {
    fn state(&self) -> State {
        state(self.engine.status().state)
    }

    fn receive(&mut self, now: Duration, source: IpAddr, ttl: u8, payload: &[u8]) {
        let Some(frame) = frame(source, ttl, payload) else { return };
        let mut scratch = Scratch::default();
        let verdict = judge(frame.as_slice(), IFINDEX, &self.tables, &SealMemory::default(), || Some(&mut scratch));
        let Verdict::Valid(_, advert) = verdict else { return };
        let (last, wakes) = LastHeard::hear(self.heard.get(&advert.source), &advert, time(now).as_nanos());
        self.heard.insert(advert.source, last);
        if wakes {
            self.hear(advert.source, &last, now);
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        self.engine.poll_timeout().map(|due| Duration::from_nanos(due.as_nanos()))
    }

    fn expire(&mut self, now: Duration) {
        // Repeats that count stand in the last-heard map only, which is read before a silence counts.
        let known = self.engine.status().last_arrival;
        let newer: Vec<_> = self.heard.iter().filter(|(_, last)| Some(last.heard().arrival()) > known).collect();
        let newer: Vec<_> = newer.into_iter().map(|(source, last)| (*source, *last)).collect();
        newer.into_iter().for_each(|(source, last)| self.hear(source, &last, now));
        self.engine.handle_timeout(time(now));
        self.act(now);
    }

    fn link_down(&mut self, now: Duration) {
        self.handle(Input::LinkDown(LinkFault::NoCarrier), now);
    }

    fn link_up(&mut self, now: Duration) {
        self.handle(Input::LinkUp, now);
    }

    fn demote(&mut self, now: Duration, by: i32) {
        self.demotion += by;
        let own = self.demotion.clamp(0, 255) as u8;
        self.handle(if self.tracks { Input::Tracked { own, group: 0 } } else { Input::Demote(own) }, now);
    }

    fn stop(&mut self, now: Duration) {
        self.handle(Input::Shutdown, now);
    }

    fn take_outputs(&mut self) -> Vec<Output> {
        self.outputs.drain(..).collect()
    }
}

/// The Ethernet frame that brings this payload; `None` if it is not IPv4.
fn frame(source: IpAddr, ttl: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let nothing = Header { vhid: 0, advskew: 0, demote: 0, advbase: 0, counter: 0, digest: [0; 20] };
    let frame = AdvertFrame::new(&nothing, virtual_mac(1), source, Destination::group(GROUP_V4.into()))?;
    let mut frame = frame.as_bytes().to_vec();
    frame.truncate(frame.len() - ADVERT_LEN);
    let ip: &mut [u8; IPV4_LEN] = frame[ETHERNET_LEN..].first_chunk_mut()?;
    ip[2..4].copy_from_slice(&((IPV4_LEN + payload.len()) as u16).to_be_bytes());
    ip[8] = ttl;
    ip[10..12].fill(0);
    let sum = checksum::internet(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(payload);
    Some(frame)
}

fn time(now: Duration) -> Time {
    Time::from_nanos(now.as_nanos() as u64)
}

fn state(state: engine::State) -> State {
    match state {
        engine::State::Init => State::Init,
        engine::State::Backup => State::Backup,
        engine::State::Master => State::Master,
    }
}

fn reason(cause: &engine::Cause) -> Reason {
    use engine::Cause;
    match cause {
        Cause::LinkUp => Reason::Started,
        Cause::LinkDown(_) => Reason::LinkDown,
        Cause::MasterDown(_) => Reason::Silence,
        Cause::Preempt(_) => Reason::Preempts,
        Cause::DemotedMaster(_) => Reason::MasterDemoted,
        Cause::BowOut(_) | Cause::SlowMaster(_) => Reason::MasterTooSlow,
        Cause::BetterMaster(_) | Cause::EqualMaster(_) => Reason::Yields,
        Cause::StepDown | Cause::Shutdown | Cause::LeaseOver | Cause::Resumed(_) => Reason::Stopped,
    }
}
