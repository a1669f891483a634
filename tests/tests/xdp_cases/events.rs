//! What a valid advert leaves behind: the event that wakes the agent, and the last-heard map.

use std::time::Duration;

use carp_common::{
    abi::{Advert, SourceKey, VhostKey, address_bytes},
    reason::Reason,
};

use crate::xdp_support::{
    Family::{self, V4, V6},
    IFINDEX,
    frames::{BOTH, EthernetFrame, Fields, OUR_VHID, source_of},
    program::{Event, Program, XdpAction},
    row_of,
    table::{from, good},
};

const FIELDS: Fields = Fields { advbase: 2, advskew: 100, demote: 3, counter: 0x0102_0304_0506_0708 };

fn source(family: Family) -> SourceKey {
    SourceKey::new(VhostKey::new(IFINDEX, OUR_VHID, family), address_bytes(source_of(family)))
}

fn advert(family: Family, Fields { advbase, advskew, demote, counter }: Fields) -> Advert {
    Advert { source: source(family), mac: [0; 6], counter, advbase, advskew, demote, key_id: 0, objection: 0 }
}

fn counted(family: Family, reason: Reason, program: &Program) -> u64 {
    program.count(row_of(family), reason)
}

#[test]
fn the_event_says_what_the_advert_said() {
    for family in BOTH {
        let mut program = Program::for_our_vhost();
        program.run(&EthernetFrame::advert(family, FIELDS).bytes);
        let events = program.events();
        let heard = program.heard(&source(family)).expect("a last-heard entry").heard();
        let expected = Event {
            ifindex: IFINDEX,
            vhid: OUR_VHID,
            family: family as u8,
            source: source_of(family),
            arrival: heard.arrival().as_nanos(),
            counter: FIELDS.counter,
            advbase: 2,
            advskew: 100,
            demote: 3,
            mac: [0, 0, 0x5e, 0, 1, OUR_VHID],
        };
        assert_eq!(events, [expected]);
        assert_eq!(heard.counter(), FIELDS.counter);
        assert_eq!((heard.advbase(), heard.advskew(), heard.demote()), (2, 100, 3));
    }
}

#[test]
fn arrivals_are_in_order_on_the_clock_that_counts_suspended_time() {
    let mut program = Program::for_our_vhost();
    let uptime = || -> Duration {
        // The first number of /proc/uptime is CLOCK_BOOTTIME, cut to 10 ms.
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
    };
    let before = uptime();
    for counter in 0..10 {
        program.run(&EthernetFrame::advert(V4, Fields { counter, ..FIELDS }).bytes);
    }
    let after = uptime() + Duration::from_millis(10);
    let arrivals: Vec<_> = program.events().iter().map(|event| Duration::from_nanos(event.arrival)).collect();
    assert_eq!(arrivals.len(), 10);
    assert!(arrivals.is_sorted());
    assert!(before <= arrivals[0] && arrivals[9] <= after, "{before:?} <= {arrivals:?} <= {after:?}");
}

#[test]
fn an_exact_repeat_within_the_interval_wakes_nobody_twice() {
    for family in BOTH {
        let mut program = Program::for_our_vhost();
        let frame = EthernetFrame::advert(family, FIELDS);
        program.run(&frame.bytes);
        let first = program.heard(&source(family)).unwrap();
        for _ in 0..9 {
            assert_eq!(program.run(&frame.bytes), XdpAction::Pass);
        }
        assert_eq!(program.events().len(), 1);
        let ipackets = if family == V4 { Reason::Ipackets } else { Reason::Ipackets6 };
        assert_eq!(counted(family, ipackets, &program), 10);
        assert_eq!(counted(family, Reason::Repeat, &program), 9);
        let last = program.heard(&source(family)).unwrap();
        let [first, last] = [first, last].map(|entry| entry.heard().arrival());
        assert!(last > first, "the counter may be constant: the last-heard map knows of the repeats");
    }
}

#[test]
fn a_replay_from_a_source_whose_counter_changes_wakes_nobody_and_counts_for_nothing() {
    for family in BOTH {
        let mut program = Program::for_our_vhost();
        let frame = |counter| EthernetFrame::advert(family, Fields { counter, ..FIELDS });
        for counter in 1..=4 {
            program.run(&frame(counter).bytes);
        }
        assert_eq!(program.events().len(), 4);
        // The very last one; and an old one, which is new once.
        for (replayed, is_new) in [(4, false), (1, true)] {
            if is_new {
                program.run(&frame(replayed).bytes);
                assert_eq!(program.events().len(), 1);
            }
            let heard = program.heard(&source(family)).unwrap().heard();
            let before = counted(family, Reason::Repeat, &program);
            for _ in 0..9 {
                assert_eq!(program.run(&frame(replayed).bytes), XdpAction::Pass);
            }
            assert_eq!(program.events(), [], "{replayed}");
            assert_eq!(counted(family, Reason::Repeat, &program), before + 9);
            assert_eq!(program.heard(&source(family)).unwrap().heard(), heard, "{replayed}");
        }
        // The source lives.
        program.run(&frame(5).bytes);
        assert_eq!(program.events().len(), 1);
        assert_eq!(program.heard(&source(family)).unwrap().heard().counter(), 5);
    }
}

