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

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use carp_common::{
    abi::{AddressKey, Deadline, Held, Sent, SourceKey, Vhost, VhostKey, address_bytes},
    digest::{Blocks, DigestKey, Passphrase},
    fence::Leases,
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

/// A virtual host's secret part.
#[derive(Clone)]
pub(crate) struct TestVhost {
    pub(crate) vhid: u8,
    pub(crate) key: DigestKey,
    /// Another digest that it accepts.
    pub(crate) other: Option<DigestKey>,
    /// The smallest TTL that it accepts.
    pub(crate) min_ttl: u8,
    /// Its peers, if it hears nobody else.
    pub(crate) peers: Vec<IpAddr>,
}

impl TestVhost {
    pub(crate) fn new(vhid: u8, passphrase: &[u8], vips: &[IpAddr]) -> Self {
        let passphrase = Passphrase::new(passphrase).expect("a passphrase of 1 to 19 bytes");
        Self { vhid, key: DigestKey::new(&passphrase, vhid, vips), other: None, min_ttl: 255, peers: vec![] }
    }

    /// The virtual host of the frames in [`frames`].
    pub(crate) fn ours() -> Self {
        Self::new(frames::OUR_VHID, frames::PASSPHRASE, &frames::vips())
    }

    /// What the tables have of it in this family.
    pub(crate) fn entry(&self, family: Family) -> Vhost {
        let vhost = Vhost::new(self.key, row_of(family)).with_min_ttl(self.min_ttl);
        let vhost = self.other.map_or(vhost, |other| vhost.accepting(other));
        if self.peers.is_empty() { vhost } else { vhost.of_peers() }
    }

    /// What the tables have of its peers in this family.
    pub(crate) fn peers(&self, key: VhostKey) -> impl Iterator<Item = SourceKey> {
        self.peers.iter().map(move |peer| SourceKey::new(key, address_bytes(*peer)))
    }

    /// The digest of an advert with this counter.
    pub(crate) fn digest(&self, counter: u64) -> [u8; 20] {
        let words = self.key.digest(counter, &mut Blocks::default());
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
    peers: HashSet<SourceKey>,
    sent: HashMap<VhostKey, Sent>,
    held: HashMap<AddressKey, Held>,
    leases: HashMap<u32, Deadline>,
}

impl HostTables {
    pub(crate) fn serve(&mut self, vhost: &TestVhost) {
        for family in frames::BOTH {
            let key = VhostKey::new(IFINDEX, vhost.vhid, family);
            self.vhosts.insert(key, vhost.entry(family));
            self.peers.extend(vhost.peers(key));
        }
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

    fn is_peer(&self, source: &SourceKey) -> bool {
        self.peers.contains(source)
    }

    fn sent(&self, key: &VhostKey) -> Option<&Sent> {
        self.sent.get(key)
    }
}
