//! Seals: every frame of the table, under every way to look at them.

use std::{vec, vec::Vec};

use super::{
    super::Verdict,
    BOTH, HostTables, IFINDEX, OUR_VHID, ROWS,
    frames::{EthernetFrame, Fields, SEAL_ID as KEY_ID, SEAL_KEY as KEY, payload_at},
    judge_with, row_of, source_of, tables,
};
use crate::{
    abi::{Family, MAX_SEQUENCES, Said, SealCheck, SealId, Sent, SourceKey, VhostKey, address_bytes},
    reason::Reason,
    seal::{Apart, Clocks, SealKey, Secret, Sequence},
    verdict::Seals,
};

const OTHER: &[u8] = b"another sixteen bytes or more";
const SECOND: u64 = 1_000_000_000;
const WINDOW: u64 = 5 * SECOND;
/// The receiver's clocks: up for an hour, and the wall clock far ahead of that.
const CLOCKS: Clocks = Clocks { boot: 3_600 * SECOND, wall: 1_800_000_000 * SECOND };

fn advert(family: Family) -> EthernetFrame {
    EthernetFrame::advert(family, Fields::default())
}

fn sealed(family: Family, sequence: u64) -> EthernetFrame {
    advert(family).sealed(KEY_ID, KEY, sequence)
}

/// A receiver that has heard nothing.
fn receiver(check: SealCheck, window: u64) -> HostTables {
    let mut tables = tables();
    tables.seals.clocks = CLOCKS;
    for (family, _) in ROWS {
        let key = VhostKey::new(IFINDEX, OUR_VHID, family);
        let vhost = tables.vhosts[&key].sealed(check, window);
        tables.vhosts.insert(key, vhost);
        tables.seals.add_key(SealId::new(key, KEY_ID), SealKey::new(&Secret::new(KEY).unwrap()));
    }
    tables
}

fn source(family: Family) -> SourceKey {
    SourceKey::new(VhostKey::new(IFINDEX, OUR_VHID, family), address_bytes(source_of(family)))
}

/// One that has heard an advert with this sequence, so long ago.
fn after(check: SealCheck, window: u64, last: u64, ago: u64) -> HostTables {
    let tables = receiver(check, window);
    let heard = Sequence { last, counter: 0, arrival: CLOCKS.boot - ago };
    BOTH.iter().for_each(|family| assert!(tables.seals.advance(&source(*family), heard)));
    tables
}

fn fields(counter: u64) -> Fields {
    Fields { counter, ..Fields::default() }
}

/// `Ok` with the key that it is sealed with, as it counts.
fn outcome(tables: &HostTables, family: Family, frame: &EthernetFrame) -> Result<u8, Reason> {
    match judge_with(frame, IFINDEX, tables) {
        Verdict::Valid(row, advert) => {
            assert_eq!(row, row_of(family));
            Ok(advert.key_id)
        }
        Verdict::Refused(row, reason, _) => {
            assert_eq!(row, row_of(family));
            Err(reason)
        }
        Verdict::Other(..) => Err(Reason::Other),
        Verdict::Foreign => panic!("foreign: {frame:?}"),
    }
}

/// What is wrong with the seal of an advert that is taken all the same.
fn objection(tables: &HostTables, family: Family, frame: &EthernetFrame) -> Option<Reason> {
    match judge_with(frame, IFINDEX, tables) {
        Verdict::Valid(_, advert) => {
            assert_eq!(advert.key_id == 0, advert.objection != 0);
            (advert.objection != 0).then(|| Reason::ALL[usize::from(advert.objection)])
        }
        other => panic!("{family:?} {other:?}"),
    }
}