#[test]
fn a_repeat_that_was_edited_wakes_the_agent() {
    for family in BOTH {
        let mut program = Program::for_our_vhost();
        let edits: [Fields; 5] = [
            FIELDS,
            Fields { advskew: 0, ..FIELDS },
            Fields { advbase: 0, ..FIELDS },
            Fields { demote: 0, ..FIELDS },
            Fields { counter: FIELDS.counter + 1, ..FIELDS },
        ];
        for fields in edits {
            program.run(&EthernetFrame::advert(family, FIELDS).bytes);
            program.events();
            program.run(&EthernetFrame::advert(family, fields).bytes);
            let woken = program.events().len();
            let is_repeat = fields == FIELDS;
            assert_eq!(woken, usize::from(!is_repeat), "{fields:?}");
        }
    }
}

#[test]
fn another_source_is_no_repeat() {
    let mut program = Program::for_our_vhost();
    for (family, other) in [(V4, "10.77.0.2"), (V6, "fe80::2")] {
        program.run(&good(family).bytes);
        program.run(&from(other).bytes);
    }
    assert_eq!(program.events().len(), 4);
}

#[test]
fn a_repeat_after_the_interval_wakes_the_agent() {
    for (fields, interval) in [
        (FIELDS, Duration::from_secs(2) + Duration::from_nanos(100 * 3_906_250)),
        (Fields { advbase: 1, advskew: 0, ..FIELDS }, Duration::from_secs(1)),
        (Fields { advbase: 255, advskew: 254, ..FIELDS }, Duration::from_secs(255) + Duration::from_nanos(992_187_500)),
    ] {
        let mut program = Program::for_our_vhost();
        let frame = EthernetFrame::advert(V4, fields);
        program.run(&frame.bytes);
        // Nobody waits here: the entry is made older.
        program.age(&advert(V4, fields), interval - Duration::from_millis(500));
        program.run(&frame.bytes);
        assert_eq!(program.events().len(), 1, "{fields:?}: half a second before its time");
        program.age(&advert(V4, fields), interval);
        program.run(&frame.bytes);
        assert_eq!(program.events().len(), 1, "{fields:?}: in its time");
    }
}

#[test]
fn a_constant_repeat_wakes_the_agent_once_an_interval() {
    // OpenBSD's counter is constant until it reboots: each of its adverts repeats the last.
    let mut program = Program::for_our_vhost();
    let frame = EthernetFrame::advert(V4, FIELDS);
    for _ in 0..5 {
        program.run(&frame.bytes);
        assert_eq!(program.events().len(), 1);
        program.age(&advert(V4, FIELDS), Duration::from_secs(3));
    }
    assert_eq!(counted(V4, Reason::Repeat, &program), 0);
}

#[test]
fn a_full_ring_is_counted_and_the_last_heard_map_has_what_it_lost() {
    let mut program = Program::for_our_vhost();
    const SENT: u64 = 1_100;
    for counter in 1..=SENT {
        assert_eq!(program.run(&EthernetFrame::advert(V4, Fields { counter, ..FIELDS }).bytes), XdpAction::Pass);
    }
    let lost = counted(V4, Reason::RingFull, &program);
    let last = program.heard(&source(V4)).unwrap().heard();
    assert!(lost > 0, "{SENT} events fit into the ring");
    assert_eq!(last.counter(), SENT);
    let events = program.events();
    assert_eq!(events.len() as u64 + lost, SENT);
    assert!(events.iter().map(|event| event.counter).eq(1..=SENT - lost), "a full ring loses the newest");

    program.run(&EthernetFrame::advert(V4, Fields { counter: SENT + 1, ..FIELDS }).bytes);
    assert_eq!(program.events().len(), 1, "there is room again");
    assert_eq!(counted(V4, Reason::RingFull, &program), lost);
}

/// The agent was not woken, so a repeat of what was lost must not count as one it was woken for.
#[test]
fn a_repeat_of_an_event_that_was_lost_wakes_the_agent() {
    let mut program = Program::for_our_vhost();
    // A constant counter, but each says something else.
    let mut frames = (0..=u16::MAX).map(|number| {
        let [advskew, demote] = number.to_ne_bytes();
        EthernetFrame::advert(V4, Fields { advskew, demote, ..FIELDS })
    });
    let lost = frames.find(|frame| {
        program.run(&frame.bytes);
        counted(V4, Reason::RingFull, &program) != 0
    });
    program.events();
    program.run(&lost.expect("the ring is full at last").bytes);
    assert_eq!(program.events().len(), 1);
}
