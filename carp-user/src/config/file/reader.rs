//! From tables to settings; a mistake is noted, and the rest read all the same.

use std::{
    collections::{HashMap, HashSet},
    fs::metadata,
    net::Ipv4Addr,
    ops::{Range, RangeInclusive},
    path::Path,
};

use anyhow::{Context, Result, anyhow, ensure};
use carp_common::{
    abi::MAX_VHOSTS,
    digest::Passphrase,
    engine::{Advbase, Advskew, Announcements, DeadRatio, Vhid},
    wire::{Destination, GROUP_V4, can_be_host},
};
use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{Surroundings, is_public};
use crate::config::{
    ADVBASE, ADVSKEW, AdvertMac, Choice, DEAD_RATIO, Settings, Vip, first_line, is_interface_name, passphrase,
};

/// What every virtual host has of its own.
const OWN_KEYS: [&str; 2] = ["vhid", "addresses"];
/// What can stand in `[defaults]`, too.
const KEYS: [&str; 16] = [
    "interface",
    "source",
    "passphrase",
    "passphrase_file",
    "passphrase_credential",
    "advbase",
    "advskew",
    "dead_ratio",
    "preempt",
    "datapath",
    "advert_mac",
    "group",
    "broadcast",
    "garp_repeat",
    "garp_refresh",
    "ignore_link_state",
];
const PASSPHRASES: [&str; 3] = ["passphrase", "passphrase_file", "passphrase_credential"];

const NONE: &str = "there is no virtual host: [[virtual_host]]";

/// Reads a file's tables, and goes on after a mistake.
pub(super) struct Reader<'a> {
    surroundings: &'a Surroundings<'a>,
    /// Where each begins in the text, and what it is.
    mistakes: Vec<(usize, String)>,
}