#[test]
fn a_good_seal_counts_once() {
    for family in BOTH {
        for (check, key_id) in [(SealCheck::Enforce, KEY_ID), (SealCheck::Permissive, KEY_ID), (SealCheck::Off, 0)] {
            let tables = receiver(check, WINDOW);
            let frame = sealed(family, CLOCKS.wall);
            assert_eq!(outcome(&tables, family, &frame), Ok(key_id), "{family:?} {check:?}");
            let again = if check == SealCheck::Enforce { Err(Reason::Replayed) } else { Ok(0) };
            assert_eq!(outcome(&tables, family, &frame), again, "{family:?} {check:?}");
            assert_eq!(outcome(&tables, family, &sealed(family, CLOCKS.wall + 1)), Ok(key_id));
        }
    }
}

#[test]
fn while_seals_are_introduced_what_is_wrong_is_told_and_refuses_nothing() {
    for family in BOTH {
        let tables = receiver(SealCheck::Permissive, WINDOW);
        let good = sealed(family, CLOCKS.wall);
        assert_eq!(objection(&tables, family, &advert(family)), Some(Reason::Unsealed));
        assert_eq!(objection(&tables, family, &good), None);
        assert_eq!(objection(&tables, family, &good), Some(Reason::Replayed));
        assert_eq!(objection(&tables, family, &sealed(family, CLOCKS.wall + 2 * WINDOW)), Some(Reason::Stale));
        let forged = advert(family).sealed(KEY_ID, OTHER, CLOCKS.wall + 1);
        assert_eq!(objection(&tables, family, &forged), Some(Reason::BadSeal));
        let unknown = advert(family).sealed(KEY_ID + 1, KEY, CLOCKS.wall + 1);
        assert_eq!(objection(&tables, family, &unknown), Some(Reason::UnknownKey));
        // Each of these told nothing of the sequence.
        assert_eq!(tables.seals.sequence(&source(family)).map(|last| last.last), Some(CLOCKS.wall));
        // But for what the digest covers.
        let forged = good.spoilt(20).with_checksum();
        assert_eq!(outcome(&tables, family, &forged), Err(Reason::BadAuth));
    }
}

#[test]
fn a_trailer_with_another_magic_version_or_key_0_is_none() {
    for family in BOTH {
        for at in 36..40 {
            let mut frame = sealed(family, CLOCKS.wall);
            let place = payload_at(family) + at;
            frame.bytes[place] = if at == 39 { 0 } else { frame.bytes[place] ^ 1 };
            let tables = receiver(SealCheck::Enforce, WINDOW);
            assert_eq!(outcome(&tables, family, &frame), Err(Reason::Other), "byte {at}: it may be VRRP");
            let tables = receiver(SealCheck::Permissive, WINDOW);
            assert_eq!(objection(&tables, family, &frame), Some(Reason::Unsealed), "byte {at}");
        }
        // Key 0 is none, also where there is one.
        let mut tables = receiver(SealCheck::Enforce, WINDOW);
        let key = VhostKey::new(IFINDEX, OUR_VHID, family);
        tables.seals.add_key(SealId::new(key, 0), SealKey::new(&Secret::new(KEY).unwrap()));
        assert_eq!(outcome(&tables, family, &advert(family).sealed(0, KEY, CLOCKS.wall)), Err(Reason::Other));
    }
}

#[test]
fn our_own_sealed_advert_that_comes_back_is_an_echo_whatever_its_sequence_and_changed_it_is_badseal() {
    for family in BOTH {
        let mut tables = receiver(SealCheck::Enforce, WINDOW);
        let Fields { counter, advbase, advskew, demote } = Fields::default();
        let key = VhostKey::new(IFINDEX, OUR_VHID, family);
        let sent = Sent::new(source_of(family), counter).and(counter, Said { advbase, advskew, demote });
        tables.sent.insert(key, sent);
        // Also if our clock was set since.
        for sequence in [CLOCKS.wall, CLOCKS.wall - 41 * SECOND] {
            assert_eq!(outcome(&tables, family, &sealed(family, sequence)), Err(Reason::Echo));
        }
        let edited = sealed(family, CLOCKS.wall).spoilt(2).with_checksum();
        assert_eq!(outcome(&tables, family, &edited), Err(Reason::BadSeal));
        assert_eq!((tables.seals.sequence(&source(family)), tables.seals.take_apart()), (None, vec![]));
    }
}

