//! `--daemonize`: the parent waits until the agent is up and ends with its exit code.

use std::{
    env,
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Write, pipe},
    process,
};

use anyhow::{Context, Result};
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid},
};

use crate::logging::is_journal;

/// The child's end: told when the agent is up.
pub(crate) struct Parent {
    ready: PipeWriter,
    keeps_stderr: bool,
}

impl Parent {
    /// Tells the parent that the agent is up; from here on stderr belongs to nobody, unless it leads to the
    /// journal.
    pub(crate) fn ready(mut self) -> Result<()> {
        if !self.keeps_stderr {
            dup2_stderr(null()?).context("cannot let go of stderr")?;
        }
        self.ready.write_all(b"!").context("the process that started this one is gone")
    }
}

/// Goes into the background: returns in the child, in a session of its own. Must be called before there is
/// any other thread, and before the runtime or any BPF object exists.
pub(crate) fn detach() -> Result<Parent> {
    let (told, ready) = pipe().context("cannot create a pipe")?;
    // SAFETY: this process has one thread so far, so the child may do whatever a process may.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Parent { child } => {
            drop(ready);
            process::exit(wait_for(told, child));
        }
        ForkResult::Child => {}
    }
    setsid().context("cannot start a session")?;
    env::set_current_dir("/").context("cannot change to /")?;
    dup2_stdin(null()?).context("cannot let go of stdin")?;
    dup2_stdout(null()?).context("cannot let go of stdout")?;
    Ok(Parent { ready, keeps_stderr: is_journal() })
}

/// Waits until the child says that it is up, or ends; gives the exit code to end with.
fn wait_for(mut told: PipeReader, child: Pid) -> i32 {
    if told.read(&mut [0]).is_ok_and(|read| read == 1) {
        return 0;
    }
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, code)) => code,
        Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
        _ => 1,
    }
}

fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}
