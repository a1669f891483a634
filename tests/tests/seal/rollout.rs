//! From adverts without seals to adverts that have to have them, on one server after the other, and beside a real ucarp.

use anyhow::Result;
use carp_tests::{Lab, Ucarp, Wire, is_missing};

use crate::{ENFORCE, KEY_1, MASTERS, Server, assert_unmoved};

#[test]
fn seals_are_introduced_on_one_server_after_the_other_and_nobody_notices() -> Result<()> {
    for backup_first in [true, false] {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let pair = Server::pair([&a, &b], "")?;
        let wire = Wire::at(&bystander)?;
        for mode in ["send", "permissive", "enforce"] {
            let mut order: Vec<_> = pair.iter().collect();
            if backup_first {
                order.reverse();
            }
            for server in order {
                server.reload(&format!("seal = {mode:?}\nseal_keys = [{KEY_1}]\n"))?;
                // Longer than a dead time.
                wire.wait_for_adverts(a.ip(), 6)?;
            }
            assert_eq!(wire.next_advert(&a)?.len(), 14 + 20 + 64, "{mode}");
        }
        let [master, backup] = &pair;
        assert_unmoved(master, backup, "the rollout");
        let is_heard = |status: &serde_json::Value| status["seal"]["peers"][0]["key"] == 1;
        backup.wait_for_status("its master is heard sealed", is_heard)?;
        assert_eq!(backup.count("unsealed")?, 0);
    }
    Ok(())
}

#[test]
fn while_seals_are_permitted_it_is_told_who_has_none_and_when_that_changes() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [master, backup] = Server::pair([&a, &b], "")?;
    backup.reload(&format!("seal = \"permissive\"\nseal_keys = [{KEY_1}]\n"))?;
    backup.agent.wait_for_line("10.77.0.1: its adverts are not sealed: with seal = \"enforce\"", carp_tests::LONG)?;
    let told = backup.carpctl(&["status"])?;
    assert!(told.contains("seal: not yet for \"enforce\": 10.77.0.1 (its adverts are not sealed)"), "{told}");
    let list = backup.carpctl(&["key", "list"])?;
    assert!(list.lines().any(|line| line.ends_with("10.77.0.1  unsealed")), "{list}");

    // Another key with the same id is told, too, and costs nothing.
    master.reload("seal = \"send\"\nseal_keys = [{ id = 1, file = \"key-2\" }]\n")?;
    let is = |why: &'static str| move |status: &serde_json::Value| status["seal"]["peers"][0]["why"] == why;
    backup.wait_for_status("another key is told", is("badseal"))?;
    master.reload(&format!("seal = \"send\"\nseal_keys = [{KEY_1}]\n"))?;
    backup.agent.wait_for_line("the adverts of 10.77.0.1 are sealed now, with key 1", carp_tests::LONG)?;
    let told = backup.carpctl(&["status"])?;
    assert!(told.contains("seal: permissive, which protects nothing yet"), "{told}");
    assert_unmoved(&master, &backup, "with seals permitted");
    Ok(())
}

#[test]
fn to_a_real_ucarp_sealed_adverts_are_adverts_and_its_own_are_heard_where_seals_are_permitted() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let sealing = format!("advbase = 1\nseal = \"permissive\"\nseal_keys = [{KEY_1}]\n");
    let mut carpd = Server::start(&a, MASTERS, &sealing, None)?;
    carp_tests::configured::wait_for_change(&carpd.agent, crate::NAME, "BACKUP -> MASTER")?;
    let ucarp = Ucarp::start(&b, "--advskew=100")?;
    let wire = Wire::at(&bystander)?;
    // Longer than ucarp's dead time.
    wire.wait_for_adverts(a.ip(), 5)?;
    assert_eq!(ucarp.states(), ["BACKUP"]);
    carpd.agent.stop_and_wait(carp_tests::LONG)?;
    ucarp.wait_for("MASTER")?;
    carpd.start_again(None)?;
    carp_tests::configured::wait_for_change(&carpd.agent, crate::NAME, "INIT -> BACKUP")?;
    wire.wait_for_adverts(b.ip(), 4)?;
    assert_eq!(carpd.changes(), ["INIT -> BACKUP"]);
    carpd.wait_for_status("ucarp is told to be unsealed", |status| status["seal"]["peers"][0]["why"] == "unsealed")?;
    Ok(())
}

#[test]
fn where_seals_are_enforced_a_server_without_is_not_heard_and_it_is_told_who() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [master, backup] = Server::pair([&a, &b], "")?;
    backup.reload(ENFORCE)?;
    carp_tests::configured::wait_for_change(&backup.agent, crate::NAME, "BACKUP -> MASTER")?;
    backup.agent.wait_for_line("unsealed (a server without `seal`", carp_tests::LONG)?;
    assert!(backup.count("unsealed")? > 0);
    assert_eq!(backup.status()?["refused"]["unsealed"]["address"], "10.77.0.1");
    drop(master);
    Ok(())
}
