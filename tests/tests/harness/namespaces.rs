//! Namespaces: what they share with the machine, and how they end.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use carp_tests::netns::output_of;
use carp_tests::{Agent, Host, Lab, Netns, eventually};

use crate::{LONG, shell};

#[test]
fn a_dropped_namespace_ends_what_still_runs_inside() -> Result<()> {
    let ns = Netns::new()?;
    let agent = Agent::spawn("daemon", shell(&ns, "setsid sleep 600 >/dev/null 2>&1 & echo $!"))?;
    let daemon = agent.wait_for_line_that("is a number", LONG, |line| line.parse::<u32>().is_ok())?;
    assert!(runs(&daemon.text));
    drop(ns);
    assert!(!runs(&daemon.text));
    Ok(())
}

#[test]
fn a_killed_harness_leaves_nothing_behind() -> Result<()> {
    let mut victim = Command::new(env::current_exe()?);
    victim.args(["--exact", "namespaces::harness_that_is_killed", "--nocapture"]).env(VICTIM, "1");
    let mut victim = Agent::spawn("victim", victim)?;
    let ready = victim.wait_for_line("namespaces: ", LONG)?;
    let (_, namespaces) = ready.text.split_once("namespaces: ").context("no namespaces")?;
    let namespaces: BTreeSet<u64> = namespaces.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    assert_eq!(namespaces.len(), 2);
    assert_eq!(inhabited(&namespaces)?, namespaces);
    victim.kill()?;
    eventually("both namespaces are empty", LONG, || Ok(inhabited(&namespaces)?.is_empty()))
}

/// The victim of the test above; without being told so, it does nothing.
#[test]
fn harness_that_is_killed() -> Result<()> {
    if env::var_os(VICTIM).is_none() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut agent = Agent::spawn("agent", shell(a.ns(), "setsid sleep 600 & echo up; exec sleep 600"))?;
    agent.wait_for_line("up", LONG)?;
    println!("namespaces: {} {}", inode_of(a.ns())?, inode_of(lab.switch())?);
    agent.wait(LONG).map(drop)
}

const VICTIM: &str = "CARP_TESTS_HARNESS_VICTIM";

#[test]
fn hosts_differ_in_their_network_and_in_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let namespace = |host: &Host, kind: &str| {
        let path = format!("/proc/self/ns/{kind}");
        output_of(host.command("readlink").arg(path))
    };
    for kind in ["mnt", "pid", "user", "uts", "ipc"] {
        assert_eq!(namespace(&a, kind)?, namespace(&b, kind)?, "{kind}");
        assert_eq!(namespace(&a, kind)?.trim(), fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy());
    }
    assert_ne!(namespace(&a, "net")?, namespace(&b, "net")?);
    Ok(())
}

#[test]
fn a_sysctl_is_that_of_its_namespace() -> Result<()> {
    let [a, b] = [Netns::new()?, Netns::new()?];
    let key = "net.ipv4.ip_default_ttl";
    let machine = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl")?;
    a.set_sysctl(key, "77")?;
    assert_eq!(a.sysctl(key)?, "77");
    assert_ne!(b.sysctl(key)?, "77");
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl")?, machine);
    let seen_by_a_program = output_of(a.command("cat").arg("/proc/sys/net/ipv4/ip_default_ttl"))?;
    assert_eq!(seen_by_a_program, "77\n");
    a.set_sysctl("net.ipv4.no_such_thing", "1").unwrap_err();
    Ok(())
}

/// Whether a process runs; one that waits to be reaped does not.
pub(crate) fn runs(pid: &str) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok()
}

/// Which of these namespaces have processes in them.
fn inhabited(namespaces: &BTreeSet<u64>) -> Result<BTreeSet<u64>> {
    let processes = fs::read_dir("/proc").context("listing processes")?.filter_map(Result::ok);
    // Folders that are no processes have none, and processes may end meanwhile.
    let inhabited = processes.filter_map(|process| inode_at(&process.path().join("ns/net")).ok());
    Ok(inhabited.filter(|inode| namespaces.contains(inode)).collect())
}

fn inode_of(ns: &Netns) -> Result<u64> {
    ns.run(|| inode_at(Path::new("/proc/thread-self/ns/net")))
}

fn inode_at(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?.ino())
}
