//! The interface and its address go and come, also at the start: at boot the network is not up yet.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{Agent, BootTime, ETH0, Host, LONG, Lab, Node, VIP, Wire, eventually};
use nix::sys::signal::Signal;

const NO_CARRIER: &str = "no carrier";
const NO_INTERFACE: &str = "the interface does not exist";
const NO_ADDRESS: &str = "the source address is missing";

#[test]
fn a_master_without_carrier_gives_the_address_up_and_returns_as_a_backup() -> Result<()> {
    master_is_cut_off("", NO_CARRIER, |a| a.set_carrier(false), |a| a.set_carrier(true))
}

#[test]
fn a_master_without_carrier_gives_the_address_up_and_takes_it_back_if_it_preempts() -> Result<()> {
    master_is_cut_off("--preempt", NO_CARRIER, |a| a.set_carrier(false), |a| a.set_carrier(true))
}

#[test]
fn a_master_whose_interface_is_shut_gives_the_address_up_and_returns() -> Result<()> {
    let set = |host: &Host, state: &str| host.ns().ip(&format!("link set {ETH0} {state}")).map(drop);
    master_is_cut_off("--preempt", "the interface is down", |a| set(a, "down"), |a| set(a, "up"))
}

#[test]
fn a_master_whose_interface_is_deleted_returns_with_the_next_one() -> Result<()> {
    master_is_cut_off("--preempt", NO_INTERFACE, Host::delete_interface, Host::create_interface)
}

#[test]
fn a_master_whose_own_address_is_removed_returns_with_it() -> Result<()> {
    let own = |host: &Host| format!("{}/24", host.ip());
    master_is_cut_off("--preempt", NO_ADDRESS, |a| a.remove_address(&own(a)), |a| a.add_address(&own(a)))
}

/// Others have thousands of addresses, and all of them come while carpd is not given the CPU.
#[test]
fn what_happens_while_events_of_the_kernel_are_lost_is_seen_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let node = Node::start(&host, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    host.add_others()?;

    node.agent().signal(Signal::SIGSTOP)?;
    host.add_others_addresses()?;
    host.set_carrier(false)?;
    let sockets = fs::read_to_string(format!("/proc/{}/net/netlink", node.agent().pid()))?;
    let lost = sockets.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)).any(|drops| drops != "0");
    assert!(lost, "{sockets}");
    let continued = BootTime::now();
    node.agent().signal(Signal::SIGCONT)?;
    eventually(NO_CARRIER, LONG, || Ok(node.lines_with(NO_CARRIER).len() == 1))?;
    // It looks every ten seconds whatever it hears.
    let noticed = BootTime::now().since(continued);
    assert!(noticed < Duration::from_secs(4), "{noticed:?}");
    Ok(())
}

/// Cuts a master off: the other one takes over; and undoes it: the first one is BACKUP, a member of the
/// group, and hears the other; with `--preempt`, it is MASTER again.
fn master_is_cut_off(
    options: &str,
    fault: &str,
    cut: impl Fn(&Host) -> Result<()>,
    mend: impl Fn(&Host) -> Result<()>,
) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [node, other] = Node::start_pair((&a, &format!("{PREFERRED} {options}")), (&b, OTHER))?;
    let wire = Wire::at(&bystander)?;
    wire.wait_for_adverts(a.ip(), 1)?;
    cut(&a)?;
    assert_eq!(node.wait_for("MASTER -> INIT")?.cause, fault);
    eventually("the address is given up", LONG, || Ok(!holds_vip(&a)?))?;
    let takeover = other.wait_for("BACKUP -> MASTER")?;
    assert!(takeover.cause.starts_with("no advert for "), "{takeover:?}");
    wire.wait_for_announcement(&b, VIP, node.transitions()[1].at)?;
    assert_eq!(node.lines_with(fault).len(), 1, "{:?}", node.agent().lines());

    let heard = node.report()?.count("ipackets");
    mend(&a)?;
    assert_eq!(node.wait_for("INIT -> BACKUP")?.cause, "interface ready");
    eventually("the group is joined", LONG, || is_member(&a))?;
    let mut expected = vec!["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> INIT", "INIT -> BACKUP"];
    if options.contains("--preempt") {
        let back = node.wait_for("BACKUP -> MASTER")?;
        assert!(back.cause.starts_with("preempting 10.77.0.2 ("), "{back:?}");
        other.wait_for("MASTER -> BACKUP")?;
        eventually("the address is back", LONG, || holds_vip(&a))?;
        wire.wait_for_adverts(a.ip(), 5)?;
        expected.push("BACKUP -> MASTER");
    } else {
        // Longer than its dead time.
        wire.wait_for_adverts(b.ip(), 5)?;
        assert_eq!(other.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
        assert!(!holds_vip(&a)?);
        assert!(node.report()?.count("ipackets") > heard);
    }
    assert_eq!(node.changes(), expected);
    assert_eq!(node.lines_with(fault).len(), 1, "{:?}", node.agent().lines());
    Ok(())
}

