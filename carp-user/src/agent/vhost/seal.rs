//! Seals: what is known of those of others, and with which key the own ones are made.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use carp_common::{
    abi::{Heard, SealCheck, SourceKey},
    engine::{HeardAdvert, Input, State},
    reason::Reason,
    seal::Apart,
    time::Time,
};
use log::{info, warn};

use super::VirtualHost;
use crate::{
    clock::wall_ahead,
    config::seal::{Freshness, Key, Mode},
    control::protocol,
    net::seal::silence,
};

/// As many sources are remembered, and told of, as of peers with another profile.
const REMEMBERED: usize = 16;
/// How long nothing more is said of one.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// Own sequences that are further from the wall clock are told.
const NEAR: Duration = Duration::from_secs(1);

/// What is known of the seals of others.
#[derive(Default)]
pub(super) struct Seals {
    /// The key that each source used last, or what was wrong with its seal, and when.
    peers: BTreeMap<IpAddr, (Result<u8, Reason>, Time)>,
    /// What the log was told of these last: whether they are well sealed, and when.
    told: BTreeMap<IpAddr, (bool, Time)>,
    /// Whose clocks are apart.
    apart: BTreeMap<IpAddr, PeerClock>,
    /// The key that own adverts are sealed with, if an administrator has chosen another than is configured.
    chosen: Option<u8>,
    /// MASTER: another one that was heard last.
    rival: Option<Rival>,
}

/// A master beside this one.
struct Rival {
    source: IpAddr,
    /// Since when, and when last.
    heard: [Time; 2],
}

/// A clock that is set to another time than ours.
struct PeerClock {
    /// By how many nanoseconds it is ahead.
    ahead: i64,
    /// When that was last seen.
    seen: Time,
    /// Whether the source was believed before.
    was_believed: bool,
}

impl VirtualHost {
    /// Takes note of how an advert is sealed.
    pub(super) fn hear_seal(&mut self, advert: &HeardAdvert, heard: Heard) {
        if self.settings.seal.mode.check() == SealCheck::Off {
            return;
        }
        let (source, arrival) = (advert.source, advert.arrival);
        let Seals { peers, told, apart, .. } = &mut self.seals;
        let seal = heard.objection().map_or(Ok(heard.key_id()), Err);
        let was_well = peers.get(&source).is_some_and(|(seal, _)| seal.is_ok());
        if was_well && matches!(seal, Err(Reason::Replayed | Reason::Stale)) {
            // Who repeats an advert says nothing of its sender.
            return;
        }
        make_room(peers, &source, |(_, heard)| *heard);
        peers.insert(source, (seal, arrival));
        let last = told.get(&source).copied();
        match seal {
            Ok(key_id) => {
                apart.remove(&source);
                if let Some((false, at)) = last {
                    told.insert(source, (true, at));
                    info!("{}: the adverts of {source} are sealed now, with key {key_id}", self.name);
                }
            }
            Err(reason) if last.is_none_or(|(was_well, at)| was_well && arrival.since(at) > TOLD_AGAIN) => {
                // Sources can be made up: no more lines than these in that time.
                if told.len() >= REMEMBERED {
                    told.retain(|_, (_, at)| arrival.since(*at) <= TOLD_AGAIN);
                }
                if last.is_some() || told.len() < REMEMBERED {
                    told.insert(source, (false, arrival));
                    let why = not_sealed(reason);
                    warn!("{}: {source}: {why}: with seal = \"enforce\" it would not be heard", self.name);
                }
            }
            Err(_) => {}
        }
    }

    /// Takes note of a master that is heard beside this one. Who hears this one yields within an interval; who goes on does
    /// not believe what it hears, perhaps, and then sequences begin anew. (Those who did believe may not for a window: so
    /// not because of somebody who has only just come.)
    pub(super) fn hear_rival(&mut self, rival: &HeardAdvert) {
        let HeardAdvert { source, arrival, .. } = *rival;
        if rival.is_bow_out() {
            self.seals.rival = None;
            return;
        }
        let interval = self.engine.interval();
        let next = interval.max(rival.interval()) * 2;
        let goes_on = |known: &Rival| known.source == source && arrival.since(known.heard[1]) <= next;
        let since = self.seals.rival.take().filter(goes_on).map_or(arrival, |known| known.heard[0]);
        self.seals.rival = Some(Rival { source, heard: [since, arrival] });
        if arrival.since(since) >= interval * 3 / 2 {
            self.adverts.renew_sequences(self.settings.seal_window());
        }
    }

