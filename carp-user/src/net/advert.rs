//! Sending adverts: counter, digest, seal, frame.

use std::{io, net::IpAddr, path::PathBuf, rc::Rc, time::Duration};

use carp_common::{
    digest::message_prefix,
    engine::AdvertFields,
    wire::{AdvertFrame, Destination, Header, virtual_mac},
};
use hmac::{Hmac, KeyInit, Mac};
use log::warn;
use sha1::Sha1;

use super::{
    PacketSocket,
    seal::{self, Sealer, Sequences},
};
use crate::{
    clock::{now, wall, wall_ahead},
    config::{
        AdvertMac, Settings,
        seal::{Freshness, Key},
    },
};

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
    sealer: Option<Sealer>,
    freshness: Freshness,
    sequences: Sequences,
    /// After which they may begin anew.
    silence: Duration,
    /// Where it is kept how they go on.
    sequence_file: PathBuf,
}

impl AdvertSender {
    /// Prepares the adverts of a virtual host, whose sequences go on as this file says.
    pub(crate) fn new(socket: Rc<PacketSocket>, settings: &Settings, sequence_file: PathBuf) -> Self {
        let vhid = settings.vhid.get();
        let mut sequences = Sequences::default();
        if let Some(ahead) = seal::kept(&sequence_file) {
            sequences.go_on(ahead, now());
        }
        Self {
            socket,
            vhid,
            mac: settings.advert_mac,
            prefixes: prefixes(settings),
            counter: 0,
            sealer: settings.seal.sending().map(Sealer::new),
            freshness: settings.seal.freshness,
            silence: silence(settings),
            sequences,
            sequence_file,
        }
    }

    /// Goes on with other settings, and with its counter; with the key that it has, until [`Self::seal_with`] is called.
    pub(crate) fn set(&mut self, settings: &Settings) {
        self.mac = settings.advert_mac;
        self.prefixes = prefixes(settings);
        self.freshness = settings.seal.freshness;
        self.silence = silence(settings);
    }

    /// Seals with this key from now on, or not at all.
    pub(crate) fn seal_with(&mut self, key: Option<&Key>) {
        self.sealer = key.map(Sealer::new);
    }

    /// Begins anew with them by the wall clock, if that is further off than others allow and has them rise.
    pub(crate) fn renew_sequences(&mut self, window: u64) {
        let is_off = |ahead: u64| (ahead.wrapping_sub(wall_ahead()) as i64).unsigned_abs() > window;
        if window > 0 && self.sequences.ahead().is_some_and(is_off) {
            self.sequences.begin_anew();
        }
    }

    /// By how much they are ahead of CLOCK_BOOTTIME, if there was one.
    pub(crate) const fn sequences_ahead(&self) -> Option<u64> {
        self.sequences.ahead()
    }

    /// All counters from now on are above this one, whatever the clock says; and all sequences, if nobody compares these with a
    /// clock.
    pub(crate) fn rise_above(&mut self, newest: u64) {
        self.counter = self.counter.max(newest);
        if self.freshness == Freshness::Rising {
            self.sequences.rise_above(newest);
        }
    }

    /// What those of the next boot have to be above: the counter of the last advert, and its sequence, if nobody compares that with a
    /// clock.
    pub(crate) fn newest(&self) -> u64 {
        match self.freshness {
            Freshness::Clock => self.counter,
            Freshness::Rising => self.counter.max(self.sequences.last()),
        }
    }

    /// The counter for the next advert: at least the wall clock in nanoseconds, and always rising, so that
    /// it goes on rising after a restart of the agent or the machine.
    pub(crate) fn next_counter(&mut self) -> u64 {
        self.counter = self.counter.saturating_add(COUNTER_STEP).max(wall());
        self.counter
    }

    /// Sends one advert with the counter that [`Self::next_counter`] gave, to each of these of its source's family. (With
    /// the same counter again if there is another digest: who accepts both hears it once more, and no harm is done.)
    ///
    /// `mac` is the hardware address that the interface has now. An error is the first; all have been tried.
    pub(crate) fn send(
        &mut self,
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
        let headers: Vec<_> = headers.collect();
        let mut sent = Ok(());
        for header in headers {
            for destination in destinations {
                let sequence = if self.sealer.is_some() { self.next_sequence() } else { 0 };
                let frame = match &self.sealer {
                    None => AdvertFrame::new(&header, mac, source, *destination),
                    Some(sealer) => {
                        let advert = header.encode();
                        let trailer = sealer.trailer(source, destination.ip, &advert, sequence);
                        AdvertFrame::sealed(&advert, &trailer, mac, source, *destination)
                    }
                };
                sent = sent.and(frame.map_or(Ok(()), |frame| self.socket.send(ifindex, frame.as_bytes())));
            }
        }
        sent
    }

    fn next_sequence(&mut self) -> u64 {
        let (sequence, is_new) = self.sequences.next(now(), wall_ahead(), self.silence);
        if let Some(ahead) = self.sequences.ahead().filter(|_| is_new)
            && let Err(error) = seal::keep(&self.sequence_file, ahead)
        {
            warn!(
                "{error:#}: with a clock that is set back, the adverts of the next carpd would be old ones to others"
            );
        }
        sequence
    }

    /// The socket, for other frames of the same virtual host.
    pub(crate) fn socket(&self) -> &PacketSocket {
        &self.socket
    }
}

fn silence(settings: &Settings) -> Duration {
    seal::silence(Duration::from_nanos(settings.seal_window()))
}

fn prefixes(settings: &Settings) -> Vec<Hmac<Sha1>> {
    let prefix = |vips: &Vec<IpAddr>| {
        let mut prefix = Hmac::new_from_slice(settings.passphrase.key()).expect("HMAC takes keys of any length");
        message_prefix(settings.vhid.get(), vips, |piece| prefix.update(piece));
        prefix
    };
    settings.digests().sent.iter().map(prefix).collect()
}
