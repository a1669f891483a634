//! The kernel programs: one judges CARP adverts before the network stack sees them; and with another that looks at what
//! leaves, it keeps a host quiet whose mastership lease is over.
//!
//! What they decide is written in `carp_common::verdict` and `carp_common::fence`, which user space shares; this crate
//! reads packet memory, looks into maps, counts, and wakes the agent.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod events;
mod frame;
mod maps;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::bpf_ktime_get_boot_ns,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use carp_common::{
    fence,
    reason::Reason,
    verdict::{Verdict, judge},
};
use frame::Packet;

/// Judges one frame. Marked for multi-buffer frames, so that native mode works at any MTU: an advert, and what the fence
/// looks at, always lies within the first buffer.
#[xdp(frags)]
fn carp_advert(ctx: XdpContext) -> u32 {
    let (frame, ifindex) = (Packet::arriving(&ctx), ctx.ingress_ifindex() as u32);
    match judge(&frame, ifindex, &maps::Maps, &maps::Maps, maps::scratch) {
        Verdict::Refused(row, reason, source) => {
            maps::refuse(row, reason, &source);
            return xdp_action::XDP_DROP;
        }
        Verdict::Valid(row, advert) => {
            if !events::heard(row, &advert) {
                events::log_full_ring(&ctx, advert.source.vhost().vhid());
            }
            return xdp_action::XDP_PASS;
        }
        Verdict::Other(row, source) => maps::refuse(row, Reason::Other, &source),
        Verdict::Foreign => {}
    }
    match fence::arrives(&frame, ifindex, &maps::Maps, now) {
        Some(row) => {
            maps::count(row, Reason::FencedIn);
            xdp_action::XDP_DROP
        }
        None => xdp_action::XDP_PASS,
    }
}

/// Looks at one frame that is about to leave. What it lets pass, other programs may still drop.
#[classifier]
fn carp_egress(ctx: TcContext) -> i32 {
    let Some(frame) = Packet::leaving(&ctx) else { return TC_ACT_UNSPEC };
    // SAFETY: the verifier lets the fields of the context be read.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    match fence::leaves(&frame, ifindex, &maps::Maps, now) {
        Some(row) => {
            maps::count(row, Reason::FencedOut);
            TC_ACT_SHOT
        }
        None => TC_ACT_UNSPEC,
    }
}

/// Nanoseconds of CLOCK_BOOTTIME.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes no argument and touches no memory of ours.
    unsafe { bpf_ktime_get_boot_ns() }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
