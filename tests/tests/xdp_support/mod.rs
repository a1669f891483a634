//! What the tests and the benchmark of the kernel programs share.

// The benchmark uses less of it than the tests.
#![allow(dead_code)]

#[path = "../../../carp-common/src/fence/tests/table.rs"]
pub(crate) mod fence_table;
#[path = "../../../carp-common/src/verdict/tests/frames.rs"]
pub(crate) mod frames;
pub(crate) mod program;
#[path = "../../../carp-common/src/verdict/tests/table.rs"]
pub(crate) mod table;

use std::{collections::HashMap, net::IpAddr};

use carp_common::{
    abi::{AddressKey, Deadline, Held, Policy, SealCheck, SealId, Sent, SourceKey, Vhost, VhostKey, address_bytes},
    digest::{DigestKey, Passphrase, Scratch},
    fence::Leases,
    seal::{SealKey, SealMemory, Secret},
    verdict::Tables,
};
// The shared files find these here.
pub(crate) use carp_common::{abi::Family, reason::Reason};

/// The XDP program as it was compiled.
pub(crate) fn object() -> &'static [u8] {
    carp_user::datapath::OBJECT
}

/// The interface that a test run sees: the loopback of its network namespace.
pub(crate) const IFINDEX: u32 = 1;

/// What decides which frames are drawn, and how many are: 20,000 unless `CARP_TEST_SEED` and `CARP_TEST_FRAMES` say otherwise. (Three
/// tests with a million each take 44 s.)
pub(crate) fn seed_and_frames(seed: u64) -> (u64, u64) {
    let set = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (seed, frames) = (set("CARP_TEST_SEED").unwrap_or(seed), set("CARP_TEST_FRAMES").unwrap_or(20_000));
    println!("CARP_TEST_SEED={seed}, {frames} frames");
    (seed, frames)
}

/// A virtual host's secret part.
#[derive(Clone)]
pub(crate) struct TestVhost {
    pub(crate) vhid: u8,
    pub(crate) key: DigestKey,
    /// Another digest that it accepts.
    pub(crate) other: Option<DigestKey>,
    /// The smallest TTL that it accepts.
    pub(crate) min_ttl: u8,
    /// Its peers and what they may say, if it hears nobody else.
    pub(crate) peers: Vec<(IpAddr, Policy)>,
    /// How it looks at seals with the frames' key, and its window.
    pub(crate) seal: (SealCheck, u64),
}

impl TestVhost {
    pub(crate) fn new(vhid: u8, passphrase: &[u8], vips: &[IpAddr]) -> Self {
        let passphrase = Passphrase::new(passphrase).expect("a passphrase of 1 to 19 bytes");
        Self {
            vhid,
            key: DigestKey::new(&passphrase, vhid, vips),
            other: None,
            min_ttl: 255,
            peers: vec![],
            seal: (SealCheck::Off, 0),
        }
    }

    /// The virtual host of the frames in [`frames`].
    pub(crate) fn ours() -> Self {
        Self::new(frames::OUR_VHID, frames::PASSPHRASE, &frames::vips())
    }

    /// What the tables have of it in this family.
    pub(crate) fn entry(&self, family: Family) -> Vhost {
        let vhost = Vhost::new(self.key, row_of(family)).with_min_ttl(self.min_ttl);
        let vhost = self.other.map_or(vhost, |other| vhost.accepting(other)).sealed(self.seal.0, self.seal.1);
        if self.peers.is_empty() { vhost } else { vhost.of_peers() }
    }

    /// What the tables have of its peers in this family.
    pub(crate) fn peers(&self, key: VhostKey) -> impl Iterator<Item = (SourceKey, Policy)> {
        self.peers.iter().map(move |(peer, policy)| (SourceKey::new(key, address_bytes(*peer)), *policy))
    }

    /// What the tables have of its seal, in each family.
    pub(crate) fn seals(&self, ifindex: u32) -> impl Iterator<Item = (SealId, SealKey)> {
        let key = SealKey::new(&Secret::new(frames::SEAL_KEY).expect("a key of 16 to 64 bytes"));
        frames::BOTH
            .map(|family| (SealId::new(VhostKey::new(ifindex, self.vhid, family), frames::SEAL_ID), key))
            .into_iter()
            .filter(|_| self.seal.0 != SealCheck::Off)
    }

    /// The digest of an advert with this counter.
    pub(crate) fn digest(&self, counter: u64) -> [u8; 20] {
        let words = self.key.digest(counter, &mut Scratch::default());
        let mut digest = [0; 20];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }
}

/// The digest of an advert to [`TestVhost::ours`].
pub(crate) fn digest(counter: u64) -> [u8; 20] {
    TestVhost::ours().digest(counter)
}

/// The row of counters of a virtual host in the tests: one for each family, to tell them apart.
pub(crate) fn row_of(family: Family) -> u32 {
    match family {
        Family::V4 => 5,
        Family::V6 => 6,
    }
}

/// The tables on the host.
#[derive(Default)]
pub(crate) struct HostTables {
    vhosts: HashMap<VhostKey, Vhost>,
    peers: HashMap<SourceKey, Policy>,
    sent: HashMap<VhostKey, Sent>,
    held: HashMap<AddressKey, Held>,
    leases: HashMap<u32, Deadline>,
    pub(crate) seals: SealMemory,
}

impl HostTables {
    pub(crate) fn serve(&mut self, vhost: &TestVhost) {
        for family in frames::BOTH {
            let key = VhostKey::new(IFINDEX, vhost.vhid, family);
            self.vhosts.insert(key, vhost.entry(family));
            self.peers.extend(vhost.peers(key));
        }
        vhost.seals(IFINDEX).for_each(|(id, key)| self.seals.add_key(id, key));
    }

    pub(crate) fn sent(&mut self, key: VhostKey, sent: Sent) {
        self.sent.insert(key, sent);
    }

    pub(crate) fn hold(&mut self, key: AddressKey, held: Held) {
        self.held.insert(key, held);
    }

    pub(crate) fn set_lease(&mut self, row: u32, deadline: Deadline) {
        self.leases.insert(row, deadline);
    }
}

impl Leases for HostTables {
    fn may_hold(&self, ending: [u8; 2]) -> bool {
        self.held.keys().any(|key| key.ending() == ending)
    }

    fn held(&self, key: &AddressKey) -> Option<&Held> {
        self.held.get(key)
    }

    fn deadline(&self, row: u32) -> Deadline {
        self.leases.get(&row).copied().unwrap_or(Deadline::NONE)
    }
}

impl Tables for HostTables {
    fn vhost(&self, key: &VhostKey) -> Option<&Vhost> {
        self.vhosts.get(key)
    }

    fn peer(&self, source: &SourceKey) -> Option<&Policy> {
        self.peers.get(source)
    }

    fn sent(&self, key: &VhostKey) -> Option<&Sent> {
        self.sent.get(key)
    }
}
