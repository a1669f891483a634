//! carpctl and what it asks of carpd while that is at work.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carp_tests::adverts::{self, Election};
use carp_tests::configured::{
    DEFAULTS, add_options, carpctl, changes, folder, start, virtual_host, wait_for_change, write,
};
use carp_tests::{Agent, BootTime, ETH0, Folder, Host, LONG, Lab, VIP, Wire, carpd_path, eventually, send_frame};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
const SLOWER: &str = "advskew = 80";

/// What carpctl says if it succeeds.
fn told(output: Output) -> Result<String> {
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ensure!(output.status.success(), "{}: {out}{err}", output.status);
    Ok(out)
}

fn status(folder: &Folder) -> Result<Value> {
    let output = carpctl(folder, &["status", "--json"])?;
    serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A field of the first virtual host.
fn first(folder: &Folder, pointer: &str) -> Result<Value> {
    let status = status(folder)?;
    status.pointer(&format!("/virtual_hosts/0{pointer}")).cloned().with_context(|| format!("no {pointer}: {status}"))
}

/// Two servers at work, each with its folder.
struct Pair {
    of_a: Folder,
    of_b: Folder,
    on_a: Agent,
    on_b: Agent,
}

/// `a` serves these virtual hosts, and is master of the first; `b` has that one, too, and comes second.
fn pair(a: &Host, b: &Host, of_the_first: &[String]) -> Result<Pair> {
    let [of_a, of_b] = [folder()?, folder()?];
    write(&of_a, of_the_first)?;
    write(&of_b, &[virtual_host(1, VIP, SLOWER)])?;
    let on_a = start(a, &of_a)?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let on_b = start(b, &of_b)?;
    wait_for_change(&on_b, "eth0 vhid 1", "INIT -> BACKUP")?;
    Ok(Pair { of_a, of_b, on_a, on_b })
}

#[test]
fn status_tells_of_a_master_and_of_a_backup_what_is_to_be_known() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [of_a, of_b] = [folder()?, folder()?];
    write(&of_a, &[virtual_host(1, VIP, "")])?;
    write(&of_b, &[virtual_host(1, VIP, SLOWER)])?;
    let on_a = start(&a, &of_a)?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let _on_b = start(&b, &of_b)?;
    eventually("b has heard a", LONG, || Ok(first(&of_b, "/heard").is_ok_and(|heard| heard.is_object())))?;

    let master = status(&of_a)?;
    assert_eq!(master["version"], 1);
    let host = &master["virtual_hosts"][0];
    assert_eq!((&host["interface"], &host["vhid"], &host["state"]), (&"eth0".into(), &1.into(), &"MASTER".into()));
    assert_eq!(
        (&host["advbase"], &host["advskew"], &host["addresses"][0]),
        (&0.into(), &60.into(), &"10.77.0.100/32".into())
    );
    assert!(host["cause"].as_str().is_some_and(|cause| cause.starts_with("no advert for ")), "{host}");
    assert!(host["sent"].as_u64() > Some(0) && host["heard"].is_null() && host["hints"][0].is_string(), "{host}");
    let host = &status(&of_b)?["virtual_hosts"][0];
    assert_eq!((&host["state"], &host["heard"]["address"]), (&"BACKUP".into(), &a.ip().to_string().into()));
    assert_eq!((&host["heard"]["advskew"], &host["hints"]), (&60.into(), &Value::Array(vec![])));
    assert!(host["received"]["ipackets"].as_u64() > Some(0), "{host}");

    let table = told(carpctl(&of_b, &["status"])?)?;
    let row: Vec<_> = table.lines().nth(1).context("no row")?.split_whitespace().collect();
    assert_eq!(row[..3], ["eth0", "1", "BACKUP"], "{table}");
    assert!(row.contains(&"0/80") && row.contains(&"10.77.0.1"), "{table}");
    Ok(())
}

