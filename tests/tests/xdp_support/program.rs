//! The kernel programs, loaded, and their maps.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{ProgramInfo, SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use carp_common::{
    abi::{
        self, AddressKey, Advert, Deadline, Family, Held, LastHeard, Policy, Refused, SealId, Sent, SourceKey, Vhost,
        VhostKey, counter_index, map,
    },
    reason::Reason,
    seal::{Apart, SealKey, Secret, Sequence},
};

use super::{IFINDEX, TestVhost, frames::BOTH, object, row_of};

/// What the program did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XdpAction {
    Drop,
    Pass,
}

/// An event as it stands in the ring, taken apart byte by byte: a second reading of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) ifindex: u32,
    pub(crate) vhid: u8,
    pub(crate) family: u8,
    pub(crate) source: IpAddr,
    pub(crate) arrival: u64,
    pub(crate) counter: u64,
    pub(crate) advbase: u8,
    pub(crate) advskew: u8,
    pub(crate) demote: u8,
    pub(crate) mac: [u8; 6],
}

impl Event {
    fn parse(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), 56, "size of an event");
        Self {
            ifindex: u32::from_ne_bytes(part(bytes, 0)),
            vhid: bytes[4],
            family: bytes[5],
            source: abi::address(part(bytes, 8)),
            arrival: u64::from_ne_bytes(part(bytes, 24)),
            counter: u64::from_ne_bytes(part(bytes, 32)),
            advbase: bytes[40],
            advskew: bytes[41],
            demote: bytes[42],
            mac: part(bytes, 48),
        }
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("inside of an event")
}

/// What the egress program says of a frame that leaves, as a return value: it has nothing against it, or drops it.
const UNSPECIFIED: u32 = u32::MAX;
const SHOT: u32 = 2;

/// The loaded programs and their maps.
pub(crate) struct Program {
    ebpf: Ebpf,
    vhosts: HashMap<MapData, VhostKey, Vhost>,
    peers: HashMap<MapData, SourceKey, Policy>,
    sent: HashMap<MapData, VhostKey, Sent>,
    heard: HashMap<MapData, SourceKey, LastHeard>,
    counters: PerCpuArray<MapData, u64>,
    refused: Array<MapData, Refused>,
    events: RingBuf<MapData>,
    held: HashMap<MapData, AddressKey, Held>,
    endings: Array<MapData, u64>,
    leases: Array<MapData, u64>,
    seals: HashMap<MapData, SealId, SealKey>,
    sequences: HashMap<MapData, SourceKey, Sequence>,
    apart: HashMap<MapData, SourceKey, Apart>,
    wall: Array<MapData, u64>,
}

impl Program {
    /// Loads the programs, with no virtual host.
    pub(crate) fn load() -> Self {
        let mut ebpf = Ebpf::load(object()).expect("load the XDP object (this needs root)");
        let xdp: &mut Xdp = ebpf.program_mut(abi::PROGRAM).expect("the program").try_into().expect("an XDP program");
        xdp.load().expect("load the XDP program (this needs root)");
        let egress = ebpf.program_mut(abi::EGRESS_PROGRAM).expect("the egress program");
        let egress: &mut SchedClassifier = egress.try_into().expect("a classifier");
        egress.load().expect("load the egress program");
        Self {
            vhosts: take(&mut ebpf, map::VHOSTS),
            peers: take(&mut ebpf, map::PEERS),
            sent: take(&mut ebpf, map::SENT),
            heard: take(&mut ebpf, map::LAST_HEARD),
            counters: take(&mut ebpf, map::COUNTERS),
            refused: take(&mut ebpf, map::REFUSED),
            events: take(&mut ebpf, map::EVENTS),
            held: take(&mut ebpf, map::HELD),
            endings: take(&mut ebpf, map::ENDINGS),
            leases: take(&mut ebpf, map::LEASES),
            seals: take(&mut ebpf, map::SEALS),
            sequences: take(&mut ebpf, map::SEQUENCES),
            apart: take(&mut ebpf, map::APART),
            wall: take(&mut ebpf, map::WALL),
            ebpf,
        }
    }

