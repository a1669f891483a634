//! What outlives carpd: the kernel programs, their maps and their links.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, MapData};
use carp_common::abi::{Sent, VhostKey, map};
use carp_tests::foreign::detach;
use carp_tests::node::{OTHER, PREFERRED, ROAD};
use carp_tests::{
    BootTime, Folder, Host, LONG, Lab, Node, Probe, VIP, Wire, configured, eventually, netns::output_of, tool,
};
use nix::sys::signal::Signal;

const MAPS: [&str; 4] = [map::VHOSTS, map::SENT, map::COUNTERS, map::LEASES];

/// Whether there is XDP on the road that the tests take.
fn has_xdp() -> bool {
    !std::env::var(ROAD).is_ok_and(|road| road == "socket")
}

fn folder(host: &Host) -> Result<PathBuf> {
    host.ns().pins().context("nothing is pinned")
}

fn ids(folder: &Path) -> Result<Vec<u32>> {
    MAPS.iter().map(|name| Ok(MapData::from_pin(folder.join(name))?.info()?.id())).collect()
}

fn names(folder: &Path) -> Result<BTreeSet<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Whether the kernel still has this: `prog`, `map` or `link`.
fn is_there(what: &str, id: &str) -> Result<bool> {
    Ok(Command::new(tool("bpftool")?).args([what, "show", "id", id]).output()?.status.success())
}

#[test]
fn the_next_carpd_goes_on_with_the_program_and_the_maps_of_one_that_was_killed() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [master, mut backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    eventually("adverts are counted", LONG, || Ok(backup.report()?.count("ipackets") > 2))?;
    let (counted, maps, program) = (backup.report()?.count("ipackets"), ids(&folder(&b)?)?, b.xdp_program()?);

    let pinned = names(&folder(&b)?)?;
    for is_same in [true, false] {
        let restarted = AtomicBool::new(false);
        let looks;
        (backup, looks) = thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut looks = vec![];
                while !restarted.load(Ordering::Relaxed) {
                    looks.push(b.xdp_program()?);
                }
                anyhow::Ok(looks)
            });
            backup.agent_mut().kill()?;
            if !is_same {
                // As if those had been made of another object.
                for name in pinned.iter().filter(|name| name.starts_with("program-")) {
                    fs::rename(folder(&b)?.join(name), folder(&b)?.join(format!("{name}0")))?;
                }
            }
            let next = Node::start(&b, OTHER);
            restarted.store(true, Ordering::Relaxed);
            let looks = looks.join().map_err(|_| anyhow::anyhow!("the thread that looks"))??;
            anyhow::Ok((next?, looks))
        })?;
        assert!(!looks.is_empty() && looks.iter().all(Option::is_some), "it was gone: {looks:?}");
        assert_eq!(b.xdp_program()? == program, is_same, "the same goes on, and no other");
        assert_eq!((names(&folder(&b)?)?, ids(&folder(&b)?)?), (pinned.clone(), maps.clone()));
    }
    let goes_on = backup.report()?.count("ipackets");
    assert!(goes_on >= counted, "the count goes on from {counted}, and not with {goes_on}");
    assert!(backup.lines_with("refused adverts").is_empty());
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn a_master_that_is_killed_and_started_again_within_its_lease_goes_on_unnoticed() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    for options in ["", "--mac=virtual"] {
        let lab = Lab::new()?;
        let [a, b, client] = lab.hosts(["a", "b", "client"])?;
        let preferred = format!("{PREFERRED} --peer-advskew=80 {options}");
        let mut master = Node::start(&a, &preferred)?;
        master.wait_for("BACKUP -> MASTER")?;
        let backup = Node::start(&b, &format!("{OTHER} {options}"))?;
        let probe = Probe::start(&client, VIP, Duration::from_millis(1))?;
        probe.wait_for_answer("from the VIP", LONG, |_| true)?;
        for _ in 0..2 {
            master.agent_mut().kill()?;
            master = Node::spawn(&a, &preferred)?;
            let resumed = master.wait_for("INIT -> MASTER")?;
            assert!(resumed.cause.starts_with("going on"), "{resumed:?}");
            // Longer than the old lease.
            Wire::at(&client)?.wait_for_adverts(a.ip(), 5)?;
            assert_eq!(master.changes(), ["INIT -> MASTER"]);
        }
        assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
        let report = probe.stop()?;
        assert_eq!(report.sent(), report.answered(), "{options}: {:?}", report.outages());
    }
    Ok(())
}

