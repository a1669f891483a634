//! FreeBSD's way of telling a demotion.

use anyhow::{Context, Result};
use carp_tests::configured::folder;
use carp_tests::{LONG, Lab, Wire, eventually};

use crate::{FIRST, Server, TO_BACKUP, TO_MASTER, YIELDS, add_uplink, first, pair, set_uplink};

const TRACKED: &str = "track_interfaces = [{ name = \"t0\", demote = 100 }]";
const FREEBSD: &str = "profile = \"freebsd\"\npreempt = true";

#[test]
fn a_pair_of_freebsds_profile_hands_over_and_back_by_advskew_alone() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    add_uplink(&a)?;
    let wire = Wire::at(&bystander)?;
    let [on_a, on_b] = pair(&a, &b, (folder()?, &[first(&format!("{FREEBSD}\n{TRACKED}"))]), FREEBSD)?;
    set_uplink(&a, "down")?;
    wire.wait_for_advert("one with advskew 160", |_, advert| {
        advert.source == a.ip() && (advert.election.advskew, advert.election.demote) == (160, 0)
    })?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    on_a.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS])?;
    assert_eq!(on_b.cause(TO_MASTER)?, "preempting 10.77.0.1 (advbase 0, advskew 160)");
    assert_eq!((on_a.field("/advskew")?, on_a.field("/profile")?), (160.into(), "freebsd".into()));
    assert_eq!(on_a.demoting()?, ["interface t0 100: no carrier"]);
    set_uplink(&a, "up")?;
    on_a.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS, TO_MASTER])?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER, YIELDS])?;
    assert!(
        wire.adverts_of(a.ip()).iter().chain(&wire.adverts_of(b.ip())).all(|(_, advert)| advert.election.demote == 0)
    );
    Ok(())
}

#[test]
fn a_group_of_both_profiles_is_warned_of_once_a_peer_is_demoted() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    add_uplink(&a)?;
    // a is demoted in OpenBSD's way, which b does not look at.
    let of_b = "profile = \"freebsd\"";
    let [_on_a, on_b] = pair(&a, &b, (folder()?, &[first(&format!("preempt = true\n{TRACKED}"))]), of_b)?;
    assert_eq!(on_b.field("/hints")?, serde_json::json!([]));
    set_uplink(&a, "down")?;
    let warning = "10.77.0.1 is demoted by 100 in OpenBSD's way";
    on_b.agent.wait_for_line(warning, LONG)?;
    Wire::at(&b)?.wait_for_adverts(a.ip(), 4)?;
    assert_eq!(on_b.agent.lines().iter().filter(|line| line.text.contains(warning)).count(), 1);
    on_b.wait_for_changes(FIRST, &[TO_BACKUP])?;
    assert!(is_hinted_at(&on_b)?);
    // It is put right without a change of state on the way.
    on_b.reload(&[first("advskew = 80")])?;
    on_b.wait_for_changes(FIRST, &[TO_BACKUP, TO_MASTER])?;
    eventually("no hint", LONG, || Ok(!is_hinted_at(&on_b)?))
}

fn is_hinted_at(server: &Server) -> Result<bool> {
    let hints = server.field("/hints")?;
    Ok(hints.as_array().context("a list")?.iter().any(|hint| hint.to_string().contains("OpenBSD's way")))
}
