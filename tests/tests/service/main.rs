//! The package on servers with a real systemd: what it installs, our service, and the well-known tutorial's.

mod machine;
mod package;
mod tutorial;
mod unit;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use carp_tests::{Host, LONG, eventually};

use machine::Machine;

/// Boots with this; brought by `cargo xtask test`.
const BOOT: &str = "boot-debian";

impl<'h> Machine<'h> {
    /// Boots one, and installs the package.
    fn with_package(host: &'h Host) -> Result<Self> {
        let machine = Self::boot(host)?;
        machine.install()?;
        Ok(machine)
    }

    /// Installs the package as its administrator does.
    fn install(&self) -> Result<()> {
        let package = package()?;
        fs::copy(&package, self.path("/root/carpd.deb")?).context("copying the package")?;
        self.run("dpkg --install /root/carpd.deb").map(drop)
    }

    /// What the journal has of a unit.
    fn journal(&self, unit: &str) -> Result<String> {
        self.run(&format!("journalctl --no-pager --output=cat --unit={unit}"))
    }

    /// Waits until the journal has these of a unit, in this order.
    fn wait_for_journal(&self, unit: &str, told: &[&str]) -> Result<()> {
        let in_order = || {
            let journal = self.journal(unit)?;
            let mut rest = journal.as_str();
            Ok(told.iter().all(|text| rest.split_once(text).map(|(_, after)| rest = after).is_some()))
        };
        eventually(&format!("the journal tells {told:?}"), LONG, in_order)
            .with_context(|| format!("the journal of {unit}: {:?}", self.journal(unit)))
    }

    /// Waits until carpd tells this about itself.
    fn wait_for_status(&self, text: &str) -> Result<()> {
        let is_told = || Ok(self.property("carpd", "StatusText")? == text);
        eventually(&format!("the status {text}"), LONG, is_told)
            .with_context(|| format!("the journal: {:?}", self.journal("carpd")))
    }

    /// A property of a unit.
    fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.run(&format!("systemctl show --value --property={name} {unit}"))?.trim().to_owned())
    }
}

/// What `cargo xtask dist` has made.
fn package() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist");
    let version = concat!("carpd_", env!("CARGO_PKG_VERSION"), "_");
    let mut packages = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let package =
        packages.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(version)));
    package.with_context(|| format!("no {version}*.deb in {}: make it with `cargo xtask dist`", folder.display()))
}
