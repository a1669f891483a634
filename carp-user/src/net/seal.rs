//! Sealing adverts, and the sequences that they bear.

use std::{
    fs,
    io::Read,
    net::IpAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use carp_common::{
    abi::address_bytes,
    seal::{Head, TAG_LEN, TRAILER_LEN},
    time::Time,
    wire::ADVERT_LEN,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{config::seal::Key, lock};

/// Who has sent nothing for so long can begin anew by the wall clock, where sequences may be apart from it by so much: others
/// look at theirs again, too.
pub(crate) fn silence(window: Duration) -> Duration {
    Duration::from_secs(60).max(window + Duration::from_secs(5))
}

/// Seals adverts with one key.
pub(crate) struct Sealer {
    key_id: u8,
    keyed: Hmac<Sha256>,
}

impl Sealer {
    /// With this key.
    pub(crate) fn new(key: &Key) -> Self {
        let keyed = Hmac::new_from_slice(key.secret.as_bytes()).expect("HMAC takes keys of any length");
        Self { key_id: key.id, keyed }
    }

    /// The trailer of an advert.
    pub(crate) fn trailer(
        &self,
        source: IpAddr,
        destination: IpAddr,
        advert: &[u8; ADVERT_LEN],
        sequence: u64,
    ) -> [u8; TRAILER_LEN] {
        let head = Head { key_id: self.key_id, sequence }.encode();
        let keyed = self.keyed.clone().chain_update(address_bytes(source)).chain_update(address_bytes(destination));
        let tag = keyed.chain_update(advert).chain_update(head).finalize().into_bytes();
        let mut trailer = [0; TRAILER_LEN];
        trailer[..head.len()].copy_from_slice(&head);
        trailer[head.len()..].copy_from_slice(&tag[..TAG_LEN]);
        trailer
    }
}

/// Makes sequences: the wall clock at the start, and from then on CLOCK_BOOTTIME, whatever the wall clock is set to. Each is
/// larger than the one before.
#[derive(Default)]
pub(crate) struct Sequences {
    /// By how much they are ahead of CLOCK_BOOTTIME, modulo 2^64.
    ahead: Option<u64>,
    /// None will be as small as this.
    last: u64,
    last_at: Time,
    /// Whether others seem not to believe them.
    is_doubted: bool,
}

impl Sequences {
    /// Goes on where an agent before, which is gone, would be now.
    pub(crate) const fn go_on(&mut self, ahead: u64, now: Time) {
        *self = Self { ahead: Some(ahead), last: now.as_nanos().wrapping_add(ahead), last_at: now, is_doubted: false };
    }

    /// All from now on are above this one.
    pub(crate) fn rise_above(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// The last one.
    pub(crate) const fn last(&self) -> u64 {
        self.last
    }

    /// Begins anew with the next one, if the wall clock has it rise: whoever hears them does not believe them.
    pub(crate) const fn begin_anew(&mut self) {
        self.is_doubted = true;
    }

    /// The next, if the wall clock is so far ahead of CLOCK_BOOTTIME; and whether they begin anew with it, as after such a
    /// silence.
    pub(crate) fn next(&mut self, now: Time, wall_ahead: u64, silence: Duration) -> (u64, bool) {
        let at = |ahead: u64| now.as_nanos().wrapping_add(ahead);
        let is_due = (self.is_doubted || now.since(self.last_at) > silence) && at(wall_ahead) > self.last;
        let known = self.ahead.filter(|_| !is_due);
        let ahead =
            known.unwrap_or_else(|| at(wall_ahead).max(self.last.saturating_add(1)).wrapping_sub(now.as_nanos()));
        let next = at(ahead).max(self.last.saturating_add(1));
        *self = Self { ahead: Some(ahead), last: next, last_at: now, is_doubted: false };
        (next, known.is_none())
    }

    /// By how much they are ahead of CLOCK_BOOTTIME, if there was one.
    pub(crate) const fn ahead(&self) -> Option<u64> {
        self.ahead
    }
}

/// Where it is kept by how much the sequences of a virtual host are ahead of CLOCK_BOOTTIME, for the next carpd: what the wall
/// clock is set to meanwhile must not matter. (Not over a reboot, after which CLOCK_BOOTTIME is another.)
pub(crate) fn file(interface: &str, vhid: u8) -> Result<PathBuf> {
    Ok(PathBuf::from(lock::FOLDER).join(format!("{interface}-{vhid}-{}.sequence", lock::namespace()?)))
}

/// By how much they were ahead, if there was one.
pub(crate) fn kept(file: &Path) -> Option<u64> {
    if !file.exists() {
        return None;
    }
    let mut text = String::new();
    lock::open(file).ok()?.take(256).read_to_string(&mut text).ok()?;
    let (boot, ahead) = text.trim_end().split_once(' ')?;
    ahead.parse().ok().filter(|_| boot == this_boot())
}

/// What is different after each boot. (Not every folder of this name is empty then.)
fn this_boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim_end().to_owned()
}

/// Keeps that, before it is used.
///
/// # Errors
/// It cannot be written.
pub(crate) fn keep(file: &Path, ahead: u64) -> Result<()> {
    let text = format!("{} {ahead}\n", this_boot());
    let kept = lock::open(file)?;
    let written = kept.set_len(0).and_then(|()| kept.write_all_at(text.as_bytes(), 0));
    written.with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use carp_common::wire::{AdvertFrame, Destination, ETHERNET_LEN};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_trailers_of_the_published_vectors_are_made() {
        let vectors = include_str!("../../../tests/vectors/seal.json");
        let vectors: Vec<std::collections::BTreeMap<String, serde_json::Value>> =
            serde_json::from_str(vectors).unwrap();
        assert_eq!(vectors.len(), 4);
        for vector in vectors {
            let bytes = |name: &str| {
                let digits = vector[name].as_str().unwrap().as_bytes();
                let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
                digits.as_chunks().0.iter().map(byte).collect::<Vec<_>>()
            };
            let address = |name: &str| carp_common::abi::address(bytes(name).try_into().unwrap());
            let key = Key { id: bytes("key_id")[0], secret: carp_common::seal::Secret::new(&bytes("key")).unwrap() };
            let sequence = u64::from_be_bytes(bytes("sequence").try_into().unwrap());
            let advert = bytes("advert").try_into().unwrap();
            let trailer = Sealer::new(&key).trailer(address("source"), address("destination"), &advert, sequence);
            assert_eq!(trailer, bytes("trailer")[..], "{}", vector["name"]);
            let destination = Destination { ip: address("destination"), mac: [2; 6] };
            let frame = AdvertFrame::sealed(&advert, &trailer, [2; 6], address("source"), destination).unwrap();
            assert_eq!(frame.as_bytes()[ETHERNET_LEN..], bytes("packet"), "{}", vector["name"]);
        }
    }

    const SILENCE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * SECOND)
    }

    #[test]
    fn a_sequence_begins_with_the_wall_clock_and_goes_on_with_the_boottime() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.next(at(10), 1_000 * SECOND, SILENCE).0, 1_010 * SECOND);
        // The wall clock is set, back and forth: nothing of it.
        assert_eq!(sequences.next(at(11), 0, SILENCE).0, 1_011 * SECOND);
        assert_eq!(sequences.next(at(12), 9_000 * SECOND, SILENCE).0, 1_012 * SECOND);
        // Two within the clock's resolution.
        assert_eq!(sequences.next(at(12), 9_000 * SECOND, SILENCE).0, 1_012 * SECOND + 1);
        assert_eq!(sequences.next(at(13), 0, SILENCE).0, 1_013 * SECOND);
    }

    #[test]
    fn after_a_silence_it_begins_anew_if_it_rises_by_that() {
        // What would not be above 1_011 does not count.
        for (wall_ahead, expected) in [(1_030, 1_102), (900, 1_072), (990, 1_062), (5_000, 5_072)] {
            let mut sequences = Sequences::default();
            sequences.next(at(11), 1_000 * SECOND, SILENCE);
            assert_eq!(sequences.next(at(72), wall_ahead * SECOND, SILENCE).0, expected * SECOND, "{wall_ahead}");
        }
    }

    #[test]
    fn who_is_not_believed_begins_anew_if_it_rises_by_that() {
        let mut sequences = Sequences::default();
        sequences.next(at(11), 1_000 * SECOND, SILENCE);
        sequences.begin_anew();
        assert_eq!(sequences.next(at(12), 900 * SECOND, SILENCE).0, 1_012 * SECOND);
        sequences.begin_anew();
        assert_eq!(sequences.next(at(13), 4_600 * SECOND, SILENCE), (4_613 * SECOND, true));
        assert_eq!(sequences.next(at(14), 0, SILENCE), (4_614 * SECOND, false));
    }

    #[test]
    fn after_a_crash_or_a_stop_it_goes_on_as_if_there_had_been_none() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.next(at(10), 1_000 * SECOND, SILENCE).0, 1_010 * SECOND);
        let mut next = Sequences::default();
        next.go_on(sequences.ahead().unwrap(), at(11));
        assert_eq!(next.next(at(12), 0, SILENCE).0, 1_012 * SECOND);
        // Unless it has been silent for long since, and the clock lets it rise.
        next.go_on(sequences.ahead().unwrap(), at(11));
        assert_eq!(next.next(at(100), 0, SILENCE).0, 1_100 * SECOND);
        next.go_on(sequences.ahead().unwrap(), at(11));
        assert_eq!(next.next(at(100), 950 * SECOND, SILENCE).0, 1_050 * SECOND);
    }
}
