//! A valid advert: the last-heard map, and the event that wakes the agent.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use carp_common::{
    abi::{Advert, AdvertEvent, LastHeard},
    reason::Reason,
};

use crate::{maps, now};

/// Records a valid advert, and tells the agent unless it has just been told the same.
#[inline(always)]
pub(crate) fn heard(ctx: &XdpContext, row: u32, advert: &Advert) {
    let arrival = now();
    maps::count(row, Reason::received(advert.source.vhost().family()));

    // If two CPUs do this at once for one source, the map keeps one of the two adverts; both woke the agent.
    let (last, wakes) = LastHeard::hear(maps::last_heard(&advert.source).as_ref(), advert, arrival);
    let last = if !wakes {
        maps::count(row, Reason::Repeat);
        last
    } else if maps::send(&AdvertEvent::new(advert.source, last.heard(), advert.mac)) {
        last
    } else {
        maps::count(row, Reason::RingFull);
        debug!(ctx, "event ring full: the agent will find vhid {} in the last-heard map", advert.source.vhost().vhid());
        last.untold(advert)
    };
    maps::remember(&advert.source, &last);
}
