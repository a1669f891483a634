//! Peers in another network: the way goes over a router, which takes one from the TTL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{ETH0, LONG, Lab, LabOptions, Node, Wire, eventually};

/// The address of the host behind the router.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const BEHIND6: Ipv6Addr = Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 2);

#[test]
fn through_a_router_adverts_are_taken_as_far_as_that_is_allowed() -> Result<()> {
    are_taken_as_far_as_that_is_allowed("10.77.0.100", Ipv4Addr::new(10, 77, 0, 1).into(), BEHIND.into())
}

#[test]
fn so_they_are_over_ipv6_where_it_takes_one_from_the_hop_limit() -> Result<()> {
    let a = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
    are_taken_as_far_as_that_is_allowed("fd77::100", a.into(), BEHIND6.into())
}

fn are_taken_as_far_as_that_is_allowed(vip: &str, near: IpAddr, behind: IpAddr) -> Result<()> {
    let lab = Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })?;
    let [a, router, b] = lab.hosts(["a", "router", "b"])?;
    b.delete_interface()?;
    for knob in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        router.ns().set_sysctl(knob, "1")?;
    }
    router.ns().ip(&format!("link add eth1 type veth peer name {ETH0} netns {}", b.ns().path().display()))?;
    router.ns().ip_batch("link set eth1 up\naddr add 10.78.0.1/24 dev eth1\naddr add fd78::1/64 dev eth1 nodad\n")?;
    b.ns().ip_batch(&format!(
        "link set {ETH0} up\naddr add {BEHIND}/24 dev {ETH0}\naddr add {BEHIND6}/64 dev {ETH0} nodad\n\
         route add 10.77.0.0/24 via 10.78.0.1\nroute add fd77::/64 via fd78::1\n"
    ))?;
    a.ns().ip_batch(&format!(
        "route add 10.78.0.0/24 via {}\nroute add fd78::/64 via {}\n",
        router.ip(),
        router.ip6()
    ))?;
    let master = Node::start_for(&[vip], &a, &format!("{PREFERRED} --peer={behind} --min-ttl=254"))?;
    master.wait_for("BACKUP -> MASTER")?;

    let mut strict = Node::start_for(&[vip], &b, &format!("{OTHER} --peer={near}"))?;
    strict.wait_for("BACKUP -> MASTER")?;
    eventually("they are counted", LONG, || Ok(strict.report()?.count("badttl") >= 3))?;
    let told = strict.report()?;
    assert_eq!((told.count("ipackets"), told.count("ipackets6")), (0, 0), "{told:?}");
    assert!(strict.agent_mut().stop_and_wait(LONG)?.success());

    let wire = Wire::on(b.ns(), ETH0)?;
    let backup = Node::start_for(&[vip], &b, &format!("{OTHER} --peer={near} --min-ttl=254"))?;
    wire.wait_for_adverts(near, 6)?;
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    assert_eq!(backup.report()?.count("badttl"), 0);
    a.kill_host()?;
    assert!(backup.wait_for("BACKUP -> MASTER")?.cause.starts_with("no advert"));
    Ok(())
}
