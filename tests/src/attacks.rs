//! What somebody can do to a pair who hears every advert and has no key.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carp_common::checksum;
use carp_common::wire::{ADVERT_LEN, BOW_OUT, ETHERNET_LEN, IPV4_LEN};

use crate::adverts::{self, edit_ip};
use crate::capture::{Capture, Frame};
use crate::clock::BootTime;
use crate::filter::Filter;
use crate::host::{ETH0, Host};
use crate::packet_socket::PacketSocket;

/// Where the advert begins in its frame.
const ADVERT_AT: usize = ETHERNET_LEN + IPV4_LEN;
/// How often an attacker acts.
const TICK: Duration = Duration::from_millis(50);

/// Something that is made of a live master's last advert, and sent again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The advert as it was.
    Copy,
    /// Each to the one who sent it, and to nobody else.
    Reflection,
    /// advskew and advbase of the most preferred, from the master's own address.
    Preferred,
    /// The same from the attacker's address.
    PreferredElsewhere,
    /// An advbase so large that the backup takes it for too slow.
    Slow,
    /// Demoted by 255.
    Demoted,
    /// The master leaves.
    BowOut,
    /// To another vhid.
    OtherVhid,
    /// Its last byte is missing, where it has a trailer.
    Truncated,
    /// Eight bytes more.
    Extended,
    /// Without a trailer, and preferred.
    Stripped,
}

impl Edit {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Copy,
        Self::Reflection,
        Self::Preferred,
        Self::PreferredElsewhere,
        Self::Slow,
        Self::Demoted,
        Self::BowOut,
        Self::OtherVhid,
        Self::Truncated,
        Self::Extended,
        Self::Stripped,
    ];

    /// What it is, in a table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "repeated at once",
            Self::Reflection => "sent back to the master",
            Self::Preferred => "advskew and advbase edited to be preferred",
            Self::PreferredElsewhere => "the same, from the attacker's address",
            Self::Slow => "advbase edited to be slow",
            Self::Demoted => "demote edited to 255",
            Self::BowOut => "edited to a bow-out",
            Self::OtherVhid => "edited to another vhid",
            Self::Truncated => "cut",
            Self::Extended => "lengthened",
            Self::Stripped => "without its seal, and preferred",
        }
    }

    /// What becomes of an advert over IPv4 of this host.
    pub fn apply(self, advert: &[u8], of: &Host, attacker: &Host) -> Result<Vec<u8>> {
        let mut frame = advert.to_vec();
        match self {
            Self::Copy => {}
            Self::Reflection => frame[..6].copy_from_slice(&of.mac().0),
            Self::Preferred => set(&mut frame, &[(2, 0), (5, 0)])?,
            Self::PreferredElsewhere => {
                set(&mut frame, &[(2, 0), (5, 0)])?;
                set_source(&mut frame, attacker.ip())?;
            }
            Self::Slow => set(&mut frame, &[(5, 250)])?,
            Self::Demoted => set(&mut frame, &[(4, 255)])?,
            Self::BowOut => set(&mut frame, &[(2, BOW_OUT), (5, BOW_OUT)])?,
            Self::OtherVhid => set(&mut frame, &[(1, 2)])?,
            Self::Truncated => {
                if frame.len() > ADVERT_AT + ADVERT_LEN {
                    resize(&mut frame, -1)?;
                }
            }
            Self::Extended => resize(&mut frame, 8)?,
            Self::Stripped => {
                let trailer = frame.len() - ADVERT_AT - ADVERT_LEN;
                resize(&mut frame, -(trailer as isize))?;
                set(&mut frame, &[(2, 0), (5, 0)])?;
                set_source(&mut frame, attacker.ip())?;
            }
        }
        Ok(frame)
    }
}

/// Changes bytes of an advert in its frame, and puts its checksum right.
pub fn set(frame: &mut [u8], bytes: &[(usize, u8)]) -> Result<()> {
    let advert: &mut [u8; ADVERT_LEN] =
        frame.get_mut(ADVERT_AT..).and_then(|rest| rest.first_chunk_mut()).context("too short for an advert")?;
    for (at, byte) in bytes {
        advert[*at] = *byte;
    }
    advert[6..8].fill(0);
    let sum = checksum::internet(advert);
    advert[6..8].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// Changes the source of an advert over IPv4 in its frame, and puts its checksum right.
pub fn set_source(frame: &mut [u8], source: Ipv4Addr) -> Result<()> {
    edit_ip(frame, |ip| ip[12..16].copy_from_slice(&source.octets()))
}

fn resize(frame: &mut Vec<u8>, by: isize) -> Result<()> {
    let len = frame.len().checked_add_signed(by).context("too short")?;
    frame.resize(len, 0);
    let length = u16::try_from(len - ETHERNET_LEN)?;
    edit_ip(frame, |ip| ip[2..4].copy_from_slice(&length.to_be_bytes()))
}

/// Hears everything on a network, and can send.
pub struct Attacker<'h> {
    host: &'h Host,
    capture: Capture,
    sender: PacketSocket,
}

impl<'h> Attacker<'h> {
    /// On this host.
    pub fn on(host: &'h Host) -> Result<Self> {
        let capture = Capture::start(host.ns(), ETH0, Filter::Everything)?;
        Ok(Self { host, capture, sender: PacketSocket::sender(host.ns(), ETH0)? })
    }

    /// All adverts that this host has sent so far.
    pub fn adverts_of(&self, host: &Host) -> Vec<Frame> {
        let is_its = |frame: &Frame| {
            !frame.outgoing
                && adverts::parse(frame).is_some_and(|advert| advert.source == host.ip() && !advert.is_bow_out())
        };
        let mut frames = self.capture.frames();
        frames.retain(is_its);
        frames
    }

    /// Makes this of a host's adverts, and sends it, as long as that takes.
    pub fn edit(&self, edit: Edit, of: &Host, lasting: Duration) -> Result<()> {
        let end = BootTime::now() + lasting;
        let mut sent = 0;
        while BootTime::now() < end {
            if let Some(advert) = self.adverts_of(of).last() {
                self.sender.send(&edit.apply(&advert.bytes, of, self.host)?)?;
                sent += 1;
            }
            thread::sleep(TICK);
        }
        ensure!(sent > 0, "there was no advert to be heard");
        Ok(())
    }

    /// Sends the last of these, again and again.
    pub fn repeat(&self, recorded: &[Frame], lasting: Duration) -> Result<()> {
        let last = recorded.last().context("nothing was recorded")?;
        let end = BootTime::now() + lasting;
        while BootTime::now() < end {
            self.sender.send(&last.bytes)?;
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Sends all of these at the pace at which they were heard, `until` it is enough.
    pub fn replay(&self, recorded: &[Frame], mut until: impl FnMut() -> Result<bool>) -> Result<()> {
        let first = recorded.first().context("nothing was recorded")?.at;
        let begun = BootTime::now();
        for frame in recorded {
            while BootTime::now().since(begun) < frame.at.since(first) {
                if until()? {
                    return Ok(());
                }
                thread::sleep(TICK / 5);
            }
            self.sender.send(&frame.bytes)?;
        }
        Ok(())
    }
}
