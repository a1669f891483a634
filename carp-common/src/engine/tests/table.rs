//! Every state and every input: configuration, state reached how, input, state afterwards, actions in
//! order, next timeout. Adverts have a table of their own in [`adverts`](super::adverts); here stands one
//! of each kind.

use std::{collections::BTreeSet, vec};

use Next::{In, InAfterTie, Never, Unchanged};
use State::{Backup, Init, Master};

use super::*;

/// What becomes of the timers.
#[derive(Debug)]
enum Next {
    /// None runs.
    Never,
    /// The next one ends when it would have ended anyway.
    Unchanged,
    /// The next one ends this long after the input.
    In(Duration),
    /// It ends this long after the input and up to a quarter second later.
    InAfterTie(Duration),
}

/// What a row does to the host.
#[derive(Clone, Copy, Debug)]
enum Event {
    Input(Input),
    /// `handle_timeout` with nothing due.
    Early,
    /// `handle_timeout` when the next timer ends.
    Due,
}

impl Event {
    /// One name for each input there is. Exhaustive, so that a new one needs a row.
    fn name(self) -> &'static str {
        match self {
            Self::Input(input) => match input {
                Input::Advert(_) => "Advert",
                Input::LinkUp => "LinkUp",
                Input::LinkDown(_) => "LinkDown",
                Input::Doubtful(_) => "Doubtful",
                Input::Deaf => "Deaf",
                Input::MacChanged => "MacChanged",
                Input::Fence(_) => "Fence",
                Input::Resume { .. } => "Resume",
                Input::AdvertSent(_) => "AdvertSent",
                Input::AdvertFailed => "AdvertFailed",
                Input::VipsTaken => "VipsTaken",
                Input::VipsFailed => "VipsFailed",
                Input::VipsReleased => "VipsReleased",
                Input::StepDown => "StepDown",
                Input::Demote(_) => "Demote",
                Input::Maintenance(_) => "Maintenance",
                Input::Tracked { .. } => "Tracked",
                Input::Shutdown => "Shutdown",
            },
            Self::Early => "Early",
            Self::Due => "Due",
        }
    }

    const COUNT: usize = 20;
}

/// The own interval and dead time of the rows: advbase 1, advskew 100.
const OWN: Duration = span(1, 100);
const DEAD: Duration = span(3, 100);

struct Row {
    what: &'static str,
    host: Host,
    event: Event,
    to: State,
    /// All actions; a transition stands for one with the row's states and this cause, at the row's time.
    actions: Vec<Expected>,
    next: Next,
}

#[derive(Clone, Copy)]
enum Expected {
    Action(Action),
    Transition(Cause),
}

use Expected::Transition as Becomes;

const fn act(action: Action) -> Expected {
    Expected::Action(action)
}

const RELEASE: Expected = act(Action::ReleaseVips);
const TAKE: Expected = act(Action::TakeVips);
const ANNOUNCE: Expected = act(Action::Announce);

fn row(
    what: &'static str,
    host: Host,
    event: impl Into<Event>,
    to: State,
    actions: impl Into<Vec<Expected>>,
    next: Next,
) -> Row {
    Row { what, host: host.later(A_MOMENT), event: event.into(), to, actions: actions.into(), next }
}

impl From<Input> for Event {
    fn from(input: Input) -> Self {
        Self::Input(input)
    }
}

/// An advert that arrives at the time of a row's input, on a host that was reached `after` the start.
fn heard(after: Duration, advbase: u8, advskew: u8) -> HeardAdvert {
    let arrival = START.after(after).after(A_MOMENT);
    HeardAdvert { family: Family::V4, source: PEER, advbase, advskew, demote: 0, arrival }
}

const NO_CARRIER: Input = Input::LinkDown(LinkFault::NoCarrier);
const NO_ADDRESS: Input = Input::LinkDown(LinkFault::NoAddress);

/// Word of the demotion counter.
fn demoted(manual: u8) -> Expected {
    let mut demotion = Demotion::default();
    demotion.set_manual(manual);
    act(Action::Demoted(demotion))
}

/// The same of what is tracked here, and in the group.
fn tracked(own: u8, group: u8) -> Expected {
    let mut demotion = Demotion::default();
    demotion.set_tracked(own, group);
    act(Action::Demoted(demotion))
}

fn last_resort() -> Expected {
    let mut demotion = Demotion::default();
    demotion.set_maintenance(true);
    act(Action::Demoted(demotion))
}

