//! What another agent has left, at the start of this one. It may be fenced, and is gone before the fence is.

use std::sync::Arc;

use log::{info, warn};
use tokio::task::spawn_blocking;

use super::{Agent, vhost::VirtualHost};
use crate::{
    datapath::{HeldVip, pins::left},
    lock::Names,
    net::NetError,
    vips::{self, Held, Removed},
};

impl Agent {
    /// Removes the devices and the addresses of virtual hosts that nobody serves any more.
    pub(super) async fn remove_strays(&self) {
        let netlink = &self.shared.netlink;
        let found = Arc::clone(&self.looks.borrow());
        tell(Ok(vips::remove_devices(netlink, &found).await));
        tell(vips::remove_addresses(netlink).await);
    }

    /// Removes what will not be fenced any more: VIPs that no virtual host here has now, and those on interfaces from which
    /// what another agent has attached is to be detached. `false` if some may still be there, and this is told.
    pub(super) async fn remove_unfenced(&self) -> bool {
        let looks = self.looks.borrow().clone();
        let detached = |ifindex: u32| {
            let of = |(name, link): (&String, &super::Link)| {
                let interface = looks.get(name).filter(|interface| interface.index == ifindex)?;
                Some(self.datapath.keeps(link.choice(), interface))
            };
            !self.links.iter().find_map(of).unwrap_or(false)
        };
        let has = |HeldVip { row, ifindex, address }: &HeldVip| {
            let has = |host: &VirtualHost| host.settings().vips.iter().any(|vip| vip.address == *address);
            self.hosts.get(row).is_some_and(has) && !detached(*ifindex)
        };
        let left = self.datapath.all_held().into_iter().filter(|held| !has(held));
        let left: Held = left.map(|held| (held.ifindex, held.address)).collect();
        tell(vips::remove_held(&self.shared.netlink, &left, &self.names()).await)
    }

    /// Gives up: what was attached is detached, and the VIPs that another agent has left are removed first.
    pub(super) async fn leave_nothing(&mut self) {
        let held = self.datapath.all_held().into_iter().map(|held| (held.ifindex, held.address)).collect();
        if tell(vips::remove_held(&self.shared.netlink, &held, &self.names()).await) {
            self.links.values_mut().for_each(|link| link.leave(&mut self.datapath));
        }
    }

    /// Has another thread remove what is left of other network namespaces, which are gone.
    pub(super) fn remove_abandoned(&self) {
        let bpffs = self.datapath.bpffs().to_owned();
        spawn_blocking(move || left::remove_abandoned(&bpffs).iter().for_each(|line| info!("{line}")));
    }

    fn names(&self) -> Names {
        self.hosts.values().map(|host| (host.interface().to_owned(), host.settings().vhid.get())).collect()
    }
}

/// Tells it; whether nothing is left.
fn tell(removed: Result<Vec<Removed>, NetError>) -> bool {
    let removed = removed.unwrap_or_else(|error| vec![Err(error.to_string())]);
    let is_gone = removed.iter().all(Result::is_ok);
    removed.into_iter().for_each(|(Ok(line) | Err(line))| warn!("{line}"));
    is_gone
}
