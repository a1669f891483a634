//! Virtual hosts that fail over together.

use std::net::Ipv4Addr;

use anyhow::Result;
use carp_tests::configured::{folder, virtual_host};
use carp_tests::{Host, LONG, Lab, Wire};

use crate::{FIRST, Server, TO_BACKUP, TO_MASTER, YIELDS, add_uplink, first, pair, set_uplink};

const GROUP: &str = "failover_group = \"edge\"";
const SECOND: &str = "t0 vhid 2";

/// Of `a`: the first virtual host, and one on t0, in a group.
fn tables(lines: &str) -> Vec<String> {
    let second = Ipv4Addr::new(10, 78, 0, 100);
    vec![
        first(&format!("preempt = true\n{GROUP}\n{lines}")),
        virtual_host(2, second, &format!("interface = \"t0\"\n{GROUP}")),
    ]
}

fn start(a: &Host, b: &Host) -> Result<[Server; 2]> {
    add_uplink(a)?;
    let servers = pair(a, b, (folder()?, &tables("")), "")?;
    servers[0].wait_for_changes(SECOND, &[TO_BACKUP, TO_MASTER])?;
    Ok(servers)
}

#[test]
fn a_member_that_cannot_work_takes_the_others_along_and_back() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [on_a, on_b] = start(&a, &b)?;
    set_uplink(&a, "down")?;
    on_a.wait_for_changes(SECOND, &[TO_BACKUP, TO_MASTER, "MASTER -> INIT"])?;
    on_a.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS])?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    assert_eq!(on_b.cause(TO_MASTER)?, "10.77.0.1 is demoted by 240");
    on_a.agent.wait_for_line("eth0 vhid 1: demoted by 240: the group's t0 vhid 2 (240)", LONG)?;
    assert_eq!(on_a.demoting()?, ["group 240: t0 vhid 2"]);
    let (_, table) = on_a.table()?;
    assert!(table.contains("! eth0 vhid 1: demoted by 240 with its group: t0 vhid 2 is in trouble\n"), "{table}");

    set_uplink(&a, "up")?;
    on_a.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS, TO_MASTER])?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS])?;
    on_a.wait_until_demoted_by(&[])
}

#[test]
fn members_that_both_could_not_work_do_not_keep_each_other_demoted() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [on_a, on_b] = start(&a, &b)?;
    set_uplink(&a, "down")?;
    a.set_carrier(false)?;
    on_a.wait_for_changes(SECOND, &[TO_BACKUP, TO_MASTER, "MASTER -> INIT"])?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    a.set_carrier(true)?;
    on_a.wait_until_demoted_by(&["group 240: t0 vhid 2"])?;
    set_uplink(&a, "up")?;
    on_a.wait_until_demoted_by(&[])?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS])?;
    assert_eq!(on_a.field("/state")?, "MASTER");
    on_a.wait_for_changes(SECOND, &[TO_BACKUP, TO_MASTER, "MASTER -> INIT", TO_BACKUP, TO_MASTER])
}

#[test]
fn a_group_is_as_demoted_as_its_worst_member_and_that_ends_when_one_leaves_it() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let member =
        |vhid: u8, lines: &str| virtual_host(vhid, [10, 77, 0, 100 + vhid].into(), &format!("{GROUP}\n{lines}"));
    let tracked = |demote: u8| format!("track_interfaces = [{{ name = \"none\", demote = {demote} }}]");
    let server =
        Server::start(&a, &[first(&format!("{GROUP}\n{}", tracked(20))), member(3, &tracked(100)), member(4, "")])?;
    for name in [FIRST, "eth0 vhid 3", "eth0 vhid 4"] {
        server.wait_for_changes(name, &[TO_BACKUP, TO_MASTER])?;
    }
    for vhid in [1, 3, 4] {
        let what = format!("an advert of vhid {vhid}, demoted by 100");
        wire.wait_for_advert(&what, |_, advert| advert.vhid == vhid && advert.election.demote == 100)?;
    }
    assert_eq!(server.demoting()?, ["interface none 20: the interface does not exist", "group 80: eth0 vhid 3"]);

    // Its worst member is taken out, and the next one has another group.
    server.reload(&[
        first(&format!("{GROUP}\n{}", tracked(20))),
        member(4, "failover_group = \"other\"").replacen(GROUP, "", 1),
    ])?;
    server.wait_until_demoted_by(&["interface none 20: the interface does not exist"])?;
    wire.wait_for_advert("an advert of vhid 4, not demoted", |_, advert| {
        advert.vhid == 4 && advert.election.demote == 0
    })?;
    for name in [FIRST, "eth0 vhid 4"] {
        server.wait_for_changes(name, &[TO_BACKUP, TO_MASTER])?;
    }
    Ok(())
}
