//! Adding and removing VIPs.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use nix::libc;
use rtnetlink::Handle;

use super::NetError;
use crate::config::Vip;

/// Adds a VIP to an interface; one that is there already stays.
pub(crate) async fn add(handle: &Handle, ifindex: u32, vip: Vip) -> Result<(), NetError> {
    let request = handle.address().add(ifindex, IpAddr::V4(vip.address), vip.prefix);
    request.replace().execute().await.map_err(NetError::request(format!("add {vip}")))
}

/// Removes a VIP from an interface, under whatever prefix length it is there; one that is not there is no
/// error.
pub(crate) async fn remove(handle: &Handle, ifindex: u32, address: Ipv4Addr) -> Result<(), NetError> {
    let failed = || NetError::request(format!("remove {address}"));
    let get = handle.address().get().set_link_index_filter(ifindex).set_address_filter(IpAddr::V4(address));
    let found: Vec<_> = get.execute().try_collect().await.map_err(failed())?;
    for message in found {
        match handle.address().del(message).execute().await {
            Err(rtnetlink::Error::NetlinkError(error))
                if matches!(-error.raw_code(), libc::EADDRNOTAVAIL | libc::ENODEV) => {}
            result => result.map_err(failed())?,
        }
    }
    Ok(())
}
