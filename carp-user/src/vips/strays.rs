//! What a carpd that was killed has left of virtual hosts that nobody serves any more.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    config::Vip,
    lock::{self, Lock, Names},
    net::{
        NetError, Netlink,
        interface::{self, Interfaces},
        vip::{self, marked},
        vmac,
    },
};

/// What was removed, or could not be, in a line.
pub(crate) type Removed = Result<String, String>;

/// VIPs, with the indices of the interfaces of their virtual hosts.
pub(crate) type Held = BTreeSet<(u32, IpAddr)>;

/// Deletes the devices on these interfaces of virtual hosts that no carpd serves: one that was killed had them.
pub(crate) async fn remove_devices(netlink: &Netlink, interfaces: &Interfaces) -> Vec<Removed> {
    let mut removed = vec![];
    for (name, interface) in interfaces.iter() {
        for device in interface.devices.iter().filter(|device| device.is_ours) {
            // Whoever serves it has its lock; so does this process, for its own.
            let Ok(_lock) = Lock::take(name, device.vhid) else { continue };
            let device_name = vmac::name(device.vhid, interface.index);
            let deleted = vmac::delete(netlink, device.index).await;
            removed.push(match deleted {
                Ok(()) => Ok(format!("{name} vhid {}: {device_name} was left by a carpd that is gone: removed", device.vhid)),
                Err(error) => Err(format!(
                    "{device_name} was left by a carpd that is gone: {error}; delete it by hand (ip link del {device_name})"
                )),
            });
        }
    }
    removed
}

/// Removes the addresses that a carpd has added, on all interfaces, unless one serves them. Which it does stands in its
/// locks; where one does not say, nothing is removed.
///
/// # Errors
/// The addresses cannot be read.
pub(crate) async fn remove_addresses(netlink: &Netlink) -> Result<Vec<Removed>, NetError> {
    let marked = marked(netlink).await?;
    if marked.is_empty() {
        return Ok(vec![]);
    }
    let names = interface::names(netlink).await?;
    let mut removed = vec![];
    for marked in marked {
        // Those on a device go with it.
        let Some(name) = names.get(&marked.ifindex).filter(|name| vmac::parse(name).is_none()) else { continue };
        let address = marked.vip.address.to_string();
        let what = format!("{name}: {} was left by a carpd that is gone", marked.vip);
        match lock::served(name, &Names::new()) {
            Ok(Some(served)) if !served.contains(&address) => {}
            Ok(_) => continue,
            Err(error) => {
                removed.push(Err(format!("{what}, or is served: {error:#}")));
                continue;
            }
        }
        removed.push(match vip::remove_marked(netlink, marked).await {
            Ok(()) => Ok(format!("{what}: removed")),
            Err(error) => Err(format!("{what}: {error}; remove it by hand (ip address del)")),
        });
    }
    Ok(removed)
}

/// Removes VIPs that a carpd held which is gone, whoever has added them, on their interfaces and on the devices there; unless
/// another serves them, beside these `own` virtual hosts.
///
/// # Errors
/// The addresses cannot be read.
pub(crate) async fn remove_held(netlink: &Netlink, held: &Held, own: &Names) -> Result<Vec<Removed>, NetError> {
    if held.is_empty() {
        return Ok(vec![]);
    }
    let names = interface::names(netlink).await?;
    let names = names.into_iter().filter(|(ifindex, _)| held.iter().any(|(of, _)| of == ifindex));
    let found = interface::look(netlink, &names.map(|(_, name)| name).collect()).await?;
    let mut removed = vec![];
    for (name, interface) in found.iter() {
        let on_devices = interface.devices.iter().filter(|device| device.is_ours);
        let on_devices = on_devices.flat_map(|device| device.addresses.iter().map(|address| (device.index, *address)));
        let all = interface.addresses.iter().map(|own| (interface.index, own.ip)).chain(on_devices);
        let left: BTreeSet<_> = all.filter(|(_, address)| held.contains(&(interface.index, *address))).collect();
        for (ifindex, address) in left {
            let what = format!("{name}: {address} was left by a carpd that is gone");
            let served = match lock::served(name, own) {
                Ok(Some(served)) => served,
                Ok(None) => {
                    removed.push(Err(format!("{what}, or is served by one that does not say so yet: try again")));
                    continue;
                }
                Err(error) => {
                    removed.push(Err(format!("{what}, or is served: {error:#}")));
                    continue;
                }
            };
            if served.contains(&address.to_string()) {
                continue;
            }
            removed.push(match vip::remove(netlink, ifindex, Vip { address, prefix: 0 }).await {
                Ok(()) => Ok(format!("{what}: removed")),
                Err(error) => Err(format!("{what}: {error}; remove it by hand (ip address del)")),
            });
        }
    }
    Ok(removed)
}
