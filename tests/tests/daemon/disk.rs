//! /run as it should not be: full, or not to be written.

use anyhow::Result;
use carp_tests::{Folder, LONG, Lab, VIP, eventually};

use crate::{in_own_mounts, is_clean};

/// What is wrong with /run, and the error that ends a start. (`nr_inodes` counts the root folder.)
const UNUSABLE: [(&str, &str); 3] = [
    ("mount -t tmpfs -o nr_inodes=1 none /run", "No space left"),
    ("mount -t tmpfs -o nr_inodes=2 none /run && mkdir /run/carp", "No space left"),
    ("mount -t tmpfs -o ro none /run", "Read-only file system"),
];

/// A single page, and it is taken.
const FULL: &str = "mount -t tmpfs -o size=4k none /run && mkdir /run/carp && ! cat /dev/zero >/run/full 2>&1";

#[test]
fn without_a_lock_it_does_not_start_and_one_line_says_why() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = Folder::new("daemon")?;
    for (setup, error) in UNUSABLE {
        for options in [&[][..], &["-B"]] {
            let mut agent = in_own_mounts(&host, setup, folder.path(), options)?;
            assert!(agent.wait(LONG)?.code().is_some_and(|code| code != 0));
            let told: Vec<_> = agent.lines().into_iter().map(|line| line.text).collect();
            assert!(matches!(&told[..], [line] if line.contains("/run/carp") && line.contains(error)), "{told:?}");
        }
    }
    assert!(is_clean(&host)?);
    Ok(())
}

#[test]
fn a_full_disk_takes_the_name_out_of_the_lock_and_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = Folder::new("daemon")?;
    let mut agent = in_own_mounts(&host, FULL, folder.path(), &[])?;
    agent.wait_for_line("BACKUP -> MASTER", LONG)?;
    eventually("the VIP is there", LONG, || host.has_address(VIP))?;
    assert!(agent.stop_and_wait(LONG)?.success());
    assert!(is_clean(&host)?);
    Ok(())
}
