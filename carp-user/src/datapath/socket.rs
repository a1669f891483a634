//! Adverts through a packet socket, where XDP cannot be: the same verdict, in user space.
//!
//! Slower, and every frame of protocol 112 wakes the agent; under a flood the socket's buffer overflows, and
//! genuine adverts are lost with the rest. What is lost is counted.

use std::{
    collections::HashMap,
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd, RawFd},
    time::Duration,
};

use carp_common::{
    abi::{Advert, AdvertEvent, LastHeard, MAX_SOURCES, Policy, Refused, SealId, Sent, SourceKey, Vhost, VhostKey},
    digest::Scratch,
    reason::Reason,
    seal::{Apart, Clocks, SealMemory, Sequence},
    time::Time,
    verdict::{Seals, Tables, Verdict, judge},
    wire::PROTOCOL,
};
use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
        time::{TimeSpec, TimeValLike},
    },
    time::{ClockId, clock_gettime},
};
use socket2::{Domain, SockFilter, Socket, Type};
use zeroize::Zeroize;

use super::Known;
use crate::{
    clock::{now, wall_ahead},
    net::link_address,
};

/// Room for frames that wait, in bytes: some milliseconds of a flood.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Of a longer frame only the beginning is judged, which is more than any advert.
const FRAME: usize = 2048;

/// A packet socket with everything that the XDP program has in its maps.
pub(super) struct AdvertSocket {
    socket: Socket,
    ifindex: u32,
    tables: SocketTables,
    seals: SealMemory,
    heard: HashMap<SourceKey, LastHeard>,
    counters: HashMap<(u32, Reason), u64>,
    refused: HashMap<(u32, Reason), Refused>,
    lost: u64,
    /// Everything that arrived before has been read: what is read next has arrived later.
    heard_until: Time,
    /// What a frame is read into, and what the kernel says of it.
    frame: Box<[u8; FRAME]>,
    control: Vec<u8>,
}

/// What the verdict looks up.
#[derive(Default)]
struct SocketTables {
    vhosts: HashMap<VhostKey, Vhost>,
    peers: HashMap<SourceKey, Policy>,
    sent: HashMap<VhostKey, Sent>,
}

impl Tables for SocketTables {
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

impl Drop for SocketTables {
    fn drop(&mut self) {
        self.vhosts.values_mut().for_each(Zeroize::zeroize);
    }
}

impl AdvertSocket {
    /// Opens a socket for the adverts of an interface. Needs CAP_NET_RAW.
    pub(super) fn open(ifindex: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        // Before it is bound, so that no other frame ever gets in.
        socket.attach_filter(&filter())?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        // More than the administrator's limit (net.core.rmem_max), if that may be.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        socket.bind(&link_address(ifindex, libc::ETH_P_ALL as u16)?)?;
        Ok(Self {
            socket,
            ifindex,
            tables: SocketTables::default(),
            seals: SealMemory::default(),
            heard: HashMap::new(),
            counters: HashMap::new(),
            refused: HashMap::new(),
            lost: 0,
            heard_until: now(),
            frame: Box::new([0; FRAME]),
            control: nix::cmsg_space!(TimeSpec),
        })
    }

    /// The interface.
    pub(super) const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    pub(super) fn set_vhost(&mut self, key: VhostKey, Known { vhost, peers, seals }: Known<'_>) {
        self.tables.peers.extend(peers.iter().copied());
        seals.iter().for_each(|(id, seal)| self.seals.add_key(SealId::new(key, *id), *seal));
        self.tables.vhosts.insert(key, *vhost);
    }

    pub(super) fn remove_vhost(&mut self, key: VhostKey) {
        if let Some(mut vhost) = self.tables.vhosts.remove(&key) {
            vhost.zeroize();
        }
        self.tables.peers.retain(|peer, _| peer.vhost() != key);
        self.seals.remove_keys(key);
        self.tables.sent.remove(&key);
    }

