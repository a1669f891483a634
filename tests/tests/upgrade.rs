//! `carpctl upgrade`: another program goes on in carpd's process.

use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carp_tests::configured::{add_options, carpctl, changes, folder, start, virtual_host, wait_for_change, write};
use carp_tests::node::ROAD;
use carp_tests::{
    Agent, BootTime, Folder, Host, LONG, Lab, Preload, Probe, VIP, Wire, carpd_path, copy_carpd, eventually,
};

const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
const SLOWER: &str = "advskew = 80\npeer_advskew = 60";
const PREFERRED: &str = "peer_advskew = 80";

fn has_xdp() -> bool {
    !std::env::var(ROAD).is_ok_and(|road| road == "socket")
}

/// Puts carpd into the folder, in the place of what is there, as a package manager does.
fn install(folder: &Folder) -> Result<()> {
    let [new, path] = ["carpd.new", "carpd"].map(|name| folder.path().join(name));
    copy_carpd(&new)?;
    Ok(fs::rename(new, path)?)
}

/// The same with a script, which is handed its arguments.
fn install_script(folder: &Folder, text: &str) -> Result<()> {
    let [new, path] = ["carpd.new", "carpd"].map(|name| folder.path().join(name));
    fs::write(&new, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&new, Permissions::from_mode(0o755))?;
    Ok(fs::rename(new, path)?)
}

/// The folder's carpd, not started yet.
fn installed(host: &Host, folder: &Folder) -> Result<Command> {
    install(folder)?;
    let mut carpd = host.command(folder.path().join("carpd"));
    add_options(&mut carpd, folder, &folder.path().join("socket"));
    Ok(carpd)
}

/// Starts it.
fn start_installed(host: &Host, folder: &Folder) -> Result<Agent> {
    start_installed_with("info", host, folder)
}

/// The same; it logs so much.
fn start_installed_with(level: &str, host: &Host, folder: &Folder) -> Result<Agent> {
    let mut carpd = installed(host, folder)?;
    carpd.env("STATE_DIRECTORY", folder.path()).env("RUST_LOG", level);
    Agent::spawn(host.name(), carpd)
}

/// A master whose carpd is in its folder, and a backup.
fn pair(a: &Host, b: &Host, of_a: &Folder, of_b: &Folder) -> Result<[Agent; 2]> {
    pair_with("info", a, b, of_a, of_b)
}

/// The same; the master logs so much.
fn pair_with(level: &str, a: &Host, b: &Host, of_a: &Folder, of_b: &Folder) -> Result<[Agent; 2]> {
    write(of_a, &[virtual_host(1, VIP, PREFERRED)])?;
    write(of_b, &[virtual_host(1, VIP, SLOWER)])?;
    let on_a = start_installed_with(level, a, of_a)?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let on_b = start(b, of_b)?;
    wait_for_change(&on_b, "eth0 vhid 1", "INIT -> BACKUP")?;
    Ok([on_a, on_b])
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn upgrade(folder: &Folder) -> Result<String> {
    let output = carpctl(folder, &["upgrade"])?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(said(&output))
}

fn program_of(agent: &Agent) -> Result<std::path::PathBuf> {
    Ok(fs::read_link(format!("/proc/{}/exe", agent.pid()))?)
}

#[test]
fn a_master_is_upgraded_without_a_transition_and_without_a_lost_probe() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    // The same program goes on, unless what it has to say is to be logged.
    for (level, is_loaded) in [("info", false), ("debug", true)] {
        let lab = Lab::new()?;
        let [a, b, client] = lab.hosts(["a", "b", "client"])?;
        let [of_a, of_b] = [folder()?, folder()?];
        let [on_a, on_b] = pair_with(level, &a, &b, &of_a, &of_b)?;
        let probe = Probe::start(&client, VIP, Duration::from_millis(1))?;
        probe.wait_for_answer_from(a.mac(), LONG)?;
        let wire = Wire::at(&client)?;
        for _ in 0..2 {
            let program = a.xdp_program()?;
            install(&of_a)?;
            assert!(program_of(&on_a)?.to_string_lossy().ends_with(" (deleted)"));
            let told = upgrade(&of_a)?;
            assert!(told.contains("no virtual host hands over") && told.contains("eth0 vhid 1: MASTER"), "{told}");
            assert_eq!(program_of(&on_a)?, of_a.path().join("carpd"));
            assert_eq!(a.xdp_program()? != program, is_loaded);
            // Longer than the lease.
            wire.wait_for_adverts(a.ip(), 5)?;
        }
        assert_eq!(changes(&on_b, "eth0 vhid 1"), ["INIT -> BACKUP"]);
        let of_a = ["INIT -> BACKUP", "BACKUP -> MASTER", "INIT -> MASTER", "INIT -> MASTER"];
        assert_eq!(changes(&on_a, "eth0 vhid 1"), of_a);
        let counters: Vec<u64> = wire.adverts_of(a.ip()).iter().map(|(_, advert)| advert.counter).collect();
        assert!(counters.is_sorted_by(|one, next| one < next));
        let report = probe.stop()?;
        assert_eq!(report.sent(), report.answered(), "{:?}", report.outages());
    }
    Ok(())
}

