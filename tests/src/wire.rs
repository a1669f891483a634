//! What passes on the lab's wire that matters to CARP: adverts and announcements.

use std::iter;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::adverts::{self, SeenAdvert};
use crate::capture::{Capture, Frame};
use crate::clock::BootTime;
use crate::filter::Filter;
use crate::host::{ETH0, Host};
use crate::netns::Netns;
use crate::node::LONG;
use crate::packet::{Arp, NeighbourAdvert};

/// A [`Capture`] that is read as adverts and gratuitous ARP.
pub struct Wire {
    capture: Capture,
}

impl Wire {
    /// What a host without an XDP program sees: the multicasts and broadcasts of all.
    pub fn at(bystander: &Host) -> Result<Self> {
        Self::on(bystander.ns(), ETH0)
    }

    /// What passes an interface.
    pub fn on(ns: &Netns, ifname: &str) -> Result<Self> {
        Ok(Self { capture: Capture::start(ns, ifname, Filter::Everything)? })
    }

    /// Waits for as many adverts of this source, sent from now on; returns the last.
    pub fn wait_for_adverts(&self, source: impl Into<IpAddr>, count: usize) -> Result<(BootTime, SeenAdvert)> {
        let source = source.into();
        let now = BootTime::now();
        let mut left = count;
        self.wait_for_advert(&format!("advert {count} of {source}"), |at, advert| {
            left -= usize::from(at >= now && advert.source == source);
            left == 0
        })
    }

    /// Waits for the next advert of a host; returns its frame.
    pub fn next_advert(&self, host: &Host) -> Result<Vec<u8>> {
        let now = BootTime::now();
        let from = |frame: &Frame| adverts::parse(frame).is_some_and(|advert| advert.source == host.ip());
        let what = format!("an advert of {}", host.name());
        Ok(self.capture.wait_for(&what, LONG, |frame| frame.at >= now && from(frame))?.bytes)
    }

    /// Waits for the next advert like this.
    pub fn wait_for_advert(
        &self,
        what: &str,
        mut wanted: impl FnMut(BootTime, &SeenAdvert) -> bool,
    ) -> Result<(BootTime, SeenAdvert)> {
        let mut seen = None;
        let frame = self.capture.wait_for(what, LONG, |frame| {
            seen = adverts::parse(frame).filter(|advert| wanted(frame.at, advert));
            seen.is_some()
        })?;
        seen.map(|advert| (frame.at, advert)).context("the wait was for an advert")
    }

    /// Waits for the next announcement of an address by a host, at or after this moment.
    pub fn wait_for_announcement(&self, host: &Host, address: impl Into<IpAddr>, from: BootTime) -> Result<BootTime> {
        let address = address.into();
        let what = format!("{} announces {address}", host.name());
        let frame =
            self.capture.wait_for(&what, LONG, |frame| frame.at >= from && is_announcement(frame, host, address))?;
        Ok(frame.at)
    }

    /// All adverts of this source so far.
    pub fn adverts_of(&self, source: impl Into<IpAddr>) -> Vec<(BootTime, SeenAdvert)> {
        let source = source.into();
        let seen = self.capture.frames();
        seen.iter()
            .filter_map(|frame| Some((frame.at, adverts::parse(frame)?)))
            .filter(|(_, advert)| advert.source == source)
            .collect()
    }

    /// The longest time between adverts of a virtual host of this source, from one moment to another.
    pub fn longest_silence(&self, source: impl Into<IpAddr>, vhid: u8, from: BootTime, to: BootTime) -> Duration {
        let adverts = self.adverts_of(source).into_iter().filter(|(_, advert)| advert.vhid == vhid);
        let within = adverts.map(|(at, _)| at).filter(|at| (from..=to).contains(at));
        let times: Vec<_> = iter::once(from).chain(within).chain([to]).collect();
        times.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
    }

    /// When a host announced an address.
    pub fn announcements_of(&self, host: &Host, address: impl Into<IpAddr>) -> Vec<BootTime> {
        let address = address.into();
        let frames = self.capture.frames();
        frames.iter().filter(|frame| is_announcement(frame, host, address)).map(|frame| frame.at).collect()
    }

    /// Everything so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.capture.frames()
    }
}

fn is_announcement(frame: &Frame, host: &Host, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => Arp::from_frame(&frame.bytes) == Some(Arp::gratuitous(host.mac(), address)),
        IpAddr::V6(address) => {
            NeighbourAdvert::from_frame(&frame.bytes) == Some(NeighbourAdvert::unsolicited(host.mac(), address))
        }
    }
}
