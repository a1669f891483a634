//! Reads Ethernet captures: a header of 24 bytes, then for each frame a header of 16 and its bytes.

/// The frames of a capture written by a little-endian machine, as tcpdump writes it.
///
/// # Panics
/// If it is none, or cut short.
pub(crate) fn frames(capture: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| u32::from_le_bytes(capture[at..at + 4].try_into().expect("four bytes"));
    assert!(matches!(word(0), 0xa1b2_c3d4 | 0xa1b2_3c4d), "not a little-endian pcap file");
    assert_eq!(word(20), 1, "not an Ethernet capture");
    let mut frames = vec![];
    let mut at = 24;
    while at < capture.len() {
        let len = word(at + 8) as usize;
        frames.push(capture[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    frames
}
