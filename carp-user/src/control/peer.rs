//! Who may ask: root, the user that carpd runs as, and the members of the socket's group.
//!
//! The socket's mode says so too, but not in the instant before its group is set, and not where a connection is handed on.

use std::{io, mem, os::fd::AsRawFd};

use nix::{
    libc,
    unistd::{Gid, geteuid},
};
use tokio::net::UnixStream;

/// More groups than these of one user are not looked at.
const GROUPS: usize = 1024;

/// Whether the client may ask; an error is that the kernel does not say who it is.
pub(super) fn may_ask(client: &UnixStream, group: Gid) -> io::Result<bool> {
    let peer = client.peer_cred()?;
    let is_owner = peer.uid() == 0 || peer.uid() == geteuid().as_raw();
    Ok(is_owner || peer.gid() == group.as_raw() || groups(client)?.contains(&group.as_raw()))
}

/// The client's supplementary groups.
fn groups(client: &UnixStream) -> io::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; GROUPS];
    let mut len = (GROUPS * mem::size_of::<libc::gid_t>()) as libc::socklen_t;
    // SAFETY: the kernel writes group ids, no more bytes than `len`, which is the size of the buffer.
    let result = unsafe {
        libc::getsockopt(
            client.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(len as usize / mem::size_of::<libc::gid_t>());
    Ok(groups)
}
