//! A switch with hosts on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, ensure};

use crate::host::{BRIDGE, Host};
use crate::netns::{Netns, output_of};
use crate::packet::MacAddr;

/// The bridge of those who are cut off from the others by [`Lab::split`].
const OTHER_BRIDGE: &str = "br1";

/// How a lab differs from the plain one.
#[derive(Clone, Copy, Debug, Default)]
pub struct LabOptions {
    /// The switch snoops IGMP and MLD and asks for memberships, so that
    /// multicast reaches only those who joined.
    pub mcast_snooping: bool,
    /// Hosts have IPv6: link-local addresses and fd77::N, without autoconfiguration.
    pub ipv6: bool,
}

/// A switch in a namespace of its own: a bridge without spanning tree. Hosts
/// are cabled to it as they are made.
pub struct Lab {
    switch: Arc<Netns>,
    hosts: AtomicU8,
    options: LabOptions,
}

impl Lab {
    /// A plain IPv4 switch that floods multicast.
    pub fn new() -> Result<Self> {
        Self::with(LabOptions::default())
    }

    /// A switch with these options.
    pub fn with(options: LabOptions) -> Result<Self> {
        let switch = Netns::new()?;
        // Its ports are no hosts: they neither have addresses nor say anything.
        switch.set_sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let bridges = [(BRIDGE, 0), (OTHER_BRIDGE, 1)].map(|(bridge, number)| {
            let mac = MacAddr([0x02, 0, 0, 0x77, 2, number]);
            format!(
                "link add {bridge} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 link set {bridge} up\n"
            )
        });
        switch.ip_batch(&bridges.concat()).context("making the switch")?;
        if options.mcast_snooping {
            for bridge in [BRIDGE, OTHER_BRIDGE] {
                snoop(&switch, bridge, options.ipv6).context("making the switch snoop")?;
            }
        }
        Ok(Self { switch: Arc::new(switch), hosts: AtomicU8::new(0), options })
    }

    /// A new host: the first is 10.77.0.1, the next 10.77.0.2, and so on.
    /// From 10.77.0.100 up, addresses are free for the hosts to share.
    pub fn host(&self, name: &str) -> Result<Host> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(number < 100, "a lab has room for 99 hosts");
        Host::new(name, number, Arc::clone(&self.switch), self.options.ipv6)
            .with_context(|| format!("making the host {name}"))
    }

    /// Several new hosts.
    pub fn hosts<const N: usize>(&self, names: [&str; N]) -> Result<[Host; N]> {
        let hosts = names.map(|name| self.host(name));
        let hosts: Vec<Host> = hosts.into_iter().collect::<Result<_>>()?;
        hosts.try_into().ok().context("as many hosts as names")
    }

    /// The switch's namespace: where the ports of the hosts are.
    pub fn switch(&self) -> &Netns {
        &self.switch
    }

    /// The port at which the switch has learnt a MAC, if it has.
    pub fn port_of(&self, mac: MacAddr) -> Result<Option<String>> {
        let table = output_of(self.switch.command("bridge").args(["fdb", "show", "br", BRIDGE]))?;
        // 00:00:5e:00:01:01 dev p-a master br0
        let line = table.lines().find(|line| line.starts_with(&mac.to_string()));
        Ok(line.and_then(|line| line.split_whitespace().nth(2)).map(str::to_owned))
    }

    /// Splits the network: hosts of different sides no longer hear each other,
    /// and none of them loses its carrier. Hosts of neither side stay where
    /// they are, which is with `one_side` the first time.
    ///
    /// The ports of `other_side` move to a second bridge, one after the other
    /// within a fraction of a millisecond.
    pub fn split(&self, one_side: &[&Host], other_side: &[&Host]) -> Result<()> {
        self.move_ports(one_side.iter().map(|host| host.port()), BRIDGE)?;
        self.move_ports(other_side.iter().map(|host| host.port()), OTHER_BRIDGE).context("splitting the network")
    }

    /// Brings all hosts together again.
    pub fn heal(&self) -> Result<()> {
        let strangers = self.switch.ip(&format!("-brief link show master {OTHER_BRIDGE}"))?;
        // p-b@if2  UP  02:00:00:77:01:02 <BROADCAST,MULTICAST,UP,LOWER_UP>
        let ports = strangers.lines().filter_map(|line| line.split(['@', ' ']).next());
        self.move_ports(ports, BRIDGE).context("healing the network")
    }

    fn move_ports<S: AsRef<str>>(&self, ports: impl Iterator<Item = S>, bridge: &str) -> Result<()> {
        let moves: String = ports.map(|port| format!("link set {} master {bridge}\n", port.as_ref())).collect();
        self.switch.ip_batch(&moves)
    }
}

/// Lets a bridge forward multicast to members only, and ask for memberships.
/// Members have 100 ms to answer; until then it floods. (It takes this time
/// into account if it is set before the querier is on.)
fn snoop(switch: &Netns, bridge: &str, ipv6: bool) -> Result<()> {
    if ipv6 {
        // MLD queries need a source address, and at once.
        switch.set_sysctl(&format!("net.ipv6.conf.{bridge}.accept_dad"), "0")?;
        switch.set_sysctl(&format!("net.ipv6.conf.{bridge}.disable_ipv6"), "0")?;
    }
    switch.ip_batch(&format!(
        "link set {bridge} type bridge mcast_snooping 1 mcast_query_response_interval 10\n\
         link set {bridge} type bridge mcast_querier 1\n"
    ))
}