    /// Loads the program for the virtual host of the frames, in both families.
    pub(crate) fn for_our_vhost() -> Self {
        let mut program = Self::load();
        program.serve(&TestVhost::ours());
        program
    }

    /// Configures a virtual host in both families.
    pub(crate) fn serve(&mut self, vhost: &TestVhost) {
        self.serve_on(IFINDEX, vhost);
    }

    /// Configures a virtual host on another interface than the one that test runs see.
    pub(crate) fn serve_on(&mut self, ifindex: u32, vhost: &TestVhost) {
        for family in BOTH {
            let key = VhostKey::new(ifindex, vhost.vhid, family);
            self.vhosts.insert(key, vhost.entry(family), 0).expect("configure a virtual host");
            for (peer, policy) in vhost.peers(key) {
                self.peers.insert(peer, policy, 0).expect("configure a peer");
            }
        }
        for (id, key) in vhost.seals(ifindex) {
            self.seals.insert(id, key, 0).expect("configure a seal key");
        }
    }

    /// Has adverts to this vhid be sealed with this key, too.
    pub(crate) fn set_seal_key(&mut self, vhid: u8, id: u8, key: &[u8]) {
        let key = SealKey::new(&Secret::new(key).expect("a key of 16 to 64 bytes"));
        for family in BOTH {
            let id = SealId::new(VhostKey::new(IFINDEX, vhid, family), id);
            self.seals.insert(id, key, 0).expect("configure a seal key");
        }
    }

    /// Tells the program what we sent ourselves.
    pub(crate) fn sent(&mut self, key: VhostKey, sent: Sent) {
        self.sent.insert(key, sent, 0).expect("write the sent map");
    }

    /// Tells the program by how much the wall clock is ahead of CLOCK_BOOTTIME.
    pub(crate) fn set_wall(&mut self, ahead: u64) {
        self.wall.set(0, ahead, 0).expect("write the wall clock");
    }

    /// The last good sequence of a source.
    pub(crate) fn sequence(&self, source: &SourceKey) -> Option<Sequence> {
        self.sequences.get(source, 0).ok()
    }

    /// By how much a source's clock is ahead, if it is known to be apart.
    pub(crate) fn apart(&self, source: &SourceKey) -> Option<Apart> {
        self.apart.get(source, 0).ok()
    }

    /// Has the last good sequence of a source be this one.
    pub(crate) fn set_sequence(&mut self, source: &SourceKey, sequence: Sequence) {
        self.sequences.insert(source, sequence, 0).expect("write the sequences");
    }

    /// Tells the programs of a VIP that is held.
    pub(crate) fn hold(&mut self, key: AddressKey, held: Held) {
        let (word, bit) = abi::ending_bit(key.ending());
        let bits = self.endings.get(&word, 0).expect("read the endings");
        self.endings.set(word, bits | bit, 0).expect("write the endings");
        self.held.insert(key, held, 0).expect("write the held map");
    }

    /// Tells them of a VIP that is not held any more.
    pub(crate) fn release(&mut self, key: AddressKey) {
        self.held.remove(&key).expect("remove an entry of the held map");
    }

    /// Tells them how long the lease of a row lasts.
    pub(crate) fn set_lease(&mut self, row: u32, deadline: Deadline) {
        self.leases.set(row, deadline.word(), 0).expect("write the leases");
    }

    /// Runs the egress program over a frame: whether it may leave.
    pub(crate) fn may_leave(&self, frame: &[u8]) -> bool {
        match self.leave_repeatedly(frame, 1).0 {
            UNSPECIFIED => true,
            SHOT => false,
            action => panic!("the egress program returned {action}"),
        }
    }

    /// Runs it `repeat` times; returns the last return value and the mean duration.
    pub(crate) fn leave_repeatedly(&self, frame: &[u8], repeat: u32) -> (u32, Duration) {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let result = self.egress().test_run(options).expect("BPF_PROG_TEST_RUN");
        (result.return_value, result.duration)
    }

