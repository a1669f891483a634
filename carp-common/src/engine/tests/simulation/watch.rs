//! Looks on, and objects: what has to hold at every moment.

use std::{format, string::String, vec, vec::Vec};

use super::world::Node;
use crate::engine::{hearing::TIE_SPREAD, tests::*};

/// For so long two hosts may serve the VIPs while they find out who is to be the master.
const ELECTION: Duration = Duration::from_millis(10);

/// What has to hold.
///
/// * A master that hears a better one, or an equal, is none any more.
/// * Whoever becomes MASTER takes the VIPs, and announces them when they are there; whoever leaves MASTER releases them.
/// * Two hosts with a lease serve the VIPs at the same time only for as long as an election takes, unless one could not hear
///   the other, or its agent stood still just when the other took over (see [`Watch::explained_until`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Watch {
    /// The first objection.
    pub(super) objection: Option<String>,
    pub(super) transitions: u32,
    /// How long an advert is under way at most while all is well.
    pub(super) delay: Duration,
    /// When an advert of one host last did not reach another in time: from, to.
    missed: Vec<Vec<Option<Time>>>,
    /// Since when two hosts both serve the VIPs, and until when that is explained by what has happened so far.
    both: Vec<Vec<Option<[Time; 2]>>>,
    /// Whether there may be such a pair.
    are_both: bool,
}

impl Watch {
    pub(super) fn new(hosts: usize) -> Self {
        Self {
            objection: None,
            transitions: 0,
            delay: Duration::ZERO,
            missed: vec![vec![None; hosts]; hosts],
            both: vec![vec![None; hosts]; hosts],
            are_both: false,
        }
    }

    pub(super) fn object(&mut self, what: String) {
        self.objection.get_or_insert(what);
    }

    /// An advert of one host does not reach another, or has not until then.
    pub(super) fn see_missed(&mut self, from: usize, to: usize, then: Time) {
        let missed = &mut self.missed[from][to];
        *missed = (*missed).max(Some(then));
    }

    /// What an engine has asked for in one call.
    pub(super) fn see_actions(&mut self, node: &Node, actions: &[Action]) {
        for action in actions {
            let Action::Transition(Transition { from, to, .. }) = action else { continue };
            self.transitions += 1;
            if *to == State::Master && !actions.contains(&Action::TakeVips) {
                self.object(format!("{:?} is MASTER and takes no VIPs", node.config.source));
            }
            if *from == State::Master && !actions.contains(&Action::ReleaseVips) {
                self.object(format!("{:?} leaves MASTER and keeps the VIPs", node.config.source));
            }
        }
    }

    /// What a running agent has been told now, and whether it was a master that had to yield to that.
    pub(super) fn see_input(&mut self, node: &Node, input: Input, has_to_yield: bool, now: Time) {
        if node.state() != State::Master {
            return;
        }
        if has_to_yield {
            self.object(format!("{:?} stays MASTER after {input:?}", node.config.source));
        }
        if input == Input::VipsTaken && node.announced != Some(now) {
            self.object(format!("{:?} has its VIPs and announces nothing", node.config.source));
        }
    }

    /// Nothing happens between these two times.
    pub(super) fn see_time(&mut self, nodes: &[Node], from: Time, to: Time) {
        if nodes.iter().filter(|node| node.has_vips()).count() < 2 {
            if core::mem::take(&mut self.are_both) {
                self.both.iter_mut().for_each(|row| row.fill(None));
            }
            return;
        }
        self.are_both = true;
        let until: Vec<_> = nodes.iter().map(Node::serves_until).collect();
        for (one, other) in (0..nodes.len()).flat_map(|one| (0..one).map(move |other| (one, other))) {
            let end = until[one].zip(until[other]).map(|(one, other)| one.min(other)).filter(|end| *end > from);
            let Some(end) = end.filter(|_| nodes[one].has_lease() && nodes[other].has_lease()) else {
                self.both[one][other] = None;
                continue;
            };
            let [since, explained] = self.both[one][other].unwrap_or([from; 2]);
            let explained = explained.max(self.explained_until(nodes, [one, other], since));
            // When it has ended, the next one needs another reason.
            self.both[one][other] = (end >= to).then_some([since, explained]);
            if end.min(to) > explained {
                let lasted = end.min(to).since(since);
                self.object(format!("hosts {one} and {other} both serve the VIPs for {lasted:?}, since {since:?}"));
            }
        }
    }

