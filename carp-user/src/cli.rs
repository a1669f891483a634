//! carpd's command line: ucarp's, option for option, with its mistakes refused.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::{
    ffi::OsString,
    mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::ffi::OsStringExt,
    path::{self, Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use carp_common::{
    digest::Passphrase,
    engine::{Advbase, Advskew, Announcements, DeadRatio, Vhid},
    wire::{self, GROUP_V4},
};
use clap::{ArgAction, Parser, value_parser};
use zeroize::Zeroizing;

use crate::{
    VERSION,
    config::{
        self, AdvertMac, Choice, LinkLocal, Scripts, Settings, Vip, VipMac, can_be_hosts, executable,
        failover::Failover,
        family_of,
        file::Configuration,
        is_interface_name, is_link_local,
        lease::{Fence, Lease},
        seal::Seal,
    },
    control::protocol,
    metrics,
    syslog::Facility,
};

/// Keeps a virtual IP alive when a server dies: CARP for Linux, judged in the kernel.
///
/// Takes ucarp's options unchanged.
#[derive(Parser)]
#[command(name = "carpd", version, long_version = VERSION, infer_long_args = true, args_override_self = true, max_term_width = 100)]
pub(crate) struct Args {
    /// Print what to write instead of ucarp's lines in FILE, /etc/network/interfaces as a rule, and end
    #[arg(long, value_name = "FILE", exclusive = true)]
    from_ucarp: Option<PathBuf>,

    /// Serve the virtual hosts in FILE, /etc/carp/carpd.toml as a rule, instead of one that options describe
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_ONE_HOST)]
    config: Option<PathBuf>,

    /// Socket on which carpctl is answered [default: /run/carp/carpd.sock with --config, else none]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Answer Prometheus at http://ADDR:PORT/metrics [default without a value: 127.0.0.1:10112]
    #[arg(long, value_name = "ADDR:PORT", num_args = 0..=1, default_missing_value = metrics::DEFAULT)]
    metrics: Option<SocketAddr>,

    /// Interface of the virtual host [default: that of --srcip, or of the direct route to the VIP]
    #[arg(short, long, value_name = "IF", allow_hyphen_values = true)]
    interface: Option<String>,

    /// The host's own address on it, the source of adverts [default: from the interface]
    #[arg(short, long, value_name = "IP")]
    srcip: Option<IpAddr>,

    /// Virtual host id, the same on all hosts that share the VIP: 1 to 255
    #[arg(short, long, alias = "v", required_unless_present = "config", value_name = "ID", value_parser = value_parser!(u8).range(1..))]
    vhid: Option<u8>,

    /// Passphrase of 1 to 19 bytes, the same on all hosts; --passfile keeps it off the command line
    #[arg(short, long, required_unless_present_any = ["passfile", "config"], overrides_with = "passfile", allow_hyphen_values = true)]
    pass: Option<OsString>,

    /// File with the passphrase in its first line
    #[arg(short = 'o', long, value_name = "FILE", overrides_with = "pass", allow_hyphen_values = true)]
    passfile: Option<PathBuf>,

    /// Virtual IP, IPv4 or IPv6, /32 or /128 unless a prefix length follows; may be given several times
    #[arg(short, long, value_name = "IP[/LEN]", required_unless_present = "config", action = ArgAction::Append)]
    addr: Vec<Vip>,

    /// Multicast group of the IPv4 adverts; those over IPv6 go to ff02::12
    #[arg(short, long, alias = "m", value_name = "GROUP", default_value_t = GROUP_V4)]
    mcast: Ipv4Addr,

    /// Send adverts by Ethernet broadcast
    #[arg(short = 'M', long)]
    nomcast: bool,

    /// Send adverts to this host instead of a group, and hear no others; may be given several times
    #[arg(long, value_name = "IP", action = ArgAction::Append)]
    peer: Vec<IpAddr>,

    /// Accept adverts with a TTL from this one on, each router between taking one: 1 to 255
    #[arg(long, value_name = "TTL", default_value_t = wire::TTL, value_parser = value_parser!(u8).range(1..))]
    min_ttl: u8,

    /// Whether link-local VIPs are hashed into the digest that is sent: as FreeBSD does, or ignored, as OpenBSD does
    #[arg(long, value_name = "HOW", value_enum, default_value_t = LinkLocal::Hashed)]
    link_local: LinkLocal,

    /// Ethernet address of the VIPs: the interface's own, or the virtual 00:00:5e:00:01:VHID, on a device that only the
    /// master has
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = VipMac::Interface)]
    mac: VipMac,

    /// Ethernet address that adverts come from: the virtual 00:00:5e:00:01:VHID, or the interface's own, for
    /// hypervisors and clouds that drop frames from addresses they do not know [default: virtual; interface with --peer]
    #[arg(long, value_name = "WHICH", value_enum)]
    advert_mac: Option<AdvertMac>,

    /// Seconds between adverts: 0 to 255; 0 counts in --advskew alone
    #[arg(short = 'b', long, value_name = "SECONDS", default_value_t = config::ADVBASE)]
    advbase: u8,

    /// Added to it, in 1/256 s: 0 to 254; the host with the smallest is preferred
    #[arg(short = 'k', long, value_name = "SKEW", default_value_t = config::ADVSKEW, value_parser = value_parser!(u8).range(..=254))]
    advskew: u8,

    /// Silence of the master, in advertisement bases, until a backup takes over: 1 to 255
    #[arg(short = 'r', long, value_name = "RATIO", default_value_t = config::DEAD_RATIO, value_parser = value_parser!(u8).range(1..))]
    deadratio: u8,

    /// Take over from a master that advertises less often
    #[arg(short = 'P', long)]
    preempt: bool,

    /// Do not run the down script at the start
    #[arg(short, long)]
    neutral: bool,

    /// Accepted for ucarp's sake: carpd always cleans up at the end
    #[arg(short = 'z', long)]
    shutdown: bool,

    /// Go on without carrier, or with the interface down
    #[arg(short = 'S', long)]
    ignoreifstate: bool,

    /// Run SCRIPT with interface, VIP and XPARAM on becoming master; the script adds the address
    #[arg(short, long, value_name = "SCRIPT", allow_hyphen_values = true)]
    upscript: Option<PathBuf>,

    /// Run SCRIPT likewise on leaving it, at the start and at the end; the script removes the address
    #[arg(short, long, value_name = "SCRIPT", allow_hyphen_values = true)]
    downscript: Option<PathBuf>,

    /// Last argument of both scripts
    #[arg(short, long, value_name = "XPARAM", allow_hyphen_values = true)]
    xparam: Option<OsString>,

    /// How long a script may run until it is killed: 1 to 3600
    #[arg(long, value_name = "SECONDS", default_value_t = config::SCRIPT_TIMEOUT, value_parser = value_parser!(u16).range(config::SCRIPT_SECONDS))]
    script_timeout: u16,

    /// How adverts reach carpd
    #[arg(long, value_name = "ROAD", value_enum, default_value_t = Choice::Auto)]
    datapath: Choice,

    /// How many times a new master repeats its gratuitous ARP, each time with the second next advert: 0 to 255
    #[arg(long, value_name = "TIMES", default_value_t = Announcements::default().repeat)]
    garp_repeat: u8,

    /// From then on, repeat it with every Nth advert: 0 to 255; 0: not at all, and then nobody may tell the
    /// neighbours when a split network heals
    #[arg(long, value_name = "ADVERTS", default_value_t = Announcements::default().refresh)]
    garp_refresh: u8,

    /// Whether the kernel stops answering for the VIPs when carpd has not advertised for so long that another host may be
    /// master: where it can (auto), or else not to start (required), or never (off)
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Fence::Auto)]
    fence: Fence,

    /// Smallest --deadratio of the other hosts, if it differs: 1 to 255; --fence goes by it
    #[arg(long, value_name = "RATIO", value_parser = value_parser!(u8).range(1..))]
    peer_deadratio: Option<u8>,

    /// Smallest --advskew of the other hosts: 0 to 254; at --advbase 0, --fence needs it
    #[arg(long, value_name = "SKEW", value_parser = value_parser!(u8).range(..=254))]
    peer_advskew: Option<u8>,

    /// Run in real time, with locked memory: for intervals of a few milliseconds
    #[arg(long)]
    realtime: bool,

    /// Where the kernel's half is pinned, so that it outlives carpd; mounted if it is not [default: /sys/fs/bpf]
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,

    /// Say whether this program could go on in the place of another that was started so
    #[arg(long, hide = true)]
    would_go_on: bool,

    /// Syslog facility of the log under --daemonize
    #[arg(short, long, alias = "f", default_value = "daemon")]
    facility: Facility,

    /// Go into the background when everything is up, or only the network is still missing
    #[arg(short = 'B', long, alias = "da")]
    daemonize: bool,

    /// Log more
    #[arg(short = 'D', long)]
    debug: bool,
}

