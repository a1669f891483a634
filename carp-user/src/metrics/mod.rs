//! What Prometheus is told. What happens is counted where it happens; the rest is read from the same [`Status`] that
//! carpctl gets, when somebody asks.

mod server;
mod snapshot;

use carp_common::engine::Transition;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

pub(crate) use self::server::serve;
use self::snapshot::Snapshot;
use crate::control::protocol::Status;

/// Where it is told unless another address is given: the protocol's number is in it.
pub(crate) const DEFAULT: &str = "127.0.0.1:10112";

/// Upper bounds in seconds: a timer is late by the wake-up of a process, or by a stall that costs adverts.
const LATENESS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5];
/// The same for the way of an event from the kernel to the state machine.
const LATENCY: [f64; 12] = [0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.1, 0.25, 1.0];

/// What is counted as it happens. Clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    transitions: Family<OfTransition, Counter>,
    script_failures: Family<OfHost, Counter>,
    timer_lateness: Histogram,
    event_latency: Histogram,
}

/// One virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfHost {
    interface: String,
    vhid: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTransition {
    interface: String,
    vhid: u8,
    from: String,
    to: String,
    cause: &'static str,
}

impl Metrics {
    /// Nothing has happened yet.
    pub(crate) fn new() -> Self {
        Self {
            transitions: Family::default(),
            script_failures: Family::default(),
            timer_lateness: Histogram::new(LATENESS),
            event_latency: Histogram::new(LATENCY),
        }
    }

    /// A virtual host has changed its state.
    pub(crate) fn count_transition(&self, interface: &str, vhid: u8, Transition { from, to, cause, .. }: &Transition) {
        let (from, to) = (from.to_string(), to.to_string());
        let labels = OfTransition { interface: interface.to_owned(), vhid, from, to, cause: cause.name() };
        self.transitions.get_or_create(&labels).inc();
    }

    /// Counts the failures of a virtual host's scripts; there from the start, so that the first one is an increase.
    pub(crate) fn script_failures(&self, interface: &str, vhid: u8) -> Counter {
        self.script_failures.get_or_create_owned(&OfHost { interface: interface.to_owned(), vhid })
    }

    /// A timer was handled so many seconds late.
    pub(crate) fn observe_timer(&self, lateness: f64) {
        self.timer_lateness.observe(lateness);
    }

    /// An advert took so many seconds from the kernel to the state machine.
    pub(crate) fn observe_event(&self, latency: f64) {
        self.event_latency.observe(latency);
    }

    /// Everything, as OpenMetrics has it.
    fn text(&self, status: &Status) -> String {
        let mut registry = Registry::with_prefix("carp");
        Snapshot::of(status).register(&mut registry);
        registry.register("transitions", "Changes of state, by cause", self.transitions.clone());
        registry.register(
            "script_failures",
            "Scripts that failed, could not be run or were killed at their time limit",
            self.script_failures.clone(),
        );
        registry.register_with_unit(
            "timer_lateness",
            "How late timers were handled: the next advert, a master's death",
            Unit::Seconds,
            self.timer_lateness.clone(),
        );
        registry.register_with_unit(
            "event_latency",
            "From an advert's arrival in the kernel to the state machine",
            Unit::Seconds,
            self.event_latency.clone(),
        );
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a String takes everything");
        text
    }
}
