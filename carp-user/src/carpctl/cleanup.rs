//! Removing what a carpd that was killed has left.

use std::{collections::BTreeSet, io::Write, path::Path};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Builder;

use crate::{
    datapath::pins::{
        BPFFS,
        left::{self, Left},
    },
    lock::{self, Names},
    logging::tell,
    net::{Netlink, interface},
    vips,
};

/// Removes it, and says what it was, one thing a line.
///
/// # Errors
/// A carpd has the pins; or something cannot be removed.
pub(super) fn run(bpffs: Option<&Path>, out: &mut impl Write) -> Result<()> {
    // Until the end, so that none begins meanwhile.
    let claim = left::claim()?;
    let pinned = Left::find(&claim, bpffs)?;
    let held = pinned.held();
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let removed = runtime.block_on(async {
        let netlink = Netlink::connect()?;
        let names: BTreeSet<String> = interface::names(&netlink).await?.into_values().collect();
        let found = interface::look(&netlink, &names).await?;
        let mut removed = vips::remove_devices(&netlink, &found).await;
        removed.extend(vips::remove_addresses(&netlink).await?);
        // What up scripts have added bears no mark.
        removed.extend(vips::remove_held(&netlink, &held, &Names::new()).await?);
        vips::restore_all(&netlink, &BTreeSet::new()).await?;
        anyhow::Ok(removed)
    })?;
    let mut failed = 0;
    for removed in removed {
        match removed {
            Ok(line) => writeln!(out, "{line}")?,
            Err(line) => {
                tell(line);
                failed += 1;
            }
        }
    }
    ensure!(
        failed == 0,
        "not everything could be removed; what is pinned stays, so that this host does not answer for it"
    );
    // Not before: an address that is still here would be answered for beside the next master.
    for path in pinned.remove()? {
        writeln!(out, "{}: removed", path.display())?;
    }
    for line in left::remove_abandoned(bpffs.unwrap_or(Path::new(BPFFS))) {
        writeln!(out, "{line}")?;
    }
    left::end(claim);
    let locks = lock::remove_stale()?;
    if locks > 0 {
        writeln!(out, "{}: locks that nobody holds removed: {locks}", lock::FOLDER)?;
    }
    Ok(())
}