    /// What the kernel knows of the egress program.
    pub(crate) fn egress_info(&self) -> ProgramInfo {
        self.egress().info().expect("information about the egress program")
    }

    fn egress(&self) -> &SchedClassifier {
        self.ebpf.program(abi::EGRESS_PROGRAM).expect("the egress program").try_into().expect("a classifier")
    }

    /// Runs the program over a frame.
    pub(crate) fn run(&self, frame: &[u8]) -> XdpAction {
        match self.run_repeatedly(frame, 1).0 {
            1 => XdpAction::Drop,
            2 => XdpAction::Pass,
            action => panic!("the program returned {action}"),
        }
    }

    /// Runs it `repeat` times; returns the last return value and the mean duration.
    pub(crate) fn run_repeatedly(&self, frame: &[u8], repeat: u32) -> (u32, Duration) {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let result = self.xdp().test_run(options).expect("BPF_PROG_TEST_RUN");
        (result.return_value, result.duration)
    }

    /// What the kernel knows of the program.
    pub(crate) fn info(&self) -> ProgramInfo {
        self.xdp().info().expect("information about the program")
    }

    fn xdp(&self) -> &Xdp {
        self.ebpf.program(abi::PROGRAM).expect("the program").try_into().expect("an XDP program")
    }

    /// A counter, over all CPUs.
    pub(crate) fn count(&self, row: u32, reason: Reason) -> u64 {
        self.counters.get(&counter_index(row, reason), 0).expect("read a counter").iter().sum()
    }

    /// All counters that are not 0, of no virtual host and of ours.
    pub(crate) fn counts(&self) -> BTreeMap<(u32, Reason), u64> {
        let rows = [0, row_of(Family::V4), row_of(Family::V6)];
        rows.into_iter()
            .flat_map(|row| Reason::ALL.map(|reason| ((row, reason), self.count(row, reason))))
            .filter(|(_, count)| *count != 0)
            .collect()
    }

    /// The last refused source.
    pub(crate) fn refused(&self, row: u32, reason: Reason) -> Refused {
        self.refused.get(&counter_index(row, reason), 0).expect("read a refused source")
    }

    /// The last valid advert of a source.
    pub(crate) fn heard(&self, source: &SourceKey) -> Option<LastHeard> {
        self.heard.get(source, 0).ok()
    }

    /// Makes the program believe that the last advert which it has heard is this one, `age` earlier than it was, and
    /// the only one of its source.
    pub(crate) fn age(&mut self, advert: &Advert, age: Duration) {
        let arrival = self.heard(&advert.source).expect("an entry to age").heard().arrival().as_nanos();
        let (last, _) = LastHeard::hear(None, advert, arrival.saturating_sub(age.as_nanos() as u64));
        self.heard.insert(advert.source, last, 0).expect("write the last-heard map");
    }

    /// Makes the program forget whom it has heard, so that nothing is a repeat.
    pub(crate) fn forget(&mut self) {
        let sources: Vec<_> = self.heard.keys().map(|source| source.expect("a key of the last-heard map")).collect();
        for source in sources {
            self.heard.remove(&source).expect("remove an entry of the last-heard map");
        }
    }

    /// Runs the program over a frame; also tells which counters that moved.
    pub(crate) fn judge(&self, frame: &[u8]) -> (XdpAction, Vec<(u32, Reason)>) {
        let before = self.counts();
        let action = self.run(frame);
        let after = self.counts();
        let moved = after.into_iter().filter(|(counter, count)| before.get(counter).copied().unwrap_or(0) != *count);
        (action, moved.map(|(counter, _)| counter).collect())
    }

    /// All events in the ring.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.next().map(|item| Event::parse(&item))).collect()
    }
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> M {
    let map = ebpf.take_map(name).unwrap_or_else(|| panic!("the object has no map {name}"));
    M::try_from(map).unwrap_or_else(|error| panic!("map {name}: {error}"))
}
