//! What carpd, ucarp and keepalived are measured at: the settings that suit each best.

use std::{
    fmt::{self, Write},
    net::Ipv4Addr,
    path::Path,
    time::Duration,
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    host::ETH0,
    node::{VHID, VIP},
    tools::is_missing,
};

/// keepalived takes eight characters.
const PASSWORD: &str = "password";
/// A file with a key, and what is in it.
pub(super) const SEAL_KEY: &str = "seal-key-of-the-benchmarks";
/// The line of carpd's defaults for those that seal.
pub const SEALED: &str = "seal = \"enforce\"\nseal_keys = [{ id = 1, file = \"seal-key-of-the-benchmarks\" }]\n";
/// The highest priority of a keepalived that is not the address's owner.
const PRIORITY: u8 = 254;

/// A program that shares an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum System {
    Carpd,
    Ucarp,
    Keepalived,
}

/// How soon a backup notices its master's death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Pace {
    /// An advert a second, and three of them are missed: what all have in common.
    Second,
    /// The soonest that there is.
    Fastest,
}

/// A program and its settings.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// For tables.
    pub name: &'static str,
    /// Which program.
    pub system: System,
    /// Its timers.
    pub pace: Pace,
    /// How many virtual hosts there are.
    pub vhids: u8,
    /// By how much the backup is less preferred: advskew, or priority.
    pub skew: u8,
    /// Real-time scheduling and locked memory, where a program has that.
    pub realtime: bool,
    /// Further lines of carpd's defaults.
    pub defaults: &'static str,
    /// Further options of carpd or ucarp.
    pub options: &'static [&'static str],
}

/// carpd with one virtual host.
pub const CARPD: Setting = Setting {
    name: "carpd",
    system: System::Carpd,
    pace: Pace::Second,
    vhids: 1,
    skew: 1,
    realtime: false,
    defaults: "",
    options: &[],
};
/// The same of ucarp.
pub const UCARP: Setting = Setting { name: "ucarp", system: System::Ucarp, ..CARPD };
/// The same of keepalived.
pub const KEEPALIVED: Setting = Setting { name: "keepalived", system: System::Keepalived, ..CARPD };

impl Setting {
    /// Those of them whose program is there; says so of the others.
    pub fn present(all: &[Self]) -> Result<Vec<Self>> {
        let mut present = vec![];
        for setting in all {
            if setting.system == System::Carpd || !is_missing(setting.system.program())? {
                present.push(*setting);
            }
        }
        Ok(present)
    }

    /// Between two adverts of the master.
    pub fn interval(&self) -> Duration {
        match (self.pace, self.system) {
            (Pace::Second, _) | (Pace::Fastest, System::Ucarp) => Duration::from_secs(1),
            (Pace::Fastest, System::Carpd) => Duration::from_secs(1) / 256,
            (Pace::Fastest, System::Keepalived) => Duration::from_millis(10),
        }
    }

    /// How long a backup waits after its master's last advert.
    pub fn dead_time(&self) -> Duration {
        let skew = u32::from(self.skew);
        let second = Duration::from_secs(1);
        match (self.system, self.pace) {
            (System::Carpd | System::Ucarp, Pace::Second) => 3 * second + second * skew / 256,
            (System::Carpd, Pace::Fastest) => 3 * second * skew / 256,
            (System::Ucarp, Pace::Fastest) => second + second * skew / 256,
            // The skew time is what is missing to 256.
            (System::Keepalived, _) => 3 * self.interval() + self.interval() * (2 + skew) / 256,
        }
    }

    /// What it is started with, for the one who reads the figures: the configuration, or the options.
    pub fn text(&self, is_preferred: bool) -> String {
        match self.system {
            System::Carpd => format!("{}{}", self.carpd(is_preferred), self.options.join(" ")),
            System::Ucarp => self.ucarp(is_preferred).join(" "),
            System::Keepalived => self.keepalived(is_preferred, Path::new(".")),
        }
    }

