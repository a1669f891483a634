//! The way of adverts from the wire to the agent: an XDP program in the driver (native) or in the network stack
//! (generic), or a packet socket.

mod bpf;
mod fence;
mod links;
pub(crate) mod pins;
mod programs;
mod road;
mod socket;
mod xdp;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    future::poll_fn,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
};

use carp_common::{
    abi::{
        AddressKey, AdvertEvent, Deadline, Held, LastHeard, Policy, Refused, SealCheck, Sent, SourceKey, Vhost,
        VhostKey, address_bytes,
    },
    reason::Reason,
    seal::{Apart, SealKey, Sequence},
    time::Time,
};
use log::{debug, warn};
use thiserror::Error;
use tokio::io::{Interest, unix::AsyncFd};

pub use self::programs::OBJECT;
pub(crate) use self::road::Road;
use self::{
    fence::Fence,
    links::Hook,
    pins::{Pins, left::forsake},
    programs::Programs,
    road::{attach, inherited_road, obstacle},
    socket::AdvertSocket,
    xdp::Xdp,
};
use crate::{
    clock::wall_ahead,
    config::Choice,
    lock::Names,
    net::{Netlink, interface::Interface},
    privileges,
};

/// There is no road for adverts.
#[derive(Debug, Error)]
pub(crate) enum DatapathError {
    /// XDP does not work on an interface.
    #[error("{interface}: {why}; the datapath `socket` needs no XDP")]
    Attach {
        /// The interface.
        interface: String,
        /// What is in the way.
        why: String,
    },
    /// No packet socket.
    #[error("cannot receive adverts from {interface} through a packet socket: {source}")]
    Socket {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program could not be told something.
    #[error(transparent)]
    Map(#[from] xdp::MapAccess),
}

/// What another agent has left of a virtual host of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// Its row of counters.
    pub(crate) row: u32,
    /// The largest counter that an advert of its may have had.
    pub(crate) newest: u64,
    /// Until when it is master, if it was and had a lease.
    pub(crate) lease: Option<Time>,
}

/// What the datapath is to know of a virtual host in one family.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    /// How its adverts are judged.
    pub(crate) vhost: &'a Vhost,
    /// Its peers, and what they may say.
    pub(crate) peers: &'a [(SourceKey, Policy)],
    /// The keys that its adverts may be sealed with, by their ids.
    pub(crate) seals: &'a [(u8, SealKey)],
}

/// A VIP that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldVip {
    /// Row of its virtual host.
    pub(crate) row: u32,
    /// Index of the interface.
    pub(crate) ifindex: u32,
    /// The VIP.
    pub(crate) address: IpAddr,
}

/// Where programs are attached, by the indices of the interfaces.
pub(crate) struct Attachments(Vec<(u32, Arc<OwnedFd>)>);

impl Attachments {
    /// The interfaces from which something else has detached one, or that are gone. Not for the loop: the kernel waits for
    /// whatever else changes a device on the machine (RTNL).
    pub(crate) fn lost(&self) -> BTreeSet<u32> {
        self.0.iter().filter(|(_, link)| !links::is_attached(link)).map(|(ifindex, _)| *ifindex).collect()
    }
}

/// All roads of this process.
pub(crate) struct Datapath {
    /// Where the pins are to be.
    bpffs: PathBuf,
    xdp: Option<AsyncFd<Xdp>>,
    /// Why the XDP program does not work here at all.
    no_xdp: Option<String>,
    /// One for each interface whose road is a socket.
    sockets: Vec<AsyncFd<AdvertSocket>>,
    /// What the sockets that are gone have counted.
    closed: HashMap<(u32, Reason), u64>,
    /// What was read last, XDP or a socket, so that a flood on one does not hold up the others.
    turn: usize,
}

impl Datapath {
    /// No roads yet. What outlives this process is to be pinned in this bpffs.
    pub(crate) fn new(bpffs: PathBuf) -> Self {
        Self { bpffs, xdp: None, no_xdp: None, sockets: vec![], closed: HashMap::new(), turn: 0 }
    }