#[test]
fn a_host_that_hears_only_wrong_digests_says_that_it_is_deaf_and_why_until_that_is_put_right() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [of_a, of_b] = [folder()?, folder()?];
    write(&of_a, &[virtual_host(1, VIP, "")])?;
    write(&of_b, &[virtual_host(1, VIP, &format!("{SLOWER}\npassphrase = \"another\""))])?;
    let file = of_b.path().join("carpd.toml");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let _on_a = start(&a, &of_a)?;
    let on_b = start(&b, &of_b)?;
    eventually("a says so", LONG, || {
        Ok(first(&of_a, "/troubles/0")
            .ok()
            .is_some_and(|trouble| trouble.as_str().is_some_and(|text| text.starts_with("deaf: "))))
    })?;
    let output = carpctl(&of_a, &["status"])?;
    assert_eq!(output.status.code(), Some(4));
    let why = String::from_utf8_lossy(&output.stdout);
    assert!(
        why.contains("the passphrase or the set of VIPs differs") && why.contains("the last from 10.77.0.2"),
        "{why}"
    );
    assert_eq!(first(&of_a, "/refused/badauth/address")?, b.ip().to_string());
    assert!(told(carpctl(&of_a, &["events"])?)?.contains("warning: eth0 vhid 1: refused adverts: "));
    assert!(told(carpctl(&of_a, &["counters"])?)?.contains("badauth"));

    write(&of_b, &[virtual_host(1, VIP, SLOWER)])?;
    told(carpctl(&of_b, &["reload"])?)?;
    wait_for_change(&on_b, "eth0 vhid 1", "MASTER -> BACKUP")?;
    // A backup is silent, so nothing right is heard, either.
    eventually("a is deaf no longer", LONG, || Ok(carpctl(&of_a, &["status"])?.status.success()))
}

#[test]
fn demote_hands_over_at_once_and_promote_takes_back_what_is_preempted() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let Pair { of_a, on_b, .. } = &pair(&a, &b, &[virtual_host(1, VIP, "preempt = true")])?;
    assert_eq!(told(carpctl(of_a, &["demote", "--vhid=1"])?)?, "eth0 vhid 1: demoted by 1\n");
    wait_for_change(on_b, "eth0 vhid 1", "BACKUP -> MASTER")?;
    assert!(on_b.lines().iter().any(|line| line.text.ends_with("BACKUP -> MASTER, 10.77.0.1 leaves")));
    // Longer than it would hold back without the demotion.
    Wire::at(&a)?.wait_for_adverts(b.ip(), 16)?;
    assert_eq!(first(of_a, "/state")?, "BACKUP");
    assert_eq!(told(carpctl(of_a, &["promote"])?)?, "eth0 vhid 1: demoted no longer\n");
    wait_for_change(on_b, "eth0 vhid 1", "MASTER -> BACKUP")?;
    let nobody = carpctl(of_a, &["demote", "--interface=eth7"])?;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no such virtual host"));
    Ok(())
}

#[test]
fn a_server_in_maintenance_is_the_last_resort_over_a_restart_until_it_ends() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let Pair { of_a, of_b, mut on_a, mut on_b } = pair(&a, &b, &[virtual_host(1, VIP, "preempt = true")])?;
    told(carpctl(&of_a, &["maintenance", "on"])?)?;
    wait_for_change(&on_b, "eth0 vhid 1", "BACKUP -> MASTER")?;
    on_a.kill()?;
    let on_a = start(&a, &of_a)?;
    on_a.wait_for_line("in maintenance: the last resort", LONG)?;
    wait_for_change(&on_a, "eth0 vhid 1", "INIT -> BACKUP")?;
    assert_eq!((first(&of_a, "/advskew")?, status(&of_a)?["maintenance"].clone()), (254.into(), true.into()));
    on_b.kill()?;
    b.remove_address("10.77.0.100/32")?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let on_b = start(&b, &of_b)?;
    wait_for_change(&on_b, "eth0 vhid 1", "BACKUP -> MASTER")?;
    wait_for_change(&on_a, "eth0 vhid 1", "MASTER -> BACKUP")?;
    // Whatever is the matter with the other: longer than a hold.
    told(carpctl(&of_b, &["demote", "--by=254"])?)?;
    wait_for_change(&on_b, "eth0 vhid 1", "MASTER -> BACKUP")?;
    eventually("it is master again", LONG, || Ok(first(&of_b, "/state")? == "MASTER"))?;
    Wire::at(&a)?.wait_for_adverts(b.ip(), 16)?;
    assert_eq!(first(&of_a, "/state")?, "BACKUP");
    told(carpctl(&of_a, &["maintenance", "off"])?)?;
    eventually("it takes back", LONG, || Ok(first(&of_a, "/state")? == "MASTER"))?;
    assert_eq!((first(&of_a, "/advskew")?, first(&of_a, "/demotion/total")?), (60.into(), 0.into()));
    Ok(())
}

