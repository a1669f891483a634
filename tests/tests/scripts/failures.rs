//! Scripts that fail: told in the log, and the virtual host goes on.

use std::fs;

use anyhow::{Context, Result};
use carp_tests::{BootTime, LONG, Lab, VIP, Wire};

use crate::{Scripts, carpd};

#[test]
fn how_a_script_ended_is_in_the_log() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let mut agent = carpd(&host, &scripts.write_both("exit 3", "kill -9 $$")?)?;
    let path = |name| scripts.path(name).display().to_string();
    for (script, end) in [("down", "signal: 9"), ("up", "exit status: 3")] {
        let line = agent.wait_for_line(end, LONG)?;
        for part in [&path(script), "WARN", "eth0 vhid 1: ", "10.77.0.100", "failed"] {
            assert!(line.text.contains(part), "{part} is not in: {}", line.text);
        }
    }
    assert!(agent.stop_and_wait(LONG)?.success());

    let agent = carpd(&host, &scripts.write_both("", "")?)?;
    for script in ["down", "up"] {
        let line = agent.wait_for_line("exit status: 0", LONG)?.text;
        assert!(line.contains(&path(script)) && line.contains("INFO"), "{line}");
    }
    Ok(())
}

#[test]
fn what_a_script_prints_comes_out_where_the_log_does() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let agent = carpd(&host, &scripts.write_both("echo said; echo complained >&2", "")?)?;
    agent.wait_for_line("said", LONG)?;
    agent.wait_for_line("complained", LONG)?;
    Ok(())
}

#[test]
fn a_script_that_cannot_be_run_is_told_and_stops_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let scripts = Scripts::new()?;
    let mut agent = carpd(&a, &scripts.write_both("", "")?)?;
    agent.wait_for_line("INIT -> BACKUP", LONG)?;
    agent.wait_for_line("exit status: 0", LONG)?;
    let wire = Wire::at(&bystander)?;
    for script in ["up", "down"] {
        fs::remove_file(scripts.path(script)).context("deleting a script")?;
    }
    let line = agent.wait_for_line("cannot run", LONG)?.text;
    assert!(line.contains(&scripts.path("up").display().to_string()) && line.contains("No such file"), "{line}");
    wire.wait_for_adverts(a.ip(), 3)?;
    assert!(agent.stop_and_wait(LONG)?.success());
    let line = agent.wait_for_line("cannot run", LONG)?.text;
    assert!(line.contains(&scripts.path("down").display().to_string()), "{line}");
    Ok(())
}

#[test]
fn a_file_that_is_no_program_is_told_and_stops_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let scripts = Scripts::new()?;
    let option = scripts.write("up", "")?;
    fs::write(scripts.path("up"), "#!/nonexistent/interpreter\n").context("spoiling a script")?;
    let wire = Wire::at(&bystander)?;
    let agent = carpd(&a, &[option])?;
    let started = BootTime::now();
    agent.wait_for_line("cannot run", LONG)?;
    wire.wait_for_announcement(&a, VIP, started)?;
    Ok(())
}