    /// Until when two hosts may both serve the VIPs: for an election; or, if there is a reason, until one hears the other by
    /// its next advert, or that one's lease ends.
    fn explained_until(&self, nodes: &[Node], [one, other]: [usize; 2], since: Time) -> Time {
        let entered = |at: usize| nodes[at].entered.unwrap_or_default()[1];
        let [first, later] = if entered(one) <= entered(other) { [one, other] } else { [other, one] };
        let has_reason = is_impatient(&nodes[first], &nodes[later])
            || self.stood_still(&nodes[first], &nodes[later])
            || nodes.iter().any(|node| self.has_tied(node, entered(first)));
        let reason = has_reason.then_some(since).max(self.unheard(nodes, [first, later], since));
        let election = since.after(ELECTION);
        let span = |at: usize| nodes[at].terms.interval.max(nodes[at].terms.lease.unwrap_or_default());
        let longest = span(one).max(span(other)) * 101 / 100 + self.delay;
        reason.map_or(election, |reason| reason.max(since).after(longest).max(election))
    }

    /// One does not hear the other, or has not in the dead time before; or, when it began, a third one and the first did not: the
    /// later may have taken over from that one, or the first have been MASTER beside it. When that was last.
    fn unheard(&self, nodes: &[Node], [first, later]: [usize; 2], since: Time) -> Option<Time> {
        let patience = nodes[later].terms.dead_time;
        let missed = (0..nodes.len()).map(|at| {
            let missed = self.missed[first][at].max(self.missed[at][first]);
            if at == later { missed } else { missed.map(|missed| missed.min(since)) }
        });
        missed.max().flatten().filter(|at| at.after(patience + self.delay + patience / 50) >= since)
    }

    /// An agent stood still, or died, in the moment in which the other became MASTER by what it had heard, or in which both did: it
    /// does not hear that, and its lease has just begun.
    fn stood_still(&self, first: &Node, later: &Node) -> bool {
        let [began, ended] = later.entered.unwrap_or_default();
        let is_then = |at: Time| at.after(self.delay * 3) >= began && ended.after(self.delay * 3) >= at;
        [first, later].into_iter().any(|node| node.stopped.is_some_and(is_then))
    }

    /// This one became MASTER after the first had, and had yielded to an equal just before, which it believes dead after two
    /// intervals only. It is the later one, or the later took over from it.
    fn has_tied(&self, node: &Node, first_entered: Time) -> bool {
        let Node { entered: Some([began, ended]), tied: Some(tied), .. } = *node else {
            return false;
        };
        // The equal was still to be heard in the first one and a half of these.
        let patience = (node.terms.interval * 7 / 2 + TIE_SPREAD) * 101 / 100 + self.delay;
        ended > first_entered && tied <= began && began <= tied.after(patience)
    }
}

/// The later one is less patient than the first can know: at advbase 2 it has never heard the backup with advbase 1.
fn is_impatient(first: &Node, later: &Node) -> bool {
    first.terms.lease.is_some_and(|lease| later.terms.dead_time < lease)
}

/// The protocol's rule: whether this is a master that yields to such an advert.
pub(super) fn has_to_yield(engine: &Engine, advert: &HeardAdvert) -> bool {
    if engine.status().state != State::Master || advert.arrival < engine.listens_since() {
        return false;
    }
    let rank = |advbase, advskew| u32::from(advbase) * 256 + u32::from(advskew);
    let AdvertFields { advbase, advskew, demote } = engine.fields();
    let (mine, peers) = (rank(advbase, advskew), rank(advert.advbase, advert.advskew));
    if (advert.advbase, advert.advskew) == (255, 255) {
        return false;
    }
    match engine.config().profile {
        Profile::OpenBsd => advert.demote < demote || (mine >= peers && advert.demote <= demote),
        Profile::FreeBsd => mine >= peers,
    }
}