    /// Forgets how far the sealed adverts of these virtual hosts had come.
    pub(super) fn forget_sequences(&mut self, is_one: impl Fn(&VhostKey) -> bool) {
        self.seals.forget(is_one);
    }

    /// Takes note of the largest counter of a row's own adverts.
    pub(super) fn note_counter(&mut self, row: u32, counter: u64) {
        self.seals.note_counter(row, counter);
    }

    /// Has no sequence of this source up to this one be good.
    pub(super) fn set_sequence(&mut self, source: &SourceKey, sequence: Sequence) {
        self.seals.advance(source, sequence);
    }

    /// The last good sequence of a source.
    pub(super) fn sequence(&self, source: &SourceKey) -> Option<Sequence> {
        self.seals.sequence(source)
    }

    /// The sources whose clocks were apart, since this was asked last.
    pub(super) fn take_apart(&mut self) -> Vec<(SourceKey, Apart)> {
        self.seals.take_apart()
    }

    pub(super) fn set_sent(&mut self, key: VhostKey, sent: Sent) {
        self.tables.sent.insert(key, sent);
    }

    /// Reads a frame. `None`: there is none. `Some(None)`: it is nothing that the agent must hear of.
    pub(super) fn next(&mut self) -> Option<Option<AdvertEvent>> {
        let before = now();
        let Some((len, stamp)) = self.receive() else {
            self.heard_until = before;
            return None;
        };
        let arrival = self.arrival(stamp);
        self.heard_until = arrival;
        self.seals.clocks = Clocks { boot: arrival.as_nanos(), wall: arrival.as_nanos().wrapping_add(wall_ahead()) };
        let mut scratch = Scratch::default();
        let verdict = judge(&self.frame[..len], self.ifindex, &self.tables, &self.seals, || Some(&mut scratch));
        scratch.zeroize();
        Some(match verdict {
            Verdict::Foreign => None,
            Verdict::Other(row, source) => self.refuse(row, Reason::Other, source),
            Verdict::Refused(row, reason, source) => self.refuse(row, reason, source),
            Verdict::Valid(row, advert) => self.hear(row, &advert, arrival),
        })
    }

    pub(super) fn last_heard(&self) -> impl Iterator<Item = (SourceKey, LastHeard)> {
        self.heard.iter().map(|(source, last)| (*source, *last))
    }

    pub(super) const fn counters(&self) -> &HashMap<(u32, Reason), u64> {
        &self.counters
    }

    pub(super) fn counter(&self, row: u32, reason: Reason) -> u64 {
        self.counters.get(&(row, reason)).copied().unwrap_or(0)
    }

    pub(super) fn clear_counters(&mut self, row: u32) {
        self.counters.retain(|(of, _), _| *of != row);
        self.seals.forget_counters(row);
    }

    pub(super) fn last_refused(&self, row: u32, reason: Reason) -> Option<Refused> {
        self.refused.get(&(row, reason)).copied()
    }

    /// Until when everything that arrived has been read.
    pub(super) const fn heard_until(&self) -> Time {
        self.heard_until
    }

    /// Frames that the kernel had no room for, since the socket was opened.
    pub(super) fn lost(&mut self) -> u64 {
        // SAFETY: for this struct of integers all bytes zero is valid.
        let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the option's value is such a struct, and the kernel writes no more than `len` bytes.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            // Asking sets the kernel's counter back to 0.
            self.lost += u64::from(statistics.tp_drops);
        }
        self.lost
    }

