//! The roads that adverts take, on every kind of interface that this kernel has, and where the best one is closed.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use carp_common::abi::EGRESS_PROGRAM;
use carp_tests::adverts::{self, Election};
use carp_tests::foreign::{Mode, attach, detach};
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{ETH0, Flood, FloodPlan, Host, LONG, Lab, Netns, Node, VIP, Wire, eventually};
use nix::sys::signal::Signal;

/// A virtual host with an advert every 234 ms, but for its interface.
const VHOST: [&str; 5] = ["--vhid=1", "--pass=open sesame", "--addr=10.77.0.100", "--advbase=0", "--advskew=60"];

#[test]
fn on_a_bridge_it_is_generic_xdp_which_is_said() -> Result<()> {
    takes_over_on(
        "br0",
        "link add br0 type bridge mcast_snooping 0 forward_delay 0\n\
         link set eth0 master br0\naddr del 10.77.0.1/24 dev eth0\naddr add 10.77.0.1/24 dev br0\nlink set br0 up\n",
        "generic XDP on br0, which is slower: native XDP: ",
    )
}

#[test]
fn on_a_macvlan_it_is_generic_xdp_which_is_said() -> Result<()> {
    takes_over_on(
        "mv0",
        "link add mv0 link eth0 type macvlan mode bridge\n\
         addr del 10.77.0.1/24 dev eth0\naddr add 10.77.0.1/24 dev mv0\nlink set mv0 up\n",
        "generic XDP on mv0, which is slower: native XDP: ",
    )
}

#[test]
fn with_jumbo_frames_it_is_native_xdp_still() -> Result<()> {
    takes_over_on("eth0", "link set eth0 mtu 9000\n", "native XDP on eth0")
}

/// A backup on this interface hears its master, takes over when that dies, and is heard.
fn takes_over_on(interface: &str, setup: &str, road: &str) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    a.ns().ip_batch(setup)?;
    let master = Node::start(&b, PREFERRED)?;
    master.wait_for("BACKUP -> MASTER")?;
    let named = format!("--interface={interface}");
    let backup = a.carpd(&[&[named.as_str()], &VHOST[..4], &["--advskew=80"]].concat())?;
    backup.wait_for_line(road, LONG)?;
    backup.wait_for_line("INIT -> BACKUP", LONG)?;
    Wire::at(&a)?.wait_for_adverts(b.ip(), 5)?;
    backup.signal(Signal::SIGUSR1)?;
    let told = backup.wait_for_line("received: ", LONG)?.text;
    assert!(told.contains("BACKUP for") && told.contains("ipackets "), "{told}");

    b.kill_host()?;
    backup.wait_for_line("BACKUP -> MASTER", LONG)?;
    let has_vip = || Ok(a.ns().ip(&format!("-brief addr show dev {interface}"))?.contains("10.77.0.100/"));
    eventually("the VIP is there", LONG, has_vip)
}

/// What looks at the frames that leave by the host's eth0, by name.
fn egress_programs(host: &Host) -> Result<Vec<String>> {
    host.ns().run(|| {
        let (_, programs) = SchedClassifier::query_tcx(ETH0, TcAttachType::Egress)?;
        Ok(programs.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned()).collect())
    })
}

#[test]
fn what_leaves_is_looked_at_as_long_as_xdp_is_attached() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [node, on_socket] = [Node::spawn(&a, PREFERRED)?, Node::spawn(&b, &format!("{OTHER} --datapath=socket"))?];
    node.wait_for("INIT -> BACKUP")?;
    assert_eq!(egress_programs(&a)?, [EGRESS_PROGRAM]);
    on_socket.wait_for("INIT -> BACKUP")?;
    assert!(egress_programs(&b)?.is_empty(), "without XDP there is no fence");
    node.agent().signal(Signal::SIGTERM)?;
    eventually("the program is gone", LONG, || Ok(egress_programs(&a)?.is_empty()))
}

#[test]
fn an_interface_that_moves_to_another_namespace_is_awaited_and_used_again() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    let elsewhere = Netns::new()?;
    a.ns().ip(&format!("link set {ETH0} netns {}", elsewhere.path().display()))?;
    node.wait_for("MASTER -> INIT")?;
    elsewhere.ip(&format!("link set {ETH0} netns {}", a.ns().path().display()))?;
    a.ns().ip_batch(&format!("link set {ETH0} up\naddr add {}/24 dev {ETH0}\n", a.ip()))?;
    node.wait_until_ready()?;
    node.wait_for("BACKUP -> MASTER")?;
    Wire::at(&bystander)?.wait_for_adverts(a.ip(), 2)?;
    eventually("the VIP is there", LONG, || a.has_address(VIP))
}

