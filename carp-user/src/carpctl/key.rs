//! Keys of sealed adverts.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Subcommand, value_parser};
use nix::unistd::Group;
use zeroize::Zeroizing;

use super::{Which, status::columns};
use crate::control::{GROUP, protocol::Status};

/// Random bytes of a key; twice as many hexadecimal digits, which is as long as a key may be.
const BYTES: usize = 32;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a key of 256 random bits, for all servers of a group
    New {
        /// A file for it, which must not exist; without it, it is printed
        file: Option<PathBuf>,
    },
    /// Tell who seals with which key
    List,
    /// Seal with another of the configured keys, until a reload or a restart
    Use {
        /// The id of the key
        #[arg(value_parser = value_parser!(u8).range(1..))]
        id: u8,
        #[command(flatten)]
        which: Which,
    },
}

/// Makes a key, and says where it is unless it is printed.
pub(super) fn new(file: Option<&Path>, out: &mut impl Write) -> Result<()> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    getrandom::fill(&mut *bytes).context("the kernel has no random numbers")?;
    // No more room than is needed from the start: what a String leaves behind when it grows is not wiped.
    let mut key = Zeroizing::new(String::with_capacity(2 * BYTES + 1));
    for byte in *bytes {
        for digit in [byte >> 4, byte & 15] {
            key.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    key.push('\n');
    let Some(file) = file else {
        out.write_all(key.as_bytes())?;
        return Ok(());
    };
    let cannot = || format!("cannot make {}", file.display());
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).with_context(cannot)?;
    let written = made.write_all(key.as_bytes()).and_then(|()| made.sync_all());
    if written.is_err() {
        // Or it would be in the way of the next try.
        fs::remove_file(file).ok();
    }
    written.with_context(cannot)?;
    let group = Group::from_name(GROUP).ok().flatten();
    // As the service reads it.
    let is_shared = group.is_some_and(|group| {
        fchown(&made, None, Some(group.gid.as_raw())).is_ok()
            && made.set_permissions(Permissions::from_mode(0o640)).is_ok()
    });
    let readers = if is_shared { "root and the group carp" } else { "its owner" };
    writeln!(
        out,
        "{} has the key, for {readers} to read: the other servers need the same; name it in seal_keys",
        file.display()
    )?;
    Ok(())
}

/// Who seals with what.
pub(super) fn list(status: &Status, out: &mut impl Write) -> io::Result<()> {
    let mut rows = vec![["INTERFACE", "VHID", "SEAL", "KEYS", "SERVER", "KEY"].map(str::to_owned).to_vec()];
    for host in &status.virtual_hosts {
        let keys: Vec<_> = host.seal.keys.iter().map(u8::to_string).collect();
        let begin = [host.interface.clone(), host.vhid.to_string(), host.seal.mode.clone(), keys.join(" ")];
        let key = |key: Option<u8>| key.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let own = ("this one".to_owned(), key(host.seal.sends_with));
        let others = host.seal.peers.iter().map(|peer| {
            let used = peer.why.clone().unwrap_or_else(|| key(peer.key));
            (peer.address.to_string(), used)
        });
        for (server, key) in [own].into_iter().chain(others) {
            rows.push(begin.iter().cloned().chain([server, key]).collect());
        }
    }
    out.write_all(columns(&rows).as_bytes())
}