#[test]
fn a_source_that_is_not_of_now_is_noted_with_how_far_it_is_ahead() {
    for family in BOTH {
        let mut tables = receiver(SealCheck::Enforce, WINDOW);
        for ahead in [41, -3_600] {
            let ahead = ahead * SECOND as i64;
            let frame = sealed(family, CLOCKS.wall.wrapping_add_signed(ahead));
            assert_eq!(outcome(&tables, family, &frame), Err(Reason::Stale));
            let apart = Apart { arrival: CLOCKS.boot, ahead };
            assert_eq!(tables.seals.take_apart(), [(source(family), apart)]);
        }
    }
}

#[test]
fn of_adverts_whose_counter_was_heard_before_so_many_are_looked_at_and_of_new_ones_all() {
    for family in BOTH {
        let mut tables = receiver(SealCheck::Enforce, WINDOW);
        let genuine = |second: u64| {
            EthernetFrame::advert(family, fields(100 + second)).sealed(KEY_ID, KEY, CLOCKS.wall + second * SECOND)
        };
        assert_eq!(outcome(&tables, family, &genuine(0)), Ok(KEY_ID));
        // Somebody has heard it, and makes others of it that seem to come from somewhere else.
        let elsewhere = match family {
            Family::V4 => [10, 77, 0, 9].into(),
            Family::V6 => "fe80::9".parse().unwrap(),
        };
        let forged =
            EthernetFrame::advert(family, fields(100)).with_source(elsewhere).sealed(KEY_ID, OTHER, CLOCKS.wall);
        for second in 1..4 {
            tables.seals.clocks = Clocks { boot: CLOCKS.boot + second * SECOND, wall: CLOCKS.wall + second * SECOND };
            // Or from its server, with a sequence that is newer.
            let of_server = EthernetFrame::advert(family, fields(100 + second - 1));
            let of_server = of_server.sealed(KEY_ID, OTHER, CLOCKS.wall + second * SECOND);
            for (number, forged) in (0..200).zip([&forged, &of_server].into_iter().cycle()) {
                let reason = if number < 64 { Reason::BadSeal } else { Reason::Flood };
                assert_eq!(outcome(&tables, family, forged), Err(reason), "{number}");
            }
            assert_eq!(outcome(&tables, family, &genuine(second)), Ok(KEY_ID));
        }
        // With another counter there is no right digest.
        let other = EthernetFrame::advert(family, fields(900)).spoilt(20).with_checksum();
        let other = other.sealed(KEY_ID, OTHER, CLOCKS.wall + 4 * SECOND);
        assert_eq!(outcome(&tables, family, &other), Err(Reason::BadAuth));
    }
}

#[test]
fn a_flood_costs_no_advert_of_a_server_whose_counters_are_far_behind_those_of_others() {
    for family in BOTH {
        let mut tables = receiver(SealCheck::Enforce, WINDOW);
        let [ahead, elsewhere]: [core::net::IpAddr; 2] = match family {
            Family::V4 => [[10, 77, 0, 8].into(), [10, 77, 0, 9].into()],
            Family::V6 => ["fe80::8", "fe80::9"].map(|address| address.parse().unwrap()),
        };
        let advert = |counter| EthernetFrame::advert(family, fields(counter));
        let sealed_at = |frame: EthernetFrame, second: u64| frame.sealed(KEY_ID, KEY, CLOCKS.wall + second * SECOND);
        assert_eq!(outcome(&tables, family, &sealed_at(advert(10), 0)), Ok(KEY_ID));
        let other = sealed_at(advert(1_000_000).with_source(ahead), 0);
        assert_eq!(outcome(&tables, family, &other), Ok(KEY_ID));
        for second in 1..4 {
            tables.seals.clocks = Clocks { boot: CLOCKS.boot + second * SECOND, wall: CLOCKS.wall + second * SECOND };
            // Made of what was heard; and with counters of his own, for which he has no digest.
            for counter in [1_000_000, 10, 0] {
                let forged = advert(counter).with_source(elsewhere).sealed(KEY_ID, OTHER, CLOCKS.wall);
                (0..100).for_each(|_| assert!(outcome(&tables, family, &forged).is_err()));
                assert_eq!(outcome(&tables, family, &forged), Err(Reason::Flood));
            }
            assert_eq!(outcome(&tables, family, &sealed_at(advert(10 + second), second)), Ok(KEY_ID));
        }
    }
}