/// What describes a virtual host on the command line.
const OF_ONE_HOST: [&str; 32] = [
    "interface",
    "srcip",
    "vhid",
    "pass",
    "passfile",
    "addr",
    "mcast",
    "nomcast",
    "peer",
    "min_ttl",
    "link_local",
    "mac",
    "advert_mac",
    "advbase",
    "advskew",
    "deadratio",
    "preempt",
    "neutral",
    "shutdown",
    "ignoreifstate",
    "upscript",
    "downscript",
    "xparam",
    "script_timeout",
    "datapath",
    "garp_repeat",
    "garp_refresh",
    "fence",
    "peer_deadratio",
    "peer_advskew",
    "realtime",
    "from_ucarp",
];

/// Options of one letter that take a value.
const WITH_VALUE: &[u8] = b"isvpoambkrudxf";
/// Longer ones whose value may begin with a hyphen, so that it looks like another option.
const WITH_ANY_VALUE: [&str; 6] = ["interface", "pass", "passfile", "upscript", "downscript", "xparam"];

/// The value of an option.
pub(crate) struct Value {
    /// Where it begins in the option's argument; at the end, if it is the next argument.
    pub(crate) at: usize,
    /// Whether it is the next argument.
    pub(crate) is_next: bool,
    /// Whether it is, or may be, the passphrase.
    pub(crate) is_pass: bool,
}

