//! Packet memory as a [`Frame`]: the only place that reads it.

use core::hint::black_box;

use aya_ebpf::programs::XdpContext;
use carp_common::verdict::Frame;

/// The frame that XDP was called for.
pub(crate) struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn of(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }
}

impl Frame for Packet {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if self.start + offset + N > self.end {
            return None;
        }
        let bytes = (self.start + offset) as *const [u8; N];
        // SAFETY: the verifier has seen the comparison above: `offset + N` bytes lie before the end, and a
        // byte array has no alignment.
        Some(unsafe { bytes.read() })
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
