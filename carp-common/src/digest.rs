//! The digest of an advert: HMAC-SHA1 over `02 01`, vhid, VIPs and counter.
//!
//! Only the counter changes from advert to advert, so [`DigestKey`] holds everything that can be computed
//! beforehand: the SHA-1 state after the inner key pad and every full block of vhid and VIPs, the state
//! after the outer key pad, and the last one or two blocks with a hole for the counter. Checking an advert
//! then costs one inner compression (two from 12 IPv4 VIPs on) and one outer.
//!
//! What the digest does **not** cover: advskew, advbase, demote, the checksum and the IP header. Whoever
//! sees one advert can rewrite those, and it still verifies.
//!
//! Rules: `carp_hmac_prepare` and `carp_hmac_generate` in the BSDs' `ip_carp.c`. The key is the passphrase
//! padded with NULs to 20 bytes; VIPs go in ascending order, IPv4 before IPv6, duplicates once, without
//! their prefix lengths; the version and type are two bytes here, not the advert's 0x21.
//!
//! SHA-1 is written out here because the kernel's verifier takes no ready-made one: the program has 512
//! bytes of stack, so the message schedule lives in a map and is worked in place. The agent signs what it
//! sends with the `hmac` and `sha1` crates, so two implementations meet on every advert.

use core::{hint::black_box, net::IpAddr};

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Longest passphrase in bytes: what every peer's key holds beside its final NUL.
pub const MAX_PASSPHRASE: usize = 19;

/// Working space for digests and seals, for the kernel program has too little stack: two blocks in which the end of a message
/// is laid out, as big-endian words, and worked in place; and the state of the hash.
#[derive(Default, Zeroize)]
#[repr(C)]
pub struct Scratch {
    pub(crate) blocks: [[u32; 16]; 2],
    pub(crate) state: [u32; 16],
}

/// A passphrase in the form of an HMAC key: padded with NULs to 20 bytes. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase([u8; MAX_PASSPHRASE + 1]);

impl Passphrase {
    /// Takes a passphrase of 1 to [`MAX_PASSPHRASE`] bytes without NUL; `None` for any other, which the
    /// peers would cut to another key or refuse.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > MAX_PASSPHRASE || text.contains(&0) {
            return None;
        }
        let mut key = [0; MAX_PASSPHRASE + 1];
        key[..text.len()].copy_from_slice(text);
        Some(Self(key))
    }

    /// The HMAC key.
    #[must_use]
    pub const fn key(&self) -> &[u8; MAX_PASSPHRASE + 1] {
        &self.0
    }
}

/// Hands `absorb` the pieces of the message that stand before the counter, in order.
pub fn message_prefix(vhid: u8, vips: &[IpAddr], mut absorb: impl FnMut(&[u8])) {
    absorb(&[2, 1, vhid]);
    let mut last = None;
    // IpAddr's order is the protocol's: IPv4 before IPv6, each by its bytes.
    while let Some(vip) = vips.iter().filter(|vip| last.is_none_or(|last| *vip > last)).min() {
        match vip {
            IpAddr::V4(v4) => absorb(&v4.octets()),
            IpAddr::V6(v6) => absorb(&v6.octets()),
        }
        last = Some(vip);
    }
}

/// Everything of a virtual host's digest that does not change from advert to advert.
///
/// As good as the key itself: no `Debug`, never logged, wiped by its owner. Part of the kernel ABI.
#[derive(Clone, Copy, Zeroize)]
#[repr(C)]
pub struct DigestKey {
    inner: [u32; 5],
    outer: [u32; 5],
    tail: [[u32; 16]; 2],
    counter_at: u32,
    blocks: u32,
}

impl DigestKey {
    /// Prepares the digest of `vhid` with these VIPs (any order, duplicates allowed, at most as many as an
    /// agent can hold: the length only has to fit 32 bits of message bits).
    #[must_use]
    pub fn new(passphrase: &Passphrase, vhid: u8, vips: &[IpAddr]) -> Self {
        let mut inner = Sha1::keyed(passphrase, 0x36);
        message_prefix(vhid, vips, |piece| inner.update(piece));

        // What is left of the prefix, the counter's hole, the end marker and the length in bits.
        let counter_at = inner.filled;
        let end = counter_at + size_of::<u64>();
        let blocks = if end + 1 + size_of::<u64>() <= 64 { 1 } else { 2 };
        let mut tail = [0u8; 128];
        tail[..counter_at].copy_from_slice(&inner.buffer[..counter_at]);
        tail[end] = 0x80;
        let bits = (inner.hashed + end as u64) * 8;
        tail[blocks * 64 - 8..blocks * 64].copy_from_slice(&bits.to_be_bytes());
        let key = Self {
            inner: inner.state,
            outer: Sha1::keyed(passphrase, 0x5c).state,
            tail: [words(tail[..64].as_chunks().0), words(tail[64..].as_chunks().0)],
            counter_at: counter_at as u32,
            blocks: blocks as u32,
        };
        tail.zeroize();
        key
    }

