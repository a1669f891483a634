//! Keeps the VIPs where they belong: on this host while it is MASTER, and nowhere here otherwise.
//!
//! A task of its own, so that neither a slow kernel nor a script that hangs holds up the adverts. The agent
//! sets a goal; a later goal overrules an earlier one that is not reached yet, and ends its script.

mod device;
mod parent;
mod strays;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use carp_common::engine::Input;
use log::{error, warn};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use self::device::VirtualMac;
pub(crate) use self::{
    parent::restore_all,
    strays::{Held, Removed, remove_addresses, remove_devices, remove_held},
};
use crate::{
    config::{Settings, Vip, VipMac},
    net::{
        self, Netlink,
        interface::{self, Interface},
        vmac,
    },
    scripts::Run,
};

/// Time between two tries to add or remove a VIP.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Shortest time between two repairs: something else that wants the addresses elsewhere gets no faster answer.
const REPAIR_AGAIN: Duration = Duration::from_secs(1);
/// Tries to remove a VIP before the agent is told that it is over all the same, or to add one before it is told of the failure.
const TRIES: u32 = 3;

/// How far a virtual host, by its row, is on the way to its goal.
pub(crate) type Report = (u32, Progress);

/// What the agent learns on the way to a goal.
pub(crate) enum Progress {
    /// The VIPs are taken or released: [`Input::VipsTaken`] or [`Input::VipsReleased`].
    Vips(Input),
    /// Nothing is left to do.
    Settled,
}

/// The virtual host whose VIPs they are.
pub(crate) struct Owner {
    /// Its row.
    pub(crate) row: u32,
    /// "eth0 vhid 1", as log lines begin.
    pub(crate) name: String,
    /// Name of its interface.
    pub(crate) interface: String,
    /// Counts its scripts that failed.
    pub(crate) script_failures: Counter,
}

/// What may still be where it belongs no more.
#[derive(Clone, Default)]
pub(crate) struct Leftovers {
    /// On the interface.
    pub(crate) vips: Vec<Vip>,
    /// The virtual MAC's device, or VIPs on it.
    pub(crate) device: bool,
}

/// The agent's end: sets the goal.
pub(crate) struct VipKeeper {
    goal: watch::Sender<Option<Goal>>,
    /// Whether nothing is left to do for the last goal, and no other has been set since.
    settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Goal {
    ifindex: u32,
    /// Whether the VIPs belong here.
    held: bool,
    /// Something else has changed the addresses: say so if it is true.
    is_repair: bool,
}

impl VipKeeper {
    /// Starts the task; it reports to `reports` when a goal is reached, in the name of `owner`. The first goal removes
    /// the leftovers, too.
    pub(crate) fn start(
        netlink: Netlink,
        owner: Owner,
        settings: Arc<Settings>,
        reports: mpsc::Sender<Report>,
        leftovers: Leftovers,
    ) -> Self {
        let (goal, goals) = watch::channel(None);
        let device = VirtualMac::new(netlink.clone(), owner.name.clone(), settings.vhid.get());
        tokio::spawn(Task { netlink, owner, settings, reports, leftovers, device, repaired: None }.run(goals));
        Self { goal, settled: true }
    }

    /// Wants the VIPs here, or gone. Answered with [`Input::VipsTaken`] or [`Input::VipsReleased`].
    pub(crate) fn want(&mut self, ifindex: u32, held: bool) {
        self.settled = false;
        self.goal.send_replace(Some(Goal { ifindex, held, is_repair: false }));
    }

    /// Nothing is left to do for the goal, as the task has reported. A report can be of no goal but the last: setting one ends
    /// the pursuit of the one before at once, and the loop handles every report before it sets the next.
    pub(crate) const fn settle(&mut self) {
        self.settled = true;
    }

    /// Whether nothing is left to do.
    pub(crate) const fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether VIPs are still being taken or released on another interface than this one.
    pub(crate) fn is_busy_elsewhere(&self, ifindex: u32) -> bool {
        !self.settled && self.goal.borrow().is_some_and(|goal| goal.ifindex != 0 && goal.ifindex != ifindex)
    }

