//! Frames from the wire, which anybody can have sent.

use std::collections::HashMap;
use std::net::IpAddr;

use carp_common::abi::{AddressKey, Deadline, Family, Held, Policy, Sent, SourceKey, Vhost, VhostKey, address_bytes};
use carp_common::digest::{DigestKey, Passphrase, Scratch};
use carp_common::fence::{self, Leases};
use carp_common::reason::Reason;
use carp_common::seal::SealMemory;
use carp_common::verdict::{Tables, Verdict, judge};
use carp_common::wire::{ADVERT_LEN, Header};

use crate::models::{frame, wire as model};

const IFINDEX: u32 = 3;
/// The virtual hosts of the captures in `tests/vectors`, and one of seal.json.
const OURS: [(u8, &str); 6] =
    [(1, "secret"), (7, "secret"), (33, "pair pw"), (42, "1234567890123456789"), (77, "secret"), (255, "secret")];
/// Of all of them.
const VIP: [u8; 4] = [10, 77, 0, 100];
/// This host's own, and the counter that it has sent last.
const OWN: [u8; 4] = [10, 77, 0, 9];
const NEWEST: u64 = 1000;
/// The smallest TTL that counts, where a lower one may.
const MIN_TTL: u8 = 250;
/// This host's addresses, if it holds the VIP.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [0, 0, 0x5e, 0, 1, 1]];

/// Bits of an input's first byte: what is done with the frame that follows, and how it is looked at.
const DIGEST_PUT_RIGHT: u8 = 1;
const CHECKSUMS_PUT_RIGHT: u8 = 2;
const FROM_PEERS_ONLY: u8 = 4;
const THROUGH_ROUTERS: u8 = 8;

/// Judges a frame.
pub fn wire(input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    put_right(&mut bytes, *flags);
    read_and_write(&bytes);
    let host = ThisHost::new(*flags);
    let good = host.reading(&bytes);
    let mut scratch = Scratch::default();
    match judge(bytes.as_slice(), IFINDEX, &host, &SealMemory::default(), || Some(&mut scratch)) {
        Verdict::Valid(row, advert) => {
            let Ok(header) = good else { panic!("taken, but {:?}", good.err()) };
            assert_eq!((row, advert.source.vhost().vhid()), (row_of(header.vhid), header.vhid));
            assert_eq!(
                (advert.advbase, advert.advskew, advert.demote, advert.counter),
                (header.advbase, header.advskew, header.demote, header.counter)
            );
            assert_eq!(Some(advert.source.source()), frame::read(&bytes).map(|packet| packet.source));
        }
        Verdict::Refused(row, reason, refused) => {
            assert_eq!(good.err(), Some(Some(reason)), "refused");
            assert_eq!(row, row_of(refused.vhid()));
        }
        Verdict::Foreign | Verdict::Other(..) => assert_eq!(good.err(), Some(None), "left alone"),
    }
    host.fence(&bytes);
}

/// What is read of an advert, and written again, is the same.
fn read_and_write(bytes: &[u8]) {
    let Some(advert) = bytes.last_chunk::<ADVERT_LEN>() else { return };
    let Some(header) = Header::decode(advert) else { return };
    let written = header.encode();
    assert_eq!(Header::decode(&written), Some(header));
    let without_sum = |bytes: &[u8; ADVERT_LEN]| [&bytes[..6], &bytes[8..]].concat();
    assert_eq!(without_sum(&written), without_sum(advert));
    assert!(model::adds_up(&written));
}

fn row_of(vhid: u8) -> u32 {
    u32::from(vhid) + 1
}

/// As somebody could who has the key, or at least can count.
fn put_right(bytes: &mut [u8], flags: u8) {
    let at = match bytes.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => return,
    };
    let Some(advert) = bytes.get_mut(at..at + ADVERT_LEN) else { return };
    if flags & DIGEST_PUT_RIGHT != 0
        && let (Some(header), Some((vhid, passphrase))) = (model::Header::read(advert), ours(advert[1]))
    {
        advert[16..].copy_from_slice(&model::digest(passphrase, vhid, &[VIP.into()], header.counter));
    }
    if flags & CHECKSUMS_PUT_RIGHT == 0 {
        return;
    }
    put_sum(&mut advert[..], 6);
    if at == 34 {
        put_sum(&mut bytes[14..34], 10);
    }
}

fn put_sum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 2].fill(0);
    let sum = model::checksum(bytes);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn ours(vhid: u8) -> Option<(u8, &'static str)> {
    OURS.into_iter().find(|(ours, _)| *ours == vhid)
}

/// A host of all these groups, whose leases are over.
struct ThisHost {
    vhosts: HashMap<VhostKey, Vhost>,
    sent: Sent,
    has_peers: bool,
    min_ttl: u8,
    held: Held,
}

impl ThisHost {
    fn new(flags: u8) -> Self {
        let has_peers = flags & FROM_PEERS_ONLY != 0;
        let min_ttl = if flags & THROUGH_ROUTERS != 0 { MIN_TTL } else { 255 };
        let vhosts = OURS.into_iter().flat_map(|(vhid, passphrase)| {
            let passphrase = Passphrase::new(passphrase.as_bytes()).expect("a good one");
            let vhost = Vhost::new(DigestKey::new(&passphrase, vhid, &[VIP.into()]), row_of(vhid));
            let vhost = vhost.with_min_ttl(min_ttl);
            let vhost = if has_peers { vhost.of_peers() } else { vhost };
            [Family::V4, Family::V6].map(|family| (VhostKey::new(IFINDEX, vhid, family), vhost))
        });
        let (sent, held) = (Sent::new(OWN.into(), NEWEST), Held::new(row_of(1), MACS));
        Self { vhosts: vhosts.collect(), sent, has_peers, min_ttl, held }
    }

