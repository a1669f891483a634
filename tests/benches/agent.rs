//! What many virtual hosts cost while nothing happens: `cargo xtask bench agent`.
//!
//! Two hosts, a master and a backup of 1, 16, 64 and 255 virtual hosts at one advert a second: carpd in one process, keepalived in
//! its two, ucarp in one for each. Measured, when the master has all addresses: the memory of a host's processes, resident
//! and with what is shared counted once, that of the BPF maps and programs which they hold in the kernel, the CPU time that
//! they take in so many seconds, and how often one of their threads wakes up. And how long carpd takes to answer `status`.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use carp_tests::{
    Host, Lab,
    bench::{
        CARPD, Goal, KEEPALIVED, Line, Member, Options, Panel, Scale, Setting, Spread, System, Table, UCARP, Usage,
        bpf_mb, draw, millis, sort, spread,
    },
    eventually,
};
use clap::Parser;
use serde::Serialize;

/// 255 processes take their time.
const PATIENCE: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(4);
const STATUS_REQUESTS: usize = 50;
const SYSTEMS: [Setting; 3] = [CARPD, UCARP, KEEPALIVED];

#[derive(Parser)]
struct Args {
    /// For how long CPU time is measured [default: 30; 3 in the short form]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    #[command(flatten)]
    common: Options,
}

/// What a system costs, on its master and on its backup.
#[derive(Serialize)]
struct Figures {
    system: &'static str,
    vhids: u8,
    hosts: [Cost; 2],
    /// Of carpd alone.
    status_ms: Option<Spread>,
}

#[derive(Serialize)]
struct Cost {
    processes: usize,
    resident_mb: f64,
    proportional_mb: f64,
    /// Of BPF maps and programs, in the kernel: in no process's.
    bpf_mb: f64,
    cpu_seconds_a_minute: f64,
    wakeups_a_second: f64,
}

fn main() -> Result<()> {
    let Args { seconds, common } = Args::parse();
    let report = common.report("agent")?;
    let span = Duration::from_secs(seconds.unwrap_or(common.or_short(30, 3)));
    let numbers: &[u8] = common.or_short(&[1, 16, 64, 255], &[16]);
    let mut figures = vec![];
    for setting in Setting::present(&SYSTEMS)? {
        for &vhids in numbers {
            eprintln!("{}, {vhids} virtual hosts: starting, then {} s", setting.name, span.as_secs());
            let setting = Setting { vhids, ..setting };
            figures.push(measure(&setting, span).with_context(|| format!("{}, {vhids}", setting.name))?);
        }
    }
    print!("\n{}", table(&figures));
    let memory = |system: &str| {
        let most = figures.iter().filter(|figures| figures.system == system).max_by_key(|figures| figures.vhids)?;
        Some(most.hosts[0].resident_mb + most.hosts[0].bpf_mb)
    };
    if let (Some(own), Some(other)) = (memory(CARPD.name), memory(KEEPALIVED.name)) {
        let goal =
            Goal::at_most("MB of a master of most virtual hosts, resident and of BPF, as keepalived's", own, other);
        print!("\n{}", Goal::table(&[goal]));
    }
    for Figures { system, vhids, status_ms, .. } in &figures {
        if let Some(Spread { median, p95, .. }) = status_ms {
            println!("status of {system} with {vhids} virtual hosts: {median:.2} ms (median), {p95:.2} ms (p95)");
        }
    }
    draw(&report.plot("agent"), "What virtual hosts cost the master while nothing happens", 2, &panels(&figures))?;
    let settings: BTreeMap<_, _> =
        SYSTEMS.map(|setting| (setting.name, [true, false].map(|preferred| setting.text(preferred)))).into();
    report.write(settings, figures)
}

