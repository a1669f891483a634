//! The time limit: whoever runs into it is killed, with everything that it started.

use anyhow::Result;
use carp_tests::{LONG, Lab, eventually};

use crate::{Scripts, carpd, runs};

/// Starts a process, notes its number, and waits for it for ever.
pub(crate) fn hang_with(child: &str) -> String {
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

#[test]
fn a_script_that_hangs_for_one_vip_costs_the_next_one_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    // As long for the second VIP as it takes to be killed on the spot.
    let up = "if [ \"$2\" = 10.77.0.100 ]; then sleep 600; else sleep 0.2; echo $$ > \"$here/second\"; fi";
    let agent = carpd(&host, &[&scripts.write("up", up)?, "--script-timeout=1", "--addr=10.77.0.101"])?;
    agent.wait_for_line("10.77.0.100 was killed", LONG)?;
    agent.wait_for_line("10.77.0.101: exit status: 0", LONG)?;
    scripts.number_in("second").map(drop)
}
