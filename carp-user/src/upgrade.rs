//! `carpctl upgrade`: carpd executes the program that is on disk by now in its own place. The process stays, with its
//! privileges and what its service manager knows of it; the kernel's half stays in its pins; who is master goes on
//! within its lease.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use carp_common::abi::ABI;
use nix::{sys::wait::waitpid, unistd::Pid};
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::timeout};

use crate::config::{Choice, Settings};

/// Asks a program whether it could go on: it says [`About`], and ends.
pub(crate) const CHECK: &str = "--would-go-on";
/// What the former program leaves to the next: [`Legacy`].
const LEGACY: &str = "CARPD_UPGRADE";
/// How long the check may take.
const CHECK_TIME: Duration = Duration::from_secs(30);

/// What a program says that could go on.
#[derive(Serialize, Deserialize)]
pub(crate) struct About {
    /// Its version.
    pub(crate) version: String,
    /// Version of what it keeps in the kernel.
    pub(crate) abi: u32,
    /// The bpffs that it pins things in.
    #[serde(default)]
    pub(crate) bpffs: PathBuf,
    /// What it would serve, by the configuration as it is now.
    #[serde(default)]
    pub(crate) serves: Vec<Served>,
}

/// A virtual host as a program would serve it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Served {
    /// Name of its interface, unless that is to be found, as before.
    interface: Option<String>,
    vhid: u8,
    /// Whether by XDP: on a packet socket there is no lease to go on with.
    pub(crate) by_xdp: bool,
}

impl About {
    /// The present program, with these virtual hosts and this bpffs.
    pub(crate) fn this(hosts: &[Settings], bpffs: &Path) -> Self {
        let serves = hosts.iter().map(|settings| Served {
            interface: settings.interface.clone(),
            vhid: settings.vhid.get(),
            by_xdp: settings.datapath != Choice::Socket,
        });
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { version, abi: ABI, bpffs: bpffs.to_owned(), serves: serves.collect() }
    }

    /// How it would serve a virtual host, if it would.
    pub(crate) fn serves(&self, interface: &str, vhid: u8) -> Option<&Served> {
        let is_it = |served: &&Served| {
            served.vhid == vhid && served.interface.as_deref().is_none_or(|served| served == interface)
        };
        self.serves.iter().find(is_it)
    }

    /// Whether it can go on with what the present one has in the kernel.
    pub(crate) const fn has_same_abi(&self) -> bool {
        self.abi == ABI
    }
}

/// What is neither in the kernel nor on disk.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Legacy {
    /// Interface and vhid of what an administrator has demoted, and by how much.
    pub(crate) demotions: Vec<(String, u8, u8)>,
    /// Interface and vhid of what was not held back in INIT any more.
    pub(crate) open: Vec<(String, u8)>,
    /// Names of the scripts that counted as failed, and why.
    pub(crate) failed_scripts: BTreeMap<String, String>,
    /// The largest counter that an advert has had.
    pub(crate) newest: u64,
    /// Interface and vhid of what is sealed with a key that an administrator has chosen, its id, and the one that was configured.
    #[serde(default)]
    pub(crate) keys: Vec<(String, u8, u8, Option<u8>)>,
}

impl Legacy {
    /// What a former program in this process has left, if there was one.
    pub(crate) fn take() -> Option<Self> {
        let text = env::var(LEGACY).ok()?;
        // From a version that had another: nothing that was essential.
        Some(serde_json::from_str(&text).unwrap_or_default())
    }
}

/// How this process was started, and so is to be again.
pub(crate) struct Successor {
    program: PathBuf,
    /// With a passphrase, if there is one among them.
    arguments: Vec<OsString>,
    folder: PathBuf,
}

impl Successor {
    /// With these arguments, as they were before a passphrase among them was masked.
    ///
    /// # Errors
    /// There is no /proc, or the working folder is gone.
    pub(crate) fn new(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let program = env::current_exe().context("cannot tell which program this is")?;
        let folder = env::current_dir().context("cannot tell the working folder")?;
        Ok(Self { program: on_disk(&program), arguments: arguments.into_iter().skip(1).collect(), folder })
    }

    /// Has the program that is on disk by now look at the configuration, and load its programs.
    ///
    /// # Errors
    /// It could not go on, and why.
    pub(crate) async fn check(&self) -> Result<About> {
        let mut command = self.command();
        command.arg(CHECK).stdin(Stdio::null());
        let program = self.program.display();
        // A file system may hang.
        let checked = timeout(CHECK_TIME, spawn_blocking(move || command.output())).await;
        let output = checked
            .map_err(|_| anyhow!("{program} takes longer than {} s", CHECK_TIME.as_secs()))??
            .with_context(|| format!("cannot execute {program}"))?;
        if !output.status.success() {
            bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("cannot understand what {program} says"))
    }

    /// Goes on as that program.
    ///
    /// # Errors
    /// It returns only if that does not work.
    pub(crate) fn execute(&self, legacy: &Legacy) -> anyhow::Error {
        let legacy = match serde_json::to_string(legacy) {
            Ok(legacy) => legacy,
            Err(error) => return error.into(),
        };
        let error = self.command().env(LEGACY, legacy).exec();
        anyhow::Error::from(error).context(format!("cannot execute {}", self.program.display()))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.folder);
        command
    }
}

/// What has taken the place of a program that the kernel says is deleted.
fn on_disk(program: &Path) -> PathBuf {
    let path = program.as_os_str().as_bytes();
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    PathBuf::from(OsStr::from_bytes(path))
}

/// Children of the former program are this one's now: somebody has to hear of their ends.
pub(crate) fn adopt_children() -> io::Result<()> {
    let children = fs::read_to_string("/proc/thread-self/children")?;
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()).map(Pid::from_raw) {
        thread::Builder::new().name("carpd-child".to_owned()).spawn(move || waitpid(child, None).map(drop))?;
    }
    Ok(())
}
