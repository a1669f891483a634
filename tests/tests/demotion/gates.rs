//! `startup_delay`, `ready_script` and `preempt_delay`.

use std::time::Duration;

use anyhow::{Context, Result};
use carp_tests::configured::folder;
use carp_tests::{Agent, BootTime, LONG, Lab, Wire, eventually};

use crate::{FIRST, SLOWER, Server, TO_BACKUP, TO_MASTER, YIELDS, first, runs, script, set_ok, write_script};

const TWO_SECONDS: Duration = Duration::from_secs(2);

fn when(agent: &Agent, text: &str) -> Result<BootTime> {
    let lines = agent.lines();
    Ok(lines.iter().find(|line| line.text.contains(text)).with_context(|| format!("no {text}"))?.at)
}

#[test]
fn a_host_stays_in_init_until_the_startup_delay_is_over_and_later_has_none() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let started = BootTime::now();
    let server = Server::start(&a, &[first("startup_delay = 2")])?;
    server.agent.wait_for_line("eth0 vhid 1: INIT: startup_delay is not over; waiting for it", LONG)?;
    assert_eq!(server.field("/troubles/0")?, "startup_delay is not over");
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    let waited = when(&server.agent, TO_BACKUP)?.since(started);
    assert!(waited >= TWO_SECONDS, "{waited:?}");
    a.set_carrier(false)?;
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, "MASTER -> INIT"])?;
    a.set_carrier(true)?;
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, "MASTER -> INIT", TO_BACKUP, TO_MASTER])?;

    // What has worked goes on, whatever the file says now.
    server.reload(&[first("startup_delay = 3600\npreempt_delay = 9")])?;
    wire.wait_for_adverts(a.ip(), 4)?;
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, "MASTER -> INIT", TO_BACKUP, TO_MASTER])
}

#[test]
fn a_host_stays_in_init_until_its_ready_script_succeeds_which_is_then_run_no_more() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let of_a = folder()?;
    write_script(&of_a, "")?;
    let tables = [first("ready_script = \"check\""), script("rise = 200")];
    let server = Server::start_in(of_a, &a, &tables)?;
    server.agent.wait_for_line("eth0 vhid 1: INIT: ready_script has not succeeded yet; waiting for it", LONG)?;
    eventually("two failures", LONG, || Ok(runs(&server.folder).len() >= 2))?;
    assert_eq!(server.field("/state")?, "INIT");
    assert_eq!(server.field("/demotion/total")?, 0);
    // A reload leaves it waiting, as it was.
    server.reload(&[first("ready_script = \"check\"\npreempt = true"), script("rise = 200")])?;
    assert_eq!(server.field("/troubles/0")?, "ready_script has not succeeded yet");

    set_ok(&server.folder, true)?;
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    set_ok(&server.folder, false)?;
    // Longer than an interval.
    wire.wait_for_adverts(a.ip(), 8)?;
    let noted = runs(&server.folder);
    assert_eq!(noted.iter().filter(|noted| *noted == "ok").count(), 1, "{noted:?}");
    assert_eq!(noted.last().map(String::as_str), Some("ok"), "{noted:?}");
    server.reload(&tables)?;
    wire.wait_for_adverts(a.ip(), 2)?;
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])
}

#[test]
fn a_host_whose_reload_takes_the_gate_away_begins_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let server = Server::start(&a, &[first("startup_delay = 3600")])?;
    server.agent.wait_for_line("startup_delay is not over", LONG)?;
    server.reload(&[first("")])?;
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])
}

#[test]
fn a_worse_master_is_borne_with_for_the_preempt_delay_and_a_dead_one_is_not() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let mut on_b = Server::start(&b, &[first(SLOWER)])?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    let on_a = Server::start(&a, &[first("preempt = true\npreempt_delay = 2")])?;
    on_a.wait_for_changes(FIRST, &[TO_BACKUP])?;
    let hint = on_a.field("/hints/0")?;
    assert!(hint.as_str().is_some_and(|hint| hint.starts_with("preempts nobody for another ")), "{hint}");
    on_a.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    let waited = when(&on_a.agent, TO_MASTER)?.since(when(&on_a.agent, TO_BACKUP)?);
    assert!(waited >= TWO_SECONDS, "{waited:?}");
    assert!(on_a.cause(TO_MASTER)?.starts_with("preempting 10.77.0.2"));
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS])?;

    // Again a backup of b, which dies before the hour is over.
    drop(on_a);
    a.remove_address("10.77.0.100/32")?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS, TO_MASTER])?;
    let on_a = Server::start(&a, &[first("preempt = true\npreempt_delay = 3600")])?;
    on_a.wait_for_changes(FIRST, &[TO_BACKUP])?;
    Wire::at(&a)?.wait_for_adverts(b.ip(), 4)?;
    on_a.wait_for_changes(FIRST, &[TO_BACKUP])?;
    on_b.agent.kill()?;
    on_a.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])
}