fn no_vips() -> Expected {
    let mut demotion = Demotion::default();
    demotion.set_no_vips(true);
    act(Action::Demoted(demotion))
}

fn tracks(own: u8, group: u8) -> Input {
    Input::Tracked { own, group }
}

fn rows_of_init() -> Vec<Row> {
    let init = || Host::new(config(1, 100));
    let stopped = || {
        let mut host = init();
        host.handle(Input::Shutdown);
        host
    };
    let old_lease = Input::Resume { until: START.after(DEAD) };
    let resumed = Cause::Resumed(START.after(DEAD));
    vec![
        row("the link comes", init(), Input::LinkUp, Backup, [Becomes(Cause::LinkUp)], In(DEAD)),
        row("the link comes while stopping", stopped(), Input::LinkUp, Init, [], Never),
        row("no link, told again", init(), NO_CARRIER, Init, [], Never),
        row("an advert", init(), Input::Advert(heard(Duration::ZERO, 1, 200)), Init, [], Never),
        row("a bow-out", init(), Input::Advert(heard(Duration::ZERO, 255, 255)), Init, [], Never),
        row("somebody whose clock is apart", init(), Input::Doubtful(START), Init, [], Never),
        row("deaf until now", init(), Input::Deaf, Init, [], Never),
        row("another hardware address", init(), Input::MacChanged, Init, [], Never),
        row("an advert has left", init(), Input::AdvertSent(START), Init, [], Never),
        row("leases are enforced", init(), Input::Fence(true), Init, [], Never),
        row("an old lease that is over", init(), Input::Resume { until: START }, Init, [], Never),
        row("an old lease", init(), old_lease, Master, [act(send(1, 100, 0)), TAKE, Becomes(resumed)], In(OWN)),
        row("an old lease while stopping", stopped(), old_lease, Init, [], Never),
        row("an advert has not left", init(), Input::AdvertFailed, Init, [], Never),
        row("VIPs that are not wanted any more", init(), Input::VipsTaken, Init, [], Never),
        row("VIPs are gone", init(), Input::VipsReleased, Init, [], Never),
        row("nothing to step down from", init(), Input::StepDown, Init, [], Never),
        row("VIPs that are not wanted cannot be had", init(), Input::VipsFailed, Init, [], Never),
        row("demoted", init(), Input::Demote(1), Init, [demoted(1)], Never),
        row("the last resort", init(), Input::Maintenance(true), Init, [last_resort()], Never),
        row("something tracked fails", init(), tracks(100, 0), Init, [tracked(100, 0)], Never),
        row("nothing tracked has changed", init(), tracks(0, 0), Init, [], Never),
        row("a stop always runs the down script", init(), Input::Shutdown, Init, [RELEASE], Never),
        row("a second stop", stopped(), Input::Shutdown, Init, [], Never),
        row("no bow-out from INIT", stopped(), Input::VipsReleased, Init, [], Never),
        row("no timer", init(), Event::Early, Init, [], Never),
        row("no timer", init(), Event::Due, Init, [], Never),
    ]
}

