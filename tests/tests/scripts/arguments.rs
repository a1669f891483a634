//! `SCRIPT INTERFACE VIP [XPARAM]`, without a shell; and when the down script runs.

use std::fs;

use anyhow::{Context, Result};
use carp_tests::{LONG, Lab};

use crate::{Scripts, carpd};

/// Notes every argument on a line of its own, and what stdin is.
const TELL: &str = r#"printf '%s\n' "$#" "$@" >> "$here/arguments"; readlink /proc/self/fd/0 >> "$here/arguments""#;

#[test]
fn scripts_are_run_without_a_shell_and_xparam_stays_one_argument() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::in_folder("a folder; $(touch pwned) & `touch pwned` 'x' * |")?;
    let [up, down] = scripts.write_both(TELL, "")?;
    let xparam = "two words; $(touch pwned) \"'*\\ é";
    let agent = carpd(&host, &[&up, &down, "--xparam", xparam])?;
    agent.wait_for_line("BACKUP -> MASTER", LONG)?;
    let vip = "10.77.0.100";
    scripts.wait_for_events(&[&format!("down eth0 {vip} {xparam}"), &format!("up eth0 {vip} {xparam}")])?;
    agent.wait_for_line("exit status: 0", LONG)?;
    let told = fs::read_to_string(scripts.path("arguments")).context("reading arguments")?;
    let told: Vec<_> = told.lines().collect();
    assert_eq!(told, ["3", "eth0", vip, xparam, "/dev/null"]);
    Ok(())
}

#[test]
fn an_empty_xparam_is_an_argument_and_none_is_none() -> Result<()> {
    let lab = Lab::new()?;
    for (host, option, arguments) in [("a", "--neutral", "2"), ("b", "--xparam=", "3")] {
        let host = lab.host(host)?;
        let scripts = Scripts::new()?;
        let agent = carpd(&host, &[&scripts.write("up", TELL)?, option])?;
        agent.wait_for_line("exit status: 0", LONG)?;
        let told = fs::read_to_string(scripts.path("arguments")).context("reading arguments")?;
        assert_eq!(told.lines().next(), Some(arguments), "{told}");
    }
    Ok(())
}

#[test]
fn the_down_script_runs_at_the_start_unless_neutral() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    for (option, at_start) in [("--neutral", &[][..]), ("-n", &[]), ("--preempt", &["down eth0 10.77.0.100"])] {
        let scripts = Scripts::new()?;
        let [up, down] = scripts.write_both("", "")?;
        let mut agent = carpd(&host, &[&up, &down, option])?;
        agent.wait_for_line("BACKUP -> MASTER", LONG)?;
        scripts.wait_for_events(&[at_start, &["up eth0 10.77.0.100"]].concat())?;
        assert!(agent.stop_and_wait(LONG)?.success());
    }
    Ok(())
}

#[test]
fn a_script_is_run_for_each_vip_in_turn() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let [up, down] = scripts.write_both("", "")?;
    let mut agent = carpd(&host, &[&up, &down, "--neutral", "--addr=10.77.0.101/24", "-x", "table"])?;
    let ups = ["up eth0 10.77.0.100 table", "up eth0 10.77.0.101 table"];
    scripts.wait_for_events(&ups)?;
    assert!(agent.stop_and_wait(LONG)?.success());
    let downs = ["down eth0 10.77.0.100 table", "down eth0 10.77.0.101 table"];
    assert_eq!(scripts.events()?, [ups, downs].concat());
    Ok(())
}

#[test]
fn scripts_inherit_none_of_the_agents_files() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let agent = carpd(&host, &[scripts.write("up", "readlink /proc/$$/fd/* > \"$here/files\"")?])?;
    agent.wait_for_line("exit status", LONG)?;
    let files = fs::read_to_string(scripts.path("files")).context("reading what files were open")?;
    let own = scripts.0.path().display().to_string();
    let foreign: Vec<_> = files
        .lines()
        .filter(|file| *file != "/dev/null" && !file.starts_with("pipe:") && !file.starts_with(&own))
        .collect();
    assert_eq!(foreign, <[&str; 0]>::default());
    Ok(())
}
