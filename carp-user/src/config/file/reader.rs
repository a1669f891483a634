//! From tables to settings; a mistake is noted, and the rest read all the same.

pub(super) mod failover;
pub(super) mod lease;
pub(super) mod seal;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Display,
    fs::metadata,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use carp_common::{
    abi::{MAX_PEERS, MAX_VHOSTS},
    digest::Passphrase,
    engine::{Advbase, Advskew, Announcements, DeadRatio, Vhid},
    wire::{GROUP_V4, TTL},
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};
use zeroize::Zeroizing;

use super::{Configuration, Credentials, Surroundings, is_public};
use crate::config::{
    ADVBASE, ADVSKEW, AdvertMac, Choice, DEAD_RATIO, LinkLocal, Notify, Rollout, SCRIPT_SECONDS, SCRIPT_TIMEOUT,
    Settings, Vip, VipMac, can_be_hosts, executable, family_of, first_line, is_interface_name, is_link_local,
    passphrase,
};

/// What there is once in a file.
pub(super) const FILE_KEYS: [&str; 5] = ["realtime", "bpffs", "defaults", "script", "virtual_host"];
/// What every virtual host has of its own.
pub(super) const OWN_KEYS: [&str; 3] = ["vhid", "addresses", "rollout"];
/// What can stand in `[defaults]`, too.
pub(super) const KEYS: [&str; 23] = [
    "interface",
    "source",
    "source6",
    "peers",
    "min_ttl",
    "link_local",
    "passphrase",
    "passphrase_file",
    "passphrase_credential",
    "advbase",
    "advskew",
    "dead_ratio",
    "preempt",
    "datapath",
    "mac",
    "advert_mac",
    "group",
    "broadcast",
    "garp_repeat",
    "garp_refresh",
    "ignore_link_state",
    "notify",
    "notify_timeout",
];
/// Of these, the secret itself.
const INLINE: &str = "passphrase";
const PASSPHRASES: [&str; 3] = [INLINE, "passphrase_file", "passphrase_credential"];

/// Longest list in `[defaults]`: each virtual host reads it anew.
const LONGEST: usize = 256;

const NONE: &str = "there is no virtual host: [[virtual_host]]";

/// Reads a file's tables, and goes on after a mistake.
pub(super) struct Reader<'a> {
    surroundings: &'a Surroundings<'a>,
    /// Whether the text is no TOML in places: what is missing may have stood there.
    has_holes: bool,
    /// What virtual hosts can name.
    scripts: failover::Scripts,
    /// Which of these no virtual host has named so far.
    unnamed: BTreeSet<String>,
    mistakes: Notes,
    warnings: Notes,
}

/// Where each begins in the text, and what it is: in the order of the text, and one in the defaults, which every virtual host meets,
/// once.
pub(super) type Notes = BTreeSet<(usize, String)>;

