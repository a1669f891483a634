//! Many virtual hosts in one agent, from a configuration file.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use carp_tests::configured::{carpctl, changes, folder, start, virtual_host, wait_for_change, write};
use carp_tests::foreign::{Mode, attach};
use carp_tests::node::ROAD;
use carp_tests::{Host, LONG, Lab, Node, VIP, Wire, eventually};
use nix::sys::signal::Signal;

/// The second cable of two hosts, from one to the other: each end is eth1, and has the host's number in 10.78.0.0/24.
fn cable(a: &Host, b: &Host) -> Result<()> {
    a.ns().ip(&format!("link add eth1 type veth peer name eth1 netns {}", b.ns().path().display()))?;
    for host in [a, b] {
        let [.., number] = host.ip().octets();
        host.ns().ip_batch(&format!("link set eth1 up\naddr add 10.78.0.{number}/24 dev eth1\n"))?;
    }
    Ok(())
}

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
const ON_ETH1: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 100);

#[test]
fn each_virtual_host_elects_its_own_master_and_falls_over_alone() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    cable(&a, &b)?;
    let (of_a, of_b) = (folder()?, folder()?);
    let third = virtual_host(1, ON_ETH1, "interface = \"eth1\"");
    write(&of_a, &[virtual_host(1, VIP, ""), virtual_host(2, OTHER, "advskew = 80"), third])?;
    let third = virtual_host(1, ON_ETH1, "interface = \"eth1\"\nadvskew = 80");
    write(&of_b, &[virtual_host(1, VIP, "advskew = 80"), virtual_host(2, OTHER, ""), third])?;
    let mut on_a = start(&a, &of_a)?;
    for name in ["eth0 vhid 1", "eth0 vhid 2", "eth1 vhid 1"] {
        wait_for_change(&on_a, name, "BACKUP -> MASTER")?;
    }
    let on_b = start(&b, &of_b)?;
    on_b.wait_for_line("eth0, 2 vhids: ", LONG)?;
    on_b.wait_for_line("eth1 vhid 1: ", LONG)?;
    let wire = Wire::at(&b)?;
    wire.wait_for_adverts(a.ip(), 12)?;
    for name in ["eth0 vhid 1", "eth0 vhid 2", "eth1 vhid 1"] {
        assert_eq!(changes(&on_b, name), ["INIT -> BACKUP"], "{:#?}", on_b.lines());
    }

    // One cable is cut: only what ran over it notices.
    a.ns().ip("link set eth1 down")?;
    wait_for_change(&on_a, "eth1 vhid 1", "MASTER -> INIT")?;
    // The kernel may take a second to tell of a lost carrier, more than the dead time here: a takeover may come before.
    eventually("b notices", LONG, || {
        Ok(changes(&on_b, "eth1 vhid 1").last().is_some_and(|to| to.ends_with("-> INIT")))
    })?;
    let before = changes(&on_b, "eth1 vhid 1").len();
    wire.wait_for_adverts(a.ip(), 6)?;
    a.ns().ip("link set eth1 up")?;
    eventually("it is back", LONG, || Ok(changes(&on_b, "eth1 vhid 1").len() > before))?;
    for name in ["eth0 vhid 1", "eth0 vhid 2"] {
        assert_eq!(changes(&on_a, name), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
        assert_eq!(changes(&on_b, name), ["INIT -> BACKUP"]);
    }

    assert!(on_a.stop_and_wait(LONG)?.success());
    for name in ["eth0 vhid 1", "eth0 vhid 2"] {
        wait_for_change(&on_b, name, "BACKUP -> MASTER")?;
    }
    eventually("both addresses are on b", LONG, || Ok(b.has_address(VIP)? && b.has_address(OTHER)?))?;
    assert!(!a.has_address(VIP)? && !a.has_address(OTHER)?);
    assert!(!a.ns().ip("-brief addr show dev eth1")?.contains("10.78.0.100"));
    Ok(())
}

#[test]
fn a_peer_that_has_one_of_them_on_its_command_line_is_a_peer_of_that_one() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let of_a = folder()?;
    write(&of_a, &[virtual_host(1, VIP, ""), virtual_host(2, OTHER, "")])?;
    let mut on_a = start(&a, &of_a)?;
    for name in ["eth0 vhid 1", "eth0 vhid 2"] {
        wait_for_change(&on_a, name, "BACKUP -> MASTER")?;
    }
    let node = Node::start(&b, carp_tests::node::OTHER)?;
    Wire::at(&b)?.wait_for_adverts(a.ip(), 12)?;
    assert_eq!(node.changes(), ["INIT -> BACKUP"]);
    assert!(node.report()?.count("other") > 0, "the adverts of vhid 2 are none of its");
    on_a.signal(Signal::SIGUSR1)?;
    for name in ["eth0 vhid 1", "eth0 vhid 2"] {
        on_a.wait_for_line(&format!("{name}: MASTER for "), LONG)?;
    }
    assert!(on_a.stop_and_wait(LONG)?.success());
    assert_eq!(node.wait_for("BACKUP -> MASTER")?.cause, "10.77.0.1 leaves");
    assert!(!b.has_address(OTHER)?);
    Ok(())
}

