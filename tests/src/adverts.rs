//! Adverts as a scenario makes, forges and reads them: whole Ethernet frames over IPv4.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};
use carp_common::checksum;
use carp_common::digest::{DigestKey, Passphrase, Scratch};
use carp_common::wire::{
    ADVERT_LEN, AdvertFrame, BOW_OUT, Destination, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, GROUP_V4, Header,
    IPV4_LEN, IPV6_LEN, PROTOCOL, virtual_mac,
};

use crate::capture::Frame;
use crate::packet::MacAddr;

/// Where the advert begins in its frame.
const ADVERT_AT: usize = ETHERNET_LEN + IPV4_LEN;

/// The fields that decide who is master; the digest does not cover them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Election {
    /// advbase in seconds.
    pub advbase: u8,
    /// advskew in 1/256 s.
    pub advskew: u8,
    /// Demotion counter.
    pub demote: u8,
}

impl Election {
    /// An undemoted host's.
    pub fn new(advbase: u8, advskew: u8) -> Self {
        Self { advbase, advskew, demote: 0 }
    }
}

/// Who knows the passphrase: makes adverts that a group of hosts takes for one of its own.
pub struct Signer {
    vhid: u8,
    key: DigestKey,
}

impl Signer {
    /// For this group.
    pub fn new(passphrase: &str, vhid: u8, vips: &[Ipv4Addr]) -> Result<Self> {
        let passphrase = Passphrase::new(passphrase.as_bytes()).context("a passphrase has 1 to 19 bytes")?;
        let vips: Vec<IpAddr> = vips.iter().copied().map(IpAddr::V4).collect();
        Ok(Self { vhid, key: DigestKey::new(&passphrase, vhid, &vips) })
    }

    /// A valid advert from this source.
    pub fn advert(&self, source: Ipv4Addr, election: Election, counter: u64) -> Vec<u8> {
        let words = self.key.digest(counter, &mut Scratch::default());
        let mut digest = [0; 20];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
        frame(source, self.vhid, election, counter, digest)
    }
}

/// An advert of someone who does not know the passphrase: all is right but the digest.
pub fn forge(source: Ipv4Addr, vhid: u8, election: Election, counter: u64) -> Vec<u8> {
    frame(source, vhid, election, counter, [0x5a; 20])
}

/// The same advert with other election fields. Its digest is as good as it was.
pub fn rewrite(advert: &[u8], election: Election) -> Result<Vec<u8>> {
    let header = header_of(advert).context("not an advert")?;
    let Some(IpAddr::V4(source)) = source_of(advert) else { bail!("not an advert over IPv4") };
    Ok(frame(source, header.vhid, election, header.counter, header.digest))
}

/// The same advert with another TTL, as if a router had forwarded it.
pub fn with_ttl(advert: &[u8], ttl: u8) -> Result<Vec<u8>> {
    ensure!(header_of(advert).is_some(), "not an advert");
    let mut frame = advert.to_vec();
    edit_ip(&mut frame, |ip| ip[8] = ttl)?;
    Ok(frame)
}

/// The same frame with another protocol in its IPv4 header.
pub fn with_protocol(frame: &[u8], protocol: u8) -> Result<Vec<u8>> {
    let mut frame = frame.to_vec();
    edit_ip(&mut frame, |ip| ip[9] = protocol)?;
    Ok(frame)
}

/// What is no advert but for its Ethernet and IP headers.
pub fn garbage(source: Ipv4Addr) -> Vec<u8> {
    let mut frame = forge(source, 0, Election::new(0, 0), 0);
    frame[ADVERT_AT..].iter_mut().zip(0u8..).for_each(|(byte, number)| *byte = number.wrapping_mul(151));
    frame
}

