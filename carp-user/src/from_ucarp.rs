//! `carpd --from-ucarp FILE`: what to write instead of ucarp's lines in `/etc/network/interfaces`.
//!
//! Debian's package starts ucarp from a hook of ifupdown, `/etc/network/if-up.d/ucarp`, for each `iface` stanza with
//! `ucarp-vid`, `ucarp-vip` and `ucarp-password`. What the hook makes of these lines is done here once more, its
//! quirks included, and printed as a script that makes a passfile and a unit for each virtual host. Nothing is
//! touched, and no privilege is needed.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod print;
mod stanzas;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use carp_common::{
    digest::{MAX_PASSPHRASE, Passphrase},
    wire::can_be_host,
};

use self::stanzas::{Interfaces, Setting, Stanza, Wrong, shown};
use crate::config::{Vip, is_interface_name};

/// Longest file that is read, in bytes: none that an administrator wrote comes near it.
const MAX_FILE: u64 = 1 << 20;
/// The hook's scripts where none are named. They run `ifup` and `ifdown` on `INTERFACE:ucarp`.
const DEFAULT_UP: &[u8] = b"/usr/share/ucarp/vip-up";
const DEFAULT_DOWN: &[u8] = b"/usr/share/ucarp/vip-down";
/// What the hook reads.
const KNOWN: [&str; 11] = [
    "ucarp-vid",
    "ucarp-vip",
    "ucarp-password",
    "ucarp-upscript",
    "ucarp-downscript",
    "ucarp-master",
    "ucarp-advskew",
    "ucarp-advbase",
    "ucarp-deadratio",
    "ucarp-nomcast",
    "ucarp-xparam",
];

/// Prints what to write instead of the ucarp lines in a file.
///
/// Fails if the file cannot be read or has more than a mebibyte, if there is nothing for ucarp in it or something that
/// ucarp or carpd could not take, or if the standard output is closed.
pub(crate) fn print(path: &Path) -> Result<()> {
    let mut out = io::stdout().lock();
    let name = shown(path.as_os_str().as_encoded_bytes());
    let mut text = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    file.take(MAX_FILE + 1).read_to_end(&mut text).with_context(|| format!("cannot read {name}"))?;
    ensure!(text.len() as u64 <= MAX_FILE, "{name} has more than {MAX_FILE} bytes: not a file of ifupdown");
    let script = translate(&name, &text)?;
    out.write_all(script.as_bytes()).and_then(|()| out.flush()).context("cannot write to the standard output")
}

/// The script for a file with this name and content.
fn translate(name: &str, text: &[u8]) -> Result<String> {
    let at_line = |Wrong { line, what }| anyhow::anyhow!("{name}:{line}: {what}");
    let file = stanzas::read(text).map_err(at_line)?;
    let hosts = virtual_hosts(&file).map_err(at_line)?;
    if hosts.is_empty() {
        match &file.sources[..] {
            [] => bail!("{name}: no ucarp lines in it"),
            [(line, source), ..] => bail!("{name}: no ucarp lines in it; not followed: line {line}, {source}"),
        }
    }
    Ok(print::script(name, &file, &hosts))
}

/// What the hook starts one ucarp for. No `Debug`: it holds the passphrase.
struct VirtualHost {
    interface: String,
    /// First and last line of the stanza.
    lines: RangeInclusive<usize>,
    source: Option<Ipv4Addr>,
    vhid: u8,
    passphrase: Vec<u8>,
    advskew: Option<u8>,
    advbase: Option<u8>,
    deadratio: Option<u8>,
    preempt: bool,
    nomcast: bool,
    address: Ipv4Addr,
    service: Service,
    /// What the administrator should know.
    notes: Vec<String>,
}

/// How the VIP comes and goes.
#[derive(Debug, PartialEq, Eq)]
enum Service {
    /// carpd adds and removes it; the lines of the alias stanza that held it, if there is one.
    Own { prefix: u8, alias: Option<RangeInclusive<usize>> },
    /// Scripts do.
    Scripts { up: Vec<u8>, down: Vec<u8>, xparam: Option<Vec<u8>> },
}

