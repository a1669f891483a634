//! Anonymous network namespaces: they exist as long as this process does.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::panic;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::guard::Guard;

/// A network namespace without a name, held by a file descriptor.
///
/// Only the network differs from the rest of the machine: mounts, processes
/// and users are shared. (`ip netns exec` would change the mounts as well, and
/// hide /sys/fs/bpf.) So /sys still shows the machine's own interfaces.
///
/// Dropping it kills the processes that still run inside; so does the death
/// of this process.
pub struct Netns {
    // Before the descriptor: the guard's work is done inside the namespace.
    guard: Mutex<Guard>,
    pins: Pins,
    fd: Arc<OwnedFd>,
}

/// What carpd pins in a namespace: removed when this is dropped.
struct Pins {
    cookie: u64,
}

impl Pins {
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let end = format!("-{}", self.cookie);
        let entries = fs::read_dir("/sys/fs/bpf/carp").into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).filter(move |path| path.to_string_lossy().ends_with(&end))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for folder in self.folders() {
            // Gone already if an agent ended just now.
            fs::remove_dir_all(folder).ok();
        }
    }
}

impl Netns {
    /// Makes a namespace, with its loopback up and the bridge's filter hooks off.
    pub fn new() -> Result<Self> {
        let fd = Arc::new(unshared()?);
        let guard = Guard::start(command_in(&fd, "sh"))?;
        let mut ns = Self { guard: Mutex::new(guard), pins: Pins { cookie: 0 }, fd };
        ns.pins.cookie = ns.run(cookie)?;
        ns.ip("link set lo up")?;
        for hook in ["arptables", "iptables", "ip6tables"] {
            ns.set_sysctl_if_present(&format!("net.bridge.bridge-nf-call-{hook}"), "0")?;
        }
        Ok(ns)
    }

    /// Runs `work` on a thread inside the namespace. Sockets opened there stay
    /// in it, whichever thread uses them later.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        let inside = || {
            setns(&self.fd, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            work()
        };
        thread::scope(|scope| {
            let worked = scope.spawn(inside).join();
            worked.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
        })
    }

    /// A command that will run inside the namespace.
    ///
    /// It may be spawned from any thread: what outlives the test is killed by
    /// namespace, not by a parent-death signal tied to the spawning thread.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        command_in(&self.fd, program)
    }

    /// Runs `ip` with these words and returns what it prints.
    pub fn ip(&self, words: &str) -> Result<String> {
        output_of(self.command("ip").args(words.split_whitespace()))
    }

    /// Runs several `ip` commands, one a line, in one process.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut batch = File::from(memfd_create("batch", MFdFlags::MFD_CLOEXEC).context("making a file")?);
        batch.write_all(lines.as_bytes()).and_then(|()| batch.rewind()).context("writing a batch for ip")?;
        let mut command = self.command("ip");
        output_of(command.args(["-batch", "-"]).stdin(Stdio::from(batch)))
            .with_context(|| format!("in this batch:\n{lines}"))?;
        Ok(())
    }

    /// Reads a sysctl of this namespace, such as `net.ipv4.ip_forward`.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        // /proc/sys/net belongs to the namespace of the thread that opens it.
        let path = sysctl_path(key);
        self.run(|| {
            let value = fs::read_to_string(&path);
            value.with_context(|| format!("reading {}", path.display()))
        })
        .map(|value| value.trim().to_owned())
    }

    /// Writes a sysctl of this namespace.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.run(|| {
            let written = fs::write(&path, value);
            written.with_context(|| format!("writing {value} to {}", path.display()))
        })
    }

    /// The kernel's number of it, by which carpd tells namespaces apart.
    pub fn number(&self) -> u64 {
        self.pins.cookie
    }

    /// The folder of what carpd has pinned in this namespace, if there is one.
    pub fn pins(&self) -> Option<PathBuf> {
        self.pins.folders().next()
    }

    /// Kills every process inside, and returns when they are gone.
    pub fn kill_processes(&self) -> Result<()> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).kill_all()
    }

    /// A path by which other processes can open the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.fd.as_raw_fd()))
    }

    /// br_netfilter's knobs are there only where its module is loaded.
    fn set_sysctl_if_present(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        let present = self.run(|| path.try_exists().context("looking for a sysctl"))?;
        if present { self.set_sysctl(key, value) } else { Ok(()) }
    }
}

/// A new namespace, made by a thread that ends at once: the file descriptor
/// is all that holds it.
fn unshared() -> Result<OwnedFd> {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .context("making a network namespace (this needs CAP_SYS_ADMIN: run as root)")?;
        let file = File::open("/proc/thread-self/ns/net").context("opening a network namespace")?;
        Ok(OwnedFd::from(file))
    });
    made.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}

/// The kernel's number of the thread's namespace, which no other has had since the machine was started.
fn cookie() -> Result<u64> {
    let socket = UnixDatagram::unbound().context("opening a socket")?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
    // SAFETY: the option's value is such a number, and the kernel writes no more than `len` bytes.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut cookie).cast(), &raw mut len) };
    Errno::result(result).context("reading the number of a network namespace")?;
    Ok(cookie)
}

fn command_in(fd: &Arc<OwnedFd>, program: impl Into<PathBuf>) -> Command {
    let mut command = Command::new(program.into());
    let fd = Arc::clone(fd);
    let enter = move || Ok(setns(&fd, CloneFlags::CLONE_NEWNET)?);
    // SAFETY: between fork and exec the closure makes one system call, setns,
    // and neither allocates nor takes a lock; the descriptor is alive in it.
    unsafe { command.pre_exec(enter) };
    command
}

/// Runs a command to its end; an error carries the command line and what it
/// wrote to its standard error.
pub fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn sysctl_path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key.replace('.', "/"))
}
