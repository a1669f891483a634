//! Real-time scheduling and locked memory: for intervals of a few milliseconds on servers that are busy.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};
use nix::{
    libc,
    sys::mman::{MlockAllFlags, mlockall, munlockall},
};

/// Before all ordinary threads, and behind whatever else is real-time.
const PRIORITY: libc::c_int = 1;

/// Runs this thread before all ordinary ones, and keeps what the process uses in memory; or no longer. Programs that it
/// starts are ordinary ones.
///
/// # Errors
/// Neither CAP_SYS_NICE and CAP_IPC_LOCK nor limits allow it.
pub(crate) fn set(on: bool) -> Result<()> {
    static IS_ON: AtomicBool = AtomicBool::new(false);
    if IS_ON.load(Ordering::Relaxed) == on {
        return Ok(());
    }
    let (policy, priority) = if on { (libc::SCHED_RR, PRIORITY) } else { (libc::SCHED_OTHER, 0) };
    schedule(policy, priority).context("cannot run in real time (CAP_SYS_NICE, or LimitRTPRIO=)")?;
    // What is not touched need not be there: stacks, above all.
    let all =
        MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let locked = if on { mlockall(all) } else { munlockall() };
    locked.context("cannot lock memory (CAP_IPC_LOCK, or LimitMEMLOCK=infinity)")?;
    IS_ON.store(on, Ordering::Relaxed);
    Ok(())
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    // SAFETY: for this struct of integers all bytes zero is valid.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = priority;
    // SAFETY: 0 is this thread, and the parameters live until the call returns.
    let result = unsafe { libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
