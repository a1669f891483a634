//! Which road is taken on what interface, and what is said of it.

use std::io;

use nix::libc;

use super::{super::xdp::AttachError, *};
use crate::net::interface::tests::ready;

const NOT_SUPPORTED: i32 = libc::EOPNOTSUPP;

/// Attaches in these modes only; the others say so.
fn driver(works: &[Hook]) -> impl FnMut(Hook) -> Result<(), AttachError> {
    move |mode| {
        if works.contains(&mode) { Ok(()) } else { Err(io::Error::from_raw_os_error(NOT_SUPPORTED).into()) }
    }
}

#[test]
fn auto_takes_the_driver_else_the_stack_and_says_what_the_driver_said() {
    assert_eq!(attach(Choice::Auto, driver(&[Hook::Native, Hook::Generic])), Ok(Road::Native));
    // Bridges, VLANs, macvlans, and drivers without XDP or not at this MTU.
    let road = attach(Choice::Auto, driver(&[Hook::Generic])).unwrap();
    let line = road.describe("br0");
    assert!(line.starts_with("generic XDP on br0, which is slower: native XDP: Operation not supported"), "{line}");
    let why = attach(Choice::Auto, driver(&[])).unwrap_err();
    assert!(why.contains("native XDP: Operation not") && why.contains("generic XDP: Operation not"), "{why}");
}

#[test]
fn what_was_asked_for_is_taken_or_nothing() {
    assert_eq!(attach(Choice::Native, driver(&[Hook::Native])), Ok(Road::Native));
    assert!(attach(Choice::Native, driver(&[Hook::Generic])).unwrap_err().starts_with("native XDP: "));
    assert_eq!(attach(Choice::Generic, driver(&[Hook::Native, Hook::Generic])), Ok(Road::Generic(None)));
    assert!(attach(Choice::Generic, driver(&[Hook::Native])).unwrap_err().starts_with("generic XDP: "));
}

#[test]
fn where_another_program_is_no_other_mode_is_tried() {
    let mut tries = 0;
    let why = attach(Choice::Auto, |_| {
        tries += 1;
        Err(AttachError::Busy("\"guard\" (id 7)".to_owned()))
    });
    assert!(why.unwrap_err().contains("\"guard\" (id 7)"));
    assert_eq!(tries, 1);
}

#[test]
fn where_a_card_takes_vlan_tags_off_there_is_no_xdp() {
    assert_eq!(obstacle(&ready()), None);
    let interface = Interface { strips_vlan_tags: true, ..ready() };
    assert!(obstacle(&interface).is_some_and(|why| why.contains("rx-vlan-offload") && why.contains("ethtool -K")));
}
