//! The system log, with every facility that ucarp knows.

use std::{ffi::CString, str::FromStr};

use nix::libc;

/// What kind of program a line comes from (syslog(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facility(libc::c_int);

/// The facilities by name.
const NAMES: [(&str, libc::c_int); 21] = [
    ("auth", libc::LOG_AUTH),
    ("authpriv", libc::LOG_AUTHPRIV),
    ("cron", libc::LOG_CRON),
    ("daemon", libc::LOG_DAEMON),
    ("ftp", libc::LOG_FTP),
    ("kern", libc::LOG_KERN),
    ("local0", libc::LOG_LOCAL0),
    ("local1", libc::LOG_LOCAL1),
    ("local2", libc::LOG_LOCAL2),
    ("local3", libc::LOG_LOCAL3),
    ("local4", libc::LOG_LOCAL4),
    ("local5", libc::LOG_LOCAL5),
    ("local6", libc::LOG_LOCAL6),
    ("local7", libc::LOG_LOCAL7),
    ("lpr", libc::LOG_LPR),
    ("mail", libc::LOG_MAIL),
    ("news", libc::LOG_NEWS),
    ("security", libc::LOG_AUTH),
    ("syslog", libc::LOG_SYSLOG),
    ("user", libc::LOG_USER),
    ("uucp", libc::LOG_UUCP),
];

impl FromStr for Facility {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let all = || NAMES.map(|(name, _)| name).join(", ");
        found.map(|(_, facility)| Self(*facility)).ok_or_else(|| format!("it is one of {}", all()))
    }
}

/// Opens the system log under the name "carpd".
pub(crate) fn open(Facility(facility): Facility) {
    // SAFETY: the name is a C string that lives for ever, as openlog asks.
    unsafe { libc::openlog(c"carpd".as_ptr(), libc::LOG_PID, facility) };
}

/// Writes a line of this severity (0 to 7). Reconnects by itself if the log daemon was restarted.
pub(crate) fn write(severity: libc::c_int, text: &[u8]) {
    // A NUL would end the line anyway.
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let Ok(text) = CString::new(text) else { return };
    // SAFETY: both are C strings, and the format takes exactly one.
    unsafe { libc::syslog(severity, c"%s".as_ptr(), text.as_ptr()) };
}
