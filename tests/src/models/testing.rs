//! What the tests of all models need.

use super::wire::{Header, TTL, signed};
use super::*;
use crate::adverts::Election;
use crate::pcap::{read_pcap, vector};

/// What the lab's real ucarp sent, as in `vectors/README.md`: vhid, passphrase and adverts.
pub(super) fn captured() -> Vec<(u8, &'static str, Vec<Vec<u8>>)> {
    let files = [
        ("v1-secret-k0.pcap", 1, "secret"),
        ("v77-k100-preempt.pcap", 77, "secret"),
        ("v255-b2-k0.pcap", 255, "secret"),
        ("v42-longpass19.pcap", 42, "1234567890123456789"),
        ("pair-v33.pcap", 33, "pair pw"),
    ];
    let captured = files.map(|(file, vhid, passphrase)| {
        let frames = read_pcap(&vector(file)).unwrap();
        let adverts: Vec<_> = frames.iter().filter(|frame| frame[12..14] == [8, 0] && frame[23] == 112).collect();
        assert!(adverts.len() >= 2, "{file}");
        let payloads = adverts.iter().map(|frame| frame[34..34 + wire::LENGTH].to_vec()).collect();
        (vhid, passphrase, payloads)
    });
    captured.to_vec()
}

/// A peer that nobody contradicts, when it is master, and when that is.
pub(super) fn become_master<P: Peer>(mut peer: P) -> (P, Duration) {
    let now = peer.next_deadline().unwrap();
    peer.expire(now);
    assert_eq!(peer.state(), State::Master);
    peer.take_outputs();
    (peer, now)
}

pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What a peer does until then, with nobody else there.
pub(super) fn run(peer: &mut dyn Peer, end: Duration) -> Vec<(Duration, Output)> {
    let mut done = vec![];
    while let Some(next) = peer.next_deadline().filter(|next| *next <= end) {
        peer.expire(next);
        done.extend(peer.take_outputs().into_iter().map(|output| (next, output)));
    }
    done
}

/// A valid advert of host 9 arrives, over IPv4.
pub(super) fn hear(peer: &mut dyn Peer, now: Duration, election: Election, counter: u64) {
    let Config { source, vhid, passphrase, vips, .. } = Config::host(9, 0);
    let advert = signed(&passphrase, vhid, &vips, election, counter);
    peer.receive(now, source.into(), TTL, &advert);
}

pub(super) fn adverts(outputs: &[(Duration, Output)]) -> Vec<(Duration, Header)> {
    let advert = |output: &Output| match output {
        Output::Advert { ttl, payload, .. } => {
            assert!(*ttl == TTL && wire::adds_up(payload) && payload.len() == wire::LENGTH);
            Header::read(payload)
        }
        Output::Announcement(_) | Output::Change { .. } | Output::Refusal(_) => None,
    };
    outputs.iter().filter_map(|(at, output)| Some((*at, advert(output)?))).collect()
}

/// The states that it enters, and why.
pub(super) fn changes(outputs: &[Output]) -> Vec<(State, Reason)> {
    let change = |output: &Output| match output {
        Output::Change { to, reason, .. } => Some((*to, *reason)),
        Output::Advert { .. } | Output::Announcement(_) | Output::Refusal(_) => None,
    };
    outputs.iter().filter_map(change).collect()
}
