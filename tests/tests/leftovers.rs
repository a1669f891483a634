//! What a killed carpd has left, where none goes on with it: addresses go before the programs that keep the host from answering
//! for them.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use carp_common::abi::ABI;
use carp_tests::node::{OTHER, PREFERRED, ROAD};
use carp_tests::{ArpWatch, Folder, Host, LONG, Lab, Node, VIP, carpd_path, eventually};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// Another virtual host.
const ANOTHER: [&str; 6] =
    ["--interface=eth0", "--vhid=2", "--pass=x", "--addr=10.77.0.102", "--advbase=0", "--advskew=60"];

/// Whether there is XDP on the road that the tests take.
fn has_xdp() -> bool {
    !std::env::var(ROAD).is_ok_and(|road| road == "socket")
}

fn folder(host: &Host) -> Result<PathBuf> {
    host.ns().pins().context("nothing is pinned")
}

/// A backup's host that was master before, with all that its agent has left when it was killed.
fn killed_master<'h>(a: &'h Host, b: &'h Host, options: &str) -> Result<Node<'h>> {
    let mut node = Node::start(a, &format!("{PREFERRED} --peer-advskew=80 {options}"))?;
    node.wait_for("BACKUP -> MASTER")?;
    // On a device, perhaps.
    let has_vip = || Ok(a.ns().ip("address show")?.contains(&format!("{VIP}/")));
    eventually("the VIP is there", LONG, has_vip)?;
    let other = Node::start(b, OTHER)?;
    node.agent_mut().kill()?;
    other.wait_for("BACKUP -> MASTER")?;
    assert!(has_vip()? && a.xdp_program()?.is_some());
    Ok(other)
}

/// Asks who has the VIP while something is done on a host, which must not say that it has.
fn without_an_answer_of<T>(host: &Host, client: &Host, other: &Host, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let watch = ArpWatch::start(client, VIP, Duration::from_millis(1))?;
    watch.wait_for_owner(other.mac(), LONG)?;
    let done = work()?;
    watch.wait_for_owner(other.mac(), LONG)?;
    let timeline = watch.stop()?.timeline();
    let owners: BTreeSet<_> = timeline.iter().flat_map(|ownership| &ownership.owners).collect();
    assert!(!owners.contains(&host.mac()), "{timeline:?}");
    Ok(done)
}

/// A script that adds or removes the VIP.
fn script(folder: &Folder, name: &str, verb: &str) -> Result<String> {
    let path = folder.path().join(name);
    fs::write(&path, format!("#!/bin/sh\nexec ip addr {verb} \"$2\"/32 dev \"$1\"\n"))?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(format!("--{name}script={}", path.display()))
}

#[test]
fn vips_go_before_pins_of_another_version_do() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    for options in ["", "--mac=virtual"] {
        let _master = killed_master(&a, &b, options)?;
        let pinned = folder(&a)?;
        let old = pinned.to_string_lossy().replace(&format!("/v{ABI}-"), "/v0-");
        fs::rename(&pinned, &old)?;
        let node = without_an_answer_of(&a, &client, &b, || Node::start(&a, &format!("{PREFERRED} {options}")))?;
        assert_eq!(node.lines_with("v0-").len(), 1);
        assert_eq!(node.lines_with("10.77.0.100 was left by a carpd that is gone: removed").len(), 1);
        assert!(!Path::new(&old).exists() && folder(&a)?.exists());
    }
    Ok(())
}

#[test]
fn a_vip_of_a_script_that_is_served_no_more_goes_before_its_fence() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let scripts = Folder::new("scripts")?;
    let options = [script(&scripts, "up", "add")?, script(&scripts, "down", "del")?].join(" ");
    let _master = killed_master(&a, &b, &options)?;
    let node = without_an_answer_of(&a, &client, &b, || {
        let node = a.carpd(&ANOTHER)?;
        node.wait_for_line("INIT -> BACKUP", LONG)?;
        Ok(node)
    })?;
    let told = "10.77.0.100 was left by a carpd that is gone: removed";
    assert!(node.lines().iter().any(|line| line.text.contains(told)), "{:?}", node.lines());
    assert!(!a.has_address(VIP)? && a.xdp_program()?.is_some());
    Ok(())
}