#[test]
fn all_255_virtual_hosts_of_an_interface_work_in_one_agent() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let (of_a, of_b) = (folder()?, folder()?);
    let all = |skew: u8| -> Vec<String> {
        let host = |vhid| virtual_host(vhid, Ipv4Addr::new(10, 77, 1, vhid), &format!("advskew = {skew}"));
        (1..=255).map(host).collect()
    };
    write(&of_a, &all(200))?;
    write(&of_b, &all(240))?;
    let mut on_a = start(&a, &of_a)?;
    eventually("a has all addresses", LONG, || Ok(a.addresses()?.len() == 256))?;
    let mut on_b = start(&b, &of_b)?;
    on_b.wait_for_line("eth0 vhid 255: INIT -> BACKUP", LONG)?;
    // Longer than its dead time.
    Wire::at(&b)?.wait_for_adverts(a.ip(), 5 * 255)?;
    assert!(on_b.lines().iter().all(|line| !line.text.contains("BACKUP -> MASTER")), "{:#?}", on_b.lines());
    a.kill_host()?;
    eventually("b has all addresses", LONG, || Ok(b.addresses()?.len() == 256))?;
    on_a.wait(LONG)?;
    assert!(on_b.stop_and_wait(LONG)?.success());
    let takeovers = on_b.lines().iter().filter(|line| line.text.contains("BACKUP -> MASTER")).count();
    assert_eq!(takeovers, 255);
    assert_eq!(b.addresses()?, [(b.ip().into(), 24)]);
    let troubles: Vec<_> = on_b.lines().into_iter().filter(|line| !line.text.contains("INFO")).collect();
    assert_eq!(troubles, []);
    Ok(())
}

#[test]
fn a_virtual_host_that_cannot_work_leaves_the_others_alone() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let of_a = folder()?;
    let missing = virtual_host(3, ON_ETH1, "interface = \"eth1\"");
    let in_the_way = virtual_host(4, Ipv4Addr::new(10, 79, 0, 100), "interface = \"x0\"\ndatapath = \"native\"");
    write(&of_a, &[virtual_host(1, VIP, ""), missing, in_the_way])?;
    a.ns().ip_batch("link add x0 type veth peer name x1\nlink set x0 up\nlink set x1 up\n")?;
    a.ns().ip("addr add 10.79.0.1/24 dev x0")?;
    let _foreign = attach(&a, "x0", Mode::Native)?;
    let on_a = start(&a, &of_a)?;
    on_a.wait_for_line("eth1 vhid 3: INIT: the interface does not exist; waiting for it", LONG)?;
    on_a.wait_for_line("x0: native XDP: there is an XDP program already", LONG)?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    cable(&a, &b)?;
    wait_for_change(&on_a, "eth1 vhid 3", "BACKUP -> MASTER")?;
    assert_eq!(changes(&on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert_eq!(changes(&on_a, "x0 vhid 4"), <[&str; 0]>::default());
    Ok(())
}

#[test]
fn an_interface_that_gets_the_name_of_another_serves_what_belongs_to_that_name() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    cable(&a, &b)?;
    let of_a = folder()?;
    write(&of_a, &[virtual_host(1, VIP, ""), virtual_host(2, ON_ETH1, "interface = \"eth1\"")])?;
    let on_a = start(&a, &of_a)?;
    let addresses = |device: &str| a.ns().ip(&format!("-4 -brief addr show dev {device}"));
    for name in ["eth0 vhid 1", "eth1 vhid 2"] {
        wait_for_change(&on_a, name, "BACKUP -> MASTER")?;
    }
    eventually("both have their address", LONG, || {
        Ok(addresses("eth0")?.contains("10.77.0.100/") && addresses("eth1")?.contains("10.78.0.100/"))
    })?;
    a.ns().ip("link set eth0 name old0")?;
    wait_for_change(&on_a, "eth0 vhid 1", "MASTER -> INIT")?;
    eventually("it is given up there", LONG, || Ok(!addresses("old0")?.contains("10.77.0.100/")))?;

    a.ns().ip("link set eth1 name eth0")?;
    wait_for_change(&on_a, "eth1 vhid 2", "MASTER -> INIT")?;
    eventually("vhid 1 is master again", LONG, || Ok(changes(&on_a, "eth0 vhid 1").len() == 5))?;
    eventually("one address for the other", LONG, || {
        let addresses = addresses("eth0")?;
        Ok(addresses.contains("10.77.0.100/") && !addresses.contains("10.78.0.100/"))
    })?;
    // And it hears what comes in there.
    let road = env::var(ROAD).unwrap_or("auto".to_owned());
    let options = ["--interface=eth1", "--vhid=1", "--addr=10.77.0.100", "--advbase=0", "--advskew=30", "--preempt"];
    let road = format!("--datapath={road}");
    let options = [&options[..], &["--pass=open sesame", &road]].concat();
    let _on_b = b.carpd(&options)?;
    wait_for_change(&on_a, "eth0 vhid 1", "MASTER -> BACKUP")
}