#[test]
fn what_an_administrator_has_demoted_stays_so() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [of_a, of_b] = [folder()?, folder()?];
    let [on_a, _on_b] = pair(&a, &b, &of_a, &of_b)?;
    carpctl(&of_a, &["demote", "--by", "7"])?;
    wait_for_change(&on_a, "eth0 vhid 1", "MASTER -> BACKUP")?;
    eventually("the address is given up", LONG, || Ok(!a.has_address(VIP)?))?;
    upgrade(&of_a)?;
    let status = carpctl(&of_a, &["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    assert_eq!(status["virtual_hosts"][0]["demotion"]["manual"], 7);
    assert_eq!(status["virtual_hosts"][0]["state"], "BACKUP");
    Ok(())
}

/// A script of this name in the folder, which the file names: it fails, or does not end, if there is a file of that name.
fn add_script(folder: &Folder) -> Result<String> {
    let path = folder.path().join("check");
    let text = format!("#!/bin/sh\ncd {:?}\n[ ! -e hang ] || exec sleep 1000\n[ ! -e fail ]\n", folder.path());
    fs::write(&path, text)?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok("[script.check]\ncommand = [\"check\"]\ninterval = 1\ntimeout = 1000\nfall = 1\nrise = 1\n".to_owned())
}

#[test]
fn a_backup_that_a_script_demotes_does_not_preempt_before_that_has_succeeded() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [of_a, of_b] = [folder()?, folder()?];
    let mark = |name: &str| fs::write(of_a.path().join(name), "");
    let check = add_script(&of_a)?;
    mark("fail")?;
    write(&of_b, &[virtual_host(1, VIP, SLOWER)])?;
    let on_b = start(&b, &of_b)?;
    wait_for_change(&on_b, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let demoted = format!("{PREFERRED}\npreempt = true\npreempt_delay = 2\ntrack_scripts = [\"check\"]");
    write(&of_a, &[virtual_host(1, VIP, &demoted), check.clone()])?;
    let on_a = start_installed(&a, &of_a)?;
    on_a.wait_for_line("eth0 vhid 1: demoted by 240: script check", LONG)?;
    write(&of_a, &[virtual_host(1, VIP, &demoted.replace("preempt_delay = 2", "")), check])?;
    mark("hang")?;
    upgrade(&of_a)?;
    let wire = Wire::at(&a)?;
    wire.wait_for_adverts(b.ip(), 4)?;
    assert_eq!(changes(&on_b, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    let status: serde_json::Value = serde_json::from_slice(&carpctl(&of_a, &["status", "--json"])?.stdout)?;
    assert_eq!(status["virtual_hosts"][0]["demotion"]["tracked"], 240);
    let told = |text: &str| on_a.lines().iter().filter(|line| line.text.contains(text)).count();
    assert_eq!(told("INIT -> BACKUP"), 2);
    assert_eq!(told("BACKUP -> MASTER"), 0);
    Ok(())
}

#[test]
fn who_has_left_init_is_not_held_back_by_the_next_program() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [of_a, of_b] = [folder()?, folder()?];
    let check = add_script(&of_a)?;
    write(&of_b, &[virtual_host(1, VIP, "")])?;
    let on_b = start(&b, &of_b)?;
    wait_for_change(&on_b, "eth0 vhid 1", "BACKUP -> MASTER")?;
    write(&of_a, &[virtual_host(1, VIP, &format!("{SLOWER}\nready_script = \"check\"")), check])?;
    let on_a = start_installed(&a, &of_a)?;
    wait_for_change(&on_a, "eth0 vhid 1", "INIT -> BACKUP")?;
    fs::write(of_a.path().join("fail"), "")?;
    assert!(upgrade(&of_a)?.contains("eth0 vhid 1: BACKUP"));
    assert_eq!(changes(&on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "INIT -> BACKUP"]);
    Ok(())
}

/// Nothing but the former program knows what was sent: there are no pins, and there is no folder for state.
#[test]
fn counters_rise_across_an_upgrade_on_a_socket_also_if_the_clock_was_stepped_back() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let of_a = folder()?;
    write(&of_a, &[virtual_host(1, VIP, "datapath = \"socket\"")])?;
    let clock = Preload::new()?;
    let mut carpd = installed(&a, &of_a)?;
    clock.add_to(&mut carpd);
    let on_a = Agent::spawn(a.name(), carpd)?;
    let wire = Wire::at(&b)?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    clock.set_clock(-3600)?;
    upgrade(&of_a)?;
    let upgraded = BootTime::now();
    let since = || wire.adverts_of(a.ip()).into_iter().filter(|(at, _)| *at > upgraded).count();
    eventually("it advertises again", LONG, || Ok(since() > 2))?;
    let counters: Vec<u64> = wire.adverts_of(a.ip()).iter().map(|(_, advert)| advert.counter).collect();
    assert!(counters.is_sorted_by(|one, next| one < next), "{counters:?}");
    Ok(())
}

#[test]
fn a_program_or_a_configuration_that_could_not_go_on_is_told_and_nothing_changes() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [of_a, of_b] = [folder()?, folder()?];
    let [on_a, _on_b] = pair(&a, &b, &of_a, &of_b)?;
    let wire = Wire::at(&client)?;
    let refused = |why: &str| {
        let output = carpctl(&of_a, &["upgrade"])?;
        let said = said(&output);
        ensure!(!output.status.success() && said.contains(why) && said.contains("nothing has changed"), "{said}");
        wire.wait_for_adverts(a.ip(), 2)
    };
    install_script(&of_a, "echo no good >&2; exit 1")?;
    refused("no good")?;
    install_script(&of_a, "echo hello")?;
    refused("cannot understand what")?;
    fs::remove_file(of_a.path().join("carpd"))?;
    refused("cannot execute")?;
    install(&of_a)?;
    write(&of_a, &["[[virtual_host]]\nvhid = 0\n".to_owned()])?;
    refused("vhid")?;
    assert_eq!(changes(&on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn a_backup_that_is_upgraded_while_its_master_dies_takes_over_all_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [of_a, of_b] = [folder()?, folder()?];
    write(&of_a, &[virtual_host(1, VIP, PREFERRED)])?;
    write(&of_b, &[virtual_host(1, VIP, SLOWER)])?;
    let on_a = start(&a, &of_a)?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let on_b = start_installed(&b, &of_b)?;
    wait_for_change(&on_b, "eth0 vhid 1", "INIT -> BACKUP")?;
    a.kill_host()?;
    upgrade(&of_b)?;
    wait_for_change(&on_b, "eth0 vhid 1", "BACKUP -> MASTER")?;
    Probe::start(&client, VIP, Duration::from_millis(5))?.wait_for_answer_from(b.mac(), LONG).map(drop)
}

/// Has a master upgraded that cannot go on as one.
fn hands_over_first(install: impl Fn(&Folder) -> Result<()>, why: &str) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [of_a, of_b] = [folder()?, folder()?];
    let [on_a, on_b] = pair(&a, &b, &of_a, &of_b)?;
    install(&of_a)?;
    let told = upgrade(&of_a)?;
    assert!(told.starts_with("carpd ") && told.contains("eth0 vhid 1 hand over first") && told.contains(why), "{told}");
    wait_for_change(&on_b, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let takeover = on_b.lines().into_iter().find(|line| line.text.contains("BACKUP -> MASTER"));
    let takeover = takeover.context("it was seen")?.text;
    assert!(takeover.contains("leaves"), "announced: {takeover}");
    eventually("it is a backup again", LONG, || {
        Ok(changes(&on_a, "eth0 vhid 1").last().is_some_and(|last| last == "INIT -> BACKUP"))
    })?;
    assert_eq!(changes(&on_b, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert!(!a.has_address(VIP)?);
    Ok(())
}

#[test]
fn a_program_with_another_abi_goes_on_after_an_announced_failover() -> Result<()> {
    let carpd = carpd_path()?;
    let script = |folder: &Folder| {
        let answer =
            r#"for word; do [ "$word" != --would-go-on ] || { echo '{"version":"9.9.9","abi":9}'; exit; }; done"#;
        install_script(folder, &format!("{answer}\nexec {} \"$@\"", Path::display(&carpd)))
    };
    hands_over_first(script, "9.9.9")
}

#[test]
fn a_master_without_a_lease_hands_over_first() -> Result<()> {
    let off = |folder: &Folder| {
        write(folder, &[virtual_host(1, VIP, &format!("{PREFERRED}\nfence = \"off\""))])?;
        let reloaded = carpctl(folder, &["reload"])?;
        ensure!(reloaded.status.success(), "{}", said(&reloaded));
        install(folder)
    };
    hands_over_first(off, "without a lease")
}

#[test]
fn a_master_that_the_next_program_serves_on_a_packet_socket_hands_over_first() -> Result<()> {
    let on_socket = |folder: &Folder| {
        write(folder, &[virtual_host(1, VIP, &format!("{PREFERRED}\ndatapath = \"socket\""))])?;
        install(folder)
    };
    hands_over_first(on_socket, "on a packet socket")
}

#[test]
fn a_master_hands_over_first_if_the_pins_are_to_be_elsewhere() -> Result<()> {
    let elsewhere = |folder: &Folder| {
        let file = folder.path().join("carpd.toml");
        fs::write(&file, format!("bpffs = \"/nowhere\"\n{}", fs::read_to_string(&file)?))?;
        install(folder)
    };
    hands_over_first(elsewhere, "pins things elsewhere")
}

#[test]
fn a_master_that_the_file_does_not_have_any_more_hands_over_first_and_the_others_stay() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [of_a, of_b] = [folder()?, folder()?];
    let stays = virtual_host(2, OTHER_VIP, PREFERRED);
    write(&of_a, &[virtual_host(1, VIP, PREFERRED), stays.clone()])?;
    write(&of_b, &[virtual_host(1, VIP, SLOWER), virtual_host(2, OTHER_VIP, SLOWER)])?;
    let on_a = start_installed(&a, &of_a)?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    wait_for_change(&on_a, "eth0 vhid 2", "BACKUP -> MASTER")?;
    let on_b = start(&b, &of_b)?;
    wait_for_change(&on_b, "eth0 vhid 1", "INIT -> BACKUP")?;
    write(&of_a, &[stays])?;
    let told = upgrade(&of_a)?;
    assert!(told.contains(": eth0 vhid 1 hand over first, for it does not serve them\n"), "{told}");
    wait_for_change(&on_b, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let takeover = on_b.lines().into_iter().find(|line| line.text.contains("vhid 1: BACKUP -> MASTER"));
    assert!(takeover.is_some_and(|line| line.text.contains("leaves")));
    assert!(!a.has_address(VIP)?);
    // Longer than the lease.
    Wire::at(&b)?.wait_for_adverts(a.ip(), 5)?;
    assert_eq!(changes(&on_b, "eth0 vhid 2"), ["INIT -> BACKUP"]);
    Ok(())
}
