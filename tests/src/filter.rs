//! What a sniffer listens for.

use std::net::Ipv4Addr;

use nix::libc;
use socket2::SockFilter;

/// Which frames a socket receives, decided in the kernel, so that a flood of
/// other frames does not push them out of the socket's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All of them.
    Everything,
    /// IPv4 and IPv6 of protocol 112, whatever the rest of it is.
    Carp,
    /// IPv4 of protocol 112 from one source, whatever else is sent.
    CarpFrom(Ipv4Addr),
    /// ARP.
    Arp,
    /// ICMP echo replies (IPv4) with this identifier.
    EchoReply {
        /// The identifier of the requests.
        ident: u16,
    },
}

impl Filter {
    /// A whole program that lets nothing through.
    pub(crate) const NOTHING: SockFilter = REJECT;

    /// As a classic BPF program.
    pub(crate) fn program(self) -> Vec<SockFilter> {
        const TYPE: u32 = 12;
        const IPV4: u32 = libc::ETH_P_IP as u32;
        const IPV6: u32 = libc::ETH_P_IPV6 as u32;
        match self {
            Self::Everything => vec![ACCEPT],
            Self::Arp => vec![half(TYPE), unless(libc::ETH_P_ARP as u32, 1), ACCEPT, REJECT],
            Self::Carp => vec![
                half(TYPE),
                unless(IPV4, 2),
                byte(23),
                jump(3),
                unless(IPV6, 4),
                byte(20),
                jump(0),
                unless(112, 1),
                ACCEPT,
                REJECT,
            ],
            Self::CarpFrom(source) => vec![
                half(TYPE),
                unless(IPV4, 5),
                byte(23),
                unless(112, 3),
                word(26),
                unless(source.to_bits(), 1),
                ACCEPT,
                REJECT,
            ],
            Self::EchoReply { ident } => vec![
                half(TYPE),
                unless(IPV4, 7),
                byte(23),
                unless(libc::IPPROTO_ICMP as u32, 5),
                byte(34),
                unless(0, 3),
                half(38),
                unless(ident.into(), 1),
                ACCEPT,
                REJECT,
            ],
        }
    }
}

const ACCEPT: SockFilter = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX);
const REJECT: SockFilter = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);

/// Loads the byte at this offset of the frame.
const fn byte(offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, offset)
}

/// Loads the 16 bits at this offset of the frame.
const fn half(offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16, 0, 0, offset)
}

/// Loads the 32 bits at this offset of the frame.
const fn word(offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, offset)
}

/// Skips `instructions` unless what was loaded is `value`.
const fn unless(value: u32, instructions: u8) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, instructions, value)
}

/// Skips `instructions`.
const fn jump(instructions: u32) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | libc::BPF_JA) as u16, 0, 0, instructions)
}