/// All that the hook would start, in the file's order.
fn virtual_hosts(file: &Interfaces) -> Result<Vec<VirtualHost>, Wrong> {
    let mut hosts: Vec<VirtualHost> = Vec::new();
    for stanza in &file.stanzas {
        let Some(mut host) = virtual_host(stanza, file)? else { continue };
        for other in hosts.iter().filter(|other| other.interface == host.interface) {
            if other.vhid == host.vhid {
                let what =
                    format!("{} has a vhid {} already, at line {}", host.interface, host.vhid, other.lines.start());
                return Err(Wrong { line: *host.lines.start(), what });
            }
            host.notes.push(format!(
                "{} has vhid {} too: an interface takes one XDP program, so the second carpd takes a slower packet socket",
                host.interface, other.vhid
            ));
        }
        hosts.push(host);
    }
    Ok(hosts)
}

/// What the hook starts for a stanza; `None` if that has no line for it.
fn virtual_host(stanza: &Stanza, file: &Interfaces) -> Result<Option<VirtualHost>, Wrong> {
    let Some(first) = stanza.settings.iter().find(|setting| setting.name.starts_with("ucarp-")) else {
        return Ok(None);
    };
    let mut notes = Vec::new();
    for setting in stanza.settings.iter().filter(|setting| setting.name.starts_with("ucarp-")) {
        if !KNOWN.contains(&&*setting.name) {
            notes.push(format!(
                "line {}: Debian's hook does not read {}",
                setting.line,
                shown(setting.name.as_bytes())
            ));
        }
    }
    if stanza.inherits {
        notes.push(format!("line {}: what it inherits is not followed", stanza.lines.start()));
    }
    let interface = &stanza.name;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !is_interface_name(interface) || !interface.chars().all(is_plain) {
        return Err(Wrong {
            line: *stanza.lines.start(),
            what: format!("no unit can be made for {}", shown(interface.as_bytes())),
        });
    }
    let mut word =
        |name| stanza.get(name).map(|setting| setting.map(|setting| (setting, first_word(setting, &mut notes))));
    let needed = |name: &str, found| {
        let what = format!("iface {interface} has ucarp lines but no {name}, without which Debian's hook does nothing");
        Option::ok_or(found, Wrong { line: first.line, what })
    };
    let (vid, vhid) = needed("ucarp-vid", word("ucarp-vid")?)?;
    let vhid = number(vid, vhid, 1..=255)?;
    let (vip, address) = needed("ucarp-vip", word("ucarp-vip")?)?;
    let address = host_address(vip, address)?;
    let (password, passphrase) = needed("ucarp-password", word("ucarp-password")?)?;
    if Passphrase::new(passphrase).is_none() {
        let what = format!("ucarp-password has {} bytes; CARP takes 1 to {MAX_PASSPHRASE}", passphrase.len());
        return Err(Wrong { line: password.line, what });
    }
    let mut ranged = |name, range| word(name)?.map(|(setting, value)| number(setting, value, range)).transpose();
    let [advskew, advbase, deadratio] =
        [ranged("ucarp-advskew", 0..=254)?, ranged("ucarp-advbase", 0..=255)?, ranged("ucarp-deadratio", 1..=255)?];
    let mut script = |name, default: &[u8]| match word(name)? {
        Some((setting, path)) if !path.starts_with(b"/") => {
            Err(Wrong { line: setting.line, what: format!("{name}: {} is no absolute path", shown(path)) })
        }
        Some((_, path)) => Ok(path.to_vec()),
        None => Ok(default.to_vec()),
    };
    let (up, down) = (script("ucarp-upscript", DEFAULT_UP)?, script("ucarp-downscript", DEFAULT_DOWN)?);
    let xparam = word("ucarp-xparam")?.map(|(_, xparam)| xparam.to_vec());
    let source = match stanza.get("address")? {
        Some(setting) => Some(source_address(setting, address)?),
        None => {
            notes.push("no address in the stanza: carpd takes the one that it finds on the interface".to_owned());
            None
        }
    };
    let service = if (&*up, &*down) == (DEFAULT_UP, DEFAULT_DOWN) {
        service_of_alias(interface, address, file, xparam, &mut notes)
    } else {
        Service::Scripts { up, down, xparam }
    };
    Ok(Some(VirtualHost {
        interface: interface.clone(),
        lines: stanza.lines.clone(),
        source,
        vhid,
        passphrase: passphrase.to_vec(),
        advskew,
        advbase,
        deadratio,
        preempt: is_on(stanza.get("ucarp-master")?),
        nomcast: is_on(stanza.get("ucarp-nomcast")?),
        address,
        service,
        notes,
    }))
}