#[test]
fn a_reload_changes_what_has_changed_and_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let of_a = folder()?;
    let [third, fourth] = [102, 103].map(|number| Ipv4Addr::new(10, 77, 0, number));
    write(&of_a, &[virtual_host(1, VIP, ""), virtual_host(2, OTHER, ""), virtual_host(3, third, "")])?;
    let on_a = start(&a, &of_a)?;
    for vhid in 1..=3 {
        wait_for_change(&on_a, &format!("eth0 vhid {vhid}"), "BACKUP -> MASTER")?;
    }
    let wire = Wire::at(&bystander)?;
    let more =
        format!("[[virtual_host]]\nvhid = 2\naddresses = [\"{OTHER}\", \"{fourth}\"]\nadvskew = 70\npreempt = true\n");
    write(&of_a, &[virtual_host(1, VIP, ""), more, virtual_host(4, Ipv4Addr::new(10, 77, 0, 104), "")])?;
    let before = BootTime::now();
    assert_eq!(told(carpctl(&of_a, &["reload"])?)?, "1 taken out, 1 added, 1 changed, 1 as before\n");
    wait_for_change(&on_a, "eth0 vhid 3", "MASTER -> INIT")?;
    wait_for_change(&on_a, "eth0 vhid 4", "BACKUP -> MASTER")?;
    let numbers = |expected: &[u8]| {
        eventually(&format!("the addresses are {expected:?}"), LONG, || {
            let mut own: Vec<_> = a.addresses()?.iter().map(|(ip, _)| ip.to_string()).collect();
            own.sort();
            Ok(own == expected.iter().map(|number| format!("10.77.0.{number}")).collect::<Vec<_>>())
        })
    };
    numbers(&[1, 100, 101, 103, 104])?;
    for vhid in 1..=2 {
        assert_eq!(changes(&on_a, &format!("eth0 vhid {vhid}")), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    }
    wire.wait_for_announcement(&a, fourth, before)?;

    // By signal, and back.
    write(&of_a, &[virtual_host(1, VIP, ""), virtual_host(2, fourth, "")])?;
    on_a.signal(Signal::SIGHUP)?;
    on_a.wait_for_line("1 taken out, 0 added, 1 changed, 1 as before", LONG)?;
    numbers(&[1, 100, 103])?;
    assert_eq!(changes(&on_a, "eth0 vhid 2"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);

    fs::write(of_a.path().join("carpd.toml"), "[[virtual_host]]\nvhid = 0\n")?;
    let refused = carpctl(&of_a, &["reload"])?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("carpd.toml:2:8: vhid: 0 is not in 1 to 255"));
    numbers(&[1, 100, 103])
}

