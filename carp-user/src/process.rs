//! A program of the administrator's, run without a shell and within a time limit.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{SigHandler, Signal, killpg, signal},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    task::spawn_blocking,
    time::timeout,
};

/// Runs a program to its end, or kills it at the time limit with everything that it started. What it prints comes out
/// where the log does. Dropping the future kills it likewise.
///
/// # Errors
/// It was no success: a line for the log, in which it is called `what`, and `setting` is what sets the limit.
pub(crate) async fn run(command: Command, what: &str, time_limit: Duration, setting: &str) -> Result<ExitStatus> {
    run_holding((), command, what, time_limit, setting).await
}

/// The same; `held` is dropped when the program has been started, which may be long after its time limit: where that is
/// not waited for, each try takes another thread.
///
/// # Errors
/// As with [`run`].
pub(crate) async fn run_holding(
    held: impl Send + 'static,
    mut command: Command,
    what: &str,
    time_limit: Duration,
    setting: &str,
) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).process_group(0);
    // Elsewhere, for it waits for the file system; with its group, so that one that starts too late is killed.
    let start = spawn_blocking(move || {
        let _held = held;
        command.spawn().map(Group)
    });
    let ended = timeout(time_limit, async {
        let mut group = start.await?.with_context(|| format!("cannot run {what}"))?;
        group.0.wait().await.with_context(|| format!("cannot wait for {what}"))
    });
    let Ok(ended) = ended.await else {
        bail!("{what} was killed: it ran longer than {} s ({setting})", time_limit.as_secs())
    };
    let status = ended?;
    ensure!(status.success(), "{what} failed: {status}");
    Ok(status)
}

/// Lets a program go on at a SIGTERM: a service manager that stops the agent sends it to every process of the service, to
/// one that the agent has just started, too, and what is to be undone or told then must not end half done.
pub(crate) fn ignore_term(command: &mut Command) {
    // SAFETY: `signal` is safe to call after a fork, and what it ignores is not handled by this program.
    let ignore = || Ok(unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.map(drop)?);
    // SAFETY: between fork and exec the closure makes one system call, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(ignore) };
}

/// A program with everything that it started: killed together when this is dropped before the program has ended.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Only as long as the leader has not been waited for: until then its number is its own.
        if let Some(pid) = self.0.id() {
            killpg(Pid::from_raw(pid as i32), Signal::SIGKILL).ok();
        }
    }
}