    /// Something else may have changed the addresses: looks, and puts them right. Answered as
    /// [`Self::want`] if there was something to do. Does nothing while a goal is being pursued.
    pub(crate) fn repair(&mut self, ifindex: u32, held: bool) {
        if self.settled {
            self.goal.send_replace(Some(Goal { ifindex, held, is_repair: true }));
        }
    }
}

struct Task {
    netlink: Netlink,
    owner: Owner,
    settings: Arc<Settings>,
    reports: mpsc::Sender<Report>,
    leftovers: Leftovers,
    device: VirtualMac,
    /// When something was last put right.
    repaired: Option<Instant>,
}

impl Task {
    async fn run(mut self, mut goals: watch::Receiver<Option<Goal>>) {
        while goals.changed().await.is_ok() {
            let Some(goal) = *goals.borrow_and_update() else { continue };
            // Seen by a clone only: what comes in the meantime is looked at next, whether it overrules or not.
            let later = goals.clone();
            select! {
                biased;
                () = overruled(goal, later) => {}
                () = self.pursue(goal) => {}
            }
        }
    }

    async fn pursue(&mut self, goal: Goal) {
        if goal.is_repair {
            self.repair(goal).await;
        } else {
            self.reach(goal).await;
        }
    }

    async fn report(&self, progress: Progress) {
        self.reports.send((self.owner.row, progress)).await.ok();
    }

    /// Takes or releases the VIPs, by script if there is one.
    async fn reach(&mut self, goal: Goal) {
        self.clean(goal.ifindex).await;
        let is_virtual = self.settings.mac == VipMac::Virtual;
        match &self.settings.scripts {
            Some(scripts) => {
                let script = if goal.held { &scripts.up } else { &scripts.down };
                if let Some(script) = script {
                    let (owner, vips) = (&self.owner, &self.settings.vips);
                    Run { script, scripts, owner, vips, goes_on: !goal.held }.run().await;
                }
            }
            None if goal.held => self.take(goal.ifindex).await,
            None if is_virtual => {
                // The next master need not wait until it is deleted.
                if self.device.silence(goal.ifindex, &self.settings.vips).await.is_ok() {
                    self.report(Progress::Vips(Input::VipsReleased)).await;
                }
                self.device.release(goal.ifindex).await;
            }
            None => self.remove(goal.ifindex, &self.settings.vips).await,
        }
        self.report(Progress::Vips(if goal.held { Input::VipsTaken } else { Input::VipsReleased })).await;
        self.report(Progress::Settled).await;
    }

    /// Puts right what something else has changed, unless a script is in charge.
    async fn repair(&mut self, goal: Goal) {
        if self.settings.scripts.is_some() {
            return;
        }
        // Whoever changes the addresses may do so again at once, and for ever.
        if let Some(repaired) = self.repaired {
            sleep_until(repaired + REPAIR_AGAIN).await;
        }
        // What the agent saw may be older than what this task has done since.
        let Ok(Some(now)) = interface::look_at(&self.netlink, &self.owner.interface).await else { return };
        if now.index != goal.ifindex {
            return;
        }
        let Some(wrong) = wrong(&self.settings, &now, goal.held) else { return };
        warn!("{}: {wrong}", self.owner.name);
        if let Wrong::Leftover { is_device, .. } = wrong {
            self.leftovers = if is_device {
                Leftovers { vips: vec![], device: true }
            } else {
                Leftovers { vips: self.settings.vips.clone(), device: false }
            };
        }
        self.reach(goal).await;
        self.repaired = Some(Instant::now());
    }

    /// Removes what is left over.
    async fn clean(&mut self, ifindex: u32) {
        self.remove(ifindex, &self.leftovers.vips).await;
        if self.leftovers.device {
            match self.settings.mac {
                VipMac::Interface => self.device.release(ifindex).await,
                VipMac::Virtual => self.prune().await,
            }
        }
        self.leftovers = Leftovers::default();
    }

