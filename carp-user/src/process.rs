//! A program of the administrator's, run without a shell and within a time limit.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::{
        signal::{SigHandler, Signal, killpg, signal},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    select,
    task::spawn_blocking,
    time::timeout,
};

/// How long a program that is asked to end may take.
const GRACE: Duration = Duration::from_secs(1);

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
    command: Command,
    what: &str,
    time_limit: Duration,
    setting: &str,
) -> Result<ExitStatus> {
    run_in(&mut None, held, command, what, time_limit, setting).await
}

/// The same as [`run`], unless it is overruled: then the program is asked to end (SIGTERM), with everything that it started,
/// and what is left is killed when it has ended, or after a second. `None` then.
///
/// # Errors
/// As with [`run`].
pub(crate) async fn run_unless(
    overruled: impl Future<Output = ()>,
    command: Command,
    what: &str,
    time_limit: Duration,
    setting: &str,
) -> Result<Option<ExitStatus>> {
    let mut place = None;
    select! {
        biased;
        () = overruled => {}
        ended = run_in(&mut place, (), command, what, time_limit, setting) => return ended.map(Some),
    }
    if let Some(group) = place {
        group.end().await;
    }
    Ok(None)
}

/// The program is in `place` from when it has been started.
async fn run_in(
    place: &mut Option<Group>,
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
        let group = place.insert(start.await?.with_context(|| format!("cannot run {what}"))?);
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

impl Group {
    /// Asks all of it to end, and kills what is left when the program has ended, or after [`GRACE`].
    async fn end(self) {
        let Some(pid) = self.0.id() else { return };
        let pid = Pid::from_raw(pid as i32);
        killpg(pid, Signal::SIGTERM).ok();
        // Not waited for, so that its number is its own until the rest is killed.
        let ended = spawn_blocking(move || waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT));
        timeout(GRACE, ended).await.ok();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Only as long as the leader has not been waited for: until then its number is its own.
        if let Some(pid) = self.0.id() {
            killpg(Pid::from_raw(pid as i32), Signal::SIGKILL).ok();
        }
    }
}