#[test]
fn a_counter_counts_as_heard_also_in_an_advert_that_is_not_of_now() {
    for family in BOTH {
        let tables = receiver(SealCheck::Enforce, WINDOW);
        let stale = EthernetFrame::advert(family, fields(500)).sealed(KEY_ID, KEY, CLOCKS.wall - 2 * WINDOW);
        let outcomes: Vec<_> = (0..65).map(|_| outcome(&tables, family, &stale)).collect();
        // The first of them was a new one.
        assert_eq!(outcomes[..65], [Err(Reason::Stale); 65]);
        assert_eq!(outcome(&tables, family, &stale), Err(Reason::Flood));
    }
}

#[test]
fn when_there_are_too_many_sources_a_new_one_is_refused_and_no_known_one_is_forgotten() {
    let known = |number: u32| {
        let [.., a, b] = number.to_be_bytes();
        SourceKey::new(VhostKey::new(9, 1, Family::V4), address_bytes([10, 9, a, b].into()))
    };
    for family in BOTH {
        let tables = after(SealCheck::Enforce, WINDOW, CLOCKS.wall, SECOND);
        let others = MAX_SEQUENCES - BOTH.len() as u32;
        let first = Sequence { last: 1, counter: 1, arrival: 1 };
        assert!((0..others).all(|number| tables.seals.advance(&known(number), first)));
        assert!(!tables.seals.advance(&known(others), first));
        assert_eq!(outcome(&tables, family, &sealed(family, CLOCKS.wall + SECOND)), Ok(KEY_ID));
        assert_eq!(outcome(&tables, family, &sealed(family, CLOCKS.wall + SECOND)), Err(Reason::Replayed));
    }
}

#[test]
fn none_is_refused_where_there_must_be_one_and_taken_where_there_may() {
    for family in BOTH {
        let at = CLOCKS.wall;
        let cut = |len: usize| {
            let mut frame = sealed(family, at);
            let end = frame.bytes.len() - len;
            frame.bytes.truncate(end);
            frame.with_payload_len(64 - len)
        };
        let longer = || {
            let mut frame = sealed(family, at);
            frame.bytes.push(0);
            frame.with_payload_len(65)
        };
        for (what, frame) in [("none", advert(family)), ("cut", cut(1)), ("cut to half", cut(14)), ("longer", longer())]
        {
            let refused = if what == "none" { Reason::Unsealed } else { Reason::Other };
            assert_eq!(outcome(&receiver(SealCheck::Enforce, WINDOW), family, &frame), Err(refused), "{what}");
            let tables = receiver(SealCheck::Permissive, WINDOW);
            assert_eq!(objection(&tables, family, &frame), Some(Reason::Unsealed), "{what}");
        }
        let unknown = advert(family).sealed(KEY_ID + 1, KEY, at);
        assert_eq!(outcome(&receiver(SealCheck::Enforce, WINDOW), family, &unknown), Err(Reason::UnknownKey));
    }
}

