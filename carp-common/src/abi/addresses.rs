//! Addresses as 16 bytes.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address in the ABI's form.
#[must_use]
pub const fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An IPv4 address in the ABI's form, from its bytes on the wire.
#[inline(always)]
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The address in these bytes.
#[must_use]
pub const fn address(bytes: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from_octets(bytes);
    match v6.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(Ipv4Addr::from_octets(v4.octets())),
        None => IpAddr::V6(v6),
    }
}

#[inline(always)]
pub(super) fn same_address(a: &[u8; 16], b: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_survive() {
        for text in ["10.77.0.1", "255.255.255.255", "fe80::1", "::", "ff02::12"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(address_bytes(ip)), ip);
        }
        assert_eq!(mapped([10, 0, 0, 1]), address_bytes(IpAddr::from([10, 0, 0, 1])));
    }
}
