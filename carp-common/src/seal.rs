//! The seal: a trailer after an advert's 36 bytes, which nobody can make without the key. Peers that do not know it take the
//! advert for a plain one, which it is.
//!
//! | offset | field | value |
//! |---|---|---|
//! | 36 | magic | 0x5ea1 |
//! | 38 | version | 1 |
//! | 39 | key id | 1 to 255: which of the receiver's keys |
//! | 40 | sequence | 64 bits: nanoseconds, risen since the last one as CLOCK_BOOTTIME has |
//! | 48 | tag | the first 16 bytes of HMAC-SHA256 |
//!
//! The HMAC is over 80 bytes: source and destination address (16 bytes each, IPv4 in its IPv4-mapped form), the 36 bytes
//! of the advert, and the trailer before the tag.
//!
//! A sequence is good once. How new it has to be, says [`Sequence::after`].

#[cfg(any(test, feature = "engine"))]
mod memory;

use core::hint::black_box;

use zeroize::{Zeroize, ZeroizeOnDrop};

#[cfg(any(test, feature = "engine"))]
pub use self::memory::SealMemory;
use crate::{
    digest::{Scratch, end_outer},
    sha256::{INITIAL, compress},
    verdict::Frame,
    wire::ADVERT_LEN,
};

/// Length of the trailer.
pub const TRAILER_LEN: usize = HEAD_LEN + TAG_LEN;
/// Length of a sealed advert.
pub const SEALED_LEN: usize = ADVERT_LEN + TRAILER_LEN;
/// Length of the tag.
pub const TAG_LEN: usize = 16;
/// Length of the trailer before the tag.
pub const HEAD_LEN: usize = 12;
/// Length of what the tag is over.
pub const MESSAGE_LEN: usize = 32 + ADVERT_LEN + HEAD_LEN;
/// Fewest bytes of a key.
pub const MIN_KEY: usize = 16;
/// Most bytes of a key: one block of SHA-256.
pub const MAX_KEY: usize = 64;

const MAGIC_AND_VERSION: [u8; 3] = [0x5e, 0xa1, 1];

/// What a trailer says before its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which key.
    pub key_id: u8,
    /// Larger than in every advert before.
    pub sequence: u64,
}

impl Head {
    /// As it stands in the trailer.
    #[must_use]
    pub const fn encode(&self) -> [u8; HEAD_LEN] {
        let [magic_0, magic_1, version] = MAGIC_AND_VERSION;
        let [a, b, c, d, e, f, g, h] = self.sequence.to_be_bytes();
        [magic_0, magic_1, version, self.key_id, a, b, c, d, e, f, g, h]
    }

    /// The key id of a payload of this length; `None` if it has no trailer. (No key has the id 0.)
    #[inline(always)]
    pub(crate) fn key_id_of(payload: &impl Frame, len: usize) -> Option<u8> {
        // The comparison with the length is the sender's word, the other one the verifier's proof.
        if len != SEALED_LEN || !payload.has(SEALED_LEN) {
            return None;
        }
        let [magic_0, magic_1, version, key_id] = payload.read(ADVERT_LEN)?;
        ([magic_0, magic_1, version] == MAGIC_AND_VERSION && key_id != 0).then_some(key_id)
    }

    /// The sequence of a payload that has a trailer. To be read where it is needed: there is too little stack to keep it.
    #[inline(always)]
    pub(crate) fn sequence_of(payload: &impl Frame) -> Option<u64> {
        Some(u64::from_be_bytes(payload.skip(0).read(ADVERT_LEN + 4)?))
    }
}

/// A key as an administrator gives it: [`MIN_KEY`] to [`MAX_KEY`] bytes. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret {
    bytes: [u8; MAX_KEY],
    len: u8,
}

