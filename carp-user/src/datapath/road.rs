//! Which road adverts take on an interface: what was asked for, what is there already, and what the kernel accepts.

use super::{links::Hook, xdp};
use crate::{config::Choice, net::interface::Interface};

/// The road that adverts take on an interface, and why no better one (if a better one was tried).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// In the driver, before the kernel makes a packet of the frame.
    Native,
    /// XDP in the network stack.
    Generic(Option<String>),
    /// A packet socket.
    Socket(Option<String>),
}

impl Road {
    /// Its name, as it is chosen by.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic(_) => "generic",
            Self::Socket(_) => "socket",
        }
    }

    /// A line for the log.
    pub(crate) fn describe(&self, interface: &str) -> String {
        match self {
            Self::Native => format!("native XDP on {interface}"),
            Self::Generic(None) => format!("generic XDP on {interface}"),
            Self::Generic(Some(why)) => format!("generic XDP on {interface}, which is slower: {why}"),
            Self::Socket(None) => format!("a packet socket on {interface}"),
            Self::Socket(Some(why)) => {
                format!("a packet socket on {interface}, which is slower and loses adverts under a flood: {why}")
            }
        }
    }
}

/// What speaks against XDP on an interface, whatever its driver can.
pub(super) fn obstacle(interface: &Interface) -> Option<&'static str> {
    interface.strips_vlan_tags.then_some(
        "its card takes the tags of the VLANs on it off (rx-vlan-offload), so XDP would take their adverts for its \
         own: run carpd on a VLAN's interface, or `ethtool -K DEVICE rxvlan off`",
    )
}

/// The road that another agent has left, if it is one that was asked for.
pub(super) fn inherited_road(choice: Choice, interface: &Interface) -> Option<Road> {
    match (choice, interface.xdp?.is_generic) {
        (Choice::Auto | Choice::Native, false) => Some(Road::Native),
        (Choice::Auto, true) => Some(Road::Generic(Some("it was so before carpd was killed".to_owned()))),
        (Choice::Generic, true) => Some(Road::Generic(None)),
        (Choice::Native, true) | (Choice::Generic, false) | (Choice::Socket, _) => None,
    }
}

/// Attaches in the mode that was asked for, or in the best one; with `auto`, a generic one says why.
pub(super) fn attach(
    choice: Choice,
    mut attach: impl FnMut(Hook) -> Result<(), xdp::AttachError>,
) -> Result<Road, String> {
    if choice == Choice::Generic {
        return attach(Hook::Generic).map(|()| Road::Generic(None)).map_err(|error| format!("generic XDP: {error}"));
    }
    let native = match attach(Hook::Native) {
        Ok(()) => return Ok(Road::Native),
        Err(error) => error,
    };
    if choice == Choice::Native || native.is_final() {
        return Err(format!("native XDP: {native}"));
    }
    match attach(Hook::Generic) {
        Ok(()) => Ok(Road::Generic(Some(format!("native XDP: {native}")))),
        Err(generic) => Err(format!("native XDP: {native}; generic XDP: {generic}")),
    }
}

#[cfg(test)]
mod tests;