    /// Takes note of a source that has the key, and was not believed for the time that its clock is set to. At the first
    /// contact, whoever has just started is patient for some seconds.
    pub(in crate::agent) fn note_apart(&mut self, source: SourceKey, apart: Apart, was_believed: bool) {
        let address = source.source();
        let is_own = self.entered.as_ref().is_some_and(|entered| entered.sources.contains(&address));
        let seen = Time::from_nanos(apart.arrival);
        if is_own || seen < self.engine.listens_since() {
            return;
        }
        let is_told = self.apart_now(seen).any(|(told, _)| *told == address);
        make_room(&mut self.seals.apart, &address, |clock| clock.seen);
        let clock = PeerClock { ahead: apart.ahead, seen, was_believed };
        let what = self.apart_trouble(address, &clock, seen);
        self.seals.apart.insert(address, clock);
        if !was_believed && self.settings.seal.mode == Mode::Enforce {
            self.handle(Input::Doubtful(seen));
        }
        if !is_told {
            warn!("{}: {what}", self.name);
        }
    }

    /// The key that an administrator has chosen, if it was one.
    pub(in crate::agent) const fn chosen_key(&self) -> Option<u8> {
        self.seals.chosen
    }

    /// Seals with another one of its keys until its settings change; `false` if it has none with this id.
    pub(in crate::agent) fn seal_with(&mut self, id: u8) -> bool {
        let Some(key) = self.settings.seal.key(id) else { return false };
        self.adverts.seal_with(Some(key));
        self.seals.chosen = Some(id);
        info!("{}: adverts are sealed with key {id}", self.name);
        true
    }

    /// Goes on as configured; what was heard may be judged in another way from now on.
    pub(super) fn seal_as_configured(&mut self, has_changed: bool) {
        self.adverts.seal_with(self.settings.seal.sending());
        self.seals.chosen = None;
        if has_changed {
            self.seals = Seals::default();
        }
    }

    /// What it does about seals.
    pub(super) fn seal_status(&self, now: Time) -> protocol::Seal {
        let seal = &self.settings.seal;
        let peers = self.seals.peers.iter().map(|(address, (seal, _))| protocol::SealedPeer {
            address: *address,
            key: seal.ok(),
            why: seal.err().map(|reason| reason.name().to_owned()),
        });
        let apart = self.apart_now(now).map(|(address, clock)| protocol::PeerClock {
            address: *address,
            ahead_seconds: clock.ahead as f64 / 1e9,
            was_believed: clock.was_believed,
        });
        protocol::Seal {
            mode: seal.mode.name().to_owned(),
            keys: seal.keys.iter().map(|key| key.id).collect(),
            sends_with: self.seals.chosen.or_else(|| seal.sending().map(|key: &Key| key.id)),
            peers: peers.collect(),
            apart: apart.collect(),
        }
    }

    /// What is wrong with the clocks of others, in words, where that matters.
    pub(super) fn seal_troubles(&self, now: Time) -> Vec<String> {
        if self.settings.seal.mode == Mode::Enforce { self.clock_troubles(now) } else { vec![] }
    }

    fn clock_troubles(&self, now: Time) -> Vec<String> {
        self.apart_now(now).map(|(address, clock)| self.apart_trouble(*address, clock, now)).collect()
    }

