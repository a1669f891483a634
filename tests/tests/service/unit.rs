//! Our own service on two servers.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use carp_tests::{BootTime, Host, LONG, Lab, LabOptions, Probe, VIP, eventually, is_missing};

use crate::BOOT;
use crate::machine::Machine;

const FILE: &str = "/etc/carp/carpd.toml";
/// What changes the unit.
const DROP_IN: &str = "/etc/systemd/system/carpd.service.d";

/// What a carpd says that finds the pins of one before.
const GOES_ON: &str = "going on with what a carpd that is gone has left attached to 1 interfaces";

/// Bits of CapEff: NET_ADMIN, NET_RAW, PERFMON, BPF.
const CAPABILITIES: u64 = 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;

/// A second virtual host, for the configuration.
const ANOTHER: &str = "\n[[virtual_host]]\nvhid = 2\naddresses = [\"10.77.0.101/24\"]\nadvbase = 0\nadvskew = 60\n";

#[test]
fn a_stop_hands_the_address_over_and_a_kill_is_healed_at_once() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let first = server(&a, 60)?;
    first.run("systemctl enable --now carpd")?;
    eventually("the first server has the VIP", LONG, || a.has_address(VIP))?;
    let second = server(&b, 80)?;
    second.run("systemctl enable --now carpd")?;
    second.wait_for_journal("carpd", &["native XDP on eth0", "eth0 vhid 1: INIT -> BACKUP"])?;
    first.wait_for_status("1 MASTER")?;
    second.wait_for_status("1 BACKUP")?;
    let status = first.run("systemctl status --no-pager carpd")?;
    for part in ["/carpd.service; enabled", "Active: active (running)", "eth0 vhid 1: BACKUP -> MASTER"] {
        assert!(status.contains(part), "{part}: {status}");
    }

    first.run("systemctl stop carpd")?;
    assert!(!a.has_address(VIP)? && a.xdp_program()?.is_none());
    eventually("the second server has the VIP", LONG, || b.has_address(VIP))?;
    second.wait_for_journal("carpd", &["eth0 vhid 1: BACKUP -> MASTER, 10.77.0.1 leaves"])?;
    assert_eq!(first.property("carpd", "Result")?, "success");

    // The first one is preferred, but does not preempt.
    first.run("systemctl start carpd")?;
    first.wait_for_journal("carpd", &["stopped", "INIT -> BACKUP"])?;
    second.run("systemctl kill --signal=KILL carpd")?;
    second.wait_for_journal("carpd", &["Scheduled restart job", GOES_ON, "native XDP on eth0"])?;
    assert_eq!(second.property("carpd", "NRestarts")?, "1");
    // What the killed one has left behind is its again, or gone.
    eventually("one is master, one is backup, and the VIP is where the master is", LONG, || {
        let states = [first.property("carpd", "StatusText")?, second.property("carpd", "StatusText")?];
        let vips = [a.has_address(VIP)?, b.has_address(VIP)?];
        Ok(states == ["1 MASTER", "1 BACKUP"] && vips == [true, false]
            || states == ["1 BACKUP", "1 MASTER"] && vips == [false, true])
    })
}

#[test]
fn a_loop_that_stands_still_is_started_again_and_the_backup_has_taken_over_meanwhile() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let first = server(&a, 60)?;
    first.run("systemctl start carpd")?;
    eventually("the first server has the VIP", LONG, || a.has_address(VIP))?;
    let second = server(&b, 80)?;
    second.run("systemctl start carpd")?;
    second.wait_for_journal("carpd", &["INIT -> BACKUP"])?;
    first.run("systemctl kill --kill-whom=main --signal=STOP carpd")?;
    eventually("the second server has the VIP", LONG, || b.has_address(VIP))?;
    first.wait_for_journal("carpd", &["Watchdog timeout", "eth0 vhid 1: INIT -> BACKUP"])?;
    eventually("the second server alone has the VIP", LONG, || Ok(b.has_address(VIP)? && !a.has_address(VIP)?))
}

