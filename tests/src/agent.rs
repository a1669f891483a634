//! One running program on a host, its log read as it comes.

use std::env;
use std::fmt::Write;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::clock::BootTime;
use crate::netns::output_of;
use crate::record::{Missed, Record};

/// A line that a program wrote to its standard output or error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was read, which is soon after it was written.
    pub at: BootTime,
    /// Without the line feed.
    pub text: String,
}

/// How long the last lines of a program that has ended may take to be read. A
/// process that it left behind may hold its output open for longer.
const LAST_LINES: Duration = Duration::from_millis(500);

/// A running program, `carpd` or any other. Dropping it kills it.
pub struct Agent {
    name: String,
    started: BootTime,
    child: Child,
    ended: OwnedFd,
    lines: Arc<Record<Line>>,
}

impl Agent {
    /// Starts a command and collects what it writes; `name` is for errors.
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        let (reader, writer) = io::pipe().context("making a pipe for a log")?;
        // One pipe for both keeps their lines in order.
        command.stdin(Stdio::null());
        command.stdout(writer.try_clone().context("duplicating a pipe")?).stderr(writer);
        let started = BootTime::now();
        let child = command.spawn().with_context(|| format!("starting {name}: {command:?}"))?;
        // It holds the pipe's writing end, and would keep the log from ending.
        drop(command);
        let ended = pidfd_of(&child)?;
        let lines = Arc::new(Record::new());
        let collected = Arc::clone(&lines);
        // Not joined: a process that the program left behind may hold the pipe.
        thread::spawn(move || collect(reader, &collected));
        Ok(Self { name: name.to_owned(), started, child, ended, lines })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Line> {
        self.lines.snapshot()
    }

    /// Waits for a line that contains `text`. Each wait looks at the lines
    /// after the one that the last wait found, so successive waits go in order.
    pub fn wait_for_line(&self, text: &str, timeout: Duration) -> Result<Line> {
        self.wait_for_line_that(&format!("contains {text:?}"), timeout, |line| line.contains(text))
    }

