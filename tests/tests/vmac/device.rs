//! The device under other hands.

use std::fs;
use std::path::Path;

use anyhow::Result;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{Agent, ArpWatch, ETH0, LONG, Lab, Node, PASSPHRASE, VHID, VIP, Wire, configured, eventually};

use super::{
    MAC, PLAIN, VIRTUAL, alone, arp_settings, device, device_on, has_device, listing, pair, wait_for_device,
    wait_until_gone,
};

const PERIOD: std::time::Duration = std::time::Duration::from_millis(5);

#[test]
fn what_is_deleted_or_set_down_by_hand_on_the_master_is_put_back() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let mut node = alone(&a, "")?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    let device = device(&a)?;
    for (by_hand, told) in [
        (format!("link del {device}"), format!("something else removed {device}, which this master needs")),
        (format!("addr del {VIP}/32 dev {device}"), format!("something else removed {VIP}/32 from {device}")),
        (format!("link set {device} down"), format!("something else removed {device} from service")),
    ] {
        a.ns().ip(&by_hand)?;
        node.wait_for_line(&told)?;
        wait_for_device(&a)?;
        watch.wait_for_owner(MAC, LONG)?;
    }
    a.add_address(&format!("{VIP}/32"))?;
    node.wait_for_line("is on the interface itself, where the VIPs do not belong: removing it")?;
    eventually("it is gone", LONG, || Ok(!a.has_address(VIP)?))?;
    wait_for_device(&a)?;
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert!(node.agent_mut().stop_and_wait(LONG)?.success());
    assert!(!has_device(&a)?);
    assert_eq!(arp_settings(&a)?, ["0", "0"]);
    Ok(())
}

#[test]
fn a_device_on_a_backup_is_deleted() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [_master, backup] = pair(&a, &b)?;
    let device = device(&b)?;
    b.ns().ip(&format!("link add link {ETH0} name {device} address {MAC} type macvlan mode bridge"))?;
    backup.wait_for_line(&format!("{device} is here although this host is not master: removing it"))?;
    wait_until_gone(&b)
}

#[test]
fn a_device_is_deleted_where_the_vips_are_to_be_on_the_interface() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut crashes = alone(&a, "")?;
    crashes.agent_mut().kill()?;
    let node = Node::start(&a, PREFERRED)?;
    node.wait_for_line("is here, where the VIPs do not belong: removing it")?;
    wait_until_gone(&a)?;
    node.wait_for("BACKUP -> MASTER")?;
    eventually("the interface has it", LONG, || a.has_address(VIP))
}

#[test]
fn a_device_of_a_virtual_host_that_nobody_serves_any_more_goes_with_the_next_start_of_any() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut crashes = alone(&a, "")?;
    let other = || -> Result<Agent> {
        let agent = a.carpd(&["--interface=eth0", "--pass=other", "--vhid=9", "--addr=10.77.0.109"])?;
        agent.wait_for_line("eth0 vhid 9: INIT -> BACKUP", LONG)?;
        Ok(agent)
    };
    let beside = other()?;
    assert!(has_device(&a)?, "it is served");
    crashes.agent_mut().kill()?;
    drop(beside);
    let after = other()?;
    let told = format!("{} was left by a carpd that is gone", device(&a)?);
    assert!(after.lines().iter().any(|line| line.text.contains(&told)), "{:?}", after.lines());
    assert!(!has_device(&a)?);
    assert_eq!(arp_settings(&a)?, PLAIN);
    Ok(())
}

#[test]
fn what_one_file_says_is_put_back_though_another_cannot_be_read() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let namespace = a.ns().number();
    // Of interfaces that are not there. One is older than what carpd leaves, and one is not: nobody knows which comes first.
    let unreadable = [71, 72].map(|index| Path::new("/run/carp").join(format!("{index}-{namespace}.arp")));
    fs::create_dir_all(&unreadable[0])?;
    let mut crashes = alone(&a, "")?;
    fs::create_dir(&unreadable[1])?;
    crashes.agent_mut().kill()?;
    a.ns().ip(&format!("link del {}", device(&a)?))?;
    let after = a.carpd(&["--interface=eth0", "--pass=other", "--vhid=9", "--addr=10.77.0.109"])?;
    after.wait_for_line("eth0 vhid 9: INIT -> BACKUP", LONG)?;
    unreadable.iter().try_for_each(fs::remove_dir)?;
    assert!(after.lines().iter().any(|line| line.text.contains("cannot open /run/carp/7")), "{:?}", after.lines());
    assert_eq!(arp_settings(&a)?, PLAIN);
    Ok(())
}

#[test]
fn an_interface_of_somebody_elses_with_that_name_is_not_touched_and_the_vip_comes_when_it_is_gone() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let device = device(&a)?;
    for other in [
        format!("link add {device} type bridge"),
        format!("link add link {ETH0} name {device} address 02:00:00:00:00:99 type macvlan mode bridge"),
    ] {
        a.ns().ip(&other)?;
        let before = a.ns().ip(&format!("-oneline link show dev {device}"))?;
        let mut node = Node::start(&a, &format!("{PREFERRED} {VIRTUAL}"))?;
        node.wait_for("BACKUP -> MASTER")?;
        let line = node.wait_for_line("is not what carpd makes by this name")?;
        assert!(line.text.contains(&device) && line.text.contains("rename or delete it"), "{}", line.text);
        // Some tries later.
        let wire = Wire::at(&client)?;
        wire.wait_for_adverts(a.ip(), 10)?;
        assert_eq!(node.lines_with("is not what carpd makes").len(), 1);
        assert_eq!(a.ns().ip(&format!("-oneline link show dev {device}"))?, before);
        assert!(!a.has_address(VIP)? && arp_settings(&a)? == ["0", "0"]);
        a.ns().ip(&format!("link del {device}"))?;
        wait_for_device(&a)?;

        // And not at the end, either.
        a.ns().ip(&format!("link del {device}"))?;
        wait_for_device(&a)?;
        assert!(node.agent_mut().stop_and_wait(LONG)?.success());
        assert!(!has_device(&a)?);
    }
    Ok(())
}

