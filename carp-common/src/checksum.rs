//! The Internet checksum (RFC 1071), over an even number of bytes.

/// One's complement of the one's complement sum of `bytes`, taken as big-endian 16-bit words.
///
/// Over a header whose checksum field holds the right value the result is 0, which is how a receiver
/// checks one; over a header whose checksum field is 0 the result is the value to send.
/// `N` must be even: CARP's header (36) and IPv4's without options (20) are.
#[inline(always)]
#[must_use]
pub fn internet<const N: usize>(bytes: &[u8; N]) -> u16 {
    const { assert!(N.is_multiple_of(2)) };
    let mut sum = 0u32;
    let mut at = 0;
    while at < N {
        sum += u16::from_ne_bytes([bytes[at], bytes[at + 1]]) as u32;
        at += 2;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    // RFC 1071 (2.B): summed in this machine's byte order, the sum is the wire's but for its two bytes.
    u16::from_be(!(sum as u16))
}

#[cfg(test)]
mod tests {
    use super::internet;

    #[test]
    fn the_example_of_rfc_1071_holds() {
        assert_eq!(internet(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        let mut header = [0x5au8; 36];
        header[6..8].copy_from_slice(&[0, 0]);
        let sum = internet(&header);
        header[6..8].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(internet(&header), 0);
    }

    #[test]
    fn carries_are_folded_twice() {
        assert_eq!(internet(&[0xff; 36]), 0);
        assert_eq!(internet(&[0xff, 0xff, 0x00, 0x01]), !1);
    }
}
