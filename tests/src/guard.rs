//! Ends whatever still runs in a namespace when its owner is done with it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A shell inside the namespace that kills all other processes there: on
/// request, and at the end of its standard input, which comes when the
/// harness lets go of it or dies, by `kill -9` too.
///
/// A parent-death signal would be simpler, but it is lost by a program that
/// forks into the background or gives up privileges, and it comes when the
/// *thread* that spawned ends. The namespace cannot be left, so it is the one
/// certain mark of what belongs to the lab.
pub(crate) struct Guard {
    shell: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

/// Repeats until a round finds nothing: what was caught forking is caught in
/// the next one. `-ef` compares the namespaces without starting a process;
/// a zombie has none. Signals of the terminal are meant for the harness.
const SCRIPT: &str = r#"
    trap '' HUP INT QUIT TERM
    kill_all() {
        round=0 found=1
        while [ $found = 1 ] && [ $round -lt 1000 ]; do
            round=$((round + 1)) found=0
            for process in /proc/[0-9]*; do
                [ "$process" = /proc/$$ ] && continue
                [ "$process/ns/net" -ef /proc/$$/ns/net ] || continue
                kill -9 "${process#/proc/}" && found=1
            done
        done
    }
    while read -r request; do kill_all; echo "$found"; done
    kill_all
"#;

impl Guard {
    /// `shell` is a command for `sh` inside the namespace.
    pub(crate) fn start(mut shell: Command) -> Result<Self> {
        let mut shell = shell
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the shell that guards a namespace")?;
        let requests = shell.stdin.take();
        let replies = shell.stdout.take().context("the guard has no standard output")?;
        Ok(Self { shell, requests, replies: BufReader::new(replies) })
    }

    /// Kills all other processes of the namespace and returns once they are gone.
    pub(crate) fn kill_all(&mut self) -> Result<()> {
        let requests = self.requests.as_mut().context("the guard has been dismissed")?;
        requests.write_all(b"kill\n").context("asking a namespace's guard to kill")?;
        let mut reply = String::new();
        self.replies.read_line(&mut reply).context("reading the reply of a namespace's guard")?;
        ensure!(reply.trim() == "0", "processes in a namespace survive being killed");
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.requests.take());
        // It kills what is left, then itself ends: no reply is missed here.
        let _ = self.shell.wait();
    }
}
