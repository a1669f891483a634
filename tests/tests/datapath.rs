//! The roads that adverts take, and what happens where the best one is closed.

use std::process::Command;

use anyhow::{Context, Result};
use carp_tests::netns::output_of;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{ETH0, Host, LONG, Lab, Node, VIP, eventually, tool};

/// Whether a host has the VIP.
fn holds_vip(host: &Host) -> Result<bool> {
    host.has_address(VIP)
}

#[test]
fn a_program_that_something_else_detached_is_attached_again() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let interface = b.ns().ip(&format!("link show dev {ETH0}"))?;
    let program = number_after(&interface, "prog/xdp id ").context("no program")?;
    let links = output_of(Command::new(tool("bpftool")?).args(["link", "show"]))?;
    let of_program = |line: &&str| number_after(line, "xdp  prog ") == Some(program);
    let link = links.lines().find(of_program).and_then(|line| line.split(':').next()).context("no link")?;
    output_of(Command::new(tool("bpftool")?).args(["link", "detach", "id", link]))?;
    // There is no event for it; anything else that happens to the interface makes the agent look.
    b.ns().ip("link set eth0 alias touched")?;
    b.ns().ip("link set eth0 alias again")?;
    backup.wait_for_line("something else detached the XDP program from eth0: attaching it again")?;
    // Deaf for a while, it may have taken over: it hears the better master again.
    let before = backup.report()?.count("ipackets");
    eventually("adverts are heard", LONG, || Ok(backup.report()?.count("ipackets") > before))?;
    eventually("there is one master", LONG, || Ok(!holds_vip(&b)? && holds_vip(&a)?))?;
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

/// The number that follows `text`.
fn number_after<'a>(whole: &'a str, text: &str) -> Option<&'a str> {
    whole.split_once(text)?.1.split(|c: char| !c.is_ascii_digit()).next()
}
