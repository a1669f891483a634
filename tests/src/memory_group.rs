//! Processes that are to have no more memory.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::clock::eventually;
use crate::node::LONG;

/// A control group that may have next to no memory. What is left in it when it is dropped goes to the one above.
pub(crate) struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// With a name of its own on this host.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("listing mounts")?;
        let (parent, limit) = mounts
            .lines()
            .find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                [_, path, "cgroup", options, ..] if options.split(',').any(|option| option == "memory") => {
                    Some((path.to_owned(), "memory.limit_in_bytes"))
                }
                [_, path, "cgroup2", ..] => {
                    let controllers = fs::read_to_string(format!("{path}/cgroup.controllers")).ok()?;
                    controllers.split_whitespace().any(|controller| controller == "memory").then_some(())?;
                    fs::write(format!("{path}/cgroup.subtree_control"), "+memory").ok()?;
                    Some((path.to_owned(), "memory.max"))
                }
                _ => None,
            })
            .context("no control groups for memory are mounted")?;
        let group = Self(format!("{parent}/carp-{}-{name}", std::process::id()).into());
        fs::create_dir(&group.0).with_context(|| format!("making {}", group.0.display()))?;
        fs::write(group.0.join(limit), "65536").context("setting a limit for memory")?;
        Ok(group)
    }

    /// Moves a process into it.
    pub(crate) fn take_in(&self, process: u32) -> Result<()> {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).context("moving a process to a control group")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let above = self.0.with_file_name("cgroup.procs");
        for process in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            // It may have ended.
            let _ = fs::write(&above, process);
        }
        // A killed one is in it until it has been waited for.
        let _ = eventually("it is empty", LONG, || Ok(fs::remove_dir(&self.0).is_ok()));
    }
}
