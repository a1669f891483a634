//! Tracked interfaces.

use anyhow::Result;
use carp_tests::configured::folder;
use carp_tests::{LONG, Lab, Wire};

use crate::{FIRST, Server, TO_BACKUP, TO_MASTER, YIELDS, add_uplink, first, pair, set_uplink};

const TRACKED: &str = "track_interfaces = [{ name = \"t0\", demote = 100 }]";

#[test]
fn a_master_hands_over_at_once_when_a_tracked_interface_fails_and_takes_back_when_it_is_well() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    add_uplink(&a)?;
    let [on_a, on_b] = pair(&a, &b, (folder()?, &[first(&format!("preempt = true\n{TRACKED}"))]), "")?;
    assert_eq!(on_a.demoting()?, [""; 0]);
    assert_eq!(on_a.field("/demotion/sources/4/source")?, "interface t0");

    let mut expected = vec![TO_BACKUP, TO_MASTER];
    let mut of_b = vec![TO_BACKUP];
    for (why, fail, mend) in [
        ("no carrier", "link set t1 down", Some("link set t1 up")),
        ("the interface is down", "link set t0 down", Some("link set t0 up")),
        ("the interface does not exist", "link del t0", None),
    ] {
        a.ns().ip(fail)?;
        expected.push(YIELDS);
        of_b.push(TO_MASTER);
        on_a.wait_for_changes(FIRST, &expected)?;
        on_b.wait_for_changes(FIRST, &of_b)?;
        assert_eq!(on_b.cause(TO_MASTER)?, "10.77.0.1 is demoted by 100", "by its advert, and not by its silence");
        on_a.wait_until_demoted_by(&[&format!("interface t0 100: {why}")])?;
        on_a.agent.wait_for_line(&format!("{FIRST}: demoted by 100: interface t0: {why} (100)"), LONG)?;
        let (code, table) = on_a.table()?;
        assert_eq!(code, Some(4), "{table}");
        assert!(table.contains("100 (interface t0)"), "{table}");
        assert!(table.contains(&format!("! {FIRST}: demoted by 100: interface t0: {why}\n")), "{table}");

        match mend {
            Some(mend) => drop(a.ns().ip(mend)?),
            None => add_uplink(&a)?,
        }
        expected.push(TO_MASTER);
        of_b.push(YIELDS);
        on_a.wait_for_changes(FIRST, &expected)?;
        on_b.wait_for_changes(FIRST, &of_b)?;
        on_a.wait_until_demoted_by(&[])?;
        assert_eq!(on_a.table()?.0, Some(0), "{}", on_a.table()?.1);
    }
    Ok(())
}

#[test]
fn a_master_without_a_peer_stays_master_and_advertises_its_demotion_for_as_long_as_it_lasts() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    // t0 is not there.
    let server = Server::start(&a, &[first(TRACKED)])?;
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    assert_eq!(wire.wait_for_adverts(a.ip(), 2)?.1.election.demote, 100);
    assert_eq!(server.demoting()?, ["interface t0 100: the interface does not exist"]);
    add_uplink(&a)?;
    server.wait_until_demoted_by(&[])?;
    assert_eq!(wire.wait_for_adverts(a.ip(), 1)?.1.election.demote, 0);
    set_uplink(&a, "down")?;
    server.wait_until_demoted_by(&["interface t0 100: no carrier"])?;
    assert_eq!(wire.wait_for_adverts(a.ip(), 1)?.1.election.demote, 100);

    // Nothing that is tracked no longer demotes, and what is tracked anew does.
    server.reload(&[first("")])?;
    server.wait_until_demoted_by(&[])?;
    assert_eq!(wire.wait_for_adverts(a.ip(), 1)?.1.election.demote, 0);
    server.reload(&[first("track_interfaces = [{ name = \"t0\", demote = 7 }]")])?;
    server.wait_until_demoted_by(&["interface t0 7: no carrier"])?;
    server.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])
}