    /// Removes from the device what is no VIP any more.
    async fn prune(&self) {
        let vips = &self.settings.vips;
        let Ok(Some(now)) = interface::look_at(&self.netlink, &self.owner.interface).await else { return };
        let Some(device) = now.device(self.settings.vhid.get()).filter(|device| device.is_ours) else { return };
        let is_other = |address: &&IpAddr| vips.iter().all(|vip| vip.address != **address);
        let others = device.addresses.iter().filter(is_other).map(|address| Vip { address: *address, prefix: 0 });
        self.remove(device.index, &others.collect::<Vec<_>>()).await;
    }

    /// Adds the VIPs, trying until it works or is overruled; the agent learns that it does not.
    async fn take(&mut self, ifindex: u32) {
        let mut tries = 0;
        while !self.has_taken(ifindex).await {
            tries += 1;
            if tries == TRIES {
                self.report(Progress::Vips(Input::VipsFailed)).await;
            }
            sleep(TRY_AGAIN).await;
        }
    }

    async fn has_taken(&mut self, ifindex: u32) -> bool {
        let (name, vips) = (&self.owner.name, &self.settings.vips);
        if self.settings.mac == VipMac::Virtual {
            return self.device.has_taken(ifindex, vips).await;
        }
        let mut all_here = true;
        for vip in vips {
            if let Err(error) = net::vip::add(&self.netlink, ifindex, *vip).await {
                error!("{name}: {error}: trying again every {} s", TRY_AGAIN.as_secs());
                all_here = false;
            }
        }
        all_here
    }

    /// Removes the VIPs. Gives up in the end, so that the agent can stop.
    async fn remove(&self, ifindex: u32, vips: &[Vip]) {
        for vip in vips {
            for left in (0..TRIES).rev() {
                let Err(error) = net::vip::remove(&self.netlink, ifindex, *vip).await else { break };
                if left == 0 {
                    error!("{}: {error}: giving up; remove it by hand (ip address del)", self.owner.name);
                    break;
                }
                error!("{}: {error}: trying again", self.owner.name);
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Waits until a later goal overrules this one. Word of the changes that a repair itself makes does not.
async fn overruled(goal: Goal, mut goals: watch::Receiver<Option<Goal>>) {
    while goals.changed().await.is_ok() {
        if !goal.is_repair || *goals.borrow_and_update() != Some(goal) {
            return;
        }
    }
}

/// What something else has changed.
pub(crate) enum Wrong {
    /// It is gone.
    Missing(String),
    /// It is here, on a host that is not master.
    Early(String),
    /// It is, in whatever state, where it does not belong.
    Leftover {
        what: String,
        /// The virtual MAC's device, and not a VIP.
        is_device: bool,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(what) => write!(f, "something else removed {what}, which this master needs: putting it back"),
            Self::Early(what) => write!(f, "{what} is here although this host is not master: removing it"),
            Self::Leftover { what, .. } => write!(f, "{what}, where the VIPs do not belong: removing it"),
        }
    }
}

/// What is not as it should be on this interface.
pub(crate) fn wrong(settings: &Settings, now: &Interface, held: bool) -> Option<Wrong> {
    let vhid = settings.vhid.get();
    let name = vmac::name(vhid, now.index);
    let device = now.device(vhid).filter(|device| device.is_ours);
    match settings.mac {
        VipMac::Interface => {
            if let Some(vip) = settings.vips.iter().find(|vip| now.has(vip.address) != held) {
                return Some(if held { Wrong::Missing(vip.to_string()) } else { Wrong::Early(vip.to_string()) });
            }
            device.map(|_| Wrong::Leftover { what: format!("{name} is here"), is_device: true })
        }
        VipMac::Virtual => {
            if let Some(vip) = settings.vips.iter().find(|vip| now.has(vip.address)) {
                return Some(Wrong::Leftover { what: format!("{vip} is on the interface itself"), is_device: false });
            }
            let Some(device) = device else { return held.then_some(Wrong::Missing(name)) };
            if !held {
                return Some(Wrong::Early(name));
            }
            let missing = settings.vips.iter().find(|vip| !device.addresses.contains(&vip.address));
            match missing {
                Some(vip) => Some(Wrong::Missing(format!("{vip} from {name}"))),
                None if !device.is_up => Some(Wrong::Missing(format!("{name} from service"))),
                None => None,
            }
        }
    }
}
