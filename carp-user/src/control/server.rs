//! carpd's end of the control socket.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::{
    fs,
    io::{self, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use log::{info, warn};
use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    sys::stat::{Mode, umask},
    unistd::{Gid, Group, fchownat, getegid},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    select,
    sync::{Mutex, Semaphore, broadcast::error::RecvError},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    Command, Commands, Reload, ask, peer,
    protocol::{Reply, Request},
};
use crate::{history::History, maintenance, upgrade::Successor};

/// Clients at a time.
const CLIENTS: usize = 64;
/// Of these, so many may follow what happens: they stay.
const FOLLOWERS: usize = 32;
/// Longest request in bytes.
const REQUEST: u64 = 4096;
/// How long a client may take to ask, and to read each answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// After an error in accepting clients, most likely for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Whose members may ask.
pub(crate) const GROUP: &str = "carp";
/// Of the socket.
const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IRGRP).union(Mode::S_IWGRP);

/// What is needed to answer.
#[derive(Clone)]
pub(crate) struct Desk {
    /// The way to the loop.
    pub(crate) commands: Commands,
    /// What has happened.
    pub(crate) history: History,
    /// How to read the configuration again.
    pub(crate) reload: Reload,
    /// Whose turn it is to begin or end the maintenance.
    pub(crate) maintenance: Arc<Mutex<()>>,
    /// What goes on after an upgrade.
    pub(crate) successor: Arc<Successor>,
}

/// Serves clients at a socket with this path from now on; the socket goes when the value is dropped.
pub(crate) fn listen(path: &Path, desk: Desk) -> Result<Socket> {
    if StdUnixStream::connect(path).is_ok() {
        bail!("{} is another carpd's: give this one its own (--socket)", path.display());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // Left behind by a crash; nothing else is taken away.
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        fs::remove_file(path).ok();
    }
    let cannot = || format!("cannot listen on {}", path.display());
    let before = umask(!MODE & Mode::all());
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.with_context(cannot)?;
    let group = Group::from_name(GROUP).ok().flatten().map_or_else(getegid, |group| group.gid);
    // Not what a link leads to that somebody else has put in its place: the folder is not root's alone.
    fchownat(AT_FDCWD, path, None, Some(group), AtFlags::AT_SYMLINK_NOFOLLOW).with_context(cannot)?;
    tokio::spawn(accept(listener, group, desk));
    Ok(Socket(path.to_owned()))
}

/// A socket's path.
pub(crate) struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

async fn accept(listener: UnixListener, group: Gid, desk: Desk) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    let followers = Arc::new(Semaphore::new(FOLLOWERS));
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                warn!("control socket: {error}");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&clients).try_acquire_owned() else {
            refuse(client, format!("{CLIENTS} clients are being served: try again"));
            continue;
        };
        if !peer::may_ask(&client, group).unwrap_or(false) {
            refuse(client, format!("only root and the members of the group {GROUP} may ask"));
            continue;
        }
        let (desk, followers) = (desk.clone(), Arc::clone(&followers));
        tokio::spawn(async move {
            // An error is that the client has gone, or is too slow.
            serve(client, desk, followers).await.ok();
            drop(place);
        });
    }
}

async fn serve(client: UnixStream, desk: Desk, followers: Arc<Semaphore>) -> io::Result<()> {
    let uid = client.peer_cred().map_or(u32::MAX, |peer| peer.uid());
    let (from, to) = client.into_split();
    Client { uid, from, to, desk, followers }.serve().await
}

/// Says why, without waiting: there is room in a socket that nobody has written to.
fn refuse(client: UnixStream, why: String) {
    // Not by tokio, which would first have to learn that it can be written to.
    if let Ok(mut client) = client.into_std() {
        client.write_all(&line(&Reply::Error(why))).ok();
    }
}

fn line(reply: &Reply) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    line
}

struct Client {
    uid: u32,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    desk: Desk,
    followers: Arc<Semaphore>,
}

