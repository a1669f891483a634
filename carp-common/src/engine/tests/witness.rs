//! Who stands where the agent stands: it sees inputs and actions, not the engine's fields, and objects. Timers are told
//! apart by letting them run out on a clone.
//!
//! Also part of the fuzzing of carp-tests, which has other inputs for it.

use core::{mem, time::Duration};
use std::vec::Vec;

use super::{
    Action, Cause, Config, Demotion, Engine, Family, HeardAdvert, Input, Lease, PEER, Profile, START, State, Time,
    Transition,
};

/// What the agent may have to tell the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// An input, told at once.
    Input(Input),
    /// An advert that lay in the kernel for this long.
    Hear { family: Family, fields: (u8, u8, u8), lag: Duration },
    /// Time passes.
    Wait(Duration),
    /// Time passes until the next timer ends, and this much more.
    Sleep(Duration),
    /// The agent calls `handle_timeout`.
    Timeout,
    /// An advert has left, sent just now.
    Sent,
    /// The executor has finished what was last asked of it about the VIPs.
    VipsDone,
}

/// One virtual host, and what time it is there.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) now: Time,
}

impl Host {
    /// A host in INIT.
    pub(crate) fn new(config: Config) -> Self {
        Self { engine: Engine::new(config, START), now: START }
    }

    pub(crate) fn handle(&mut self, input: Input) -> Vec<Action> {
        self.engine.handle(input, self.now);
        self.actions()
    }

    pub(crate) fn handle_timeout(&mut self) -> Vec<Action> {
        self.engine.handle_timeout(self.now);
        self.actions()
    }

    pub(crate) fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.engine.poll_action()).collect()
    }

    pub(crate) fn state(&self) -> State {
        self.engine.status().state
    }
}

/// What the executor is busy with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Vips {
    Gone,
    Taking,
    Here,
    Releasing,
}

/// Sees what goes in and what comes out, and objects.
pub(crate) struct Witness {
    pub(crate) host: Host,
    state: State,
    vips: Vips,
    demotion: Demotion,
    /// What the kernel was last told.
    lease: Lease,
    /// Whether it enforces leases.
    is_fenced: bool,
    /// Left MASTER on request, and has not bowed out yet.
    may_bow_out: bool,
    stopping: bool,
}

impl Witness {
    pub(crate) fn new(config: Config) -> Self {
        let host = Host::new(config);
        Self {
            host,
            state: State::Init,
            vips: Vips::Gone,
            demotion: Demotion::default(),
            lease: Lease::None,
            is_fenced: false,
            may_bow_out: false,
            stopping: false,
        }
    }

    pub(crate) fn run(&mut self, op: Op) {
        let host = &mut self.host;
        match op {
            Op::Input(input) => {
                self.stopping |= input == Input::Shutdown;
                if let Input::Fence(enforced) = input {
                    self.is_fenced = enforced;
                }
                let actions = host.handle(input);
                self.see(&actions, Some(input));
            }
            Op::Hear { family, fields: (advbase, advskew, demote), lag } => {
                let arrival = host.now;
                host.now = host.now.after(lag);
                let advert = HeardAdvert { family, source: PEER, advbase, advskew, demote, arrival };
                self.run(Op::Input(Input::Advert(advert)));
            }
            Op::Wait(span) => host.now = host.now.after(span),
            Op::Sleep(late) => {
                let due = host.engine.poll_timeout().unwrap_or(host.now).max(host.now);
                host.now = due.after(late);
                self.run(Op::Timeout);
            }
            Op::Timeout => {
                let actions = host.handle_timeout();
                let now = host.now;
                assert!(host.engine.poll_timeout().is_none_or(|next| next > now), "busy loop");
                self.see(&actions, None);
            }
            Op::Sent => self.run(Op::Input(Input::AdvertSent(self.host.now))),
            Op::VipsDone => match self.vips {
                Vips::Gone | Vips::Here => {}
                Vips::Taking => {
                    self.vips = Vips::Here;
                    self.run(Op::Input(Input::VipsTaken));
                }
                Vips::Releasing => {
                    self.vips = Vips::Gone;
                    self.run(Op::Input(Input::VipsReleased));
                }
            },
        }
    }

