//! Packet memory as a [`Frame`]: the only place that reads it.

use core::hint::black_box;

use aya_ebpf::programs::XdpContext;
use carp_common::verdict::Frame;

/// The frame that XDP was called for.
pub(crate) struct XdpFrame {
    start: usize,
    end: usize,
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn of(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }
}

impl Frame for XdpFrame {
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