/// What the hook's own scripts do: they bring up the stanza `INTERFACE:ucarp`. If that is the VIP and nothing else,
/// carpd does it itself.
fn service_of_alias(
    interface: &str,
    vip: Ipv4Addr,
    file: &Interfaces,
    xparam: Option<Vec<u8>>,
    notes: &mut Vec<String>,
) -> Service {
    let name = format!("{interface}:ucarp");
    let aliases: Vec<&Stanza> = file.stanzas.iter().filter(|stanza| stanza.name == name).collect();
    let why = match &aliases[..] {
        [] if file.sources.is_empty() => {
            notes.push(format!("there is no stanza `iface {name}` for Debian's vip-up; carpd adds the VIP itself"));
            return Service::Own { prefix: 32, alias: None };
        }
        [] => format!("`iface {name}` is not in this file, perhaps in one that is not followed"),
        [alias] => match alias.plain_address() {
            Some(Vip { address, prefix }) if address == IpAddr::V4(vip) => {
                return Service::Own { prefix, alias: Some(alias.lines.clone()) };
            }
            Some(other) => format!("line {}: `iface {name}` has {other}, and not the VIP", alias.lines.start()),
            None => format!("line {}: `iface {name}` is more than an address and its netmask", alias.lines.start()),
        },
        _ => format!("there are {} stanzas `iface {name}`", aliases.len()),
    };
    notes.push(format!("{why}: Debian's scripts go on bringing it up and down"));
    Service::Scripts { up: DEFAULT_UP.to_vec(), down: DEFAULT_DOWN.to_vec(), xparam }
}

/// What ucarp gets of a value that the hook expands without quotes.
fn first_word<'a>(setting: &'a Setting, notes: &mut Vec<String>) -> &'a [u8] {
    let mut words = setting.value.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    let Setting { name, line, .. } = setting;
    if first.iter().any(|byte| b"*?[".contains(byte)) {
        notes.push(format!("line {line}: Debian's hook does not quote {name}: its shell may expand *, ? and ["));
    }
    if words.next().is_some() {
        notes.push(format!("line {line}: Debian's hook does not quote {name}: ucarp has been getting its first word"));
    }
    first
}

/// `expr "$VALUE" : "no\|off\|false\|0"` decides in the hook: whatever begins so is off, all else is on.
fn is_on(setting: Option<&Setting>) -> bool {
    let off: [&[u8]; 4] = [b"no", b"off", b"false", b"0"];
    setting.is_some_and(|setting| !off.iter().any(|word| setting.value.starts_with(word)))
}

/// A decimal number. ucarp would take a leading zero for octal, and cut what is too large to eight bits.
fn number(setting: &Setting, value: &[u8], range: RangeInclusive<u8>) -> Result<u8, Wrong> {
    let is_decimal = value.iter().all(u8::is_ascii_digit) && (value.len() == 1 || !value.starts_with(b"0"));
    let number = str::from_utf8(value).ok().filter(|_| is_decimal).and_then(|value| value.parse().ok());
    number.filter(|number| range.contains(number)).ok_or_else(|| {
        let Setting { name, line, .. } = setting;
        let what = format!("{name}: {} is not a number from {} to {}", shown(value), range.start(), range.end());
        Wrong { line: *line, what }
    })
}

fn host_address(setting: &Setting, value: &[u8]) -> Result<Ipv4Addr, Wrong> {
    let address = str::from_utf8(value).ok().and_then(|value| value.parse::<Ipv4Addr>().ok());
    address.filter(|address| can_be_host(address.octets()[0])).ok_or_else(|| {
        let what = format!("{}: {} cannot be a host's IPv4 address", setting.name, shown(value));
        Wrong { line: setting.line, what }
    })
}

/// The `address` of a stanza, with or without a prefix length.
fn source_address(setting: &Setting, vip: Ipv4Addr) -> Result<Ipv4Addr, Wrong> {
    let address = setting.value.split(|byte| *byte == b'/').next().unwrap_or_default();
    let address = host_address(setting, address)?;
    if address == vip {
        let what = format!("address: {address} is the VIP, not the host's own address");
        return Err(Wrong { line: setting.line, what });
    }
    Ok(address)
}
