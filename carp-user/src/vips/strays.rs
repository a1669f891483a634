//! What a carpd that was killed has left of virtual hosts that nobody serves any more.

use crate::{
    lock::{self, Lock},
    net::{
        NetError, Netlink,
        interface::{self, Interfaces},
        vip::{self, marked},
        vmac,
    },
};

/// What was removed, or could not be, in a line.
pub(crate) type Removed = Result<String, String>;

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
        let Ok(Some(served)) = lock::served(name) else { continue };
        if served.contains(&address) {
            continue;
        }
        let what = format!("{name}: {} was left by a carpd that is gone", marked.vip);
        removed.push(match vip::remove_marked(netlink, marked).await {
            Ok(()) => Ok(format!("{what}: removed")),
            Err(error) => Err(format!("{what}: {error}; remove it by hand (ip address del)")),
        });
    }
    Ok(removed)
}
