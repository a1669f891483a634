//! The settings of a virtual host, checked: inside the agent they are valid.

pub(crate) mod file;

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io::{BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt,
    path::{self, Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use carp_common::{
    abi::Family,
    digest::{MAX_PASSPHRASE, Passphrase},
    engine::{self, Advbase, Advskew, Announcements, DeadRatio, Vhid},
    wire::{Destination, can_be_host},
};
use clap::ValueEnum;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Longest name of an interface in bytes (IFNAMSIZ less its NUL).
const MAX_INTERFACE: usize = 15;

/// advbase, advskew and dead ratio, unless given: as ucarp's.
pub(crate) const ADVBASE: u8 = 1;
pub(crate) const ADVSKEW: u8 = 0;
pub(crate) const DEAD_RATIO: u8 = 3;

/// How many seconds a script may run, and how many unless given.
pub(crate) const SCRIPT_SECONDS: RangeInclusive<i64> = 1..=3600;
pub(crate) const SCRIPT_TIMEOUT: u16 = 10;

/// A virtual IP address, and the prefix length that it has on the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vip {
    /// The address.
    pub(crate) address: Ipv4Addr,
    /// Its prefix length, 0 to 32; 32 unless given.
    pub(crate) prefix: u8,
}

impl FromStr for Vip {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address = match address.parse() {
            Ok(IpAddr::V4(address)) => address,
            Ok(IpAddr::V6(_)) => bail!("a VIP is an IPv4 address so far"),
            Err(_) => bail!("no IP address"),
        };
        ensure!(can_be_host(address.octets()[0]), "cannot be a host's address");
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32).context("the prefix length is 0 to 32")?;
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Which Ethernet address adverts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AdvertMac {
    /// 00:00:5e:00:01:VHID, as the protocol has it
    Virtual,
    /// That of the interface, whatever it is at the time
    Interface,
}

/// The road that adverts are to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Choice {
    /// The best that works, saying why if that is not native
    Auto,
    /// XDP in the driver
    Native,
    /// XDP in the network stack
    Generic,
    /// A packet socket
    Socket,
}

impl Choice {
    /// Whether nothing but XDP will do.
    pub(crate) const fn needs_xdp(self) -> bool {
        matches!(self, Self::Native | Self::Generic)
    }
}

/// The administrator's scripts. With one of them, the scripts own the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scripts {
    /// Run on becoming MASTER.
    pub(crate) up: Option<PathBuf>,
    /// Run on leaving MASTER, at the end, and (unless `neutral`) at the start.
    pub(crate) down: Option<PathBuf>,
    /// Last argument of both, after interface and VIP.
    pub(crate) xparam: Option<OsString>,
    /// How long one may run.
    pub(crate) time_limit: Duration,
}

/// A program that is told of transitions. The addresses stay carpd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notify {
    /// The program.
    pub(crate) program: PathBuf,
    /// How long it may run.
    pub(crate) time_limit: Duration,
}

/// A virtual host, and how to serve it.
#[derive(PartialEq, Eq)]
pub(crate) struct Settings {
    /// Name of the interface; found by source address or route if not given.
    pub(crate) interface: Option<String>,
    /// Source address of adverts; found on the interface if not given.
    pub(crate) source: Option<Ipv4Addr>,
    /// Virtual host id.
    pub(crate) vhid: Vhid,
    /// The key.
    pub(crate) passphrase: Passphrase,
    /// The VIPs, at least one, all different.
    pub(crate) vips: Vec<Vip>,
    /// Where adverts go.
    pub(crate) destination: Destination,
    /// Which Ethernet address they come from.
    pub(crate) advert_mac: AdvertMac,
    /// Advertisement base interval.
    pub(crate) advbase: Advbase,
    /// Advertisement skew.
    pub(crate) advskew: Advskew,
    /// How long a master may be silent, in advertisement bases.
    pub(crate) dead_ratio: DeadRatio,
    /// Whether to take over from a less preferred master.
    pub(crate) preempt: bool,
    /// Whether to leave the down script alone at the start.
    pub(crate) neutral: bool,
    /// Whether to go on without carrier, or with the interface down.
    pub(crate) ignore_link_state: bool,
    /// The road that adverts are to take.
    pub(crate) datapath: Choice,
    /// How often a master repeats its gratuitous ARP.
    pub(crate) announcements: Announcements,
    /// The scripts, if there are any.
    pub(crate) scripts: Option<Scripts>,
    /// What is told of transitions, if anything.
    pub(crate) notify: Option<Notify>,
}

