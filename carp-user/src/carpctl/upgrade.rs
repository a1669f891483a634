//! Having another program go on in carpd's process.

use std::{
    io::{self, Write},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use super::{
    connection::{CallError, ask},
    status, strange,
};
use crate::control::protocol::{Reply, Request, Status};

/// How long the other program may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two tries to ask it.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Asks for it, says beforehand what it will do, and afterwards how it went.
///
/// # Errors
/// Nothing has changed, and why; or the other program does not answer.
pub(super) fn run(socket: &Path, out: &mut impl Write) -> Result<()> {
    let before = status(socket)?;
    let mut answers = ask(socket, &Request::Upgrade)?;
    match answers.next()? {
        Some(Reply::Done(plan)) => writeln!(out, "{plan}")?,
        Some(other) => return Err(strange(&other).into()),
        None => bail!(CallError::Broken(io::ErrorKind::UnexpectedEof.into())),
    }
    out.flush()?;
    // Until it makes way.
    match answers.next() {
        Ok(None) | Err(CallError::Broken(_)) => {}
        Ok(Some(other)) => return Err(strange(&other).into()),
        Err(error) => return Err(error.into()),
    }
    let after = wait(socket)?;
    let states =
        after.virtual_hosts.iter().map(|host| format!("{} vhid {}: {}", host.interface, host.vhid, host.state));
    let states: Vec<_> = states.collect();
    ensure!(after.pid == before.pid, "carpd ended, and was started again as process {}: see its log", after.pid);
    writeln!(out, "carpd {} goes on as process {}; {}", after.carpd, after.pid, states.join(", "))?;
    Ok(())
}

fn wait(socket: &Path) -> Result<Status, CallError> {
    let begin = Instant::now();
    loop {
        match status(socket) {
            Err(CallError::NotRunning(_) | CallError::Broken(_)) if begin.elapsed() < PATIENCE => sleep(ASK_AGAIN),
            answered => return answered,
        }
    }
}
