//! The time limit: whoever runs into it is killed, with everything that it started.

use anyhow::Result;
use carp_tests::{LONG, Lab, eventually};

use crate::{Scripts, carpd, runs};

/// Starts a process, notes its number, and waits for it for ever.
fn hang_with(child: &str) -> String {
    format!("{child} & echo $! > \"$here/child.new\"; mv \"$here/child.new\" \"$here/child\"; wait; sleep 600")
}

#[test]
fn the_children_of_a_script_are_killed_with_it() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let agent = carpd(&host, &[&scripts.write("up", &hang_with("sleep 600"))?, "--script-timeout=1"])?;
    let child = scripts.number_in("child")?;
    assert!(runs(child));
    agent.wait_for_line("was killed", LONG)?;
    eventually("the child is gone", LONG, || Ok(!runs(child)))
}

#[test]
fn a_script_that_ignores_sigterm_is_killed_all_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let deaf = format!("trap '' TERM\n{}", hang_with("sleep 600"));
    let agent = carpd(&host, &[&scripts.write("up", &deaf)?, "--script-timeout=1"])?;
    let child = scripts.number_in("child")?;
    agent.wait_for_line("was killed", LONG)?;
    eventually("the child is gone", LONG, || Ok(!runs(child)))
}

#[test]
fn a_child_that_ignores_sigterm_does_not_survive_its_script() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let deaf = hang_with("sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'");
    let agent = carpd(&host, &[&scripts.write("up", &deaf)?, "--script-timeout=1"])?;
    let child = scripts.number_in("child")?;
    agent.wait_for_line("was killed", LONG)?;
    eventually("the child is gone", LONG, || Ok(!runs(child)))
}

#[test]
fn what_a_script_leaves_running_when_it_ends_in_time_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let daemon = "sleep 600 >/dev/null 2>&1 & echo $! > \"$here/child\"";
    let mut agent = carpd(&host, &[&scripts.write("up", daemon)?, "--script-timeout=1"])?;
    agent.wait_for_line("exit status: 0", LONG)?;
    let child = scripts.number_in("child")?;
    assert!(agent.stop_and_wait(LONG)?.success());
    assert!(runs(child));
    Ok(())
}