#[test]
fn a_backup_whose_interface_is_deleted_is_a_backup_on_the_next_one() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&bystander)?;
    for round in 1..=2 {
        b.delete_interface()?;
        assert_eq!(backup.wait_for("BACKUP -> INIT")?.cause, NO_INTERFACE);
        b.create_interface()?;
        backup.wait_until_ready()?;
        // Longer than its dead time.
        wire.wait_for_adverts(a.ip(), 6)?;
        assert!(is_member(&b)?);
        assert_eq!(backup.changes().len(), 1 + 2 * round);
    }
    assert!(backup.report()?.text.contains("vhid 1: BACKUP for "));
    assert_eq!(wire.adverts_of(b.ip()), []);
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert_eq!(backup.lines_with(NO_INTERFACE).len(), 2);
    Ok(())
}

#[test]
fn an_interface_that_appears_after_the_start_is_taken_into_service() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    a.delete_interface()?;
    let node = Node::spawn(&a, PREFERRED)?;
    let line = node.wait_for_line("INIT: ")?.text;
    assert!(line.ends_with("eth0 vhid 1: INIT: the interface does not exist; waiting for it"), "{line}");
    // Other interfaces are no reason to say it again.
    a.ns().ip("link add x0 type veth peer name x1")?;
    a.ns().ip("link set x0 up")?;
    a.ns().ip("link del x0")?;
    assert!(node.report()?.text.contains("vhid 1: INIT for "));

    let wire = Wire::at(&bystander)?;
    a.create_interface()?;
    node.wait_until_ready()?;
    let master = node.wait_for("BACKUP -> MASTER")?;
    assert!(master.cause.starts_with("no advert for 0."), "{master:?}");
    wire.wait_for_adverts(a.ip(), 2)?;
    assert!(is_member(&a)? && holds_vip(&a)?);
    assert_eq!(node.lines_with(NO_INTERFACE).len(), 1);
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn a_source_address_that_appears_after_the_start_is_used() -> Result<()> {
    own_address_appears("--srcip=10.77.0.1")
}

#[test]
fn without_a_source_address_the_first_one_that_appears_is_used() -> Result<()> {
    own_address_appears("")
}

fn own_address_appears(options: &str) -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    a.remove_address("10.77.0.1/24")?;
    // What a crash left behind is no address of one's own.
    a.add_address("10.77.0.100/32")?;
    let node = Node::spawn(&a, &format!("{PREFERRED} {options}"))?;
    let line = node.wait_for_line("INIT: ")?.text;
    assert!(line.ends_with("eth0 vhid 1: INIT: the source address is missing; waiting for it"), "{line}");
    eventually("the VIP is removed", LONG, || Ok(!holds_vip(&a)?))?;

    let wire = Wire::at(&bystander)?;
    a.add_address("10.77.0.1/24")?;
    node.wait_for("INIT -> BACKUP")?;
    node.wait_for("BACKUP -> MASTER")?;
    wire.wait_for_adverts(a.ip(), 2)?;
    assert_eq!(node.lines_with(&Node::attached()?).len(), 1);
    assert_eq!(node.lines_with(NO_ADDRESS).len(), 1);
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn an_interface_that_is_not_named_is_awaited_by_the_network_of_the_vip() -> Result<()> {
    interface_is_found(&[], "10.77.0.1/24", "no interface is in the network of 10.77.0.100")
}

#[test]
fn an_interface_that_is_not_named_is_awaited_by_the_source_address() -> Result<()> {
    // Its own route would lead to the VIP too; this one alone does not.
    interface_is_found(&["--srcip=10.77.0.1"], "10.77.0.1/32", "no interface has the address 10.77.0.1")
}

/// At boot there is neither route nor address; both come with `address`.
fn interface_is_found(options: &[&str], address: &str, missing: &str) -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    a.remove_address("10.77.0.1/24")?;
    a.ns().ip("route add blackhole 10.77.0.0/16")?;
    let vhost = ["--vhid=1", "--pass=secret", "--addr=10.77.0.100", "--advbase=0", "--advskew=30"];
    let mut agent = a.carpd(&[&vhost[..], options].concat())?;
    let told = format!("vhid 1: INIT: {missing}; waiting for it (or name one with --interface)");
    let times_told = |agent: &Agent| agent.lines().iter().filter(|line| line.text.ends_with(&told)).count();
    agent.wait_for_line(&told, LONG)?;
    // Not the one, and no reason to say it again.
    a.ns().ip("link add x0 type veth peer name x1")?;
    a.ns().ip("link set x0 up")?;
    a.ns().ip("addr add 192.0.2.1/24 dev x0")?;
    // At boot the network of the default route may be there first.
    a.ns().ip("link set x1 up")?;
    for route in
        ["unreachable 10.77.0.0/16", "prohibit 10.77.0.0/16", "10.77.0.0/16 via 192.0.2.2", "default via 192.0.2.2"]
    {
        a.ns().ip(&format!("route replace {route}"))?;
    }
    a.ns().ip("route replace default dev x0")?;
    a.ns().ip("route del 10.77.0.0/16")?;
    assert_eq!(times_told(&agent), 1);
    agent.signal(Signal::SIGUSR1)?;
    eventually("the state is told", LONG, || Ok(times_told(&agent) == 2))?;

    a.add_address(address)?;
    agent.wait_for_line("eth0 vhid 1: BACKUP -> MASTER", LONG)?;
    assert!(agent.stop_and_wait(LONG)?.success());
    assert_eq!(times_told(&agent), 2);
    assert!(agent.lines().iter().all(|line| !line.text.contains("look up the route")), "{:?}", agent.lines());
    Ok(())
}