impl Value {
    /// As getopt finds it in an argument that is no value itself.
    pub(crate) fn of(argument: &[u8]) -> Option<Self> {
        let value = |at, is_next, is_pass| Some(Self { at, is_next, is_pass });
        match argument {
            [b'-', b'-', long @ ..] => match long.iter().position(|byte| *byte == b'=') {
                Some(at) => value(2 + at + 1, false, b"pass".starts_with(&long[..at])),
                None if WITH_ANY_VALUE.iter().any(|name| name.as_bytes().starts_with(long)) => {
                    value(argument.len(), true, b"pass".starts_with(long))
                }
                None => None,
            },
            [b'-', letters @ ..] => {
                let at = letters.iter().position(|letter| WITH_VALUE.contains(letter))?;
                value(1 + at + 1, at + 1 == letters.len(), letters[at] == b'p')
            }
            _ => None,
        }
    }
}

/// Arguments as getopt reads them, the program's name first: after an option of one letter, `=` belongs to the value (`-p=x` is the
/// passphrase "=x"), while clap would swallow one.
fn like_getopt(arguments: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    // The program's name is no option, either.
    let mut is_value = true;
    arguments.into_iter().map(move |argument| {
        if mem::take(&mut is_value) {
            return argument;
        }
        let mut bytes = argument.into_vec();
        if let Some(value) = Value::of(&bytes) {
            is_value = value.is_next;
            if !bytes.starts_with(b"--") && bytes.get(value.at) == Some(&b'=') {
                bytes.insert(value.at, b'=');
            }
        }
        OsString::from_vec(bytes)
    })
}

