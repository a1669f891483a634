//! A valid advert: the last-heard map, and the event that wakes the agent.

use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, programs::XdpContext};
use aya_log_ebpf::debug;
use carp_common::{
    abi::{Advert, AdvertEvent, Heard, LastHeard},
    reason::Reason,
};

use crate::maps;

/// Records a valid advert, and tells the agent unless it has just been told the same.
#[inline(always)]
pub(crate) fn heard(ctx: &XdpContext, row: u32, advert: &Advert) {
    // SAFETY: takes no argument and touches no memory of ours.
    let arrival = unsafe { bpf_ktime_get_boot_ns() };
    maps::count(row, Reason::received(advert.source.vhost().family()));

    let heard = Heard::new(advert, arrival);
    let repeat_of = maps::last_heard(&advert.source).and_then(|last| last.repeat_of(advert, arrival));
    let notified = if let Some(notified) = repeat_of {
        maps::count(row, Reason::Repeat);
        notified
    } else if maps::send(&AdvertEvent::new(advert.source, heard, advert.mac)) {
        arrival
    } else {
        maps::count(row, Reason::RingFull);
        debug!(ctx, "event ring full: the agent will find vhid {} in the last-heard map", advert.source.vhost().vhid());
        // Nobody was woken: so long ago that the next one like it is no repeat.
        arrival.wrapping_sub(advert.interval_nanos())
    };
    maps::remember(&advert.source, &LastHeard::new(heard, notified));
}
