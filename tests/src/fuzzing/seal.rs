//! Sealed adverts, and somebody without the key who hears them all, keeps any back, and sends what he likes.

use std::collections::HashMap;
use std::net::IpAddr;

use arbitrary::{Result, Unstructured};
use carp_common::abi::{Family, Policy, SealCheck, SealId, Sent, SourceKey, Vhost, VhostKey};
use carp_common::digest::{DigestKey, Passphrase, Scratch};
use carp_common::seal::{Clocks, Head, SealKey, SealMemory, Secret};
use carp_common::verdict::{Tables, Verdict, judge};
use carp_common::wire::{AdvertFrame, Destination, GROUP_V4, GROUP_V6, virtual_mac};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::adverts::Election;
use crate::models::wire::{checksum, signed};

const IFINDEX: u32 = 3;
const VHID: u8 = 7;
/// Which the attacker knows, too: all that the digest covers.
const PASSPHRASE: &str = "secret";
const VIP: [u8; 4] = [10, 77, 0, 100];
/// What he does not know, and its id.
const KEY: &[u8] = b"sixteen bytes or more";
const KEY_ID: u8 = 3;
/// What he has instead.
const OTHER_KEY: &[u8] = b"another sixteen bytes or more";

const MILLISECOND: u64 = 1_000_000;
const WINDOW: u64 = 5_000 * MILLISECOND;
/// How much larger than the time a sequence may be, for several adverts at once.
const AT_ONCE: u64 = MILLISECOND;
/// The clocks when it begins.
const START: Clocks = Clocks { boot: 3_600_000 * MILLISECOND, wall: 1_800_000_000_000 * MILLISECOND };

/// Plays what an input says: adverts of three senders, what is made of them, and time that passes.
pub fn seal(input: &[u8]) {
    // Where the input ends, so does all else.
    let _ = play(&mut Unstructured::new(input));
}

fn play(u: &mut Unstructured<'_>) -> Result<()> {
    let check = *u.choose(&[SealCheck::Enforce, SealCheck::Enforce, SealCheck::Permissive])?;
    let mut receiver = Receiver::new(check, *u.choose(&[WINDOW, WINDOW, 0])?);
    while !u.is_empty() {
        match u.int_in_range(0..=7)? {
            0 => receiver.advert(u)?,
            1 => receiver.now += u64::from(u.arbitrary::<u16>()?) * MILLISECOND,
            2 => {
                let frame = receiver.any(u)?.frame.clone();
                receiver.hear(&frame);
            }
            3 => {
                let frame = altered(receiver.any(u)?.frame.clone(), u)?;
                receiver.hear(&frame);
            }
            4 => {
                let [mut one, other] = [receiver.any(u)?.frame.clone(), receiver.any(u)?.frame.clone()];
                let trailer = other.len() - 28;
                one.truncate(one.len() - 28);
                receiver.hear(&[&one, &other[trailer..]].concat());
            }
            5 => receiver.forgery(u)?,
            6 => receiver.forget(),
            _ => receiver.wall_is_ahead = u.arbitrary::<i16>()?.into(),
        }
    }
    Ok(())
}

/// Other bytes, and perhaps the right checksums for them.
fn altered(mut frame: Vec<u8>, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    for _ in 0..u.int_in_range(1..=4)? {
        let at = u.choose_index(frame.len())?;
        frame[at] ^= u.arbitrary::<u8>()?;
    }
    if u.arbitrary()? {
        frame.truncate(frame.len() - usize::from(u.int_in_range(0..=64_u8)?));
    }
    if u.arbitrary()? {
        put_sums(&mut frame);
    }
    Ok(frame)
}