#[test]
fn a_master_that_cannot_send_three_times_is_demoted_until_it_can_send_three_times() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    // Told to ignore the link, it goes on; and nothing can be sent on an interface that is down.
    let node = Node::start(&a, &format!("{PREFERRED} --ignoreifstate"))?;
    node.wait_for("BACKUP -> MASTER")?;
    let wire = Wire::at(&bystander)?;
    a.ns().ip("link set eth0 down")?;
    node.wait_for_line("cannot send an advert")?;
    node.wait_for_line("demoted by 240")?;
    a.ns().ip("link set eth0 up")?;
    node.wait_for_line("adverts can be sent again")?;
    node.wait_for_line("demotion ends")?;
    let back = wire.wait_for_adverts(a.ip(), 1)?;
    assert_eq!(back.1.election.demote, 0);
    let demoted = wire.adverts_of(a.ip()).into_iter().filter(|(_, advert)| advert.election.demote == 240);
    // The first ones may be lost while the switch puts the port to work.
    assert!(demoted.count() <= 3);
    assert_eq!(node.lines_with("cannot send an advert").len(), 1);
    assert_eq!(node.lines_with("demoted by 240").len(), 1);
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

/// Whether the host's eth0 has the VIP; without an eth0 it has not.
fn holds_vip(host: &Host) -> Result<bool> {
    let exists = host.ns().ip("-brief link show")?.contains(ETH0);
    Ok(exists && host.has_address(VIP)?)
}

/// Whether the host's eth0 has joined 224.0.0.18.
fn is_member(host: &Host) -> Result<bool> {
    let groups = host.ns().run(|| fs::read_to_string("/proc/thread-self/net/igmp").context("reading memberships"))?;
    // A line for each interface, and after it one for each of its groups, in the byte order of the machine.
    let of_eth0 = groups.lines().skip_while(|line| !line.contains(ETH0)).skip(1);
    let mut of_eth0 = of_eth0.take_while(|line| line.starts_with('\t'));
    let group = format!("{:08X}", u32::from_ne_bytes([224, 0, 0, 18]));
    Ok(of_eth0.any(|line| line.trim_start().starts_with(&group)))
}

#[test]
fn a_master_whose_interface_is_renamed_gives_the_address_up_there() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    eventually("the address is here", LONG, || holds_vip(&a))?;
    a.ns().ip(&format!("link set {ETH0} name wan0"))?;
    assert_eq!(node.wait_for("MASTER -> INIT")?.cause, NO_INTERFACE);
    let vip = VIP.to_string();
    eventually("the address is given up", LONG, || Ok(!a.ns().ip("-4 address show dev wan0")?.contains(&vip)))?;
    a.ns().ip(&format!("link set wan0 name {ETH0}"))?;
    node.wait_for("BACKUP -> MASTER")?;
    eventually("the address is back", LONG, || holds_vip(&a))
}

#[test]
fn a_master_whose_interface_is_replaced_between_two_looks_gives_the_address_up_on_the_old_one() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    eventually("the address is here", LONG, || holds_vip(&a))?;
    node.agent().signal(Signal::SIGSTOP)?;
    a.ns().ip_batch(&format!(
        "link set {ETH0} name wan0\nlink add {ETH0} type veth peer name x1\n\
         link set {ETH0} up\nlink set x1 up\naddr add 10.77.0.9/24 dev {ETH0}\n"
    ))?;
    node.agent().signal(Signal::SIGCONT)?;
    assert_eq!(node.wait_for("MASTER -> INIT")?.cause, NO_INTERFACE);
    node.wait_for("INIT -> BACKUP")?;
    node.wait_for("BACKUP -> MASTER")?;
    eventually("the address is on the new one", LONG, || holds_vip(&a))?;
    assert!(!a.ns().ip("-4 address show dev wan0")?.contains(&VIP.to_string()));
    Ok(())
}
