//! `--daemonize`: what the parent says, and what the child is.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use carp_tests::{Agent, Folder, LONG, Lab, VIP, carpd_path, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{VHOST, daemon_of, is_clean, runs};

#[test]
fn the_parent_ends_when_the_agent_is_up_and_leaves_a_daemon() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let mut parent = host.carpd(&[&VHOST[..], &["-B"]].concat())?;
    assert_eq!(parent.wait(LONG)?.code(), Some(0));
    assert!(host.xdp_program()?.is_some(), "the parent did not wait");
    assert_eq!(parent.lines(), []);

    let pid = daemon_of(&host)?;
    assert_ne!(pid, parent.pid());
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).context("reading a link of /proc");
    assert_eq!(link("cwd")?.to_str(), Some("/"));
    for descriptor in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(descriptor)?.to_str(), Some("/dev/null"), "{descriptor}");
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading a status")?;
    let (_, fields) = stat.rsplit_once(") ").context("no name in a status")?;
    let fields: Vec<_> = fields.split(' ').collect();
    let [group, session, terminal] = [fields[2], fields[3], fields[4]];
    assert_eq!([group, session, terminal], [&pid.to_string(), &pid.to_string(), "0"], "{stat}");
    let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).context("reading a process title")?;
    assert!(!title.contains("secret"), "{title}");

    eventually("the VIP is there", LONG, || host.has_address(VIP))?;
    kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM).context("ending the daemon")?;
    eventually("the daemon is gone", LONG, || Ok(!runs(pid)))?;
    assert!(is_clean(&host)?);
    Ok(())
}

#[test]
fn the_parent_ends_with_the_agents_exit_code_and_says_why() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let first = host.carpd(&VHOST)?;
    first.wait_for_line("INIT -> BACKUP", LONG)?;
    for (vhid, why) in
        [("--vhid=1", "served by another carpd"), ("--vhid=2", "XDP program already"), ("--vhid=0", "1..=255")]
    {
        let words = [&VHOST[..], &[vhid, "--datapath=native"]].concat();
        let expected = host.carpd(&words)?.wait(LONG)?.code();
        let mut background = host.carpd(&[&words[..], &["--daemonize"]].concat())?;
        assert_eq!(background.wait(LONG)?.code(), expected, "{vhid}");
        assert!(expected.is_some_and(|code| code != 0), "{vhid}: {expected:?}");
        let told: Vec<_> = background.lines().into_iter().map(|line| line.text).collect();
        assert!(matches!(&told[..], [line] if line.contains(why)), "{vhid}: {told:?}");
    }
    Ok(())
}

#[test]
fn the_parent_does_not_wait_for_an_interface_that_is_not_there_yet() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    host.delete_interface()?;
    let mut parent = host.carpd(&[&VHOST[..], &["-B"]].concat())?;
    assert_eq!(parent.wait(LONG)?.code(), Some(0));
    host.create_interface()?;
    eventually("the VIP is there", LONG, || host.has_address(VIP))
}

#[test]
fn the_parent_does_not_wait_for_an_interface_that_is_to_be_found() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    host.remove_address("10.77.0.1/24")?;
    let mut parent = host.carpd(&[&VHOST[1..], &["-B"]].concat())?;
    assert_eq!(parent.wait(LONG)?.code(), Some(0));
    host.add_address("10.77.0.1/24")?;
    eventually("the VIP is there", LONG, || host.has_address(VIP))
}

#[test]
fn a_script_named_by_a_relative_path_is_the_one_in_the_folder_where_carpd_was_started() -> Result<()> {
    let lab = Lab::new()?;
    for (host, path, options) in [("a", "./vip-up", &["-B"][..]), ("b", "vip-up", &["-B"]), ("c", "vip-up", &[])] {
        let host = lab.host(host)?;
        let folder = Folder::new("daemon")?;
        let script = folder.path().join("vip-up");
        fs::write(&script, "#!/bin/sh\nip address add $2/32 dev $1\n").context("writing a script")?;
        fs::set_permissions(&script, Permissions::from_mode(0o755)).context("making a script executable")?;
        let mut command = host.command(carpd_path()?);
        command.args(VHOST).args(options).arg("--upscript").arg(path).current_dir(folder.path());
        let _agent = Agent::spawn("carpd", command)?;
        eventually("the script has added the VIP", LONG, || host.has_address(VIP)).context(path)?;
    }
    Ok(())
}
