//! Frame, configuration, verdict, counter and event: the same frames that the host's verdict is tested
//! with, judged in the kernel.

use std::net::IpAddr;

use carp_common::{
    abi::{Policy, Sent, VhostKey},
    reason::Reason,
};

use crate::xdp_support::{
    Family::{V4, V6},
    IFINDEX, TestVhost,
    frames::{BOTH, DIGEST_AT, EthernetFrame, Fields, OUR_VHID, source_of},
    program::{Program, XdpAction},
    row_of,
    table::{Expect, TABLE, from, good},
};

#[test]
fn the_kernel_judges_every_frame_as_the_table_says() {
    let mut program = Program::for_our_vhost();
    for (what, families, build, expect) in TABLE {
        for family in *families {
            program.forget();
            let (action, counters) = program.judge(&build(*family).bytes);
            let ipackets = if *family == V4 { Reason::Ipackets } else { Reason::Ipackets6 };
            let row = row_of(*family);
            let (expected, counter, events) = match *expect {
                Expect::Foreign => (XdpAction::Pass, None, 0),
                Expect::Other => (XdpAction::Pass, Some((0, Reason::Other)), 0),
                Expect::OtherOfOurs => (XdpAction::Pass, Some((row, Reason::Other)), 0),
                Expect::Refused(reason) => (XdpAction::Drop, Some((row, reason)), 0),
                Expect::Valid => (XdpAction::Pass, Some((row, ipackets)), 1),
            };
            assert_eq!(action, expected, "{what}, {family:?}");
            assert_eq!(counters, Vec::from_iter(counter), "{what}, {family:?}");
            assert_eq!(program.events().len(), events, "{what}, {family:?}");
        }
    }
}

#[test]
fn each_reason_keeps_its_last_sender() {
    let program = Program::for_our_vhost();
    for (family, ip) in [(V4, "10.9.8.7"), (V6, "fe80::9:8:7")] {
        let sender = |last| from(ip).with(6, &[2, 4, 6, 8, 10, last]);
        let cases = [
            (Reason::BadTtl, sender(1).with_ttl(3)),
            (Reason::BadSum, sender(2).spoilt(6)),
            (Reason::BadAuth, sender(3).spoilt(DIGEST_AT).with_checksum()),
            (Reason::Other, sender(4).spoilt(DIGEST_AT).with_checksum().with_trailer(&[0; 8])),
        ];
        for (_, frame) in &cases {
            // Another sender before: the last one counts.
            program.run(&frame.clone().with(6, &[0xaa; 6]).bytes);
            program.run(&frame.bytes);
        }
        for (last, (reason, _)) in (1..).zip(&cases) {
            let refused = program.refused(row_of(family), *reason);
            assert_eq!(refused.source(), ip.parse::<IpAddr>().unwrap(), "{reason:?}");
            assert_eq!((refused.mac(), refused.vhid()), ([2, 4, 6, 8, 10, last], OUR_VHID), "{reason:?}");
            assert_eq!(program.count(row_of(family), *reason), 2, "{reason:?}");
        }
    }
}

#[test]
fn what_belongs_to_no_vhost_keeps_its_last_sender_too() {
    let program = Program::for_our_vhost();
    program.run(&from("10.9.8.7").in_payload(1, 200).bytes);
    let refused = program.refused(0, Reason::Other);
    assert_eq!((refused.source(), refused.vhid()), ("10.9.8.7".parse().unwrap(), 200));
}

#[test]
fn an_echo_is_dropped_and_a_peer_with_our_counter_is_not() {
    for family in BOTH {
        let mut program = Program::for_our_vhost();
        let sent = Sent::new(source_of(family), Fields::default().counter);
        program.sent(VhostKey::new(IFINDEX, OUR_VHID, family), sent);
        assert_eq!(program.run(&good(family).bytes), XdpAction::Drop);
        assert_eq!(program.counts(), [((row_of(family), Reason::Echo), 1)].into());

        let peer = from(if family == V4 { "10.77.0.2" } else { "fe80::2" });
        let later =
            EthernetFrame::advert(family, Fields { counter: Fields::default().counter + 1, ..Fields::default() });
        for valid in [peer, later] {
            assert_eq!(program.run(&valid.bytes), XdpAction::Pass);
            assert_eq!(program.events().len(), 1);
        }
    }
}

#[test]
fn the_kernel_knows_peers_a_lower_ttl_and_a_second_digest() {
    let ours = TestVhost::ours();
    let another = TestVhost::new(OUR_VHID, b"another", &[]);
    for family in BOTH {
        let is_taken = |vhost: &TestVhost, frame: &EthernetFrame| {
            let mut program = Program::load();
            program.serve(vhost);
            program.run(&frame.bytes) == XdpAction::Pass
        };
        let good = good(family);
        let peers = TestVhost { peers: vec![(source_of(family), Policy::ANY)], ..ours.clone() };
        let stranger = from(if family == V4 { "10.77.0.2" } else { "fe80::2" });
        assert!(is_taken(&peers, &good) && !is_taken(&peers, &stranger));
        let policy = Policy { advskew: [Fields::default().advskew + 1, 254], ..Policy::ANY };
        let strict = TestVhost { peers: vec![(source_of(family), policy)], ..ours.clone() };
        assert!(!is_taken(&strict, &good));
        let routed = TestVhost { min_ttl: 250, ..ours.clone() };
        assert!(is_taken(&routed, &good.clone().with_ttl(250)) && !is_taken(&routed, &good.clone().with_ttl(249)));
        let both = TestVhost { other: Some(ours.key), ..another.clone() };
        assert!(is_taken(&both, &good) && !is_taken(&another, &good));
    }
}

#[test]
fn a_vhost_of_another_interface_is_none_of_ours() {
    let mut program = Program::load();
    // The program sees interface 1.
    program.serve_on(2, &TestVhost::ours());
    for family in BOTH {
        assert_eq!(program.run(&good(family).with_ttl(1).bytes), XdpAction::Pass);
    }
    assert_eq!(program.counts(), [((0, Reason::Other), 2)].into());
    assert_eq!(program.events(), []);
}