fn rows_of_backup() -> Vec<Row> {
    let backup = || Host::backup(config(1, 100));
    let yielded = || {
        let mut host = Host::master(config(1, 100));
        let advert = host.hears(1, 0, 0);
        host.handle(Input::Advert(advert));
        host
    };
    let at_once = Duration::ZERO;
    let slower = heard(at_once, 1, 101);
    let gone = |fault| [Becomes(Cause::LinkDown(fault))];
    let takes_over = |cause| [act(send(1, 100, 0)), TAKE, Becomes(cause)];
    vec![
        row("the link, told again", backup(), Input::LinkUp, Backup, [], Unchanged),
        row("carrier lost", backup(), NO_CARRIER, Init, gone(LinkFault::NoCarrier), Never),
        row("address lost", backup(), NO_ADDRESS, Init, gone(LinkFault::NoAddress), Never),
        row("a slower master", backup(), Input::Advert(slower), Backup, [], In(DEAD)),
        row(
            "a slower master, preempting",
            Host::backup(preempting(1, 100)),
            Input::Advert(slower),
            Master,
            takes_over(Cause::Preempt(slower)),
            In(OWN),
        ),
        row(
            "a bow-out",
            backup(),
            Input::Advert(heard(at_once, 255, 255)),
            Master,
            takes_over(Cause::BowOut(PEER)),
            In(OWN),
        ),
        row(
            "somebody whose clock is apart, and there is no doubt",
            backup(),
            Input::Doubtful(START),
            Backup,
            [],
            Unchanged,
        ),
        row("deaf until now", backup(), Input::Deaf, Backup, [], In(DEAD)),
        row("another hardware address", backup(), Input::MacChanged, Backup, [], Unchanged),
        row("the bow-out has left", backup(), Input::AdvertSent(START), Backup, [], Unchanged),
        row(
            "leases are enforced",
            backup(),
            Input::Fence(true),
            Backup,
            [act(Action::SetLease(Lease::Over))],
            Unchanged,
        ),
        row("an old lease, too late", backup(), Input::Resume { until: START.after(DEAD) }, Backup, [], Unchanged),
        row("the bow-out has not left", backup(), Input::AdvertFailed, Backup, [], Unchanged),
        row("VIPs that are not wanted any more", yielded(), Input::VipsTaken, Backup, [], Unchanged),
        row("VIPs are gone after yielding", yielded(), Input::VipsReleased, Backup, [], Unchanged),
        row("nothing to step down from", backup(), Input::StepDown, Backup, [], Unchanged),
        row("VIPs that are not wanted cannot be had", backup(), Input::VipsFailed, Backup, [], Unchanged),
        row("demoted", backup(), Input::Demote(1), Backup, [demoted(1)], Unchanged),
        row("the last resort", backup(), Input::Maintenance(true), Backup, [last_resort()], Unchanged),
        row("demoted no longer", backup(), Input::Demote(0), Backup, [], Unchanged),
        row("something tracked fails", backup(), tracks(100, 0), Backup, [tracked(100, 0)], Unchanged),
        row("others of the group are in trouble", backup(), tracks(0, 240), Backup, [tracked(0, 240)], Unchanged),
        row("nothing tracked has changed", backup(), tracks(0, 0), Backup, [], Unchanged),
        row("a stop", backup(), Input::Shutdown, Init, [RELEASE, Becomes(Cause::Shutdown)], Never),
        row("a stop while releasing", yielded(), Input::Shutdown, Init, [Becomes(Cause::Shutdown)], Never),
        row("the master may yet speak", backup(), Event::Early, Backup, [], Unchanged),
        row("the master is silent", backup(), Event::Due, Master, takes_over(Cause::MasterDown(DEAD)), In(OWN)),
    ]
}

fn rows_of_master() -> Vec<Row> {
    let master = || Host::master(config(1, 100));
    let taking = || Host::taking(config(1, 100));
    let [better, equal, slower] = [99, 100, 101].map(|advskew| heard(DEAD, 1, advskew));
    let gone = |fault| [RELEASE, Becomes(Cause::LinkDown(fault))];
    let advert = act(send(1, 100, 0));
    let stepped_down = [RELEASE, Becomes(Cause::StepDown)];
    let lease = Lease::Until(START.after(DEAD + Duration::from_millis(2970)));
    let yields = [act(send(1, 100, 0)), RELEASE, Becomes(Cause::BetterMaster(better))];
    vec![
        row("the link, told again", master(), Input::LinkUp, Master, [], Unchanged),
        row("carrier lost", master(), NO_CARRIER, Init, gone(LinkFault::NoCarrier), Never),
        row("carrier lost, no VIPs yet", taking(), NO_ADDRESS, Init, gone(LinkFault::NoAddress), Never),
        row("a better master", master(), Input::Advert(better), Backup, yields, In(DEAD)),
        row("a better master, no VIPs yet", taking(), Input::Advert(better), Backup, yields, In(DEAD)),
        row(
            "an equal master",
            master(),
            Input::Advert(equal),
            Backup,
            [RELEASE, Becomes(Cause::EqualMaster(equal))],
            InAfterTie(OWN * 2),
        ),
        row(
            "a slower master",
            master(),
            Input::Advert(slower),
            Master,
            [advert, ANNOUNCE, act(Action::Rival(slower))],
            Unchanged,
        ),
        row("a slower master, no VIPs yet", taking(), Input::Advert(slower), Master, [advert], Unchanged),
        row("somebody whose clock is apart", master(), Input::Doubtful(START), Master, [], Unchanged),
        row("deaf until now", master(), Input::Deaf, Master, [], Unchanged),
        row("another hardware address", master(), Input::MacChanged, Master, [ANNOUNCE], Unchanged),
        row("another hardware address, no VIPs yet", taking(), Input::MacChanged, Master, [], Unchanged),
        row("an advert has left", master(), Input::AdvertSent(START), Master, [], Unchanged),
        row("leases are enforced", master(), Input::Fence(true), Master, [act(Action::SetLease(lease))], Unchanged),
        row("an old lease, too late", master(), Input::Resume { until: START.after(DEAD * 2) }, Master, [], Unchanged),
        row("an advert has not left", master(), Input::AdvertFailed, Master, [], Unchanged),
        row("the VIPs are here", taking(), Input::VipsTaken, Master, [ANNOUNCE], Unchanged),
        row("an old release has ended", master(), Input::VipsReleased, Master, [], Unchanged),
        row("asked to step down", master(), Input::StepDown, Backup, stepped_down, In(DEAD)),
        row("demoted", master(), Input::Demote(1), Backup, [demoted(1), RELEASE, Becomes(Cause::StepDown)], In(DEAD)),
        row(
            "the last resort",
            master(),
            Input::Maintenance(true),
            Backup,
            [last_resort(), RELEASE, Becomes(Cause::StepDown)],
            In(DEAD),
        ),
        row(
            "the VIPs cannot be had",
            taking(),
            Input::VipsFailed,
            Master,
            [no_vips(), act(send(1, 100, 240))],
            Unchanged,
        ),
        row(
            "something tracked fails",
            master(),
            tracks(100, 0),
            Master,
            [tracked(100, 0), act(send(1, 100, 100))],
            Unchanged,
        ),
        row(
            "others of the group are in trouble",
            master(),
            tracks(0, 240),
            Master,
            [tracked(0, 240), act(send(1, 100, 240))],
            Unchanged,
        ),
        row("nothing tracked has changed", master(), tracks(0, 0), Master, [], Unchanged),
        row("asked to stop", master(), Input::Shutdown, Init, [RELEASE, Becomes(Cause::Shutdown)], Never),
        row("no advert is due", master(), Event::Early, Master, [], Unchanged),
        row("an advert is due", master(), Event::Due, Master, [advert], In(OWN)),
    ]
}