/// A virtual host's table, and the defaults behind it.
#[derive(Clone, Copy)]
struct Section<'t> {
    own: &'t DeTable<'t>,
    defaults: Option<&'t DeTable<'t>>,
    /// Where it begins in the text.
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(surroundings: &'a Surroundings<'a>, has_holes: bool) -> Self {
        let scripts = failover::Scripts::new();
        Self {
            surroundings,
            has_holes,
            scripts,
            unnamed: BTreeSet::new(),
            mistakes: Notes::new(),
            warnings: Notes::new(),
        }
    }

    /// What was wrong, and what may be.
    pub(super) fn notes(self) -> [Notes; 2] {
        [self.mistakes, self.warnings]
    }

    /// Notes a mistake. One whose span is empty is that something is not there.
    fn note(&mut self, span: Range<usize>, what: impl Into<String>) {
        if !(self.has_holes && span.is_empty()) {
            self.mistakes.insert((span.start, what.into()));
        }
    }

    /// What stands in a file; all of it if there are no mistakes.
    pub(super) fn file(&mut self, root: &DeTable<'_>) -> Configuration {
        self.look_at_keys(root, &[&FILE_KEYS]);
        let whole = Section { own: root, defaults: None, at: 0 };
        let bpffs = self.plain::<Option<PathBuf>>(whole, "bpffs", None);
        if bpffs.as_ref().is_some_and(|path| !path.is_absolute()) {
            let at = root.get("bpffs").map_or(0..0, Spanned::span);
            self.note(at, "`bpffs` is a path from the root: /sys/fs/bpf");
        }
        let (realtime, hosts) = (self.plain(whole, "realtime", false), self.virtual_hosts(root));
        Configuration { hosts, realtime, bpffs, warnings: vec![] }
    }

    fn virtual_hosts(&mut self, root: &DeTable<'_>) -> Vec<Settings> {
        self.scripts = self.scripts(root);
        self.unnamed = self.scripts.keys().cloned().collect();
        let defaults = root.get("defaults").and_then(|defaults| {
            let table = defaults.get_ref().as_table();
            match table {
                Some(table) => self.look_at_keys(table, &[&KEYS, &failover::KEYS, &lease::KEYS, &seal::KEYS]),
                None => self.note(defaults.span(), "`defaults` is a table: [defaults]"),
            }
            table
        });
        if defaults.is_some_and(|defaults| self.has_too_long(defaults)) {
            return vec![];
        }
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
        for table in tables.iter().take(MAX_VHOSTS as usize) {
            match table.get_ref().as_table() {
                Some(own) => {
                    let section = Section { own, defaults, at: table.span().start };
                    hosts.extend(self.virtual_host(section, &mut known));
                }
                None => self.note(table.span(), "a virtual host is a table: [[virtual_host]]"),
            }
        }
        let named = |host: &Settings| -> HashSet<IpAddr> {
            host.policies.iter().map(|policy| policy.source).chain(host.peers.iter().copied()).collect()
        };
        let peers: usize = hosts.iter().map(|host| named(host).len()).sum();
        if peers > MAX_PEERS as usize {
            self.note(
                all.span(),
                format!("{peers} peers, and others with a policy, of all virtual hosts: {MAX_PEERS} is the most"),
            );
        }
        for (key, own, span) in known.own {
            if known.addresses.contains(&own) {
                self.note(span, format!("{key}: {own} is a virtual address, and not a host's own"));
            }
        }
        self.warn_of_unnamed_scripts(root);
        hosts
    }

    fn look_at_keys(&mut self, table: &DeTable<'_>, known: &[&[&str]]) {
        for (key, value) in table {
            if !known.iter().any(|keys| keys.contains(&key.get_ref().as_ref())) {
                self.note(key.span(), format!("unknown key `{}`", key.get_ref().escape_debug()));
            }
            // Also if every virtual host has another.
            if key.get_ref() == INLINE && self.surroundings.is_public {
                let what = "this file holds a passphrase, and everybody can read it: chmod o= it";
                self.note(value.span(), format!("{INLINE}: {what}"));
            }
        }
    }

    fn has_too_long(&mut self, defaults: &DeTable<'_>) -> bool {
        let is_too_long = |value: &DeValue<'_>| value.as_array().is_some_and(|list| list.len() > LONGEST);
        let all = defaults.iter().filter(|(_, value)| is_too_long(value.get_ref()));
        let notes: Vec<_> = all.map(|(key, value)| (value.span(), key.get_ref().escape_debug().to_string())).collect();
        let is_one = !notes.is_empty();
        notes
            .into_iter()
            .for_each(|(span, key)| self.note(span, format!("{key}: {LONGEST} are the most in [defaults]")));
        is_one
    }

    /// A virtual host, unless something that it cannot be without is wrong.
    fn virtual_host(&mut self, section: Section<'_>, known: &mut Known) -> Option<Settings> {
        self.look_at_keys(section.own, &[&OWN_KEYS, &KEYS, &failover::KEYS, &lease::KEYS, &seal::KEYS]);
        let interface =
            self.needed::<String>(section, "interface").and_then(|name| self.interface_name("interface", name));
        let vhid = self.needed::<i64>(section, "vhid");
        let vhid = vhid.and_then(|found| self.ranged(found, "vhid", Vhid::RANGE, Vhid::new));
        let sources = [
            self.source(section, "source", known, |text| text.parse::<Ipv4Addr>().map(IpAddr::V4)),
            self.source(section, "source6", known, |text| text.parse::<Ipv6Addr>().map(IpAddr::V6)),
        ];
        let vips = self.addresses(section, known);
        let rollout = self.rollout(section, &vips);
        let passphrase = self.passphrase(section);
        let group = self.given::<Ipv4Addr>(section, "group");
        if let Some(address) = &group
            && !address.get_ref().is_multicast()
        {
            self.note(address.span(), format!("group: {} is no multicast address", address.get_ref()));
        }
        let group = group.map_or(GROUP_V4, Spanned::into_inner);
        let peers = self.peers(section, &vips, known);
        let min_ttl = self.number(section, "min_ttl", 1..=TTL, |ttl| (ttl > 0).then_some(ttl), TTL);
        let link_local = self.plain(section, "link_local", LinkLocal::Hashed);
        let is_broadcast = self.plain(section, "broadcast", false);
        let advbase = self.number(section, "advbase", Advbase::RANGE, Advbase::new, ADVBASE);
        let advskew = self.number(section, "advskew", Advskew::RANGE, Advskew::new, ADVSKEW);
        let dead_ratio = self.number(section, "dead_ratio", DeadRatio::RANGE, DeadRatio::new, DEAD_RATIO);
        let Announcements { repeat, refresh } = Announcements::default();
        let [repeat, refresh] = [("garp_repeat", repeat), ("garp_refresh", refresh)]
            .map(|(key, default)| self.number(section, key, 0..=u8::MAX, Some, default));
        let datapath = self.given::<Choice>(section, "datapath");
        let choice = datapath.as_ref().map_or(Choice::Auto, |found| *found.get_ref());
        let given = self.given::<VipMac>(section, "mac");
        let mac = given.as_ref().map_or(VipMac::Interface, |found| *found.get_ref());
        let advert_mac = self.plain(section, "advert_mac", AdvertMac::towards(&peers, mac));
        if let (Some(given), Some(mistake)) = (given, advert_mac.mistake(mac)) {
            self.note(given.span(), format!("mac: with \"virtual\" {mistake}: leave out advert_mac"));
        }
        let preempt = self.plain(section, "preempt", false);
        let ignore_link_state = self.plain(section, "ignore_link_state", false);
        let notify = self.notify(section);
        let failover = self.failover(section);
        let lease = self.lease(section);
        let seal = self.seal(section);
        let policies = self.peer_policies(section, &vips, known);

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
            sources: sources.into_iter().flatten().collect(),
            vhid,
            passphrase: passphrase?,
            vips,
            rollout,
            group,
            is_broadcast,
            peers,
            min_ttl: min_ttl?,
            link_local,
            advert_mac,
            mac,
            advbase: advbase?,
            advskew: advskew?,
            dead_ratio: dead_ratio?,
            preempt,
            neutral: false,
            ignore_link_state,
            datapath: choice,
            announcements: Announcements { repeat: repeat?, refresh: refresh? },
            scripts: None,
            notify,
            failover: failover?,
            lease: lease?,
            seal: seal?,
            policies: policies?,
        })
    }

    fn interface_name(&mut self, key: &str, name: Spanned<String>) -> Option<Spanned<String>> {
        if is_interface_name(name.get_ref()) {
            return Some(name);
        }
        self.note(name.span(), format!("{key}: {:?} cannot be an interface's name", name.get_ref()));
        None
    }

    fn addresses(&mut self, section: Section<'_>, known: &mut Known) -> Vec<Vip> {
        let Some(found) = self.needed::<Vec<Spanned<String>>>(section, "addresses") else { return vec![] };
        if found.get_ref().is_empty() {
            self.note(found.span(), "addresses: at least one");
        }
        let mut vips: Vec<Vip> = vec![];
        for text in found.into_inner() {
            let span = text.span();
            match text.get_ref().parse::<Vip>() {
                Err(error) => self.note(span, format!("addresses: {:?}: {error}", text.get_ref())),
                Ok(vip) if !known.addresses.insert(vip.address) => {
                    self.note(span, format!("addresses: {} is used twice", vip.address));
                }
                Ok(vip) => vips.push(vip),
            }
        }
        vips
    }

    fn source<E>(
        &mut self,
        section: Section<'_>,
        key: &'static str,
        known: &mut Known,
        parse: impl Fn(&str) -> Result<IpAddr, E>,
    ) -> Option<IpAddr> {
        let found = self.given::<String>(section, key)?;
        let Some(address) = parse(found.get_ref()).ok().filter(|address| can_be_hosts(*address)) else {
            self.note(found.span(), format!("{key}: {:?} cannot be a host's address", found.get_ref()));
            return None;
        };
        known.own.push((key, address, found.span()));
        Some(address)
    }

    fn peers(&mut self, section: Section<'_>, vips: &[Vip], known: &mut Known) -> Vec<IpAddr> {
        let found = self.given::<Vec<Spanned<String>>>(section, "peers");
        let mut peers = vec![];
        for text in found.into_iter().flat_map(Spanned::into_inner) {
            let span = text.span();
            match text.get_ref().parse().ok().filter(|peer| can_be_hosts(*peer)) {
                None => self.note(span, format!("peers: {:?} cannot be a host's address", text.get_ref())),
                Some(peer) if peers.contains(&peer) => {
                    self.note(span, format!("peers: {:?} is there twice", text.get_ref()))
                }
                Some(peer) => {
                    if !vips.iter().any(|vip| family_of(vip.address) == family_of(peer)) {
                        // No mistake: in the defaults it may be for other virtual hosts.
                        let what =
                            format!("peers: {peer} gets no adverts of a virtual host without an address of its family");
                        self.warnings.insert((span.start, what));
                    }
                    known.own.push(("peers", peer, span));
                    peers.push(peer);
                }
            }
        }
        peers
    }

    fn rollout(&mut self, host: Section<'_>, vips: &[Vip]) -> Option<Rollout> {
        let found = host.own.get("rollout")?;
        let Some(own) = found.get_ref().as_table() else {
            self.note(found.span(), "rollout: is to be { from = [\"ADDRESS\", ...], until = \"TIME\" }");
            return None;
        };
        self.look_at_keys(own, &[&["from", "until"]]);
        let section = Section { own, defaults: None, at: found.span().start };
        let from = self.former_addresses(section);
        let until = self.needed::<String>(section, "until")?;
        let Ok(time) = until.get_ref().parse() else {
            let example = "2026-12-24T18:00:00Z";
            self.note(until.span(), format!("until: {:?} is no time: as {example}", until.get_ref()));
            return None;
        };
        if Timestamp::now() >= time {
            self.warnings.insert((found.span().start, "rollout: is over, and means nothing any more".to_owned()));
        } else if !host.has("link_local") && vips.iter().map(|vip| vip.address).chain(from.clone()).any(is_link_local) {
            let what = "rollout: until then, of the two digests over link-local addresses only one is understood: say with \
                        `link_local` which the other servers send";
            self.warnings.insert((found.span().start, what.to_owned()));
        }
        Some(Rollout { from, until: time })
    }

    /// What the addresses were.
    fn former_addresses(&mut self, rollout: Section<'_>) -> Vec<IpAddr> {
        let Some(found) = self.needed::<Vec<Spanned<String>>>(rollout, "from") else { return vec![] };
        if found.get_ref().is_empty() {
            self.note(
                found.span(),
                "from: at least one: a virtual host without addresses has no adverts to understand",
            );
        }
        let mut from = vec![];
        for text in found.into_inner() {
            let span = text.span();
            match text.get_ref().parse::<Vip>() {
                Err(error) => self.note(span, format!("from: {:?}: {error}", text.get_ref())),
                Ok(vip) if from.contains(&vip.address) => {
                    self.note(span, format!("from: {} is used twice", vip.address))
                }
                Ok(vip) => from.push(vip.address),
            }
        }
        from
    }

    /// From the one key of three that is given.
    fn passphrase(&mut self, section: Section<'_>) -> Option<Passphrase> {
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

    fn credential(&mut self, key: &str, name: &str, span: Range<usize>) -> Result<Found> {
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

    fn notify(&mut self, section: Section<'_>) -> Option<Notify> {
        let time_limit = self.seconds(section, "notify_timeout", SCRIPT_SECONDS, SCRIPT_TIMEOUT.into());
        let found = self.given::<String>(section, "notify")?;
        let program = executable(&self.surroundings.folder.join(found.get_ref()));
        let program = program.map_err(|error| self.note(found.span(), format!("notify: {error:#}"))).ok();
        Some(Notify { program: program?, time_limit: time_limit? })
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
                self.note(error.span().unwrap_or(span), format!("{key}: {}", error.message()));
                None
            }
        }
    }

    /// A key's value, or what it is if it is not there.
    fn plain<T: DeserializeOwned>(&mut self, section: Section<'_>, key: &str, default: T) -> T {
        self.given(section, key).map_or(default, Spanned::into_inner)
    }

    /// A number within a range; `None` if it is wrong.
    fn number<N: TryFrom<i64> + Display, T>(
        &mut self,
        section: Section<'_>,
        key: &str,
        range: RangeInclusive<N>,
        new: impl Fn(N) -> Option<T>,
        default: N,
    ) -> Option<T> {
        if !section.has(key) {
            return new(default);
        }
        let found = self.given::<i64>(section, key)?;
        self.ranged(found, key, range, new).map(|(value, _)| value)
    }

    /// A number that has no default; `None` for a mistake.
    fn if_given<N: TryFrom<i64> + Display, T>(
        &mut self,
        section: Section<'_>,
        key: &str,
        range: RangeInclusive<N>,
        new: impl Fn(N) -> Option<T>,
    ) -> Option<Option<T>> {
        if !section.has(key) {
            return Some(None);
        }
        let found = self.given::<i64>(section, key)?;
        self.ranged(found, key, range, new).map(|(value, _)| Some(value))
    }

    /// A number of seconds within a range.
    fn seconds(
        &mut self,
        section: Section<'_>,
        key: &str,
        range: RangeInclusive<i64>,
        default: i64,
    ) -> Option<Duration> {
        let new = |seconds: i64| range.contains(&seconds).then(|| Duration::from_secs(seconds.unsigned_abs()));
        self.number(section, key, range.clone(), new, default)
    }

    fn ranged<N: TryFrom<i64> + Display, T>(
        &mut self,
        found: Spanned<i64>,
        key: &str,
        range: RangeInclusive<N>,
        new: impl Fn(N) -> Option<T>,
    ) -> Option<(T, Range<usize>)> {
        let number = *found.get_ref();
        let value = N::try_from(number).ok().and_then(new);
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

/// A secret that is named.
enum Found {
    /// This is it.
    Read(Zeroizing<Vec<u8>>),
    /// It is not for this process, which only checks.
    Unknown,
}

fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let (metadata, shown) = (metadata(path), path.display());
    let metadata = metadata.with_context(|| format!("cannot read the secret in {shown}"))?;
    // A pipe would keep a reload waiting until somebody writes into it, and a device can mind being opened.
    ensure!(metadata.is_file(), "{shown} is no ordinary file");
    ensure!(!is_public(&metadata), "everybody can read {shown}: chmod o= it");
    first_line(path)
}

/// What must not be there twice.
#[derive(Default)]
struct Known {
    vhids: HashSet<(String, u8)>,
    addresses: HashSet<IpAddr>,
    /// Hosts' own addresses, which must not be among them, with their keys and places.
    own: Vec<(&'static str, IpAddr, Range<usize>)>,
    choices: HashMap<String, Choice>,
}
