//! VIPs on a virtual MAC, which is where the master is.

mod arp;
mod device;
mod ipv6;
mod takeover;

use anyhow::{Context, Result};
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{ETH0, Host, LONG, MacAddr, Node, VHID, VIP, eventually};

/// 00:00:5e:00:01:VHID
const MAC: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, VHID]);

/// Options for a virtual MAC, and none of the announcements that it can do without.
const VIRTUAL: &str = "--mac=virtual --garp-repeat=0 --garp-refresh=0";

/// What eth0 is set to unless it has a device.
const PLAIN: [&str; 2] = ["0", "0"];

/// A master, and a backup that was started when that was one.
fn pair<'h>(a: &'h Host, b: &'h Host) -> Result<[Node<'h>; 2]> {
    let pair = Node::start_pair((a, &format!("{PREFERRED} {VIRTUAL}")), (b, &format!("{OTHER} {VIRTUAL}")))?;
    wait_for_device(a)?;
    Ok(pair)
}

/// One that becomes master soon.
fn alone<'h>(host: &'h Host, more: &str) -> Result<Node<'h>> {
    let node = Node::start(host, &format!("{PREFERRED} {VIRTUAL} {more}"))?;
    node.wait_for("BACKUP -> MASTER")?;
    wait_for_device(host)?;
    Ok(node)
}

/// The name of the device on an interface.
fn device_on(host: &Host, interface: &str, vhid: u8) -> Result<String> {
    let listing = host.ns().ip(&format!("-oneline link show dev {interface}"))?;
    let index = listing.split(':').next().context("an index comes first")?;
    Ok(format!("carp{vhid}-{index}"))
}

fn device(host: &Host) -> Result<String> {
    device_on(host, ETH0, VHID)
}

/// What `ip address` says of the device; empty if it is not there.
fn listing(host: &Host) -> Result<String> {
    let device = device(host)?;
    let all = host.ns().ip("-details -oneline address show")?;
    let of_device = all.lines().filter(|line| line.contains(&format!(" {device} ")));
    Ok(of_device.collect::<Vec<_>>().join("\n"))
}

fn has_device(host: &Host) -> Result<bool> {
    let all = host.ns().ip("-brief link show")?;
    Ok(all.lines().any(|line| line.starts_with(&format!("carp{VHID}-"))))
}

/// Waits until the device is at work, with the VIP.
fn wait_for_device(host: &Host) -> Result<()> {
    eventually("the device is there with the VIP", LONG, || {
        let device = device(host)?;
        let works = |line: &str| line.starts_with(&format!("{device}@")) && line.contains(",UP,");
        Ok(host.ns().ip("-brief link show")?.lines().any(works) && listing(host)?.contains(&VIP.to_string()))
    })
}

fn wait_until_gone(host: &Host) -> Result<()> {
    eventually("the device is gone", LONG, || Ok(!has_device(host)?))
}

/// What eth0 is set to: which requests it answers, and in whose name it asks.
fn arp_settings(host: &Host) -> Result<[String; 2]> {
    let read = |knob| host.ns().sysctl(&format!("net.ipv4.conf.{ETH0}.{knob}"));
    Ok([read("arp_ignore")?, read("arp_announce")?])
}
