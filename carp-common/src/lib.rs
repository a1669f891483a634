//! CARP without I/O: the wire format, the digest, the verdict on an advert and the state machine.
//!
//! Nothing in this crate reads a clock, a socket, the environment or a source of randomness: `no_std`
//! makes most breaches a compile error, and time is always an argument. The XDP program and the agent
//! link the same code, so an advert is judged by one set of rules wherever it is judged.
//!
//! | module | what it holds |
//! |---|---|
//! | [`wire`] | the 36 bytes of an advert, and the IPv4 frame that carries them |
//! | [`checksum`] | RFC 1071 |
//! | [`digest`] | SHA-1 compression and the HMAC whose fixed parts are computed beforehand |
//! | [`verdict`] | what is ours, what is refused and why: one function for the kernel and for user space |
//! | [`fence`] | what a host drops whose mastership lease is over: one function for each direction |
//! | [`reason`] | the counters, one name each |
//! | [`abi`] | the structs that the kernel program and the agent share |
//! | [`time`] | nanoseconds of CLOCK_BOOTTIME |
//! | `engine` | the state machine (feature `engine`) |

#![no_std]
#![deny(unsafe_code)]

#[cfg(any(test, feature = "engine"))]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
pub mod checksum;
pub mod digest;
#[cfg(feature = "engine")]
pub mod engine;
pub mod fence;
#[cfg(target_arch = "bpf")]
#[allow(unsafe_code)]
mod proven;
pub mod reason;
pub mod seal;
mod sha256;
pub mod time;
pub mod verdict;
pub mod wire;