    /// A frame's length, and when it arrived by the wall clock. `None`: there is no frame.
    fn receive(&mut self) -> Option<(usize, Option<TimeSpec>)> {
        let fd = self.socket.as_raw_fd();
        // What went wrong with the interface is told once, and netlink tells it too: behind it, frames may wait.
        for _ in 0..2 {
            let mut parts = [IoSliceMut::new(&mut self.frame[..])];
            let message = match recvmsg::<()>(fd, &mut parts, Some(&mut self.control), MsgFlags::MSG_DONTWAIT) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return None,
                Err(_) => continue,
            };
            let stamp = message.cmsgs().ok().and_then(|mut controls| {
                controls.find_map(|control| match control {
                    ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
                    _ => None,
                })
            });
            return Some((message.bytes, stamp));
        }
        None
    }

    /// When a frame arrived. The kernel stamps it by the wall clock, which may have been set since: but not
    /// before what was read last, nor in the future.
    fn arrival(&self, stamp: Option<TimeSpec>) -> Time {
        let now = now();
        let wall = clock_gettime(ClockId::CLOCK_REALTIME).ok();
        let age = wall.zip(stamp).map_or(0, |(wall, stamp)| (wall - stamp).num_nanoseconds());
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        arrival(now, age, self.heard_until)
    }

    fn refuse(&mut self, row: u32, reason: Reason, source: Refused) -> Option<AdvertEvent> {
        self.count(row, reason);
        self.refused.insert((row, reason), source);
        None
    }

    /// As the kernel program's `events::heard`.
    fn hear(&mut self, row: u32, advert: &Advert, arrival: Time) -> Option<AdvertEvent> {
        let arrival = arrival.as_nanos();
        self.count(row, Reason::received(advert.source.vhost().family()));
        let (last, wakes) = LastHeard::hear(self.heard.get(&advert.source), advert, arrival);
        self.remember(advert.source, last);
        if !wakes {
            self.count(row, Reason::Repeat);
            return None;
        }
        Some(AdvertEvent::new(advert.source, last.heard(), advert.mac))
    }

    fn remember(&mut self, source: SourceKey, last: LastHeard) {
        if self.heard.len() >= MAX_SOURCES as usize && !self.heard.contains_key(&source) {
            let oldest = self.heard.iter().min_by_key(|(_, last)| last.heard().arrival()).map(|(source, _)| *source);
            oldest.and_then(|oldest| self.heard.remove(&oldest));
        }
        self.heard.insert(source, last);
    }

    fn count(&mut self, row: u32, reason: Reason) {
        *self.counters.entry((row, reason)).or_default() += 1;
    }
}

impl AsRawFd for AdvertSocket {
    /// Readable when frames wait.
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

fn arrival(now: Time, age: Duration, heard_until: Time) -> Time {
    let age = age.min(now.since(heard_until));
    Time::from_nanos(now.as_nanos().saturating_sub(age.as_nanos() as u64))
}

/// Protocol 112 in IPv4 and IPv6, as it came in, without a VLAN's tag (which the card may have taken off).
fn filter() -> [SockFilter; 13] {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // What the kernel knows of a frame stands at offsets far beyond it.
    const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    const HAS_VLAN_TAG: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT) as u32;
    [
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(IF_EQUAL, 9, 0, libc::PACKET_OUTGOING as u32),
        SockFilter::new(LOAD_WORD, 0, 0, HAS_VLAN_TAG),
        SockFilter::new(IF_EQUAL, 0, 7, 0),
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(IF_EQUAL, 0, 2, libc::ETH_P_IP as u32),
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 9),
        SockFilter::new(IF_EQUAL, 4, 3, PROTOCOL as u32),
        SockFilter::new(IF_EQUAL, 0, 2, libc::ETH_P_IPV6 as u32),
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 6),
        SockFilter::new(IF_EQUAL, 1, 0, PROTOCOL as u32),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, FRAME as u32),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_moves_no_arrival_out_of_what_is_possible() {
        let [heard_until, now] = [10, 14].map(|seconds| Time::from_nanos(seconds * 1_000_000_000));
        let at = |age| arrival(now, Duration::from_secs(age), heard_until).as_nanos() / 1_000_000_000;
        assert_eq!([at(0), at(1), at(4), at(3600)], [14, 13, 10, 10]);
    }
}
