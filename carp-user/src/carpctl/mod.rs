//! carpctl: what an administrator asks.

mod cleanup;
mod connection;
mod key;
mod status;
mod upgrade;
mod watch;

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum, value_parser};
use nix::net::if_::if_nametoindex;

use self::connection::{Answers, CallError, ask};
use crate::{
    VERSION,
    config::file::{self, Configuration},
    control::protocol::{Reply, Request, SOCKET, Status, Target},
    logging::tell,
};

/// Exit code if no carpd is there.
const NOT_RUNNING: u8 = 3;
/// Exit code of `status` if something is wrong.
const NOT_WELL: u8 = 4;

/// Looks after carpd.
///
/// Exit codes: 0 as it should be; 1 not done; 2 not understood; 3 no carpd is running; 4 (status) a virtual host is
/// in INIT, or something is wrong with it.
#[derive(Parser)]
#[command(name = "carpctl", version, long_version = VERSION, max_term_width = 100)]
pub(crate) struct Args {
    /// Where carpd listens
    #[arg(long, value_name = "PATH", default_value = SOCKET, global = true)]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tell how things stand
    Status {
        /// As a JSON document: docs/operation.md has its fields
        #[arg(long)]
        json: bool,
    },
    /// Show how things stand, and what happens, until q
    Watch,
    /// Tell the last 1,000 transitions and alarms
    Events {
        /// Each as a JSON document in a line
        #[arg(long)]
        json: bool,
        /// Go on with those that follow
        #[arg(long, short)]
        follow: bool,
    },
    /// Tell what was counted, and who sent what was refused last
    Counters,
    /// Have others preferred: a master hands over, and does not take over again while another can be master
    Demote {
        #[command(flatten)]
        which: Which,
        /// By how much: 1 to 254; the more, the less preferred
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u8).range(1..=254))]
        by: u8,
    },
    /// End what `demote` began
    Promote {
        #[command(flatten)]
        which: Which,
    },
    /// Make this server the last resort, over restarts, or end that
    Maintenance {
        /// Whether it is to be
        state: Switch,
    },
    /// Make, tell or choose the keys that adverts are sealed with
    #[command(subcommand)]
    Key(key::Command),
    /// Read the configuration file again, and apply what is different
    Reload,
    /// Have the program that is on disk by now go on in the running carpd's process: masters stay masters
    Upgrade,
    /// Remove what a carpd that was killed has left: programs, maps, addresses, devices, locks
    Cleanup {
        /// Where it had pinned the kernel's half [default: where it says, or /sys/fs/bpf]
        #[arg(long, value_name = "DIR")]
        bpffs: Option<PathBuf>,
    },
    /// Say what is wrong with a configuration file, all of it at once; touches nothing
    Check {
        /// The file
        #[arg(default_value = file::DEFAULT)]
        file: PathBuf,
    },
}

/// Which virtual hosts: all, unless some are named.
#[derive(ClapArgs)]
struct Which {
    /// Only those on this interface
    #[arg(long, short, value_name = "IF")]
    interface: Option<String>,
    /// Only those with this vhid
    #[arg(long, short, value_name = "ID", value_parser = value_parser!(u8).range(1..))]
    vhid: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Be the last resort
    On,
    /// As configured
    Off,
}

impl From<Which> for Target {
    fn from(Which { interface, vhid }: Which) -> Self {
        Self { interface, vhid }
    }
}

