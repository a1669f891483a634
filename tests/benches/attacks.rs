//! Who falls to what: `cargo xtask bench attacks`.
//!
//! Two hosts with an advert a second (advskew 0 and 50), and an attacker on their network who hears every advert and has no
//! key. The same attacks on ucarp, on carpd without seals, with a policy for each peer, and with seals enforced:
//!
//! * while the master lives, adverts that are made of its last one, 20 a second;
//! * after its death, its last advert 20 times a second, or all that were heard, at the pace at which they were heard; the delay of
//!   the takeover, beyond that without an attack;
//! * the same to a backup that has started anew just then, and so has heard nothing yet.
//!
//! Each attack is made once (n = 1): the answer is a word, or a delay of whole seconds.
//!
//! The switch forwards everything to everybody.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carp_tests::attacks::{Attacker, Edit};
use carp_tests::bench::{Options, Table};
use carp_tests::configured::{folder, start, virtual_host, write};
use carp_tests::{Agent, BootTime, Folder, Host, LONG, Lab, Ucarp, VIP, eventually};
use clap::Parser;
use nix::sys::signal::Signal;

/// How long a live master is attacked.
const WHILE: Duration = Duration::from_secs(8);
/// For how long a dead one's adverts are recorded, and repeated.
const RECORDED: Duration = Duration::from_secs(15);
/// Those that are edited in a table, besides.
const EDITS: [Edit; 8] = [
    Edit::Copy,
    Edit::Reflection,
    Edit::Preferred,
    Edit::PreferredElsewhere,
    Edit::Slow,
    Edit::Demoted,
    Edit::BowOut,
    Edit::Stripped,
];

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Options,
}

/// Who is attacked.
#[derive(Clone, Copy)]
enum Subject {
    Ucarp,
    Plain,
    Policy,
    Sealed,
}

const SUBJECTS: [(Subject, &str); 4] = [
    (Subject::Ucarp, "ucarp"),
    (Subject::Plain, "carpd"),
    (Subject::Policy, "carpd, `peer_policy`"),
    (Subject::Sealed, "carpd, `seal = \"enforce\"`"),
];

/// One of the two.
enum Member<'h> {
    Ucarp { host: &'h Host, ucarp: Box<Ucarp<'h>>, skew: u8 },
    Carpd { host: &'h Host, agent: Agent, folder: Folder },
}

impl<'h> Member<'h> {
    fn start(subject: Subject, host: &'h Host, skew: u8) -> Result<Self> {
        let more = match subject {
            Subject::Ucarp => {
                let ucarp = Box::new(Ucarp::start(host, &format!("--advskew={skew}"))?);
                return Ok(Self::Ucarp { host, ucarp, skew });
            }
            Subject::Plain => String::new(),
            Subject::Policy => {
                let policy = |source, skew| {
                    format!("{{ source = \"{source}\", advbase = 1, advskew = {skew}, demote = 0, bow_out = false }}")
                };
                format!("peer_policy = [{}, {}]\n", policy("10.77.0.1", 0), policy("10.77.0.2", 50))
            }
            Subject::Sealed => "seal = \"enforce\"\nseal_keys = [{ id = 1, file = \"key\" }]\n".to_owned(),
        };
        let folder = folder()?;
        let key = folder.path().join("key");
        fs::write(&key, "a key that the attacker has not\n")?;
        fs::set_permissions(&key, Permissions::from_mode(0o600))?;
        write(&folder, &[virtual_host(1, VIP, &format!("advbase = 1\nadvskew = {skew}\n{more}"))])?;
        let agent = start(host, &folder)?;
        agent.wait_for_line("INIT -> BACKUP", LONG)?;
        Ok(Self::Carpd { host, agent, folder })
    }

    /// Ends it, and starts it anew: it knows nothing of what it has heard.
    fn start_again(self) -> Result<Self> {
        match self {
            Self::Ucarp { host, mut ucarp, skew } => {
                ucarp.stop()?;
                Self::start(Subject::Ucarp, host, skew)
            }
            Self::Carpd { host, mut agent, folder } => {
                agent.stop_and_wait(LONG)?;
                let agent = start(host, &folder)?;
                agent.wait_for_line("INIT -> BACKUP", LONG)?;
                Ok(Self::Carpd { host, agent, folder })
            }
        }
    }

    /// When it became what.
    fn changes(&self) -> Vec<(BootTime, bool)> {
        match self {
            Self::Ucarp { ucarp, .. } => {
                ucarp.changes().into_iter().map(|change| (change.at, change.text == "MASTER")).collect()
            }
            Self::Carpd { agent, .. } => {
                let lines = agent.lines().into_iter().filter(|line| line.text.contains(" -> "));
                lines.map(|line| (line.at, line.text.contains("-> MASTER"))).collect()
            }
        }
    }

    fn is_master(&self) -> bool {
        self.changes().last().is_some_and(|(_, is_master)| *is_master)
    }

    fn wait_until_master(&self) -> Result<()> {
        eventually("it is master", LONG, || Ok(self.is_master()))
    }
}