    /// The bpffs that was named.
    pub(crate) fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Loads the XDP program if one of the choices asks for it: later it would hold up the adverts. Tried once. What another
    /// agent has left that this one does not go on with is removed, its VIPs first, but for those that others serve beside
    /// these `own` virtual hosts.
    pub(crate) async fn prepare(&mut self, choices: impl IntoIterator<Item = Choice>, netlink: &Netlink, own: &Names) {
        if self.xdp.is_some() || self.no_xdp.is_some() {
            return;
        }
        if choices.into_iter().all(|choice| choice == Choice::Socket) {
            forsake(netlink, own).await;
            return;
        }
        match load(&self.bpffs, netlink, own).await {
            Ok(xdp) => self.xdp = Some(xdp),
            Err(why) => {
                forsake(netlink, own).await;
                self.no_xdp = Some(why);
            }
        }
    }

    /// Lets the adverts of an interface in.
    pub(crate) fn enter(&mut self, choice: Choice, name: &str, interface: &Interface) -> Result<Road, DatapathError> {
        let why = match self.enter_xdp(choice, interface) {
            Ok(road) => return Ok(road),
            Err(why) => why,
        };
        if let Some(xdp) = &mut self.xdp {
            // What another agent has left there.
            xdp.get_mut().detach(interface.index);
        }
        match choice {
            Choice::Native | Choice::Generic => Err(DatapathError::Attach { interface: name.to_owned(), why }),
            Choice::Auto => self.enter_socket(interface.index, name).map(|()| Road::Socket(Some(why))),
            Choice::Socket => self.enter_socket(interface.index, name).map(|()| Road::Socket(None)),
        }
    }

    fn enter_xdp(&mut self, choice: Choice, interface: &Interface) -> Result<Road, String> {
        if choice == Choice::Socket {
            return Err(String::new());
        }
        let Some(xdp) = &mut self.xdp else { return Err(self.no_xdp.clone().unwrap_or_default()) };
        let xdp = xdp.get_mut();
        if let Some(why) = obstacle(interface) {
            return Err(why.to_owned());
        }
        let present = interface.xdp.map(|present| present.program);
        let road = match inherited_road(choice, interface).filter(|_| xdp.is_taken_over(interface.index)) {
            Some(road) => {
                let is_native = matches!(road, Road::Native);
                xdp.keep(interface.index, if is_native { Hook::Native } else { Hook::Generic });
                road
            }
            None => attach(choice, |hook| xdp.attach(interface.index, hook, present))?,
        };
        xdp.attach_egress(interface.index);
        Ok(road)
    }