#[test]
fn a_master_that_is_killed_is_master_again_before_the_other_misses_it() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let first = server_with(&a, "advbase = 1\nadvskew = 0")?;
    first.run("systemctl start carpd")?;
    first.wait_for_status("1 MASTER")?;
    let second = server_with(&b, "advbase = 1\nadvskew = 50")?;
    second.run("systemctl start carpd")?;
    second.wait_for_status("1 BACKUP")?;
    let probe = Probe::start(&client, VIP, Duration::from_millis(1))?;
    probe.wait_for_answer_from(a.mac(), LONG)?;
    let program = a.xdp_program()?;
    first.run("systemctl kill --signal=KILL carpd")?;
    first.wait_for_journal("carpd", &["Scheduled restart job", GOES_ON, "INIT -> MASTER"])?;
    assert_eq!(a.xdp_program()?, program, "to load it takes longer, and is not necessary");
    let resumed = BootTime::now();
    probe.wait_for_answer("longer than the lease", LONG, |answer| answer.at.since(resumed).as_secs() >= 3)?;
    second.wait_for_status("1 BACKUP")?;
    let report = probe.stop()?;
    assert_eq!(report.sent(), report.answered(), "{:?}", report.outages());
    Ok(())
}

#[test]
fn a_reload_applies_what_is_different_and_a_new_package_goes_on_in_the_same_process() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let server = server(&a, 60)?;
    server.run("systemctl start carpd")?;
    server.wait_for_status("1 MASTER")?;
    let process = server.property("carpd", "MainPID")?;
    let good = fs::read_to_string(server.path(FILE)?)?;
    server.write(FILE, &(good.clone() + ANOTHER))?;
    server.run("systemctl reload carpd")?;
    server.wait_for_status("2 MASTER")?;

    server.write(FILE, &good.replace("vhid = 1", "vhid = 256"))?;
    assert!(server.run("systemctl reload carpd").is_err());
    server.wait_for_journal("carpd", &["not reloaded", "6:8: vhid: 256 is not in 1 to 255"])?;
    assert_eq!(server.property("carpd", "ActiveState")?, "active");
    server.wait_for_status("2 MASTER")?;

    server.write(FILE, &good)?;
    server.install()?;
    server.wait_for_journal("carpd", &["going on as carpd", "INIT -> MASTER"])?;
    server.wait_for_status("1 MASTER")?;
    assert_eq!(server.property("carpd", "MainPID")?, process);
    assert_eq!(server.property("carpd", "NRestarts")?, "0");
    server.run("dpkg --remove carpd")?;
    assert!(!a.has_address(VIP)? && a.xdp_program()?.is_none());
    Ok(())
}

#[test]
fn it_runs_as_its_own_user_with_four_capabilities_and_no_more() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let server = server(&a, 60)?;
    server.run("systemctl start carpd")?;
    server.wait_for_journal("carpd", &["native XDP on eth0"])?;
    server.wait_for_status("1 MASTER")?;
    assert!(server.run("carpctl status")?.contains("MASTER"));
    let process = server.property("carpd", "MainPID")?;
    let status = fs::read_to_string(server.path(&format!("/proc/{process}/status"))?).context("reading a status")?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).context("no such field");
    let user = server.run("id --user carp")?;
    assert_eq!(field("Uid:")?.split('\t').collect::<Vec<_>>(), [user.trim(); 4]);
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(field(set)?, 16)?, CAPABILITIES, "{set}");
    }
    // What it could not do would be a warning.
    assert_eq!(server.run("journalctl --quiet --priority=warning --unit=carpd")?, "");
    // It misses each of the four.
    for capability in ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"] {
        server.run(&format!("systemctl stop carpd && mkdir -p {DROP_IN}"))?;
        server.write(&format!("{DROP_IN}/less.conf"), &format!("[Service]\nAmbientCapabilities=~{capability}\n"))?;
        server.run("systemctl daemon-reload && systemctl start --no-block carpd")?;
        server.wait_for_journal("carpd", &[&format!("missing privileges: {capability}")])?;
    }
    Ok(())
}