impl Settings {
    /// The VIPs as the digest takes them.
    pub(crate) fn vip_addresses(&self) -> Vec<IpAddr> {
        self.vips.iter().map(|vip| IpAddr::V4(vip.address)).collect()
    }

    /// The part that the state machine needs.
    pub(crate) fn engine(&self, source: Ipv4Addr) -> engine::Config {
        engine::Config {
            advbase: self.advbase,
            advskew: self.advskew,
            dead_ratio: self.dead_ratio,
            preempt: self.preempt,
            families: &[Family::V4],
            source: IpAddr::V4(source),
            announcements: self.announcements,
        }
    }
}

/// The kernel's rule for a name (`dev_valid_name`).
pub(crate) fn is_interface_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= MAX_INTERFACE
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace())
}

/// A program that can be run, wherever this process goes: with --daemonize, to /.
pub(crate) fn executable(path: &Path) -> Result<PathBuf> {
    let cannot_use = || format!("cannot use the script {}", path.display());
    let metadata = path.metadata().with_context(cannot_use)?;
    ensure!(
        metadata.is_file() && metadata.permissions().mode() & 0o111 != 0,
        "{}: it is not an executable file (chmod +x?)",
        cannot_use()
    );
    path::absolute(path).with_context(cannot_use)
}

/// The key in these bytes.
pub(crate) fn passphrase(text: &[u8]) -> Result<Passphrase> {
    ensure!(!text.is_empty(), "the passphrase is empty");
    Passphrase::new(text).with_context(|| {
        format!("the passphrase has {} bytes; CARP takes 1 to {MAX_PASSPHRASE}, none of them NUL", text.len())
    })
}

/// What stands in the first line of a file: a passphrase.
pub(crate) fn first_line(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let cannot_read = || format!("cannot read the passphrase from {}", path.display());
    let file = File::open(path).with_context(cannot_read)?;
    let mut line = Zeroizing::new(Vec::with_capacity(256));
    // A passphrase has 19 bytes: no need to swallow a device.
    BufReader::new(file.take(256)).read_until(b'\n', &mut line).with_context(cannot_read)?;
    // The newline only: ucarp takes a carriage return for part of the passphrase.
    line.pop_if(|last| *last == b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Args;

    fn settings(words: &[&str]) -> Settings {
        let required = ["carpd", "--vhid=7", "--pass=secret", "--addr=10.0.0.100/24", "--addr=10.0.0.101"];
        let args = Args::try_parse_from([&required, words].concat()).unwrap_or_else(|error| panic!("{error}"));
        args.virtual_hosts().unwrap_or_else(|error| panic!("{error:#}")).remove(0)
    }

    #[test]
    fn the_digest_takes_the_vips_without_their_prefix_lengths() {
        let settings = settings(&[]);
        let told: Vec<_> = settings.vips.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["10.0.0.100/24", "10.0.0.101/32"]);
        assert_eq!(settings.vip_addresses(), [[10, 0, 0, 100], [10, 0, 0, 101]].map(IpAddr::from));
    }

    #[test]
    fn the_state_machine_gets_what_was_set() {
        let source = Ipv4Addr::new(10, 0, 0, 1);
        let config = settings(&["-b2", "-k5", "-r4", "-P"]).engine(source);
        assert_eq!((config.advbase.get(), config.advskew.get(), config.dead_ratio.get()), (2, 5, 4));
        assert!(config.preempt);
        assert_eq!((config.families, config.source), (&[Family::V4][..], IpAddr::V4(source)));
        let plain = settings(&[]).engine(source);
        assert!(!plain.preempt);
        assert_eq!(plain.announcements, Announcements { repeat: 1, refresh: 5 });
        let announcing = settings(&["--garp-repeat=0", "--garp-refresh=255"]).engine(source);
        assert_eq!(announcing.announcements, Announcements { repeat: 0, refresh: 255 });
    }
}