    /// The digest of an advert with this counter, as five big-endian words.
    #[inline(always)]
    #[must_use]
    pub fn digest(&self, counter: u64, Scratch { blocks, state }: &mut Scratch) -> [u32; 5] {
        // Word by word: as a whole it would become a call that copies byte by byte.
        for (to, from) in blocks.as_flattened_mut().iter_mut().zip(self.tail.as_flattened()) {
            *to = black_box(*from);
        }
        let word = (self.counter_at / 4) as usize;
        let shift = self.counter_at % 4 * 8;
        let all = blocks.as_flattened_mut();
        // The masks change nothing: counter_at is below 64. They are the verifier's proof.
        all[word & 31] |= (counter >> 32 >> shift) as u32;
        all[(word + 1) & 31] |= (counter >> shift) as u32;
        all[(word + 2) & 31] |= ((counter << 32) >> shift) as u32;

        let (state, _) = state.split_first_chunk_mut().expect("five of sixteen");
        *state = self.inner;
        compress(state, &mut blocks[0]);
        if self.blocks == 2 {
            compress(state, &mut blocks[1]);
        }
        // The outer message: 20 bytes of inner digest after the 64 of the key pad.
        end_outer(&mut blocks[0], state);
        *state = self.outer;
        compress(state, &mut blocks[0]);
        *state
    }
}

/// Lays out the last block of an HMAC: the inner hash after the block of the key pad.
#[inline(always)]
pub(crate) fn end_outer<const N: usize>(block: &mut [u32; 16], inner: &[u32; N]) {
    for at in 0..16 {
        let word = match at {
            _ if at < N => inner[at],
            _ if at == N => 0x8000_0000,
            15 => (64 + 4 * N as u32) * 8,
            _ => 0,
        };
        block[at] = black_box(word);
    }
}

/// SHA-1 over a prefix of unknown length: the state and what does not fill a block yet. Wiped when dropped.
#[derive(ZeroizeOnDrop)]
struct Sha1 {
    state: [u32; 5],
    buffer: [u8; 64],
    filled: usize,
    hashed: u64,
}

impl Sha1 {
    /// The state after HMAC's key pad: the key, XORed with `pad`, as one block.
    fn keyed(passphrase: &Passphrase, pad: u8) -> Self {
        let mut block = [pad; 64];
        for (byte, key) in block.iter_mut().zip(passphrase.key()) {
            *byte ^= key;
        }
        let mut sha = Self { state: INITIAL, buffer: [0; 64], filled: 0, hashed: 0 };
        sha.update(&block);
        block.zeroize();
        sha
    }

    fn update(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(64 - self.filled));
            self.buffer[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            piece = later;
            if self.filled == 64 {
                compress(&mut self.state, &mut words(self.buffer.as_chunks().0));
                self.filled = 0;
                self.hashed += 64;
            }
        }
    }
}

fn words(bytes: &[[u8; 4]]) -> [u32; 16] {
    core::array::from_fn(|at| u32::from_be_bytes(bytes[at]))
}

const INITIAL: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// One SHA-1 compression. Works `w` in place.
fn compress(state: &mut [u32; 5], w: &mut [u32; 16]) {
    #[cfg(target_arch = "bpf")]
    crate::proven::sha1_compress(state, w);
    #[cfg(not(target_arch = "bpf"))]
    rounds(state, w);
}

/// FIPS 180-4, 6.1.3: the circular schedule, unrolled.
#[cfg_attr(target_arch = "bpf", inline(always))]
pub(crate) fn rounds(state: &mut [u32; 5], w: &mut [u32; 16]) {
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    macro_rules! round {
        ($t:expr, $f:expr, $k:expr) => {{
            let word = schedule(w, $t);
            let next = word.wrapping_add(e).wrapping_add($k).wrapping_add($f).wrapping_add(rotate_left(a, 5));
            e = d;
            d = c;
            c = rotate_left(b, 30);
            b = a;
            a = next;
        }};
    }
    macro_rules! twenty {
        ($from:expr, $f:expr, $k:expr) => {
            twenty!(@ $from, $f, $k, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19)
        };
        (@ $from:expr, $f:expr, $k:expr, $($t:literal)*) => { $(round!($from + $t, $f, $k);)* };
    }
    twenty!(0, d ^ (b & (c ^ d)), 0x5a82_7999);
    twenty!(20, b ^ c ^ d, 0x6ed9_eba1);
    twenty!(40, (b & c) | (d & (b | c)), 0x8f1b_bcdc);
    twenty!(60, b ^ c ^ d, 0xca62_c1d6);
    for (word, add) in state.iter_mut().zip([a, b, c, d, e]) {
        *word = word.wrapping_add(add);
    }
}