/// Changes an IPv4 header, and puts its checksum right.
pub(crate) fn edit_ip(frame: &mut [u8], edit: impl FnOnce(&mut [u8; IPV4_LEN])) -> Result<()> {
    let ip = frame.get_mut(ETHERNET_LEN..).and_then(|rest| rest.first_chunk_mut());
    let ip = ip.context("too short for an IPv4 header")?;
    edit(ip);
    ip[10..12].fill(0);
    let sum = checksum::internet(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// An advert that was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenAdvert {
    /// Its IP source.
    pub source: IpAddr,
    /// Its Ethernet source.
    pub mac: MacAddr,
    /// The virtual host.
    pub vhid: u8,
    /// advbase, advskew and demotion.
    pub election: Election,
    /// The counter.
    pub counter: u64,
}

impl SeenAdvert {
    /// Whether its sender says that it leaves.
    pub fn is_bow_out(&self) -> bool {
        (self.election.advbase, self.election.advskew) == (BOW_OUT, BOW_OUT)
    }
}

/// Reads a captured frame; `None` if it is no CARP advert. Nothing is verified.
pub fn parse(frame: &Frame) -> Option<SeenAdvert> {
    let Header { vhid, advskew, demote, advbase, counter, .. } = header_of(&frame.bytes)?;
    Some(SeenAdvert {
        source: source_of(&frame.bytes)?,
        mac: MacAddr(*frame.bytes[6..].first_chunk()?),
        vhid,
        election: Election { advbase, advskew, demote },
        counter,
    })
}

fn frame(source: Ipv4Addr, vhid: u8, election: Election, counter: u64, digest: [u8; 20]) -> Vec<u8> {
    let Election { advbase, advskew, demote } = election;
    let header = Header { vhid, advskew, demote, advbase, counter, digest };
    let frame = AdvertFrame::new(&header, virtual_mac(vhid), source.into(), Destination::group(GROUP_V4.into()));
    frame.map(|frame| frame.as_bytes().to_vec()).unwrap_or_default()
}

fn header_of(frame: &[u8]) -> Option<Header> {
    let (protocol_at, advert_at) = if is_ipv6(frame)? { (20, ETHERNET_LEN + IPV6_LEN) } else { (23, ADVERT_AT) };
    let advert: &[u8; ADVERT_LEN] = frame.get(advert_at..)?.first_chunk()?;
    (*frame.get(protocol_at)? == PROTOCOL).then(|| Header::decode(advert))?
}

fn source_of(frame: &[u8]) -> Option<IpAddr> {
    Some(if is_ipv6(frame)? {
        IpAddr::from(*frame.get(22..)?.first_chunk::<16>()?)
    } else {
        IpAddr::from(*frame.get(26..)?.first_chunk::<4>()?)
    })
}

/// `None` if it is neither.
fn is_ipv6(frame: &[u8]) -> Option<bool> {
    match u16::from_be_bytes(*frame.get(12..)?.first_chunk()?) {
        ETHERTYPE_IPV4 => Some(false),
        ETHERTYPE_IPV6 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootTime;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

    fn seen(bytes: &[u8]) -> SeenAdvert {
        parse(&Frame { at: BootTime::now(), outgoing: false, bytes: bytes.to_vec() }).unwrap()
    }

    #[test]
    fn what_is_made_is_read_back() {
        let signer = Signer::new("secret", 7, &[Ipv4Addr::new(10, 77, 0, 100)]).unwrap();
        let advert = signer.advert(SOURCE, Election::new(1, 100), 5);
        let expected = SeenAdvert {
            source: SOURCE.into(),
            mac: MacAddr([0, 0, 0x5e, 0, 1, 7]),
            vhid: 7,
            election: Election::new(1, 100),
            counter: 5,
        };
        assert_eq!(seen(&advert), expected);
        assert_eq!(seen(&with_ttl(&advert, 254).unwrap()), expected);
        let bow_out = rewrite(&advert, Election::new(255, 255)).unwrap();
        assert!(seen(&bow_out).is_bow_out());
        assert_eq!(bow_out[50..], advert[50..], "the digest stays");
    }

    #[test]
    fn headers_stay_right_when_they_are_changed() {
        let advert = with_ttl(&forge(SOURCE, 1, Election::new(1, 0), 1), 3).unwrap();
        assert_eq!(checksum::internet::<20>(advert[14..34].try_into().unwrap()), 0);
        assert_eq!(checksum::internet::<36>(advert[34..].try_into().unwrap()), 0);
        assert_eq!(advert[22], 3);
    }
}