#[test]
fn counters_rise_across_a_crash_also_if_the_clock_was_stepped_back() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [mut master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&b)?;
    wire.wait_for_adverts(a.ip(), 2)?;
    master.agent_mut().kill()?;
    let (_, last) = wire.adverts_of(a.ip()).pop().context("no advert")?;
    let mut sent: HashMap<_, VhostKey, Sent> =
        aya::maps::Map::from_map_data(MapData::from_pin(folder(&a)?.join(map::SENT))?)?.try_into()?;
    let (key, newest) = sent.iter().next().context("nothing was sent")??;
    assert_eq!(newest.newest(), last.counter, "written down before it is sent");
    // As if the clock had been ahead by an hour until now.
    let ahead = last.counter + 3_600_000_000_000;
    sent.insert(key, Sent::new(a.ip().into(), ahead), 0)?;

    backup.wait_for("BACKUP -> MASTER")?;
    let before = backup.report()?.count("ipackets");
    let restarted = BootTime::now();
    let next = Node::start(&a, &format!("{PREFERRED} --preempt"))?;
    next.wait_for("BACKUP -> MASTER")?;
    backup.wait_for("MASTER -> BACKUP")?;
    let from_then = |wire: &Wire| {
        let mut adverts = wire.adverts_of(a.ip());
        adverts.retain(|(at, _)| *at > restarted);
        adverts
    };
    eventually("adverts are heard", LONG, || Ok(from_then(&wire).len() > 3))?;
    let counters: Vec<u64> = from_then(&wire).iter().map(|(_, advert)| advert.counter).collect();
    assert!(counters[0] > ahead && counters.is_sorted_by(|one, next| one < next), "{counters:?} after {ahead}");
    eventually("the peer takes them", LONG, || Ok(backup.report()?.count("ipackets") > before + 2))
}

#[test]
fn counters_rise_across_a_reboot_after_which_the_clock_is_behind() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let state = configured::folder()?;
    configured::write(&state, &[configured::virtual_host(1, VIP, "")])?;
    let wire = Wire::at(&b)?;
    let file = state.path().join("counter");
    let kept = || -> Result<u64> { Ok(fs::read_to_string(&file)?.trim_end().parse()?) };
    for _ in 0..2 {
        let mut agent = configured::start(&a, &state)?;
        wire.wait_for_adverts(a.ip(), 2)?;
        let newest = || wire.adverts_of(a.ip()).last().map(|(_, advert)| advert.counter).context("no advert");
        eventually("a floor above it is kept", LONG, || Ok(kept().is_ok_and(|kept| kept > newest().unwrap_or(kept))))?;
        agent.stop_and_wait(LONG)?;
        assert_eq!(kept()?, newest()?, "the bow-out's");
        // As if the clock had been ahead by a day until now.
        fs::write(&file, format!("{}\n", newest()? + 24 * 3_600_000_000_000))?;
    }
    let counters: Vec<u64> = wire.adverts_of(a.ip()).iter().map(|(_, advert)| advert.counter).collect();
    assert!(counters.is_sorted_by(|one, next| one < next), "{counters:?}");
    assert!(counters.last() > counters.first().map(|first| first + 24 * 3_600_000_000_000).as_ref());
    Ok(())
}

#[test]
fn pins_with_another_layout_are_removed_and_told() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut node = Node::start(&a, PREFERRED)?;
    node.agent_mut().kill()?;
    let path = folder(&a)?.join(map::SENT);
    fs::remove_file(&path)?;
    HashMap::<MapData, u64, u64>::create(16, 0)?.pin(&path)?;

    let node = Node::start(&a, PREFERRED)?;
    assert_eq!(node.lines_with("CARP_SENT is not as this carpd has it: removing it, and beginning anew").len(), 1);
    node.wait_for("BACKUP -> MASTER")?;
    ensure!(MapData::from_pin(&path)?.info()?.value_size() == size_of::<Sent>() as u32);
    Ok(())
}

#[test]
fn programs_that_work_with_other_maps_than_those_that_are_there_do_not_go_on() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    for kind in ["program-xdp-", "program-tc-"] {
        let mut nodes = [Node::start(&a, PREFERRED)?, Node::start(&b, OTHER)?];
        for node in &mut nodes {
            node.agent_mut().kill()?;
        }
        let [of_a, of_b] = [folder(&a)?, folder(&b)?];
        let name = names(&of_a)?.into_iter().find(|name| name.starts_with(kind)).context("no program is pinned")?;
        fs::rename(of_b.join(&name), of_a.join(&name))?;

        let [node, other] = [Node::start(&a, PREFERRED)?, Node::start(&b, OTHER)?];
        assert_eq!(node.lines_with("work with other maps than those that are: loading them anew").len(), 1, "{kind}");
        eventually("adverts are heard", LONG, || Ok(other.report()?.count("ipackets") > 2))?;
    }
    Ok(())
}