/// A bridge has no native XDP.
#[test]
fn a_reload_to_a_road_that_there_is_not_says_so_and_stays_on_the_one_that_there_is() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    a.ns().ip_batch("link add br0 type bridge\naddr add 10.79.0.1/24 dev br0\nlink set br0 up\n")?;
    a.ns().ip_batch("link add x0 type veth peer name x1\nlink set x0 master br0 up\nlink set x1 up\n")?;
    let of_a = folder()?;
    let on_bridge = |road: &str| virtual_host(1, Ipv4Addr::new(10, 79, 0, 100), &format!("interface = \"br0\"{road}"));
    let write = |road| fs::write(of_a.path().join("carpd.toml"), format!("{DEFAULTS}{}", on_bridge(road)));
    write("\ndatapath = \"generic\"")?;
    let on_a = start(&a, &of_a)?;
    wait_for_change(&on_a, "br0 vhid 1", "BACKUP -> MASTER")?;
    for _ in 0..2 {
        write("\ndatapath = \"native\"")?;
        let refused = carpctl(&of_a, &["reload"])?;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{told}");
        assert!(told.contains(" as before, but:") || told.contains("1 changed, 0 as before, but:"), "{told}");
        assert!(told.contains("br0: native XDP: "), "{told}");
        assert_eq!(first(&of_a, "/datapath")?, "generic");
    }
    write("\ndatapath = \"socket\"")?;
    told(carpctl(&of_a, &["reload"])?)?;
    assert_eq!(first(&of_a, "/datapath")?, "socket");
    assert_eq!(changes(&on_a, "br0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

/// There are 1,024 rows of counters, which go round.
#[test]
fn a_new_virtual_host_begins_with_no_counts_of_an_old_one() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let of_a = folder()?;
    let many = |number: u8| -> Vec<_> {
        (1..=number).map(|vhid| virtual_host(vhid, Ipv4Addr::new(10, 77, 1, vhid), "")).collect()
    };
    write(&of_a, &many(255))?;
    let on_a = start(&a, &of_a)?;
    wait_for_change(&on_a, "eth0 vhid 255", "BACKUP -> MASTER")?;
    for vhid in 1..=255 {
        send_frame(b.ns(), ETH0, &adverts::forge(b.ip(), vhid, Election::new(0, 10), 1))?;
    }
    let refused = |status: &Value| {
        let hosts = status["virtual_hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
        hosts.iter().filter(|host| host["received"]["badauth"].is_u64()).count()
    };
    eventually("all have refused one", LONG, || Ok(status(&of_a).is_ok_and(|status| refused(&status) == 255)))?;
    for _ in 0..5 {
        write(&of_a, &many(1))?;
        told(carpctl(&of_a, &["reload"])?)?;
        write(&of_a, &many(255))?;
        told(carpctl(&of_a, &["reload"])?)?;
    }
    assert_eq!(refused(&status(&of_a)?), 1);
    Ok(())
}

#[test]
fn addresses_that_virtual_hosts_exchange_by_a_reload_stay() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let of_a = folder()?;
    let hosts = |first, second| [virtual_host(1, first, ""), virtual_host(2, second, "")];
    write(&of_a, &hosts(VIP, OTHER))?;
    let on_a = start(&a, &of_a)?;
    for name in ["eth0 vhid 1", "eth0 vhid 2"] {
        wait_for_change(&on_a, name, "BACKUP -> MASTER")?;
    }
    let sent = first(&of_a, "/sent")?;
    for turn in 0..10 {
        write(&of_a, &if turn % 2 == 0 { hosts(OTHER, VIP) } else { hosts(VIP, OTHER) })?;
        assert_eq!(told(carpctl(&of_a, &["reload"])?)?, "0 taken out, 0 added, 2 changed, 0 as before\n");
    }
    // Time enough for a task to remove what it must not.
    eventually("an advert has left since", LONG, || Ok(first(&of_a, "/sent")?.as_u64() > sent.as_u64()))?;
    assert!(a.has_address(VIP)? && a.has_address(OTHER)?);
    assert!(!on_a.lines().iter().any(|line| line.text.contains("something else")), "{:#?}", on_a.lines());
    Ok(())
}

#[test]
fn a_virtual_host_that_is_not_changed_misses_no_advert_by_sixty_reloads() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let Pair { of_a, on_a, on_b, .. } = &pair(&a, &b, &[virtual_host(1, VIP, ""), virtual_host(2, OTHER, "")])?;
    let wire = Wire::at(&b)?;
    let (begin, _) = wire.wait_for_adverts(a.ip(), 1)?;
    for skew in 0..60 {
        wire.wait_for_adverts(a.ip(), 1)?;
        write(of_a, &[virtual_host(1, VIP, ""), virtual_host(2, OTHER, &format!("advskew = {}", 90 + skew % 2))])?;
        let done = told(carpctl(of_a, &["reload"])?)?;
        assert!(done.starts_with("0 taken out, 0 added, "), "{done}");
    }
    let (end, _) = wire.wait_for_adverts(a.ip(), 8)?;
    let silence = wire.longest_silence(a.ip(), 1, begin, end);
    assert!(silence < Duration::from_millis(2 * 234), "no advert for {silence:?}");
    for name in ["eth0 vhid 1", "eth0 vhid 2"] {
        assert_eq!(changes(on_a, name), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    }
    assert_eq!(changes(on_b, "eth0 vhid 1"), ["INIT -> BACKUP"]);
    Ok(())
}

#[test]
fn hostile_clients_hold_up_neither_adverts_nor_other_clients() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let Pair { of_a, on_a, on_b, .. } = &pair(&a, &b, &[virtual_host(1, VIP, "")])?;
    let wire = Wire::at(&b)?;
    let (begin, _) = wire.wait_for_adverts(a.ip(), 1)?;
    let connect = || UnixStream::connect(of_a.path().join("socket")).context("connecting");
    for request in [
        &b"garbage\n"[..],
        // Not taken for one without a target, which would mean all.
        b"{\"request\":\"demote\",\"target\":{\"vhids\":1},\"demotion\":1}\n",
        b"{\"request\":\"status\"",
        b"\xff\n",
        b"\n",
        &[b'x'; 1 << 16],
    ] {
        let mut client = connect()?;
        // It may be refused before all of it is sent.
        client.write_all(request).ok();
        client.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = vec![];
        client.read_to_end(&mut answer).ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("{\"error\":"), "{answer}");
    }
    // All at once: half a request and silence, and a request whose answer nobody reads.
    let clients: Vec<_> = (0..200)
        .map(|number| {
            let mut client = connect()?;
            let request: &[u8] =
                if number % 2 == 0 { b"{\"req" } else { b"{\"request\":\"events\",\"follow\":true}\n" };
            client.write_all(request).ok();
            Ok(client)
        })
        .collect::<Result<_>>()?;
    let mut refused = [0; 256];
    let count = clients.last().context("there are clients")?.read(&mut refused)?;
    let refused = String::from_utf8_lossy(&refused[..count]);
    assert!(refused.starts_with("{\"error\":\"64 clients are being served"), "{refused}");
    let (end, _) = wire.wait_for_adverts(a.ip(), 16)?;
    let silence = wire.longest_silence(a.ip(), 1, begin, end);
    assert!(silence < Duration::from_millis(2 * 234), "no advert for {silence:?}");
    assert_eq!(changes(on_b, "eth0 vhid 1"), ["INIT -> BACKUP"]);
    eventually("those that ask nothing have lost their places", LONG, || Ok(status(of_a).is_ok()))?;
    drop(clients);
    eventually("all is well", LONG, || Ok(carpctl(of_a, &["status"])?.status.success()))?;
    assert_eq!(changes(on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

/// A server of its own, which is BACKUP: its folder, and carpd.
fn alone(host: &Host) -> Result<(Folder, Agent)> {
    let folder = folder()?;
    write(&folder, &[virtual_host(1, VIP, "")])?;
    let agent = start(host, &folder)?;
    wait_for_change(&agent, "eth0 vhid 1", "INIT -> BACKUP")?;
    Ok((folder, agent))
}

/// `nobody` of Debian.
const NOBODY: u32 = 65534;

#[test]
fn who_is_neither_root_nor_in_the_group_is_not_answered_and_cannot_hold_carpds_locks() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let (of_a, agent) = alone(&a)?;
    let socket = of_a.path().join("socket");
    // What a mode keeps out may come in by a mode that somebody has changed.
    fs::set_permissions(of_a.path(), fs::Permissions::from_mode(0o755))?;
    for mode in [None, Some(0o666)] {
        ensure!(mode.is_some() || fs::metadata(&socket)?.mode() & 0o777 == 0o660, "everybody may open it");
        if let Some(mode) = mode {
            fs::set_permissions(&socket, fs::Permissions::from_mode(mode))?;
        }
        let asked = Command::new(carpd_path()?.with_file_name("carpctl"))
            .arg("--socket")
            .arg(&socket)
            .arg("status")
            .uid(NOBODY)
            .gid(NOBODY)
            .output()?;
        let told = String::from_utf8_lossy(&asked.stderr);
        ensure!(!asked.status.success() && asked.stdout.is_empty(), "{mode:?}: {told}");
        ensure!(mode.is_none() || told.contains("only root and the members of the group"), "{told}");
    }
    let locks = fs::read_dir("/run/carp")?.filter_map(|entry| Some(entry.ok()?.path()));
    let pid = agent.pid().to_string();
    let own: Vec<_> = locks.filter(|lock| fs::read_to_string(lock).is_ok_and(|text| text.starts_with(&pid))).collect();
    ensure!(!own.is_empty(), "no lock of {pid}");
    for lock in own {
        let mode = fs::metadata(&lock)?.mode();
        ensure!(mode & 0o077 == 0, "{}: {mode:o}", lock.display());
    }
    Ok(())
}

#[test]
fn a_link_in_place_of_the_maintenance_file_is_not_followed_and_nobody_waits_at_a_pipe() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let (of_a, _agent) = alone(&a)?;
    let elsewhere = of_a.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, of_a.path().join("maintenance"))?;
    let asked = carpctl(&of_a, &["maintenance", "on"])?;
    ensure!(!asked.status.success(), "{}", String::from_utf8_lossy(&asked.stdout));
    ensure!(!elsewhere.exists(), "it was made");
    mkfifo(&of_a.path().join("maintenance"), Mode::S_IRWXU)?;
    let asked = carpctl(&of_a, &["maintenance", "on"])?;
    ensure!(!asked.status.success(), "{}", String::from_utf8_lossy(&asked.stdout));
    // Neither is there any more.
    let asked = carpctl(&of_a, &["maintenance", "on"])?;
    ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    Ok(())
}