#[test]
fn a_file_with_mistakes_is_refused_with_all_of_them_and_nothing_is_touched() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = folder()?;
    write(&folder, &[virtual_host(1, VIP, "advskew = 300"), virtual_host(1, OTHER, "color = 1")])?;
    let mut agent = start(&host, &folder)?;
    assert!(!agent.wait(LONG)?.success());
    let lines: Vec<_> = agent.lines().into_iter().map(|line| line.text).collect();
    ensure!(lines.len() == 3, "{lines:#?}");
    for (line, what) in
        lines.iter().zip(["advskew: 300 is not in 0 to 254", "vhid 1 is on eth0 already", "unknown key `color`"])
    {
        assert!(line.contains("carpd.toml:") && line.ends_with(what), "{line}");
    }
    assert_eq!(host.xdp_program()?, None);

    let mut both = host.carpd(&["--config=carpd.toml", "--vhid=1"])?;
    assert_eq!(both.wait(LONG)?.code(), Some(2));
    assert!(both.lines()[0].text.contains("cannot be used with"), "{:?}", both.lines());
    Ok(())
}

#[test]
fn what_may_be_wrong_in_a_file_is_told_by_check_at_the_start_and_at_a_reload() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = folder()?;
    let unused = |name: &str| format!("[script.{name}]\ncommand = [\"/bin/true\"]\n");
    let never = |name: &str| format!("warning: script: no virtual host names `{name}`");
    write(&folder, &[unused("one"), virtual_host(1, VIP, "")])?;
    let checked = carpctl(&folder, &["check", "carpd.toml"])?;
    let told = String::from_utf8(checked.stderr)?;
    assert!(checked.status.success() && told.contains(&never("one")), "{told}");
    let agent = start(&host, &folder)?;
    agent.wait_for_line(&never("one"), LONG)?;
    wait_for_change(&agent, "eth0 vhid 1", "BACKUP -> MASTER")?;
    write(&folder, &[unused("two"), virtual_host(1, VIP, "")])?;
    assert!(carpctl(&folder, &["reload"])?.status.success());
    agent.wait_for_line(&never("two"), LONG)?;
    Ok(())
}

#[test]
fn carpctl_checks_a_file_and_touches_nothing() -> Result<()> {
    let folder = folder()?;
    let told = |output: &Output| {
        let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        (output.status.code(), out, err)
    };
    let hosts = [virtual_host(1, VIP, ""), virtual_host(2, OTHER, "interface = \"nosuch0\"")];
    write(&folder, &hosts)?;
    let (code, out, err) = told(&carpctl(&folder, &["check", "carpd.toml"])?);
    assert_eq!((code, out.as_str()), (Some(0), "carpd.toml: 2 virtual hosts on 2 interfaces\n"));
    assert!(err.contains("carpd.toml: warning: there is no interface nosuch0 here"), "{err}");

    write(&folder, &[virtual_host(0, VIP, "interface = \"a name too long\"")])?;
    let (code, out, err) = told(&carpctl(&folder, &["check", "carpd.toml"])?);
    assert_eq!((code, out.as_str(), err.lines().count()), (Some(1), "", 2), "{err}");

    let noise: Vec<u8> = (0..1 << 20).map(|number: u32| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(folder.path().join("noise"), noise)?;
    fs::write(folder.path().join("brackets"), "[".repeat(1 << 20))?;
    fs::write(folder.path().join("lines"), "x\n".repeat(1 << 19))?;
    for file in ["noise", "brackets", "lines", "nosuch", "/dev/zero"] {
        let (code, out, err) = told(&carpctl(&folder, &["check", file])?);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{file}");
        assert!(err.contains(file) && err.lines().count() <= 21, "{file}: {err}");
    }
    Ok(())
}

#[test]
fn the_examples_that_are_shipped_are_right() -> Result<()> {
    let folder = folder()?;
    fs::rename(folder.path().join("secret"), folder.path().join("passphrase"))?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |name| fs::read_to_string(root.join(name)).with_context(|| format!("reading {name}"));
    let readme = read("README.md")?;
    let set_up =
        readme.split_once("carpd.toml <<END\n").and_then(|(_, rest)| rest.split_once("END")).context("no set-up")?;
    let several = readme.split_once("```toml\n").and_then(|(_, rest)| rest.split_once("```")).context("no example")?;
    let shipped = read("carp-user/packaging/carpd.toml")?;
    for (example, hosts) in
        [(set_up.0, "1 virtual host"), (several.0, "2 virtual hosts"), (&*shipped, "2 virtual hosts")]
    {
        fs::write(folder.path().join("carpd.toml"), example)?;
        let output = carpctl(&folder, &["check", "carpd.toml"])?;
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{err}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("carpd.toml: {hosts} on 1 interface\n"));
    }
    Ok(())
}