/// A virtual host's table, and the defaults behind it.
#[derive(Clone, Copy)]
struct Section<'t> {
    own: &'t DeTable<'t>,
    defaults: Option<&'t DeTable<'t>>,
    /// Where it begins in the text.
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(surroundings: &'a Surroundings<'a>) -> Self {
        Self { surroundings, mistakes: vec![] }
    }

    /// What was wrong, each with where it begins in the text, in that order.
    pub(super) fn mistakes(mut self) -> Vec<(usize, String)> {
        self.mistakes.sort();
        // One in the defaults is met by every virtual host.
        self.mistakes.dedup();
        self.mistakes
    }

    /// Notes a mistake.
    pub(super) fn note(&mut self, span: Range<usize>, what: impl Into<String>) {
        self.mistakes.push((span.start, what.into()));
    }

    /// The virtual hosts of a file; all of them if there are no mistakes.
    pub(super) fn file(&mut self, root: &DeTable<'_>) -> Vec<Settings> {
        self.refuse_unknown(root, &[&["defaults", "virtual_host"]]);
        let defaults = root.get("defaults").and_then(|defaults| {
            let table = defaults.get_ref().as_table();
            match table {
                Some(table) => self.refuse_unknown(table, &[&KEYS]),
                None => self.note(defaults.span(), "`defaults` is a table: [defaults]"),
            }
            table
        });
        let Some(all) = root.get("virtual_host") else {
            self.note(0..0, NONE);
            return vec![];
        };
        let Some(tables) = all.get_ref().as_array() else {
            self.note(all.span(), "`virtual_host` is a list of tables: [[virtual_host]]");
            return vec![];
        };
        if tables.is_empty() {
            self.note(all.span(), NONE);
        }
        if tables.len() > MAX_VHOSTS as usize {
            self.note(all.span(), format!("{} virtual hosts: {MAX_VHOSTS} is the most", tables.len()));
        }
        let mut hosts = vec![];
        let mut known = Known::default();
        for table in tables {
            match table.get_ref().as_table() {
                Some(own) => {
                    let section = Section { own, defaults, at: table.span().start };
                    hosts.extend(self.virtual_host(section, &mut known));
                }
                None => self.note(table.span(), "a virtual host is a table: [[virtual_host]]"),
            }
        }
        hosts
    }

    fn refuse_unknown(&mut self, table: &DeTable<'_>, known: &[&[&str]]) {
        for (key, _) in table {
            if !known.iter().any(|keys| keys.contains(&key.get_ref().as_ref())) {
                self.note(key.span(), format!("unknown key `{}`", key.get_ref().escape_debug()));
            }
        }
    }

    /// A virtual host, unless something that it cannot be without is wrong.
    fn virtual_host(&mut self, section: Section<'_>, known: &mut Known) -> Option<Settings> {
        self.refuse_unknown(section.own, &[&OWN_KEYS, &KEYS]);
        let interface = self.needed::<String>(section, "interface");
        if let Some(name) = &interface
            && !is_interface_name(name.get_ref())
        {
            self.note(name.span(), format!("interface: {:?} cannot be an interface's name", name.get_ref()));
        }
        let vhid = self.needed::<i64>(section, "vhid");
        let vhid = vhid.and_then(|found| self.ranged(found, "vhid", Vhid::RANGE, Vhid::new));
        let source = self.given::<Ipv4Addr>(section, "source");
        if let Some(address) = &source
            && !can_be_host(address.get_ref().octets()[0])
        {
            self.note(address.span(), format!("source: {} cannot be a host's address", address.get_ref()));
        }
        let source = source.map(Spanned::into_inner);
        let vips = self.addresses(section, source, known);
        let passphrase = self.passphrase(section);
        let group = self.given::<Ipv4Addr>(section, "group");
        if let Some(address) = &group
            && !address.get_ref().is_multicast()
        {
            self.note(address.span(), format!("group: {} is no multicast address", address.get_ref()));
        }
        let group = group.map_or(GROUP_V4, Spanned::into_inner);
        let is_broadcast = self.plain(section, "broadcast", false);
        let advbase = self.number(section, "advbase", Advbase::RANGE, Advbase::new, ADVBASE);
        let advskew = self.number(section, "advskew", Advskew::RANGE, Advskew::new, ADVSKEW);
        let dead_ratio = self.number(section, "dead_ratio", DeadRatio::RANGE, DeadRatio::new, DEAD_RATIO);
        let Announcements { repeat, refresh } = Announcements::default();
        let [repeat, refresh] = [("garp_repeat", repeat), ("garp_refresh", refresh)]
            .map(|(key, default)| self.number(section, key, 0..=u8::MAX, Some, default));
        let datapath = self.given::<Choice>(section, "datapath");
        let choice = datapath.as_ref().map_or(Choice::Auto, |found| *found.get_ref());
        let advert_mac = self.plain(section, "advert_mac", AdvertMac::Virtual);
        let preempt = self.plain(section, "preempt", false);
        let ignore_link_state = self.plain(section, "ignore_link_state", false);

        let (interface, (vhid, vhid_at)) = (interface?.into_inner(), vhid?);
        if !known.vhids.insert((interface.clone(), vhid.get())) {
            self.note(vhid_at, format!("vhid {} is on {interface} already", vhid.get()));
        }
        if known.choices.entry(interface.clone()).or_insert(choice) != &choice {
            let at = datapath.map_or(section.at..section.at, |found| found.span());
            self.note(at, format!("datapath: all virtual hosts on {interface} have the same"));
        }
        Some(Settings {
            interface: Some(interface),
            source,
            vhid,
            passphrase: passphrase?,
            vips,
            destination: if is_broadcast { Destination::broadcast(group) } else { Destination::group(group) },
            advert_mac,
            advbase: advbase?,
            advskew: advskew?,
            dead_ratio: dead_ratio?,
            preempt,
            neutral: false,
            ignore_link_state,
            datapath: choice,
            announcements: Announcements { repeat: repeat?, refresh: refresh? },
            scripts: None,
        })
    }

    fn addresses(&mut self, section: Section<'_>, source: Option<Ipv4Addr>, known: &mut Known) -> Vec<Vip> {
        let Some(found) = self.needed::<Vec<Spanned<String>>>(section, "addresses") else { return vec![] };
        if found.get_ref().is_empty() {
            self.note(found.span(), "addresses: at least one");
        }
        let mut vips: Vec<Vip> = vec![];
        for text in found.into_inner() {
            let span = text.span();
            match text.get_ref().parse::<Vip>() {
                Err(error) => self.note(span, format!("addresses: {:?}: {error}", text.get_ref())),
                Ok(vip) if Some(vip.address) == source => {
                    self.note(span, format!("addresses: {} is the source, the host's own address", vip.address));
                }
                Ok(vip) if !known.addresses.insert(vip.address) => {
                    self.note(span, format!("addresses: {} is used twice", vip.address));
                }
                Ok(vip) => vips.push(vip),
            }
        }
        vips
    }

    /// From the one key of three that is given.
    fn passphrase(&mut self, section: Section<'_>) -> Option<Passphrase> {
        let has_one = |table: &&DeTable<'_>| PASSPHRASES.iter().any(|key| table.contains_key(*key));
        let Some(table) = [Some(section.own), section.defaults].into_iter().flatten().find(has_one) else {
            self.note(section.at..section.at, format!("a passphrase is needed: one of {}", PASSPHRASES.join(", ")));
            return None;
        };
        let section = Section { own: table, defaults: None, at: section.at };
        let mut all = PASSPHRASES.map(|key| self.given::<String>(section, key).map(|found| (key, found)));
        let mut given = all.iter_mut().filter_map(Option::take);
        let (key, found) = given.next()?;
        if let Some((other, second)) = given.next() {
            self.note(second.span(), format!("{other}: there is `{key}` already: one of them is enough"));
            return None;
        }
        let (span, value) = (found.span(), found.into_inner());
        let read = match key {
            "passphrase" if self.surroundings.is_public => {
                Err(anyhow!("this file holds a passphrase, and everybody can read it: chmod o= it"))
            }
            "passphrase" => passphrase(value.as_bytes()),
            "passphrase_file" => from_file(Path::new(&value)),
            _ => from_credential(&value, self.surroundings.credentials),
        };
        read.map_err(|error| self.note(span, format!("{key}: {error:#}"))).ok()
    }

    /// A key that must be there.
    fn needed<T: DeserializeOwned>(&mut self, section: Section<'_>, key: &str) -> Option<Spanned<T>> {
        if !section.has(key) {
            self.note(section.at..section.at, format!("`{key}` is missing"));
        }
        self.given(section, key)
    }

    /// A key's value, if it is there and right.
    fn given<T: DeserializeOwned>(&mut self, section: Section<'_>, key: &str) -> Option<Spanned<T>> {
        let value: &Spanned<DeValue<'_>> = section.get(key)?;
        let span = value.span();
        match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(value) => Some(Spanned::new(span, value)),
            Err(error) => {
                // The library's words may repeat the value, which is a secret here.
                let what = if PASSPHRASES.contains(&key) { "is to be a string" } else { error.message() };
                self.note(error.span().unwrap_or(span), format!("{key}: {what}"));
                None
            }
        }
    }

    /// A key's value, or what it is if it is not there.
    fn plain<T: DeserializeOwned>(&mut self, section: Section<'_>, key: &str, default: T) -> T {
        self.given(section, key).map_or(default, Spanned::into_inner)
    }

    /// A number within a range; `None` if it is wrong.
    fn number<T>(
        &mut self,
        section: Section<'_>,
        key: &str,
        range: RangeInclusive<u8>,
        new: impl Fn(u8) -> Option<T>,
        default: u8,
    ) -> Option<T> {
        if !section.has(key) {
            return new(default);
        }
        let found = self.given::<i64>(section, key)?;
        self.ranged(found, key, range, new).map(|(value, _)| value)
    }

    fn ranged<T>(
        &mut self,
        found: Spanned<i64>,
        key: &str,
        range: RangeInclusive<u8>,
        new: impl Fn(u8) -> Option<T>,
    ) -> Option<(T, Range<usize>)> {
        let number = *found.get_ref();
        let value = u8::try_from(number).ok().and_then(new);
        if value.is_none() {
            self.note(found.span(), format!("{key}: {number} is not in {} to {}", range.start(), range.end()));
        }
        value.map(|value| (value, found.span()))
    }
}

impl<'t> Section<'t> {
    fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.own.get(key).or_else(|| self.defaults?.get(key))
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
}

fn from_file(path: &Path) -> Result<Passphrase> {
    let text = first_line(path)?;
    ensure!(
        !metadata(path).is_ok_and(|metadata| is_public(&metadata)),
        "everybody can read {}: chmod o= it",
        path.display()
    );
    passphrase(&text)
}

fn from_credential(name: &str, folder: Option<&Path>) -> Result<Passphrase> {
    let folder = folder.with_context(|| format!("there are no credentials: LoadCredential={name}:FILE in the unit"))?;
    ensure!(!name.is_empty() && !name.contains('/'), "{name:?} is no credential's name");
    passphrase(&first_line(&folder.join(name))?)
}

/// What must not be there twice.
#[derive(Default)]
struct Known {
    vhids: HashSet<(String, u8)>,
    addresses: HashSet<Ipv4Addr>,
    choices: HashMap<String, Choice>,
}
