//! The control socket: carpctl's end is in `carpctl`.
//!
//! Clients are served by tasks of their own. What a client may ask is bounded in size, in time and in number, and what
//! it does not read is not kept for it: the loop only ever answers a short question through a bounded channel.

mod peer;
pub(crate) mod protocol;
mod reload;
pub(crate) mod server;

use std::sync::Arc;

use carp_common::engine::Vhid;
use tokio::sync::{mpsc, oneshot};

use self::protocol::{Status, Target};
pub(crate) use self::{
    reload::Reload,
    server::{Desk, GROUP, listen},
};
use crate::{config::Settings, upgrade::About};

/// Questions that wait for the loop.
const WAITING: usize = 16;

/// Something for the loop to do or to tell.
pub(crate) enum Command {
    /// Tell how things stand.
    Status(oneshot::Sender<Box<Status>>),
    /// Demote virtual hosts.
    Demote {
        /// Which.
        target: Target,
        /// By how much.
        demotion: u8,
        /// What was done, or why not.
        reply: Answer,
    },
    /// Seal adverts with another of their keys.
    SealWith {
        /// Which virtual hosts.
        target: Target,
        /// The key's id.
        id: u8,
        /// What was done, or why not.
        reply: Answer,
    },
    /// Be the last resort, or no longer.
    Maintenance {
        /// Whether to be.
        on: bool,
        /// What was done.
        reply: Answer,
    },
    /// Serve these virtual hosts from now on.
    Apply {
        /// Them.
        hosts: Vec<Settings>,
        /// What has changed, or why nothing has.
        reply: Answer<Applied>,
    },
    /// Tell what an upgrade would do.
    PlanUpgrade {
        /// The program that would go on.
        about: Arc<About>,
        /// What it would do, in words.
        reply: oneshot::Sender<String>,
    },
    /// Have another program go on.
    Upgrade {
        /// That program.
        about: Arc<About>,
        /// Why not, if it does not.
        failed: Answer<()>,
    },
}

/// Other virtual hosts are being served.
pub(crate) struct Applied {
    /// What has changed, in words.
    pub(crate) changes: String,
    /// What could not be had of it.
    pub(crate) troubles: Vec<String>,
}

/// What was done, or why it was not.
pub(crate) type Answer<T = String> = oneshot::Sender<Result<T, String>>;
/// How the loop is asked.
pub(crate) type Commands = mpsc::Sender<Command>;

/// A way to the loop, and its end there.
pub(crate) fn commands() -> (Commands, mpsc::Receiver<Command>) {
    mpsc::channel(WAITING)
}

/// Asks the loop for something.
pub(crate) async fn ask<T>(
    commands: &Commands,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, String> {
    let (reply, answer) = oneshot::channel();
    let is_gone = |()| "carpd is stopping".to_owned();
    commands.send(command(reply)).await.map_err(|_| ()).map_err(is_gone)?;
    answer.await.map_err(|_| ()).map_err(is_gone)
}

impl Target {
    /// Whether it means this virtual host.
    pub(crate) fn is(&self, interface: &str, vhid: Vhid) -> bool {
        self.interface.as_deref().is_none_or(|wanted| wanted == interface)
            && self.vhid.is_none_or(|wanted| wanted == vhid.get())
    }
}