    /// The advert in a frame as the models read it, or why it is none that is taken; `Err(None)` if it is none of ours.
    fn reading(&self, bytes: &[u8]) -> Result<model::Header, Option<Reason>> {
        let packet = frame::read(bytes).ok_or(None)?;
        let is_whole = match packet.source {
            // Without options, and no fragment.
            IpAddr::V4(_) => bytes[14] == 0x45 && bytes[20] & 0x3f == 0 && bytes[21] == 0,
            IpAddr::V6(_) => bytes[14] >> 4 == 6,
        };
        let header = model::Header::read(packet.payload).filter(|_| is_whole).ok_or(None)?;
        let (_, passphrase) =
            ours(header.vhid).filter(|_| packet.payload[0] == 0x21 && packet.payload[3] == 7).ok_or(None)?;
        // What is longer and has no seal may be VRRP.
        let is_sealed =
            packet.payload.len() == 64 && packet.payload[36..39] == [0x5e, 0xa1, 1] && packet.payload[39] > 0;
        let refuse = |reason| Err(Some(reason).filter(|_| packet.payload.len() == ADVERT_LEN || is_sealed));
        let adds_up = packet.source.is_ipv6() || model::checksum(&bytes[14..34]) == 0;
        let can_be_host = match packet.source {
            IpAddr::V4(source) => !matches!(source.octets()[0], 0 | 127 | 224..),
            IpAddr::V6(source) => !matches!(source.octets()[0], 0 | 255),
        };
        if packet.ttl < self.min_ttl {
            refuse(Reason::BadTtl)
        } else if !adds_up || !model::adds_up(packet.payload) {
            refuse(Reason::BadSum)
        } else if !can_be_host || (self.has_peers && !is_peer(packet.source)) {
            refuse(Reason::BadAddrs)
        } else if header.digest != model::digest(passphrase, header.vhid, &[VIP.into()], header.counter) {
            refuse(Reason::BadAuth)
        } else if packet.source == IpAddr::from(OWN) && header.counter <= NEWEST {
            refuse(Reason::Echo)
        } else {
            Ok(header)
        }
    }

    /// What the fence drops is to or from a VIP at one of this host's own MACs or a group's, or one of its own adverts.
    fn fence(&self, bytes: &[u8]) {
        let is_own = |at: usize| bytes.get(at..at + 6).is_some_and(|mac| MACS.iter().any(|own| own == mac));
        let names_vip = bytes.windows(4).any(|four| four == VIP);
        if let Some(row) = fence::arrives(bytes, IFINDEX, self, || 1) {
            assert!(row == self.held.row() && names_vip && (bytes[0] & 1 != 0 || is_own(0)), "dropped on its way in");
        }
        if let Some(row) = fence::leaves(bytes, IFINDEX, self, || 1) {
            // Also the beginning of one.
            let is_advert = bytes.get(26..30) == Some(&OWN)
                && bytes.get(34..40).is_some_and(|advert| advert[0] == 0x21 && (advert[2], advert[5]) != (255, 255));
            assert!(is_advert || (row == self.held.row() && names_vip && is_own(6)), "dropped on its way out");
        }
        let unfenced = Unfenced(self);
        assert_eq!(fence::arrives(bytes, IFINDEX, &unfenced, || 1), None, "there is no lease");
        assert_eq!(fence::leaves(bytes, IFINDEX, &unfenced, || 1), None, "there is no lease");
    }
}

/// Whether it is one of the hosts in the captures.
fn is_peer(source: IpAddr) -> bool {
    ["10.77.0.1", "10.77.0.2", "fe80::1"].iter().any(|peer| peer.parse() == Ok(source))
}

impl Tables for ThisHost {
    fn vhost(&self, key: &VhostKey) -> Option<&Vhost> {
        self.vhosts.get(key)
    }

    fn peer(&self, source: &SourceKey) -> Option<&Policy> {
        is_peer(source.source()).then_some(&Policy::ANY)
    }

    fn sent(&self, key: &VhostKey) -> Option<&Sent> {
        (key.family() == Family::V4).then_some(&self.sent)
    }
}

impl Leases for ThisHost {
    fn may_hold(&self, ending: [u8; 2]) -> bool {
        ending == VIP[2..]
    }

    fn held(&self, key: &AddressKey) -> Option<&Held> {
        (*key == AddressKey::new(IFINDEX, address_bytes(VIP.into()))).then_some(&self.held)
    }

    fn deadline(&self, _: u32) -> Deadline {
        Deadline::CUT
    }
}

/// The same without a lease.
struct Unfenced<'h>(&'h ThisHost);

impl Tables for Unfenced<'_> {
    fn vhost(&self, key: &VhostKey) -> Option<&Vhost> {
        self.0.vhost(key)
    }

    fn peer(&self, source: &SourceKey) -> Option<&Policy> {
        self.0.peer(source)
    }

    fn sent(&self, key: &VhostKey) -> Option<&Sent> {
        self.0.sent(key)
    }
}

impl Leases for Unfenced<'_> {
    fn may_hold(&self, ending: [u8; 2]) -> bool {
        self.0.may_hold(ending)
    }

    fn held(&self, key: &AddressKey) -> Option<&Held> {
        self.0.held(key)
    }

    fn deadline(&self, _: u32) -> Deadline {
        Deadline::NONE
    }
}
