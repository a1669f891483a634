//! A valid advert: the last-heard map, and the event that wakes the agent.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use carp_common::{
    abi::{Advert, AdvertEvent, LastHeard},
    reason::Reason,
};

use crate::{maps, now};

/// Records a valid advert, and tells the agent unless it has just been told the same; `false` if the ring is full. A function
/// of its own, for what it needs of the stack.
#[inline(never)]
pub(crate) fn heard(row: u32, advert: &Advert) -> bool {
    let arrival = now();
    maps::count(row, Reason::received(advert.source.vhost().family()));

    // If two CPUs do this at once for one source, the map keeps one of the two adverts; both woke the agent.
    let (last, wakes) = LastHeard::hear(maps::last_heard(&advert.source), advert, arrival);
    let (last, is_told) = if !wakes {
        maps::count(row, Reason::Repeat);
        (last, true)
    } else if maps::send(|| AdvertEvent::new(advert.source, last.heard(), advert.mac)) {
        (last, true)
    } else {
        maps::count(row, Reason::RingFull);
        (last.untold(advert), false)
    };
    maps::remember(&advert.source, &last);
    is_told
}

/// Says that the ring was full. A function of its own, as [`heard`].
#[inline(never)]
pub(crate) fn log_full_ring(ctx: &XdpContext, vhid: u8) {
    debug!(ctx, "event ring full: the agent will find vhid {} in the last-heard map", vhid);
}
