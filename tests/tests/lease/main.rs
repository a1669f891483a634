//! Never two hosts that answer for the VIP: an agent that hangs is not let go on by the kernel.

mod answers;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carp_tests::node::ROAD;
use carp_tests::{ArpWatch, BootTime, Host, LONG, Lab, Node, PASSPHRASE, Probe, VIP, configured, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

const PERIOD: Duration = Duration::from_millis(5);
/// An advert every 234 ms, and a lease of 928 ms; the other one's dead time is 937.
const A: &str = "--advbase=0 --advskew=60 --peer-advskew=80";
/// An advert every 312 ms, and a lease of 696 ms; the other one's dead time is 703.
const B: &str = "--advbase=0 --advskew=80 --peer-advskew=60";

/// Whether there is XDP on the road that the tests take.
fn has_fence() -> bool {
    !std::env::var(ROAD).is_ok_and(|road| road == "socket")
}

fn pair<'h>(a: &'h Host, b: &'h Host, more: &str) -> Result<[Node<'h>; 2]> {
    Node::start_pair((a, &format!("{A} {more}")), (b, &format!("{B} {more}")))
}

/// Waits until the VIP has been asked for so many times more.
fn wait_for_rounds(rounds: u32) -> Result<()> {
    let now = BootTime::now();
    eventually("it was asked", LONG, || Ok(BootTime::now().since(now) > rounds * PERIOD))
}

#[test]
fn a_master_that_hangs_answers_nobody_when_another_may_be_master_and_is_a_backup_when_it_wakes() -> Result<()> {
    if !has_fence() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [hangs, backup] = pair(&a, &b, "")?;
    let own = Probe::start(&client, a.ip(), PERIOD)?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    watch.wait_for_owner(a.mac(), LONG)?;

    hangs.agent().signal(Signal::SIGSTOP)?;
    backup.wait_for("BACKUP -> MASTER")?;
    watch.wait_for_owner(b.mac(), LONG)?;
    wait_for_rounds(100)?;
    assert!(a.has_address(VIP)?, "nobody has taken it from there");
    hangs.agent().signal(Signal::SIGCONT)?;
    let yields = hangs.wait_for("MASTER -> BACKUP")?;
    assert!(yields.cause.starts_with("no advert has left for so long"), "{yields:?}");
    eventually("it gives the address up", LONG, || Ok(!a.has_address(VIP)?))?;
    wait_for_rounds(100)?;

    let report = watch.stop()?;
    assert!(report.overlaps().is_empty(), "{:?}", report.timeline());
    assert_eq!(hangs.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    let told = hangs.report()?;
    assert!(told.count("fencedin") > 50, "{told:?}");
    // Other addresses are none of its business.
    let outage = own.stop()?.longest_outage();
    assert!(outage < Duration::from_millis(500), "its own address was silent for {outage:?}");
    Ok(())
}

/// What the other tests see is the fence.
#[test]
fn without_a_fence_a_master_that_hangs_goes_on_answering() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [hangs, backup] = pair(&a, &b, "--fence=off")?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    hangs.agent().signal(Signal::SIGSTOP)?;
    backup.wait_for("BACKUP -> MASTER")?;
    watch.wait_for_owner(b.mac(), LONG)?;
    wait_for_rounds(100)?;
    assert!(!watch.stop()?.overlaps().is_empty());
    Ok(())
}

#[test]
fn when_all_hang_nobody_answers_and_one_of_them_does_when_they_wake() -> Result<()> {
    if !has_fence() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let nodes = pair(&a, &b, "")?;
    let probe = Probe::start(&client, VIP, PERIOD)?;
    probe.wait_for_answer_from(a.mac(), LONG)?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    nodes.iter().try_for_each(|node| node.agent().signal(Signal::SIGSTOP))?;
    eventually("nobody answers", LONG, || {
        let last = probe.answers().last().map(|answer| answer.at).context("no answer")?;
        Ok(BootTime::now().since(last) > Duration::from_millis(1500))
    })?;
    nodes.iter().try_for_each(|node| node.agent().signal(Signal::SIGCONT))?;
    probe.wait_for_answer("of a new master", LONG, |_| true)?;
    wait_for_rounds(300)?;
    let report = watch.stop()?;
    assert!(report.overlaps().is_empty(), "{:?}", report.timeline());
    let masters = nodes.iter().filter(|node| node.changes().last().is_some_and(|last| last.ends_with("MASTER")));
    assert_eq!(masters.count(), 1);
    Ok(())
}

/// A virtual host with these addresses and a lease.
fn virtual_host(vhid: u8, addresses: &[&str], more: &str) -> String {
    format!("[[virtual_host]]\nvhid = {vhid}\naddresses = {addresses:?}\npeer_advskew = 80\n{more}\n")
}

