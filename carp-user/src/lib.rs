//! User space of carp: the agent `carpd`, and `carpctl`, which looks after it.
//!
//! | module | what it does |
//! |---|---|
//! | `daemon` | from the command line to the exit code |
//! | `cli`, `config` | ucarp's options, the configuration file; the settings, checked |
//! | `control`, `history`, `maintenance` | the control socket, and what is told and kept through it |
//! | `counter_floor` | what is kept of the adverts' counters across a reboot |
//! | `carpctl` | its other end |
//! | `upgrade` | going on as another program in the same process |
//! | `metrics` | what Prometheus is told |
//! | `agent` | the one loop: inputs, timers, actions |
//! | [`datapath`] | adverts from the wire: the XDP program and its maps, or a socket |
//! | `from_ucarp` | what to write instead of ucarp's lines in ifupdown's files |
//! | `net` | netlink, the advert socket, gratuitous ARP, group membership |
//! | `vips`, `scripts` | a task that takes and releases the VIPs |
//! | `checks` | the administrator's scripts whose failures demote |
//! | `notify`, `process` | programs that are told of transitions; running one within a time limit |
//! | `logging`, `syslog`, `systemd`, `background`, `title`, `privileges`, `lock`, `clock` | a good citizen among daemons |

mod agent;
mod background;
mod carpctl;
mod checks;
mod cli;
mod clock;
mod config;
mod control;
mod counter_floor;
mod daemon;
pub mod datapath;
mod from_ucarp;
mod history;
mod lock;
mod logging;
mod maintenance;
mod metrics;
mod net;
mod notify;
mod privileges;
mod process;
mod realtime;
mod scripts;
mod syslog;
mod systemd;
mod title;
mod upgrade;
mod vips;

use clap::{Command, CommandFactory};

pub use carpctl::carpctl;
pub use daemon::carpd;

/// The command lines of carpd and carpctl, for those who write about them: manual pages, completions.
#[must_use]
pub fn command_lines() -> [Command; 2] {
    [cli::Args::command(), carpctl::Args::command()]
}

/// What is asserted of any input: see carp-tests' module of this name.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::{
        cli::fuzzing::arguments, config::file::fuzzing::configuration, control::server::fuzzing::control,
        from_ucarp::fuzzing::interfaces,
    };
}

/// What `--version` says. The XDP program's number is the same on all hosts that run the same.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ngit revision ",
    env!("CARP_REVISION"),
    "\nXDP program ",
    env!("CARP_EBPF_BUILD")
);
