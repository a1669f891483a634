//! SHA-256 (FIPS 180-4) by blocks, for the kernel program: as [`digest`](crate::digest) has SHA-1, and for the same reasons.

use crate::digest::twice;

/// The state before the first block.
pub(crate) const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// One compression of the first eight words; the others are working space, as `w` is.
pub(crate) fn compress(state: &mut [u32; 16], w: &mut [u32; 16]) {
    #[cfg(target_arch = "bpf")]
    crate::proven::sha256_compress(state, w);
    #[cfg(not(target_arch = "bpf"))]
    rounds(state, w);
}

/// FIPS 180-4, 6.2.2, with the circular schedule of SHA-1's 6.1.3, unrolled.
#[cfg_attr(target_arch = "bpf", inline(always))]
pub(crate) fn rounds(state: &mut [u32; 16], w: &mut [u32; 16]) {
    let (state, work) = state.split_at_mut(8);
    for (work, word) in work.iter_mut().zip(&*state) {
        *work = *word;
    }
    macro_rules! round {
        ($($t:literal)*) => { $( {
            // Instead of moving eight words, each round has them in other places.
            let [a, b, c, d, e, f, g, h] = core::array::from_fn(|at| (at + 64 - $t) % 8);
            let e_now = work[e];
            let first = work[h]
                .wrapping_add(schedule(w, $t))
                .wrapping_add(K[$t])
                .wrapping_add(rotations(e_now, 6, 11, 25))
                .wrapping_add(work[g] ^ (e_now & (work[f] ^ work[g])));
            work[d] = work[d].wrapping_add(first);
            let (a_now, b_now) = (work[a], work[b]);
            let majority = (a_now & b_now) | (work[c] & (a_now | b_now));
            work[h] = first.wrapping_add(rotations(a_now, 2, 13, 22)).wrapping_add(majority);
            // Keeps the eight words in memory, too.
            core::hint::black_box(&mut *work);
        } )* };
    }
    round!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    round!(32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63);
    for (word, add) in state.iter_mut().zip(work) {
        *word = word.wrapping_add(*add);
    }
}

/// `x` rotated right by each of these, XORed.
#[inline(always)]
fn rotations(x: u32, first: u32, second: u32, third: u32) -> u32 {
    let twice = twice(x);
    (twice >> first) as u32 ^ (twice >> second) as u32 ^ (twice >> third) as u32
}

/// The schedule's word for round `t`, kept in `w` as a ring of 16.
#[inline(always)]
fn schedule(w: &mut [u32; 16], t: usize) -> u32 {
    // Keeps the ring in memory, as SHA-1's.
    core::hint::black_box(&mut *w);
    if t < 16 {
        return w[t];
    }
    let mixed = |x: u32, first: u32, second: u32, shift: u32| {
        let twice = twice(x);
        (twice >> first) as u32 ^ (twice >> second) as u32 ^ (x >> shift)
    };
    let [early, late] = [mixed(w[(t + 1) & 15], 7, 18, 3), mixed(w[(t + 14) & 15], 17, 19, 10)];
    let word = w[t & 15].wrapping_add(early).wrapping_add(w[(t + 9) & 15]).wrapping_add(late);
    w[t & 15] = word;
    word
}
