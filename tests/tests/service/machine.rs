//! A host with processes, files and a systemd of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, ensure};
use carp_tests::{Agent, Host, LONG, eventually, tool};

use crate::BOOT;

/// Moves into the control groups that stand before `--`; they become the roots of all that follows.
const ENTER: &str = "while [ \"$1\" != -- ]; do echo $$ > \"$1/cgroup.procs\"; shift; done; shift; exec \"$@\"";

/// What nspawn leaves in /run goes with the machine.
const OWN_RUN: &str = "mount -t tmpfs tmpfs /run && exec \"$@\"";

/// A Debian that runs on a host of the lab. What is changed in it is gone when it is dropped, and so is all that runs.
pub(crate) struct Machine<'h> {
    host: &'h Host,
    /// unshare, which takes everything with it when it is killed.
    outermost: Agent,
    /// systemd's process id, as seen from here.
    init: u32,
    // Goes after the processes in them.
    _cgroups: Vec<Cgroup>,
}

impl<'h> Machine<'h> {
    /// Boots it, until it is ready for users.
    pub(crate) fn boot(host: &'h Host) -> Result<Self> {
        let cgroups = hierarchies()?;
        let is_v1 = cgroups.iter().any(|hierarchy| !hierarchy.is_v2);
        let cgroups: Vec<_> =
            cgroups.iter().map(|hierarchy| Cgroup::new(hierarchy, host.name())).collect::<Result<_>>()?;
        let mut command = host.command("sh");
        command.args(["-c", ENTER, "sh"]).args(cgroups.iter().map(|cgroup| &cgroup.0));
        command.args(["--", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", OWN_RUN, "sh"]).arg(tool(BOOT)?);
        // Nobody here is asked for leave or told; the network is the host's, and root in the machine may do with it what carpd does.
        command.args(["--register=no", "--keep-unit", "--console=pipe", &format!("--machine={}", host.name())]);
        command.arg("--network-namespace-path=/proc/self/ns/net");
        command.args(["--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf"]);
        if is_v1 {
            command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        }
        let outermost = Agent::spawn(&format!("the machine {}", host.name()), command)?;
        let mut machine = Self { host, outermost, init: 0, _cgroups: cgroups };
        let is_ready = |machine: &mut Self| {
            machine.init = systemd_below(machine.outermost.pid()).unwrap_or_default();
            machine.init != 0 && machine.run("systemctl is-active multi-user.target").is_ok()
        };
        eventually("systemd is up", LONG, || Ok(is_ready(&mut machine))).with_context(|| machine.console())?;
        Ok(machine)
    }

    /// Runs a shell command in it and returns all that it prints; to fail is an error.
    pub(crate) fn run(&self, words: &str) -> Result<String> {
        let output = self.shell(words).output().with_context(|| format!("running {words}"))?;
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        ensure!(output.status.success(), "on {}, {words}: {}: {out}{err}", self.host.name(), output.status);
        Ok(out + &err)
    }

    /// Writes a file in it.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<()> {
        fs::write(self.path(path)?, text).with_context(|| format!("writing {path}"))
    }

    /// Where a file of its is found from here.
    pub(crate) fn path(&self, path: &str) -> Result<PathBuf> {
        let inside = Path::new(path).strip_prefix("/").context("not an absolute path")?;
        Ok(Path::new("/proc").join(self.init.to_string()).join("root").join(inside))
    }

    fn shell(&self, words: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.init.to_string(), "sh", "-c", words]);
        command
    }

    fn console(&self) -> String {
        let lines: Vec<_> = self.outermost.lines().into_iter().map(|line| line.text).collect();
        format!("the console of {}:\n{}", self.host.name(), lines.join("\n"))
    }
}

/// systemd among the descendants of a process.
fn systemd_below(pid: u32) -> Option<u32> {
    if fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() == "systemd" {
        return Some(pid);
    }
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().find_map(|child| systemd_below(child.parse().ok()?))
}

/// A hierarchy of control groups that systemd uses.
struct Hierarchy {
    mount: PathBuf,
    is_v2: bool,
}

/// That of version 2, systemd's own of version 1, or both.
fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/mounts").context("listing mounts")?;
    let hierarchies = mounts.lines().filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, path, "cgroup2", ..] => Some(Hierarchy { mount: path.into(), is_v2: true }),
        [_, path, "cgroup", options, ..] if options.contains("name=systemd") => {
            Some(Hierarchy { mount: path.into(), is_v2: false })
        }
        _ => None,
    });
    Ok(hierarchies.collect())
}

/// A control group of its own, gone after the test.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(hierarchy: &Hierarchy, name: &str) -> Result<Self> {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("test").rsplit(':').next().unwrap_or_default();
        let path = hierarchy.mount.join(format!("carp-{}-{test}-{name}", process::id()));
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
