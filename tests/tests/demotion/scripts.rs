//! Tracked scripts.

use std::fs;

use anyhow::{Context, Result};
use carp_tests::configured::{folder, virtual_host};
use carp_tests::{BootTime, LONG, Lab, Wire, eventually};

use crate::{FIRST, Server, TO_BACKUP, TO_MASTER, YIELDS, first, pair, runs, script, set_ok, write_script};

const TRACKED: &str = "preempt = true\ntrack_scripts = [\"check\"]";

#[test]
fn a_script_demotes_after_as_many_failures_as_fall_and_no_longer_after_as_many_successes_as_rise() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let of_a = folder()?;
    write_script(&of_a, "test \"$1\" = 'an argument' || exit 9")?;
    set_ok(&of_a, true)?;
    let tables = [first(TRACKED), script("fall = 3\nrise = 2\ndemote = 50")];
    let [on_a, on_b] = pair(&a, &b, (of_a, &tables), "")?;
    eventually("a run", LONG, || Ok(!runs(&on_a.folder).is_empty()))?;

    set_ok(&on_a.folder, false)?;
    on_a.agent.wait_for_line("script check failed: exit status: 7 (3 in a row)", LONG)?;
    let noted = runs(&on_a.folder);
    assert!(noted.ends_with(&["no".to_owned(), "no".to_owned(), "no".to_owned()]), "{noted:?}");
    on_a.agent.wait_for_line("demoted by 50: script check: script check failed: exit status: 7 (50)", LONG)?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    assert_eq!(on_b.cause(TO_MASTER)?, "10.77.0.1 is demoted by 50");
    assert_eq!(on_a.demoting()?, ["script check 50: script check failed: exit status: 7"]);

    set_ok(&on_a.folder, true)?;
    on_a.agent.wait_for_line("script check is well again (2 in a row)", LONG)?;
    let noted = runs(&on_a.folder);
    assert!(noted.ends_with(&["no".to_owned(), "ok".to_owned(), "ok".to_owned()]), "{noted:?}");
    on_a.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS, TO_MASTER])?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS])
}

#[test]
fn a_script_that_hangs_has_failed_is_killed_with_what_it_started_and_holds_up_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let of_a = folder()?;
    // Says so if an earlier one still runs.
    let hang = "for pid in $(cat pids); do readlink /proc/$pid/exe && echo twice >> twice; done\n\
                sleep 1000 & echo $! $$ >> pids\nwait";
    write_script(&of_a, hang)?;
    fs::write(of_a.path().join("pids"), "")?;
    let wire = Wire::at(&bystander)?;
    let server = Server::start_in(of_a, &a, &[first(TRACKED), script("fall = 2")])?;
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    let from = wire.wait_for_adverts(a.ip(), 1)?.0;
    let line = "script check was killed: it ran longer than 1 s (timeout) (2 in a row)";
    server.agent.wait_for_line(line, LONG)?;
    server.wait_until_demoted_by(&["script check 240: script check was killed: it ran longer than 1 s (timeout)"])?;
    let silence = wire.longest_silence(a.ip(), 1, from, BootTime::now());
    assert!(silence.as_millis() < 700, "less than the dead time: {silence:?}");
    let started = |count: usize| Ok(fs::read_to_string(server.folder.path().join("pids"))?.lines().count() >= count);
    eventually("another run", LONG, || started(3))?;
    assert!(!server.folder.path().join("twice").exists());
    // The first two are gone; the third may run yet.
    let pids = fs::read_to_string(server.folder.path().join("pids"))?;
    for pid in pids.lines().take(2).flat_map(str::split_whitespace) {
        assert!(fs::read_link(format!("/proc/{pid}/exe")).is_err(), "{pid} of {pids}");
    }
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])
}

#[test]
fn a_script_runs_once_an_interval_for_all_virtual_hosts_that_name_it_and_no_more_when_none_does() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let of_a = folder()?;
    write_script(&of_a, "")?;
    set_ok(&of_a, true)?;
    let others = |lines: &str| (2..=20).map(|vhid| virtual_host(vhid, [10, 77, 0, 100 + vhid].into(), lines)).collect();
    let others: Vec<String> = others(TRACKED);
    let mut tables = vec![first(TRACKED), script("")];
    tables.extend(others);
    let began = BootTime::now();
    let server = Server::start_in(of_a, &host, &tables)?;
    eventually("three runs", LONG, || Ok(runs(&server.folder).len() >= 3))?;
    let (count, seconds) = (runs(&server.folder).len() as u64, BootTime::now().since(began).as_secs());
    assert!(count <= seconds + 2, "{count} runs in {seconds} s");

    set_ok(&server.folder, false)?;
    server.wait_until_demoted_by(&["script check 240: script check failed: exit status: 7"])?;
    server.reload(&[first(TRACKED), script("demote = 3")])?;
    assert_eq!(server.demoting()?, ["script check 3: script check failed: exit status: 7"], "with what is known of it");
    server.reload(&[first(TRACKED), script("interval = 3600\nfall = 200")])?;
    assert_eq!(server.demoting()?.len(), 1, "what is run in another way goes on with it, too");

    server.reload(&[first(TRACKED), script("")])?;
    let before = runs(&server.folder).len();
    eventually("two runs again", LONG, || Ok(runs(&server.folder).len() >= before + 2))?;
    server.reload(&[first(""), script("")])?;
    server.wait_until_demoted_by(&[])?;
    let stopped = runs(&server.folder).len();
    // Longer than two intervals.
    Wire::at(&host)?.wait_for_adverts(host.ip(), 10).context("adverts")?;
    assert_eq!(runs(&server.folder).len(), stopped);
    Ok(())
}