impl Client {
    async fn serve(mut self) -> io::Result<()> {
        let mut text = Vec::new();
        let mut request = BufReader::new(&mut self.from).take(REQUEST);
        timeout(PATIENCE, request.read_until(b'\n', &mut text)).await??;
        let request: Request = match serde_json::from_slice(&text) {
            Ok(request) => request,
            Err(error) => return self.send(&Reply::Error(format!("cannot understand the request: {error}"))).await,
        };
        let reply = match request {
            Request::Status => ask(&self.desk.commands, Command::Status).await.map(Reply::Status),
            Request::Events { follow } => return self.tell_events(follow).await,
            Request::Demote { target, demotion } => {
                let demote = |reply| Command::Demote { target, demotion, reply };
                self.noted(ask(&self.desk.commands, demote).await.flatten())
            }
            Request::SealWith { target, id } => {
                let seal_with = |reply| Command::SealWith { target, id, reply };
                self.noted(ask(&self.desk.commands, seal_with).await.flatten())
            }
            Request::Maintenance { on } => self.noted(self.set_maintenance(on).await),
            Request::Upgrade => return self.upgrade().await,
            Request::Reload => self.desk.reload.run(&format!("user {}", self.uid)).await.map(Reply::Done),
        };
        self.send(&reply.unwrap_or_else(Reply::Error)).await
    }

    /// Ends with the process as it is, if all goes well.
    async fn upgrade(&mut self) -> io::Result<()> {
        let about = match self.desk.successor.check().await {
            Ok(about) => Arc::new(about),
            Err(error) => return self.send(&Reply::Error(format!("{error:#}; nothing has changed"))).await,
        };
        let commands = self.desk.commands.clone();
        let plan = |reply| Command::PlanUpgrade { about: Arc::clone(&about), reply };
        match ask(&commands, plan).await {
            // Said beforehand.
            Ok(plan) => self.send(&Reply::Done(plan)).await?,
            Err(error) => return self.send(&Reply::Error(error)).await,
        }
        info!("upgrading, as user {} asked", self.uid);
        match ask(&commands, |failed| Command::Upgrade { about: Arc::clone(&about), failed }).await.flatten() {
            Ok(()) => Ok(()),
            Err(error) => self.send(&Reply::Error(error)).await,
        }
    }

    /// On disk first: what cannot be kept is not done.
    async fn set_maintenance(&self, on: bool) -> Result<String, String> {
        // One after the other, or the disk and the loop could end up apart.
        let _turn = self.desk.maintenance.lock().await;
        let kept = spawn_blocking(move || maintenance::keep(on)).await;
        kept.map_err(anyhow::Error::from).flatten().map_err(|error| format!("{error:#}; nothing has changed"))?;
        ask(&self.desk.commands, |reply| Command::Maintenance { on, reply }).await.flatten()
    }

    /// Who asked for what changes something belongs in the log.
    fn noted(&self, done: Result<String, String>) -> Result<Reply, String> {
        done.map(|done| {
            info!("{done}, as user {} asked", self.uid);
            Reply::Done(done)
        })
    }

    async fn tell_events(&mut self, follow: bool) -> io::Result<()> {
        if !follow {
            for event in self.desk.history.all() {
                self.send(&Reply::Event(event)).await?;
            }
            return Ok(());
        }
        let Ok(_place) = Arc::clone(&self.followers).try_acquire_owned() else {
            return self.send(&Reply::Error(format!("{FOLLOWERS} clients follow already: try again"))).await;
        };
        let (events, mut following) = self.desk.history.follow();
        for event in events {
            self.send(&Reply::Event(event)).await?;
        }
        let mut rest = [0];
        loop {
            let reply = select! {
                event = following.recv() => match event {
                    Ok(event) => Reply::Event(event),
                    Err(RecvError::Lagged(missed)) => Reply::Error(format!("{missed} events were missed")),
                    Err(RecvError::Closed) => return Ok(()),
                },
                // There is no second request: the client has gone, or has lost its mind.
                _ = self.from.read(&mut rest) => return Ok(()),
            };
            self.send(&reply).await?;
        }
    }

    async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        timeout(PATIENCE, self.to.write_all(&line(reply))).await?
    }
}
