//! Intervals of a few milliseconds, and what makes them dependable.

use std::fs;

use anyhow::{Context, Result};
use carp_tests::configured::{DEFAULTS, carpctl, start, virtual_host, wait_for_change};
use carp_tests::{Agent, LONG, Lab, Node, VIP, Wire, carpd_path, configured, eventually};

/// SCHED_RR, for a process that hands it to no child.
const REAL_TIME: &str = "2";
const ORDINARY: &str = "0";

/// How the loop and the thread that talks to the kernel are scheduled, and how many kB of the process are locked in memory.
fn scheduled(agent: &Agent) -> Result<([String; 2], u64)> {
    let folder = format!("/proc/{}", agent.pid());
    let mut netlink = None;
    for task in fs::read_dir(format!("{folder}/task")).context("listing threads")? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == "carpd-netlink" {
            netlink = Some(policy(&fs::read_to_string(task.join("stat"))?)?);
        }
    }
    let status = fs::read_to_string(format!("{folder}/status"))?;
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).context("no VmLck")?;
    let own = policy(&fs::read_to_string(format!("{folder}/stat"))?)?;
    Ok(([own, netlink.context("no thread for netlink")?], locked.trim().trim_end_matches(" kB").parse()?))
}

fn policy(stat: &str) -> Result<String> {
    // After the name, which may have anything in it, the 41st field is the 39th.
    let policy = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(38));
    Ok(policy.context("no policy")?.to_owned())
}

#[test]
fn carpd_runs_in_real_time_if_it_is_told_to_and_a_reload_changes_that() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let folder = configured::folder()?;
    let write = |first: &str| {
        fs::write(folder.path().join("carpd.toml"), format!("{first}\n{DEFAULTS}{}", virtual_host(1, VIP, "")))
    };
    write("realtime = true")?;
    let agent = start(&a, &folder)?;
    wait_for_change(&agent, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let (policy, locked) = scheduled(&agent)?;
    assert!(policy == [REAL_TIME; 2] && locked > 0, "{policy:?}, {locked} kB locked");
    write("")?;
    assert!(carpctl(&folder, &["reload"])?.status.success());
    assert_eq!(scheduled(&agent)?, ([ORDINARY; 2].map(str::to_owned), 0));
    Ok(())
}

#[test]
fn where_memory_cannot_be_locked_nothing_is_scheduled_either() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let mut command = a.command("prlimit");
    command.args(["--memlock=65536", "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]);
    command.arg(carpd_path()?).args(["--interface=eth0", "--vhid=1", "--addr=10.77.0.100", "--pass=secret"]);
    command.arg("--realtime");
    let agent = Agent::spawn("carpd", command)?;
    agent.wait_for_line("cannot lock memory (CAP_IPC_LOCK, or LimitMEMLOCK=infinity)", LONG)?;
    agent.wait_for_line("INIT -> BACKUP", LONG)?;
    assert_eq!(scheduled(&agent)?, ([ORDINARY; 2].map(str::to_owned), 0));
    Ok(())
}

#[test]
fn the_shortest_intervals_elect_a_master_and_fall_over() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let master = Node::start(&a, "--advbase=0 --advskew=0 --preempt --realtime")?;
    master.wait_for("BACKUP -> MASTER")?;
    let backup = Node::start(&b, "--advbase=0 --advskew=1 --realtime")?;
    let wire = Wire::at(&bystander)?;
    wire.wait_for_adverts(a.ip(), 100)?;
    a.kill_host()?;
    eventually("b has it", LONG, || b.has_address(VIP))?;
    // Unless a stall has made it one before.
    let takeover = backup.transitions().pop().context("no change")?;
    assert_eq!(takeover.change, "BACKUP -> MASTER");
    assert!(takeover.cause.starts_with("no advert for 0.0"), "{takeover:?}");
    Ok(())
}
