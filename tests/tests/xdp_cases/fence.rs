//! The fence: the frames that its rules are tested with on the host, arriving and leaving in the kernel, under every lease.

use std::time::Duration;

use carp_common::{
    abi::{AddressKey, Deadline, Held, Sent, VhostKey, address_bytes},
    digest::Scratch,
    fence::{arrives, leaves},
    reason::Reason,
    verdict::{Verdict, judge},
};
use carp_tests::{BootTime, LONG, random::SplitMix64};

use crate::xdp_support::{
    Family::{self, V4},
    HostTables, IFINDEX, TestVhost,
    fence_table::{OWN, TABLE, VIRTUAL, ip, vip},
    frames::{BOTH, OUR_VHID, source_of},
    program::{Program, XdpAction},
    row_of, seed_and_frames,
    table::good,
};

/// The kernel takes no shorter frame for a test run of XDP, and none of IP that ends in its header for one of a classifier.
const SHORTEST: usize = 14;
const SHORTEST_TO_LEAVE: usize = 54;
const SEED: u64 = 0x00fe_2ce5_ca5b_0112;

/// A program, and the tables on the host, that know one virtual host, which holds a VIP in each family.
fn holding() -> (Program, HostTables) {
    let (mut program, mut host) = (Program::for_our_vhost(), HostTables::default());
    host.serve(&TestVhost::ours());
    for family in BOTH {
        let (key, sent) = (VhostKey::new(IFINDEX, OUR_VHID, family), Sent::new(source_of(family), 1));
        program.sent(key, sent);
        host.sent(key, sent);
        let held = Held::new(row_of(family), [OWN, VIRTUAL]);
        program.hold(key_of(family), held);
        host.hold(key_of(family), held);
    }
    (program, host)
}

fn key_of(family: Family) -> AddressKey {
    AddressKey::new(IFINDEX, address_bytes(vip(family)))
}

fn set_leases(program: &mut Program, deadline: Deadline) {
    BOTH.into_iter().for_each(|family| program.set_lease(row_of(family), deadline));
}

/// A frame of the table: what it is, its row, its bytes, and whether it is dropped when it arrives and when it leaves.
fn cases() -> impl Iterator<Item = (String, u32, Vec<u8>, [bool; 2])> {
    TABLE.iter().flat_map(|(what, families, build, drops)| {
        families.iter().map(move |family| {
            let dropped = [drops.arriving(), drops.leaving()];
            (format!("{what}, {family:?}"), row_of(*family), build(*family), dropped)
        })
    })
}

/// Asserts what becomes of a frame in both directions, and that exactly what was dropped was counted in its row. (What the
/// verdict refuses, as our own adverts that come back, does not get as far as the fence.)
fn assert_dropped(program: &Program, what: &str, row: u32, frame: &[u8], [arriving, leaving]: [bool; 2]) {
    let refused = || Reason::ALL.into_iter().filter(|r| r.is_refusal()).map(|r| program.count(row, r)).sum::<u64>();
    let before_refused = refused();
    let fenced = || [Reason::FencedIn, Reason::FencedOut].map(|reason| program.count(row, reason));
    let before = fenced();
    let action = program.run(frame);
    let is_dropped = arriving || refused() > before_refused;
    assert_eq!(action, if is_dropped { XdpAction::Drop } else { XdpAction::Pass }, "{what}, arriving");
    assert_eq!(program.may_leave(frame), !leaving, "{what}, leaving");
    assert_eq!(fenced(), [before[0] + u64::from(arriving), before[1] + u64::from(leaving)], "{what}");
}

#[test]
fn when_the_lease_is_over_the_kernel_drops_what_the_table_says_and_nothing_else() {
    let (mut program, _) = holding();
    for deadline in [Deadline::CUT, Deadline::serving(BootTime::now().as_nanos())] {
        set_leases(&mut program, deadline);
        for (what, row, frame, dropped) in cases() {
            assert_dropped(&program, &what, row, &frame, dropped);
        }
    }
}

#[test]
fn until_then_and_without_a_lease_the_kernel_drops_nothing() {
    let (mut program, _) = holding();
    for deadline in
        [Deadline::NONE, Deadline::serving((BootTime::now() + LONG * 10).as_nanos()), Deadline::serving(u64::MAX)]
    {
        set_leases(&mut program, deadline);
        for (what, row, frame, _) in cases() {
            assert_dropped(&program, &what, row, &frame, [false; 2]);
        }
    }
}