#[test]
fn a_virtual_mac_needs_no_more_than_its_sandbox_has() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })?;
    let a = lab.host("a")?;
    a.ns().set_sysctl("net.ipv6.conf.default.accept_ra", "1")?;
    let server = server(&a, 60)?;
    let plain = fs::read_to_string(server.path(FILE)?)?;
    server.write(FILE, &format!("{plain}mac = \"virtual\"\n"))?;
    server.run("systemctl start carpd")?;
    server.wait_for_status("1 MASTER")?;
    let listed = || -> Result<String> {
        let all = a.ns().ip("-oneline address show")?;
        Ok(all.lines().filter(|line| line.contains(&VIP.to_string())).collect())
    };
    eventually("the device has the VIP", LONG, || Ok(listed()?.contains(" carp1-")))?;
    let line = listed()?;
    let device = line.split_whitespace().nth(1).context("a name")?;
    assert_eq!(a.ns().sysctl(&format!("net.ipv6.conf.{device}.accept_ra"))?, "0");
    assert_eq!(a.ns().sysctl("net.ipv4.conf.eth0.arp_ignore")?, "1");
    assert_eq!(server.run("journalctl --quiet --priority=warning --unit=carpd")?, "");
    server.run("systemctl stop carpd")?;
    assert_eq!(listed()?, "");
    assert_eq!(a.ns().sysctl("net.ipv4.conf.eth0.arp_ignore")?, "0");
    // In a narrower one it says what it lacks, and serves the VIP.
    server.run(&format!("mkdir -p {DROP_IN}"))?;
    server.write(&format!("{DROP_IN}/less.conf"), "[Service]\nReadWritePaths=\n")?;
    server.run("systemctl daemon-reload && systemctl start carpd")?;
    server.wait_for_journal("carpd", &["cannot write carp1-", "it takes addresses and routes from IPv6 routers"])?;
    eventually("the device has the VIP", LONG, || Ok(listed()?.contains(" carp1-")))
}

#[test]
fn a_mistake_in_the_configuration_or_no_passphrase_is_told_once_and_not_tried_again_and_again() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let server = server(&a, 60)?;
    let good = fs::read_to_string(server.path(FILE)?)?;
    server.write(FILE, &good.replace("vhid = 1", "vhid = 256"))?;
    assert_fails(&server)?;
    server.wait_for_journal("carpd", &["/etc/carp/carpd.toml:6:8: vhid: 256 is not in 1 to 255"])?;
    server.write(FILE, &good)?;
    server.run("rm /etc/carp/passphrase")?;
    assert_fails(&server)?;
    server.wait_for_journal(
        "carpd",
        &["passphrase is empty: is the file there that LoadCredential=passphrase:FILE names?"],
    )?;
    // Nothing is missing where nothing asks for it.
    server.write(FILE, &good.replace("passphrase_credential = \"passphrase\"", "passphrase = \"open sesame\""))?;
    server.run(&format!("chmod 640 {FILE} && systemctl start carpd"))?;
    server.wait_for_status("1 MASTER")
}

#[test]
fn what_is_pinned_goes_with_a_stop_and_the_service_needs_no_bpffs() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let server = server(&a, 60)?;
    server.run("systemctl start carpd")?;
    server.wait_for_status("1 MASTER")?;
    let pinned = server.run("ls /sys/fs/bpf/carp/*")?;
    assert!(["CARP_SENT", "xdp-", "tc-"].iter().all(|part| pinned.contains(part)), "{pinned}");
    let modes = server.run("stat --format '%U %a' /sys/fs/bpf/carp/*")?;
    assert_eq!(modes, "carp 700\n");
    server.run("systemctl stop carpd")?;
    assert_eq!(server.run("ls /sys/fs/bpf/carp")?, "");
    assert_eq!(server.run("journalctl --quiet --priority=warning --unit=carpd")?, "");

    // A kill that nothing follows: what is pinned stays, and cleanup takes it away.
    server.run(&format!("mkdir -p {DROP_IN}"))?;
    server.write(&format!("{DROP_IN}/once.conf"), "[Service]\nRestart=no\n")?;
    server.run("systemctl daemon-reload && systemctl start carpd")?;
    server.wait_for_status("1 MASTER")?;
    server.run("systemctl kill --signal=KILL carpd")?;
    eventually("it has failed", LONG, || Ok(server.property("carpd", "ActiveState")? == "failed"))?;
    assert!(a.xdp_program()?.is_some() && server.run("ls /sys/fs/bpf/carp/*")?.contains("xdp-"));
    assert!(server.run("carpctl cleanup")?.contains("10.77.0.100/24 was left by a carpd that is gone: removed"));
    assert!(!a.has_address(VIP)? && server.run("ls /sys/fs/bpf/carp")?.is_empty());

    server.run("umount /sys/fs/bpf && systemctl start carpd")?;
    server.wait_for_status("1 MASTER")?;
    let modes = server.run("stat --format '%U %a' /sys/fs/bpf /sys/fs/bpf/carp /sys/fs/bpf/carp/*")?;
    assert_eq!(modes, "root 1755\ncarp 755\ncarp 700\n");
    server.run("systemctl stop carpd && umount /sys/fs/bpf")?;
    server.write(&format!("{DROP_IN}/none.conf"), "[Service]\nExecStartPre=\n")?;
    server.run("systemctl daemon-reload && systemctl start carpd")?;
    server.wait_for_journal(
        "carpd",
        &["what is attached does not outlive a carpd that is killed", "native XDP on eth0"],
    )?;
    server.wait_for_status("1 MASTER")
}

