//! The mastership lease of a virtual host, where the kernel enforces one.

use carp_common::{
    abi::{Deadline, Held},
    engine::{Input, Lease},
    time::Time,
    wire::virtual_mac,
};
use log::warn;

use super::VirtualHost;
use crate::{config::lease::Fence, datapath::Datapath, net::interface::Interface, vips};

impl VirtualHost {
    /// Takes note of whether the kernel can enforce a lease on its interface.
    pub(super) fn look_at_fence(&mut self, datapath: &mut Datapath, interface: &Interface) {
        let why_not = match self.settings.lease.fence {
            Fence::Off => Some("off".to_owned()),
            // It is to go on as master without sending anything.
            Fence::Auto | Fence::Required if self.settings.ignore_link_state => Some("ignore_link_state".to_owned()),
            Fence::Auto | Fence::Required => datapath.cannot_fence(self.ifindex),
        };
        self.mortal_fence = datapath.why_unpinned().filter(|_| why_not.is_none()).map(str::to_owned);
        if self.no_fence.as_ref() == Some(&why_not) {
            return;
        }
        match &why_not {
            None => {
                // A carpd that is gone may have left the VIPs, and nothing else.
                if self.is_master() || vips::wrong(&self.settings, interface, false).is_some() {
                    self.hold(datapath);
                }
                if !self.is_master() && self.resumes_until.is_none() {
                    self.set_lease(datapath, Lease::Over);
                }
            }
            Some(why) => {
                // That of an agent that is gone, if there is one.
                self.set_lease(datapath, Lease::None);
                if self.no_fence == Some(None) && self.settings.lease.fence != Fence::Off {
                    warn!("{}: no lease any more: {why}", self.name);
                }
            }
        }
        self.handle(Input::Fence(why_not.is_none()));
        self.no_fence = Some(why_not);
    }

    /// Goes on as master where an agent that is gone was one, and its lease is not over; once, at the first look at the
    /// interface.
    pub(super) fn resume(&mut self) {
        if let Some(until) = self.resumes_until.take() {
            self.handle(Input::Resume { until });
            if self.is_master() {
                // Who has served until now is ready.
                self.gate = None;
            }
        }
    }

    /// The interface on which it is about to go on as master.
    pub(in crate::agent) fn resumes_on(&self) -> Option<u32> {
        self.resumes_until.and_then(|_| self.held.first()).map(|(ifindex, _)| *ifindex)
    }

    /// Whether the kernel can enforce a lease on its interface.
    pub(in crate::agent) fn has_fence(&self) -> bool {
        self.no_fence == Some(None)
    }

    /// Why there is no lease, if there is to be one without fail and that is known.
    pub(in crate::agent) fn missing_fence(&self) -> Option<String> {
        if self.settings.lease.fence != Fence::Required {
            return None;
        }
        let why = self.no_fence.as_ref()?.clone().or_else(|| self.too_tight());
        let none = why.map(|why| format!("and there can be none: {why}"));
        let mortal = || Some(format!("and it would go with a carpd that is killed: {}", self.mortal_fence.as_ref()?));
        Some(format!("{}: fence = \"required\", {}", self.name, none.or_else(mortal)?))
    }

    /// What there is, in words.
    pub(super) fn fence(&self) -> String {
        match self.no_fence.as_ref().map(|why_not| why_not.clone().or_else(|| self.too_tight())) {
            None => "none (no interface)".to_owned(),
            Some(None) => match &self.mortal_fence {
                None => "lease".to_owned(),
                Some(why) => format!("lease, while carpd lives ({why})"),
            },
            Some(Some(why)) => format!("none ({why})"),
        }
    }

    /// What the administrator should know of it, unless it was turned off, or is told as a trouble.
    pub(super) fn fence_hint(&self) -> Option<String> {
        let none = self.no_fence.as_ref()?.clone().or_else(|| self.too_tight());
        let (when, why) = none.map(|why| ("hangs", why)).or_else(|| Some(("is killed", self.mortal_fence.clone()?)))?;
        (self.settings.lease.fence == Fence::Auto)
            .then(|| format!("if carpd {when}, this host goes on answering for the VIPs beside the next master: {why}"))
    }

    fn too_tight(&self) -> Option<String> {
        let config = self.engine.config();
        let unknown = config.advbase.get() == 0 && config.peer_advskew.is_none();
        let advice = if unknown { "; with peer_advskew they may not be" } else { "" };
        self.engine.lease().is_none().then(|| format!("timers too tight{advice}"))
    }

    /// Whether an advert that went to nobody renews the lease all the same: the exception, for peers of which none has
    /// answered since carpd began, because all of them are down, say. As long as none is heard, this host is the only one as far
    /// as it can tell, and without a lease nobody would answer for the VIPs. One that is heard does not hear this host, and
    /// becomes master.
    pub(super) fn is_alone(&self, now: Time) -> bool {
        !self.hears_others(now)
    }

    /// Has the kernel enforce this.
    pub(super) fn set_lease(&self, datapath: &mut Datapath, lease: Lease) {
        let deadline = match lease {
            Lease::None => Deadline::NONE,
            Lease::Over => Deadline::CUT,
            Lease::Claim(until) => Deadline::claiming(until.as_nanos()),
            Lease::Until(until) => Deadline::serving(until.as_nanos()),
        };
        if let Err(error) = datapath.set_lease(self.row, deadline) {
            warn!("{}: {error}", self.name);
        }
    }

    /// Has the fence know all VIPs that this host is about to have.
    pub(super) fn hold(&mut self, datapath: &mut Datapath) {
        let held = Held::new(self.row, [self.mac, virtual_mac(self.settings.vhid.get())]);
        for vip in &self.settings.vips {
            match datapath.hold(self.ifindex, vip.address, &held) {
                Ok(()) => drop(self.held.insert((self.ifindex, vip.address))),
                Err(error) => warn!("{}: {vip} is not fenced: {error}", self.name),
            }
        }
    }

    /// Has the fence forget the VIPs that this host does not have any more.
    pub(super) fn release(&mut self, datapath: &mut Datapath) {
        let is_master = self.is_master();
        let (ifindex, vips) = (self.ifindex, &self.settings.vips);
        let has =
            |(at, address): &(u32, _)| is_master && *at == ifindex && vips.iter().any(|vip| vip.address == *address);
        for (ifindex, address) in self.held.extract_if(.., |held| !has(held)) {
            datapath.release(ifindex, address, self.row);
        }
    }
}
