//! The script: a passfile and a unit for each virtual host. It is ASCII, whatever the file holds.

use std::fmt::Write;

use super::{DEFAULT_DOWN, DEFAULT_UP, Interfaces, Service, VirtualHost};

/// The unit that the packaging has, for one virtual host: all but its description and command is taken over.
const UNIT: &str = include_str!("../../packaging/one-virtual-host.service");
/// Where Debian's scripts go, so that its package can.
const OWN_UP: &str = "/etc/carp/vip-up";
const OWN_DOWN: &str = "/etc/carp/vip-down";

/// The whole script.
pub(super) fn script(name: &str, file: &Interfaces, hosts: &[VirtualHost]) -> String {
    let mut out = format!(
        "#!/bin/sh\n\
         # Instead of the ucarp lines in {name}. As root, this writes passfiles and units and starts\n\
         # nothing; what is left to do by hand stands below each unit. It holds the passphrases.\n"
    );
    for (line, source) in &file.sources {
        line_of(&mut out, &format!("# Not followed: line {line}, {source}"));
    }
    line_of(&mut out, "set -e\ninstall -d -m 750 /etc/carp");
    if hosts.iter().any(|host| host.uses(DEFAULT_UP) || host.uses(DEFAULT_DOWN)) {
        line_of(&mut out, "\n# Debian's scripts, so that they stay when the package ucarp goes.");
        for path in [DEFAULT_UP, DEFAULT_DOWN].map(String::from_utf8_lossy) {
            line_of(&mut out, &format!("install -m 755 {path} /etc/carp/"));
        }
    }
    for host in hosts {
        host.write(&mut out, name);
    }
    out
}

fn line_of(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

impl VirtualHost {
    /// Part of the names of its files: letters, digits, `.`, `_` and `-`.
    fn id(&self) -> String {
        format!("{}-{}", self.interface, self.vhid)
    }

    fn passfile(&self) -> String {
        format!("/etc/carp/{}.passphrase", self.id())
    }

    fn uses(&self, script: &[u8]) -> bool {
        matches!(&self.service, Service::Scripts { up, down, .. } if up == script || down == script)
    }

    fn write(&self, out: &mut String, name: &str) {
        let Self { interface, vhid, lines, .. } = self;
        let (id, passfile, first, last) = (self.id(), self.passfile(), lines.start(), lines.end());
        line_of(out, &format!("\n# {interface}, vhid {vhid}: lines {first} to {last}."));
        for note in &self.notes {
            line_of(out, &format!("# Note: {note}."));
        }
        line_of(out, &format!("install -m 600 /dev/null {passfile}"));
        line_of(out, &format!("printf '{}\\n' > {passfile}", printf_format(&self.passphrase)));
        line_of(out, &format!("cat > /etc/systemd/system/carpd-{id}.service <<'END'"));
        out.push_str(&self.unit());
        line_of(out, "END");
        line_of(out, "# By hand, on one host at a time, the backup first:");
        line_of(out, "# 1. Stop ucarp, while its lines are still there; it takes the VIP down.");
        let pattern = interface.replace('.', "\\.");
        line_of(out, &format!("#    pkill -f '^/usr/sbin/ucarp -i {pattern} .*-v {vhid} '"));
        let alias = match &self.service {
            Service::Own { alias: Some(lines), .. } => {
                format!(", and the stanza `iface {interface}:ucarp` (lines {} to {})", lines.start(), lines.end())
            }
            Service::Own { alias: None, .. } | Service::Scripts { .. } => String::new(),
        };
        line_of(out, &format!("# 2. In {name}, delete the ucarp lines of `iface {interface}`{alias}."));
        line_of(out, "# 3. Start carpd, now and at every boot.");
        line_of(out, &format!("#    systemctl daemon-reload && systemctl enable --now carpd-{id}"));
    }

    /// The packaged unit for this virtual host.
    fn unit(&self) -> String {
        let mut unit = String::new();
        // The first line says what to do with the file as it is packaged.
        for line in UNIT.lines().skip_while(|line| line.starts_with('#')) {
            if line.starts_with("Description=") {
                line_of(&mut unit, &format!("Description=CARP: virtual IP {}", self.address));
            } else if let Some(command) = line.strip_prefix("ExecStart=") {
                let carpd = command.split(' ').next().unwrap_or_default();
                line_of(&mut unit, &format!("ExecStart={carpd} {}", self.arguments().join(" ")));
            } else {
                line_of(&mut unit, line);
            }
        }
        unit
    }

    /// carpd's arguments, quoted for systemd.
    fn arguments(&self) -> Vec<String> {
        let mut all = vec![format!("--interface={}", self.interface)];
        all.extend(self.source.map(|source| format!("--srcip={source}")));
        all.push(format!("--vhid={}", self.vhid));
        all.push(match &self.service {
            Service::Own { prefix, .. } => format!("--addr={}/{prefix}", self.address),
            Service::Scripts { .. } => format!("--addr={}", self.address),
        });
        all.push(format!("--passfile={}", self.passfile()));
        for (option, value) in [("advskew", self.advskew), ("advbase", self.advbase), ("deadratio", self.deadratio)] {
            all.extend(value.map(|value| format!("--{option}={value}")));
        }
        for (option, is_on) in [("preempt", self.preempt), ("nomcast", self.nomcast)] {
            all.extend(is_on.then(|| format!("--{option}")));
        }
        if let Service::Scripts { up, down, xparam } = &self.service {
            let own = |path: &[u8]| match path {
                DEFAULT_UP => OWN_UP.into(),
                DEFAULT_DOWN => OWN_DOWN.into(),
                _ => path.to_vec(),
            };
            all.push(systemd_word("--upscript=", &own(up)));
            all.push(systemd_word("--downscript=", &own(down)));
            all.extend(xparam.as_deref().map(|xparam| systemd_word("--xparam=", xparam)));
        }
        all
    }
}

/// A format from which printf makes these bytes: what is not plain is in octal.
fn printf_format(bytes: &[u8]) -> String {
    let mut format = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'%' => format.push_str("%%"),
            b'\\' | b'\'' => octal(&mut format, *byte),
            // Not an option of printf's.
            b'-' if at == 0 => octal(&mut format, *byte),
            b'!'..=b'~' => format.push((*byte).into()),
            _ => octal(&mut format, *byte),
        }
    }
    format
}

fn octal(out: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(out, "\\{byte:03o}");
}

/// An argument in systemd's ExecStart=: quoted where it has to be (systemd.service(5), "Command lines").
fn systemd_word(option: &str, value: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,:=@".contains(byte);
    if value.iter().all(is_plain) {
        return format!("{option}{}", String::from_utf8_lossy(value));
    }
    let mut word = format!("\"{option}");
    for byte in value {
        match byte {
            b'%' => word.push_str("%%"),
            b'$' => word.push_str("$$"),
            b'"' | b'\\' => word.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => word.push((*byte).into()),
            // Writing to a String cannot fail.
            _ => drop(write!(word, "\\x{byte:02x}")),
        }
    }
    word.push('"');
    word
}
