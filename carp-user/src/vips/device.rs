//! Takes VIPs to the device of their virtual MAC, and away with it.

use std::mem;

use log::{error, warn};
use tokio::time::sleep;

use super::{
    TRIES, TRY_AGAIN,
    parent::{self, Parent},
};
use crate::{
    config::Vip,
    net::{self, NetError, Netlink, vmac},
};

/// A virtual host's device: there while its VIPs are here, and only then. On two hosts at once, switches would learn its MAC
/// on the wrong port.
pub(super) struct VirtualMac {
    netlink: Netlink,
    /// How log lines begin.
    name: String,
    vhid: u8,
    /// While the device may be there.
    parent: Option<Parent>,
    /// What was said last to be in the way, so that it is said once.
    trouble: Option<String>,
    /// Whether it was said that routers are listened to.
    listens: bool,
}

impl VirtualMac {
    pub(super) const fn new(netlink: Netlink, name: String, vhid: u8) -> Self {
        Self { netlink, name, vhid, parent: None, trouble: None, listens: false }
    }

    /// Tries to have the VIPs on the device, and this at work; `true` if it is.
    pub(super) async fn has_taken(&mut self, ifindex: u32, vips: &[Vip]) -> bool {
        let trouble = self.try_take(ifindex, vips).await.err().map(|error| error.to_string());
        if let Some(text) = trouble.as_ref().filter(|text| self.trouble.as_ref() != Some(text)) {
            error!("{}: {text}: trying again every {} s", self.name, TRY_AGAIN.as_secs());
        }
        self.trouble = trouble;
        self.trouble.is_none()
    }

    /// Has the device answer for the VIPs no more, and say nothing, in less time than its deletion takes. To remove them takes no
    /// time; but with an IPv6 address goes a group of multicast, of which MLD would tell the switches from the virtual MAC,
    /// which by then is the next master's.
    pub(super) async fn silence(&self, ifindex: u32, vips: &[Vip]) -> Result<(), NetError> {
        if let Some(device) = vmac::find(&self.netlink, ifindex, self.vhid).await? {
            if vips.iter().any(|vip| vip.address.is_ipv6()) {
                return vmac::set_down(&self.netlink, device).await;
            }
            for vip in vips {
                net::vip::remove(&self.netlink, device, *vip).await?;
            }
        }
        Ok(())
    }

    /// Deletes the device, and what is on it. Gives up in the end, so that the agent can stop.
    pub(super) async fn release(&mut self, ifindex: u32) {
        for left in (0..TRIES).rev() {
            let Err(error) = self.try_release(ifindex).await else { break };
            if left == 0 {
                let device = vmac::name(self.vhid, ifindex);
                error!("{}: {error}: giving up; delete it by hand (ip link del {device})", self.name);
                return;
            }
            error!("{}: {error}: trying again", self.name);
            sleep(TRY_AGAIN).await;
        }
        self.parent = None;
        if let Err(error) = parent::restore(&self.netlink, ifindex).await {
            warn!("{}: {error:#}", self.name);
        }
    }

    async fn try_take(&mut self, ifindex: u32, vips: &[Vip]) -> Result<(), NetError> {
        let found = vmac::find(&self.netlink, ifindex, self.vhid).await?;
        if self.parent.is_none() {
            self.parent = Some(Parent::take(&self.netlink, ifindex, &self.name).await);
        }
        let device = match found {
            Some(device) => device,
            None => vmac::create(&self.netlink, ifindex, self.vhid).await?,
        };
        vmac::configure(&self.netlink, device).await?;
        let name = vmac::name(self.vhid, ifindex);
        if let Err(error) = vmac::refuse_routers(&self.netlink, &name, device).await
            && !mem::replace(&mut self.listens, true)
        {
            warn!(
                "{}: cannot write {name}'s accept_ra, {error}: it takes addresses and routes from IPv6 routers",
                self.name
            );
        }
        // Before it is up, so that what comes first is answered.
        for vip in vips {
            net::vip::add_to_device(&self.netlink, device, *vip).await?;
        }
        vmac::set_up(&self.netlink, device).await
    }

    async fn try_release(&self, ifindex: u32) -> Result<(), NetError> {
        match vmac::find(&self.netlink, ifindex, self.vhid).await {
            Ok(Some(device)) => vmac::delete(&self.netlink, device).await,
            Ok(None) | Err(NetError::Foreign { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
