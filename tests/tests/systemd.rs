//! The well-known tutorial's way: ucarp as a systemd service on two servers, with the path of carpd and nothing else
//! changed, under a real systemd with its journal.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result};
use carp_tests::netns::output_of;
use carp_tests::{Agent, Folder, Host, LONG, Lab, VIP, carpd_path, eventually};

const SYSTEMD: &str = "/lib/systemd/systemd";

/// Moves into the control group $1, which becomes the root of all that follows.
const ENTER: &str = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";

/// Sees its own control groups and an empty /run, puts the unit and a target without anything else there, and becomes
/// systemd.
const BOOT: &str = "mount --make-rprivate / && mount -t cgroup2 cgroup2 /sys/fs/cgroup && \
                    mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && \
                    cp \"$1\"/*.service \"$1\"/*.target /run/systemd/system && \
                    exec env container=lxc SYSTEMD_LOG_TARGET=console \"$2\" --system --unit=nothing.target";

#[test]
fn the_tutorials_unit_works_as_it_stands_and_the_journal_tells_of_a_failover() -> Result<()> {
    if !Path::new(SYSTEMD).exists() {
        eprintln!("skipped: there is no {SYSTEMD} here");
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let first = Booted::boot(&a)?;
    first.systemctl("start ucarp")?;
    eventually("the first server has the VIP", LONG, || a.has_address(VIP))?;
    let second = Booted::boot(&b)?;
    second.systemctl("start ucarp")?;
    eventually("the second one waits", LONG, || Ok(second.journal()?.contains("INIT -> BACKUP")))?;
    assert!(first.systemctl("show --property=ActiveState,SubState,Result ucarp")?.contains("SubState=exited"));

    first.systemctl("stop ucarp")?;
    assert!(!a.has_address(VIP)?, "systemd waits for the stop, and the stop for the down script");
    eventually("the second server has the VIP", LONG, || b.has_address(VIP))?;
    for (server, told) in [
        (&first, &["eth0 vhid 1: BACKUP -> MASTER, no advert for 3.", "vip-up eth0 10.77.0.100: exit status: 0"][..]),
        (&first, &["eth0 vhid 1: MASTER -> INIT, stopping", "vip-down eth0 10.77.0.100: exit status: 0", "stopped"]),
        (&second, &["eth0 vhid 1: BACKUP -> MASTER, 10.77.0.1 leaves", "vip-up eth0 10.77.0.100: exit status: 0"]),
    ] {
        let in_order = || {
            let journal = server.journal()?;
            let mut rest = journal.as_str();
            Ok(told.iter().all(|text| rest.split_once(text).map(|(_, after)| rest = after).is_some()))
        };
        eventually(&format!("the journal tells {told:?}"), LONG, in_order)?;
    }
    assert!(!first.journal()?.contains("bYaTxPw2") && !second.journal()?.contains("bYaTxPw2"));

    // Back, as the tutorial's --preempt has it with equal skews: nobody is better, so nothing moves.
    first.systemctl("start ucarp")?;
    second.systemctl("stop ucarp")?;
    eventually("the first server has the VIP again", LONG, || a.has_address(VIP))?;
    assert!(!b.has_address(VIP)?);
    Ok(())
}

/// A host with a systemd of its own, as far as processes and mounts go.
struct Booted {
    /// unshare, whose child is systemd.
    init: Agent,
    _cgroup: Cgroup,
    _folder: Folder,
    host: String,
}

impl Booted {
    fn boot(host: &Host) -> Result<Self> {
        let folder = Folder::new("systemd")?;
        write(&folder, "nothing.target", "[Unit]\nDefaultDependencies=no\n")?;
        write(&folder, "ucarp.service", &unit(host, folder.path())?)?;
        for (script, verb) in [("vip-up", "add"), ("vip-down", "del")] {
            write(&folder, script, &format!("#!/bin/sh\nexec ip addr {verb} \"$2\"/24 dev \"$1\"\n"))?;
        }
        let cgroup = Cgroup::new(host.name())?;
        let mut command = host.command("sh");
        command.args(["-c", ENTER, "sh"]).arg(&cgroup.0);
        command.args([
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--uts",
            "--ipc",
            "--cgroup",
            "--mount-proc",
        ]);
        command.args(["sh", "-c", BOOT, "sh"]).arg(folder.path()).arg(SYSTEMD);
        let booted = Self {
            init: Agent::spawn("systemd", command)?,
            _cgroup: cgroup,
            _folder: folder,
            host: host.name().to_owned(),
        };
        eventually("systemd is up", LONG, || {
            Ok(booted.systemctl("is-system-running").is_ok_and(|state| state.trim() == "running"))
        })?;
        booted.systemctl("start systemd-journald")?;
        Ok(booted)
    }

    fn systemctl(&self, words: &str) -> Result<String> {
        self.inside(&format!("systemctl {words}"))
    }

    /// What the journal has of the unit.
    fn journal(&self) -> Result<String> {
        self.inside("journalctl --no-pager --output=cat --unit=ucarp --directory=/run/log/journal")
    }

    fn inside(&self, words: &str) -> Result<String> {
        let pid = self.init.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).context("looking for systemd")?;
        let systemd = children.split_whitespace().next().context("systemd is not there")?;
        let mut command = process::Command::new("nsenter");
        command.args(["--all", "--target", systemd]).args(words.split_whitespace());
        output_of(&mut command).with_context(|| format!("on {}: {words}", self.host))
    }
}

/// The tutorial's unit, with our path, names and addresses.
fn unit(host: &Host, folder: &Path) -> Result<String> {
    let (carpd, folder) = (carpd_path()?, folder.display());
    Ok(format!(
        "[Unit]\n\
         Description=UCARP virtual interface\n\
         DefaultDependencies=no\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart={} --interface=eth0 --pass=bYaTxPw2 --srcip={} --vhid=1 --addr={VIP} --shutdown --preempt \
         --upscript={folder}/vip-up --downscript={folder}/vip-down -B\n",
        carpd.display(),
        host.ip()
    ))
}

/// A control group (v2) of its own, gone after the test.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("listing mounts")?;
        let mount = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [_, path, "cgroup2", ..] => Some(PathBuf::from(path)),
            _ => None,
        });
        let path = mount.context("no cgroup2 is mounted")?.join(format!("carp-systemd-{}-{name}", process::id()));
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }

    /// Removes a control group and those below.
    fn remove(path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                Self::remove(&entry.path())?;
            }
        }
        fs::remove_dir(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy until the last process is gone.
        let _ = eventually("the control group is gone", LONG, || Ok(Self::remove(&self.0).is_ok()));
    }
}

fn write(folder: &Folder, name: &str, text: &str) -> Result<()> {
    let path = folder.path().join(name);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o755)).context("making a script executable")
}
