//! What tshark makes of carpd's adverts.

use std::process::Command;

use anyhow::{Context, Result};
use carp_tests::netns::output_of;
use carp_tests::{Capture, ETH0, Filter, Folder, LONG, Lab, Node, adverts, is_missing, tool, write_pcap};

/// The fields that are asked for, and what they are to say of an advert; `*` stands for what changes.
const FIELDS: [(&str, &str); 16] = [
    ("eth.src", "00:00:5e:00:01:01"),
    ("eth.dst", "01:00:5e:00:00:12"),
    ("ip.src", "10.77.0.1"),
    ("ip.dst", "224.0.0.18"),
    ("ip.ttl", "255"),
    ("ip.dsfield", "0x10"),
    ("ip.checksum.status", "1"),
    ("carp.version", "2"),
    ("carp.type", "1"),
    ("carp.vhid", "1"),
    ("carp.authlen", "7"),
    ("carp.demotion", "0"),
    ("carp.checksum.status", "1"),
    ("carp.counter", "*"),
    ("carp.advskew", "77"),
    ("carp.adver_int", "1"),
];

#[test]
fn tshark_decodes_the_adverts_as_they_are_meant_and_complains_of_nothing() -> Result<()> {
    if is_missing("tshark")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let heard = Capture::start(bystander.ns(), ETH0, Filter::Carp)?;
    let mut node = Node::start(&a, "--advbase=1 --advskew=77 --deadratio=1")?;
    let mut left = 2;
    heard.wait_for("the second advert", LONG, |frame| {
        left -= usize::from(adverts::parse(frame).is_some());
        left == 0
    })?;
    node.agent_mut().stop_and_wait(LONG)?;
    heard.wait_for("a bow-out", LONG, |frame| adverts::parse(frame).is_some_and(|advert| advert.is_bow_out()))?;
    let frames = heard.stop()?;

    let folder = Folder::new("decoded")?;
    let file = folder.path().join("adverts.pcap");
    write_pcap(&file, &frames)?;
    let tshark = || {
        let mut tshark = Command::new(tool("tshark")?);
        // By itself it takes protocol 112 for VRRP; and it does not check checksums unless asked to.
        tshark.args(["-n", "-d", "ip.proto==112,carp", "-o", "ip.check_checksum:TRUE"]).arg("-r").arg(&file);
        anyhow::Ok(tshark)
    };
    let asked = FIELDS.iter().flat_map(|(field, _)| ["-e", field]);
    let told = output_of(tshark()?.args(["-T", "fields"]).args(asked))?;
    assert_eq!(told.lines().count(), frames.len(), "{told}");
    for (line, frame) in told.lines().zip(&frames) {
        let advert = adverts::parse(frame).context("a frame that is no advert")?;
        for (said, (field, expected)) in line.split('\t').zip(FIELDS) {
            let expected = match field {
                "carp.counter" => advert.counter.to_string(),
                "carp.adver_int" | "carp.advskew" if advert.is_bow_out() => "255".to_owned(),
                _ => expected.to_owned(),
            };
            assert_eq!(said, expected, "{field} in {line}");
        }
    }
    let complaints = output_of(tshark()?.args(["-Y", "_ws.malformed || _ws.expert || data"]))?;
    assert_eq!(complaints, "");
    Ok(())
}