    fn enter_socket(&mut self, ifindex: u32, name: &str) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Socket { interface: name.to_owned(), source };
        let socket = AdvertSocket::open(ifindex).map_err(failed)?;
        // SAFETY: the descriptor belongs to the AdvertSocket, which never replaces it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        self.sockets.push(socket.map_err(|error| failed(error.into()))?);
        Ok(())
    }

    /// Lets no more adverts of an interface in.
    pub(crate) fn leave(&mut self, ifindex: u32) {
        if let Some(xdp) = &mut self.xdp {
            xdp.get_mut().detach(ifindex);
        }
        for socket in self.sockets.extract_if(.., |socket| socket.get_ref().ifindex() == ifindex) {
            for (counter, count) in socket.get_ref().counters() {
                *self.closed.entry(*counter).or_default() += count;
            }
        }
    }

    /// Makes a virtual host known on an interface whose adverts are let in.
    pub(crate) fn set_vhost(&mut self, key: VhostKey, known: Known<'_>) -> Result<(), DatapathError> {
        if known.vhost.seal() != SealCheck::Off {
            self.set_wall();
        }
        match (socket_mut(&mut self.sockets, key.ifindex()), &mut self.xdp) {
            (Some(socket), _) => socket.set_vhost(key, known),
            (None, Some(xdp)) => xdp.get_mut().set_vhost(key, known)?,
            (None, None) => {}
        }
        Ok(())
    }

    /// Forgets a virtual host.
    pub(crate) fn remove_vhost(&mut self, key: VhostKey) {
        if let Some(socket) = socket_mut(&mut self.sockets, key.ifindex()) {
            socket.remove_vhost(key);
        }
        if let Some(xdp) = &mut self.xdp {
            xdp.get_mut().remove_vhost(key);
        }
    }

    /// Forgets how far the sealed adverts of these virtual hosts had come: they are not to be served any more, or not on an
    /// interface that is there.
    pub(crate) fn forget_sequences(&mut self, is_one: impl Fn(&VhostKey) -> bool) {
        self.sockets.iter_mut().for_each(|socket| socket.get_mut().forget_sequences(&is_one));
        if let Some(xdp) = &mut self.xdp {
            xdp.get_mut().forget_sequences(is_one);
        }
    }

    /// A sealed advert of this virtual host with this counter is about to leave: what is made of it is not looked at without end.
    pub(crate) fn note_counter(&mut self, ifindex: u32, row: u32, counter: u64) -> Result<(), DatapathError> {
        match (socket_mut(&mut self.sockets, ifindex), &mut self.xdp) {
            (Some(socket), _) => socket.note_counter(row, counter),
            (None, Some(xdp)) => xdp.get_mut().note_counter(row, counter)?,
            (None, None) => {}
        }
        Ok(())
    }

    /// Has no sequence of this source up to this one be good.
    pub(crate) fn set_sequence(&mut self, source: &SourceKey, sequence: Sequence) -> Result<(), DatapathError> {
        match (socket_mut(&mut self.sockets, source.vhost().ifindex()), &mut self.xdp) {
            (Some(socket), _) => socket.set_sequence(source, sequence),
            (None, Some(xdp)) => xdp.get_mut().set_sequence(source, sequence)?,
            (None, None) => {}
        }
        Ok(())
    }

    /// The sources that have the key, and were not believed for the time that their clocks are set to, since this was asked
    /// last; with those that were believed before, as `true`.
    pub(crate) fn take_apart(&mut self) -> Vec<(SourceKey, Apart, bool)> {
        let mut all = vec![];
        for socket in self.sockets.iter_mut().map(AsyncFd::get_mut) {
            let apart = socket.take_apart().into_iter();
            all.extend(apart.map(|(source, apart)| (source, apart, socket.sequence(&source).is_some())));
        }
        if let Some(xdp) = self.xdp.as_mut().map(AsyncFd::get_mut) {
            let apart = xdp.take_apart().into_iter();
            all.extend(apart.map(|(source, apart)| (source, apart, xdp.is_known(&source))));
        }
        all
    }

    /// Tells the XDP program what the wall clock says.
    pub(crate) fn set_wall(&mut self) {
        if let Some(xdp) = &mut self.xdp {
            xdp.get_mut().set_wall(wall_ahead());
        }
    }

    /// Whether nothing else has detached the program from an interface on which XDP is at work.
    pub(crate) fn is_attached(&self, ifindex: u32) -> bool {
        self.socket(ifindex).is_some() || self.xdp.as_ref().is_none_or(|xdp| xdp.get_ref().is_attached(ifindex))
    }

    /// Whether what is attached outlives this process.
    pub(crate) fn is_pinned(&self) -> bool {
        self.xdp.is_some() && self.why_unpinned().is_none()
    }

    /// Why what is attached goes with this process, if it does.
    pub(crate) fn why_unpinned(&self) -> Option<&str> {
        self.xdp.as_ref()?.get_ref().why_unpinned()
    }

    /// Where programs are attached.
    pub(crate) fn attachments(&self) -> Attachments {
        Attachments(self.xdp.iter().flat_map(|xdp| xdp.get_ref().watched()).collect())
    }

    /// Puts the programs back on those of these interfaces from which something else has detached them. Where that does not
    /// work for the one on the way in, [`Self::is_attached`] says so.
    pub(crate) fn mend(&mut self, lost: &BTreeSet<u32>) {
        if let Some(xdp) = &mut self.xdp {
            xdp.get_mut().mend(lost);
        }
    }

    /// Puts back what something else has removed of the pins.
    pub(crate) fn mend_pins(&mut self) {
        if let Some(xdp) = &mut self.xdp {
            xdp.get_mut().mend_pins();
        }
    }

    /// What another agent, which is gone, has left of a virtual host.
    pub(crate) fn inherited(&self, key: VhostKey) -> Option<Inherited> {
        self.xdp.as_ref()?.get_ref().inherited(key)
    }

    /// The rows of counters of all that it has left, and those of VIPs that are held.
    pub(crate) fn inherited_rows(&self) -> impl Iterator<Item = u32> {
        self.xdp.iter().flat_map(|xdp| xdp.get_ref().inherited_rows())
    }

    /// Whether it stays attached to an interface where this is chosen.
    pub(crate) fn keeps(&self, choice: Choice, interface: &Interface) -> bool {
        let is_taken_over = self.xdp.as_ref().is_some_and(|xdp| xdp.get_ref().is_taken_over(interface.index));
        is_taken_over && obstacle(interface).is_none() && inherited_road(choice, interface).is_some()
    }

    /// All VIPs that are held.
    pub(crate) fn all_held(&self) -> Vec<HeldVip> {
        self.xdp.iter().flat_map(|xdp| xdp.get_ref().fence.all_held()).collect()
    }

    /// The VIPs that it has left held by the virtual host with this row, with the indices of their interfaces.
    pub(crate) fn held(&self, row: u32) -> Vec<(u32, IpAddr)> {
        self.xdp.as_ref().map_or(vec![], |xdp| xdp.get_ref().held(row))
    }

    /// Forgets what it has left of all other virtual hosts than these, and detaches it from interfaces that have not been
    /// entered.
    pub(crate) fn keep_only(&mut self, keys: &HashSet<VhostKey>, rows: &BTreeSet<u32>) {
        if let Some(xdp) = &mut self.xdp {
            xdp.get_mut().keep_only(keys, rows);
        }
    }

    /// Tells the verdict what we sent ourselves.
    pub(crate) fn set_sent(&mut self, key: VhostKey, sent: &Sent) -> Result<(), DatapathError> {
        match (socket_mut(&mut self.sockets, key.ifindex()), &mut self.xdp) {
            (Some(socket), _) => socket.set_sent(key, *sent),
            (None, Some(xdp)) => xdp.get_mut().set_sent(key, sent)?,
            (None, None) => {}
        }
        Ok(())
    }

    /// This host holds a VIP, on the interface on which the adverts of its virtual host come in: the fence is about it from
    /// now on. Without XDP on that interface there is no fence, and this does nothing, nor do the next two.
    pub(crate) fn hold(&mut self, ifindex: u32, address: IpAddr, held: &Held) -> Result<(), DatapathError> {
        let Some(fence) = self.fence_mut(ifindex) else { return Ok(()) };
        Ok(fence.hold(AddressKey::new(ifindex, address_bytes(address)), held)?)
    }

    /// The virtual host with this row does not hold it any more, if it did.
    pub(crate) fn release(&mut self, ifindex: u32, address: IpAddr, row: u32) {
        if let Some(xdp) = &mut self.xdp {
            xdp.get_mut().fence.release(AddressKey::new(ifindex, address_bytes(address)), row);
        }
    }

    /// Has the lease of the virtual host with this row last until then.
    pub(crate) fn set_lease(&mut self, row: u32, deadline: Deadline) -> Result<(), DatapathError> {
        let Some(xdp) = &mut self.xdp else { return Ok(()) };
        Ok(xdp.get_mut().fence.set_lease(row, deadline)?)
    }

    /// Why there is no fence on an interface, if there is none.
    pub(crate) fn cannot_fence(&self, ifindex: u32) -> Option<String> {
        match (self.socket(ifindex), &self.xdp) {
            (None, Some(xdp)) => xdp.get_ref().fence.obstacle(ifindex),
            (Some(_), _) | (None, None) => Some("adverts come in through a packet socket, without XDP".to_owned()),
        }
    }

    fn fence_mut(&mut self, ifindex: u32) -> Option<&mut Fence> {
        if self.socket(ifindex).is_some() {
            return None;
        }
        self.xdp.as_mut().map(|xdp| &mut xdp.get_mut().fence)
    }

    /// Waits until there may be something to read.
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|context| {
            let mut is_ready = false;
            if let Some(xdp) = &mut self.xdp
                && let Poll::Ready(mut ready) = xdp.poll_read_ready_mut(context)?
            {
                ready.clear_ready();
                is_ready = true;
            }
            for socket in &mut self.sockets {
                if let Poll::Ready(mut ready) = socket.poll_read_ready_mut(context)? {
                    ready.clear_ready();
                    is_ready = true;
                }
            }
            if is_ready { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Reads what came in next. `None`: nothing is left. `Some(None)`: something of which the agent need not hear.
    pub(crate) fn next(&mut self) -> Option<Option<AdvertEvent>> {
        let roads = 1 + self.sockets.len();
        (0..roads).find_map(|_| {
            self.turn = (self.turn + 1) % roads;
            match self.turn.checked_sub(1) {
                Some(socket) => self.sockets[socket].get_mut().next(),
                None => self.xdp.as_mut()?.get_mut().next_event().map(Some),
            }
        })
    }

    /// Whether everything that arrived on an interface before this time has been read, or can be found in
    /// [`Self::last_heard`].
    pub(crate) fn has_heard_until(&self, ifindex: u32, time: Time) -> bool {
        self.socket(ifindex).is_none_or(|socket| socket.heard_until() >= time)
    }

    /// Forwards what the XDP program has to say to the log.
    pub(crate) fn flush_log(&mut self) {
        if let Some(xdp) = &mut self.xdp {
            xdp.get_mut().flush_log();
        }
    }

    /// The last valid advert of every source of every virtual host.
    pub(crate) fn last_heard(&self) -> Vec<(SourceKey, LastHeard)> {
        let xdp = self.xdp.iter().flat_map(|xdp| xdp.get_ref().last_heard());
        xdp.chain(self.sockets.iter().flat_map(|socket| socket.get_ref().last_heard())).collect()
    }

    /// A counter, over all roads.
    pub(crate) fn counter(&self, row: u32, reason: Reason) -> u64 {
        let xdp = self.xdp.as_ref().and_then(|xdp| xdp.get_ref().counter(row, reason).ok()).unwrap_or(0);
        let closed = self.closed.get(&(row, reason)).copied().unwrap_or(0);
        xdp + closed + self.sockets.iter().map(|socket| socket.get_ref().counter(row, reason)).sum::<u64>()
    }

    /// Sets the counters of a row back to 0: another virtual host has it from now on.
    pub(crate) fn clear_counters(&mut self, row: u32) -> Result<(), DatapathError> {
        if let Some(xdp) = &mut self.xdp {
            xdp.get_mut().clear_counters(row)?;
        }
        self.closed.retain(|(of, _), _| *of != row);
        self.sockets.iter_mut().for_each(|socket| socket.get_mut().clear_counters(row));
        Ok(())
    }

    /// The source of the last advert to a virtual host on this interface that was refused for this reason.
    pub(crate) fn last_refused(&self, ifindex: u32, row: u32, reason: Reason) -> Option<Refused> {
        match (self.socket(ifindex), &self.xdp) {
            (Some(socket), _) => socket.last_refused(row, reason),
            (None, Some(xdp)) => xdp.get_ref().last_refused(row, reason).ok(),
            (None, None) => None,
        }
    }

    /// Frames of an interface that a socket has lost.
    pub(crate) fn lost(&mut self, ifindex: u32) -> u64 {
        socket_mut(&mut self.sockets, ifindex).map_or(0, AdvertSocket::lost)
    }

    fn socket(&self, ifindex: u32) -> Option<&AdvertSocket> {
        self.sockets.iter().map(AsyncFd::get_ref).find(|socket| socket.ifindex() == ifindex)
    }
}

fn socket_mut(sockets: &mut [AsyncFd<AdvertSocket>], ifindex: u32) -> Option<&mut AdvertSocket> {
    sockets.iter_mut().map(AsyncFd::get_mut).find(|socket| socket.ifindex() == ifindex)
}

/// Whether the kernel takes the programs, if one of the choices needs them; what it says if not.
pub(crate) fn try_load(choices: impl IntoIterator<Item = Choice>) -> Result<(), String> {
    if choices.into_iter().all(|choice| choice == Choice::Socket) || privileges::missing_for_xdp().is_some() {
        return Ok(());
    }
    Programs::new(None).map(drop).map_err(|error| error.to_string())
}

/// Loads the program, or says why it cannot be.
async fn load(bpffs: &Path, netlink: &Netlink, own: &Names) -> Result<AsyncFd<Xdp>, String> {
    if let Some(missing) = privileges::missing_for_xdp() {
        return Err(missing);
    }
    let pins = match Pins::open(bpffs, netlink, own).await {
        Ok(Ok(pins)) => Ok(pins),
        Ok(Err(pid)) => {
            let why = format!("the pins are those of process {pid}");
            debug!("what is attached does not outlive this process: {why}");
            Err(why)
        }
        Err(error) => {
            warn!("what is attached does not outlive a carpd that is killed: {error:#}");
            Err(format!("{error:#}"))
        }
    };
    let xdp = Xdp::new(pins).map_err(|error| error.to_string())?;
    // SAFETY: the ring's descriptor belongs to the Xdp, which never replaces it.
    unsafe { AsyncFd::register_with_interest(xdp, Interest::READABLE) }
        .map_err(|error| format!("cannot wait for the XDP program's events: {}", io::Error::from(error)))
}