/// Reloads a master with another configuration, and stops it: it does not answer for the VIP any more.
fn is_fenced_after(before: &[String], after: &[String]) -> Result<()> {
    if !has_fence() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let folder = configured::folder()?;
    configured::write(&folder, before)?;
    let agent = configured::start(&a, &folder)?;
    configured::wait_for_change(&agent, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let probe = Probe::start(&client, VIP, PERIOD)?;
    probe.wait_for_answer_from(a.mac(), LONG)?;
    configured::write(&folder, after)?;
    let reloaded = configured::carpctl(&folder, &["reload"])?;
    ensure!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
    let all_masters = || {
        let status = configured::carpctl(&folder, &["status", "--json"])?;
        let status: Value = serde_json::from_slice(&status.stdout)?;
        let hosts = status["virtual_hosts"].as_array().context("no virtual hosts")?;
        Ok(hosts.len() == after.len() && hosts.iter().all(|host| host["state"] == "MASTER" && host["fence"] == "lease"))
    };
    eventually("all are masters, with a lease", LONG, all_masters)?;
    let now = BootTime::now();
    probe.wait_for_answer("after it", LONG, |answer| answer.at > now)?;
    eventually("more than a lease is over", LONG, || Ok(BootTime::now().since(now) > Duration::from_millis(1500)))?;

    agent.signal(Signal::SIGSTOP)?;
    eventually("nobody answers", LONG, || {
        let last = probe.answers().last().map(|answer| answer.at).context("no answer")?;
        Ok(BootTime::now().since(last) > Duration::from_millis(1500))
    })?;
    assert!(a.has_address(VIP)?);
    agent.signal(Signal::SIGCONT)
}

#[test]
fn a_master_whose_datapath_becomes_xdp_has_a_fence_from_then_on() -> Result<()> {
    let host = |more: &str| virtual_host(1, &["10.77.0.100"], more);
    is_fenced_after(&[host("datapath = \"socket\"")], &[host("datapath = \"auto\"")])
}

#[test]
fn an_address_that_another_virtual_host_is_given_stays_fenced() -> Result<()> {
    let hosts = |first: &[&str], second: &[&str]| [virtual_host(1, first, ""), virtual_host(2, second, "")];
    is_fenced_after(
        &hosts(&["10.77.0.101", "10.77.0.100"], &["10.77.0.102"]),
        &hosts(&["10.77.0.101"], &["10.77.0.102", "10.77.0.100"]),
    )
}

/// It was told to be master whatever its link does.
#[test]
fn a_master_that_ignores_its_link_stays_one_although_nothing_leaves() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let node = Node::start(&a, &format!("{A} --ignoreifstate"))?;
    node.wait_for("BACKUP -> MASTER")?;
    let down = BootTime::now();
    a.ns().ip("link set eth0 down")?;
    node.wait_for_line("demoted by 240")?;
    eventually("a lease would be over", LONG, || Ok(BootTime::now().since(down) > Duration::from_millis(1500)))?;
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn a_host_whose_timers_are_too_tight_for_a_lease_says_so_in_its_status() -> Result<()> {
    if !has_fence() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let folder = configured::folder()?;
    for (lines, why) in [
        ("advskew = 1\npeer_advskew = 1", "timers too tight"),
        ("advskew = 60", "timers too tight; with peer_advskew they may not be"),
    ] {
        configured::write(&folder, &[configured::virtual_host(1, VIP, lines)])?;
        let mut agent = configured::start(&a, &folder)?;
        configured::wait_for_change(&agent, "eth0 vhid 1", "BACKUP -> MASTER")?;
        let told = configured::carpctl(&folder, &["status", "--json"])?;
        let told: Value = serde_json::from_slice(&told.stdout)?;
        assert_eq!(told["virtual_hosts"][0]["fence"], format!("none ({why})"));
        assert!(told["virtual_hosts"][0]["lease_seconds"].is_null(), "{told}");
        let table = configured::carpctl(&folder, &["status"])?;
        let table = String::from_utf8_lossy(&table.stdout);
        assert!(table.lines().any(|line| line.ends_with(&format!("beside the next master: {why}"))), "{table}");
        assert!(agent.stop_and_wait(LONG)?.success());
    }
    Ok(())
}

#[test]
fn a_host_that_must_have_a_fence_does_not_start_without_one() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    for (options, why) in [
        (&["--datapath=socket"][..], "a packet socket"),
        (&["--datapath=generic", "--advbase=0", "--advskew=1"], "timers too tight"),
        (
            &["--datapath=generic", "--bpffs=/nowhere"],
            "go with a carpd that is killed: cannot mount a bpffs on /nowhere",
        ),
    ] {
        let pass = format!("--pass={PASSPHRASE}");
        let addr = format!("--addr={VIP}");
        let arguments = [&["--interface=eth0", "--vhid=1", &pass, &addr, "--fence=required"], options].concat();
        let mut agent = a.carpd(&arguments)?;
        ensure!(!agent.wait(LONG)?.success(), "{options:?}: it started");
        let said =
            agent.lines().iter().any(|line| line.text.contains("fence = \"required\"") && line.text.contains(why));
        assert!(said, "{options:?}: {:?}", agent.lines());
        assert!(a.xdp_program()?.is_none() && a.ns().pins().is_none(), "{options:?}: something stays");
    }
    Ok(())
}

#[test]
fn a_lease_that_goes_with_a_carpd_that_is_killed_is_told_as_such() -> Result<()> {
    if !has_fence() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let folder = configured::folder()?;
    configured::write(&folder, &[virtual_host(1, &["10.77.0.100"], "")])?;
    let file = folder.path().join("carpd.toml");
    fs::write(&file, format!("bpffs = \"/nowhere\"\n{}", fs::read_to_string(&file)?))?;
    let agent = configured::start(&a, &folder)?;
    configured::wait_for_change(&agent, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let status = configured::carpctl(&folder, &["status", "--json"])?;
    let status: Value = serde_json::from_slice(&status.stdout)?;
    let host = &status["virtual_hosts"][0];
    let why = "cannot mount a bpffs on /nowhere";
    let fence = host["fence"].as_str().context("no fence")?;
    assert!(fence.starts_with("lease, while carpd lives (") && fence.contains(why), "{fence}");
    assert!(host["lease_seconds"].is_number(), "{host}");
    let hint = host["hints"][0].as_str().context("no hint")?;
    assert!(hint.starts_with("if carpd is killed, ") && hint.contains(why), "{hint}");
    Ok(())
}
