//! Everything that touches the network: netlink, the advert socket, announcements, group membership.
//! rtnetlink does not leave this module.

pub(crate) mod advert;
pub(crate) mod arp;
pub(crate) mod interface;
pub(crate) mod membership;
pub(crate) mod nd;
pub(crate) mod neighbour;
mod packet_socket;
pub(crate) mod vip;
mod vlan;
pub(crate) mod vmac;

use std::{io, sync::Arc};

use rtnetlink::Handle;
use thiserror::Error;
use tokio::sync::Mutex;

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
    /// Something else has the name of a virtual MAC's device.
    #[error(
        "{name} is there, and is not what carpd makes by this name: rename or delete it (ip link set {name} name ...)"
    )]
    Foreign {
        /// The name.
        name: String,
    },
    /// Something has deleted a virtual MAC's device as soon as it was there.
    #[error("{name} is gone as soon as it is made")]
    Vanished {
        /// Its name.
        name: String,
    },
}

impl NetError {
    fn request(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Request { what, source }
    }
}

/// A netlink socket for requests, shared by all that ask.
#[derive(Clone)]
pub(crate) struct Netlink {
    handle: Handle,
    dumps: Arc<Mutex<()>>,
}

impl Netlink {
    /// Opens the socket. Must be called within the runtime.
    pub(crate) fn connect() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle, dumps: Arc::default() })
    }

    /// Lists something. Of one socket the kernel takes one such request at a time, and refuses others meanwhile
    /// (EBUSY): each waits for its turn, and is finished also if nobody waits for it any more.
    /// The request goes out when its stream is made, so `list` makes it.
    async fn dump<F: Future<Output: Send> + Send + 'static>(&self, list: impl FnOnce(Handle) -> F) -> F::Output {
        let turn = Arc::clone(&self.dumps).lock_owned().await;
        let list = list(self.handle.clone());
        let listing = tokio::spawn(async move {
            let listed = list.await;
            drop(turn);
            listed
        });
        listing.await.expect("nothing ends a listing before its end")
    }
}
