//! `AF_PACKET` sockets: whole frames out, whole frames in with the time of
//! their arrival in the kernel.

use std::io::{IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, SockaddrLike, bind, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};

use crate::clock::BootTime;
use crate::filter::Filter;
use crate::netns::Netns;

/// How often a receiver looks up when nothing arrives.
const IDLE: Duration = Duration::from_millis(10);

/// Room for what arrives while the reader waits for a CPU.
const RECEIVE_BUFFER: usize = 16 << 20;

/// A socket bound to one interface of one namespace.
pub(crate) struct PacketSocket {
    socket: Socket,
    timestamps: Vec<u8>,
}

/// A frame that has been written to the caller's buffer.
pub(crate) struct Received {
    pub(crate) length: usize,
    pub(crate) at: BootTime,
    pub(crate) outgoing: bool,
}

impl PacketSocket {
    /// A socket that hears what `filter` lets through, in both directions.
    pub(crate) fn receiver(ns: &Netns, ifname: &str, filter: Filter) -> Result<Self> {
        let socket = Self::unbound(ns)?;
        // Before it is bound, and so before the first frame.
        socket.attach_filter(&filter.program()).context("attaching a packet filter")?;
        socket.set_read_timeout(Some(IDLE)).context("setting a read timeout")?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("enlarging a receive buffer")?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).context("asking for timestamps")?;
        bind_to(ns, &socket, ifname, libc::ETH_P_ALL as u16)?;
        Ok(Self { socket, timestamps: cmsg_space!(TimeSpec) })
    }

    /// A socket that only sends.
    pub(crate) fn sender(ns: &Netns, ifname: &str) -> Result<Self> {
        let socket = Self::unbound(ns)?;
        bind_to(ns, &socket, ifname, 0)?;
        Ok(Self { socket, timestamps: Vec::new() })
    }

    /// Sends past the queueing discipline: faster, but a sniffer on the same
    /// interface does not see these frames leave.
    pub(crate) fn bypass_queueing(&self) -> Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the option's value is a c_int, which lives through the call.
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                mem::size_of_val(&on) as libc::socklen_t,
            )
        };
        Errno::result(set).context("bypassing the queueing discipline")?;
        Ok(())
    }

    /// The next frame, or `None` if none came for a short while.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Received>> {
        self.receive_with(buffer, MsgFlags::empty())
    }

    /// The next frame that is here already.
    pub(crate) fn receive_now(&mut self, buffer: &mut [u8]) -> Result<Option<Received>> {
        self.receive_with(buffer, MsgFlags::MSG_DONTWAIT)
    }

    /// Sends one frame.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket.send(frame).context("sending a frame")?;
        Ok(())
    }

    /// Sends one frame, or loses it if the interface is down.
    pub(crate) fn send_if_up(&self, frame: &[u8]) -> Result<()> {
        match self.socket.send(frame) {
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(()),
            sent => sent.map(drop).context("sending a frame"),
        }
    }

    /// Sends frames with one system call; returns how many of them went out
    /// before the interface had no more room.
    pub(crate) fn send_many(&self, frames: &[IoSlice<'_>]) -> Result<usize> {
        let headers = frames.iter().map(|frame| {
            // SAFETY: all zeros is a valid mmsghdr: null pointers and no lengths.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            // An IoSlice is laid out as an iovec; sending only reads it.
            header.msg_hdr.msg_iov = (&raw const *frame).cast_mut().cast();
            header.msg_hdr.msg_iovlen = 1;
            header
        });
        let mut headers: Vec<_> = headers.collect();
        let count = headers.len().try_into().context("too many frames at once")?;
        // SAFETY: `count` headers, each with one iovec of a frame that is
        // borrowed for the whole call.
        let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
        match Errno::result(sent) {
            Ok(sent) => Ok(sent.try_into().unwrap_or(0)),
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(error) => Err(error).context("sending frames"),
        }
    }

    /// How many frames the kernel dropped since the last call because the
    /// receive buffer was full.
    pub(crate) fn dropped(&self) -> Result<u32> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = mem::size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: value and length are those of a tpacket_stats, which is what
        // the option writes at most.
        let got = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        Errno::result(got).context("reading a packet socket's statistics")?;
        Ok(statistics.tp_drops)
    }

    /// Protocol 0: it hears nothing until it is bound.
    fn unbound(ns: &Netns) -> Result<Socket> {
        ns.run(|| Socket::new(Domain::PACKET, Type::RAW, None).context("opening a packet socket"))
    }

    fn receive_with(&mut self, buffer: &mut [u8], flags: MsgFlags) -> Result<Option<Received>> {
        let fd = self.socket.as_raw_fd();
        let mut parts = [IoSliceMut::new(buffer)];
        let received = match recvmsg::<LinkAddr>(fd, &mut parts, Some(&mut self.timestamps), flags) {
            Ok(received) => received,
            // An interface that goes down says so once; it may come back.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
            Err(error) => return Err(error).context("receiving a frame"),
        };
        let stamp = received.cmsgs().context("reading a timestamp")?.find_map(|message| {
            let ControlMessageOwned::ScmTimestampns(stamp) = message else {
                return None;
            };
            Some(stamp)
        });
        Ok(Some(Received {
            length: received.bytes,
            at: BootTime::from_wall_clock(stamp.context("a frame without a timestamp")?),
            outgoing: received.address.is_some_and(|a| a.pkttype() == libc::PACKET_OUTGOING),
        }))
    }
}

fn bind_to(ns: &Netns, socket: &Socket, ifname: &str, protocol: u16) -> Result<()> {
    let index = ns.run(|| if_nametoindex(ifname).context("looking up an interface"));
    let index = index.with_context(|| format!("opening a packet socket on {ifname}"))?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index.try_into().context("an interface index beyond 31 bits")?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of a whole sockaddr_ll.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    let Some(address) = address else { bail!("no link-layer address for {ifname}") };
    bind(socket.as_raw_fd(), &address).with_context(|| format!("binding to {ifname}"))
}
