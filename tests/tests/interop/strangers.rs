//! A carpd and a ucarp that do not belong together, though they should: each refuses the other, and both are masters.

use anyhow::Result;
use carp_tests::{Host, LONG, Lab, Node, Ucarp, Wire, eventually, is_missing};

use crate::at_once;

#[test]
fn another_passphrase_or_another_vip_makes_both_masters_and_counts_as_badauth() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    at_once(&["--pass=another", "--addr=10.77.0.101"], |apart| both_are_masters(apart))
}

/// With an option for ucarp that sets it apart.
fn both_are_masters(apart: &str) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let quick = "--advbase=1 --deadratio=1";
    let node = Node::start(&a, quick)?;
    node.wait_for("BACKUP -> MASTER")?;
    let mut ucarp = Ucarp::start(&b, &format!("{quick} --advskew=100 {apart}"))?;
    ucarp.wait_for("MASTER")?;
    ucarp.wait_for_line("Bad digest")?;
    node.wait_for_line("refused adverts: ")?;
    wire.wait_for_adverts(b.ip(), 3)?;
    let told = node.report()?;
    assert!(told.count("badauth") >= 3, "{}", told.text);
    assert_eq!((told.count("ipackets"), told.count("echo"), told.count("other")), (0, 0, 0), "{}", told.text);
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert_eq!(ucarp.states(), ["BACKUP", "MASTER"]);
    has_a_vip(&a)?;
    has_a_vip(&b)?;

    // The same host, once it is set right, belongs here.
    ucarp.stop()?;
    let ucarp = Ucarp::start(&b, "--advskew=100")?;
    wire.wait_for_adverts(a.ip(), 5)?;
    assert_eq!(ucarp.states(), ["BACKUP"]);
    Ok(())
}

/// Waits until a host has one address beside its own.
fn has_a_vip(host: &Host) -> Result<()> {
    eventually("a VIP is there", LONG, || Ok(host.addresses()?.len() == 2))
}
