//! Packet memory as a [`Frame`]: the only place that reads it.

use core::hint::black_box;

use aya_ebpf::programs::{TcContext, XdpContext};
use carp_common::{fence::HEADERS_LEN, verdict::Frame};

/// The frame that a program was called for.
pub(crate) struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn arriving(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// What is about to leave, with the headers that the fence looks at. `None` if the frame has a VLAN's tag, which the
    /// kernel keeps beside it until the card or the driver puts it in: without it, it would look like one of this interface.
    #[inline(always)]
    pub(crate) fn leaving(ctx: &TcContext) -> Option<Self> {
        // SAFETY: the verifier lets the fields of the context be read, and nothing else.
        if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
            return None;
        }
        let mut packet = Self { start: ctx.data(), end: ctx.data_end() };
        // Only what is elsewhere is pulled: the helper would copy the headers of what is shared, as TCP's are.
        let wanted = ctx.len().min(HEADERS_LEN as u32);
        if !packet.has(wanted as usize) {
            // Without memory for it, the frame seems to end early, and passes. What was read before is void in any case.
            let _ = ctx.pull_data(wanted);
            packet = Self { start: ctx.data(), end: ctx.data_end() };
        }
        Some(packet)
    }
}

impl Frame for Packet {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if self.start + offset + N > self.end {
            return None;
        }
        let mut bytes = [0; N];
        // Two by two where that is aligned: a frame begins on an even address (the verifier relies on it too).
        if N.is_multiple_of(2) && offset.is_multiple_of(2) {
            let words = (self.start + offset) as *const u16;
            for (at, pair) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                // SAFETY: the verifier has seen the comparison above: `offset + N` bytes lie before the end.
                *pair = unsafe { words.add(at).read() }.to_ne_bytes();
            }
        } else {
            // SAFETY: as above, and a byte array has no alignment.
            bytes = unsafe { ((self.start + offset) as *const [u8; N]).read() };
        }
        Some(bytes)
    }

    #[inline(always)]
    fn has(&self, len: usize) -> bool {
        self.start + len <= self.end
    }

    #[inline(always)]
    fn skip(&self, offset: usize) -> impl Frame {
        // Behind the black box the sum is made once: comparisons with the end hold for the register that was
        // compared, and would say nothing of a second sum.
        Self { start: black_box(self.start + offset), end: self.end }
    }
}