/// Runs carpctl with the arguments of this process. Exit codes: see its help.
#[must_use]
pub fn carpctl() -> ExitCode {
    let Args { socket, command } = Args::parse();
    match run(&socket, command) {
        Ok(code) => code,
        Err(error) => match (error.downcast_ref(), error.downcast_ref::<io::Error>()) {
            (Some(CallError::NotRunning(_)), _) => {
                tell(error);
                ExitCode::from(NOT_RUNNING)
            }
            // Whoever read this has seen enough.
            (_, Some(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            _ => {
                tell(format!("{error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn run(socket: &Path, command: Command) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match command {
        Command::Status { json } => {
            let status = status(socket)?;
            let text = if json { serde_json::to_string_pretty(&status)? + "\n" } else { status::table(&status) };
            match out.write_all(text.as_bytes()) {
                // Whoever read this has seen enough; the exit code counts all the same.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                written => written?,
            }
            return Ok(if status::is_well(&status) { ExitCode::SUCCESS } else { ExitCode::from(NOT_WELL) });
        }
        Command::Watch => watch::run(socket)?,
        Command::Events { json, follow } => tell_events(socket, json, follow, &mut out)?,
        Command::Counters => write!(out, "{}", status::counters(&status(socket)?))?,
        Command::Key(key::Command::New { file }) => key::new(file.as_deref(), &mut out)?,
        Command::Key(key::Command::List) => key::list(&status(socket)?, &mut out)?,
        Command::Key(key::Command::Use { id, which }) => {
            let request = Request::SealWith { target: which.into(), id };
            writeln!(out, "{}", done(ask(socket, &request)?)?)?;
        }
        Command::Demote { which, by } => {
            let request = Request::Demote { target: which.into(), demotion: by };
            writeln!(out, "{}", done(ask(socket, &request)?)?)?;
        }
        Command::Promote { which } => {
            let request = Request::Demote { target: which.into(), demotion: 0 };
            writeln!(out, "{}", done(ask(socket, &request)?)?)?;
        }
        Command::Maintenance { state } => {
            let request = Request::Maintenance { on: state == Switch::On };
            writeln!(out, "{}", done(ask(socket, &request)?)?)?;
        }
        Command::Reload => writeln!(out, "{}", done(ask(socket, &Request::Reload)?)?)?,
        Command::Upgrade => upgrade::run(socket, &mut out)?,
        Command::Cleanup { bpffs } => cleanup::run(bpffs.as_deref(), &mut out)?,
        Command::Check { file } => check(&file)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn status(socket: &Path) -> Result<Status, CallError> {
    match ask(socket, &Request::Status)?.only()? {
        Reply::Status(status) => Ok(*status),
        other => Err(strange(&other)),
    }
}

fn done(answers: Answers) -> Result<String, CallError> {
    match answers.only()? {
        Reply::Done(done) => Ok(done),
        other => Err(strange(&other)),
    }
}

fn strange(reply: &Reply) -> CallError {
    CallError::Strange(format!("{reply:?} is no answer to this"))
}

fn tell_events(socket: &Path, json: bool, follow: bool, out: &mut impl Write) -> Result<()> {
    let mut answers = ask(socket, &Request::Events { follow })?;
    if follow {
        answers.be_patient()?;
    }
    loop {
        let event = match answers.next() {
            Ok(Some(Reply::Event(event))) => event,
            Ok(Some(other)) => return Err(strange(&other).into()),
            Ok(None) if follow => return Err(CallError::Broken(ErrorKind::UnexpectedEof.into()).into()),
            Ok(None) => return Ok(()),
            // That some were missed: the rest follows.
            Err(CallError::Refused(why)) if follow => {
                tell(why);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let line = if json { serde_json::to_string(&event)? } else { status::line(&event) };
        writeln!(out, "{line}")?;
        out.flush()?;
    }
}

fn check(file: &Path) -> Result<()> {
    let Configuration { hosts, warnings, .. } = file::check(file)?;
    warnings.iter().for_each(tell);
    let interfaces: BTreeSet<&str> = hosts.iter().filter_map(|settings| settings.interface.as_deref()).collect();
    for interface in &interfaces {
        if if_nametoindex(*interface).is_err() {
            tell(format!(
                "{}: warning: there is no interface {interface} here; carpd would wait for it",
                file.display()
            ));
        }
    }
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let hosts = count(hosts.len(), "virtual host");
    writeln!(io::stdout(), "{}: {hosts} on {}", file.display(), count(interfaces.len(), "interface"))
        .context("cannot write")
}