#[test]
fn where_another_road_is_taken_the_vips_go_before_the_fence() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let _master = killed_master(&a, &b, "")?;
    without_an_answer_of(&a, &client, &b, || {
        let node = Node::spawn(&a, &format!("{PREFERRED} --datapath=socket"))?;
        node.wait_for("INIT -> BACKUP")?;
        assert_eq!(node.lines_with("10.77.0.100 was left by a carpd that is gone: removed").len(), 1);
        Ok(())
    })
}

fn cleanup(host: &Host) -> Result<std::process::Output> {
    Ok(host.command(carpd_path()?.with_file_name("carpctl")).arg("cleanup").output()?)
}

#[test]
fn cleanup_removes_all_that_a_killed_carpd_left_and_says_what_and_nothing_of_one_that_is_there() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    eventually("the VIP is there", LONG, || a.has_address(VIP))?;
    a.add_address("10.77.0.200/32")?;
    if has_xdp() {
        let refused = cleanup(&a)?;
        let why = String::from_utf8(refused.stderr)?;
        assert!(!refused.status.success() && why.contains(&format!("process {}", node.agent().pid())), "{why}");
        assert!(a.has_address(VIP)? && a.xdp_program()?.is_some());
    }
    node.agent_mut().kill()?;
    let done = cleanup(&a)?;
    let told = String::from_utf8(done.stdout)?;
    assert!(done.status.success(), "{}", String::from_utf8(done.stderr)?);
    let mut expected = vec![
        "eth0: 10.77.0.100/32 was left by a carpd that is gone: removed",
        "/run/carp: locks that nobody holds removed: ",
    ];
    if has_xdp() {
        expected.extend(["/xdp-", "/tc-", "/CARP_SENT: removed"]);
    }
    assert!(expected.iter().all(|part| told.contains(part)), "{told}");
    assert!(!a.has_address(VIP)? && a.has_address([10, 77, 0, 200])? && a.has_address(a.ip())?);
    assert_eq!(a.ns().pins(), None);
    eventually("nothing is attached", LONG, || Ok(a.xdp_program()?.is_none()))?;
    let again = cleanup(&a)?;
    assert!(again.status.success() && again.stdout.is_empty(), "{again:?}");
    Ok(())
}

#[test]
fn cleanup_removes_what_a_script_added_before_the_fence() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let scripts = Folder::new("scripts")?;
    let options = [script(&scripts, "up", "add")?, script(&scripts, "down", "del")?].join(" ");
    let _master = killed_master(&a, &b, &options)?;
    let done = without_an_answer_of(&a, &client, &b, || cleanup(&a))?;
    let told = String::from_utf8(done.stdout)?;
    assert!(done.status.success() && told.starts_with("eth0: 10.77.0.100 was left by a carpd that is gone: removed\n"));
    assert!(!a.has_address(VIP)? && a.xdp_program()?.is_none());
    Ok(())
}

/// Nor does it wait for what is no lock.
#[test]
fn cleanup_leaves_the_fence_where_an_address_cannot_be_removed_and_says_so() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let _master = killed_master(&a, &b, "")?;
    let pinned = folder(&a)?;
    let in_the_way = PathBuf::from(format!("/run/carp/eth0-9-{}.lock", a.ns().number()));
    let make: [fn(&Path) -> Result<()>; 2] =
        [|path| Ok(mkfifo(path, Mode::S_IRWXU)?), |path| Ok(symlink("/etc/hostname", path)?)];
    for make in make {
        make(&in_the_way)?;
        let refused = without_an_answer_of(&a, &client, &b, || cleanup(&a))?;
        let why = String::from_utf8(refused.stderr)?;
        fs::remove_file(&in_the_way)?;
        assert!(!refused.status.success(), "{why}");
        assert!(["10.77.0.100", "eth0-9-", "what is pinned stays"].iter().all(|part| why.contains(part)), "{why}");
        assert!(pinned.exists() && a.has_address(VIP)? && a.xdp_program()?.is_some());
    }
    assert!(cleanup(&a)?.status.success() && !pinned.exists() && !a.has_address(VIP)?);
    Ok(())
}
