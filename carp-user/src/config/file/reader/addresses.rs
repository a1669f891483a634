//! The addresses of a virtual host: its VIPs, those of a rollout, its own, and its peers.

use std::net::IpAddr;

use jiff::Timestamp;
use toml::Spanned;

use super::{Known, Reader, Section};
use crate::config::{Rollout, Vip, can_be_hosts, family_of, is_link_local};

impl Reader<'_> {
    pub(super) fn addresses(&mut self, section: Section<'_>, known: &mut Known) -> Vec<Vip> {
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

    pub(super) fn source<E>(
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

    pub(super) fn peers(&mut self, section: Section<'_>, vips: &[Vip], known: &mut Known) -> Vec<IpAddr> {
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

    pub(super) fn rollout(&mut self, host: Section<'_>, vips: &[Vip]) -> Option<Rollout> {
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
}