    /// Waits for a line like [`Agent::wait_for_line`]; `what` describes it in
    /// the error of a wait in vain.
    pub fn wait_for_line_that(
        &self,
        what: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<Line> {
        self.lines.wait_for(timeout, |line| wanted(&line.text)).or_else(|missed| {
            let why = match missed {
                Missed::TimedOut => format!("in {timeout:?}"),
                Missed::Closed => "before its output ended".to_owned(),
            };
            bail!("{} wrote no line {why} that {what}\n{}", self.name, self.transcript())
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().try_into().context("an impossible process id")?);
        signal::kill(pid, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Kills it (`kill -9`), and returns when it is gone.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        let status = self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        self.lines.wait_until_closed(LAST_LINES);
        Ok(status)
    }

    /// Waits until it ends by itself; its lines are then complete.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let wait = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut events = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        while poll(&mut events, wait) == Err(Errno::EINTR) {}
        let status = self.child.try_wait().with_context(|| format!("waiting for {}", self.name))?;
        let Some(status) = status else {
            bail!("{} still runs after {timeout:?}\n{}", self.name, self.transcript());
        };
        self.lines.wait_until_closed(LAST_LINES);
        Ok(status)
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        let mut events = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        poll(&mut events, PollTimeout::ZERO) != Ok(1)
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn stop_and_wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(timeout)
    }

    fn transcript(&self) -> String {
        let lines = self.lines();
        let mut text = format!("all {} lines of {}:", lines.len(), self.name);
        for line in lines {
            let seconds = line.at.since(self.started).as_secs_f64();
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  [{seconds:10.6}] {}", line.text);
        }
        text
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Either may fail only because it has ended and been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A copy of carpd for every user. By another process: if this one held it open for writing, whatever another thread starts just
/// then would hold it, too, and nobody could start it meanwhile (ETXTBSY).
pub fn copy_carpd(to: &Path) -> Result<()> {
    output_of(Command::new("install").args(["-m", "755"]).arg(carpd_path()?).arg(to)).map(drop)
}

/// Where `carpd` is: in the environment variable CARPD, else beside this test
/// or program in the target directory.
pub fn carpd_path() -> Result<PathBuf> {
    if let Some(path) = env::var_os("CARPD") {
        return Ok(path.into());
    }
    let exe = env::current_exe().context("finding the path of this program")?;
    // target/debug/deps/failover-0123456789abcdef or target/debug/xtask
    let outside = |folder: &&Path| !folder.ends_with("deps") && !folder.ends_with("examples");
    let folder = exe.ancestors().skip(1).find(outside);
    let carpd = folder.with_context(|| format!("{} is in no folder", exe.display()))?.join("carpd");
    ensure!(carpd.exists(), "{} is missing: build it with `cargo xtask build`, or set CARPD", carpd.display());
    Ok(carpd)
}

/// A descriptor that becomes readable when the process ends.
fn pidfd_of(child: &Child) -> Result<OwnedFd> {
    // SAFETY: a system call with two integers. The child has not been waited
    // for, so its process id is still its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = Errno::result(fd).context("opening a descriptor for a process")?;
    // SAFETY: the kernel has just made this descriptor, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.try_into().context("an impossible descriptor")?) })
}

fn collect(reader: PipeReader, lines: &Record<Line>) {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    // A read error ends the log as its end does: the waits will say so.
    while let Ok(1..) = reader.read_until(b'\n', &mut bytes) {
        let text = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
        lines.push(Line { at: BootTime::now(), text });
        bytes.clear();
    }
    lines.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(50);

    fn shell(script: &str) -> Agent {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Agent::spawn("shell", command).unwrap()
    }

    #[test]
    fn lines_of_both_outputs_are_waited_for_in_order() {
        let agent = shell("echo one; echo two >&2; echo one; echo three; exec sleep 60");
        let first = agent.wait_for_line("one", LONG).unwrap();
        let second = agent.wait_for_line("one", LONG).unwrap();
        assert!(first.at <= second.at);
        agent.wait_for_line("three", LONG).unwrap();
        let lines: Vec<_> = agent.lines().into_iter().map(|line| line.text).collect();
        assert_eq!(lines, ["one", "two", "one", "three"]);
        agent.wait_for_line("two", SHORT).unwrap_err();
    }

    #[test]
    fn a_wait_in_vain_shows_the_whole_log() {
        let agent = shell("echo spring; echo autumn; exec sleep 60");
        agent.wait_for_line("autumn", LONG).unwrap();
        let error = agent.wait_for_line("winter", SHORT).unwrap_err().to_string();
        for part in ["shell", "\"winter\"", "spring", "autumn", "50ms"] {
            assert!(error.contains(part), "{part} is missing: {error}");
        }
    }

    #[test]
    fn a_wait_ends_with_the_program() {
        let agent = shell("echo that is all");
        let error = agent.wait_for_line("more", Duration::MAX / 4).unwrap_err().to_string();
        assert!(error.contains("before its output ended"), "{error}");
    }

    #[test]
    fn the_exit_status_comes_with_all_the_lines() {
        let mut agent = shell("seq 1000; exit 3");
        assert_eq!(agent.wait(LONG).unwrap().code(), Some(3));
        assert_eq!(agent.lines().len(), 1000);
    }

    #[test]
    fn a_program_that_does_not_stop_is_told_with_its_log_and_can_be_killed() {
        let mut agent = shell("trap '' TERM; echo deaf; while :; do sleep 1; done");
        agent.wait_for_line("deaf", LONG).unwrap();
        let error = agent.stop_and_wait(SHORT).unwrap_err().to_string();
        assert!(error.contains("still runs") && error.contains("deaf"), "{error}");
        assert_eq!(agent.kill().unwrap().code(), None);
    }

    #[test]
    fn a_signal_reaches_the_program() {
        let agent = shell("trap 'echo told' USR1; echo ready; while :; do sleep 0.01; done");
        agent.wait_for_line("ready", LONG).unwrap();
        agent.signal(Signal::SIGUSR1).unwrap();
        agent.wait_for_line("told", LONG).unwrap();
    }
}