    fn see(&mut self, actions: &[Action], input: Option<Input>) {
        for action in actions {
            match *action {
                Action::Transition(transition) => {
                    self.see_transition(transition);
                    let has_sent = matches!(input, Some(Input::AdvertSent(_) | Input::Resume { .. }));
                    let may_be = !self.is_fenced || has_sent || self.lease == Lease::None;
                    assert!(self.state != State::Master || may_be, "a master before an advert has left");
                }
                Action::TakeVips => {
                    assert!(matches!(self.vips, Vips::Gone | Vips::Releasing), "taken twice");
                    self.vips = Vips::Taking;
                }
                Action::ReleaseVips => {
                    let held = matches!(self.vips, Vips::Here | Vips::Taking);
                    let last = self.vips == Vips::Gone && input == Some(Input::Shutdown);
                    assert!(held || last, "released while {:?}", self.vips);
                    self.vips = Vips::Releasing;
                }
                Action::SendAdvert(fields) if (fields.advbase, fields.advskew) == (255, 255) => {
                    assert_ne!(self.state, State::Master, "a master bows out only when it has left");
                    let is_silent = input == Some(Input::VipsReleased) || self.lease == Lease::Over;
                    assert!(is_silent, "a bow-out while the VIPs are served");
                    assert!(mem::take(&mut self.may_bow_out), "only a master bows out, once");
                    assert_eq!(fields.demote, self.advertised().1);
                }
                Action::SetLease(lease) => self.lease = lease,
                Action::SendAdvert(fields) => {
                    assert_ne!(self.lease, Lease::Over, "the kernel would drop it");
                    let is_master = [self.state, self.host.state()].contains(&State::Master);
                    let claims = matches!(self.lease, Lease::Claim(_));
                    assert!(is_master || claims, "only a master sends, or one that is just becoming or leaving it");
                    assert_eq!(fields.advbase, self.host.engine.config().advbase.get());
                    assert_eq!((fields.advskew, fields.demote), self.advertised());
                }
                Action::Announce | Action::Rival(_) => {
                    assert_eq!((self.host.state(), self.vips), (State::Master, Vips::Here), "nothing to announce");
                }
                Action::Demoted(demotion) => {
                    assert_ne!(demotion, self.demotion, "no change");
                    self.demotion = demotion;
                }
            }
        }
        self.check();
    }

    /// advskew and demote byte, by the last word of the demotion counter.
    fn advertised(&self) -> (u8, u8) {
        let Config { advskew, profile, .. } = self.host.engine.config();
        let (advskew, demotion) = (advskew.get(), self.demotion.get());
        match profile {
            Profile::OpenBsd => (advskew, demotion),
            Profile::FreeBsd if advskew >= 240 => (advskew, 0),
            Profile::FreeBsd => (advskew.saturating_add(demotion).min(240), 0),
        }
    }

    fn see_transition(&mut self, Transition { from, to, cause, at }: Transition) {
        assert_eq!(from, self.state, "the chain is broken");
        assert_ne!(from, to);
        assert_eq!(at, self.host.now);
        self.state = to;
        self.may_bow_out = match cause {
            Cause::StepDown => true,
            // A step down on the way may still owe one.
            Cause::Shutdown => from == State::Master || self.may_bow_out,
            _ => false,
        };
    }

    /// What holds between any two calls.
    fn check(&self) {
        let status = self.host.engine.status();
        assert_eq!(status.state, self.state, "a state without a transition");
        assert_eq!(status.demotion.get(), self.demotion.get(), "a demotion without an action");
        assert_eq!(self.state == State::Master, matches!(self.vips, Vips::Here | Vips::Taking), "{:?}", self.vips);
        assert!(!self.stopping || self.state == State::Init, "the way back is closed");
        assert_eq!(self.host.engine.is_stopped(), self.stopping && self.vips == Vips::Gone);
        if let Lease::Until(until) = self.lease {
            assert!(self.state == State::Master && status.lease == Some(until), "{:?} as {:?}", self.lease, self.state);
        }
        self.check_timers();
    }

    /// Which timers run shows when they run out.
    fn check_timers(&self) {
        let mut later = self.host.clone();
        if let Some(until) = later.engine.status().lease
            && until <= later.now
        {
            later.handle_timeout();
            assert_eq!(later.state(), State::Backup, "a master whose lease is over");
            return;
        }
        later.handle(Input::Fence(false));
        let Some(due) = later.engine.poll_timeout() else {
            assert_eq!(self.state, State::Init, "no timer runs");
            return;
        };
        later.now = due.max(later.now);
        let actions = later.handle_timeout();
        let sends = actions.iter().any(|action| matches!(action, Action::SendAdvert(_)));
        match self.state {
            State::Init => panic!("a timer runs in INIT"),
            State::Backup => assert!(later.state() == State::Master, "an advert timer runs in BACKUP"),
            State::Master => {
                assert!(sends, "no advert timer runs in MASTER");
                // Far beyond any master-down time.
                later.now = later.now.after(Duration::from_secs(100_000));
                let actions = later.handle_timeout();
                let moves = |action: &Action| matches!(action, Action::Transition(_) | Action::TakeVips);
                assert!(later.state() == State::Master && !actions.iter().any(moves), "a master-down timer runs");
            }
        }
    }
}