#[test]
fn another_bpffs_is_used_alone() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let place = Bpffs::mount()?;
    let mut node = Node::start(&a, PREFERRED)?;
    let before = folder(&a)?;
    node.agent_mut().kill()?;
    let elsewhere = format!("{PREFERRED} --bpffs={}", place.0.path().display());
    let mut node = Node::start(&a, &elsewhere)?;
    assert_eq!(node.lines_with("not where the pins are to be: removing it").len(), 1);
    assert!(!before.exists() && names(&place.0.path().join("carp"))?.len() == 1);
    node.agent_mut().kill()?;
    let mut node = Node::start(&a, PREFERRED)?;
    assert!(names(&place.0.path().join("carp"))?.is_empty());
    node.agent_mut().kill()?;
    Node::start(&a, &format!("{PREFERRED} --bpffs=/nowhere"))?;
    assert!(!before.exists());
    Ok(())
}

/// Another bpffs than the machine's.
struct Bpffs(Folder);

impl Bpffs {
    fn mount() -> Result<Self> {
        let folder = Folder::new("bpffs")?;
        output_of(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.path()))?;
        Ok(Self(folder))
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().ok();
    }
}

#[test]
fn what_is_pinned_for_interfaces_that_are_gone_goes_with_a_start_elsewhere_unless_an_agent_is_there() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    // Where no other test's carpd looks.
    let place = Bpffs::mount()?;
    let options = |of: &str| format!("{of} --bpffs={}", place.0.path().display());
    let start_elsewhere = || Node::start(&b, &options(OTHER));
    let pinned = || anyhow::Ok(names(&place.0.path().join("carp"))?.len());
    let mut node = Node::start(&a, &options(PREFERRED))?;
    drop(start_elsewhere()?);
    assert_eq!(pinned()?, 2, "an agent has it");
    node.agent_mut().kill()?;
    drop(start_elsewhere()?);
    assert_eq!(pinned()?, 2, "it is attached");
    a.ns().ip("link del eth0")?;
    let elsewhere = start_elsewhere()?;
    elsewhere.wait_for_line("removed, for nothing is attached there any more")?;
    eventually("one is left", LONG, || Ok(pinned()? == 1))
}

#[test]
fn a_folder_for_pins_that_others_may_enter_is_not_used() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut node = Node::start(&a, PREFERRED)?;
    let pinned = folder(&a)?;
    node.agent_mut().stop_and_wait(LONG)?;
    fs::create_dir(&pinned)?;
    // Or another agent may find it abandoned.
    fs::create_dir(pinned.join("xdp-1"))?;
    for mode in [0o777, 0o750] {
        fs::set_permissions(&pinned, Permissions::from_mode(mode))?;
        let node = Node::start(&a, PREFERRED)?;
        let why = format!("is not carpd's alone (user 0, mode {mode:o})");
        assert_eq!(node.lines_with(&why).len(), 1, "{:?}", node.agent().lines());
        assert_eq!(names(&pinned)?.len(), 1);
    }
    Ok(())
}

#[test]
fn of_two_carpd_one_has_the_pins_and_both_serve() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let first = Node::start(&a, PREFERRED)?;
    let maps = ids(&folder(&a)?)?;
    let other = ["--interface=eth0", "--vhid=2", "--pass=x", "--addr=10.77.0.102", "--advbase=0", "--advskew=60", "-D"];
    let mut second = a.carpd(&other)?;
    second.wait_for_line(&format!("the pins are those of process {}", first.agent().pid()), LONG)?;
    second.wait_for_line("BACKUP -> MASTER", LONG)?;
    first.wait_for("BACKUP -> MASTER")?;
    Wire::at(&client)?.wait_for_adverts(a.ip(), 4)?;
    second.stop_and_wait(LONG)?;
    assert_eq!(ids(&folder(&a)?)?, maps, "they are none of its business");
    Ok(())
}

#[test]
fn a_clean_stop_leaves_nothing() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    let folder = folder(&a)?;
    let program = a.xdp_program()?.context("no program")?;
    let maps = ids(&folder)?;
    ensure!(names(&folder)?.iter().any(|name| name.starts_with("xdp-")) && is_there("prog", &program)?);
    assert!(node.agent_mut().stop_and_wait(LONG)?.success());
    assert!(!folder.exists());
    eventually("the program is gone", LONG, || Ok(!is_there("prog", &program)?))?;
    for map in maps {
        eventually("the map is gone", LONG, || Ok(!is_there("map", &map.to_string())?))?;
    }
    Ok(())
}

