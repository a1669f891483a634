//! The lab: several hosts on one machine, each in a network namespace of its
//! own, and the tools that watch them from outside.
//!
//! Nothing here knows CARP's engine or the agent's code: a scenario sees what
//! a user sees, namely frames, addresses, log lines and answers to a ping.
//! Everything lives in anonymous namespaces and vanishes with the process.
//!
//! The [`models`] of other peers need no host: they are pure. On a host, [`live`] puts them. What is fuzzed is in [`fuzzing`].

pub mod adverts;
pub mod agent;
pub mod arp_watch;
pub mod attacks;
pub mod bench;
pub mod busy;
pub mod capture;
pub mod clock;
pub mod configured;
pub mod faults;
mod filter;
pub mod flood;
pub mod folder;
pub mod foreign;
pub mod fuzzing;
mod guard;
pub mod host;
pub mod lab;
pub mod live;
mod memory_group;
pub mod models;
pub mod netns;
pub mod node;
pub mod ours;
pub mod outage;
pub mod packet;
mod packet_socket;
pub mod pcap;
pub mod peers;
mod preload;
pub mod probe;
pub mod questions;
pub mod random;
mod record;
pub mod tools;
pub mod wire;
mod worker;

pub use agent::{Agent, carpd_path, copy_carpd};
pub use arp_watch::{ArpReport, ArpWatch};
pub use capture::{Capture, Frame};
pub use clock::{BootTime, eventually};
pub use filter::Filter;
pub use flood::{Flood, FloodPlan, send_frame};
pub use folder::Folder;
pub use host::{ETH0, Host};
pub use lab::{Lab, LabOptions};
pub use live::Live;
pub use netns::Netns;
pub use node::{LONG, Node, PASSPHRASE, VHID, VIP};
pub use outage::ProbeReport;
pub use packet::MacAddr;
pub use pcap::write_pcap;
pub use peers::{Keepalived, Ucarp, Vrrp};
pub use preload::Preload;
pub use probe::Probe;
pub use tools::{is_missing, tool};
pub use wire::Wire;
