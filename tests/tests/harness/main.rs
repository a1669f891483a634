//! The harness itself: what the scenarios rely on.

mod clients;
mod frames;
mod hosts;
mod namespaces;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use carp_tests::packet::Arp;
use carp_tests::{Capture, ETH0, Filter, Host, Netns, send_frame};

/// An address that hosts hand to each other.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const VIP_PREFIX: &str = "10.77.0.100/32";

const MILLISECOND: Duration = Duration::from_millis(1);

/// No expectation: it only ends a test that would hang.
const LONG: Duration = Duration::from_secs(30);

/// A shell inside a namespace.
fn shell(ns: &Netns, script: &str) -> Command {
    let mut command = ns.command("sh");
    command.args(["-c", script]);
    command
}

/// Broadcasts something that no other frame in the lab contains.
fn say(host: &Host, word: u8) -> Result<()> {
    send_frame(host.ns(), ETH0, &saying(host, word).to_frame())
}

/// Whether this is what [`say`] sends, from any host.
fn is_said(frame: &[u8], word: u8) -> bool {
    Arp::from_frame(frame).is_some_and(|arp| arp.target_ip == Ipv4Addr::new(192, 0, 2, word))
}

fn saying(host: &Host, word: u8) -> Arp {
    Arp::request(host.mac(), host.ip(), Ipv4Addr::new(192, 0, 2, word))
}

fn capture_arp(host: &Host) -> Result<Capture> {
    Capture::start(host.ns(), ETH0, Filter::Arp)
}