fn main() -> Result<()> {
    let report = Args::parse().common.report("attacks")?;
    eprintln!("some four minutes: the four are attacked side by side");
    let tables: Vec<Result<Vec<(String, String)>>> = thread::scope(|scope| {
        let columns: Vec<_> =
            SUBJECTS.iter().map(|(subject, name)| scope.spawn(move || column(*subject, name))).collect();
        columns.into_iter().map(|column| column.join().unwrap_or_else(|_| panic!("an attack panicked"))).collect()
    });
    let columns = tables.into_iter().collect::<Result<Vec<_>>>()?;
    let names: Vec<_> = SUBJECTS.iter().map(|(_, name)| *name).collect();
    let mut table = Table::new(&[&["attack"][..], &names].concat());
    for (row, (attack, _)) in columns[0].iter().enumerate() {
        table.row([attack].into_iter().chain(columns.iter().map(|column| &column[row].1)).cloned().collect());
    }
    print!("\neach attack once (n = 1)\n\n{table}");
    let figures: BTreeMap<_, BTreeMap<_, _>> =
        names.into_iter().zip(columns).map(|(name, column)| (name, column.into_iter().collect())).collect();
    report.write("an advert a second, advskew 0 and 50; each attack once (n = 1)", figures)
}

/// What becomes of one of them under each attack.
fn column(subject: Subject, name: &str) -> Result<Vec<(String, String)>> {
    let mut rows = vec![];
    for edit in EDITS {
        let outcome = live(subject, edit).with_context(|| format!("{name}: {}", edit.name()))?;
        eprintln!("{name}: {}: {outcome}", edit.name());
        rows.push((edit.name().to_owned(), outcome));
    }
    let usual = dead(subject, After::Nothing, false)?;
    for (what, after) in
        [("its last advert after the master's death", After::Last), ("all of them, after it", After::All)]
    {
        let outcome = delay(usual, dead(subject, after, false).with_context(|| format!("{name}: {what}"))?);
        eprintln!("{name}: {what}: {outcome}");
        rows.push((what.to_owned(), outcome));
    }
    let usual = dead(subject, After::Nothing, true)?;
    let what = "all of them, to a backup that starts then";
    let outcome = delay(usual, dead(subject, After::All, true).with_context(|| format!("{name}: {what}"))?);
    eprintln!("{name}: {what}: {outcome}");
    rows.push((what.to_owned(), outcome));
    Ok(rows)
}

fn delay(usual: Duration, took: Duration) -> String {
    // ucarp looks once in an interval.
    let beyond = took.as_secs_f64() - usual.as_secs_f64();
    if beyond < 1.5 { "no delay".to_owned() } else { format!("**{beyond:.0} s late**") }
}

fn live(subject: Subject, edit: Edit) -> Result<String> {
    let lab = Lab::new()?;
    let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
    let attacker = Attacker::on(&other)?;
    let master = Member::start(subject, &a, 0)?;
    master.wait_until_master()?;
    let backup = Member::start(subject, &b, 50)?;
    eventually("adverts are heard", LONG, || Ok(attacker.adverts_of(&a).len() >= 3))?;
    let begun = BootTime::now();
    attacker.edit(edit, &a, WHILE)?;
    let left = master.changes().iter().any(|(at, is_master)| *at > begun && !is_master);
    let other = backup.changes().iter().any(|(at, is_master)| *at > begun && *is_master);
    Ok(match (left, other) {
        (false, false) => "holds",
        (true, false) => "**nobody is master**",
        (false, true) => "**two masters**",
        (true, true) => "**mastership moves**",
    }
    .to_owned())
}

/// What is sent after the master's death.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Nothing,
    Last,
    All,
}

/// How long after the master's last advert the backup is master.
fn dead(subject: Subject, after: After, is_new: bool) -> Result<Duration> {
    let lab = Lab::new()?;
    let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
    let attacker = Attacker::on(&other)?;
    let master = Member::start(subject, &a, 0)?;
    master.wait_until_master()?;
    let mut backup = Member::start(subject, &b, 50)?;
    let recorded = if after == After::Nothing { 3 } else { RECORDED.as_secs() as usize };
    eventually("adverts are recorded", LONG, || Ok(attacker.adverts_of(&a).len() >= recorded))?;
    ensure!(!backup.is_master(), "the backup is master before any attack");
    a.kill_host()?;
    let recorded = attacker.adverts_of(&a);
    let mut last = recorded.last().context("no advert was heard")?.at;
    if is_new {
        backup = backup.start_again()?;
        last = BootTime::now();
    }
    let is_master = || Ok(backup.is_master());
    match after {
        After::Nothing => {}
        After::Last => attacker.repeat(&recorded, RECORDED)?,
        After::All => attacker.replay(&recorded, is_master)?,
    }
    backup.wait_until_master()?;
    let became = backup.changes().into_iter().rev().find(|(_, is_master)| *is_master).context("it is master")?.0;
    // The master's process is of no more use, and its host is cut off.
    if let Member::Carpd { agent, .. } = &master {
        agent.signal(Signal::SIGKILL)?;
    }
    Ok(became.since(last))
}
