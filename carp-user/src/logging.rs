//! The log: stderr with the time, stderr with priorities where that is the journal, or syslog.
//!
//! Lines go to a thread of their own through a bounded channel. A reader that hangs (a journal that is
//! stopped, a full pipe) must not hold up the adverts: what does not fit is dropped and counted.

use std::{
    env,
    fmt::Display,
    fs,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use env_logger::{Builder, Env, Target, fmt::Formatter};
use log::{Level, LevelFilter, Record};
use nix::libc;

use crate::{
    control::protocol::What,
    history::History,
    syslog::{self, Facility},
};

/// Lines that wait for a slow reader.
const BACKLOG: usize = 1024;
/// Of a longer line the history keeps so many bytes: what is in it may come from a file or a peer.
const ALARM: usize = 1024;
/// How long the end of the process waits for lines to get out.
const FLUSH: Duration = Duration::from_millis(500);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Where log lines go.
#[derive(Clone, Copy)]
pub(crate) enum Sink {
    /// stderr, each line with its time.
    Stderr,
    /// stderr, which systemd's journal reads: each line with its priority.
    Journal,
    /// The system log.
    Syslog(Facility),
}

impl Sink {
    /// stderr, as what reads it likes it.
    pub(crate) fn stderr() -> Self {
        if is_journal() { Self::Journal } else { Self::Stderr }
    }
}

/// Whether stderr leads to systemd's journal ($JOURNAL_STREAM, systemd.exec(5)).
pub(crate) fn is_journal() -> bool {
    let Some(stream) = env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    let Ok(metadata) = fs::File::from(stderr).metadata() else { return false };
    stream == format!("{}:{}", metadata.dev(), metadata.ino())
}

/// Tells a line where there is no log: on stderr. Unlike `eprintln!`, it does not panic if that leads to a full disk.
pub(crate) fn tell(line: impl Display) {
    writeln!(io::stderr(), "{line}").ok();
}

/// Waits, when dropped, until the log is written, though not for long.
pub(crate) struct LogGuard {
    lines: SyncSender<Message>,
    done: Receiver<()>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        if self.lines.try_send(Message::End).is_ok() {
            self.done.recv_timeout(FLUSH).ok();
        }
    }
}

enum Message {
    Line(Vec<u8>),
    End,
}

/// Starts the log. RUST_LOG overrules `debug`. Warnings and errors are kept in the history, too.
pub(crate) fn start(sink: Sink, debug: bool, history: History) -> Result<LogGuard> {
    let (lines, waiting) = sync_channel(BACKLOG);
    let (finished, done) = sync_channel(1);
    if let Sink::Syslog(facility) = sink {
        syslog::open(facility);
    }
    thread::Builder::new()
        .name("carpd-log".to_owned())
        .spawn(move || {
            write_lines(&waiting, sink);
            finished.send(()).ok();
        })
        .context("cannot start the log's thread")?;
    let level = if debug { LevelFilter::Debug } else { LevelFilter::Info };
    Builder::from_env(Env::default().default_filter_or(format!("warn,carp={level}")))
        .format(move |line, record| {
            remember(record, &history);
            format(line, record, sink)
        })
        .target(Target::Pipe(Box::new(Lines(lines.clone()))))
        .try_init()
        .context("cannot start the log")?;
    Ok(LogGuard { lines, done })
}

/// A warning or an error is an alarm.
fn remember(record: &Record<'_>, history: &History) {
    let severity = match record.level() {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info | Level::Debug | Level::Trace => return,
    };
    let mut text = record.args().to_string();
    text.truncate(text.floor_char_boundary(ALARM));
    history.push(What::Alarm { severity: severity.to_owned(), text });
}

fn format(line: &mut Formatter, record: &Record<'_>, sink: Sink) -> io::Result<()> {
    match sink {
        Sink::Stderr => writeln!(line, "{} {:<5} {}", line.timestamp_millis(), record.level(), record.args()),
        Sink::Journal | Sink::Syslog(_) => writeln!(line, "<{}>{}", severity(record.level()), record.args()),
    }
}

/// The severity of syslog(3).
const fn severity(level: Level) -> i32 {
    match level {
        Level::Error => libc::LOG_ERR,
        Level::Warn => libc::LOG_WARNING,
        Level::Info => libc::LOG_INFO,
        Level::Debug | Level::Trace => libc::LOG_DEBUG,
    }
}

/// The logger's end of the channel. env_logger writes each record whole.
struct Lines(SyncSender<Message>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Message::Line(line.to_vec())).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(waiting: &Receiver<Message>, sink: Sink) {
    while let Ok(Message::Line(line)) = waiting.recv() {
        write_line(&line, sink);
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            write_line(format!("{dropped} log lines were lost: the log is read too slowly\n").as_bytes(), sink);
        }
    }
}

fn write_line(line: &[u8], sink: Sink) {
    match sink {
        // Nobody is left to tell if this fails.
        Sink::Stderr | Sink::Journal => drop(io::stderr().write_all(line)),
        Sink::Syslog(_) => {
            let (severity, text) = split_severity(line);
            syslog::write(severity, text);
        }
    }
}

/// Splits the `<N>` that [`format()`] puts before a line for the system log.
fn split_severity(line: &[u8]) -> (i32, &[u8]) {
    match line.trim_ascii_end() {
        [b'<', severity @ b'0'..=b'7', b'>', text @ ..] => (i32::from(severity - b'0'), text),
        text => (libc::LOG_WARNING, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_survives_the_way_to_the_system_log() {
        for level in Level::iter() {
            let line = format!("<{}>eth0: <3> is not one: {level}\n", severity(level));
            let (severity_there, text) = split_severity(line.as_bytes());
            assert_eq!(severity_there, severity(level));
            assert_eq!(text, format!("eth0: <3> is not one: {level}").as_bytes());
        }
        let untold: (_, &[u8]) = (libc::LOG_WARNING, b"3 log lines were lost");
        assert_eq!(split_severity(b"3 log lines were lost\n"), untold);
    }

    #[test]
    fn a_line_too_many_is_counted_and_nobody_waits() {
        let (sender, waiting) = sync_channel(2);
        let mut lines = Lines(sender);
        let before = DROPPED.load(Ordering::Relaxed);
        for line in [b"1\n", b"2\n", b"3\n", b"4\n"] {
            assert_eq!(lines.write(line).unwrap(), line.len());
        }
        assert_eq!(DROPPED.load(Ordering::Relaxed) - before, 2);
        let kept: Vec<_> = waiting.try_iter().collect();
        assert!(matches!(&kept[..], [Message::Line(one), Message::Line(two)] if one == b"1\n" && two == b"2\n"));
    }
}