    /// carpd.toml
    pub(super) fn carpd(&self, is_preferred: bool) -> String {
        let skew = if is_preferred { 0 } else { self.skew };
        let base = if self.pace == Pace::Second { 1 } else { 0 };
        let realtime = if self.realtime { "realtime = true\n" } else { "" };
        let mut text = format!(
            "{realtime}[defaults]\ninterface = {ETH0:?}\npassphrase = {PASSWORD:?}\npreempt = true\nadvbase = {base}\n\
             advskew = {skew}\n{}",
            self.defaults
        );
        for vhid in 1..=self.vhids {
            let address = address(vhid);
            // Writing to a String cannot fail.
            let _ = write!(text, "[[virtual_host]]\nvhid = {vhid}\naddresses = [\"{address}\"]\n");
        }
        text
    }

    /// The options that are the same for all virtual hosts.
    pub(super) fn ucarp(&self, is_preferred: bool) -> Vec<String> {
        let skew = if is_preferred { 0 } else { self.skew };
        let mut options = vec![format!("--interface={ETH0}"), format!("--pass={PASSWORD}"), "--shutdown".to_owned()];
        options.extend(["--daemonize".to_owned(), "--facility=none".to_owned()]);
        options.extend(["--advbase=1".to_owned(), format!("--advskew={skew}")]);
        // Its --preempt makes it master at once, whoever is.
        options.extend(is_preferred.then(|| "--preempt".to_owned()));
        options.extend((self.pace == Pace::Fastest).then(|| "--deadratio=1".to_owned()));
        options.extend(self.options.iter().map(|&option| option.to_owned()));
        options
    }

    /// keepalived.conf; a number in the file `priority` is added to the priority.
    pub(super) fn keepalived(&self, is_preferred: bool, folder: &Path) -> String {
        let priority = if is_preferred { PRIORITY } else { PRIORITY - self.skew };
        let folder = folder.display();
        let realtime = if self.realtime { "  vrrp_rt_priority 50\n  vrrp_no_swap\n" } else { "" };
        let timers = match self.pace {
            Pace::Second => {
                format!(
                    "  version 2\n  advert_int 1\n  authentication {{\n    auth_type PASS\n    auth_pass {PASSWORD}\n  }}\n"
                )
            }
            Pace::Fastest => "  version 3\n  advert_int 0.01\n".to_owned(),
        };
        let mut text = format!(
            "global_defs {{\n  vrrp_notify_fifo {folder}/fifo\n{realtime}}}\n\
             track_file priority {{\n  file {folder}/priority\n  weight 1\n  init_file 0\n}}\n"
        );
        for id in 1..=self.vhids {
            let address = address(id);
            let tracks = if id == VHID { "  track_file {\n    priority\n  }\n" } else { "" };
            let _ = write!(
                text,
                "vrrp_instance v{id} {{\n  state BACKUP\n  interface {ETH0}\n  virtual_router_id {id}\n  \
                 priority {priority}\n{timers}  virtual_ipaddress {{\n    {address}/32\n  }}\n{tracks}}}\n"
            );
        }
        text
    }
}

/// What is shared by virtual hosts of this number.
pub(super) fn address(vhid: u8) -> Ipv4Addr {
    if vhid == VHID { VIP } else { Ipv4Addr::new(10, 77, 1, vhid) }
}

impl System {
    /// Its program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Carpd => "carpd",
            Self::Ucarp => "ucarp",
            Self::Keepalived => "keepalived",
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_times_are_those_of_the_protocols() {
        let micros = |setting: Setting| setting.dead_time().as_micros();
        let fastest = |setting: Setting| Setting { pace: Pace::Fastest, ..setting };
        assert_eq!([CARPD, UCARP, KEEPALIVED].map(micros), [3_003_906, 3_003_906, 3_011_718]);
        assert_eq!([CARPD, UCARP, KEEPALIVED].map(fastest).map(micros), [11_718, 1_003_906, 30_117]);
        assert_eq!(micros(Setting { skew: 50, ..CARPD }), 3_195_312);
    }
}
