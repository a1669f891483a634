//! What comes out of a master that hangs, seen at its port of the switch: nothing in the name of the VIPs, of either family and
//! at either MAC.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use anyhow::{Context, Result};
use carp_tests::node::VHID;
use carp_tests::questions::{Claim, claim, ping, who_has};
use carp_tests::{
    BootTime, ETH0, Flood, FloodPlan, Frame, Host, LONG, Lab, LabOptions, MacAddr, Node, VIP, Wire, configured,
    eventually,
};
use nix::sys::signal::Signal;

use super::{A, B, has_fence, virtual_host, wait_for_rounds};

const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP), IpAddr::V6(VIP6)];
/// As they are given to carpd.
const GIVEN: [&str; 2] = ["10.77.0.100", "fd77::100"];
/// 00:00:5e:00:01:VHID
const VIRTUAL_MAC: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, VHID]);

fn lab() -> Result<Lab> {
    Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })
}

/// A host that is asked for the VIPs all the time, and pinged at them: by frames that are brought to it alone, wherever
/// the switch has the VIPs' MAC.
struct Asked {
    wire: Wire,
    _questions: Flood,
}

impl Asked {
    fn start(lab: &Lab, host: &Host, at: MacAddr, client: &Host) -> Result<Self> {
        let wire = Wire::on(lab.switch(), &host.port())?;
        let questions = |vip: IpAddr| {
            let solicits = who_has(client, vip);
            // As one asks who has been told before.
            let confirms = [&at.0, &solicits[6..]].concat();
            [solicits, confirms, ping(client, at, vip)]
        };
        let frames = VIPS.into_iter().flat_map(questions).collect();
        let plan = FloodPlan { frames, rate: Some(600), duration: 4 * LONG };
        Ok(Self { wire, _questions: Flood::start(lab.switch(), &host.port(), plan)? })
    }

    /// What has come out of the host in the name of the VIPs, at or after a moment.
    fn claims_since(&self, moment: BootTime) -> Vec<(IpAddr, Claim, Frame)> {
        let frames = self.wire.frames().into_iter().filter(|frame| !frame.outgoing && frame.at >= moment);
        let claims =
            |frame: Frame| VIPS.into_iter().find_map(|vip| Some((vip, claim(&frame.bytes, vip)?, frame.clone())));
        frames.filter_map(claims).collect()
    }

    /// Waits until each question has been answered, from now on.
    fn wait_for_answers(&self) -> Result<()> {
        let now = BootTime::now();
        for (vip, kind) in VIPS.iter().flat_map(|vip| [(*vip, Claim::Neighbour), (*vip, Claim::Packet)]) {
            let is_it = |(of, claim, _): &(IpAddr, Claim, Frame)| (*of, *claim) == (vip, kind);
            eventually(&format!("{vip} answers: {kind:?}"), LONG, || Ok(self.claims_since(now).iter().any(is_it)))?;
        }
        Ok(())
    }
}