    /// What the administrator should know besides.
    pub(super) fn seal_hints(&self, now: Time) -> Vec<String> {
        let mut hints = vec![];
        if self.settings.seal.mode == Mode::Permissive {
            hints.extend(self.clock_troubles(now));
            let wrong = self.seals.peers.iter().filter_map(|(peer, (seal, _))| Some((peer, seal.err()?)));
            let wrong: Vec<_> = wrong.map(|(peer, reason)| format!("{peer} ({})", not_sealed(reason))).collect();
            hints.push(if wrong.is_empty() {
                "seal: permissive, which protects nothing yet: \"enforce\" once every server has been master and was heard \
                 sealed"
                    .to_owned()
            } else {
                format!("seal: not yet for \"enforce\": {}", wrong.join(", "))
            });
        }
        if let (State::Master, Freshness::Clock, Some(ahead)) =
            (self.engine.status().state, self.settings.seal.freshness, self.adverts.sequences_ahead())
        {
            let ahead = ahead.wrapping_sub(wall_ahead()) as i64;
            if self.settings.seal.mode != Mode::Off && ahead.unsigned_abs() > NEAR.as_nanos() as u64 {
                // It has to rise all the same.
                let window = Duration::from_nanos(self.settings.seal_window());
                let silence = silence(window).max(Duration::from_nanos(ahead.max(0).unsigned_abs()));
                hints.push(format!(
                    "its sealed adverts go by a clock that is {} of this one, which was set since: a server that starts now may \
                     not believe them; who was BACKUP for {} s begins anew (carpctl maintenance on, and off)",
                    apart_by(ahead),
                    silence.as_secs() + 1
                ));
            }
        }
        hints
    }

    /// Those that were seen in the last while.
    fn apart_now(&self, now: Time) -> impl Iterator<Item = (&IpAddr, &PeerClock)> {
        let lasts = self.engine.dead_time() * 2;
        self.seals.apart.iter().filter(move |(_, clock)| now.since(clock.seen) <= lasts)
    }

    fn apart_trouble(&self, address: IpAddr, clock: &PeerClock, now: Time) -> String {
        let status = self.engine.status();
        let doubt = self.engine.doubt_until().map(|until| until.since(now)).filter(|left| !left.is_zero());
        let believed = if self.settings.seal.mode == Mode::Enforce { "are not" } else { "would not be" };
        let until_then = match (self.settings.seal.mode, status.state, doubt) {
            (Mode::Enforce, State::Backup, Some(left)) if !clock.was_believed => format!(
                "; this server stays BACKUP for another {:.0} s at most, and then takes the VIPs, also beside one that has them",
                left.as_secs_f64().ceil()
            ),
            (Mode::Enforce, State::Master, _) => "; both may be MASTER".to_owned(),
            _ => String::new(),
        };
        format!(
            "peer clock is {}: {address}, whose sealed adverts {believed} believed{until_then}: set the clocks of both \
             (chronyc tracking); without any, freshness = \"rising\"",
            apart_by(clock.ahead)
        )
    }
}

/// Forgets whoever was heard longest ago if there are too many besides this one.
fn make_room<T>(known: &mut BTreeMap<IpAddr, T>, source: &IpAddr, heard: impl Fn(&T) -> Time) {
    if known.len() < REMEMBERED || known.contains_key(source) {
        return;
    }
    let silent = known.iter().min_by_key(|(_, one)| heard(one)).map(|(source, _)| *source);
    silent.and_then(|silent| known.remove(&silent));
}

/// "41 s ahead".
fn apart_by(ahead: i64) -> String {
    let seconds = Duration::from_nanos(ahead.unsigned_abs()).as_secs_f64();
    format!("{seconds:.0} s {}", if ahead < 0 { "behind" } else { "ahead" })
}

/// What is wrong with a seal that need not be right yet.
const fn not_sealed(reason: Reason) -> &'static str {
    match reason {
        Reason::Unsealed => "its adverts are not sealed",
        Reason::UnknownKey => "its adverts are sealed with a key that is not among seal_keys",
        Reason::BadSeal => "its adverts are sealed with another key of the same id",
        Reason::Replayed => "the sequence of its adverts does not rise",
        Reason::Stale => "its adverts are of another time: its clock, or this one",
        _ => "its seal is wrong",
    }
}