#[test]
fn without_a_carpd_carpctl_says_so_and_a_socket_that_was_left_behind_is_replaced() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let of_a = folder()?;
    write(&of_a, &[virtual_host(1, VIP, "")])?;
    let absent = |arguments: &[&str]| -> Result<()> {
        let output = carpctl(&of_a, arguments)?;
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("carpd is not running: nobody listens at socket"));
        Ok(())
    };
    absent(&["status"])?;
    let mut on_a = start(&a, &of_a)?;
    eventually("it answers", LONG, || Ok(status(&of_a).is_ok()))?;
    on_a.kill()?;
    assert!(of_a.path().join("socket").exists());
    for command in [&["events"][..], &["reload"], &["maintenance", "on"], &["demote"]] {
        absent(command)?;
    }
    let mut on_a = start(&a, &of_a)?;
    eventually("it answers again", LONG, || Ok(status(&of_a).is_ok()))?;

    let second = folder()?;
    write(&second, &[virtual_host(2, OTHER, "")])?;
    let mut carpd = a.command(carpd_path()?);
    add_options(&mut carpd, &second, &of_a.path().join("socket"));
    let second = Agent::spawn("the second", carpd)?;
    second.wait_for_line("carpctl cannot reach this carpd", LONG)?;
    wait_for_change(&second, "eth0 vhid 2", "BACKUP -> MASTER")?;
    assert_eq!(first(&of_a, "/vhid")?, 1);
    assert!(on_a.stop_and_wait(LONG)?.success());
    absent(&["status"])
}

#[test]
fn events_are_followed_as_they_happen() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let of_a = folder()?;
    write(&of_a, &[virtual_host(1, VIP, "")])?;
    let on_a = start(&a, &of_a)?;
    eventually("it answers", LONG, || Ok(status(&of_a).is_ok()))?;
    let mut follow = Command::new(carpd_path()?.with_file_name("carpctl"));
    follow.arg("--socket").arg(of_a.path().join("socket")).args(["events", "--follow", "--json"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().context("starting carpctl")?;
    let mut told = BufReader::new(follow.stdout.take().context("no output")?);
    let mut text = String::new();
    // It follows when it has told the first.
    told.read_line(&mut text)?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    on_a.signal(Signal::SIGTERM)?;
    told.read_to_string(&mut text)?;
    // The connection ends with carpd.
    assert_eq!(follow.wait()?.code(), Some(1));
    let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let told: Vec<_> = events.iter().map(|event| (event["number"].as_u64(), event["to"].as_str())).collect();
    let expected = [(Some(1), Some("BACKUP")), (Some(2), Some("MASTER")), (Some(3), Some("INIT"))];
    assert_eq!(told, expected, "{events:#?}");
    Ok(())
}
