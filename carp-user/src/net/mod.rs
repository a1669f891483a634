//! Everything that touches the network: netlink, the advert socket, gratuitous ARP, group membership.
//! rtnetlink does not leave this module.

pub(crate) mod advert;
pub(crate) mod arp;
pub(crate) mod interface;
pub(crate) mod membership;
mod packet_socket;
pub(crate) mod vip;
mod vlan;

use std::io;

use rtnetlink::Handle;
use thiserror::Error;

pub(crate) use self::packet_socket::{PacketSocket, link_address};

/// What went wrong in a conversation with the kernel over netlink.
#[derive(Debug, Error)]
pub(crate) enum NetError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// A request was refused.
    #[error("cannot {what}: {source}")]
    Request {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
}

impl NetError {
    fn request(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Request { what, source }
    }
}

/// Opens a netlink socket for requests. Must be called within the runtime.
pub(crate) fn connect() -> Result<Handle, NetError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NetError::Open)?;
    tokio::spawn(connection);
    Ok(handle)
}
