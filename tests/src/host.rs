//! A host: a namespace with one interface, `eth0`, cabled to the lab's switch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::agent::{Agent, carpd_path};
use crate::clock::eventually;
use crate::netns::{Netns, output_of};
use crate::packet::MacAddr;

/// The one interface of every host.
pub const ETH0: &str = "eth0";

/// The bridge that all ports belong to unless the lab is split.
pub(crate) const BRIDGE: &str = "br0";

/// From here on the switch's ports have their interface indexes, which hosts never reach.
const PORT_INDEXES: u32 = 1_000_000;

/// Far longer than it takes to put a cable to work.
const CABLING: Duration = Duration::from_secs(10);

/// A host on the lab's switch.
pub struct Host {
    name: String,
    number: u8,
    ns: Netns,
    switch: Arc<Netns>,
    ipv6: bool,
}

impl Host {
    /// A host with its number's addresses, its interface up and cabled.
    pub(crate) fn new(name: &str, number: u8, switch: Arc<Netns>, ipv6: bool) -> Result<Self> {
        let ns = Netns::new()?;
        ns.set_sysctl("net.ipv6.conf.default.disable_ipv6", if ipv6 { "0" } else { "1" })?;
        for noise in ["accept_dad", "accept_ra", "autoconf", "router_solicitations"] {
            ns.set_sysctl(&format!("net.ipv6.conf.default.{noise}"), "0")?;
        }
        // A new namespace inherits the machine's settings for IPv4.
        for knob in ["rp_filter", "arp_ignore", "arp_announce", "arp_filter", "arp_accept", "arp_notify"] {
            for scope in ["all", "default"] {
                ns.set_sysctl(&format!("net.ipv4.conf.{scope}.{knob}"), "0")?;
            }
        }
        let host = Self { name: name.to_owned(), number, ns, switch, ipv6 };
        host.create_interface()?;
        Ok(host)
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    /// Its own IPv4 address, 10.77.0.N.
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    /// Its own IPv6 address, fd77::N, there if the lab was made with IPv6.
    pub fn ip6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.number.into())
    }

    /// The link-local address of its eth0, there likewise: made of its MAC address.
    pub fn link_local(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe77, self.number.into())
    }

    /// The MAC address of its eth0.
    pub fn mac(&self) -> MacAddr {
        MacAddr([0x02, 0, 0, 0x77, 0, self.number])
    }

    /// The switch's end of its cable, an interface of [`crate::Lab::switch`].
    pub fn port(&self) -> String {
        format!("p-{}", self.name)
    }

    /// Frames for this host that its cable had no room for, since the lab was made.
    pub fn lost_on_way(&self) -> Result<u64> {
        let answer = self.switch.ip(&format!("-s -j link show dev {}", self.port()))?;
        let port: serde_json::Value = serde_json::from_str(&answer).context("what ip says of a port")?;
        port[0]["stats64"]["tx"]["dropped"].as_u64().with_context(|| format!("no dropped frames in {answer}"))
    }

    /// A command on this host.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        self.ns.command(program)
    }

    /// Starts `carpd` on this host with these arguments.
    pub fn carpd(&self, arguments: &[&str]) -> Result<Agent> {
        let mut command = self.command(carpd_path()?);
        command.args(arguments);
        Agent::spawn(&self.name, command)
    }

    /// Makes an interface of others, which has no addresses yet.
    pub fn add_others(&self) -> Result<()> {
        self.ns().ip("link add others type veth peer name theirs").map(drop)
    }

    /// Gives it so many addresses at once that a netlink socket which is not read meanwhile loses some of the changes.
    pub fn add_others_addresses(&self) -> Result<()> {
        let addresses =
            (0..4000).map(|number| format!("address add 10.{}.{}.1/32 dev others\n", 80 + number / 250, number % 250));
        self.ns().ip_batch(&addresses.collect::<String>()).map(drop)
    }

    /// Takes the carrier away, as a cable pulled at the host does, or gives it
    /// back and waits until frames pass again.
    pub fn set_carrier(&self, on: bool) -> Result<()> {
        let state = if on { "up" } else { "down" };
        self.switch_ip(&format!("link set {} {state}", self.port()))?;
        if on { self.wait_until_cabled() } else { Ok(()) }
    }

    /// Whether eth0 has a carrier.
    pub fn has_carrier(&self) -> Result<bool> {
        Ok(self.ns.ip(&format!("-brief link show dev {ETH0}"))?.contains("LOWER_UP"))
    }

    /// Cuts the host off without its noticing: it keeps its carrier but hears
    /// and reaches nobody, as behind a broken switch.
    pub fn unplug(&self) -> Result<()> {
        self.switch_ip(&format!("link set {} nomaster", self.port()))
    }

    /// Undoes [`Host::unplug`].
    pub fn plug(&self) -> Result<()> {
        self.switch_ip(&format!("link set {} master {BRIDGE}", self.port()))
    }

    /// The host dies: nothing leaves it any more, then its processes are killed.
    pub fn kill_host(&self) -> Result<()> {
        self.set_carrier(false)?;
        self.ns.kill_processes().with_context(|| format!("killing the host {}", self.name))
    }

    /// Deletes eth0 (and with it, the switch's port).
    pub fn delete_interface(&self) -> Result<()> {
        self.ip_command(&format!("link del {ETH0}"))
    }

    /// Makes an eth0 as the first one was: same MAC, same addresses, cabled,
    /// up, and ready to send and receive.
    pub fn create_interface(&self) -> Result<()> {
        let (port, mac, ns) = (self.port(), self.mac(), self.ns.path());
        let port_mac = MacAddr([0x02, 0, 0, 0x77, 1, self.number]);
        // The kernel hurries to put an interface to work whose index is not its peer's, and otherwise takes up to a second: the host
        // would have its carrier long before the switch forwards.
        let index = PORT_INDEXES + u32::from(self.number);
        let cable = format!(
            "link add {port} index {index} address {port_mac} type veth \
             peer name {ETH0} address {mac} netns {}\n\
             link set {port} master {BRIDGE} up\n",
            ns.display()
        );
        self.switch.ip_batch(&cable).with_context(|| format!("cabling {}", self.name))?;
        let mut addresses = format!("addr add {}/24 dev {ETH0}\n", self.ip());
        if self.ipv6 {
            addresses += &format!("addr add {}/64 dev {ETH0} nodad\n", self.ip6());
        }
        let up = format!("link set {ETH0} up\n{addresses}");
        self.ns.ip_batch(&up).with_context(|| format!("configuring {}", self.name))?;
        self.wait_until_cabled()
    }

    /// The addresses of eth0 with their prefix lengths.
    pub fn addresses(&self) -> Result<Vec<(IpAddr, u8)>> {
        let listing = self.ns.ip(&format!("-brief addr show dev {ETH0}"))?;
        // eth0@if5  UP  10.77.0.1/24 fd77::1/64
        listing.split_whitespace().skip(2).map(parse_address).collect()
    }

    /// Whether eth0 has this address.
    pub fn has_address(&self, address: impl Into<IpAddr>) -> Result<bool> {
        let address = address.into();
        Ok(self.addresses()?.iter().any(|&(there, _)| there == address))
    }

    /// The id of the XDP program on eth0.
    pub fn xdp_program(&self) -> Result<Option<String>> {
        let link = self.ns.ip(&format!("link show dev {ETH0}"))?;
        // ... prog/xdp id 34 name carp_advert ...
        let mut words = link.split_whitespace().skip_while(|word| !word.starts_with("prog/xdp"));
        Ok(words.nth(2).map(str::to_owned))
    }

    /// Adds an address, such as `10.77.0.100/32`, by hand.
    pub fn add_address(&self, address: &str) -> Result<()> {
        self.ip_command(&format!("addr add {address} dev {ETH0}"))
    }

    /// Removes an address, such as `10.77.0.100/32`, by hand.
    pub fn remove_address(&self, address: &str) -> Result<()> {
        self.ip_command(&format!("addr del {address} dev {ETH0}"))
    }

    /// The kernel puts both ends of a cable to work some time after they have a
    /// carrier; until then it silently drops what is sent.
    fn wait_until_cabled(&self) -> Result<()> {
        let what = format!("{} is cabled to the switch", self.name);
        eventually(&what, CABLING, || {
            let port = output_of(self.switch.command("bridge").args(["link", "show", "dev", &self.port()]))?;
            // Nothing is said of a port that belongs to no bridge.
            let port_works = port.is_empty() || port.contains("state forwarding");
            Ok(port_works && is_up(&self.ns.ip(&format!("-brief link show dev {ETH0}"))?))
        })
    }

    fn ip_command(&self, words: &str) -> Result<()> {
        self.ns.ip(words).with_context(|| format!("on the host {}", self.name))?;
        Ok(())
    }

    fn switch_ip(&self, words: &str) -> Result<()> {
        self.switch.ip(words).with_context(|| format!("at the port of {}", self.name))?;
        Ok(())
    }
}

/// Reads the operational state in `eth0@if4  UP  02:00:00:77:00:01 <...>`.
fn is_up(brief_link: &str) -> bool {
    brief_link.split_whitespace().nth(1) == Some("UP")
}

fn parse_address(text: &str) -> Result<(IpAddr, u8)> {
    let parse = || {
        let (address, prefix) = text.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok()?))
    };
    parse().with_context(|| format!("not an address of `ip -brief addr`: {text}"))
}
