//! Sending adverts: counter, digest, frame.

use std::{
    io,
    net::IpAddr,
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

use carp_common::{
    digest::message_prefix,
    engine::AdvertFields,
    wire::{AdvertFrame, Destination, Header, virtual_mac},
};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::PacketSocket;
use crate::config::{AdvertMac, Settings};

/// By how much the counter rises at least: a peer that adopts it and adds one never meets it.
const COUNTER_STEP: u64 = 1 << 16;

/// Sends the adverts of one virtual host.
pub(crate) struct AdvertSender {
    socket: Rc<PacketSocket>,
    vhid: u8,
    mac: AdvertMac,
    /// The HMACs over everything before the counter: an advert is sent once with each.
    prefixes: Vec<Hmac<Sha1>>,
    counter: u64,
}

impl AdvertSender {
    /// Prepares the adverts of a virtual host.
    pub(crate) fn new(socket: Rc<PacketSocket>, settings: &Settings) -> Self {
        let vhid = settings.vhid.get();
        Self { socket, vhid, mac: settings.advert_mac, prefixes: prefixes(settings), counter: 0 }
    }

    /// Goes on with other settings, and with its counter.
    pub(crate) fn set(&mut self, settings: &Settings) {
        self.mac = settings.advert_mac;
        self.prefixes = prefixes(settings);
    }

    /// All counters from now on are above this one, whatever the clock says.
    pub(crate) fn rise_above(&mut self, newest: u64) {
        self.counter = self.counter.max(newest);
    }

    /// The counter of the last advert.
    pub(crate) const fn newest(&self) -> u64 {
        self.counter
    }

    /// The counter for the next advert: at least the wall clock in nanoseconds, and always rising, so that
    /// it goes on rising after a restart of the agent or the machine.
    pub(crate) fn next_counter(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.counter = self.counter.saturating_add(COUNTER_STEP).max(now);
        self.counter
    }

    /// Sends one advert with the counter that [`Self::next_counter`] gave, to each of these of its source's family. (With
    /// the same counter again if there is another digest: who accepts both hears it once more, and no harm is done.)
    ///
    /// `mac` is the hardware address that the interface has now. An error is the first; all have been tried.
    pub(crate) fn send(
        &self,
        ifindex: u32,
        mac: [u8; 6],
        source: IpAddr,
        destinations: &[Destination],
        fields: AdvertFields,
        counter: u64,
    ) -> io::Result<()> {
        let AdvertFields { advbase, advskew, demote } = fields;
        let headers = self.prefixes.iter().map(|prefix| {
            let digest = prefix.clone().chain_update(counter.to_be_bytes()).finalize().into_bytes().into();
            Header { vhid: self.vhid, advskew, demote, advbase, counter, digest }
        });
        let mac = match self.mac {
            AdvertMac::Virtual => virtual_mac(self.vhid),
            AdvertMac::Interface => mac,
        };
        let frames = headers.flat_map(|header| {
            destinations.iter().filter_map(move |destination| AdvertFrame::new(&header, mac, source, *destination))
        });
        let mut sent = Ok(());
        for frame in frames {
            sent = sent.and(self.socket.send(ifindex, frame.as_bytes()));
        }
        sent
    }

    /// The socket, for other frames of the same virtual host.
    pub(crate) fn socket(&self) -> &PacketSocket {
        &self.socket
    }
}

fn prefixes(settings: &Settings) -> Vec<Hmac<Sha1>> {
    let prefix = |vips: &Vec<IpAddr>| {
        let mut prefix = Hmac::new_from_slice(settings.passphrase.key()).expect("HMAC takes keys of any length");
        message_prefix(settings.vhid.get(), vips, |piece| prefix.update(piece));
        prefix
    };
    settings.digests().sent.iter().map(prefix).collect()
}
