//! Compressions as global functions of the kernel program: the verifier proves such a function once, for any arguments, where it
//! would follow another one at each call, along every path that leads there.

use crate::{digest, sha256};

macro_rules! proven {
    ($name:ident, $rounds:path, $words:literal) => {
        /// One compression. Not 0 if there is nothing to compress, which the verifier takes to be possible.
        #[inline(never)]
        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $name(state: *mut [u32; $words], w: *mut [u32; 16]) -> u32 {
            // SAFETY: both are null, or were made of mutable references, as the only caller does.
            let (Some(state), Some(w)) = (unsafe { state.as_mut() }, unsafe { w.as_mut() }) else { return 1 };
            $rounds(state, w);
            0
        }
    };
}

proven!(sha1_compress, digest::rounds, 5);
proven!(sha256_compress, sha256::rounds, 16);
