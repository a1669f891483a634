//! Who answers for which address, and what is changed for it on an interface that is not carpd's.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::Result;
use carp_tests::node::PREFERRED;
use carp_tests::packet::Arp;
use carp_tests::{ArpWatch, BootTime, ETH0, LONG, Lab, Node, PASSPHRASE, VIP, Wire, eventually};
use nix::sys::signal::Signal;

use super::{MAC, PLAIN, VIRTUAL, alone, arp_settings, device_on, has_device, pair, wait_for_device, wait_until_gone};

const PERIOD: Duration = Duration::from_millis(5);
const CHANGED: [&str; 2] = ["1", "2"];

#[test]
fn each_address_is_answered_by_one_mac_and_a_neighbour_is_not_asked_for_in_the_name_of_the_vip() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    // As distributions have it; what comes for a VIP is answered another way.
    a.ns().set_sysctl("net.ipv4.conf.all.rp_filter", "1")?;
    let _node = alone(&a, "")?;
    let wire = Wire::at(&client)?;
    let watches = [ArpWatch::start(&client, VIP, PERIOD)?, ArpWatch::start(&client, a.ip(), PERIOD)?];
    watches[0].wait_for_owner(MAC, LONG)?;
    watches[1].wait_for_owner(a.mac(), LONG)?;

    let (own, foreign) =
        (a.ns().run(|| Ok(UdpSocket::bind((VIP, 7))?))?, client.ns().run(|| Ok(UdpSocket::bind((client.ip(), 7))?))?);
    own.set_read_timeout(Some(LONG))?;
    foreign.set_read_timeout(Some(LONG))?;
    foreign.send_to(b"?", (VIP, 7))?;
    let mut buffer = [0; 8];
    let (_, from) = own.recv_from(&mut buffer)?;
    // Its own cache is empty: it has to ask.
    a.ns().ip(&format!("neigh flush dev {ETH0}"))?;
    own.send_to(b"!", from)?;
    assert_eq!(foreign.recv_from(&mut buffer)?.1, (VIP, 7).into());

    for (watch, owner) in watches.into_iter().zip([MAC, a.mac()]) {
        let timeline = watch.stop()?.timeline();
        assert!(timeline.iter().all(|time| time.owners.is_empty() || time.owners == [owner]), "{timeline:?}");
    }
    let frames = wire.frames();
    let asked =
        frames.iter().filter_map(|frame| Arp::from_frame(&frame.bytes)).filter(|arp| arp.target_ip == client.ip());
    let asked: Vec<_> = asked.filter(|arp| arp.operation == 1 && [MAC, a.mac()].contains(&arp.sender_mac)).collect();
    assert!(asked.iter().any(|arp| (arp.sender_ip, arp.sender_mac) == (a.ip(), a.mac())), "{asked:?}");
    assert!(asked.iter().all(|arp| arp.sender_ip != VIP), "{asked:?}");
    assert!(client.ns().ip(&format!("neigh show {VIP}"))?.contains(&MAC.to_string()));
    Ok(())
}

#[test]
fn the_interface_is_set_for_as_long_as_it_has_a_device_and_only_then() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [mut master, backup] = pair(&a, &b)?;
    assert_eq!((arp_settings(&a)?, arp_settings(&b)?), (CHANGED.map(String::from), PLAIN.map(String::from)));
    assert!(master.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(arp_settings(&a)?, PLAIN);
    wait_for_device(&b)?;
    assert_eq!(arp_settings(&b)?, CHANGED);
    backup.agent().signal(Signal::SIGUSR2)?;
    wait_until_gone(&b)?;
    eventually("it is restored", LONG, || Ok(arp_settings(&b)? == PLAIN))?;
    Ok(())
}

#[test]
fn the_last_of_two_agents_on_an_interface_restores_it() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    a.ns().set_sysctl(&format!("net.ipv4.conf.{ETH0}.arp_announce"), "1")?;
    let had = ["0", "1"];
    let mut first = alone(&a, "")?;
    let pass = format!("--pass={PASSPHRASE}");
    let options: Vec<_> = PREFERRED.split(' ').chain(VIRTUAL.split(' ')).collect();
    let arguments = [&["--interface=eth0", "--vhid=2", "--addr=10.77.0.102", &pass], &options[..]].concat();
    let mut second = a.carpd(&arguments)?;
    let device = device_on(&a, ETH0, 2)?;
    eventually("its device is there", LONG, || Ok(a.ns().ip("address show")?.contains(&format!("{device}@"))))?;
    second.wait_for_line("BACKUP -> MASTER", LONG)?;
    assert!(first.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(arp_settings(&a)?, CHANGED, "the other one needs it");
    assert!(second.stop_and_wait(LONG)?.success());
    assert_eq!(arp_settings(&a)?, had);
    Ok(())
}

#[test]
fn what_the_administrator_has_changed_meanwhile_stays() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut node = alone(&a, "")?;
    a.ns().set_sysctl(&format!("net.ipv4.conf.{ETH0}.arp_ignore"), "2")?;
    assert!(node.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(arp_settings(&a)?, ["2", "0"]);
    Ok(())
}

#[test]
fn after_a_crash_device_and_settings_go_with_the_next_start() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [mut crashes, backup] = pair(&a, &b)?;
    crashes.agent_mut().kill()?;
    backup.wait_for("BACKUP -> MASTER")?;
    assert!(has_device(&a)?, "a crash leaves it where it was");
    assert_eq!(arp_settings(&a)?, CHANGED);

    let again = Node::start(&a, &format!("{PREFERRED} {VIRTUAL}"))?;
    again.wait_for_line("is here although this host is not master: removing it")?;
    wait_until_gone(&a)?;
    eventually("it is restored", LONG, || Ok(arp_settings(&a)? == PLAIN))?;
    // The other one is the master of all, and the only one.
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    watch.wait_for_owner(MAC, LONG)?;
    let now = BootTime::now();
    eventually("it was asked", LONG, || Ok(BootTime::now().since(now) > 4 * PERIOD))?;
    assert!(watch.stop()?.overlaps().is_empty());
    assert_eq!(again.changes(), ["INIT -> BACKUP"]);
    Ok(())
}

/// Also if the device went before it.
#[test]
fn the_settings_are_restored_by_a_start_that_has_no_virtual_mac() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut crashes = alone(&a, "")?;
    crashes.agent_mut().kill()?;
    a.ns().ip(&format!("link del {}", device_on(&a, ETH0, carp_tests::VHID)?))?;
    assert_eq!(arp_settings(&a)?, CHANGED);
    let _again = Node::start(&a, PREFERRED)?;
    assert_eq!(arp_settings(&a)?, PLAIN);
    Ok(())
}

#[test]
fn a_master_takes_over_what_it_left_behind_itself() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let mut crashes = alone(&a, "")?;
    crashes.agent_mut().kill()?;
    let mut again = alone(&a, "")?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    watch.wait_for_owner(MAC, LONG)?;
    assert_eq!(arp_settings(&a)?, CHANGED);
    assert!(again.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(arp_settings(&a)?, PLAIN);
    Ok(())
}
