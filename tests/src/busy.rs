//! CPUs that are kept busy, or awake, and threads that are bound to one.

use std::mem;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::clock::BootTime;

/// Keeps all CPUs busy, each with four threads.
pub fn hog(lasts: Duration) {
    spin(4, lasts, |_| Ok(())).expect("nothing to fail");
}

/// Keeps all CPUs from sleeping, each with a thread that runs only while nothing else does.
pub fn keep_awake(lasts: Duration) -> Result<()> {
    spin(1, lasts, |cpu| run_on(cpu, libc::SCHED_IDLE, 0))
}

/// Has this thread run on one CPU only, by this policy (`SCHED_*`) and with this priority.
pub fn run_on(cpu: usize, policy: libc::c_int, priority: libc::c_int) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only).with_context(|| format!("staying on CPU {cpu}"))?;
    // SAFETY: for this struct of integers all bytes zero is valid.
    let mut parameters: libc::sched_param = unsafe { mem::zeroed() };
    parameters.sched_priority = priority;
    // SAFETY: 0 is this thread, and the parameters live until the call returns.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    Errno::result(result).map(drop).with_context(|| format!("scheduling by policy {policy}"))
}

/// So many threads for each CPU that look at the clock, after they have prepared for it.
fn spin(threads: usize, lasts: Duration, prepare: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let end = BootTime::now() + lasts;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let work = |cpu| {
        prepare(cpu)?;
        while BootTime::now() < end {}
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads * cpus).map(|thread| scope.spawn(move || work(thread % cpus))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panics never"))
    })
}
