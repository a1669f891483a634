//! What many virtual hosts cost: `cargo xtask bench agent [--seconds N] [--json FILE]`.
//!
//! Two hosts, a master and a backup of 255 virtual hosts (advbase 1, advskew 0 and 100): carpd in one process,
//! keepalived in its two, ucarp in 255; and carpd with a single one. Measured, when the master has all addresses: the
//! resident memory of a host's processes, and the CPU time they take in so many seconds, told for a minute. And how
//! long carpd takes to answer `status`.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use carp_tests::{Agent, ETH0, Folder, Host, Lab, carpd_path, eventually, tool};
use clap::Parser;

/// 255 processes take their time.
const PATIENCE: Duration = Duration::from_secs(60);
const ALL: u8 = 255;
const SKEWS: [u8; 2] = [0, 100];
const STATUS_REQUESTS: usize = 50;

#[derive(Parser)]
struct Args {
    /// For how long CPU time is measured
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Also write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// Starts so many virtual hosts on a host, with this advskew and files in this folder.
type Start = fn(&Host, u8, u8, &Path) -> Result<Vec<Agent>>;

const SYSTEMS: [(&str, u8, Start); 4] = [
    ("carpd, 1 virtual host", 1, carpd),
    ("carpd, 255 virtual hosts", ALL, carpd),
    ("keepalived, 255 virtual routers", ALL, keepalived),
    ("ucarp, 255 processes", ALL, ucarp),
];

/// What a system costs on its two hosts, the master first.
struct Figures {
    name: &'static str,
    processes: usize,
    memory: [f64; 2],
    cpu: [f64; 2],
    /// Of `status`, sorted; empty if there is no such thing.
    status: Vec<f64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let span = Duration::from_secs(args.seconds);
    let mut all = vec![];
    for (name, number, start) in SYSTEMS {
        eprintln!("{name}: starting, then {} s", args.seconds);
        all.push(measure(name, number, start, span).with_context(|| name)?);
    }
    println!("{:<34} {:>9} {:>19} {:>27}", "", "processes", "resident MB", "CPU seconds a minute");
    println!("{:<34} {:>9} {:>9} {:>9} {:>13} {:>13}", "", "", "master", "backup", "master", "backup");
    for Figures { name, processes, memory: [a, b], cpu: [c, d], .. } in &all {
        println!("{name:<34} {processes:>9} {a:>9.1} {b:>9.1} {c:>13.3} {d:>13.3}");
    }
    for Figures { name, status, .. } in all.iter().filter(|figures| !figures.status.is_empty()) {
        let at = |part: f64| status[((status.len() - 1) as f64 * part).round() as usize];
        println!("status of {name}: {:.2} ms (median), {:.2} ms (p95)", at(0.5), at(0.95));
    }
    if let Some(path) = args.json {
        let figures = all.iter().map(|Figures { name, processes, memory, cpu, status }| {
            format!(
                "{{\"name\":{name:?},\"processes\":{processes},\"resident_mb\":{memory:?},\
                 \"cpu_seconds_a_minute\":{cpu:?},\"status_ms\":{status:?}}}"
            )
        });
        let figures: Vec<_> = figures.collect();
        fs::write(&path, format!("[{}]\n", figures.join(",\n")))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn measure(name: &'static str, number: u8, start: Start, span: Duration) -> Result<Figures> {
    let lab = Lab::new()?;
    let hosts = lab.hosts(["master", "backup"])?;
    let folders = [Folder::new("master")?, Folder::new("backup")?];
    let all = usize::from(number);
    let has = |host: &Host, count: usize| Ok(host.addresses()?.len() == 1 + count);
    let mut agents = start(&hosts[0], number, SKEWS[0], folders[0].path())?;
    eventually("the master has all addresses", PATIENCE, || has(&hosts[0], all))?;
    agents.extend(start(&hosts[1], number, SKEWS[1], folders[1].path())?);
    // Until the backup has settled.
    sleep(Duration::from_secs(5));
    ensure!(has(&hosts[0], all)? && has(&hosts[1], 0)?, "the master has lost an address");
    let used = |host: &Host| processes(host)?.iter().map(|pid| cpu_seconds(*pid)).sum::<Result<f64>>();
    let before = [used(&hosts[0])?, used(&hosts[1])?];
    sleep(span);
    let after = [used(&hosts[0])?, used(&hosts[1])?];
    ensure!(has(&hosts[0], all)? && has(&hosts[1], 0)?, "the master has lost an address");
    let a_minute = 60.0 / span.as_secs_f64();
    let memory = |host: &Host| processes(host)?.iter().map(|pid| resident_mb(*pid)).sum::<Result<f64>>();
    Ok(Figures {
        name,
        processes: processes(&hosts[0])?.len(),
        memory: [memory(&hosts[0])?, memory(&hosts[1])?],
        cpu: [0, 1].map(|host| (after[host] - before[host]) * a_minute),
        status: status_millis(&folders[0].path().join("socket"))?,
    })
}

fn address(vhid: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, vhid)
}

fn carpd(host: &Host, number: u8, skew: u8, folder: &Path) -> Result<Vec<Agent>> {
    let mut text = format!("[defaults]\ninterface = {ETH0:?}\npassphrase = \"benchmark\"\nadvskew = {skew}\n");
    for vhid in 1..=number {
        text += &format!("[[virtual_host]]\nvhid = {vhid}\naddresses = [\"{}\"]\n", address(vhid));
    }
    let file = folder.join("carpd.toml");
    write_secret(&file, &text)?;
    let mut command = host.command(carpd_path()?);
    command.arg("--config").arg(&file).arg("--socket").arg(folder.join("socket"));
    let agent = Agent::spawn(host.name(), command)?;
    agent.wait_for_line("native XDP", PATIENCE)?;
    Ok(vec![agent])
}

fn write_secret(file: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(text.as_bytes()).context("writing a configuration")
}

fn keepalived(host: &Host, number: u8, skew: u8, folder: &Path) -> Result<Vec<Agent>> {
    let mut text = String::new();
    for id in 1..=number {
        text += &format!(
            "vrrp_instance v{id} {{\nversion 2\nstate BACKUP\ninterface {ETH0}\nvirtual_router_id {id}\n\
             priority {}\nadvert_int 1\nvirtual_ipaddress {{\n{}/32\n}}\n}}\n",
            200 - skew,
            address(id)
        );
    }
    fs::write(folder.join("conf"), text).context("writing a configuration")?;
    let mut command = host.command(tool("keepalived")?);
    command.args(["--dont-fork", "--log-console", "--vrrp", "--use-file"]).arg(folder.join("conf"));
    command.arg("--pid").arg(folder.join("pid")).arg("--vrrp_pid").arg(folder.join("vrrp-pid"));
    Ok(vec![Agent::spawn(host.name(), command)?])
}

fn ucarp(host: &Host, number: u8, skew: u8, _folder: &Path) -> Result<Vec<Agent>> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let start = |vhid: u8| {
        let mut command = host.command(tool("ucarp")?);
        command.args([format!("--interface={ETH0}"), format!("--srcip={}", host.ip()), format!("--vhid={vhid}")]);
        command.args(["--pass=benchmark".to_owned(), format!("--addr={}", address(vhid))]);
        command.args([format!("--advskew={skew}"), "--advbase=1".to_owned()]);
        command.arg("--upscript").arg(scripts.join("vip-up")).arg("--downscript").arg(scripts.join("vip-down"));
        Agent::spawn(host.name(), command)
    };
    (1..=number).map(start).collect()
}

/// The processes on a host, without the shell of the lab that ends them.
fn processes(host: &Host) -> Result<Vec<u32>> {
    let own = fs::metadata(host.ns().path()).context("looking at the host's namespace")?.ino();
    let mut found = vec![];
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process that has just ended is none.
        let is_here = fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|namespace| namespace.ino() == own);
        if is_here && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name != "sh\n") {
            found.push(pid);
        }
    }
    if found.is_empty() {
        bail!("{} has no process", host.name());
    }
    Ok(found)
}

/// CPU time of all threads, by the scheduler's account.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("reading the threads of a process")? {
        let text = fs::read_to_string(task?.path().join("schedstat")).context("reading a thread's CPU time")?;
        nanos += text.split_whitespace().next().context("no CPU time")?.parse::<u64>()?;
    }
    Ok(nanos as f64 / 1e9)
}

fn resident_mb(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("reading a process's memory")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1000.0)
}

/// How long it takes from the request to the last byte of the answer.
fn status_millis(socket: &Path) -> Result<Vec<f64>> {
    if !socket.exists() {
        return Ok(vec![]);
    }
    let ask = |_| {
        let begin = Instant::now();
        let mut stream = UnixStream::connect(socket).context("connecting to carpd")?;
        stream.write_all(b"{\"request\":\"status\"}\n")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains("\"state\":\"MASTER\""), "a strange answer: {answer:.200}");
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    };
    let mut millis = (0..STATUS_REQUESTS).map(ask).collect::<Result<Vec<f64>>>()?;
    millis.sort_by(f64::total_cmp);
    Ok(millis)
}
