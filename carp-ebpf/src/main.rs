//! The XDP program: judges CARP adverts before the network stack sees them.
//!
//! What it decides is written in `carp_common::verdict`, which user space shares; this crate reads packet
//! memory, looks into maps, counts, and wakes the agent.

#![no_std]
#![no_main]

mod events;
mod frame;
mod maps;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use carp_common::{
    reason::Reason,
    verdict::{Verdict, judge},
};

/// Judges one frame. Marked for multi-buffer frames, so that native mode works at any MTU: an advert always
/// lies within the first buffer.
#[xdp(frags)]
fn carp_advert(ctx: XdpContext) -> u32 {
    match judge(&frame::XdpFrame::of(&ctx), ctx.ingress_ifindex() as u32, &maps::Maps, maps::scratch) {
        Verdict::Foreign => xdp_action::XDP_PASS,
        Verdict::Other(row, source) => {
            maps::refuse(row, Reason::Other, &source);
            xdp_action::XDP_PASS
        }
        Verdict::Refused(row, reason, source) => {
            maps::refuse(row, reason, &source);
            xdp_action::XDP_DROP
        }
        Verdict::Valid(row, advert) => {
            events::heard(&ctx, row, &advert);
            xdp_action::XDP_PASS
        }
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
