//! Where nothing can be written any more, the address is served all the same, and each thing that is not done is told.

use std::fs::{self, File};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use carp_tests::configured::{add_options, carpctl, folder, virtual_host, write};
use carp_tests::{Agent, Folder, Host, LONG, Lab, VIP, carpd_path, eventually};

/// Puts a full disk at `$1`, and runs the rest.
const ON_A_FULL_DISK: &str = "mkdir -p \"$1\" && mount -t tmpfs -o nr_inodes=1 none \"$1\" && shift && exec \"$@\"";

/// A carpd with the folder's configuration, which sees a full disk at a path.
fn without_room_in(full: &str, host: &Host, folder: &Folder, socket: &str) -> Result<Agent> {
    let mut carpd = host.command("unshare");
    carpd.args(["--mount", "sh", "-c", ON_A_FULL_DISK, "sh", full]).arg(carpd_path()?);
    add_options(&mut carpd, folder, &folder.path().join(socket));
    carpd.env("STATE_DIRECTORY", folder.path().join("full"));
    Agent::spawn(host.name(), carpd)
}

fn error_of(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_log_that_cannot_be_written_costs_no_address() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = folder()?;
    write(&folder, &[virtual_host(1, VIP, "")])?;
    let mut carpd = host.command("sh");
    carpd.args(["-c", "exec \"$@\" 2> /dev/full", "sh"]).arg(carpd_path()?);
    add_options(&mut carpd, &folder, &folder.path().join("socket"));
    let mut agent = Agent::spawn("carpd", carpd)?;
    eventually("it is master", LONG, || host.has_address(VIP))?;
    assert!(agent.stop_and_wait(LONG)?.success());
    assert!(!host.has_address(VIP)?);
    Ok(())
}

#[test]
fn a_mistake_that_cannot_be_told_has_its_exit_code_all_the_same() -> Result<()> {
    for (program, code) in [("carpd", 2), ("carpctl", 3)] {
        let mut command = Command::new(carpd_path()?.with_file_name(program));
        match program {
            "carpd" => command.args(["--config", "/nonexistent/carpd.toml"]),
            _ => command.args(["--socket", "/nonexistent/socket", "status"]),
        };
        let full = File::options().write(true).open("/dev/full").context("opening /dev/full")?;
        assert_eq!(command.stderr(full).status().context("running it")?.code(), Some(code), "{program}");
    }
    Ok(())
}

#[test]
fn a_maintenance_that_cannot_be_kept_is_not_begun_and_an_answer_that_cannot_be_written_is_no_success() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = folder()?;
    write(&folder, &[virtual_host(1, VIP, "")])?;
    let full = folder.path().join("full");
    let agent = without_room_in(full.to_str().context("a strange path")?, &host, &folder, "socket")?;
    agent.wait_for_line("BACKUP -> MASTER", LONG)?;
    let why = error_of(&carpctl(&folder, &["maintenance", "on"])?);
    for part in ["cannot keep it in", "full/maintenance: No space left on device", "nothing has changed"] {
        assert!(why.contains(part), "{part:?} is not in: {why}");
    }
    let status = carpctl(&folder, &["status"])?;
    let told = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && told.contains("MASTER") && !told.contains("maintenance"), "{told}");
    let mut carpctl = Command::new(carpd_path()?.with_file_name("carpctl"));
    carpctl.arg("--socket").arg(folder.path().join("socket")).arg("status");
    carpctl.stdout(File::options().write(true).open("/dev/full").context("opening /dev/full")?);
    assert!(error_of(&carpctl.output().context("running carpctl")?).contains("No space left on device"));
    Ok(())
}

#[test]
fn no_room_for_the_socket_costs_carpctl_and_no_room_for_the_lock_is_refused_with_one_line() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = folder()?;
    write(&folder, &[virtual_host(1, VIP, "")])?;
    fs::create_dir_all("/run/carp").context("making the folder of the locks")?;
    let mut refused = without_room_in("/run/carp", &host, &folder, "socket")?;
    assert_eq!(refused.wait(LONG)?.code(), Some(1));
    let lines = refused.lines();
    let [line] = &lines[..] else { anyhow::bail!("not one line: {lines:#?}") };
    assert!(line.text.contains("cannot open /run/carp/eth0-1-"), "{}", line.text);
    assert!(line.text.contains("No space left on device"), "{}", line.text);
    assert!(!host.has_address(VIP)?);

    let full = folder.path().join("full");
    let agent = without_room_in(full.to_str().context("a strange path")?, &host, &folder, "full/socket")?;
    let line = agent.wait_for_line("carpctl cannot reach this carpd: ", LONG)?;
    assert!(line.text.contains("full/socket: No space left on device"), "{}", line.text);
    eventually("it is master", LONG, || host.has_address(VIP))?;
    Ok(())
}
