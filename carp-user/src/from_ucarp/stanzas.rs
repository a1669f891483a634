//! The syntax of ifupdown's files, interfaces(5), as far as it matters here.

use std::{net::Ipv4Addr, ops::RangeInclusive};

use crate::config::Vip;

/// The longest piece of a file that a message repeats, in characters.
const MAX_SHOWN: usize = 60;
/// Options of an alias that is an address and nothing else.
const ADDRESS_ONLY: [&str; 4] = ["address", "netmask", "broadcast", "network"];
/// Words that end a stanza, beside `iface` and `allow-CLASS`.
const OTHERS: [&[u8]; 9] = [
    b"auto",
    b"mapping",
    b"template",
    b"rename",
    b"no-auto-down",
    b"no-scripts",
    b"source",
    b"source-directory",
    b"source-dir",
];

/// What is wrong in a file, and at which line, from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) what: String,
}

/// A file of ifupdown. No `Debug`: there are passphrases in it.
#[derive(Default)]
pub(super) struct Interfaces {
    pub(super) stanzas: Vec<Stanza>,
    /// Lines that name other files, and their numbers.
    pub(super) sources: Vec<(usize, String)>,
}

/// An `iface` stanza.
pub(super) struct Stanza {
    pub(super) name: String,
    /// Whether it is `inet static`.
    is_static: bool,
    pub(super) inherits: bool,
    /// First and last line.
    pub(super) lines: RangeInclusive<usize>,
    pub(super) settings: Vec<Setting>,
}

/// A line of a stanza.
pub(super) struct Setting {
    /// In the spelling of the manual: what makes the same environment variable has the same name.
    pub(super) name: String,
    /// Not empty.
    pub(super) value: Vec<u8>,
    pub(super) line: usize,
}

/// Reads a file.
pub(super) fn read(text: &[u8]) -> Result<Interfaces, Wrong> {
    let mut file = Interfaces::default();
    let mut is_in_stanza = false;
    for Line { numbers, text } in lines(text) {
        let line = *numbers.start();
        if text.contains(&0) {
            return Err(Wrong { line, what: "there is a NUL byte: not a file of ifupdown".to_owned() });
        }
        let (word, rest) = split_word(&text);
        if word == b"iface" {
            file.stanzas.push(stanza(numbers, rest)?);
            is_in_stanza = true;
        } else if OTHERS.contains(&word) || word.starts_with(b"allow-") {
            is_in_stanza = false;
            if word.starts_with(b"source") {
                file.sources.push((line, shown(&text)));
            }
        } else {
            let name = setting_name(word);
            let is_ucarps = name.starts_with("ucarp-");
            match file.stanzas.last_mut().filter(|_| is_in_stanza) {
                Some(_) if is_ucarps && rest.is_empty() => {
                    return Err(Wrong { line, what: format!("{} has no value", shown(word)) });
                }
                Some(stanza) => {
                    stanza.lines = *stanza.lines.start()..=*numbers.end();
                    stanza.settings.push(Setting { name, value: rest.to_vec(), line });
                }
                None if is_ucarps => {
                    return Err(Wrong { line, what: format!("{} stands in no iface stanza", shown(word)) });
                }
                None => {}
            }
        }
    }
    Ok(file)
}

fn stanza(numbers: RangeInclusive<usize>, text: &[u8]) -> Result<Stanza, Wrong> {
    let words: Vec<&[u8]> = text.split(is_blank).filter(|word| !word.is_empty()).collect();
    let name = words.first().and_then(|name| String::from_utf8(name.to_vec()).ok());
    let what = "iface without the name of an interface".to_owned();
    Ok(Stanza {
        name: name.ok_or(Wrong { line: *numbers.start(), what })?,
        is_static: words.get(1..3) == Some(&[b"inet", b"static"]),
        inherits: words.contains(&&b"inherits"[..]),
        lines: numbers,
        settings: Vec::new(),
    })
}

impl Stanza {
    /// The setting of this name; ifupdown refuses a file with two.
    pub(super) fn get(&self, name: &str) -> Result<Option<&Setting>, Wrong> {
        let mut found = self.settings.iter().filter(|setting| setting.name == name);
        let first = found.next();
        match found.next() {
            Some(second) => Err(Wrong { line: second.line, what: format!("{name} stands here twice") }),
            None => Ok(first),
        }
    }

    /// Its address, if it is that with its prefix length and nothing else.
    pub(super) fn plain_address(&self) -> Option<Vip> {
        let is_more = self.inherits || !self.settings.iter().all(|setting| ADDRESS_ONLY.contains(&&*setting.name));
        if is_more || !self.is_static {
            return None;
        }
        let value = |name| str::from_utf8(&self.get(name).ok()??.value).ok();
        let (address, prefix) = match value("address")?.split_once('/') {
            Some((address, prefix)) => (address, prefix),
            None => (value("address")?, value("netmask")?),
        };
        let prefix = prefix.parse::<u8>().ok().or_else(|| prefix_length(prefix.parse().ok()?))?;
        Some(Vip { address: address.parse().ok()?, prefix }).filter(|vip| vip.prefix <= 32)
    }
}

/// The prefix length of a netmask; `None` if there is none.
fn prefix_length(netmask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(netmask);
    let length = bits.leading_ones();
    (bits.count_ones() == length).then_some(length as u8)
}

/// A line, or several that a backslash makes one.
struct Line {
    numbers: RangeInclusive<usize>,
    /// Neither empty nor a comment, without blanks around it.
    text: Vec<u8>,
}

fn lines(text: &[u8]) -> impl Iterator<Item = Line> {
    let mut raw = text.split(|byte| *byte == b'\n').enumerate().map(|(at, text)| (at + 1, text));
    std::iter::from_fn(move || {
        loop {
            let (first, text) = raw.next()?;
            let text = text.trim_ascii_start();
            if text.is_empty() || text.starts_with(b"#") {
                continue;
            }
            let (mut text, mut last) = (text.to_vec(), first);
            while text.pop_if(|byte| *byte == b'\\').is_some() {
                // Two of them stand for one, and the line ends.
                if text.ends_with(b"\\") {
                    break;
                }
                let Some((number, more)) = raw.next() else { break };
                text.extend(more);
                last = number;
            }
            text.truncate(text.trim_ascii_end().len());
            if !text.is_empty() {
                return Some(Line { numbers: first..=last, text });
            }
        }
    })
}

fn is_blank(byte: &u8) -> bool {
    byte.is_ascii_whitespace()
}

/// The first word, and the rest without the blanks between.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let (word, rest) = text.split_at(text.iter().position(is_blank).unwrap_or(text.len()));
    (word, rest.trim_ascii_start())
}

/// ifupdown makes an environment variable of it for the hook: `-` becomes `_`, what is neither that nor a letter
/// or digit is left out, and capitals do not matter.
fn setting_name(word: &[u8]) -> String {
    let letters = word.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte });
    letters
        .filter(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        .map(|byte| char::from(byte.to_ascii_lowercase()))
        .collect()
}

/// A piece of a file as a message may repeat it: on one line, printable, not too long.
pub(super) fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut shown: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_default).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}