#[test]
fn where_there_must_be_one_no_digest_is_computed_of_what_is_refused_without() {
    for family in BOTH {
        let tables = receiver(SealCheck::Enforce, WINDOW);
        let heard = sealed(family, CLOCKS.wall);
        assert_eq!(outcome(&tables, family, &heard), Ok(KEY_ID));
        let unknown = advert(family).sealed(KEY_ID + 1, KEY, CLOCKS.wall + 1);
        let refused = [(advert(family), Reason::Unsealed), (unknown, Reason::UnknownKey), (heard, Reason::Replayed)];
        for (frame, reason) in refused {
            // Its digest is wrong, and nobody looks.
            let forged = frame.spoilt(20).with_checksum();
            assert_eq!(outcome(&tables, family, &forged), Err(reason), "{family:?}");
        }
    }
}

#[test]
fn with_another_key_or_one_bit_otherwise_it_is_refused() {
    for family in BOTH {
        let tables = receiver(SealCheck::Enforce, WINDOW);
        let forged = advert(family).sealed(KEY_ID, OTHER, CLOCKS.wall);
        assert_eq!(outcome(&tables, family, &forged), Err(Reason::BadSeal));
        // Every byte that the digest does not cover, with the right checksum: advskew, demote, advbase; and what it does.
        let bytes: Vec<usize> = [2, 4, 5].into_iter().chain(8..36).chain(40..64).collect();
        for at in bytes {
            let spoilt = sealed(family, CLOCKS.wall).spoilt(at).with_checksum();
            // Counter and digest are looked at first.
            let reason = if (8..36).contains(&at) { Reason::BadAuth } else { Reason::BadSeal };
            assert_eq!(outcome(&tables, family, &spoilt), Err(reason), "byte {at}, {family:?}");
        }
    }
}

#[test]
fn a_seal_is_of_its_source_and_destination() {
    for family in BOTH {
        let (other_source, destination_at) = match family {
            Family::V4 => ([10, 77, 0, 9].into(), 33),
            Family::V6 => ("fe80::9".parse().unwrap(), 53),
        };
        let tables = receiver(SealCheck::Enforce, WINDOW);
        let moved = sealed(family, CLOCKS.wall).with_source(other_source);
        assert_eq!(outcome(&tables, family, &moved), Err(Reason::BadSeal));
        let mut elsewhere = sealed(family, CLOCKS.wall);
        elsewhere.bytes[destination_at] ^= 1;
        assert_eq!(outcome(&tables, family, &elsewhere.with_ip_checksum()), Err(Reason::BadSeal));
    }
}

#[test]
fn at_the_first_contact_the_wall_clock_counts_within_the_window() {
    for family in BOTH {
        for (apart, expected) in [
            (0, Ok(KEY_ID)),
            (WINDOW as i64, Ok(KEY_ID)),
            (-(WINDOW as i64), Ok(KEY_ID)),
            (WINDOW as i64 + 1, Err(Reason::Stale)),
            (-(WINDOW as i64) - 1, Err(Reason::Stale)),
            (-3_600 * SECOND as i64, Err(Reason::Stale)),
        ] {
            let frame = sealed(family, CLOCKS.wall.wrapping_add_signed(apart));
            assert_eq!(outcome(&receiver(SealCheck::Enforce, WINDOW), family, &frame), expected, "{apart}");
            // And if only that counts that it has risen, none does.
            assert_eq!(outcome(&receiver(SealCheck::Enforce, 0), family, &frame), Ok(KEY_ID), "{apart}");
        }
    }
}