impl Secret {
    /// Takes a key; `None` if it is too short or too long.
    #[must_use]
    pub fn new(key: &[u8]) -> Option<Self> {
        if !(MIN_KEY..=MAX_KEY).contains(&key.len()) {
            return None;
        }
        let mut bytes = [0; MAX_KEY];
        bytes[..key.len()].copy_from_slice(key);
        Some(Self { bytes, len: key.len() as u8 })
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

/// Everything of a tag that does not change from advert to advert: the states after the two key pads.
///
/// As good as the key itself: no `Debug`, never logged, wiped by its owner. Part of the kernel ABI.
#[derive(Clone, Copy, Zeroize)]
#[repr(C)]
pub struct SealKey {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl SealKey {
    /// Prepares the tags that are made with this key.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let keyed = |pad: u8| {
            let mut block = secret.bytes.map(|byte| byte ^ pad);
            let mut words = core::array::from_fn(|at| u32::from_be_bytes(block.as_chunks().0[at]));
            let mut state = [0; 16];
            begin(&mut state, &INITIAL);
            compress(&mut state, &mut words);
            let keyed = core::array::from_fn(|at| state[at]);
            block.zeroize();
            words.zeroize();
            state.zeroize();
            keyed
        };
        Self { inner: keyed(0x36), outer: keyed(0x5c) }
    }

    /// Whether a sealed advert's tag is of this key. The blocks begin with source and destination address.
    #[inline(always)]
    pub(crate) fn fits(&self, payload: &impl Frame, Scratch { blocks, state }: &mut Scratch) -> Option<bool> {
        const WORDS: usize = (ADVERT_LEN + HEAD_LEN) / 4;
        let all = blocks.as_flattened_mut();
        let again = payload.skip(0);
        for at in 0..WORDS {
            all[8 + at] = u32::from_be_bytes(again.read(4 * at)?);
        }
        all[8 + WORDS] = 0x8000_0000;
        for word in &mut all[9 + WORDS..31] {
            *word = black_box(0);
        }
        all[31] = (64 + MESSAGE_LEN as u32) * 8;
        begin(state, &self.inner);
        compress(state, &mut blocks[0]);
        compress(state, &mut blocks[1]);
        // The outer message: 32 bytes of inner digest after the 64 of the key pad.
        let (inner, _) = state.split_first_chunk::<8>().expect("eight of sixteen");
        end_outer(&mut blocks[0], inner);
        begin(state, &self.outer);
        compress(state, &mut blocks[0]);
        // In constant time: how much of a wrong tag is right must not show.
        let mut difference = 0;
        let payload = payload.skip(0);
        for (at, word) in state.iter().take(TAG_LEN / 4).enumerate() {
            difference |= word ^ u32::from_be_bytes(payload.read(ADVERT_LEN + HEAD_LEN + 4 * at)?);
        }
        Some(difference == 0)
    }
}

#[inline(always)]
fn begin(state: &mut [u32; 16], with: &[u32; 8]) {
    for (to, from) in state.iter_mut().zip(with) {
        *to = black_box(*from);
    }
}

/// The last sequence of a source that was good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sequence {
    /// The sequence.
    pub last: u64,
    /// The counter of the same advert.
    pub counter: u64,
    /// When it arrived, or would have if it had not been late, in nanoseconds of CLOCK_BOOTTIME.
    pub arrival: u64,
}

/// For how many seals there is time, of adverts whose counter need not be a new one: somebody may have their digests from adverts
/// that were heard, and can send as many as he likes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Budget {
    /// Since when these are counted, in nanoseconds of CLOCK_BOOTTIME.
    since: u64,
    looks: u64,
}

impl Budget {
    /// So many in a millisecond, on each CPU: some 8 % of it.
    const LOOKS: u64 = 64;
    const SPAN: u64 = 1_000_000;

    /// Whether there is time for one more.
    #[inline(always)]
    pub const fn take(&mut self, now: u64) -> bool {
        if now.wrapping_sub(self.since) >= Self::SPAN {
            *self = Self { since: now, looks: 0 };
        }
        self.looks += 1;
        self.looks <= Self::LOOKS
    }
}

/// The clocks of a receiver, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_BOOTTIME.
    pub boot: u64,
    /// CLOCK_REALTIME.
    pub wall: u64,
}

/// That a source which has the key was not believed, for its clock is set to another time than ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Apart {
    /// When its last advert of this kind arrived, in nanoseconds of CLOCK_BOOTTIME.
    pub arrival: u64,
    /// By how many nanoseconds its sequence was ahead of our wall clock.
    pub ahead: i64,
}

impl Apart {
    /// What an advert with this sequence shows.
    #[inline(always)]
    #[must_use]
    pub const fn new(sequence: u64, clocks: Clocks) -> Self {
        Self { arrival: clocks.boot, ahead: sequence.wrapping_sub(clocks.wall) as i64 }
    }
}

/// Of what a sender's clock has run since its last advert, it may have lost so much against ours: clocks are slewed, by chrony
/// by up to a twelfth. (As a divisor.)
const SLEWED: u64 = 8;

impl Sequence {
    /// What is remembered when a sequence arrives, with this counter, that is larger than the `last` good one of its source, if
    /// there was one; `None` if it is not of now. With a window of 0, each is.
    ///
    /// The wall clock counts only at the first contact: of a source of which none is known, or none for longer than the
    /// window. Otherwise the sequence must have risen by as much as the receiver's own boottime since, within the
    /// window: so it does not matter whose wall clock is set meanwhile.
    ///
    /// Adverts that come late do not make it right for the next to be later still: what is expected stays, but for what
    /// clocks are slewed. So whoever repeats adverts that a receiver has not heard keeps a dead sender alive for a window.
    #[inline(always)]
    #[must_use]
    pub fn after(last: Option<&Self>, sequence: u64, counter: u64, window: u64, clocks: Clocks) -> Option<Self> {
        let heard = |late: u64| Self { last: sequence, counter, arrival: clocks.boot.saturating_sub(late) };
        if window == 0 {
            return Some(heard(0));
        }
        let late = |expected: u64| {
            let late = expected.wrapping_sub(sequence) as i64;
            if late.unsigned_abs() <= window { Some(late.max(0) as u64) } else { None }
        };
        if let Some(last) = last {
            let elapsed = clocks.boot.saturating_sub(last.arrival);
            if let Some(late) = late(last.last.wrapping_add(elapsed)) {
                return Some(heard(late.saturating_sub(sequence.wrapping_sub(last.last) / SLEWED)));
            }
            if elapsed <= window {
                return None;
            }
        }
        late(clocks.wall).map(heard)
    }
}
