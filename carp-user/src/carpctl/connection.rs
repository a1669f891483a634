//! carpctl's end of the control socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use crate::control::protocol::{Reply, Request};

/// How long carpd may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for a reload or an upgrade, which are over when those that leave have left.
const PATIENCE_FOR_A_RELOAD: Duration = Duration::from_secs(80);
/// Longest answer in bytes: of 1,024 virtual hosts it has some 2 MB.
const ANSWER: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// Nobody is there.
    #[error("carpd is not running: nobody listens at {0} (--socket names another place)")]
    NotRunning(PathBuf),
    /// No access.
    #[error("{0}: permission denied: be root, or a member of the group carp")]
    Denied(PathBuf),
    /// carpd does not do it.
    #[error("{0}")]
    Refused(String),
    /// carpd does not answer.
    #[error("carpd does not answer within {} s: is it stopped?", .0.as_secs())]
    Silent(Duration),
    /// The connection has ended.
    #[error("the connection to carpd has ended: {0}")]
    Broken(io::Error),
    /// Not a reply that this carpctl knows.
    #[error("cannot understand carpd's answer: {0}; are both of the same version?")]
    Strange(String),
}

/// The answers to a request.
#[derive(Debug)]
pub(super) struct Answers {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    patience: Duration,
}

impl Answers {
    /// Waits for as long as it takes, from now on.
    pub(super) fn be_patient(&mut self) -> Result<(), CallError> {
        self.stream.set_read_timeout(None).map_err(CallError::Broken)
    }

    /// The next answer; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, CallError> {
        let mut line = String::new();
        let read = (&mut self.lines).take(ANSWER).read_line(&mut line).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CallError::Silent(self.patience),
            _ => CallError::Broken(error),
        })?;
        if read == 0 {
            return Ok(None);
        }
        match serde_json::from_str(&line) {
            Ok(Reply::Error(why)) => Err(CallError::Refused(why)),
            Ok(reply) => Ok(Some(reply)),
            Err(error) => Err(CallError::Strange(error.to_string())),
        }
    }

    /// The only answer.
    pub(super) fn only(mut self) -> Result<Reply, CallError> {
        self.next()?.ok_or_else(|| CallError::Broken(io::ErrorKind::UnexpectedEof.into()))
    }
}

/// Asks the carpd that listens there.
pub(super) fn ask(socket: &Path, request: &Request) -> Result<Answers, CallError> {
    let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CallError::NotRunning(socket.to_owned()),
        io::ErrorKind::PermissionDenied => CallError::Denied(socket.to_owned()),
        _ => CallError::Broken(error),
    })?;
    let patience = if matches!(request, Request::Reload | Request::Upgrade) { PATIENCE_FOR_A_RELOAD } else { PATIENCE };
    stream.set_read_timeout(Some(patience)).map_err(CallError::Broken)?;
    stream.set_write_timeout(Some(patience)).map_err(CallError::Broken)?;
    let mut line = serde_json::to_vec(request).map_err(|error| CallError::Strange(error.to_string()))?;
    line.push(b'\n');
    // One that refuses at once says why, and has closed its end: its answer is still to be read.
    (&stream).write_all(&line).ok();
    let lines = BufReader::new(stream.try_clone().map_err(CallError::Broken)?);
    Ok(Answers { stream, lines, patience })
}