/// Puts the checksums right, of what is there.
fn put_sums(frame: &mut [u8]) {
    let is_v4 = frame.get(12..14) == Some(&[8, 0]);
    let sums: &[[usize; 3]] = if is_v4 { &[[14, 34, 10], [34, 70, 6]] } else { &[[54, 90, 6]] };
    for [from, to, at] in sums {
        let Some(bytes) = frame.get_mut(*from..*to) else { continue };
        bytes[*at..at + 2].fill(0);
        let sum = checksum(bytes);
        bytes[*at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// An advert that a sender made.
struct Genuine {
    frame: Vec<u8>,
    /// Who.
    sender: usize,
    sequence: u64,
    /// When, as [`Receiver::now`].
    sent: u64,
}

impl Genuine {
    /// Both addresses, the advert and its trailer: what nobody else can have made.
    fn is(&self, frame: &[u8]) -> bool {
        let from = if self.frame[12..14] == [8, 0] { 26 } else { 22 };
        frame.get(12..14) == Some(&self.frame[12..14]) && frame.get(from..self.frame.len()) == self.frame.get(from..)
    }
}

/// The senders.
const SENDERS: [&str; 3] = ["10.77.0.1", "10.77.0.2", "fe80::1"];

/// What is known of one.
#[derive(Clone, Copy, Default)]
struct Sender {
    /// The last sequence that it used.
    used: u64,
    /// The first one that was taken, and the last one.
    taken: Option<[u64; 2]>,
    /// Whether one was taken, perhaps, by a wall clock that was set to another time.
    by_wrong_clock: bool,
}

impl Sender {
    /// By how much its adverts may lag for good, at most: an eighth of its own time.
    fn lag(&self) -> u64 {
        self.taken.map_or(0, |[first, last]| (last - first) / 8)
    }
}

struct Receiver {
    check: SealCheck,
    window: u64,
    vhost: HashMap<VhostKey, Vhost>,
    seals: SealMemory,
    /// Nanoseconds since [`START`].
    now: u64,
    /// By how many seconds somebody has set the wall clock ahead.
    wall_is_ahead: i64,
    counter: u64,
    senders: [Sender; SENDERS.len()],
    made: Vec<Genuine>,
}

impl Receiver {
    fn new(check: SealCheck, window: u64) -> Self {
        let passphrase = Passphrase::new(PASSPHRASE.as_bytes()).expect("a good one");
        let vhost = Vhost::new(DigestKey::new(&passphrase, VHID, &[VIP.into()]), 1).sealed(check, window);
        let keys = [Family::V4, Family::V6].map(|family| VhostKey::new(IFINDEX, VHID, family));
        let mut seals = SealMemory::default();
        let secret = Secret::new(KEY).expect("a good one");
        keys.iter().for_each(|key| seals.add_key(SealId::new(*key, KEY_ID), SealKey::new(&secret)));
        Self {
            check,
            window,
            vhost: keys.map(|key| (key, vhost)).into(),
            seals,
            now: 0,
            wall_is_ahead: 0,
            counter: 0,
            senders: Default::default(),
            made: vec![],
        }
    }

    /// Makes an advert, which is heard at once, or kept back.
    fn advert(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let sender = u.choose_index(SENDERS.len())?;
        let election = Election { advbase: u.arbitrary()?, advskew: u.arbitrary()?, demote: u.arbitrary()? };
        let sequence = (START.wall + self.now).max(self.senders[sender].used + 1);
        self.senders[sender].used = sequence;
        self.counter += 1;
        let frame = sealed(sender, election, self.counter, KEY_ID, KEY, sequence);
        self.made.push(Genuine { frame: frame.clone(), sender, sequence, sent: self.now });
        if u.ratio(3, 4)? {
            // Nothing that anybody did before has this one refused: but that its adverts were kept back for very long, or where
            // nothing but a wall clock tells.
            let known = self.senders[sender];
            let is_certain = match known.taken {
                _ if self.window == 0 => true,
                None => self.wall_is_ahead == 0,
                Some(_) => !known.by_wrong_clock && known.lag() <= self.window,
            };
            assert!(self.hear(&frame) || !is_certain, "a genuine advert is refused");
        }
        Ok(())
    }

    /// Anything that knows the passphrase and not the key: with a seal of another key, or none.
    fn forgery(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let sender = u.choose_index(SENDERS.len())?;
        let election = Election { advbase: u.arbitrary()?, advskew: u.arbitrary()?, demote: u.arbitrary()? };
        let sequence = (START.wall + self.now).wrapping_add_signed(u.arbitrary::<i32>()?.into());
        let key_id = *u.choose(&[KEY_ID, 1])?;
        let mut frame = sealed(sender, election, u.arbitrary()?, key_id, OTHER_KEY, sequence);
        if u.arbitrary()? {
            let (len_at, len) = if frame[12..14] == [8, 0] { (17, 56) } else { (19, 36) };
            frame.truncate(frame.len() - 28);
            frame[len_at] = len;
            put_sums(&mut frame);
        }
        self.hear(&frame);
        Ok(())
    }

    /// One that was made so far.
    fn any(&self, u: &mut Unstructured<'_>) -> Result<&Genuine> {
        u.choose(&self.made)
    }

    /// It begins anew: what it knew of senders is gone.
    fn forget(&mut self) {
        self.seals.forget(|_| true);
        self.senders.iter_mut().for_each(|sender| *sender = Sender { used: sender.used, ..Sender::default() });
    }

    /// Whether a frame is taken for sealed; then it is a sender's, it is the first time, and it was sent within the window.
    fn hear(&mut self, frame: &[u8]) -> bool {
        let wall = (START.wall + self.now).wrapping_add_signed(self.wall_is_ahead * 1000 * MILLISECOND as i64);
        self.seals.clocks = Clocks { boot: START.boot + self.now, wall };
        let mut scratch = Scratch::default();
        let verdict = judge(frame, IFINDEX, &Tabled(&self.vhost), &self.seals, || Some(&mut scratch));
        let Verdict::Valid(_, advert) = verdict else { return false };
        if advert.key_id == 0 {
            assert!(self.check == SealCheck::Permissive && advert.objection != 0, "taken without a seal");
            return false;
        }
        let genuine = self.made.iter().find(|genuine| genuine.is(frame)).expect("only who has the key makes a seal");
        let age = self.now - genuine.sent;
        let sender = &mut self.senders[genuine.sender];
        let before = sender.taken;
        assert!(before.is_none_or(|[_, last]| last < genuine.sequence), "taken twice, or after a newer one");
        sender.by_wrong_clock |= self.wall_is_ahead != 0 && (before.is_none() || age > 0);
        sender.taken = Some([before.map_or(genuine.sequence, |[first, _]| first), genuine.sequence]);
        if self.window > 0 && !sender.by_wrong_clock {
            assert!(age <= self.window + AT_ONCE + sender.lag(), "taken {age} ns late");
        }
        true
    }
}

/// An advert with a seal, by this sender.
fn sealed(sender: usize, election: Election, counter: u64, key_id: u8, key: &[u8], sequence: u64) -> Vec<u8> {
    let source: IpAddr = SENDERS[sender].parse().expect("an address");
    let group: IpAddr = if source.is_ipv4() { GROUP_V4.into() } else { GROUP_V6.into() };
    let advert = signed(PASSPHRASE, VHID, &[VIP.into()], election, counter);
    let head = Head { key_id, sequence }.encode();
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a HMAC takes a key of any length");
    for address in [source, group] {
        mac.update(&carp_common::abi::address_bytes(address));
    }
    mac.update(&advert);
    mac.update(&head);
    let mut trailer = [0; 28];
    trailer[..12].copy_from_slice(&head);
    trailer[12..].copy_from_slice(&mac.finalize().into_bytes()[..16]);
    let frame = AdvertFrame::sealed(&advert, &trailer, virtual_mac(VHID), source, Destination::group(group));
    frame.expect("of one family").as_bytes().to_vec()
}

/// One virtual host, whoever its peers are.
struct Tabled<'h>(&'h HashMap<VhostKey, Vhost>);

impl Tables for Tabled<'_> {
    fn vhost(&self, key: &VhostKey) -> Option<&Vhost> {
        self.0.get(key)
    }

    fn peer(&self, _: &SourceKey) -> Option<&Policy> {
        None
    }

    fn sent(&self, _: &VhostKey) -> Option<&Sent> {
        None
    }
}