impl Args {
    /// Reads the arguments of a process, the program's name first.
    pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(like_getopt(arguments))
    }

    /// The file of ifupdown to translate, instead of serving a virtual host.
    pub(crate) fn translates(&self) -> Option<&Path> {
        self.from_ucarp.as_deref()
    }

    /// The configuration file: also after the daemon has changed its folder.
    pub(crate) fn file(&self) -> Result<Option<PathBuf>> {
        let absolute = |path: &PathBuf| path::absolute(path).with_context(|| format!("--config: {}", path.display()));
        self.config.as_ref().map(absolute).transpose()
    }

    /// Where carpctl is answered, if anywhere.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        let default = || self.config.is_some().then(|| PathBuf::from(protocol::SOCKET));
        // Also after the daemon has changed its folder.
        self.socket.as_ref().map(|path| path::absolute(path).unwrap_or_else(|_| path.clone())).or_else(default)
    }

    /// Whether only to say if this program could take the place of another.
    pub(crate) const fn is_upgrade_check(&self) -> bool {
        self.would_go_on
    }

    /// Where what outlives the process is to be pinned, if that is said.
    pub(crate) fn bpffs(&self) -> Option<PathBuf> {
        // Also after the daemon has changed its folder.
        self.bpffs.as_ref().map(|path| path::absolute(path).unwrap_or_else(|_| path.clone()))
    }

    /// Where Prometheus is answered, if anywhere.
    pub(crate) const fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Whether to go into the background.
    pub(crate) const fn daemonize(&self) -> bool {
        self.daemonize
    }

    /// Whether to log more.
    pub(crate) const fn debug(&self) -> bool {
        self.debug
    }

    /// Where the log goes under --daemonize.
    pub(crate) const fn facility(&self) -> Facility {
        self.facility
    }

    /// What to serve. Checks everything that can be checked without touching the network.
    pub(crate) fn configuration(self) -> Result<Configuration> {
        match &self.config {
            Some(file) => config::file::read(file),
            None => {
                let realtime = self.realtime;
                Ok(Configuration { hosts: vec![self.settings()?], realtime, ..Configuration::default() })
            }
        }
    }

    /// The one virtual host that the options describe.
    pub(crate) fn settings(self) -> Result<Settings> {
        if let Some(name) = &self.interface {
            ensure!(is_interface_name(name), "--interface: {name:?} cannot be an interface's name");
        }
        ensure!(self.mcast.is_multicast(), "--mcast: {} is no multicast address", self.mcast);
        if let Some(source) = self.srcip {
            ensure!(can_be_hosts(source), "--srcip: {source} cannot be a host's address");
            ensure!(
                self.addr.iter().all(|vip| vip.address != source),
                "--addr and --srcip are the same, {source}: --srcip is the host's own address"
            );
        }
        for peer in &self.peer {
            ensure!(can_be_hosts(*peer), "--peer: {peer} cannot be a host's address");
            ensure!(self.addr.iter().all(|vip| vip.address != *peer), "--addr and --peer are the same, {peer}");
            ensure!(
                self.addr.iter().any(|vip| family_of(vip.address) == family_of(*peer)),
                "--peer: {peer} would get no adverts, for no --addr is of its family"
            );
        }
        if let (None, None, Some(vip)) = (&self.interface, self.srcip, self.addr.first()) {
            ensure!(
                !is_link_local(vip.address),
                "--addr: {} is link-local, and so in the network of every interface: name one with --interface",
                vip.address
            );
        }
        let passphrase = passphrase(self.pass, self.passfile.as_deref())?;
        let mut vips: Vec<Vip> = Vec::new();
        for vip in self.addr {
            if vips.iter().all(|known| known.address != vip.address) {
                vips.push(vip);
            }
        }
        let [up, down] = [self.upscript, self.downscript].map(|path| path.map(|path| executable(&path)).transpose());
        let (up, down) = (up?, down?);
        let scripts = (up.is_some() || down.is_some()).then_some(Scripts {
            up,
            down,
            xparam: self.xparam,
            time_limit: Duration::from_secs(self.script_timeout.into()),
        });
        ensure!(
            self.mac == VipMac::Interface || scripts.is_none(),
            "--mac virtual: with --upscript or --downscript, the scripts own the addresses: leave one out"
        );
        let advert_mac = self.advert_mac.unwrap_or(AdvertMac::towards(&self.peer, self.mac));
        if let Some(mistake) = advert_mac.mistake(self.mac) {
            bail!("--advert-mac interface: with --mac virtual {mistake}");
        }
        Ok(Settings {
            interface: self.interface,
            sources: self.srcip.into_iter().collect(),
            vhid: self.vhid.and_then(Vhid::new).context("--vhid: 1 to 255")?,
            passphrase,
            vips,
            rollout: None,
            group: self.mcast,
            is_broadcast: self.nomcast,
            peers: self.peer,
            min_ttl: self.min_ttl,
            link_local: self.link_local,
            advert_mac,
            mac: self.mac,
            advbase: Advbase::new(self.advbase).context("--advbase: 0 to 255")?,
            advskew: Advskew::new(self.advskew).context("--advskew: 0 to 254")?,
            dead_ratio: DeadRatio::new(self.deadratio).context("--deadratio: 1 to 255")?,
            preempt: self.preempt,
            neutral: self.neutral,
            ignore_link_state: self.ignoreifstate,
            datapath: self.datapath,
            announcements: Announcements { repeat: self.garp_repeat, refresh: self.garp_refresh },
            scripts,
            notify: None,
            failover: Failover::default(),
            lease: Lease {
                fence: self.fence,
                peer_dead_ratio: self.peer_deadratio.and_then(DeadRatio::new),
                peer_advskew: self.peer_advskew.and_then(Advskew::new),
            },
            seal: Seal::default(),
            policies: vec![],
        })
    }
}

fn passphrase(pass: Option<OsString>, file: Option<&Path>) -> Result<Passphrase> {
    let (option, text) = match (pass, file) {
        (Some(pass), _) => ("--pass".to_owned(), Zeroizing::new(pass.into_vec())),
        (None, Some(file)) => (format!("--passfile {}", file.display()), config::first_line(file)?),
        (None, None) => bail!("a passphrase is needed: --passfile FILE, or --pass PASSPHRASE"),
    };
    config::passphrase(&text).context(option)
}

#[cfg(test)]
mod tests;
