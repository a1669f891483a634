//! The passphrase, and how any secret is found: in a file of its own, or as a credential of systemd's.

use std::{fs::metadata, ops::Range, path::Path};

use anyhow::{Context, Result, bail, ensure};
use carp_common::digest::Passphrase;
use toml::de::DeTable;
use zeroize::Zeroizing;

use super::{Reader, Section};
use crate::config::{
    file::{Credentials, is_public},
    first_line, passphrase,
};

/// The key with the secret itself.
pub(super) const INLINE: &str = "passphrase";
const PASSPHRASES: [&str; 3] = [INLINE, "passphrase_file", "passphrase_credential"];

/// A secret that is named.
pub(super) enum Found {
    /// This is it.
    Read(Zeroizing<Vec<u8>>),
    /// It is not for this process, which only checks.
    Unknown,
}

/// From a file that not everybody can read.
pub(super) fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let (metadata, shown) = (metadata(path), path.display());
    let metadata = metadata.with_context(|| format!("cannot read the secret in {shown}"))?;
    // A pipe would keep a reload waiting until somebody writes into it, and a device can mind being opened.
    ensure!(metadata.is_file(), "{shown} is no ordinary file");
    ensure!(!is_public(&metadata), "everybody can read {shown}: chmod o= it");
    first_line(path)
}

impl Reader<'_> {
    /// From the one key of three that is given.
    pub(super) fn passphrase(&mut self, section: Section<'_>) -> Option<Passphrase> {
        let has_one = |table: &&DeTable<'_>| PASSPHRASES.iter().any(|key| table.contains_key(*key));
        let Some(table) = [Some(section.own), section.defaults].into_iter().flatten().find(has_one) else {
            self.note(section.at..section.at, format!("a passphrase is needed: one of {}", PASSPHRASES.join(", ")));
            return None;
        };
        let mut given = PASSPHRASES.into_iter().filter_map(|key| Some((key, table.get(key)?)));
        let (key, found) = given.next()?;
        if let Some((other, second)) = given.next() {
            self.note(second.span(), format!("{other}: there is `{key}` already: one of them is enough"));
            return None;
        }
        // Not copied, nor told: it is a secret here.
        let Some(value) = found.get_ref().as_str() else {
            self.note(found.span(), format!("{key}: is to be a string"));
            return None;
        };
        let read = match key {
            INLINE => passphrase(value.as_bytes()),
            "passphrase_file" => from_file(&self.surroundings.folder.join(value)).and_then(|text| passphrase(&text)),
            _ => self.credential(key, value, found.span()).and_then(|found| match found {
                Found::Read(text) => passphrase(&text),
                // Any will do.
                Found::Unknown => passphrase(b"unknown"),
            }),
        };
        read.map_err(|error| self.note(found.span(), format!("{key}: {error:#}"))).ok()
    }

    pub(super) fn credential(&mut self, key: &str, name: &str, span: Range<usize>) -> Result<Found> {
        ensure!(!name.is_empty() && !name.contains('/'), "{name:?} is no credential's name");
        match self.surroundings.credentials {
            Credentials::In(folder) => {
                let text = first_line(&folder.join(name))?;
                ensure!(!text.is_empty(), "{name} is empty: is the file there that LoadCredential={name}:FILE names?");
                Ok(Found::Read(text))
            }
            Credentials::None => bail!("there are no credentials: LoadCredential={name}:FILE in the unit"),
            Credentials::Unknown => {
                let what = format!("{key}: {name}: not looked at, for systemd gives it to carpd only");
                self.warnings.insert((span.start, what));
                Ok(Found::Unknown)
            }
        }
    }
}