#[test]
fn what_others_have_in_a_bpffs_stays_theirs() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let server = server(&a, 60)?;
    // In which everybody may make folders.
    server.run("mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf")?;
    server.run("mkdir /sys/fs/bpf/carp && mkdir -m 700 /sys/fs/bpf/carp/v0-1 && systemctl start carpd")?;
    server.wait_for_status("1 MASTER")?;
    assert_eq!(server.run("stat --format '%U %a' /sys/fs/bpf/carp/v0-1")?, "root 700\n");
    server.run("systemctl stop carpd && rmdir /sys/fs/bpf/carp/v0-1 /sys/fs/bpf/carp")?;

    let owner = server.run("stat --format %U:%G /etc")?;
    server.run("ln -s /etc /sys/fs/bpf/carp && systemctl start carpd")?;
    server.wait_for_journal("carpd", &["what is attached does not outlive a carpd that is killed"])?;
    server.wait_for_status("1 MASTER")?;
    assert_eq!(server.run("stat --format %U:%G /etc")?, owner);
    Ok(())
}

#[test]
fn a_package_that_is_removed_leaves_nothing_of_a_service_that_has_failed() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let server = server(&a, 60)?;
    server.run(&format!("mkdir -p {DROP_IN}"))?;
    server.write(&format!("{DROP_IN}/once.conf"), "[Service]\nRestart=no\n")?;
    server.run("systemctl daemon-reload && systemctl start carpd")?;
    server.wait_for_status("1 MASTER")?;
    server.run("systemctl kill --signal=KILL carpd")?;
    eventually("it has failed", LONG, || Ok(server.property("carpd", "ActiveState")? == "failed"))?;
    assert!(a.has_address(VIP)? && a.xdp_program()?.is_some());
    server.run("dpkg --remove carpd")?;
    assert!(!a.has_address(VIP)? && a.xdp_program()?.is_none());
    Ok(())
}

/// Asserts that a start fails, for good.
fn assert_fails(server: &Machine<'_>) -> Result<()> {
    // A service that is started again and again is active, or activating, on its way.
    let _ = server.run("systemctl start carpd");
    eventually("it has failed", LONG, || Ok(server.property("carpd", "ActiveState")? == "failed"))?;
    assert_eq!(server.property("carpd", "NRestarts")?, "0");
    server.run("systemctl reset-failed carpd").map(drop)
}

/// A server with the package and a configuration.
fn server(host: &Host, advskew: u8) -> Result<Machine<'_>> {
    server_with(host, &format!("advbase = 0\nadvskew = {advskew}\npeer_advskew = 80"))
}

/// The same with these timers.
fn server_with<'h>(host: &'h Host, timers: &str) -> Result<Machine<'h>> {
    let machine = Machine::with_package(host)?;
    machine.write("/etc/carp/passphrase", "open sesame\n")?;
    let hosts = format!(
        "[defaults]\n\
         interface = \"eth0\"\n\
         passphrase_credential = \"passphrase\"\n\
         \n\
         [[virtual_host]]\n\
         vhid = 1\n\
         addresses = [\"{VIP}/24\"]\n\
         {timers}\n"
    );
    machine.write(FILE, &hosts)?;
    machine.run(&format!("chgrp carp {FILE}"))?;
    Ok(machine)
}
