//! Everything that touches the network: netlink, the advert socket, announcements, group membership.
//! rtnetlink does not leave this module.

pub(crate) mod advert;
pub(crate) mod arp;
pub(crate) mod interface;
pub(crate) mod membership;
pub(crate) mod nd;
pub(crate) mod neighbour;
mod packet_socket;
pub(crate) mod seal;
pub(crate) mod vip;
mod vlan;
pub(crate) mod vmac;

use std::{
    future::pending,
    io,
    sync::{Arc, OnceLock},
    thread,
};

use rtnetlink::Handle;
use thiserror::Error;
use tokio::{
    runtime::{self, Runtime},
    sync::Mutex,
};

pub(crate) use self::packet_socket::{PacketSocket, link_address};
use crate::realtime;

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
///
/// The kernel does what it is asked for while it takes the message: it waits for everything else that changes a network
/// device, on the whole machine, and deletes a device for some 30 ms. So a thread of its own asks, lest the adverts wait.
#[derive(Clone)]
pub(crate) struct Netlink {
    handle: Handle,
    dumps: Arc<Mutex<()>>,
}

impl Netlink {
    /// Opens the socket.
    pub(crate) fn connect() -> Result<Self, NetError> {
        let beside = thread_that_asks().map_err(NetError::Open)?;
        let _guard = beside.enter();
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetError::Open)?;
        beside.spawn(connection);
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

/// The thread that talks to the kernel, as long as the process lives.
fn thread_that_asks() -> io::Result<&'static runtime::Handle> {
    static THREAD: OnceLock<runtime::Handle> = OnceLock::new();
    if let Some(handle) = THREAD.get() {
        return Ok(handle);
    }
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let handle = runtime.handle().clone();
    let run = move |runtime: Runtime| {
        // The VIPs wait for it.
        realtime::enlist();
        runtime.block_on(pending::<()>());
    };
    thread::Builder::new().name("carpd-netlink".to_owned()).spawn(move || run(runtime))?;
    Ok(THREAD.get_or_init(|| handle))
}