#[test]
fn a_lease_that_is_not_renewed_runs_out_by_itself() {
    let (mut program, _) = holding();
    let [from, to] = [(vip(V4), source_of(V4)), (source_of(V4), vip(V4))].map(|(a, b)| ip(V4, OWN, OWN, a, b));
    let deadline = BootTime::now() + Duration::from_millis(50);
    set_leases(&mut program, Deadline::serving(deadline.as_nanos()));
    let mut seen = 0;
    loop {
        let before = BootTime::now();
        let passes = [program.run(&to) == XdpAction::Pass, program.may_leave(&from)];
        let after = BootTime::now();
        if after < deadline {
            assert_eq!(passes, [true; 2]);
            seen += 1;
        }
        if before >= deadline {
            assert_eq!(passes, [false; 2]);
            break;
        }
    }
    assert!(seen > 0, "nothing was asked before the lease was over");
    set_leases(&mut program, Deadline::serving((BootTime::now() + LONG).as_nanos()));
    assert_dropped(&program, "renewed", row_of(V4), &to, [false; 2]);
}

#[test]
fn a_vip_that_was_given_back_is_an_address_like_any_other() {
    let (mut program, _) = holding();
    set_leases(&mut program, Deadline::CUT);
    for family in BOTH {
        let frame = ip(family, OWN, OWN, vip(family), vip(family));
        assert_dropped(&program, "held", row_of(family), &frame, [true; 2]);
        program.release(key_of(family));
        assert_dropped(&program, "given back", row_of(family), &frame, [false; 2]);
    }
}

#[test]
fn a_vip_on_another_interface_is_another_one() {
    let mut program = Program::for_our_vhost();
    for family in BOTH {
        let key = AddressKey::new(IFINDEX + 1, address_bytes(vip(family)));
        program.hold(key, Held::new(row_of(family), [OWN, VIRTUAL]));
        program.set_lease(row_of(family), Deadline::CUT);
        let frame = ip(family, OWN, OWN, vip(family), vip(family));
        assert_dropped(&program, "elsewhere", row_of(family), &frame, [false; 2]);
    }
}

#[test]
fn a_valid_advert_is_heard_whatever_the_lease() {
    let (mut program, _) = holding();
    set_leases(&mut program, Deadline::CUT);
    for family in BOTH {
        assert_eq!(program.run(&good(family).with_source(vip(family)).bytes), XdpAction::Pass);
    }
    assert_eq!(program.events().len(), 2);
}

#[test]
fn the_kernel_and_the_host_agree_on_random_frames_in_both_directions() {
    let (seed, frames) = seed_and_frames(SEED);
    let mut random = SplitMix64::new(seed);
    let mut below = |end: usize| (random.next() % end as u64) as usize;
    let (mut program, mut host) = holding();
    let cases: Vec<_> = cases().collect();
    let mut scratch = Scratch::default();
    let now = || BootTime::now().as_nanos();
    let mut dropped = [0; 2];
    for number in 0..frames {
        if number % 100 == 0 {
            let deadline = [
                Deadline::NONE,
                Deadline::CUT,
                Deadline::serving(now()),
                Deadline::serving(u64::MAX),
                Deadline::claiming(u64::MAX),
            ][below(5)];
            set_leases(&mut program, deadline);
            BOTH.into_iter().for_each(|family| host.set_lease(row_of(family), deadline));
            program.events();
        }
        let mut frame = cases[below(cases.len())].2.clone();
        for _ in 0..[0, 0, 1, 1, 2, 4][below(6)] {
            let at = below(frame.len());
            frame[at] = [0, 1, 2, 4, 6, 8, 44, 58, 112, 135, 136, 255, frame[at] ^ (1 << below(8))][below(13)];
        }
        if below(12) == 0 {
            frame.truncate(SHORTEST + below(frame.len() - SHORTEST));
        }
        let what = || format!("CARP_TEST_SEED={seed}, frame {number}: {frame:02x?}");
        let arriving = match judge(frame.as_slice(), IFINDEX, &host, &host.seals, || Some(&mut scratch)) {
            Verdict::Refused(..) => XdpAction::Drop,
            Verdict::Valid(..) => XdpAction::Pass,
            Verdict::Foreign | Verdict::Other(..) => match arrives(frame.as_slice(), IFINDEX, &host, now) {
                Some(_) => XdpAction::Drop,
                None => XdpAction::Pass,
            },
        };
        assert_eq!(program.run(&frame), arriving, "{}", what());
        let may_leave = leaves(frame.as_slice(), IFINDEX, &host, now).is_none();
        if frame.len() >= SHORTEST_TO_LEAVE {
            assert_eq!(program.may_leave(&frame), may_leave, "{}", what());
        }
        dropped[0] += u32::from(arriving == XdpAction::Drop);
        dropped[1] += u32::from(!may_leave);
    }
    println!("dropped: {dropped:?} of {frames}");
    assert!(dropped.iter().all(|count| *count > 1_000), "{dropped:?}");
}
