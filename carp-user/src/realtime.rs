//! Real-time scheduling and locked memory: for intervals of a few milliseconds on servers that are busy.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use log::warn;
use nix::{
    libc,
    sys::mman::{MlockAllFlags, mlockall, munlockall},
    unistd::{Pid, gettid},
};

/// Before all ordinary threads, and behind whatever else is real-time.
const PRIORITY: libc::c_int = 1;

/// Whether it is on, and the threads that it is for.
static ENLISTED: Mutex<(bool, Vec<Pid>)> = Mutex::new((false, Vec::new()));

/// This thread, too, does what failover waits for.
pub(crate) fn enlist() {
    let mut enlisted = ENLISTED.lock().unwrap_or_else(PoisonError::into_inner);
    let (is_on, threads) = &mut *enlisted;
    let thread = gettid();
    if *is_on && let Err(error) = schedule(thread, true) {
        warn!("a thread stays an ordinary one: {error}");
    }
    threads.push(thread);
}

/// Runs the threads that are enlisted before all ordinary ones, and keeps what the process uses in memory; or no longer.
/// Programs that it starts are ordinary ones.
///
/// # Errors
/// Neither CAP_SYS_NICE and CAP_IPC_LOCK nor limits allow it.
pub(crate) fn set(on: bool) -> Result<()> {
    let mut enlisted = ENLISTED.lock().unwrap_or_else(PoisonError::into_inner);
    let (is_on, threads) = &mut *enlisted;
    if *is_on == on {
        return Ok(());
    }
    let switched = switch(threads, on);
    if switched.is_err() {
        // Not by halves: what could be done is undone.
        switch(threads, *is_on).ok();
    }
    switched?;
    *is_on = on;
    Ok(())
}

fn switch(threads: &[Pid], on: bool) -> Result<()> {
    let scheduled = threads.iter().try_for_each(|thread| schedule(*thread, on));
    scheduled.context("cannot run in real time (CAP_SYS_NICE, or LimitRTPRIO=)")?;
    // What is not touched need not be there: stacks, above all.
    let all =
        MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let locked = if on { mlockall(all) } else { munlockall() };
    locked.context("cannot lock memory (CAP_IPC_LOCK, or LimitMEMLOCK=infinity)")
}

fn schedule(thread: Pid, on: bool) -> io::Result<()> {
    let (policy, priority) = if on { (libc::SCHED_RR, PRIORITY) } else { (libc::SCHED_OTHER, 0) };
    // SAFETY: for this struct of integers all bytes zero is valid.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = priority;
    let policy = policy | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters live until the call returns.
    let result = unsafe { libc::sched_setscheduler(thread.as_raw(), policy, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
