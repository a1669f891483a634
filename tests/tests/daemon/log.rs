//! The log on stderr: how much, and in which form.

use anyhow::{Context, Result};
use carp_tests::{Agent, Host, LONG, Lab, VIP, carpd_path, eventually};

use crate::VHOST;

/// Claims that stderr leads to the journal, as systemd does.
const JOURNAL: &str = "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)";
/// Claims it of something else.
const NO_JOURNAL: &str = "export JOURNAL_STREAM=8:1234567";

#[test]
fn on_a_terminal_a_line_has_its_time_and_level() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    for environment in ["true", NO_JOURNAL] {
        let mut agent = carpd(&host, environment, &[])?;
        let line = agent.wait_for_line("INIT -> BACKUP", LONG)?.text;
        let (time, rest) = line.split_at(24);
        assert!(time.ends_with('Z') && time.contains('T'), "{line}");
        assert_eq!(rest, " INFO  eth0 vhid 1: INIT -> BACKUP, interface ready");
        assert!(agent.stop_and_wait(LONG)?.success());
    }
    Ok(())
}

#[test]
fn for_the_journal_a_line_has_its_priority_and_no_time() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let mut agent = carpd(&host, JOURNAL, &[])?;
    let line = agent.wait_for_line("INIT -> BACKUP", LONG)?;
    assert_eq!(line.text, "<6>eth0 vhid 1: INIT -> BACKUP, interface ready");
    let mut second = carpd(&host, JOURNAL, &[])?;
    assert_ne!(second.wait(LONG)?.code(), Some(0));
    let told: Vec<_> = second.lines().into_iter().map(|line| line.text).collect();
    assert!(matches!(&told[..], [line] if line.starts_with("<3>") && line.contains("another carpd")), "{told:?}");
    assert!(agent.stop_and_wait(LONG)?.success());
    Ok(())
}

#[test]
fn the_journal_keeps_its_stream_in_the_background() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let mut parent = carpd(&host, JOURNAL, &["-B"])?;
    assert_eq!(parent.wait(LONG)?.code(), Some(0));
    let line = parent.wait_for_line("BACKUP -> MASTER", LONG)?.text;
    assert!(line.starts_with("<6>eth0 vhid 1: "), "{line}");
    Ok(())
}

#[test]
fn rust_log_and_debug_say_how_much_is_logged() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    for (environment, options, wanted, unwanted) in [
        ("true", &[][..], "INFO ", "DEBUG"),
        ("true", &["-D"], "DEBUG", "TRACE"),
        ("export RUST_LOG=trace", &[], "TRACE", "no such line"),
        ("export RUST_LOG=carp=debug", &[], "DEBUG", "TRACE"),
        ("export RUST_LOG=info", &["--debug"], "INFO ", "DEBUG"),
    ] {
        let lines = log_of_a_run(&host, environment, options, Some(wanted))?;
        let has = |text| lines.iter().any(|line| line.contains(text));
        assert!(!has(unwanted), "{environment} {options:?}: {lines:#?}");
    }
    for level in ["off", "error", "warn"] {
        assert_eq!(
            log_of_a_run(&host, &format!("export RUST_LOG={level}"), &["--debug"], None)?,
            <[&str; 0]>::default(),
            "{level}"
        );
    }
    Ok(())
}

/// What is logged from the start to the end of a mastership in which an address was added, and `wanted` came.
fn log_of_a_run(host: &Host, environment: &str, options: &[&str], wanted: Option<&str>) -> Result<Vec<String>> {
    let mut agent = carpd(host, environment, options)?;
    eventually("the VIP is there", LONG, || host.has_address(VIP))?;
    host.add_address("192.0.2.1/32")?;
    host.remove_address("192.0.2.1/32")?;
    if let Some(wanted) = wanted {
        agent.wait_for_line(wanted, LONG).with_context(|| format!("{environment} {options:?}"))?;
    }
    assert!(agent.stop_and_wait(LONG)?.success());
    Ok(agent.lines().into_iter().map(|line| line.text).collect())
}

fn carpd(host: &Host, environment: &str, options: &[&str]) -> Result<Agent> {
    let mut command = host.command("sh");
    command.args(["-c", &format!("{environment}; exec \"$@\""), "sh"]).arg(carpd_path()?).args(VHOST).args(options);
    command.env_remove("RUST_LOG").env_remove("JOURNAL_STREAM");
    Agent::spawn("carpd", command)
}
