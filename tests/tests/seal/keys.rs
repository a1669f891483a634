//! Keys are changed while servers work.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::Result;
use carp_tests::configured::{carpctl, changes, start, wait_for_change, write};
use carp_tests::{Folder, LONG, Lab, LabOptions, VIP, Wire, carpd_path};

use crate::{BACKUPS, ENFORCE, Server, assert_unmoved, keys_folder};

const BOTH: &str =
    "seal = \"enforce\"\nseal_keys = [{ id = 1, file = \"key-1\" }, { id = 2, file = \"key-2\" }]\nseal_with = ";
const SECOND: &str = "seal = \"enforce\"\nseal_keys = [{ id = 2, file = \"key-2\" }]\n";

#[test]
fn a_key_is_changed_by_reloads_and_by_carpctl_and_nobody_notices() -> Result<()> {
    for by_carpctl in [false, true] {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let pair = Server::pair([&a, &b], ENFORCE)?;
        let [master, backup] = &pair;
        let wire = Wire::at(&bystander)?;
        let on_both = |change: &dyn Fn(&Server<'_>) -> Result<()>| {
            pair.iter().try_for_each(|server| {
                change(server)?;
                // Longer than a dead time.
                wire.wait_for_adverts(a.ip(), 6).map(drop)
            })
        };
        on_both(&|server| server.reload(&format!("{BOTH}1\n")))?;
        if by_carpctl {
            on_both(&|server| {
                let told = server.carpctl(&["key", "use", "2"])?;
                assert_eq!(
                    told,
                    "eth0 vhid 1: adverts are sealed with key 2; until a reload changes it, or a restart: seal_with = 2 \
                     makes it last\n"
                );
                Ok(())
            })?;
            assert!(master.carpctl(&["key", "use", "3"]).is_err(), "a key that is not configured");
        } else {
            on_both(&|server| server.reload(&format!("{BOTH}2\n")))?;
        }
        backup.wait_for_status("the second key is heard", |status| status["seal"]["peers"][0]["key"] == 2)?;
        let list = master.carpctl(&["key", "list"])?;
        assert!(list.lines().any(|line| line == "eth0       1     enforce  1 2   this one  2"), "{list}");
        on_both(&|server| server.reload(SECOND))?;
        assert_unmoved(master, backup, "a key was changed");
        for reason in ["unknownkey", "badseal", "replayed", "stale", "unsealed"] {
            assert_eq!((master.count(reason)?, backup.count(reason)?), (0, 0), "{reason}");
        }
    }
    Ok(())
}

#[test]
fn a_key_that_was_chosen_by_carpctl_is_that_of_the_next_program_too() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [master, backup] = Server::pair([&a, &b], &format!("peer_advskew = {BACKUPS}\n{BOTH}1\n"))?;
    let wire = Wire::at(&bystander)?;
    master.carpctl(&["key", "use", "2"])?;
    // The others take no other any more.
    backup.reload(SECOND)?;
    master.carpctl(&["upgrade"])?;
    wire.wait_for_adverts(a.ip(), 6)?;
    assert_eq!(master.status()?["seal"]["sends_with"], 2);
    assert_eq!(backup.count("unknownkey")?, 0);
    if carp_tests::Node::attached()?.contains("XDP") {
        assert_eq!(backup.changes(), ["INIT -> BACKUP"], "{:#?}", master.agent.lines());
    }
    Ok(())
}

#[test]
fn both_families_and_peers_that_get_their_own_are_sealed() -> Result<()> {
    let lab = Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let both = |advskew| {
        format!(
            "[[virtual_host]]\nvhid = 1\naddresses = [\"{VIP}\", \"fd00:77::100\"]\nadvskew = {advskew}\n{ENFORCE}\
             [[virtual_host]]\nvhid = 2\naddresses = [\"10.77.0.102\"]\nadvskew = {advskew}\n\
             peers = [\"10.77.0.1\", \"10.77.0.2\"]\n{ENFORCE}"
        )
    };
    let [of_a, of_b] = [keys_folder()?, keys_folder()?];
    write(&of_a, &[both(60)])?;
    write(&of_b, &[both(80)])?;
    let mut on_a = start(&a, &of_a)?;
    let vhids = ["eth0 vhid 1", "eth0 vhid 2"];
    vhids.iter().try_for_each(|name| wait_for_change(&on_a, name, "BACKUP -> MASTER"))?;
    let on_b = start(&b, &of_b)?;
    vhids.iter().try_for_each(|name| wait_for_change(&on_b, name, "INIT -> BACKUP"))?;
    Wire::at(&bystander)?.wait_for_adverts(a.ip(), 8)?;
    vhids.iter().for_each(|name| assert_eq!(changes(&on_b, name), ["INIT -> BACKUP"], "{name}"));
    let status: serde_json::Value = serde_json::from_slice(&carpctl(&of_b, &["status", "--json"])?.stdout)?;
    let [first, second] = [0, 1].map(|host| status["virtual_hosts"][host].clone());
    assert_eq!(first["seal"]["peers"].as_array().map(Vec::len), Some(2), "{first}");
    assert_eq!(second["seal"]["peers"][0]["key"], 1, "{second}");
    on_a.stop_and_wait(LONG)?;
    vhids.iter().try_for_each(|name| wait_for_change(&on_b, name, "BACKUP -> MASTER"))?;
    Ok(())
}

#[test]
fn a_new_key_is_random_hidden_from_others_and_never_put_over_another() -> Result<()> {
    let folder = Folder::new("key")?;
    let new = |words: &[&str]| {
        let mut carpctl = Command::new(carpd_path()?.with_file_name("carpctl"));
        Ok::<_, anyhow::Error>(carpctl.args(["key", "new"]).args(words).current_dir(folder.path()).output()?)
    };
    let printed = [new(&[])?, new(&[])?].map(|output| output.stdout);
    assert_ne!(printed[0], printed[1]);
    for key in &printed {
        assert!(key.len() == 65 && key[64] == b'\n', "{key:?}");
        assert!(key[..64].iter().all(u8::is_ascii_hexdigit), "{key:?}");
    }
    let told = new(&["seal.key"])?;
    assert!(String::from_utf8(told.stdout)?.starts_with("seal.key has the key, for "));
    let file = folder.path().join("seal.key");
    // The group's, where there is one.
    assert!([0o600, 0o640].contains(&(fs::metadata(&file)?.permissions().mode() & 0o777)));
    let key = fs::read(&file)?;
    assert_eq!(key.len(), 65);
    let again = new(&["seal.key"])?;
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(String::from_utf8(again.stderr)?, "cannot make seal.key: File exists (os error 17)\n");
    assert_eq!(fs::read(&file)?, key);
    Ok(())
}