fn nobody_answers_but_the_next_master(more: &str, virtual_mac: Option<MacAddr>) -> Result<()> {
    if !has_fence() {
        return Ok(());
    }
    let lab = lab()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let hangs = Node::start_for(&GIVEN, &a, &format!("{A} {more}"))?;
    hangs.wait_for("BACKUP -> MASTER")?;
    let backup = Node::start_for(&GIVEN, &b, &format!("{B} {more}"))?;
    let [of_a, of_b] = [&a, &b].map(|host| Asked::start(&lab, host, virtual_mac.unwrap_or(host.mac()), &client));
    let (of_a, of_b) = (of_a?, of_b?);
    of_a.wait_for_answers()?;

    hangs.agent().signal(Signal::SIGSTOP)?;
    backup.wait_for("BACKUP -> MASTER")?;
    let (taken_over, _) = of_b.wire.wait_for_advert("the first", |_, advert| advert.source == b.ip())?;
    of_b.wait_for_answers()?;
    wait_for_rounds(100)?;
    let listing = a.ns().ip("-brief addr show")?;
    assert!(GIVEN.iter().all(|vip| listing.contains(vip)), "nobody has taken them from there: {listing}");
    hangs.agent().signal(Signal::SIGCONT)?;
    hangs.wait_for("MASTER -> BACKUP")?;
    eventually("it gives the addresses up", LONG, || {
        let listing = a.ns().ip("-brief addr show")?;
        Ok(!GIVEN.iter().any(|vip| listing.contains(vip)))
    })?;
    wait_for_rounds(100)?;
    of_b.wait_for_answers()?;

    let late = of_a.claims_since(taken_over);
    assert!(late.is_empty(), "{late:?}");
    let told = hangs.report()?;
    assert!(told.count("fencedin") > 100, "{told:?}");
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn for_addresses_of_both_families_nobody_answers_but_the_next_master() -> Result<()> {
    nobody_answers_but_the_next_master("", None)
}

/// At which both hosts have them.
#[test]
fn at_the_virtual_mac_nobody_answers_but_the_next_master() -> Result<()> {
    nobody_answers_but_the_next_master("--mac=virtual", Some(VIRTUAL_MAC))
}

/// Something on the master's host that speaks in the name of each VIP: a service that goes on.
struct Speakers {
    sockets: Vec<(UdpSocket, IpAddr)>,
}

impl Speakers {
    fn start(host: &Host, client: &Host) -> Result<Self> {
        let to = [IpAddr::V4(client.ip()), IpAddr::V6(client.ip6())];
        for address in to {
            // Nobody has to be asked where the client is.
            host.ns().ip(&format!("neigh replace {address} lladdr {} dev {ETH0} nud permanent", client.mac()))?;
        }
        let open = |(vip, to): (&IpAddr, IpAddr)| Ok((UdpSocket::bind((*vip, 0))?, to));
        let sockets = host.ns().run(|| VIPS.iter().zip(to).map(open).collect::<Result<_>>())?;
        Ok(Self { sockets })
    }

    /// A datagram in the name of each.
    fn speak(&self) {
        for (socket, to) in &self.sockets {
            // Whether it gets anywhere is seen on the wire.
            socket.send_to(b"!", (*to, 9)).ok();
        }
    }
}

#[test]
fn what_a_master_that_hangs_says_in_the_name_of_the_vips_does_not_leave_and_is_counted() -> Result<()> {
    if !has_fence() {
        return Ok(());
    }
    let lab = lab()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let folder = configured::folder()?;
    configured::write(&folder, &[virtual_host(VHID, &GIVEN, "")])?;
    let hangs = configured::start(&a, &folder)?;
    configured::wait_for_change(&hangs, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let backup = Node::start_for(&GIVEN, &b, B)?;
    eventually("it has the addresses", LONG, || Ok(a.has_address(VIP)? && a.has_address(VIP6)?))?;
    let of_a = Wire::on(lab.switch(), &a.port())?;
    let speakers = Speakers::start(&a, &client)?;
    let said_since = |moment| {
        let frames = of_a.frames().into_iter().filter(move |frame| !frame.outgoing && frame.at >= moment);
        let of = |vip| frames.clone().filter(|frame| claim(&frame.bytes, vip) == Some(Claim::Packet)).count();
        VIPS.map(of)
    };
    let now = BootTime::now();
    eventually("they are heard", LONG, || {
        speakers.speak();
        Ok(said_since(now).iter().all(|count| *count > 0))
    })?;

    hangs.signal(Signal::SIGSTOP)?;
    backup.wait_for("BACKUP -> MASTER")?;
    let taken_over = BootTime::now();
    let mut left = 100;
    eventually("they have spoken for long", LONG, || {
        speakers.speak();
        left -= 1;
        Ok(left == 0)
    })?;
    // A packet of another address comes through, after them.
    let own = a.ns().run(|| Ok(UdpSocket::bind((a.ip(), 0))?))?;
    own.send_to(b"!", (client.ip(), 9))?;
    let is_own = |frame: &Frame| frame.at >= taken_over && claim(&frame.bytes, a.ip().into()) == Some(Claim::Packet);
    eventually("the other one has left", LONG, || Ok(of_a.frames().iter().any(is_own)))?;
    assert_eq!(said_since(taken_over), [0, 0]);

    hangs.signal(Signal::SIGCONT)?;
    configured::wait_for_change(&hangs, "eth0 vhid 1", "MASTER -> BACKUP")?;
    let told = configured::carpctl(&folder, &["status", "--json"])?;
    let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    let fenced = told["virtual_hosts"][0]["received"]["fencedout"].as_u64().context("no count")?;
    assert!(fenced >= 200, "{told}");
    let counters = configured::carpctl(&folder, &["counters"])?;
    let counters = String::from_utf8_lossy(&counters.stdout);
    let row = counters.lines().find(|line| line.contains("fencedout")).context("no row")?;
    assert!(row.split_whitespace().any(|word| word.parse() == Ok(fenced)), "{counters}");
    Ok(())
}
