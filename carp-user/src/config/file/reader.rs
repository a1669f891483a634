//! From tables to settings; a mistake is noted, and the rest read all the same.

mod addresses;
pub(super) mod failover;
pub(super) mod lease;
pub(super) mod seal;
mod secrets;
mod values;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
    path::PathBuf,
};

use carp_common::{
    abi::{MAX_PEERS, MAX_VHOSTS},
    engine::{Advbase, Advskew, Announcements, DeadRatio, Vhid},
    wire::{GROUP_V4, TTL},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use self::{secrets::INLINE, values::Section};
use super::{Configuration, Surroundings};
use crate::config::{
    ADVBASE, ADVSKEW, AdvertMac, Choice, DEAD_RATIO, LinkLocal, Notify, SCRIPT_SECONDS, SCRIPT_TIMEOUT, Settings,
    VipMac, executable, is_interface_name,
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

    fn notify(&mut self, section: Section<'_>) -> Option<Notify> {
        let time_limit = self.seconds(section, "notify_timeout", SCRIPT_SECONDS, SCRIPT_TIMEOUT.into());
        let found = self.given::<String>(section, "notify")?;
        let program = executable(&self.surroundings.folder.join(found.get_ref()));
        let program = program.map_err(|error| self.note(found.span(), format!("notify: {error:#}"))).ok();
        Some(Notify { program: program?, time_limit: time_limit? })
    }
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
