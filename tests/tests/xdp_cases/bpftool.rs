//! `bpftool` reads well: names, licence, and maps with the names of their fields.

use std::process::{Command, Output};

use carp_common::abi::{AddressKey, Deadline, EGRESS_PROGRAM, Held, PROGRAM, map, mapped};
use carp_tests::tool;

use crate::xdp_support::{
    Family::V4,
    frames::{EthernetFrame, Fields},
    object,
    program::Program,
    table::good,
};

/// What `bpftool -j` says, without white space.
fn told(args: &[&str]) -> String {
    let bpftool = tool("bpftool").unwrap();
    let Output { status, stdout, stderr } = Command::new(bpftool).arg("-j").args(args).output().expect("run bpftool");
    let text = String::from_utf8(stdout).expect("bpftool writes UTF-8");
    assert!(status.success(), "bpftool {args:?}: {text}{}", String::from_utf8_lossy(&stderr));
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[test]
fn the_program_shows_its_name_its_btf_and_its_maps() {
    let program = Program::for_our_vhost();
    let info = program.info();
    let text = told(&["prog", "show", "id", &info.id().to_string()]);
    let name = format!("\"name\":\"{PROGRAM}\"");
    assert_says(&text, &["\"type\":\"xdp\"", &name, "\"gpl_compatible\":true", "\"btf_id\":", "\"jited\":true"]);
    assert_eq!(info.map_ids().unwrap().map(|ids| !ids.is_empty()), Some(true));
}

#[test]
fn so_does_the_egress_program() {
    let program = Program::load();
    let text = told(&["prog", "show", "id", &program.egress_info().id().to_string()]);
    let name = format!("\"name\":\"{EGRESS_PROGRAM}\"");
    assert_says(&text, &["\"type\":\"sched_cls\"", &name, "\"gpl_compatible\":true", "\"btf_id\":"]);
}

#[test]
fn the_licence_is_that_of_the_code() {
    let licence = b"Dual MIT/GPL\0";
    assert!(object().windows(licence.len()).any(|bytes| bytes == licence));
}

#[test]
fn every_map_has_its_name_and_shows_the_names_of_its_fields() {
    let mut program = Program::for_our_vhost();
    program.run(&good(V4).bytes);
    program.run(&EthernetFrame::advert(V4, Fields { counter: 9, ..Fields::default() }).with_ttl(3).bytes);
    let key = carp_common::abi::VhostKey::new(1, 7, V4);
    program.sent(key, carp_common::abi::Sent::new([10, 77, 0, 1].into(), 1));
    program.hold(AddressKey::new(1, mapped([10, 77, 0, 100])), Held::new(5, [[2; 6]; 2]));
    program.set_lease(5, Deadline::serving(78));

    let ids = program.info().map_ids().unwrap().expect("ids of the maps");
    let names: Vec<(u32, String)> =
        ids.into_iter().map(|id| (id, told(&["map", "show", "id", &id.to_string()]))).collect();
    let dump = |name: &str| {
        let quoted = format!("\"name\":\"{name}\"");
        let (id, _) = names.iter().find(|(_, text)| text.contains(&quoted)).unwrap_or_else(|| panic!("no map {name}"));
        told(&["map", "dump", "id", &id.to_string()])
    };
    assert_says(&dump(map::VHOSTS), &["\"ifindex\":1", "\"vhid\":7", "\"family\":4", "\"row\":5", "\"counter_at\":"]);
    assert_says(&dump(map::SENT), &["\"ifindex\":1", "\"source\":[", "\"newest\":1"]);
    assert_says(
        &dump(map::LAST_HEARD),
        &["\"vhost\":{\"ifindex\":1,\"vhid\":7", "\"arrival\":", "\"counter\":1234605616436508552", "\"advbase\":1"],
    );
    assert_says(&dump(map::REFUSED), &["\"source\":[", "\"mac\":[", "\"vhid\":7"]);
    assert_says(&dump(map::COUNTERS), &["\"key\":60,\"values\":[{\"cpu\":0,\"value\":"]);
    assert_says(&dump(map::HELD), &["\"ifindex\":1", "\"address\":[", "\"row\":5", "\"macs\":[["]);
    assert_says(&dump(map::LEASES), &["\"key\":5,\"value\":78"]);
    let quoted = format!("\"name\":\"{}\"", map::EVENTS);
    assert!(names.iter().any(|(_, text)| text.contains(&quoted)), "no map {}", map::EVENTS);
}
