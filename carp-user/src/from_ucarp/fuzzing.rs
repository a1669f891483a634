//! What is asserted of any file of ifupdown.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use super::*;
use crate::cli::Args;

/// Translates a file: what is said is printable and names a line of it, and the commands that are printed are taken.
pub fn interfaces(text: &[u8]) {
    let is_printable = |said: &str| said.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte));
    match translate("interfaces", text) {
        Err(error) => {
            let said = format!("{error:#}");
            assert!(is_printable(&said), "{said:?}");
            let line = said.split(':').nth(1).and_then(|line| line.parse::<usize>().ok());
            let lines = text.split(|byte| *byte == b'\n').count();
            assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{said}, of {lines} lines");
        }
        Ok(script) => {
            assert!(is_printable(&script), "{script:?}");
            let commands = script.lines().filter_map(|line| line.strip_prefix("ExecStart="));
            commands.for_each(assert_taken);
        }
    }
}

fn assert_taken(command: &str) {
    if let Err(error) = Args::read(words(command)) {
        panic!("{command}: {error}");
    }
}

/// The words that systemd makes of a command, with its quotes, escapes, `%%` and `$$` (systemd.service(5)).
fn words(command: &str) -> Vec<OsString> {
    let mut rest = command.bytes().peekable();
    let mut words = vec![];
    while rest.peek().is_some() {
        let mut word = vec![];
        let is_quoted = rest.next_if_eq(&b'"').is_some();
        let end = if is_quoted { b'"' } else { b' ' };
        while let Some(byte) = rest.next().filter(|byte| *byte != end) {
            word.push(match byte {
                b'%' | b'$' => rest.next_if_eq(&byte).expect("doubled"),
                b'\\' if rest.next_if_eq(&b'x').is_some() => {
                    let digits = [rest.next(), rest.next()].map(|digit| char::from(digit.expect("a digit")));
                    u8::from_str_radix(&String::from_iter(digits), 16).expect("two digits")
                }
                b'\\' => rest.next().expect("a character"),
                b' '..=b'~' => byte,
                _ => panic!("not printable: {command}"),
            });
        }
        if is_quoted {
            rest.next_if_eq(&b' ');
        }
        words.push(OsString::from_vec(word));
    }
    words
}