#[test]
fn status_says_what_is_in_the_way_of_the_device() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let device = device(&a)?;
    a.ns().ip(&format!("link add {device} type bridge"))?;
    let folder = configured::folder()?;
    configured::write(&folder, &[configured::virtual_host(VHID, VIP, "mac = \"virtual\"")])?;
    let _carpd = configured::start(&a, &folder)?;
    let status = || -> Result<serde_json::Value> {
        let told = configured::carpctl(&folder, &["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap_or_default();
        Ok(status["virtual_hosts"][0].clone())
    };
    eventually("it is in status", LONG, || {
        let host = status()?;
        Ok(host["troubles"][0].as_str().is_some_and(|why| why.starts_with(&device)) && host["device"].is_null())
    })?;
    a.ns().ip(&format!("link del {device}"))?;
    eventually("it is over", LONG, || {
        let host = status()?;
        Ok(host["troubles"].as_array().is_some_and(Vec::is_empty) && host["device"] == device.as_str())
    })
}

#[test]
fn a_master_that_cannot_have_the_device_leaves_the_vip_to_another() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    a.ns().ip(&format!("link add {} type bridge", device(&a)?))?;
    let first = Node::start(&a, &format!("{PREFERRED} {VIRTUAL}"))?;
    first.wait_for("BACKUP -> MASTER")?;
    let second = Node::start(&b, &format!("{OTHER} {VIRTUAL}"))?;
    first.wait_for_line("demoted by 240: the addresses cannot be added (240)")?;
    second.wait_for("BACKUP -> MASTER")?;
    first.wait_for("MASTER -> BACKUP")?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    watch.wait_for_owner(MAC, LONG)?;
    Wire::at(&client)?.wait_for_adverts(b.ip(), 4)?;
    assert_eq!(second.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn an_interface_that_goes_takes_the_device_with_it_and_brings_it_again() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let mut node = alone(&a, "")?;
    a.delete_interface()?;
    node.wait_for("MASTER -> INIT")?;
    assert!(!has_device(&a)?);
    a.create_interface()?;
    node.wait_for("BACKUP -> MASTER")?;
    wait_for_device(&a)?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    watch.wait_for_owner(MAC, LONG)?;
    a.ns().ip(&format!("link set {ETH0} down"))?;
    node.wait_for("MASTER -> INIT")?;
    wait_until_gone(&a)?;
    a.ns().ip(&format!("link set {ETH0} up"))?;
    node.wait_for("BACKUP -> MASTER")?;
    wait_for_device(&a)?;
    assert!(node.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(arp_settings(&a)?, ["0", "0"]);
    let bad = ["cannot", "trying again", "something else"].map(|text| node.lines_with(text));
    assert!(bad.iter().all(Vec::is_empty), "{bad:?}");
    Ok(())
}

#[test]
fn a_master_without_a_link_where_that_is_asked_for_has_the_device_ready_for_it() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    a.ns().ip(&format!("link set {ETH0} down"))?;
    let node = Node::spawn(&a, &format!("{PREFERRED} {VIRTUAL} --ignoreifstate"))?;
    node.wait_for("BACKUP -> MASTER")?;
    eventually("it is there", LONG, || has_device(&a))?;
    a.ns().ip(&format!("link set {ETH0} up"))?;
    wait_for_device(&a)?;
    ArpWatch::start(&client, VIP, PERIOD)?.wait_for_owner(MAC, LONG)?;
    assert!(["trying again", "something else"].iter().all(|text| node.lines_with(text).is_empty()));
    Ok(())
}

#[test]
fn the_same_vhid_on_two_interfaces_of_a_host_has_two_devices() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let _node = alone(&a, "")?;
    a.ns().ip_batch(
        "link add eth1 type veth peer name far\nlink set far up\nlink set eth1 up\naddr add 10.78.0.1/24 dev eth1\n",
    )?;
    let (pass, vhid) = (format!("--pass={PASSPHRASE}"), format!("--vhid={VHID}"));
    let options: Vec<_> = PREFERRED.split(' ').chain(VIRTUAL.split(' ')).collect();
    let mut other = a.carpd(&[&["--interface=eth1", &vhid, "--addr=10.78.0.100", &pass], &options[..]].concat())?;
    let second = device_on(&a, "eth1", VHID)?;
    eventually("the second device is there", LONG, || {
        Ok(a.ns()
            .ip("-brief address show")?
            .lines()
            .any(|line| line.starts_with(&second) && line.contains("10.78.0.100")))
    })?;
    assert!(listing(&a)?.contains(&VIP.to_string()));
    assert!(other.stop_and_wait(LONG)?.success());
    assert!(listing(&a)?.contains(&VIP.to_string()) && !a.ns().ip("-brief link show")?.contains(&second));
    Ok(())
}