/// `x.rotate_left(n)`, for `n` of 1 to 31.
#[inline(always)]
fn rotate_left(x: u32, n: u32) -> u32 {
    (twice(x) >> (32 - n)) as u32
}

/// A word beside itself: shifted, it is rotated. BPF has no rotation, and two shifts, a copy and an OR cost more than this
/// multiplication and a shift; rotations of one word share the multiplication.
#[inline(always)]
pub(crate) fn twice(x: u32) -> u64 {
    u64::from(x) * 0x1_0000_0001
}

/// The schedule's word for round `t`, kept in `w` as a ring of 16.
#[inline(always)]
fn schedule(w: &mut [u32; 16], t: usize) -> u32 {
    // Keeps the ring in memory: in registers it would spill more than the kernel's 512 bytes of stack.
    core::hint::black_box(&mut *w);
    if t < 16 {
        return w[t];
    }
    let word = rotate_left(w[t & 15] ^ w[(t + 2) & 15] ^ w[(t + 8) & 15] ^ w[(t + 13) & 15], 1);
    w[t & 15] = word;
    word
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};
    use std::vec::Vec;

    use hmac::{Hmac, KeyInit, Mac};
    use proptest::prelude::*;
    use sha1::Sha1;

    use super::*;

    /// The digest by the book: HMAC-SHA1 of the crates, the message put together here.
    fn by_the_book(passphrase: &[u8], vhid: u8, vips: &[IpAddr], counter: u64) -> [u8; 20] {
        let mut key = [0; 20];
        key[..passphrase.len()].copy_from_slice(passphrase);
        let mut mac = Hmac::<Sha1>::new_from_slice(&key).unwrap();
        mac.update(&[2, 1, vhid]);
        let mut v4: Vec<Ipv4Addr> =
            vips.iter().filter_map(|v| if let IpAddr::V4(v) = v { Some(*v) } else { None }).collect();
        let mut v6: Vec<Ipv6Addr> =
            vips.iter().filter_map(|v| if let IpAddr::V6(v) = v { Some(*v) } else { None }).collect();
        v4.sort_by_key(|v| u32::from(*v));
        v4.dedup();
        v6.sort_by_key(|v| u128::from(*v));
        v6.dedup();
        v4.iter().for_each(|v| mac.update(&v.octets()));
        v6.iter().for_each(|v| mac.update(&v.octets()));
        mac.update(&counter.to_be_bytes());
        mac.finalize().into_bytes().into()
    }

    fn ours(passphrase: &[u8], vhid: u8, vips: &[IpAddr], counter: u64) -> [u8; 20] {
        let key = DigestKey::new(&Passphrase::new(passphrase).unwrap(), vhid, vips);
        let words = key.digest(counter, &mut Scratch::default());
        let mut digest = [0; 20];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    #[test]
    fn the_digest_is_hmac_sha1_for_0_to_64_vips() {
        for count in 0..=64u32 {
            let vips: Vec<IpAddr> = (0..count).map(|n| Ipv4Addr::from(0x0a4d_0064 + n * 7919).into()).collect();
            let counter = 0x0123_4567_89ab_cdef ^ u64::from(count);
            assert_eq!(ours(b"secret", 42, &vips, counter), by_the_book(b"secret", 42, &vips, counter), "{count} VIPs");
        }
    }

    proptest! {
        #[test]
        fn the_digest_is_hmac_sha1_for_any_host(
            passphrase in prop::collection::vec(1u8.., 1..=MAX_PASSPHRASE),
            vhid in 1u8..,
            vips in prop::collection::vec(any::<IpAddr>(), 0..=64),
            counter: u64,
        ) {
            prop_assert_eq!(ours(&passphrase, vhid, &vips, counter), by_the_book(&passphrase, vhid, &vips, counter));
        }
    }

    #[test]
    fn order_and_duplicates_of_vips_do_not_matter() {
        let [a, b, c] = [[10, 0, 0, 9], [9, 255, 0, 1], [200, 0, 0, 1]].map(IpAddr::from);
        let six = IpAddr::from([1u8; 16]);
        assert_eq!(ours(b"x", 1, &[six, a, b, c], 5), ours(b"x", 1, &[c, b, a, a, six, c], 5));
    }

    #[test]
    fn a_passphrase_has_1_to_19_bytes() {
        assert!(Passphrase::new(b"").is_none());
        assert!(Passphrase::new(b"1234567890123456789").is_some());
        assert!(Passphrase::new(b"12345678901234567890").is_none());
        assert!(Passphrase::new(b"a\0b").is_none());
    }
}