#[test]
fn every_state_answers_every_input_as_the_table_says() {
    for row in [rows_of_init(), rows_of_backup(), rows_of_master()].into_iter().flatten() {
        check(row);
    }
}

fn check(row: Row) {
    let Row { what, mut host, event, to, actions, next } = row;
    let from = host.state();
    let due = host.engine.poll_timeout();
    let done = match event {
        Event::Input(input) => host.handle(input),
        Event::Early => host.handle_timeout(),
        Event::Due => {
            host.now = due.unwrap_or(host.now.after(DEAD * 9));
            host.handle_timeout()
        }
    };
    let expected: Vec<Action> = actions
        .into_iter()
        .map(|expected| match expected {
            Expected::Action(action) => action,
            Becomes(cause) => host.transition(from, to, cause),
        })
        .collect();
    assert_eq!(done, expected, "{from}: {what}");
    assert_eq!(host.state(), to, "{from}: {what}");
    let ends = host.engine.poll_timeout();
    match next {
        Never => assert_eq!(ends, None, "{from}: {what}"),
        Unchanged => assert_eq!(ends, due, "{from}: {what}"),
        In(span) => assert_eq!(ends, Some(host.now.after(span)), "{from}: {what}"),
        InAfterTie(span) => {
            let range = Some(host.now.after(span))..Some(host.now.after(span + Duration::from_millis(250)));
            assert!(range.contains(&ends), "{from}: {what}: {ends:?} in {range:?}");
        }
    }
}

#[test]
fn the_table_has_a_row_for_every_state_and_every_input() {
    let rows: BTreeSet<_> = [rows_of_init(), rows_of_backup(), rows_of_master()]
        .iter()
        .flatten()
        .map(|row| (std::format!("{}", row.host.state()), row.event.name()))
        .collect();
    assert_eq!(rows.len(), 3 * Event::COUNT, "{rows:?}");
}

#[test]
fn every_fault_of_a_link_has_a_name_and_words_of_its_own() {
    let faults = [
        LinkFault::NoInterface,
        LinkFault::InterfaceDown,
        LinkFault::NoCarrier,
        LinkFault::NoAddress,
        LinkFault::NotAttached,
        LinkFault::StartupDelay,
        LinkFault::NotReady,
    ];
    let told: BTreeSet<_> = faults.iter().map(|fault| (fault.name(), std::format!("{fault}"))).collect();
    assert_eq!(told.len(), faults.len());
    assert_eq!(LinkFault::NoCarrier.name(), "no_carrier");
    assert_eq!(std::format!("{}", LinkFault::NoCarrier), "no carrier");
}
