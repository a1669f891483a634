//! What demotes a virtual host, and what holds it back in INIT.

use std::{fmt, sync::Arc};

use carp_common::{
    engine::{Demotion, Input, LinkFault},
    time::Time,
};
use log::{info, warn};

use super::VirtualHost;
use crate::{
    agent::tracking::{View, Worst},
    checks::Healths,
    config::failover::{Failover, Script},
    control::protocol::Source,
};

/// By how much a member that cannot be master at all demotes the others of its group: as FreeBSD does.
const CANNOT_BE_MASTER: u8 = 240;

/// Something that is tracked, and what is wrong with it.
pub(super) struct Tracked<'a> {
    kind: &'static str,
    name: &'a str,
    demote: u8,
    wrong: Option<Wrong<'a>>,
}

/// What is wrong.
enum Wrong<'a> {
    Interface(LinkFault),
    Script(&'a str),
}

impl fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(fault) => fault.fmt(f),
            Self::Script(failure) => f.write_str(failure),
        }
    }
}

impl Tracked<'_> {
    /// By how much it demotes now.
    fn by(&self) -> u8 {
        if self.wrong.is_some() { self.demote } else { 0 }
    }

    fn source(&self) -> Source {
        Source {
            source: format!("{} {}", self.kind, self.name),
            by: self.by(),
            why: self.wrong.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// Why a new virtual host is held back at first.
pub(super) fn closed_gate(failover: &Failover) -> Option<LinkFault> {
    if !failover.startup_delay.is_zero() {
        Some(LinkFault::StartupDelay)
    } else {
        failover.ready.as_ref().map(|_| LinkFault::NotReady)
    }
}

impl VirtualHost {
    /// The failover group, unless it is leaving that.
    pub(in crate::agent) fn group(&self) -> Option<&str> {
        self.settings.failover.group.as_deref().filter(|_| !self.engine.is_stopping())
    }

    /// Whether anything demotes it beside its own failures and the administrator, or did.
    pub(in crate::agent) fn is_tracked(&self) -> bool {
        let Failover { group, interfaces, scripts, .. } = &self.settings.failover;
        let demotion = self.engine.status().demotion;
        group.is_some()
            || !interfaces.is_empty()
            || !scripts.is_empty()
            || demotion.tracked() > 0
            || demotion.group() > 0
    }

    /// By how much it demotes the others of its group.
    pub(in crate::agent) fn trouble(&self, view: View<'_>) -> u8 {
        let own = self.engine.status().demotion.failures().saturating_add(self.tracked_by(view));
        if self.fault.is_some() { own.max(CANNOT_BE_MASTER) } else { own }
    }

    /// Takes note of what is tracked for it, and of how its group is; `true` if it is demoted otherwise than before.
    pub(in crate::agent) fn track(&mut self, view: View<'_>, worst: Option<&Worst>) -> bool {
        let own = self.tracked_by(view);
        // As much as the worst one, and no more: so all of the group compare alike with their peers.
        let group = worst.map_or(0, |worst| worst.by.saturating_sub(self.trouble(view)));
        let wrong = self.tracked(view).filter(|tracked| tracked.wrong.is_some());
        self.wrong = wrong.map(|tracked| tracked.source()).collect();
        self.group_cause = worst.filter(|_| group > 0).map(|worst| worst.name.clone());
        let demotion = self.engine.status().demotion;
        if (demotion.tracked(), demotion.group()) == (own, group) {
            return false;
        }
        self.handle(Input::Tracked { own, group });
        true
    }

    fn tracked_by(&self, view: View<'_>) -> u8 {
        self.tracked(view).fold(0, |sum, tracked| sum.saturating_add(tracked.by()))
    }

    fn tracked<'a>(&'a self, View { looks, healths }: View<'a>) -> impl Iterator<Item = Tracked<'a>> {
        let Failover { interfaces, scripts, .. } = &self.settings.failover;
        let interfaces = interfaces.iter().map(move |tracked| Tracked {
            kind: "interface",
            name: &tracked.name,
            demote: tracked.demote,
            wrong: looks.fault(&tracked.name).map(Wrong::Interface),
        });
        let failure = move |script: &Script| healths.get(&script.name)?.failure.as_deref();
        let scripts = scripts.iter().map(move |script| Tracked {
            kind: "script",
            name: &script.name,
            demote: script.demote,
            wrong: failure(script).map(Wrong::Script),
        });
        interfaces.chain(scripts)
    }

    /// Tells the administrator of a change of the demotion counter.
    pub(super) fn tell_demotion(&self, demotion: Demotion) {
        let name = &self.name;
        let causes = self.causes(demotion);
        match demotion.get() {
            0 => info!("{name}: demotion ends"),
            total if demotion.own() == 0 && demotion.group() == 0 => info!("{name}: demoted by {total}: {causes}"),
            total => warn!("{name}: demoted by {total}: {causes}"),
        }
    }

    fn causes(&self, demotion: Demotion) -> String {
        let mut causes = vec![];
        if demotion.manual() > 0 {
            causes.push(format!("as was asked ({})", demotion.manual()));
        }
        if demotion.maintenance() > 0 {
            causes.push(format!("maintenance ({})", demotion.maintenance()));
        }
        if demotion.send_errors() > 0 {
            causes.push(format!("adverts cannot be sent ({})", demotion.send_errors()));
        }
        if demotion.no_vips() > 0 {
            causes.push(format!("the addresses cannot be added ({})", demotion.no_vips()));
        }
        causes.extend(self.wrong.iter().map(|Source { source, by, why }| format!("{source}: {why} ({by})")));
        causes.extend(self.group_cause.iter().map(|other| format!("the group's {other} ({})", demotion.group())));
        causes.join(", ")
    }

    /// Everything that can demote it, and by how much it does now.
    pub(super) fn sources(&self, view: View<'_>) -> Vec<Source> {
        let demotion = self.engine.status().demotion;
        let source = |source: &str, by, why: &str| Source {
            source: source.to_owned(),
            by,
            why: if by > 0 { why.to_owned() } else { String::new() },
        };
        let mut sources = vec![
            source("administrator", demotion.manual(), "`carpctl demote`"),
            source("maintenance", demotion.maintenance(), "`carpctl maintenance on`"),
            source("send_errors", demotion.send_errors(), "adverts cannot be sent"),
            source("addresses", demotion.no_vips(), "they cannot be added"),
        ];
        sources.extend(self.tracked(view).map(|tracked| tracked.source()));
        if self.group().is_some() {
            sources.push(source("group", demotion.group(), self.group_cause.as_deref().unwrap_or_default()));
        }
        sources
    }

    /// The scripts that count for it.
    pub(in crate::agent) fn scripts(&self) -> impl Iterator<Item = &Arc<Script>> {
        let Failover { scripts, ready, .. } = &self.settings.failover;
        scripts.iter().chain(ready.iter().filter(|_| self.gate.is_some()))
    }

    /// Whether it is held back no longer. Once it is not, it never is again.
    pub(in crate::agent) fn open_gate(&mut self, started: Time, now: Time, healths: &Healths) -> bool {
        if self.gate.is_none() {
            return false;
        }
        let Failover { startup_delay, ready, .. } = &self.settings.failover;
        let is_ready = |script: &Arc<Script>| healths.get(&script.name).is_some_and(|health| health.has_succeeded);
        let gate = if now < started.after(*startup_delay) {
            Some(LinkFault::StartupDelay)
        } else if ready.as_ref().is_none_or(is_ready) {
            None
        } else {
            Some(LinkFault::NotReady)
        };
        std::mem::replace(&mut self.gate, gate) != gate
    }

    /// Whether it is held back in INIT.
    pub(in crate::agent) const fn is_held_back(&self) -> bool {
        self.gate.is_some()
    }

    /// A former program in this process had let it begin.
    pub(in crate::agent) const fn hold_back_no_longer(&mut self) {
        self.gate = None;
    }

    /// When to look at that again.
    pub(in crate::agent) fn gate_due(&self, started: Time) -> Option<Time> {
        (self.gate == Some(LinkFault::StartupDelay)).then(|| started.after(self.settings.failover.startup_delay))
    }
}