#[test]
fn a_carrier_that_flaps_when_the_program_is_attached_is_waited_for() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    // As drivers do that reset the card for it.
    let node = Node::spawn(&a, PREFERRED)?;
    node.wait_for_line(&Node::attached()?)?;
    for _ in 0..2 {
        a.set_carrier(false)?;
        node.wait_for("BACKUP -> INIT")?;
        a.set_carrier(true)?;
        node.wait_for("INIT -> BACKUP")?;
    }
    node.wait_for("BACKUP -> MASTER")?;
    Wire::at(&bystander)?.wait_for_adverts(a.ip(), 2)?;
    // Attaching again would make it flap for ever.
    assert_eq!(node.lines_with(&Node::attached()?).len(), 1);
    Ok(())
}

#[test]
fn what_a_socket_loses_is_counted_and_told() -> Result<()> {
    let lab = Lab::new()?;
    let [a, attacker] = lab.hosts(["a", "attacker"])?;
    let node = Node::spawn(&a, &format!("{PREFERRED} --datapath=socket"))?;
    node.wait_for("BACKUP -> MASTER")?;
    node.agent().signal(Signal::SIGSTOP)?;
    // Far more than the socket's buffer holds.
    let frames = vec![adverts::forge(attacker.ip(), 1, Election::new(0, 0), 1)];
    let plan = FloodPlan { frames, rate: Some(50_000), duration: Duration::from_secs(1) };
    let sent = Flood::start(attacker.ns(), ETH0, plan)?.wait()?;
    node.agent().signal(Signal::SIGCONT)?;
    node.wait_for_line("frames of protocol 112 were lost: they come faster than a packet socket can be read")?;
    // What is still in the socket is neither.
    eventually("every frame is counted", LONG, || {
        let told = node.report()?;
        Ok(told.count("lost") > 0 && told.count("badauth") + told.count("lost") == sent)
    })?;
    Ok(())
}

#[test]
fn a_flood_on_a_socket_hides_no_change_of_the_interface() -> Result<()> {
    let lab = Lab::new()?;
    let [a, attacker] = lab.hosts(["a", "attacker"])?;
    let node = Node::spawn(&a, &format!("{PREFERRED} --datapath=socket"))?;
    node.wait_for("BACKUP -> MASTER")?;
    let frames = vec![adverts::forge(attacker.ip(), 1, Election::new(0, 0), 1)];
    let flood = Flood::start(attacker.ns(), ETH0, FloodPlan { frames, rate: None, duration: LONG })?;
    eventually("the flood has arrived", LONG, || Ok(node.report()?.count("badauth") > 1000))?;
    a.remove_address("10.77.0.1/24")?;
    node.wait_for("MASTER -> INIT")?;
    assert!(flood.stop()? > 1000);
    Ok(())
}

#[test]
fn a_program_that_something_else_detached_is_attached_again() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    detach(&b)?;
    // There is no event for it; anything else that happens to the interface makes the agent look.
    b.ns().ip("link set eth0 alias touched")?;
    b.ns().ip("link set eth0 alias again")?;
    backup.wait_for_line("something else detached the XDP program from eth0")?;
    // Deaf for a while, it may have taken over: it hears the better master again.
    let before = backup.report()?.count("ipackets");
    eventually("adverts are heard", LONG, || Ok(backup.report()?.count("ipackets") > before))?;
    eventually("there is one master", LONG, || Ok(!b.has_address(VIP)? && a.has_address(VIP)?))?;
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn a_foreign_program_in_the_place_of_a_detached_one_is_named_and_a_socket_taken() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    detach(&b)?;
    let _foreign = attach(&b, ETH0, Mode::Native)?;
    let program = b.xdp_program()?.context("no program")?;
    b.ns().ip("link set eth0 alias touched")?;
    b.ns().ip("link set eth0 alias again")?;
    let line = backup.wait_for_line("a packet socket on eth0")?.text;
    assert!(line.contains(&format!("\"bystander\" (id {program})")), "{line}");
    let before = backup.report()?.count("ipackets");
    eventually("adverts are heard", LONG, || Ok(backup.report()?.count("ipackets") > before))?;
    eventually("there is one master", LONG, || Ok(!b.has_address(VIP)? && a.has_address(VIP)?))?;
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}
