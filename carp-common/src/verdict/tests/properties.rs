//! What holds for any frame.

use proptest::{prelude::*, sample::Index};

use super::*;

/// A good advert, some of its bytes replaced, perhaps cut, perhaps with checksums put right.
fn frame() -> impl Strategy<Value = EthernetFrame> {
    let edits = prop::collection::vec((any::<Index>(), any::<u8>()), 0..6);
    let trailer = prop::collection::vec(any::<u8>(), 0..3);
    (any::<bool>(), edits, trailer, any::<bool>(), 0..3usize).prop_map(|(v6, edits, trailer, sums, cut)| {
        let mut frame = good(if v6 { V6 } else { V4 }).with_trailer(&trailer);
        for (at, byte) in edits {
            let at = at.index(frame.bytes.len());
            frame.bytes[at] = byte;
        }
        let frame = if sums { frame.with_checksum() } else { frame };
        frame.cut_by(cut)
    })
}

proptest! {
    // A failure prints its smallest case, and leaves no file behind.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_have_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
        let mut scratch = Scratch::default();
        judge(bytes.as_slice(), IFINDEX, &tables(), &SealMemory::default(), || Some(&mut scratch));
    }

    #[test]
    fn what_is_refused_is_protocol_112_of_a_known_vhid_and_exactly_an_adverts_length(frame in frame()) {
        if let Verdict::Refused(row, _, _) = judged(&frame) {
            let bytes = &frame.bytes;
            let family = if bytes[12..14] == [0x08, 0] { V4 } else { V6 };
            let at = payload_at(family);
            let [protocol, len] = match family {
                V4 => [usize::from(bytes[23]), usize::from(u16::from_be_bytes([bytes[16], bytes[17]])) - 20],
                V6 => [usize::from(bytes[20]), usize::from(u16::from_be_bytes([bytes[18], bytes[19]]))],
            };
            prop_assert_eq!((protocol, len, row), (112, 36, row_of(family)));
            prop_assert_eq!((bytes[at], bytes[at + 1], bytes[at + 3]), (0x21, OUR_VHID, 7));
            prop_assert!(bytes.len() >= at + 36);
        }
    }

    #[test]
    fn what_is_valid_carries_the_digest_of_its_counter(frame in frame()) {
        if let Verdict::Valid(_, advert) = judged(&frame) {
            // Nothing that the digest covers differs from what was signed.
            let at = payload_at(advert.source.vhost().family());
            let fields = Fields { counter: advert.counter, ..Fields::default() };
            let signed = EthernetFrame::advert(advert.source.vhost().family(), fields);
            prop_assert_eq!(&frame.bytes[at + 8..at + 36], &signed.bytes[at + 8..at + 36]);
            prop_assert_eq!(frame.bytes[at + 1], OUR_VHID);
        }
    }
}

#[test]
fn a_short_frame_is_never_refused() {
    for family in BOTH {
        let whole = good(family);
        for len in 0..whole.bytes.len() {
            let mut scratch = Scratch::default();
            let verdict = judge(&whole.bytes[..len], IFINDEX, &tables(), &SealMemory::default(), || Some(&mut scratch));
            match verdict {
                Verdict::Foreign => assert!(len < payload_at(family), "{family:?}, {len} bytes"),
                Verdict::Other(0, _) => {}
                verdict => panic!("{family:?}, {len} bytes: {verdict:?}"),
            }
        }
    }
}

#[test]
fn every_bit_that_the_digest_covers_counts() {
    for family in BOTH {
        let at = payload_at(family);
        for bit in 8 * 8..36 * 8 {
            let mut frame = good(family);
            frame.bytes[at + bit / 8] ^= 1 << (bit % 8);
            let verdict = judged(&frame.with_checksum());
            assert!(matches!(verdict, Verdict::Refused(_, Reason::BadAuth, _)), "{family:?}, bit {bit}: {verdict:?}");
        }
    }
}

#[test]
fn reads_beyond_the_end_of_a_slice_are_refused() {
    let frame: &[u8] = &[1, 2, 3];
    assert_eq!(Frame::read(frame, 1), Some([2, 3]));
    assert_eq!(Frame::read::<3>(frame, 1), None);
    assert_eq!(Frame::read::<1>(frame, usize::MAX), None);
    assert!(frame.has(3) && !frame.has(4));
}
