//! What is asserted of any command line.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use super::*;
use crate::title;

/// ucarp's options of one letter without a value.
const WITHOUT_VALUE: &[u8] = b"PnzMSBD";

/// Reads arguments, with a NUL between each two. What is accepted lacks nothing that is needed; options of one letter mean
/// what they mean to getopt.
pub fn arguments(input: &[u8]) {
    let words: Vec<&[u8]> = input.split(|byte| *byte == 0).collect();
    let all = [&b"carpd"[..]].into_iter().chain(words.iter().copied());
    let args = match Args::read(all.map(|word| OsStr::from_bytes(word).to_owned())) {
        Ok(args) => args,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    if args.translates().is_some() {
        return;
    }
    if args.config.is_some() {
        assert!(args.vhid.is_none() && args.pass.is_none() && args.passfile.is_none() && args.addr.is_empty());
        return;
    }
    assert!(args.vhid.is_some_and(|vhid| vhid > 0) && !args.addr.is_empty(), "what is needed is missing");
    assert!(args.pass.is_some() != args.passfile.is_some(), "no passphrase, or two");
    if let Some(pass) = &args.pass {
        assert_is_hidden(input, pass.len());
    }
    if let Some(options) = letters(&words) {
        assert_means(&args, &options);
    }
    // Nobody is waited for who would write into a pipe.
    if args.passfile.as_ref().is_none_or(|file| file.is_file())
        && let Ok(settings) = args.settings()
    {
        assert!(!settings.vips.is_empty() && settings.group.is_multicast() && settings.min_ttl > 0);
        assert!(settings.scripts.is_none() || settings.mac == VipMac::Interface);
        assert!(
            settings
                .sources
                .iter()
                .chain(&settings.peers)
                .all(|own| settings.vips.iter().all(|vip| vip.address != *own))
        );
    }
}

/// What `ps` shows has nothing of the passphrase, and is right otherwise.
fn assert_is_hidden(input: &[u8], length: usize) {
    let mut shown = [b"carpd\0", input, b"\0"].concat();
    title::mask(&mut shown);
    let words = shown[..shown.len() - 1].split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned());
    let read = Args::read(words).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read.pass, Some("x".repeat(length).into()), "the passphrase is seen, or something else is not");
}

/// An option of one letter, and its value.
type Letter<'w> = (u8, &'w [u8]);

/// What getopt makes of words that are options of one letter and their values, and nothing else.
fn letters<'w>(words: &[&'w [u8]]) -> Option<Vec<Letter<'w>>> {
    let mut words = words.iter();
    let mut options = vec![];
    while let Some(word) = words.next() {
        let [b'-', cluster @ ..] = word else { return None };
        if matches!(cluster, [] | [b'-', ..]) {
            return None;
        }
        for (at, letter) in cluster.iter().enumerate() {
            if WITH_VALUE.contains(letter) {
                let rest = &cluster[at + 1..];
                options.push((*letter, if rest.is_empty() { *words.next()? } else { rest }));
                break;
            }
            if !WITHOUT_VALUE.contains(letter) {
                return None;
            }
            options.push((*letter, &[][..]));
        }
    }
    Some(options)
}

fn assert_means(args: &Args, options: &[Letter<'_>]) {
    let last = |letter: u8| options.iter().rev().find(|(known, _)| *known == letter).map(|(_, value)| *value);
    let text = |letter| last(letter).and_then(|value| str::from_utf8(value).ok());
    let number =
        |letter, default: u8| text(letter).map_or(default.into(), |value| value.parse::<i64>().expect("a number"));
    let secret = options.iter().rev().find(|(letter, _)| b"po".contains(letter)).expect("a passphrase");
    let given = match secret.0 {
        b'p' => args.pass.as_deref().map(OsStr::as_bytes),
        _ => args.passfile.as_deref().map(|file| file.as_os_str().as_bytes()),
    };
    assert_eq!(given, Some(secret.1));
    assert_eq!(args.vhid.map(i64::from), Some(number(b'v', 0)));
    assert_eq!(i64::from(args.advbase), number(b'b', config::ADVBASE));
    assert_eq!(i64::from(args.advskew), number(b'k', config::ADVSKEW));
    assert_eq!(i64::from(args.deadratio), number(b'r', config::DEAD_RATIO));
    assert_eq!(args.interface.as_deref(), text(b'i'));
    assert_eq!(args.srcip.map(|source| source.to_string()), text(b's').map(normal));
    assert_eq!(args.addr.len(), options.iter().filter(|(letter, _)| *letter == b'a').count());
    for (path, letter) in [(&args.upscript, b'u'), (&args.downscript, b'd')] {
        assert_eq!(path.as_ref().map(|path| path.as_os_str().as_bytes()), last(letter));
    }
    assert_eq!(args.xparam.as_deref().map(OsStr::as_bytes), last(b'x'));
    let flags =
        [args.preempt, args.neutral, args.shutdown, args.nomcast, args.ignoreifstate, args.daemonize, args.debug];
    for (letter, is_on) in WITHOUT_VALUE.iter().zip(flags) {
        assert_eq!(is_on, last(*letter).is_some(), "-{}", char::from(*letter));
    }
}

/// An address as it is shown.
fn normal(text: &str) -> String {
    text.parse::<IpAddr>().map_or_else(|_| text.to_owned(), |address| address.to_string())
}