#[test]
fn without_a_bpffs_it_works_and_says_what_is_missing() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut node = Node::start(&a, &format!("{PREFERRED} --bpffs=/nowhere"))?;
    assert_eq!(node.lines_with("does not outlive a carpd that is killed: cannot mount a bpffs on /nowhere").len(), 1);
    node.wait_for("BACKUP -> MASTER")?;
    assert_eq!(a.ns().pins(), None);
    node.agent_mut().kill()?;
    eventually("the program goes with it", LONG, || Ok(a.xdp_program()?.is_none()))
}

#[test]
fn what_is_detached_or_removed_by_hand_is_put_back_before_it_is_missed() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [_master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let folder = folder(&b)?;
    let (pinned, maps) = (names(&folder)?, ids(&folder)?);
    detach(&b)?;
    let detached = BootTime::now();
    let told = backup.wait_for_line("something else detached the XDP program from eth0")?;
    // An advert interval, and some for a machine that does other things, too.
    assert!(told.at.since(detached) < Duration::from_millis(600));
    eventually("it is back", LONG, || Ok(b.xdp_program()?.is_some()))?;
    eventually("it is pinned", LONG, || Ok(names(&folder)? == pinned))?;

    let egress = pinned.iter().find(|name| name.starts_with("tc-")).context("no egress program")?;
    output_of(Command::new(tool("bpftool")?).args(["link", "detach", "pinned"]).arg(folder.join(egress)))?;
    backup.wait_for_line("something else detached the egress program")?;
    eventually("it is pinned again", LONG, || Ok(names(&folder)? == pinned))?;

    // At once, or carpd puts something back meanwhile.
    let aside = folder.with_file_name(format!("removed-{}", a.name()));
    fs::rename(&folder, &aside)?;
    let removed = BootTime::now();
    fs::remove_dir_all(&aside)?;
    eventually("everything is pinned again", LONG, || Ok(folder.exists() && names(&folder)? == pinned))?;
    assert!(BootTime::now().since(removed).as_secs() < 3);
    assert_eq!(ids(&folder)?, maps);
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    Ok(())
}

/// The kernel has heard nothing for it, and it could not know.
#[test]
fn a_backup_that_stood_still_without_its_program_hears_before_it_takes_over() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [_master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&client)?;
    for _ in 0..3 {
        backup.agent().signal(Signal::SIGSTOP)?;
        detach(&b)?;
        // Longer than its dead time.
        wire.wait_for_adverts(a.ip(), 6)?;
        backup.agent().signal(Signal::SIGCONT)?;
        eventually("it is back", LONG, || Ok(b.xdp_program()?.is_some()))?;
        wire.wait_for_adverts(a.ip(), 6)?;
    }
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    a.kill_host()?;
    backup.wait_for("BACKUP -> MASTER").map(drop)
}

/// Its lease would be over for ever.
#[test]
fn a_carpd_on_a_socket_removes_what_one_with_xdp_left_when_it_was_killed() -> Result<()> {
    if !has_xdp() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let mut node = Node::start(&a, &format!("{PREFERRED} --peer-advskew=60"))?;
    node.wait_for("BACKUP -> MASTER")?;
    node.agent_mut().kill()?;
    let node = Node::spawn(&a, &format!("{PREFERRED} --datapath=socket"))?;
    node.wait_for_line("removed what a carpd that is gone had left attached")?;
    node.wait_for("BACKUP -> MASTER")?;
    assert!(a.xdp_program()?.is_none() && a.ns().pins().is_none());
    let probe = Probe::start(&client, VIP, Duration::from_millis(5))?;
    probe.wait_for_answer_from(a.mac(), LONG).map(drop)
}

#[test]
fn addresses_that_a_killed_carpd_added_go_with_the_next_start_and_no_others() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    eventually("the VIP is there", LONG, || a.has_address(VIP))?;
    let by_hand = [10, 77, 0, 200];
    a.add_address("10.77.0.200/24")?;
    let served = a.carpd(&["-i", "eth0", "-v", "2", "-p", "x", "-a", "10.77.0.102", "--advbase=0", "--advskew=9"])?;
    served.wait_for_line("BACKUP -> MASTER", LONG)?;
    eventually("so is the other", LONG, || a.has_address([10, 77, 0, 102]))?;
    node.agent_mut().kill()?;

    let other = ["10.77.0.103"];
    let node = Node::start_for(&other, &a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    assert_eq!(node.lines_with("10.77.0.100/32 was left by a carpd that is gone: removed").len(), 1);
    assert!(a.has_address(by_hand)? && !a.has_address(VIP)?);
    assert!(a.has_address([10, 77, 0, 102])?, "it is served");
    Ok(())
}