fn table(figures: &[Figures]) -> Table {
    let mut table = Table::new(&[
        "master / backup",
        "virtual hosts",
        "processes",
        "resident MB",
        "MB, shared pages once",
        "MB of BPF maps and programs, in the kernel",
        "CPU seconds a minute",
        "wake-ups a second",
    ]);
    for Figures { system, vhids, hosts: [master, backup], .. } in figures {
        let both = |figure: fn(&Cost) -> f64, digits: usize| {
            format!("{:.digits$} / {:.digits$}", figure(master), figure(backup))
        };
        table.row(vec![
            (*system).to_owned(),
            vhids.to_string(),
            master.processes.to_string(),
            both(|cost| cost.resident_mb, 1),
            both(|cost| cost.proportional_mb, 1),
            both(|cost| cost.bpf_mb, 1),
            both(|cost| cost.cpu_seconds_a_minute, 3),
            both(|cost| cost.wakeups_a_second, 1),
        ]);
    }
    table
}

fn panels(figures: &[Figures]) -> Vec<Panel> {
    let panel = |title: &str, y, figure: fn(&Cost) -> f64| Panel {
        title: title.to_owned(),
        x: ("virtual hosts", Scale::Linear),
        y: (y, Scale::Log),
        lines: SYSTEMS
            .iter()
            .map(|setting| {
                let of_system = figures.iter().filter(|figures| figures.system == setting.name);
                let points = of_system.map(|figures| (figures.vhids.into(), figure(&figures.hosts[0])));
                Line { name: setting.name.to_owned(), points: points.collect(), missing: vec![] }
            })
            .collect(),
    };
    vec![
        panel("Memory, shared pages once, and of BPF", "MB", |cost| cost.proportional_mb + cost.bpf_mb),
        panel("Memory, resident, and of BPF", "MB", |cost| cost.resident_mb + cost.bpf_mb),
        panel("CPU time", "seconds a minute", |cost| cost.cpu_seconds_a_minute),
        panel("Wake-ups", "a second", |cost| cost.wakeups_a_second),
    ]
}

fn measure(setting: &Setting, span: Duration) -> Result<Figures> {
    let lab = Lab::new()?;
    let hosts = lab.hosts(["master", "backup"])?;
    let all = usize::from(setting.vhids);
    let has = |host: &Host, count: usize| Ok(host.addresses()?.len() == 1 + count);
    let preferred = Member::start(&hosts[0], setting, true)?;
    eventually("the master has all addresses", PATIENCE, || has(&hosts[0], all))?;
    let members = [preferred, Member::start(&hosts[1], setting, false)?];
    // Until the backup has settled.
    sleep(SETTLE);
    ensure!(has(&hosts[0], all)? && has(&hosts[1], 0)?, "the master has lost an address");
    let processes = [members[0].processes()?, members[1].processes()?];
    let used = || -> Result<_> { Ok([Usage::of(&processes[0])?, Usage::of(&processes[1])?]) };
    let (before, begin) = (used()?, Instant::now());
    sleep(span);
    let (after, took) = (used()?, begin.elapsed().as_secs_f64());
    let bpf_mb = [bpf_mb(&processes[0])?, bpf_mb(&processes[1])?];
    ensure!(has(&hosts[0], all)? && has(&hosts[1], 0)?, "the master has lost an address");
    Ok(Figures {
        system: setting.name,
        vhids: setting.vhids,
        hosts: [0, 1].map(|host| Cost {
            processes: processes[host].len(),
            resident_mb: after[host].resident_mb,
            proportional_mb: after[host].proportional_mb,
            bpf_mb: bpf_mb[host],
            cpu_seconds_a_minute: (after[host].cpu - before[host].cpu).as_secs_f64() / took * 60.0,
            wakeups_a_second: (after[host].wakeups - before[host].wakeups) as f64 / took,
        }),
        status_ms: if setting.system == System::Carpd { spread(&status_millis(&members[0].socket())?) } else { None },
    })
}

/// How long it takes from the request to the last byte of the answer.
fn status_millis(socket: &Path) -> Result<Vec<f64>> {
    let ask = |_| {
        let begin = Instant::now();
        let mut stream = UnixStream::connect(socket).context("connecting to carpd")?;
        stream.write_all(b"{\"request\":\"status\"}\n")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains("\"state\":\"MASTER\""), "a strange answer: {answer:.200}");
        Ok(millis(begin.elapsed()))
    };
    Ok(sort((0..STATUS_REQUESTS).map(ask).collect::<Result<_>>()?))
}
