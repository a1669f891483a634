//! carpd and keepalived on the same interfaces: VRRP has CARP's protocol number and group, and in version 2 even its
//! first octet. Neither moves the other.

use std::net::Ipv4Addr;

use anyhow::Result;
use carp_tests::{
    BootTime, Capture, ETH0, Filter, Frame, Host, Keepalived, LONG, Lab, Node, VHID, VIP, Vrrp, Wire, adverts,
    eventually, is_missing,
};
use nix::sys::signal::Signal;

use crate::at_once;

const UNMOVED_MASTER: [&str; 2] = ["INIT -> BACKUP", "BACKUP -> MASTER"];

const SHARED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 150);

/// With as many addresses, the header of VRRP has CARP's authlen where it counts them.
const SEVEN: [Ipv4Addr; 7] = {
    let mut all = [SHARED; 7];
    let mut number = 0;
    while number < 7 {
        all[number] = Ipv4Addr::new(10, 77, 0, 150 + number as u8);
        number += 1;
    }
    all
};

#[test]
fn vrrp_with_another_id_and_carp_leave_each_other_alone() -> Result<()> {
    let vrrp = |version| Vrrp { version, id: 51, priority: 150, addresses: &[SHARED] };
    // Every 117 and every 312 ms.
    let quick = ["--advbase=0 --advskew=30", "--advbase=0 --advskew=80"];
    side_by_side(&[(vrrp(2), quick), (vrrp(3), quick)])
}

// With the same id in the same group, carpd must not advertise as often as keepalived does: a keepalived master that
// hears protocol 112 with its id puts its own next advert off by an interval, even if it refuses what it has heard, and
// falls silent. docs/protocol.md tells it, and that another group helps.

#[test]
fn vrrp_2_with_the_same_id_and_carp_leave_each_other_alone() -> Result<()> {
    let vrrp = |addresses| Vrrp { version: 2, id: VHID, priority: 150, addresses };
    let slow = ["--advbase=1 --advskew=100 --deadratio=1", "--advbase=1 --advskew=110"];
    side_by_side(&[(vrrp(&[SHARED][..]), slow), (vrrp(&SEVEN), slow)])
}

#[test]
fn vrrp_3_with_the_same_id_and_carp_leave_each_other_alone() -> Result<()> {
    let vrrp = |addresses| Vrrp { version: 3, id: VHID, priority: 150, addresses };
    let slow = ["--advbase=0 --advskew=100", "--advbase=0 --advskew=110"];
    side_by_side(&[(vrrp(&[SHARED][..]), slow), (vrrp(&SEVEN), slow)])
}

#[test]
fn vrrp_with_the_same_id_is_left_alone_at_any_pace_by_carp_in_another_group() -> Result<()> {
    let vrrp = |version| Vrrp { version, id: VHID, priority: 150, addresses: &[SHARED] };
    let quick = ["--advbase=0 --advskew=30 --mcast=224.0.0.200", "--advbase=0 --advskew=80 --mcast=224.0.0.200"];
    side_by_side(&[(vrrp(2), quick), (vrrp(3), quick)])
}

fn side_by_side(cases: &[(Vrrp<'_>, [&str; 2])]) -> Result<()> {
    if is_missing("keepalived")? {
        return Ok(());
    }
    at_once(cases, |(vrrp, options)| in_a_lab(*vrrp, *options))
}

/// Two of each; the master of one is the backup of the other. Each pair does its failover without moving the other.
fn in_a_lab(vrrp: Vrrp<'_>, options: [&str; 2]) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let heard = Capture::start(bystander.ns(), ETH0, Filter::Carp)?;
    let wire = Wire::at(&bystander)?;
    let preferred = Keepalived::start(&b, vrrp)?;
    preferred.wait_for("MASTER")?;
    let other = Keepalived::start(&a, Vrrp { priority: 100, ..vrrp })?;
    let [mut master, backup] = Node::start_pair((&a, options[0]), (&b, options[1]))?;
    let now = BootTime::now();
    let adverts_of = |host: &Host, count: usize| -> Result<()> {
        let mut left = count;
        let of_host = |frame: &Frame| frame.at >= now && frame.bytes.get(26..30) == Some(&host.ip().octets()[..]);
        heard.wait_for("VRRP", LONG, |frame| {
            left -= usize::from(of_host(frame) && is_vrrp(frame, vrrp));
            left == 0
        })?;
        Ok(())
    };

    // Longer than the dead times of both.
    adverts_of(&b, 5)?;
    wire.wait_for_adverts(a.ip(), 5)?;
    let told = master.report()?;
    assert!(told.count("other") >= 5, "{}", told.text);
    assert_eq!(told.counted(), ["other"], "{}", told.text);
    // On b, keepalived's are sent; what is received there is carpd's.
    let told = backup.report()?;
    assert!(told.count("ipackets") >= 5, "{}", told.text);
    assert_eq!((told.count("badauth"), told.count("badsum"), told.count("badttl")), (0, 0, 0), "{}", told.text);
    let assert_vrrp = |expected: [&str; 2]| {
        let logs = [&preferred, &other].map(Keepalived::log);
        assert_eq!([&preferred, &other].map(|vrrp| vrrp.states().join(" ")), expected, "{logs:#?}");
    };
    assert_vrrp(["BACKUP MASTER", "BACKUP"]);
    let assert_carp = || {
        assert_eq!(master.changes(), UNMOVED_MASTER);
        assert_eq!(backup.changes(), UNMOVED_MASTER[..1]);
    };
    assert_carp();

    preferred.signal(Signal::SIGTERM)?;
    other.wait_for("MASTER")?;
    adverts_of(&a, 1)?;
    let [shared, ..] = *vrrp.addresses else { panic!("no address") };
    eventually("the address has moved", LONG, || Ok(a.has_address(shared)? && !b.has_address(shared)?))?;
    assert_carp();
    assert!(a.has_address(VIP)?);

    assert!(master.agent_mut().stop_and_wait(LONG)?.success());
    backup.wait_for("BACKUP -> MASTER")?;
    eventually("the address has moved", LONG, || Ok(b.has_address(VIP)? && !a.has_address(VIP)?))?;
    adverts_of(&a, 1)?;
    wire.wait_for_adverts(b.ip(), 2)?;
    assert_vrrp(["BACKUP MASTER", "BACKUP MASTER"]);
    assert!(a.has_address(shared)?);
    assert!(backup.report()?.count("other") >= 1);
    assert_eq!(backup.changes(), UNMOVED_MASTER);
    Ok(())
}

/// Whether a frame is an advert of this router: CARP's, with an authlen of 7, has 36 bytes, while VRRP 2 with seven
/// addresses has 44.
fn is_vrrp(frame: &Frame, vrrp: Vrrp<'_>) -> bool {
    let is_carp = adverts::parse(frame).is_some() && frame.bytes[16..18] == 56_u16.to_be_bytes();
    !is_carp && frame.bytes.get(34..36) == Some(&[vrrp.version << 4 | 1, vrrp.id])
}
