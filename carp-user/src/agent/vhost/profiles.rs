//! Whether a peer speaks of its demotion in another way than this host. What it says of its own tells; while nobody is
//! demoted, both sound alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use carp_common::engine::{HeardAdvert, Profile};
use log::warn;

/// As many peers, by their sources, are remembered: a warning for each, and no more.
const REMEMBERED: usize = 16;

/// What has been heard of the peers.
#[derive(Default)]
pub(super) struct Profiles {
    /// The last advert of each source, and what was wrong with it: a peer with both families has two, in turn.
    peers: BTreeMap<IpAddr, (HeardAdvert, Option<String>)>,
    /// Who was heard last.
    last: Option<IpAddr>,
    /// Of whom the log knows.
    told: BTreeSet<IpAddr>,
}

impl Profiles {
    /// An advert has been heard by a virtual host of this name.
    pub(super) fn hear(&mut self, advert: &HeardAdvert, own: Profile, name: &str) {
        let is_raised = |advert: &HeardAdvert| advert.advskew == Profile::MAX_DEMOTED && advert.demote == 0;
        let source = advert.source;
        let before = self.peers.remove(&source);
        let wrong = match own {
            // FreeBSD's never is anything but 0.
            Profile::FreeBsd => (advert.demote != 0).then(|| {
                let told = format!("{source} is demoted by {} in OpenBSD's way", advert.demote);
                format!("{told}, which profile = \"freebsd\" does not look at: take the same profile on all servers")
            }),
            // The one value that is not likely to be anybody's setting, when it was another one before.
            Profile::OpenBsd if !is_raised(advert) => None,
            Profile::OpenBsd => match before {
                Some((before, wrong)) if is_raised(&before) => wrong,
                Some((before, _)) if before.advskew < Profile::MAX_DEMOTED => Some(format!(
                    "{source} has raised its advskew from {} to {}, as FreeBSD, NetBSD and ucarp do when they are \
                     demoted, and these do not look at our demotion counter: profile = \"freebsd\" is for groups with \
                     them",
                    before.advskew, advert.advskew
                )),
                Some(_) | None => None,
            },
        };
        if let Some(wrong) = &wrong
            && self.told.len() < REMEMBERED
            && self.told.insert(source)
        {
            warn!("{name}: {wrong}");
        }
        self.make_room();
        self.peers.insert(source, (*advert, wrong));
        self.last = Some(source);
    }

    /// Forgets whoever has been silent for the longest time if there are too many.
    fn make_room(&mut self) {
        if self.peers.len() < REMEMBERED {
            return;
        }
        let silent = self.peers.values().map(|(advert, _)| advert).min_by_key(|advert| advert.arrival);
        if let Some(silent) = silent.map(|advert| advert.source) {
            self.peers.remove(&silent);
        }
    }

    /// What is wrong with the peer that was heard last, in words.
    pub(super) fn wrong(&self) -> Option<&str> {
        self.peers.get(&self.last?)?.1.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use carp_common::{abi::Family, time::Time};

    use super::*;

    /// Hosts, advskews and demote bytes of adverts in turn, and what is wrong after each, in a word.
    fn heard(own: Profile, adverts: &[(u8, u8, u8)]) -> Vec<&'static str> {
        let mut profiles = Profiles::default();
        let hear = |(host, advskew, demote): &(u8, u8, u8)| {
            let source = IpAddr::from([10, 0, 0, *host]);
            let (advbase, arrival) = (1, Time::from_nanos(0));
            let (advskew, demote) = (*advskew, *demote);
            profiles.hear(&HeardAdvert { family: Family::V4, source, advbase, advskew, demote, arrival }, own, "x");
            match profiles.wrong() {
                Some(wrong) if wrong.contains("raised") => "raised",
                Some(wrong) if wrong.contains("OpenBSD's way") => "byte",
                Some(_) => "?",
                None => "-",
            }
        };
        adverts.iter().map(hear).collect()
    }

    #[test]
    fn freebsds_profile_is_told_of_demote_bytes_as_long_as_they_come() {
        let adverts = [(1, 0, 0), (1, 100, 0), (1, 0, 1), (1, 0, 240), (1, 240, 0), (1, 0, 0)];
        assert_eq!(heard(Profile::FreeBsd, &adverts), ["-", "-", "byte", "byte", "-", "-"]);
    }

    #[test]
    fn openbsds_profile_is_told_of_a_skew_that_is_raised_to_240_as_long_as_it_is() {
        let raised = [(1, 0, 0), (1, 240, 0), (1, 240, 0), (1, 0, 0), (1, 100, 0), (1, 254, 0)];
        assert_eq!(heard(Profile::OpenBsd, &raised), ["-", "raised", "raised", "-", "-", "-"]);
        assert_eq!(heard(Profile::OpenBsd, &[(1, 240, 0), (1, 240, 0)]), ["-", "-"], "it may be set to that");
        assert_eq!(heard(Profile::OpenBsd, &[(1, 0, 0), (2, 240, 0)]), ["-", "-"], "another host");
        assert_eq!(heard(Profile::OpenBsd, &[(1, 0, 0), (1, 240, 240)]), ["-", "-"], "demoted in our way, too");
        assert_eq!(heard(Profile::OpenBsd, &[(1, 254, 0), (1, 240, 0)]), ["-", "-"], "better than before");
    }

    #[test]
    fn a_skew_that_is_raised_is_told_although_another_source_is_heard_in_between() {
        let in_turn = [(1, 0, 0), (2, 0, 0), (1, 240, 0), (2, 240, 0), (1, 240, 0), (2, 0, 0), (1, 240, 0)];
        assert_eq!(heard(Profile::OpenBsd, &in_turn), ["-", "-", "raised", "raised", "raised", "-", "raised"]);
    }

    #[test]
    fn of_each_peer_the_log_is_told_once() {
        let mut profiles = Profiles::default();
        for host in (0..=255u8).chain(0..=255) {
            let source = IpAddr::from([10, 0, 0, host]);
            let advert = HeardAdvert {
                family: Family::V4,
                source,
                advbase: 1,
                advskew: 0,
                demote: 1,
                arrival: Time::from_nanos(0),
            };
            profiles.hear(&advert, Profile::FreeBsd, "x");
            assert!(profiles.wrong().is_some() && profiles.peers.len() <= REMEMBERED);
        }
        assert_eq!(profiles.told.len(), REMEMBERED);
    }
}