#[test]
fn afterwards_only_what_has_passed_since_counts_whoever_sets_a_wall_clock() {
    let last = CLOCKS.wall - 41_000 * SECOND;
    for family in BOTH {
        for (elapsed, risen, expected) in [
            (SECOND, SECOND, Ok(KEY_ID)),
            (SECOND, 1, Ok(KEY_ID)),
            (SECOND, 0, Err(Reason::Replayed)),
            (SECOND, 6 * SECOND, Ok(KEY_ID)),
            (SECOND, 6 * SECOND + 1, Err(Reason::Stale)),
            (5 * SECOND, 5 * SECOND, Ok(KEY_ID)),
            (5 * SECOND, 10 * SECOND + 1, Err(Reason::Stale)),
            (8 * SECOND, 3 * SECOND, Ok(KEY_ID)),
            (8 * SECOND, 3 * SECOND - 1, Err(Reason::Stale)),
            // By the wall clock it would be right.
            (SECOND, 41_000 * SECOND, Err(Reason::Stale)),
            (60 * SECOND, 60 * SECOND, Ok(KEY_ID)),
            // Kept back by somebody for 55 s.
            (60 * SECOND, 5 * SECOND - 1, Err(Reason::Stale)),
            // Silent for longer than the window, and now with another clock: as at the first contact.
            (60 * SECOND, 41_000 * SECOND, Ok(KEY_ID)),
        ] {
            let tables = after(SealCheck::Enforce, WINDOW, last, elapsed);
            let frame = sealed(family, last + risen);
            assert_eq!(outcome(&tables, family, &frame), expected, "{elapsed} {risen}");
        }
    }
}

#[test]
fn who_repeats_what_was_not_heard_keeps_a_sender_alive_for_a_window_and_no_longer() {
    // Sent every second until `CLOCKS.wall`, when its sender died and the receiver, which has heard none, started: each of the
    // last is told as late as it is believed.
    for family in BOTH {
        let mut tables = receiver(SealCheck::Enforce, WINDOW);
        let mut last = 0;
        for sent in (0..=5).rev() {
            let sequence = CLOCKS.wall - sent * SECOND;
            let mut held = 0;
            // A dead time at most from one to the next.
            for delay in (0..30).map(|tenths| last + tenths * SECOND / 10) {
                tables.seals.clocks = Clocks { boot: CLOCKS.boot + delay, wall: CLOCKS.wall + delay };
                let would = Sequence::after(
                    tables.seals.sequence(&source(family)).as_ref(),
                    sequence,
                    0,
                    WINDOW,
                    tables.seals.clocks,
                );
                held = if would.is_some() { delay } else { held };
            }
            tables.seals.clocks = Clocks { boot: CLOCKS.boot + held, wall: CLOCKS.wall + held };
            outcome(&tables, family, &sealed(family, sequence)).ok();
            last = last.max(held);
        }
        assert!((4 * SECOND..=WINDOW + WINDOW / 8 + SECOND / 10).contains(&last), "{last}");
    }
}

#[test]
fn a_clock_that_is_slewed_as_fast_as_chrony_does_loses_nobody() {
    // For ten minutes, either way: 83,333 ppm; by far more than the window.
    for (run, family) in [(1_083_333_333, Family::V4), (916_666_667, Family::V6)] {
        let mut tables = receiver(SealCheck::Enforce, WINDOW);
        for second in 0..600 {
            tables.seals.clocks = Clocks { boot: CLOCKS.boot + second * SECOND, wall: CLOCKS.wall + second * SECOND };
            assert_eq!(
                outcome(&tables, family, &sealed(family, CLOCKS.wall + second * run)),
                Ok(KEY_ID),
                "{second} {run}"
            );
        }
    }
}

#[test]
fn what_is_refused_for_another_reason_does_not_move_the_sequence() {
    for family in BOTH {
        let tables = receiver(SealCheck::Enforce, WINDOW);
        let frame = sealed(family, CLOCKS.wall);
        for bad in [frame.clone().with_ttl(254), frame.clone().spoilt(6), frame.clone().spoilt(63)] {
            assert!(outcome(&tables, family, &bad).is_err());
        }
        let digest_of_others = advert(family).spoilt(20).with_checksum().sealed(KEY_ID, KEY, CLOCKS.wall);
        assert_eq!(outcome(&tables, family, &digest_of_others), Err(Reason::BadAuth));
        assert_eq!(BOTH.map(|family| tables.seals.sequence(&source(family))), [None; 2]);
        assert_eq!(outcome(&tables, family, &frame), Ok(KEY_ID));
    }
}
