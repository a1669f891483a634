//! The keys of sealed adverts, and of what peers without a seal may say.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use anyhow::{Result, ensure};
use carp_common::{
    abi::{MAX_SEAL_KEYS, Policy},
    engine::{Advbase, Advskew},
    seal::Secret,
};
use toml::Spanned;
use zeroize::Zeroizing;

use super::{
    Known, Reader, Section,
    secrets::{Found, from_file},
};
use crate::config::{
    Vip, can_be_hosts, family_of,
    seal::{Freshness, Key, Mode, PeerPolicy, Seal, secret},
};

/// What can stand in `[defaults]` and in a virtual host's table.
pub(in crate::config::file) const KEYS: [&str; 6] =
    ["seal", "seal_keys", "seal_with", "freshness", "freshness_window", "peer_policy"];
const KEY_KEYS: [&str; 3] = ["id", "file", "credential"];
const POLICY_KEYS: [&str; 5] = ["source", "advbase", "advskew", "demote", "bow_out"];
/// How many seconds the window may be.
const WINDOW: RangeInclusive<i64> = 1..=3600;

impl Reader<'_> {
    pub(super) fn seal(&mut self, section: Section<'_>) -> Option<Seal> {
        let mode = self.plain(section, "seal", Mode::Off);
        let keys = self.seal_keys(section)?;
        let freshness = self.plain(section, "freshness", Freshness::Clock);
        let new = |seconds: i64| WINDOW.contains(&seconds).then(|| Duration::from_secs(seconds.unsigned_abs()));
        let window = self.if_given(section, "freshness_window", WINDOW, new)?;
        if let (Freshness::Rising, Some(given)) = (freshness, section.get("freshness_window")) {
            let what = "freshness_window: means nothing with freshness = \"rising\"";
            self.warnings.insert((given.span().start, what.to_owned()));
        }
        let seal_with = self.given::<i64>(section, "seal_with");
        let seal_with_at = seal_with.as_ref().map_or(section.at..section.at, Spanned::span);
        let seal_with =
            seal_with.and_then(|found| self.ranged(found, "seal_with", 1..=u8::MAX, Some)).map(|(id, _)| id);
        if let Some(id) = seal_with.filter(|id| keys.iter().all(|key| key.id != *id)) {
            self.note(seal_with_at, format!("seal_with: there is no key with the id {id} in seal_keys"));
            return None;
        }
        let at = section.get("seal").map_or(section.at..section.at, Spanned::span);
        match (mode, keys.is_empty()) {
            (Mode::Off, false) => {
                let what = "seal_keys: nothing is sealed with them: seal = \"send\", and \"enforce\" in the end";
                let at = section.get("seal_keys").map_or(section.at, |keys| keys.span().start);
                self.warnings.insert((at, what.to_owned()));
            }
            (Mode::Send | Mode::Permissive | Mode::Enforce, true) => {
                self.note(at, "seal: `seal_keys` is missing: [{ id = 1, file = \"FILE\" }]");
                return None;
            }
            (Mode::Off, true) | (_, false) => {}
        }
        Some(Seal { mode, keys, seal_with, freshness, window })
    }

    /// `None` if something is wrong with one.
    fn seal_keys(&mut self, section: Section<'_>) -> Option<Vec<Key>> {
        let mut keys: Vec<Key> = vec![];
        for key in self.tables(section, "seal_keys")? {
            self.look_at_keys(key.own, &[&KEY_KEYS]);
            let id = self.needed::<i64>(key, "id");
            let id = id.and_then(|found| self.ranged(found, "id", 1..=u8::MAX, |id| (id > 0).then_some(id)));
            let secret = self.secret(key);
            let (id, id_at) = id?;
            if keys.iter().any(|key| key.id == id) {
                self.note(id_at.clone(), format!("id: {id} is there twice"));
            }
            let secret = secret?;
            if let Some(other) = keys.iter().find(|key| key.secret == secret) {
                self.note(id_at, format!("seal_keys: {} and {id} are the same key", other.id));
            }
            keys.push(Key { id, secret });
        }
        if keys.len() > MAX_SEAL_KEYS as usize {
            let at = section.get("seal_keys").map_or(section.at..section.at, Spanned::span);
            self.note(at, format!("seal_keys: {} keys: {MAX_SEAL_KEYS} is the most", keys.len()));
        }
        Some(keys)
    }

    fn secret(&mut self, key: Section<'_>) -> Option<Secret> {
        let given = [self.given::<String>(key, "file"), self.given::<String>(key, "credential")];
        let (read, span): (Result<Secret>, _) = match given {
            [Some(file), None] => (self.secret_in(file.get_ref()).and_then(|text| secret(&text)), file.span()),
            [None, Some(name)] => {
                let read = match self.credential("seal_keys", name.get_ref(), name.span()) {
                    Ok(Found::Read(text)) => secret(&text),
                    // Any will do, and to each its own: two that are not seen are not the same.
                    Ok(Found::Unknown) => secret(format!("{:>32}", key.at).as_bytes()),
                    Err(error) => Err(error),
                };
                (read, name.span())
            }
            _ => {
                self.note(key.at..key.at, "seal_keys: each key has either `file` or `credential`");
                return None;
            }
        };
        read.map_err(|error| self.note(span, format!("seal_keys: {error:#}"))).ok()
    }

    /// What each peer may say.
    pub(super) fn peer_policies(
        &mut self,
        section: Section<'_>,
        vips: &[Vip],
        known: &mut Known,
    ) -> Option<Vec<PeerPolicy>> {
        let mut policies: Vec<PeerPolicy> = vec![];
        for policy in self.tables(section, "peer_policy")? {
            self.look_at_keys(policy.own, &[&POLICY_KEYS]);
            let source = self.needed::<String>(policy, "source");
            let advbase = self.range(policy, "advbase", Advbase::RANGE);
            let advskew = self.range(policy, "advskew", Advskew::RANGE);
            let demote = self.number(policy, "demote", 0..=u8::MAX, Some, u8::MAX);
            let bow_out = self.plain(policy, "bow_out", true);
            let source = source?;
            let Some(address) = source.get_ref().parse::<IpAddr>().ok().filter(|address| can_be_hosts(*address)) else {
                self.note(source.span(), format!("source: {:?} cannot be a host's address", source.get_ref()));
                return None;
            };
            if policies.iter().any(|policy| policy.source == address) {
                self.note(source.span(), format!("source: {address} is there twice"));
            }
            if !vips.iter().any(|vip| family_of(vip.address) == family_of(address)) {
                let what = format!("source: {address} says nothing to a virtual host without an address of its family");
                self.warnings.insert((source.span().start, what));
            }
            known.own.push(("source", address, source.span()));
            let policy = Policy {
                advbase: advbase?,
                advskew: advskew?,
                demote: demote?,
                bow_out: bow_out.into(),
                reserved: [0; 2],
            };
            policies.push(PeerPolicy { source: address, policy });
        }
        Some(policies)
    }

    fn secret_in(&self, path: &str) -> Result<Zeroizing<Vec<u8>>> {
        ensure!(!path.is_empty(), "the name of a file is needed");
        from_file(&self.surroundings.folder.join(path))
    }
}
